//! No bytes from outside may panic, hang or be read past: real WAL with bytes changed, cut and moved, and
//! bytes that never were WAL.

use std::sync::OnceLock;

use proptest::prelude::*;

use crate::recorded::{Recorded, SEGMENT_BYTES, nodes};
use pitrus::lsn::Lsn;
use pitrus::pgfile::{control::ControlFile, twophase};
use pitrus::timeline::TimelineId;
use pitrus::wal::Version;
use pitrus::wal::event::Open;
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::scan::{EventScan, Found};

/// Read once: unpacking takes longer than a case.
fn recorded() -> &'static [Recorded] {
    static NODES: OnceLock<Vec<Recorded>> = OnceLock::new();
    NODES.get_or_init(nodes)
}

/// Reads to the end, and returns how many events came; each step moves on, or the reading is over.
fn read(start: Lsn, bytes: &[u8], piece: usize) -> usize {
    let mut scan = EventScan::new(SEGMENT_BYTES, start, Open::default());
    let (mut events, mut at) = (0, start);
    for piece in bytes.chunks(piece) {
        scan.feed(piece);
        loop {
            match scan.step() {
                Ok(Found::Event(event)) => {
                    assert!(event.lsn >= at && event.end > event.lsn);
                    (events, at) = (events + 1, event.end);
                }
                Ok(Found::NeedMore) => break,
                Ok(Found::End { .. }) | Err(_) => return events,
            }
        }
    }
    events
}

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bits: u8 },
    Cut { at: usize },
    Copy { from: usize, to: usize, len: usize },
    Zero { at: usize, len: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0..SEGMENT_BYTES as usize;
    prop_oneof![
        (at(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        at().prop_map(|at| Damage::Cut { at }),
        (at(), at(), 1..20_000usize).prop_map(|(from, to, len)| Damage::Copy { from, to, len }),
        (at(), 1..20_000usize).prop_map(|(at, len)| Damage::Zero { at, len }),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let end = bytes.len();
    match *damage {
        Damage::Flip { at, bits } if at < end => bytes[at] ^= bits,
        Damage::Cut { at } => bytes.truncate(at),
        Damage::Copy { from, to, len } if from.max(to) + len <= end => {
            bytes.copy_within(from..from + len, to);
        }
        Damage::Zero { at, len } if at + len <= end => bytes[at..at + len].fill(0),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn damaged_wal_is_read_up_to_the_damage(
        damages in prop::collection::vec(damage(), 1..4),
        piece in 1usize..70_000,
        node in 0usize..3,
    ) {
        let node = &recorded()[node];
        let whole = &node.wal[..SEGMENT_BYTES as usize];
        let mut bytes = whole.to_vec();
        damages.iter().for_each(|d| apply(&mut bytes, d));
        let piece = piece.max(64);
        prop_assert!(read(node.start, &bytes, piece) <= read(node.start, whole, piece));
        let mut builder = IndexBuilder::new(TimelineId(1), SEGMENT_BYTES, node.start, Open::default());
        let _ = builder.feed(&bytes);
    }

    #[test]
    fn what_never_was_wal_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..40_000), start in any::<u64>()) {
        read(Lsn(start), &bytes, 8192);
        let _ = ControlFile::parse(&bytes);
        for version in Version::ALL {
            let _ = twophase::parse(&bytes, version);
        }
    }

    /// Page headers that are right, with anything between them.
    #[test]
    fn records_that_never_were_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 8192 * 3), length in any::<u32>()) {
        for (page, header) in bytes.chunks_mut(8192).zip(0u64..) {
            page[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
            page[2..4].copy_from_slice(&0u16.to_le_bytes());
            page[8..16].copy_from_slice(&(header * 8192).to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&length.to_le_bytes());
        prop_assert_eq!(read(Lsn(0), &bytes, 5000), 0);
    }
}
