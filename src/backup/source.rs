//! The files that a backup reads, cut into units of work. A large file is read by several workers at
//! once, whether all of it is read or what changed; whoever finishes its last part has all its extents.

use std::fs::File;
use std::io;
use std::ops;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Error;
use super::ahead;
use super::prior::{Fate, Prior};
use super::scan::{Found, there};
use super::weave::{Piece, weave};
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
    Patch(Part),
}

/// Some ranges of a file that are read, of which the others are as they were in an older backup.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: Arc<Pieced>,
    pub(super) ranges: Vec<ops::Range<u64>>,
    /// Bytes of the file that are read in no part, told once.
    pub(super) kept: u64,
}

/// A file that is put together from pieces, and from an older backup's extents between them.
#[derive(Debug)]
pub(super) struct Pieced {
    pub(super) found: Found,
    pub(super) older: Vec<Extent>,
    file: Opened,
    pieces: Mutex<Pieces>,
}

#[derive(Debug)]
struct Pieces {
    pieces: Vec<Piece>,
    /// Where the file ends, as far as is known.
    size: u64,
    /// Parts that are not read.
    left: usize,
}

/// A file that is opened once, so that all parts are of the same file though its name may pass to another.
#[derive(Debug, Default)]
struct Opened(OnceLock<Option<File>>);

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
    file: Opened,
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
    parts: std::vec::IntoIter<Part>,
    prior: Option<Arc<Prior>>,
}

impl Queue {
    /// Where there is a prior backup, only what it cannot give is read.
    pub(super) fn new(files: Vec<Found>, prior: Option<Arc<Prior>>) -> Self {
        let (ranges, parts) = (Vec::new().into_iter(), Vec::new().into_iter());
        Queue { files: files.into_iter(), ranges, parts, prior }
    }

    pub(super) fn next(&mut self) -> Option<Unit> {
        if let Some(range) = self.ranges.next() {
            return Some(Unit::Range(range));
        }
        if let Some(part) = self.parts.next() {
            return Some(Unit::Patch(part));
        }
        let found = self.files.next()?;
        match self.prior.as_ref().map_or(Fate::Whole, |prior| prior.fate(&found)) {
            Fate::Whole => {}
            Fate::Kept(entry) => return Some(Unit::Kept(entry, found.size)),
            Fate::Patched { older, ranges } => {
                // Who compares what lies between the ranges must know all of them.
                let is_compared = self.prior.as_ref().is_some_and(|prior| prior.paranoid);
                let most = if is_compared { u64::MAX } else { RANGE_BYTES };
                self.parts = Pieced::parts(found, older, ranges, most).into_iter();
                return self.parts.next().map(Unit::Patch);
            }
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
        let file = Arc::new(Large { found, file: Opened::default(), done: Mutex::new(done) });
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
        self.file.open(&data.join(&*self.found.path))
    }
}

impl Opened {
    fn open(&self, path: &Path) -> Result<Option<&File>, Error> {
        if let Some(file) = self.0.get() {
            return Ok(file.as_ref());
        }
        // Where two workers come here at once, the first one's file stays.
        let opened = there(path, File::open(path))?;
        opened.iter().for_each(ahead::opened);
        Ok(self.0.get_or_init(|| opened).as_ref())
    }

    fn vanished(&self) -> bool {
        matches!(self.0.get(), Some(None))
    }
}

impl Pieced {
    /// A file of which all is read, in one part.
    pub(super) fn whole(found: Found) -> Pieced {
        Pieced::new(found, Vec::new(), 1)
    }

    fn new(found: Found, older: Vec<Extent>, parts: usize) -> Pieced {
        let pieces = Mutex::new(Pieces { pieces: Vec::new(), size: u64::MAX, left: parts });
        Pieced { found, older, file: Opened::default(), pieces }
    }

    /// Deals the ranges out into parts of at most so many bytes.
    fn parts(found: Found, older: Vec<Extent>, ranges: Vec<ops::Range<u64>>, most: u64) -> Vec<Part> {
        let mut dealt: Vec<Vec<ops::Range<u64>>> = vec![Vec::new()];
        let (mut room, mut all) = (most, 0);
        for range in ranges {
            all += range.end - range.start;
            let mut at = range.start;
            while at < range.end {
                if room == 0 {
                    dealt.push(Vec::new());
                    room = most;
                }
                let end = range.end.min(at.saturating_add(room));
                room -= end - at;
                dealt.last_mut().into_iter().for_each(|part| part.push(at..end));
                at = end;
            }
        }
        let kept = found.size.saturating_sub(all);
        let file = Arc::new(Pieced::new(found, older, dealt.len()));
        let part = |(number, ranges)| Part {
            file: Arc::clone(&file),
            ranges,
            kept: if number == 0 { kept } else { 0 },
        };
        dealt.into_iter().enumerate().map(part).collect()
    }

    /// Returns the open file; `None` where it vanished.
    pub(super) fn open(&self, data: &Path) -> Result<Option<&File>, Error> {
        self.file.open(&data.join(&*self.found.path))
    }

    /// Takes the pieces of one part, which saw the file end at `size` or later; returns the file's entry when
    /// it was the last one.
    pub(super) fn finish(&self, pieces: Vec<Piece>, size: u64) -> Result<Option<Entry>, Error> {
        let mut done = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        done.pieces.extend(pieces);
        done.size = done.size.min(size);
        done.left -= 1;
        if done.left > 0 {
            return Ok(None);
        }
        let extents = weave(&self.older, std::mem::take(&mut done.pieces), done.size);
        let extents = extents.ok_or_else(|| Error::Uncovered { path: self.found.path.to_string() })?;
        Ok(Some(entry(&self.found, extents)))
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
        if done.left > 0 || self.file.file.vanished() {
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
        Extent { pack: "1".into(), chunk: 0, at: 0, sealed: 9, offset: 0, len, plain: len, crc: 0 }
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
    fn changed_ranges_are_dealt_out_and_put_together() {
        let size = 4 * RANGE_BYTES;
        let page = 8192;
        let ranges = vec![0..page, 2 * page..3 * page, RANGE_BYTES..3 * RANGE_BYTES];
        let older = vec![extent(size as u32)];
        let parts = Pieced::parts(found(size), older, ranges, RANGE_BYTES);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0].ranges, [0..page, 2 * page..3 * page, RANGE_BYTES..2 * RANGE_BYTES - 2 * page]);
        let kept: Vec<u64> = parts.iter().map(|part| part.kept).collect();
        assert_eq!(kept, [size - 2 * RANGE_BYTES - 2 * page, 0, 0]);
        let mut entries = Vec::new();
        for Part { file, ranges, .. } in parts.into_iter().rev() {
            let piece = |range: &ops::Range<u64>| Piece {
                at: range.start,
                extent: Extent { pack: "2".into(), ..extent((range.end - range.start) as u32) },
            };
            entries.extend(file.finish(ranges.iter().map(piece).collect(), size).unwrap());
        }
        let [Entry { kind: Kind::File { size: whole, extents, .. }, .. }] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!(*whole, size);
        let new = extents.iter().filter(|extent| &*extent.pack == "2").map(|extent| u64::from(extent.len));
        assert_eq!(new.sum::<u64>(), 2 * RANGE_BYTES + 2 * page);
    }

    #[test]
    fn what_lies_past_a_cut_is_left_out() {
        let full = RANGE_BYTES as u32;
        let ranges = vec![Some(vec![extent(full)]), Some(vec![extent(full - 1)]), Some(vec![extent(5)])];
        assert_eq!(joined(ranges, 2 * RANGE_BYTES + 5).len(), 2);
        assert!(joined(vec![Some(vec![]), Some(vec![extent(full)])], 2 * RANGE_BYTES).is_empty());
    }
}
