//! Cuts the stream into segments and parts. Pure.
//!
//! stream pieces -> [`Intake::push`] -> whole segments; between them [`Intake::part`] -> what is new.
//! Invariant: bytes come without gap or overlap, whatever the sizes of the pieces.

use bytes::Bytes;

use crate::lsn::Lsn;

/// A whole segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) start: Lsn,
    pub(super) bytes: Bytes,
}

/// Bytes of the unfinished segment; `start` is at a segment's start or where the last part ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) segment: Lsn,
    pub(super) start: Lsn,
    pub(super) bytes: Bytes,
}

impl Part {
    pub(super) fn end(&self) -> Lsn {
        self.start.plus(self.bytes.len() as u64)
    }
}

/// Bytes that do not join those before them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disjoint {
    pub(super) expected: Lsn,
    pub(super) found: Lsn,
}

/// After so many parts of one segment the next one holds it all again, so that a quiet server does
/// not leave a part for every second of a day.
const PARTS_BETWEEN_WHOLE: u32 = 64;

pub(super) struct Intake {
    segment_bytes: u32,
    segment: Lsn,
    buffer: Vec<u8>,
    parted: usize,
    parts: u32,
}

impl Intake {
    /// Begins at `segment`, a segment's first byte.
    pub(super) fn new(segment_bytes: u32, segment: Lsn) -> Self {
        Intake { segment_bytes, segment, buffer: Vec::new(), parted: 0, parts: 0 }
    }

    /// Returns the position after the last byte taken in.
    pub(super) fn end(&self) -> Lsn {
        self.segment.plus(self.buffer.len() as u64)
    }

    /// Returns the first byte of the unfinished segment.
    pub(super) fn segment(&self) -> Lsn {
        self.segment
    }

    /// Takes in the next piece and returns the segments that it fills.
    pub(super) fn push(&mut self, start: Lsn, mut piece: &[u8]) -> Result<Vec<Filled>, Disjoint> {
        if start != self.end() {
            return Err(Disjoint { expected: self.end(), found: start });
        }
        let mut filled = Vec::new();
        let whole = self.segment_bytes as usize;
        while !piece.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(whole);
            }
            let (now, later) = piece.split_at(piece.len().min(whole - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            piece = later;
            if self.buffer.len() == whole {
                let bytes = Bytes::from(std::mem::take(&mut self.buffer));
                filled.push(Filled { start: self.segment, bytes });
                *self = Intake::new(self.segment_bytes, self.segment.plus(whole as u64));
            }
        }
        Ok(filled)
    }

    /// Returns what came since the last part; `None` when nothing did.
    pub(super) fn part(&mut self) -> Option<Part> {
        if self.parted == self.buffer.len() {
            return None;
        }
        self.parts += 1;
        if self.parts > PARTS_BETWEEN_WHOLE {
            (self.parts, self.parted) = (1, 0);
        }
        let bytes = Bytes::copy_from_slice(self.buffer.get(self.parted..)?);
        let start = self.segment.plus(self.parted as u64);
        self.parted = self.buffer.len();
        Some(Part { segment: self.segment, start, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u32 = 64;

    proptest! {
        #[test]
        fn segments_and_parts_join_to_the_stream(
            pieces in proptest::collection::vec((0_usize..200, any::<bool>()), 1..60),
        ) {
            let start = Lsn(0x1000);
            let byte = |at: u64| (at % 251) as u8;
            let mut intake = Intake::new(SEGMENT, start);
            let (mut at, mut held) = (start, start);
            for (length, part) in pieces {
                let piece: Vec<u8> = (at.0..at.0 + length as u64).map(byte).collect();
                for filled in intake.push(at, &piece).unwrap() {
                    prop_assert_eq!(filled.bytes.len(), SEGMENT as usize);
                    prop_assert!(filled.start <= held && filled.start.0.is_multiple_of(u64::from(SEGMENT)));
                    held = filled.start.plus(u64::from(SEGMENT));
                    for (i, b) in filled.bytes.iter().enumerate() {
                        prop_assert_eq!(*b, byte(filled.start.0 + i as u64));
                    }
                }
                at = at.plus(length as u64);
                prop_assert_eq!(intake.end(), at);
                if part && let Some(part) = intake.part() {
                    prop_assert!(part.start == part.segment || part.start == held);
                    prop_assert_eq!(part.bytes[0], byte(part.start.0));
                    prop_assert_eq!(part.end(), at);
                    held = at;
                    prop_assert_eq!(intake.part(), None);
                }
            }
        }
    }

    #[test]
    fn a_quiet_segment_is_sent_whole_now_and_then() {
        let mut intake = Intake::new(1024, Lsn(0));
        let mut longest = 0;
        for at in 0..200 {
            intake.push(Lsn(at), &[7]).unwrap();
            let part = intake.part().unwrap();
            longest = longest.max(part.bytes.len());
            assert!(part.bytes.len() == 1 || part.start == Lsn(0));
        }
        assert_eq!(longest, 193);
    }

    #[test]
    fn refuses_what_does_not_join() {
        let mut intake = Intake::new(SEGMENT, Lsn(64));
        intake.push(Lsn(64), &[1; 10]).unwrap();
        assert_eq!(intake.push(Lsn(80), &[1]), Err(Disjoint { expected: Lsn(74), found: Lsn(80) }));
        assert_eq!(intake.push(Lsn(64), &[1]), Err(Disjoint { expected: Lsn(74), found: Lsn(64) }));
    }
}
