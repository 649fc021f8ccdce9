//! Cuts the stream into chunks of segments, and into parts. Pure.
//!
//! stream pieces -> [`Intake::push`] -> chunks, the last of each segment marked; between them
//! [`Intake::part`] -> what is new. Invariant: bytes come without gap or overlap, whatever the sizes of the
//! pieces. What is held here is one segment at most.

use bytes::Bytes;

use crate::lsn::Lsn;

/// The next bytes of a segment: `bytes` are as long as a chunk may be, or end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) segment: Lsn,
    pub(super) bytes: Bytes,
    /// It ends the segment.
    pub(super) last: bool,
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
    chunk_bytes: usize,
    segment: Lsn,
    /// Whole chunks of the unfinished segment: parts are made of them.
    chunks: Vec<Bytes>,
    filling: Vec<u8>,
    parted: usize,
    parts: u32,
}

impl Intake {
    /// Begins at `segment`, a segment's first byte.
    pub(super) fn new(segment_bytes: u32, chunk_bytes: usize, segment: Lsn) -> Self {
        let (chunks, filling) = (Vec::new(), Vec::new());
        Intake { segment_bytes, chunk_bytes, segment, chunks, filling, parted: 0, parts: 0 }
    }

    /// Returns the position after the last byte taken in.
    pub(super) fn end(&self) -> Lsn {
        self.segment.plus(self.taken() as u64)
    }

    /// Returns the first byte of the unfinished segment.
    pub(super) fn segment(&self) -> Lsn {
        self.segment
    }

    fn taken(&self) -> usize {
        self.chunks.len() * self.chunk_bytes + self.filling.len()
    }

    /// Takes in the next piece and returns the chunks that it fills.
    pub(super) fn push(&mut self, start: Lsn, mut piece: &[u8]) -> Result<Vec<Chunk>, Disjoint> {
        if start != self.end() {
            return Err(Disjoint { expected: self.end(), found: start });
        }
        let mut filled = Vec::new();
        let whole = self.segment_bytes as usize;
        while !piece.is_empty() {
            let full = self.chunk_bytes.min(whole - self.chunks.len() * self.chunk_bytes);
            if self.filling.capacity() == 0 {
                self.filling.reserve_exact(full);
            }
            let (now, later) = piece.split_at(piece.len().min(full - self.filling.len()));
            self.filling.extend_from_slice(now);
            piece = later;
            if self.filling.len() < full {
                break;
            }
            let bytes = Bytes::from(std::mem::take(&mut self.filling));
            self.chunks.push(bytes.clone());
            let last = self.taken() >= whole;
            filled.push(Chunk { segment: self.segment, bytes, last });
            if last {
                *self = Intake::new(self.segment_bytes, self.chunk_bytes, self.segment.plus(whole as u64));
            }
        }
        Ok(filled)
    }

    /// Returns what came since the last part; `None` when nothing did.
    pub(super) fn part(&mut self) -> Option<Part> {
        let taken = self.taken();
        if self.parted == taken {
            return None;
        }
        self.parts += 1;
        if self.parts > PARTS_BETWEEN_WHOLE {
            (self.parts, self.parted) = (1, 0);
        }
        let mut bytes = Vec::with_capacity(taken - self.parted);
        let held = self.chunks.iter().map(Bytes::as_ref).chain([self.filling.as_slice()]);
        for (number, chunk) in held.enumerate() {
            let known = self.parted.saturating_sub(number * self.chunk_bytes);
            bytes.extend_from_slice(chunk.get(known..).unwrap_or_default());
        }
        let start = self.segment.plus(self.parted as u64);
        self.parted = taken;
        Some(Part { segment: self.segment, start, bytes: bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u32 = 64;
    const CHUNK: usize = 24;

    proptest! {
        #[test]
        fn segments_and_parts_join_to_the_stream(
            pieces in proptest::collection::vec((0_usize..200, any::<bool>()), 1..60),
        ) {
            let start = Lsn(0x1000);
            let byte = |at: u64| (at % 251) as u8;
            let mut intake = Intake::new(SEGMENT, CHUNK, start);
            let (mut at, mut held, mut cut) = (start, start, start);
            for (length, part) in pieces {
                let piece: Vec<u8> = (at.0..at.0 + length as u64).map(byte).collect();
                for chunk in intake.push(at, &piece).unwrap() {
                    prop_assert_eq!(chunk.segment, cut.segment_start(SEGMENT));
                    prop_assert!(chunk.bytes.iter().copied().eq((cut.0..).map(byte).take(chunk.bytes.len())));
                    cut = cut.plus(chunk.bytes.len() as u64);
                    prop_assert_eq!(chunk.last, cut == chunk.segment.plus(SEGMENT.into()));
                    prop_assert!(chunk.last || chunk.bytes.len() == CHUNK);
                    if chunk.last {
                        prop_assert!(chunk.segment <= held);
                        held = cut;
                    }
                }
                at = at.plus(length as u64);
                prop_assert_eq!(intake.end(), at);
                if part && let Some(part) = intake.part() {
                    prop_assert!(part.start == part.segment || part.start == held);
                    prop_assert!(part.bytes.iter().copied().eq((part.start.0..).map(byte).take(part.bytes.len())));
                    prop_assert_eq!(part.end(), at);
                    held = at;
                    prop_assert_eq!(intake.part(), None);
                }
            }
        }
    }

    #[test]
    fn a_quiet_segment_is_sent_whole_now_and_then() {
        let mut intake = Intake::new(1024, 100, Lsn(0));
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
        let mut intake = Intake::new(SEGMENT, CHUNK, Lsn(64));
        intake.push(Lsn(64), &[1; 10]).unwrap();
        assert_eq!(intake.push(Lsn(80), &[1]), Err(Disjoint { expected: Lsn(74), found: Lsn(80) }));
        assert_eq!(intake.push(Lsn(64), &[1]), Err(Disjoint { expected: Lsn(74), found: Lsn(64) }));
    }
}
