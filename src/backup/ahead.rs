//! Tells the kernel what of a file will be read next, so that the disk works while what was read before is
//! compressed. Pages that lie scattered are asked for together, and nothing between them is read.

use std::fs::File;
use std::ops::Range;

use rustix::fs::{Advice, fadvise};

/// How far ahead.
const AHEAD_BYTES: u64 = 4 << 20;
const STEP_BYTES: u64 = 1 << 20;

/// Says of a file that was opened for a backup that it is read once: what the server keeps in memory stays there.
pub(super) fn opened(file: &File) {
    // Advice: where the kernel takes none, nothing is lost.
    let _ = fadvise(file, 0, None, Advice::NoReuse);
}

/// What of a file is still to be asked for.
pub(super) struct Ahead<'a> {
    file: &'a File,
    ranges: &'a [Range<u64>],
    /// Where in the first of them.
    at: u64,
    /// Bytes that were asked for and not read.
    lead: u64,
}

impl<'a> Ahead<'a> {
    /// Begins to read these ranges.
    pub(super) fn new(file: &'a File, ranges: &'a [Range<u64>]) -> Self {
        let mut ahead = Ahead { file, ranges, at: 0, lead: 0 };
        ahead.read(0);
        ahead
    }

    /// Notes that so many bytes of the ranges have been read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.lead = self.lead.saturating_sub(bytes);
        while self.lead < AHEAD_BYTES
            && let Some((range, rest)) = self.ranges.split_first()
        {
            let from = self.at.max(range.start);
            let to = range.end.min(from + STEP_BYTES);
            let length = to.saturating_sub(from);
            let _ = fadvise(self.file, from, std::num::NonZeroU64::new(length), Advice::WillNeed);
            self.lead += length;
            self.at = to;
            if to >= range.end {
                self.ranges = rest;
            }
        }
    }
}
