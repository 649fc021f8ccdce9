//! Pages of tables and indexes, laid out so that they compress: where all tuples of a page have one length, the
//! first bytes of all come first, then the second bytes, and so on. Ids that grow, flags that are alike and
//! padding become runs, which are found faster and stored in less: of an index on integers, a fifth.
//!
//! pages -> [`lay`] -> zstd ... zstd -> [`restore`] -> the same pages
//!
//! What is turned lies between `pd_upper` and `pd_special`. What says so, the page's header and line pointers
//! (`src/include/storage/bufpage.h`, `itemid.h`), stays where it is, so a page tells by itself how it was laid,
//! and any bytes at all come back as they were. Which pages those are is part of the format (`format.md`): to choose
//! others takes a new version of it.

use wide::u8x16;

use super::PAGE_BYTES;

/// `SizeOfPageHeaderData`, where line pointers begin.
const HEADER_BYTES: usize = 24;
/// `MAXIMUM_ALIGNOF`: tuples begin and end at multiples of it. Also how many bytes of how many tuples are turned
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
}

fn short(bytes: &[u8; 2]) -> usize {
    usize::from(u16::from_le_bytes(*bytes))
}

/// The length of a tuple as it lies on the page; 0 where the line pointer has none.
fn tuple_length(item: &[u8; 4]) -> usize {
    // `lp_len`, the upper 15 bits.
    ((u32::from_le_bytes(*item) >> 17) as usize).next_multiple_of(WORD)
}

/// Replaces what `laid` holds by `plain` with the columns of its pages laid out; returns how many bytes of tuples
/// there are. Bytes behind the last whole page stay as they are.
pub fn lay(plain: &[u8], laid: &mut Vec<u8>) -> usize {
    laid.resize(plain.len(), 0);
    let ((pages, rest), (to, behind)) = (plain.as_chunks(), laid.as_chunks_mut());
    behind.copy_from_slice(rest);
    pages.iter().zip(to).map(|(page, to)| lay_page(page, to)).sum()
}

fn lay_page(page: &Page, to: &mut Page) -> usize {
    let Some(Table { begin, rows, width }) = Table::of(page) else {
        *to = *page;
        return 0;
    };
    let ((head, rest), (head_to, rest_to)) = (page.split_at(begin), to.split_at_mut(begin));
    let ((tuples, tail), (tuples_to, tail_to)) =
        (rest.split_at(rows * width), rest_to.split_at_mut(rows * width));
    head_to.copy_from_slice(head);
    transpose(tuples, rows, width, tuples_to);
    tail_to.copy_from_slice(tail);
    rows * width
}

/// Makes what was laid out the pages again.
pub fn restore(bytes: &mut [u8]) {
    let mut kept = [0; PAGE_BYTES];
    for page in bytes.as_chunks_mut().0 {
        let Some(Table { begin, rows, width }) = Table::of(page) else { continue };
        let (tuples, _) = page.split_at_mut(begin).1.split_at_mut(rows * width);
        let (kept, _) = kept.split_at_mut(rows * width);
        kept.copy_from_slice(tuples);
        transpose(kept, width, rows, tuples);
    }
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
        for row in (0..rows).step_by(WORD).map(|row| row.min(rows - WORD)) {
            let from = &from[row * width..(row + WORD) * width];
            let two = |n: usize| {
                let (mut lane, at) = ([0; 2 * WORD], 2 * n * width + column);
                lane[..WORD].copy_from_slice(&from[at..at + WORD]);
                lane[WORD..].copy_from_slice(&from[at + width..at + width + WORD]);
                u8x16::new(lane)
            };
            for (n, lane) in transposed(std::array::from_fn(two)).iter().enumerate() {
                let (lane, at) = (lane.to_array(), 2 * n * rows + row);
                to[at..at + WORD].copy_from_slice(&lane[..WORD]);
                to[at + rows..at + rows + WORD].copy_from_slice(&lane[WORD..]);
            }
        }
    }
}

/// Turns eight words of eight bytes, two in a lane. Each round takes the bytes from both halves by turns, which moves
/// every bit of a byte's place up by one; after three of them, row and column have changed places.
fn transposed(mut lanes: [u8x16; WORD / 2]) -> [u8x16; WORD / 2] {
    for _ in 0..3 {
        let [a, b, c, d] = lanes;
        let by_turns = |low, high| (u8x16::unpack_low(low, high), u8x16::unpack_high(low, high));
        let ((a, b), (c, d)) = (by_turns(a, c), by_turns(b, d));
        lanes = [a, b, c, d];
    }
    lanes
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
        let mut laid = vec![9; 3];
        let turned = lay(pages, &mut laid);
        let mut back = laid.clone();
        restore(&mut back);
        assert!(back == pages, "it comes back");
        (laid, turned)
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
        let (two, turned) = laid(&[&good[..], &none[9], &good, &good[..100]].concat());
        assert!(turned == 2 * 3200 && two.ends_with(&good[..100]));
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
