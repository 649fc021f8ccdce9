//! The files that a backup reads, cut into units of work. A large file is read by several workers at
//! once; whoever finishes its last range has all its extents.

use std::fs::File;
use std::io;
use std::ops;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Error;
use super::prior::{Fate, Prior};
use super::scan::{Found, there};
use crate::manifest::backup::{CHUNK_BYTES_MAX, Entry, Extent, Kind};

/// The longest chunk, in bytes.
pub(super) const CHUNK_BYTES: usize = CHUNK_BYTES_MAX as usize;
/// What one worker reads of a large file at a time: whole chunks, so whole pages.
const RANGE_BYTES: u64 = 16 << 20;

/// A piece of work.
#[derive(Debug)]
pub(super) enum Unit {
    /// A file that fits one chunk, and is packed with its neighbours.
    Small(Found),
    Range(Range),
    /// A file that is as it was in an older backup, of so many bytes.
    Kept(Entry, u64),
    /// A file of which these ranges are read; the others are as they were.
    Patch {
        found: Found,
        older: Vec<Extent>,
        ranges: Vec<ops::Range<u64>>,
    },
}

/// A part of a file that does not fit one chunk.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) file: Arc<Large>,
    number: usize,
    pub(super) at: u64,
    /// As the scan found it: the file may have become shorter.
    pub(super) length: u64,
}

/// A file that does not fit one chunk.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) found: Found,
    /// Opened once, so that all ranges are of the same file though its name may pass to another.
    file: OnceLock<Option<File>>,
    done: Mutex<Done>,
}

#[derive(Debug, Default)]
struct Done {
    /// The extents of each range; `None` while not read.
    ranges: Vec<Option<Vec<Extent>>>,
    left: usize,
}

/// Hands out the units in order.
pub(super) struct Queue {
    files: std::vec::IntoIter<Found>,
    ranges: std::vec::IntoIter<Range>,
    prior: Option<Arc<Prior>>,
}

impl Queue {
    /// Where there is a prior backup, only what it cannot give is read.
    pub(super) fn new(files: Vec<Found>, prior: Option<Arc<Prior>>) -> Self {
        Queue { files: files.into_iter(), ranges: Vec::new().into_iter(), prior }
    }

    pub(super) fn next(&mut self) -> Option<Unit> {
        if let Some(range) = self.ranges.next() {
            return Some(Unit::Range(range));
        }
        let found = self.files.next()?;
        match self.prior.as_ref().map_or(Fate::Whole, |prior| prior.fate(&found)) {
            Fate::Whole => {}
            Fate::Kept(entry) => return Some(Unit::Kept(entry, found.size)),
            Fate::Patched { older, ranges } => return Some(Unit::Patch { found, older, ranges }),
        }
        if found.size <= CHUNK_BYTES as u64 {
            return Some(Unit::Small(found));
        }
        self.ranges = Large::ranges(found).into_iter();
        self.ranges.next().map(Unit::Range)
    }
}

impl Large {
    fn ranges(found: Found) -> Vec<Range> {
        let size = found.size;
        let count = usize::try_from(size.div_ceil(RANGE_BYTES)).unwrap_or(usize::MAX);
        let done = Done { ranges: vec![None; count], left: count };
        let file = Arc::new(Large { found, file: OnceLock::new(), done: Mutex::new(done) });
        let starts = (0..size).step_by(RANGE_BYTES as usize).enumerate();
        let range = |(number, at): (usize, u64)| Range {
            file: Arc::clone(&file),
            number,
            at,
            length: RANGE_BYTES.min(size - at),
        };
        starts.map(range).collect()
    }

    /// Returns the open file; `None` where it vanished.
    pub(super) fn open(&self, data: &Path) -> Result<Option<&File>, Error> {
        if let Some(file) = self.file.get() {
            return Ok(file.as_ref());
        }
        let path = data.join(&*self.found.path);
        // Where two workers come here at once, the first one's file stays.
        let opened = there(&path, File::open(&path))?;
        Ok(self.file.get_or_init(|| opened).as_ref())
    }
}

impl Range {
    /// Notes that this range has been read; returns the file's entry when it was the last one.
    pub(super) fn finish(self, extents: Vec<Extent>) -> Option<Entry> {
        let mut done = self.file.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = done.ranges.get_mut(self.number) {
            *range = Some(extents);
        }
        done.left -= 1;
        let vanished = matches!(self.file.file.get(), Some(None));
        if done.left > 0 || vanished {
            return None;
        }
        let ranges = std::mem::take(&mut done.ranges);
        Some(entry(&self.file.found, joined(ranges, self.file.found.size)))
    }
}

/// Joins the ranges to the first that fell short: the file was cut there while it was read, and what a
/// later range still saw is no longer part of it.
fn joined(ranges: Vec<Option<Vec<Extent>>>, size: u64) -> Vec<Extent> {
    let mut all = Vec::new();
    let mut read: u64 = 0;
    for (number, extents) in ranges.into_iter().enumerate() {
        for extent in extents.unwrap_or_default() {
            read += u64::from(extent.len);
            all.push(extent);
        }
        let full = (number as u64 + 1).saturating_mul(RANGE_BYTES).min(size);
        if read < full {
            break;
        }
    }
    all
}

/// Makes the manifest's entry of a file that has been read.
pub(super) fn entry(found: &Found, extents: Vec<Extent>) -> Entry {
    let size = extents.iter().map(|e| u64::from(e.len)).sum();
    let kind = Kind::File { size, modified: found.modified, extents };
    Entry { path: found.path.to_string(), kind, mode: found.mode }
}

/// Reads until `buffer` is full or the file ends; returns how many bytes.
pub(super) fn read_at(file: &File, mut at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => (filled, at) = (filled + read, at + read as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(size: u64) -> Found {
        Found { path: "base/5/16384".into(), size, modified: 7, mode: 0o600 }
    }

    fn extent(len: u32) -> Extent {
        Extent { pack: "1".to_owned(), chunk: 0, at: 0, sealed: 9, offset: 0, len, plain: len, crc: 0 }
    }

    fn units(queue: &mut Queue) -> Vec<Unit> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn large_files_are_cut_and_joined() {
        let size = 2 * RANGE_BYTES + 5;
        let mut queue = Queue::new(vec![found(10), found(size), found(CHUNK_BYTES as u64)], None);
        let units = units(&mut queue);
        assert_eq!(units.len(), 5);
        let ranges: Vec<Range> =
            units.into_iter().filter_map(|u| if let Unit::Range(r) = u { Some(r) } else { None }).collect();
        let places: Vec<(u64, u64)> = ranges.iter().map(|r| (r.at, r.length)).collect();
        assert_eq!(places, [(0, RANGE_BYTES), (RANGE_BYTES, RANGE_BYTES), (2 * RANGE_BYTES, 5)]);
        let mut entries = Vec::new();
        for range in ranges.into_iter().rev() {
            let length = range.length as u32;
            entries.extend(range.finish(vec![extent(length)]));
        }
        let [Entry { kind: Kind::File { size: read, extents, .. }, .. }] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!((*read, extents.len()), (size, 3));
    }

    #[test]
    fn what_lies_past_a_cut_is_left_out() {
        let full = RANGE_BYTES as u32;
        let ranges = vec![Some(vec![extent(full)]), Some(vec![extent(full - 1)]), Some(vec![extent(5)])];
        assert_eq!(joined(ranges, 2 * RANGE_BYTES + 5).len(), 2);
        assert!(joined(vec![Some(vec![]), Some(vec![extent(full)])], 2 * RANGE_BYTES).is_empty());
    }
}
