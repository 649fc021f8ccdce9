//! Up to which position a quorum of zones holds every byte. Pure.

use std::collections::BTreeMap;

use crate::lsn::Lsn;

/// Extents that a quorum holds, in whatever order they were acknowledged.
pub(super) struct Held {
    to: Lsn,
    /// Beyond `to`: start -> end.
    islands: BTreeMap<Lsn, Lsn>,
}

impl Held {
    /// Everything before `from` is held.
    pub(super) fn new(from: Lsn) -> Self {
        Held { to: from, islands: BTreeMap::new() }
    }

    /// Returns the end of what is held without a gap.
    pub(super) fn to(&self) -> Lsn {
        self.to
    }

    /// Adds `[start, end)`.
    pub(super) fn add(&mut self, start: Lsn, end: Lsn) {
        let known = self.islands.entry(start).or_insert(end);
        *known = end.max(*known);
        while let Some(first) = self.islands.first_entry().filter(|first| *first.key() <= self.to) {
            self.to = self.to.max(first.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_map_of_bytes(extents in proptest::collection::vec((0_u64..60, 1_u64..9), 0..40)) {
            let mut held = Held::new(Lsn(5));
            let mut bytes = [false; 80];
            bytes[..5].fill(true);
            for (start, length) in extents {
                held.add(Lsn(start), Lsn(start + length));
                bytes[start as usize..(start + length) as usize].fill(true);
                let first_gap = bytes.iter().position(|b| !b).unwrap() as u64;
                prop_assert_eq!(held.to(), Lsn(first_gap));
            }
        }
    }
}
