//! The extents of many files, held in few bytes: a chunk that a file needs whole takes 17, each further
//! piece of the chunk before 5 or so. Written once, read file by file.
//!
//! Numbers are kept as what they differ by from what is likely: the next chunk lies behind the one before.

use crate::seal::ChunkPlace;

/// An extent, its pack by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PriorExtent {
    pub(super) pack: u32,
    pub(super) place: ChunkPlace,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) plain: u32,
    pub(super) crc: u32,
}

impl PriorExtent {
    /// What comes before the first extent of a file.
    const NONE: PriorExtent = PriorExtent {
        pack: 0,
        place: ChunkPlace { at: 0, sealed: 0, index: 0 },
        offset: 0,
        len: 0,
        plain: 0,
        crc: 0,
    };

    fn is_of_the_chunk_of(&self, other: &PriorExtent) -> bool {
        let chunk = |e: &PriorExtent| (e.pack, e.place, e.plain, e.crc);
        chunk(self) == chunk(other)
    }
}

/// Where the extents of one file are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    from: usize,
    to: usize,
}

#[derive(Debug, Default)]
pub(super) struct Tape {
    bytes: Vec<u8>,
}

impl Tape {
    /// Writes the extents of a file.
    pub(super) fn write(&mut self, extents: impl IntoIterator<Item = PriorExtent>) -> Stretch {
        let from = self.bytes.len();
        let mut before = PriorExtent::NONE;
        for extent in extents {
            self.extent(&before, &extent);
            before = extent;
        }
        Stretch { from, to: self.bytes.len() }
    }

    fn extent(&mut self, before: &PriorExtent, extent: &PriorExtent) {
        let same = extent.is_of_the_chunk_of(before);
        let after = if same { before.offset.wrapping_add(before.len) } else { 0 };
        // The lowest bit says whether a chunk follows.
        let offset = zigzag(i64::from(extent.offset) - i64::from(after));
        self.number(offset << 1 | u64::from(!same));
        self.number(extent.len.into());
        if same {
            return;
        }
        let behind = before.place.at.wrapping_add(before.place.sealed.into());
        self.number(zigzag(i64::from(extent.pack) - i64::from(before.pack)));
        self.number(zigzag(i64::from(extent.place.index) - i64::from(before.place.index) - 1));
        self.number(zigzag(extent.place.at.wrapping_sub(behind).cast_signed()));
        self.number(extent.place.sealed.into());
        self.number(extent.plain.into());
        self.bytes.extend_from_slice(&extent.crc.to_le_bytes());
    }

    /// LEB128
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Returns the extents of a file, in the order in which they were written.
    pub(super) fn read(&self, stretch: Stretch) -> Extents<'_> {
        Extents {
            bytes: self.bytes.get(stretch.from..stretch.to).unwrap_or_default(),
            before: PriorExtent::NONE,
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
    }
}

/// Reads what a [`Tape`] holds of one file.
pub(super) struct Extents<'a> {
    bytes: &'a [u8],
    before: PriorExtent,
}

impl Iterator for Extents<'_> {
    type Item = PriorExtent;

    fn next(&mut self) -> Option<PriorExtent> {
        let first = self.number()?;
        let len = self.short()?;
        let mut extent = self.before;
        if first & 1 == 0 {
            let after = self.before.offset.wrapping_add(self.before.len);
            extent.offset = narrow(i64::from(after).wrapping_add(unzigzag(first >> 1)))?;
        } else {
            let behind = extent.place.at.wrapping_add(extent.place.sealed.into());
            extent.offset = narrow(unzigzag(first >> 1))?;
            extent.pack = narrow(i64::from(extent.pack).wrapping_add(self.signed()?))?;
            extent.place.index = narrow((i64::from(extent.place.index) + 1).wrapping_add(self.signed()?))?;
            extent.place.at = behind.wrapping_add_signed(self.signed()?);
            extent.place.sealed = self.short()?;
            extent.plain = self.short()?;
            let (crc, rest) = self.bytes.split_first_chunk()?;
            (extent.crc, self.bytes) = (u32::from_le_bytes(*crc), rest);
        }
        extent.len = len;
        self.before = extent;
        Some(extent)
    }
}

impl Extents<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn short(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn signed(&mut self) -> Option<i64> {
        self.number().map(unzigzag)
    }
}

fn narrow(number: i64) -> Option<u32> {
    u32::try_from(number).ok()
}

/// Makes small numbers of either sign small.
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn extent()(
            (pack, index, at) in (0_u32..3, any::<u32>(), 0..u64::MAX / 2),
            (sealed, offset, len, plain, crc) in any::<(u32, u32, u32, u32, u32)>(),
        ) -> PriorExtent {
            PriorExtent { pack, place: ChunkPlace { at, sealed, index }, offset, len, plain, crc }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            files in prop::collection::vec(prop::collection::vec((extent(), prop::collection::vec((any::<u32>(), any::<u32>()), 0..4)), 0..6), 0..5),
        ) {
            let mut tape = Tape::default();
            let pieces = |file: &Vec<(PriorExtent, Vec<(u32, u32)>)>| -> Vec<PriorExtent> {
                file.iter()
                    .flat_map(|(chunk, pieces)| {
                        let piece = |(offset, len): &(u32, u32)| PriorExtent { offset: *offset, len: *len, ..*chunk };
                        std::iter::once(*chunk).chain(pieces.iter().map(piece)).collect::<Vec<_>>()
                    })
                    .collect()
            };
            let stretches: Vec<Stretch> = files.iter().map(|file| tape.write(pieces(file))).collect();
            for (file, stretch) in files.iter().zip(stretches) {
                prop_assert_eq!(tape.read(stretch).collect::<Vec<_>>(), pieces(file));
            }
        }
    }

    #[test]
    fn likely_extents_are_short() {
        let chunk = |index: u32| PriorExtent {
            pack: 7,
            place: ChunkPlace { at: u64::from(index) * 90_000, sealed: 90_000, index },
            offset: 0,
            len: 1 << 20,
            plain: 1 << 20,
            crc: 0xDEAD_BEEF,
        };
        let mut tape = Tape::default();
        tape.write((0..1000).map(chunk));
        assert!(tape.bytes.len() <= 17 * 1000, "{}", tape.bytes.len());
        tape.clear();
        let page = |page: u32| PriorExtent { offset: page * 8192, len: 8192, ..chunk(3) };
        tape.write((0..128).rev().map(page));
        assert!(tape.bytes.len() < 6 * 128 + 20, "{}", tape.bytes.len());
    }
}
