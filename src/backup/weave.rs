//! A file's extents from two sources: an older backup's, where nothing changed, and this one's.
//!
//! older extents + what may have changed -> [`fresh`] ranges to read -> new pieces -> [`weave`] -> extents
//!
//! Invariant: the extents cover the file without gap or overlap, and each byte that may have changed comes
//! from a new piece.

use std::ops::Range;

use super::changes::Stale;
use crate::manifest::backup::Extent;
use crate::pgfile::page::PAGE_BYTES;

/// New bytes of a file, stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    /// Where in the file, in bytes.
    pub(super) at: u64,
    pub(super) extent: Extent,
}

/// Returns the byte ranges that must be read of a file that has `size` bytes now: what is stale, what the
/// older copy does not reach, and what `is_unfit` refuses (asked once of each, in order). Rising, not touching. `None` where that is all.
pub(super) fn fresh(
    older: &[Extent],
    size: u64,
    stale: &Stale,
    mut is_unfit: impl FnMut(&Extent) -> bool,
) -> Option<Vec<Range<u64>>> {
    let page = PAGE_BYTES as u64;
    let Stale::Blocks { runs, limit } = stale else { return None };
    let mut ranges: Vec<Range<u64>> =
        runs.iter().map(|&[first, last]| u64::from(first) * page..(u64::from(last) + 1) * page).collect();
    let mut at = 0;
    for extent in older {
        let end = at + u64::from(extent.len);
        if is_unfit(extent) {
            // Whole pages, so that each can be checked.
            ranges.push(at / page * page..end.next_multiple_of(page));
        }
        at = end;
    }
    // A page that the older copy has a part of is no page.
    ranges.push((u64::from(*limit) * page).min(at / page * page)..u64::MAX);
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let range = range.start..range.end.min(size);
        match joined.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    let all = 0..size;
    if joined.first() == Some(&all) { None } else { Some(joined) }
}

/// Returns the extents of a file of `size` bytes: `pieces`, and between them the older ones. `None` where
/// they do not cover it.
pub(super) fn weave(older: &[Extent], mut pieces: Vec<Piece>, size: u64) -> Option<Vec<Extent>> {
    pieces.sort_by_key(|piece| piece.at);
    let mut woven = Woven { extents: Vec::new(), at: 0 };
    let mut older = Older { extents: older.iter(), at: 0, current: None };
    for piece in pieces {
        older.give(&mut woven, piece.at.min(size))?;
        let left = size.saturating_sub(woven.at);
        let len = u32::try_from(u64::from(piece.extent.len).min(left)).ok()?;
        woven.push(Extent { len, ..piece.extent });
    }
    older.give(&mut woven, size)?;
    Some(woven.extents)
}

/// What is made so far.
struct Woven {
    extents: Vec<Extent>,
    at: u64,
}

impl Woven {
    fn push(&mut self, extent: Extent) {
        if extent.len == 0 {
            return;
        }
        self.at += u64::from(extent.len);
        if let Some(last) = self.extents.last_mut()
            && (&last.pack, last.chunk, last.offset + last.len) == (&extent.pack, extent.chunk, extent.offset)
        {
            last.len += extent.len;
        } else {
            self.extents.push(extent);
        }
    }
}

/// Older extents, passed through once.
struct Older<'a> {
    extents: std::slice::Iter<'a, Extent>,
    /// Where `current` begins in the file.
    at: u64,
    current: Option<&'a Extent>,
}

impl Older<'_> {
    /// Gives what lies from the end of what is woven to `to`.
    fn give(&mut self, woven: &mut Woven, to: u64) -> Option<()> {
        while woven.at < to {
            let Some(extent) = self.current else {
                self.current = Some(self.extents.next()?);
                continue;
            };
            let end = self.at + u64::from(extent.len);
            if end <= woven.at {
                (self.at, self.current) = (end, None);
                continue;
            }
            let skip = u32::try_from(woven.at - self.at).ok()?;
            let len = u32::try_from(end.min(to) - woven.at).ok()?;
            woven.push(Extent { offset: extent.offset + skip, len, ..extent.clone() });
        }
        // Two pieces that overlap are no weaving.
        (woven.at == to).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = PAGE_BYTES as u64;

    /// Whole chunks of so many pages, of pack `pack`.
    fn chunks(pack: &str, pages: &[u32]) -> Vec<Extent> {
        let chunk = |(number, pages): (usize, &u32)| Extent {
            pack: pack.into(),
            chunk: number as u32,
            at: 0,
            sealed: 9,
            offset: 0,
            len: pages * PAGE as u32,
            plain: pages * PAGE as u32,
            crc: 0,
        };
        pages.iter().enumerate().map(chunk).collect()
    }

    /// Where each page of a file comes from.
    fn pages(extents: &[Extent]) -> Vec<(Arc<str>, u32, u32)> {
        let of = |e: &Extent| {
            let (pack, chunk, offset) = (e.pack.clone(), e.chunk, e.offset);
            (0..e.len)
                .step_by(PAGE_BYTES)
                .map(move |at| (pack.clone(), chunk, offset + at))
                .collect::<Vec<_>>()
        };
        extents.iter().flat_map(of).collect()
    }

    proptest! {
        #[test]
        fn each_page_comes_from_where_it_must(
            older in prop::collection::vec(1_u32..6, 0..5),
            now in 0_u32..30,
            stale in prop::collection::btree_set(0_u32..30, 0..12),
            limit in 0_u32..40,
            unfit in 0_u32..6,
        ) {
            let old = chunks("old", &older);
            let size = u64::from(now) * PAGE;
            let known: u32 = older.iter().sum();
            let runs = stale.iter().map(|block| [*block, *block]).collect();
            let ranges = fresh(&old, size, &Stale::Blocks { runs, limit }, |extent| extent.chunk == unfit);
            let whole = ranges.is_none();
            let ranges = ranges.unwrap_or_else(|| std::iter::once(0..size).collect());
            // Each page that is read makes a chunk of its own, numbered by its block.
            let read = |range: Range<u64>| (range.start / PAGE..range.end / PAGE).map(|block| Piece {
                at: block * PAGE,
                extent: Extent { chunk: block as u32, ..chunks("new", &[1]).remove(0) },
            });
            let pieces: Vec<Piece> = ranges.into_iter().flat_map(read).collect();
            let woven = pages(&weave(&old, pieces, size).unwrap());
            let before = pages(&old);
            prop_assert_eq!(woven.len(), now as usize);
            for (block, found) in woven.into_iter().enumerate() {
                let number = block as u32;
                let kept = number < known && number < limit && !stale.contains(&number)
                    && before[block].1 != unfit;
                prop_assert!(!(whole && kept));
                let want = if kept { before[block].clone() } else { ("new".into(), number, 0) };
                prop_assert_eq!(found, want, "block {}", block);
            }
        }
    }

    #[test]
    fn neighbours_in_a_chunk_are_one_extent() {
        let old = chunks("old", &[8]);
        let piece = |at: u64, offset: u32| Piece {
            at: at * PAGE,
            extent: Extent {
                offset: offset * PAGE as u32,
                len: PAGE as u32,
                ..chunks("new", &[2]).remove(0)
            },
        };
        let woven = weave(&old, vec![piece(4, 1), piece(3, 0)], 8 * PAGE).unwrap();
        let lengths: Vec<u64> = woven.iter().map(|extent| u64::from(extent.len) / PAGE).collect();
        assert_eq!(lengths, [3, 2, 3]);
    }

    #[test]
    fn what_does_not_cover_the_file_is_refused() {
        let old = chunks("old", &[2]);
        assert_eq!(weave(&old, Vec::new(), 3 * PAGE), None);
        let twice = Piece { at: 0, extent: old[0].clone() };
        assert_eq!(weave(&[], vec![twice.clone(), twice], 4 * PAGE), None);
    }

    #[test]
    fn a_part_of_a_page_is_read_again() {
        let mut old = chunks("old", &[2]);
        old[0].len -= 100;
        let all = Stale::Blocks { runs: Vec::new(), limit: 131_072 };
        let ranges = fresh(&old, 2 * PAGE, &all, |_| false).unwrap();
        assert_eq!((ranges.len(), ranges.first()), (1, Some(&(PAGE..2 * PAGE))));
    }
}
