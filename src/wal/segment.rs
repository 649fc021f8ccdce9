//! Segment files and their names: timeline, then the position in two parts, 8 hex digits each
//! (PostgreSQL `XLogFileName`, `src/include/access/xlog_internal.h`).

use super::bytes::{u16_at, u32_at, u64_at};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// One segment of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    pub timeline: TimelineId,
    /// Position divided by the segment size.
    pub number: u64,
}

impl Segment {
    /// Returns the segment that holds the byte at `lsn`.
    pub fn of(timeline: TimelineId, lsn: Lsn, segment_bytes: u32) -> Self {
        Segment { timeline, number: lsn.segment(segment_bytes) }
    }

    /// Returns the position of its first byte.
    pub fn start(self, segment_bytes: u32) -> Lsn {
        Lsn(self.number.saturating_mul(u64::from(segment_bytes)))
    }

    /// Returns the position after its last byte.
    pub fn end(self, segment_bytes: u32) -> Lsn {
        self.start(segment_bytes).plus(u64::from(segment_bytes))
    }

    /// Returns the segment that follows on the same timeline.
    pub fn next(self) -> Self {
        Segment { number: self.number.saturating_add(1), ..self }
    }

    /// Returns the file name PostgreSQL gives it.
    pub fn file_name(self, segment_bytes: u32) -> String {
        let per_id = segments_per_id(segment_bytes);
        format!("{:08X}{:08X}{:08X}", self.timeline.0, self.number / per_id, self.number % per_id)
    }

    /// Reads a file name; `None` for anything else, `.partial` and `.history` included.
    pub fn parse(name: &str, segment_bytes: u32) -> Option<Self> {
        if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return None;
        }
        let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let (timeline, high, low) = (part(0)?, part(8)?, part(16)?);
        let per_id = segments_per_id(segment_bytes);
        let timeline = TimelineId(u32::try_from(timeline).ok()?);
        (low < per_id).then_some(Segment { timeline, number: high * per_id + low })
    }
}

/// `XLogSegmentsPerXLogId`
fn segments_per_id(segment_bytes: u32) -> u64 {
    0x1_0000_0000 / u64::from(segment_bytes.max(1))
}

/// The header of a segment's first page (`XLogLongPageHeaderData`): what a file of WAL says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// The position that the page was written for: another than the file's name says in a recycled file.
    pub address: Lsn,
    /// The server's system identifier.
    pub system: u64,
    pub segment_bytes: u32,
    pub timeline: TimelineId,
}

impl LongHeader {
    pub const BYTES: usize = 40;

    /// Reads a file's first bytes; `None` where they are no such header.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        const IS_LONG: u16 = 2;
        const BLOCK_BYTES: u32 = 8192;
        let is_long = u16_at(bytes, 2)? & IS_LONG != 0 && u32_at(bytes, 36)? == BLOCK_BYTES;
        let header = LongHeader {
            address: Lsn(u64_at(bytes, 8)?),
            system: u64_at(bytes, 24)?,
            segment_bytes: u32_at(bytes, 32)?,
            timeline: TimelineId(u32_at(bytes, 4)?),
        };
        (is_long && is_segment_size(header.segment_bytes)).then_some(header)
    }
}

/// Returns whether no record begins in the segment of `at` before it, as where it was written after a switch.
pub fn is_first_record(at: Lsn, segment_bytes: u32) -> bool {
    at.segment_offset(segment_bytes) as usize <= LongHeader::BYTES
}

/// Returns the name of a timeline's history file.
pub fn history_file_name(timeline: TimelineId) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Reads the name of a history file.
pub fn parse_history_file_name(name: &str) -> Option<TimelineId> {
    let digits = name.strip_suffix(".history")?;
    let plain = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten().map(TimelineId)
}

/// Returns the runs of consecutive segments, first and last of each; one that is not whole ends its run.
pub(crate) fn stretches(
    numbers: impl IntoIterator<Item = u64>,
    is_whole: impl Fn(u64) -> bool,
) -> Vec<(u64, u64)> {
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match stretches.last_mut() {
            Some((_, end)) if end.saturating_add(1) == number && is_whole(*end) => *end = number,
            _ => stretches.push((number, number)),
        }
    }
    stretches
}

/// Returns whether PostgreSQL knows segments of this size: a power of two from 1 MiB to 1 GiB.
pub fn is_segment_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_postgres_does() {
        let segment = Segment { timeline: TimelineId(1), number: 0x1A3 };
        assert_eq!(segment.file_name(16 << 20), "0000000100000001000000A3");
        for size in [1 << 20, 16 << 20, 1 << 30] {
            let segment = Segment::of(TimelineId(7), Lsn(0x12_3456_7890), size);
            assert_eq!(Segment::parse(&segment.file_name(size), size), Some(segment));
            assert!(segment.start(size) <= Lsn(0x12_3456_7890) && Lsn(0x12_3456_7890) < segment.end(size));
        }
        assert_eq!(Segment::parse("000000010000000000000100", 16 << 20), None);
        assert_eq!(Segment::parse("00000001000000000000000a", 16 << 20), None);
        assert_eq!(parse_history_file_name("0000000A.history"), Some(TimelineId(10)));
        assert_eq!(history_file_name(TimelineId(10)), "0000000A.history");
    }
}
