//! Pages of tables and indexes, laid out so that they compress: where all tuples of a page have one length, the
//! first bytes of all come first, then the second bytes, and so on. Ids that grow, flags that are alike and
//! padding become runs; the compressor finds them four times as fast in an index, and stores a fifth of it.
//!
//! pages -> [`lay`] -> zstd ... zstd -> [`restore`] -> the same pages
//!
//! What is moved lies between `pd_upper` and `pd_special`. What says so, the page's header and line pointers
//! (`src/include/storage/bufpage.h`, `itemid.h`), stays where it is, so a page tells by itself how it was laid,
//! and any bytes at all come back as they were.

/// The length of a page; bytes behind the last whole one stay as they are.
const PAGE_BYTES: usize = 8192;
/// `SizeOfPageHeaderData`, where line pointers begin.
const HEADER_BYTES: usize = 24;
/// `MAXIMUM_ALIGNOF`: tuples begin and end at multiples of it. Also how many bytes of how many tuples are moved
/// at once.
const WORD: usize = 8;
/// Fewer tuples have too little in common; longer ones are few on a page.
const FEWEST: usize = WORD;
const LONGEST: usize = 256;

type Page = [u8; PAGE_BYTES];

/// The tuples of a page: rows of one length, up to the page's special space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    begin: usize,
    rows: usize,
    width: usize,
}

impl Table {
    fn of(page: &Page) -> Option<Table> {
        let (header, _) = page.split_first_chunk::<HEADER_BYTES>()?;
        let (fields, _) = header.as_chunks::<2>();
        let [lower, upper, special, size] = [6, 7, 8, 9].map(|field| fields.get(field).map(short));
        let (lower, upper, special, size) = (lower?, upper?, special?, size?);
        // The low byte is the version of the layout.
        if size & 0xff00 != PAGE_BYTES || upper > special || special > PAGE_BYTES || lower > upper {
            return None;
        }
        let (items, _) = page.get(HEADER_BYTES..lower)?.as_chunks::<4>();
        let lengths = items.iter().map(tuple_length).filter(|length| *length > 0);
        let width = lengths.clone().next_back()?;
        let rows = (special - upper) / width;
        // A page of a B-tree has one tuple that may be cut short: the bound of its keys, `P_HIKEY`.
        let alike = lengths.filter(|length| *length != width).nth(1).is_none();
        let pays = alike && rows >= FEWEST && (2 * WORD..=LONGEST).contains(&width);
        pays.then_some(Table { begin: special - rows * width, rows, width })
    }

    fn end(self) -> usize {
        self.begin + self.rows * self.width
    }
}

fn short(bytes: &[u8; 2]) -> usize {
    usize::from(u16::from_le_bytes(*bytes))
}

/// The length of a tuple as it lies on the page; 0 where the line pointer has none.
fn tuple_length(item: &[u8; 4]) -> usize {
    // `lp_len`, the upper 15 bits.
    ((u32::from_le_bytes(*item) >> 17) as usize).next_multiple_of(WORD)
}

/// Replaces what `laid` holds by `pages` with their columns laid out; returns how many bytes of tuples there are.
pub(super) fn lay(pages: &[u8], laid: &mut Vec<u8>) -> usize {
    turn(pages, laid, |table, from, to| transpose(from, table.rows, table.width, to))
}

/// The inverse of [`lay`].
pub(super) fn restore(laid: &[u8], pages: &mut Vec<u8>) {
    turn(laid, pages, |table, from, to| transpose(from, table.width, table.rows, to));
}

fn turn(from: &[u8], to: &mut Vec<u8>, turn: impl Fn(Table, &[u8], &mut [u8])) -> usize {
    to.clear();
    to.extend_from_slice(from);
    let mut kept = [0; PAGE_BYTES];
    let mut moved = 0;
    for page in to.as_chunks_mut().0 {
        let Some(table) = Table::of(page) else { continue };
        let kept = kept.get_mut(table.begin..table.end());
        if let (Some(tuples), Some(kept)) = (page.get_mut(table.begin..table.end()), kept) {
            kept.copy_from_slice(tuples);
            turn(table, kept, tuples);
            moved += tuples.len();
        }
    }
    moved
}

/// Turns `rows` rows of `width` bytes into as many columns. Both are at least [`WORD`].
#[expect(
    clippy::indexing_slicing,
    reason = "all is measured by rows and width; checked once, not at each word"
)]
fn transpose(from: &[u8], rows: usize, width: usize, to: &mut [u8]) {
    // Where a length is no multiple of a word, the last one overlaps that before it.
    for column in (0..width).step_by(WORD).map(|column| column.min(width - WORD)) {
        let to = &mut to[column * rows..(column + WORD) * rows];
        let mut block = |from: &[u8], row: usize| {
            let word = |n: usize| {
                let word = from[n * width + column..].first_chunk();
                u64::from_le_bytes(*word.expect("a row has this word"))
            };
            for (n, word) in transposed(std::array::from_fn(word)).iter().enumerate() {
                let at = n * rows + row;
                to[at..at + WORD].copy_from_slice(&word.to_le_bytes());
            }
        };
        for (n, rows) in from.chunks_exact(WORD * width).enumerate() {
            block(rows, n * WORD);
        }
        block(&from[(rows - WORD) * width..], rows - WORD);
    }
}

/// Turns eight words of eight bytes (Warren, Hacker's Delight, 7-3): halves, quarters, then bytes change places.
fn transposed(words: [u64; WORD]) -> [u64; WORD] {
    let halves = |low, high| exchanged(low, high, 32, 0x0000_0000_ffff_ffff);
    let quarters = |low, high| exchanged(low, high, 16, 0x0000_ffff_0000_ffff);
    let bytes = |low, high| exchanged(low, high, 8, 0x00ff_00ff_00ff_00ff);
    let [a, b, c, d, e, f, g, h] = words;
    let ((a, e), (b, f), (c, g), (d, h)) = (halves(a, e), halves(b, f), halves(c, g), halves(d, h));
    let ((a, c), (b, d), (e, g), (f, h)) = (quarters(a, c), quarters(b, d), quarters(e, g), quarters(f, h));
    let ((a, b), (c, d), (e, f), (g, h)) = (bytes(a, b), bytes(c, d), bytes(e, f), bytes(g, h));
    [a, b, c, d, e, f, g, h]
}

/// The upper bits of one word's parts change places with the lower bits of the other's.
fn exchanged(low: u64, high: u64, shift: u32, mask: u64) -> (u64, u64) {
    let differ = ((low >> shift) ^ high) & mask;
    (low ^ (differ << shift), high ^ differ)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    /// A page with line pointers of these lengths, its tuples up to `special`.
    fn page(lengths: &[usize], special: usize, noise: &[u8; PAGE_BYTES]) -> Page {
        let mut page = *noise;
        let stored: usize = lengths.iter().map(|length| length.next_multiple_of(8)).sum();
        let (lower, upper) = (HEADER_BYTES + 4 * lengths.len(), special - stored);
        for (at, value) in [(12, lower), (14, upper), (16, special), (18, PAGE_BYTES | 4)] {
            page[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
        }
        for (n, length) in lengths.iter().enumerate() {
            let item = (*length as u32) << 17;
            page[HEADER_BYTES + 4 * n..][..4].copy_from_slice(&item.to_le_bytes());
        }
        page
    }

    fn noise() -> [u8; PAGE_BYTES] {
        std::array::from_fn(|at| (at * at / 7 + at / 300) as u8)
    }

    /// The slow, obvious way.
    fn laid_plainly(page: &Page, table: Table) -> Page {
        let mut laid = *page;
        for row in 0..table.rows {
            for column in 0..table.width {
                laid[table.begin + column * table.rows + row] =
                    page[table.begin + row * table.width + column];
            }
        }
        laid
    }

    fn laid(pages: &[u8]) -> (Vec<u8>, usize) {
        let (mut laid, mut back) = (vec![9; 3], vec![8; 5]);
        let moved = lay(pages, &mut laid);
        restore(&laid, &mut back);
        assert!(back == pages, "it comes back");
        (laid, moved)
    }

    #[test]
    fn tables_of_every_size_are_laid_by_column() {
        let noise = noise();
        for width in (16..=256).step_by(8) {
            for rows in [8, 9, 13, 15, 16, 17, 6000 / width, 8000 / (width + 4)] {
                let special = if rows % 2 == 0 { PAGE_BYTES } else { PAGE_BYTES - 16 };
                // A row is stored on a whole number of words.
                let page = page(&vec![width - rows % 8; rows], special, &noise);
                let table = Table { begin: special - rows * width, rows, width };
                assert_eq!(Table::of(&page), (rows >= 8).then_some(table));
                if rows >= 8 {
                    assert!(laid(&page) == (laid_plainly(&page, table).to_vec(), rows * width));
                }
            }
        }
    }

    #[test]
    fn one_bound_of_keys_may_be_shorter_and_dead_pointers_do_not_count() {
        let mut lengths = vec![24; 40];
        let whole = Table { begin: PAGE_BYTES - 16 - 40 * 24, rows: 40, width: 24 };
        let of = |lengths: &[usize]| Table::of(&page(lengths, PAGE_BYTES - 16, &noise()));
        assert_eq!(of(&lengths), Some(whole));
        lengths[0] = 16;
        assert_eq!(of(&lengths), Some(Table { begin: whole.begin + 24, rows: 39, ..whole }));
        lengths[7] = 0;
        assert_eq!(of(&lengths), Some(Table { begin: whole.begin + 48, rows: 38, ..whole }));
        lengths[20] = 32;
        assert_eq!(of(&lengths), None, "rows of different lengths");
        assert_eq!(of(&[24; 7]), None, "few rows");
        assert_eq!(of(&[8; 100]), None, "narrow rows");
        assert_eq!(of(&[264; 20]), None, "wide rows");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_is_no_page_of_ours_stays_as_it_is() {
        let good = page(&[32; 100], PAGE_BYTES, &noise());
        let bad = |at: usize, value: u16| {
            let mut page = good;
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
            page
        };
        let none = [
            bad(12, 0),
            bad(12, 23),
            bad(12, 24),
            bad(12, 8000),
            bad(14, 8193),
            bad(14, 400),
            bad(16, 4000),
            bad(16, 8193),
            bad(18, 4 << 12 | 4),
            [0; PAGE_BYTES],
            [255; PAGE_BYTES],
        ];
        for (n, page) in none.iter().enumerate() {
            assert!(laid(page) == (page.to_vec(), 0), "{n}");
        }
        assert_eq!(laid(&good[..PAGE_BYTES - 1]).1, 0);
        let (two, moved) = laid(&[&good[..], &none[9], &good, &good[..100]].concat());
        assert!(moved == 2 * 3200 && two.ends_with(&good[..100]));
    }

    proptest! {
        #[test]
        fn any_header_comes_back(
            fields in [0_u16..9000, 0_u16..9000, 0_u16..9000],
            length in 0_u32..300,
            others in prop::collection::vec((0_usize..2000, any::<u32>()), 0..3),
        ) {
            let mut page = noise();
            for item in page[HEADER_BYTES..].as_chunks_mut().0 {
                *item = (length << 17).to_le_bytes();
            }
            for (at, other) in others {
                page[HEADER_BYTES + 4 * at..][..4].copy_from_slice(&other.to_le_bytes());
            }
            for (field, value) in fields.iter().chain(&[8196]).enumerate() {
                page[12 + 2 * field..][..2].copy_from_slice(&value.to_le_bytes());
            }
            laid(&page);
        }
    }
}
