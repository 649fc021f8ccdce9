//! Looks whether what would be taken from an older backup unread is what the data directory holds.
//!
//! older extents -> the same bytes read now -> CRC of the stored chunk, else the chunk itself -> pages that
//! differ, though no WAL says so
//!
//! Such a page is read anew whatever it is, so a paranoid backup is right even where the WAL was not.

use std::fs::File;
use std::ops::Range;

use bytes::Bytes;

use super::Error;
use super::source::read_at;
use super::worker::Shared;
use crate::lsn::Lsn;
use crate::manifest::backup::{BadPage, Extent};
use crate::pgfile::page::{self, PAGE_BYTES};
use crate::seal::ChunkPlace;

/// Opens a stored chunk. Blocks.
pub(super) type Stored = Box<dyn Fn(&str, ChunkPlace) -> Result<Bytes, Error> + Send + Sync>;

/// The longest list; past it pages are counted only.
const LISTED_MAX: usize = 1000;

/// Pages that were changed without a word in the WAL.
#[derive(Debug, Default)]
pub(super) struct Unlogged {
    pub(super) pages: Vec<BadPage>,
    pub(super) more: u64,
}

impl Unlogged {
    fn add(&mut self, page: BadPage) {
        if self.pages.len() < LISTED_MAX {
            self.pages.push(page);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn merge(&mut self, other: Unlogged) {
        other.pages.into_iter().for_each(|page| self.add(page));
        self.more += other.more;
    }
}

/// A file that is compared.
pub(super) struct Compare<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stored: &'a Stored,
    pub(super) file: &'a File,
    pub(super) path: &'a str,
}

impl Compare<'_> {
    /// Compares what lies between `ranges`; returns what differs, as ranges of whole pages.
    pub(super) fn kept(
        &self,
        older: &[Extent],
        ranges: &[Range<u64>],
        size: u64,
        unlogged: &mut Unlogged,
    ) -> Result<Vec<Range<u64>>, Error> {
        let mut differing = Vec::new();
        let mut at = 0;
        for extent in older {
            let whole = at..at + u64::from(extent.len);
            at = whole.end;
            for part in between(whole.clone(), ranges, size) {
                let skip = u32::try_from(part.start - whole.start).unwrap_or(u32::MAX);
                let len = u32::try_from(part.end - part.start).unwrap_or(u32::MAX);
                let extent = Extent { offset: extent.offset.saturating_add(skip), len, ..extent.clone() };
                self.part(&extent, part.start, &mut differing, unlogged)?;
            }
        }
        Ok(differing)
    }

    fn part(
        &self,
        extent: &Extent,
        at: u64,
        differing: &mut Vec<Range<u64>>,
        unlogged: &mut Unlogged,
    ) -> Result<(), Error> {
        let mut now = vec![0; extent.len as usize];
        self.shared.throttle.wait(now.len(), &self.shared.stop);
        let length = read_at(self.file, at, &mut now).map_err(self.shared.read_error(self.path))?;
        now.truncate(length);
        let is_whole_chunk = extent.len == extent.plain;
        if is_whole_chunk && length == extent.len as usize && crc32fast::hash(&now) == extent.crc {
            return Ok(());
        }
        let place = ChunkPlace { at: extent.at, sealed: extent.sealed, index: extent.chunk };
        let chunk = (self.stored)(&extent.pack, place)?;
        let then = chunk.get(extent.offset as usize..).unwrap_or_default();
        for (number, page) in now.chunks(PAGE_BYTES).enumerate() {
            let from = number * PAGE_BYTES;
            if then.get(from..from + page.len()) == Some(page) {
                continue;
            }
            let place = at + from as u64;
            differing.push(place..place + page.len() as u64);
            // The WAL from the backup's start on will write it.
            if lsn(page).is_none_or(|lsn| lsn < self.shared.start) {
                let block = u32::try_from(place / PAGE_BYTES as u64).unwrap_or(u32::MAX);
                unlogged.add(BadPage { path: self.path.to_owned(), block });
            }
        }
        Ok(())
    }
}

fn lsn(bytes: &[u8]) -> Option<Lsn> {
    bytes.first_chunk::<PAGE_BYTES>().map(page::lsn)
}

/// Returns what of `whole` lies in no range and before `size`.
fn between(whole: Range<u64>, ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let (mut at, end) = (whole.start, whole.end.min(size));
    let mut parts = Vec::new();
    for range in ranges.iter().filter(|range| range.end > whole.start && range.start < end) {
        parts.push(at..range.start.min(end));
        at = at.max(range.end);
    }
    parts.push(at..end);
    parts.retain(|part| part.start < part.end);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_between_ranges() {
        let ranges = [2..4, 6..9, 20..30];
        assert_eq!(between(0..10, &ranges, 100), [0..2, 4..6, 9..10]);
        assert_eq!(between(3..8, &ranges, 100).first(), Some(&(4..6)));
        assert_eq!(between(9..20, &ranges, 12).first(), Some(&(9..12)));
        assert_eq!(between(6..9, &ranges, 100), []);
        assert_eq!(between(40..50, &ranges, 45).first(), Some(&(40..45)));
    }
}
