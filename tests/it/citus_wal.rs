//! Real WAL of a real Citus cluster (`fixtures/wal/citus`, made by `scripts/fixtures`): what we read is what
//! PostgreSQL's own reader said, and the decision of every distributed transaction is found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pitrus::citus::Gid;
use pitrus::ids::GroupId;
use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use pitrus::timeline::TimelineId;
use pitrus::wal::event::{Event, Open, What};
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::scan::{EventScan, Found};
use pitrus::wal::segment::Segment;

const MIB: u32 = 1 << 20;
/// The name of each group's folder.
const NODES: [&str; 3] = ["coordinator", "worker1", "worker2"];

fn folder(node: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wal/citus").join(NODES[node])
}

fn unpacked(path: &Path) -> Vec<u8> {
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

/// The WAL of one node from its first kept segment on.
fn wal(node: usize) -> (Lsn, Vec<u8>) {
    let mut names: Vec<String> = std::fs::read_dir(folder(node))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Segment::parse(name.trim_end_matches(".zst"), MIB).is_some())
        .collect();
    names.sort();
    let start = Segment::parse(names[0].trim_end_matches(".zst"), MIB).unwrap().start(MIB);
    (start, names.iter().flat_map(|name| unpacked(&folder(node).join(name))).collect())
}

fn events(node: usize) -> (Vec<Event>, Lsn) {
    let (start, bytes) = wal(node);
    let mut scan = EventScan::new(MIB, start, Open::default());
    scan.feed(&bytes);
    let mut events = Vec::new();
    while let Found::Event(event) = scan.step().unwrap() {
        events.push(event);
    }
    (events, scan.position())
}

/// As `pg_waldump` prints times.
fn time(moment: Moment) -> String {
    format!("{} UTC", moment.to_string().replace('T', " ").trim_end_matches('Z'))
}

#[test]
fn transactions_are_those_of_pg_waldump() {
    for node in 0..3 {
        let said = String::from_utf8(unpacked(&folder(node).join("transactions.txt.zst"))).unwrap();
        let kinds = [" PREPARE ", " COMMIT ", " ABORT ", " COMMIT_PREPARED ", " ABORT_PREPARED "];
        let theirs: Vec<&str> =
            said.lines().filter(|line| kinds.iter().any(|kind| line.contains(kind))).collect();
        let ours = events(node).0.into_iter().filter_map(|event| {
            let text = match event.what {
                What::Prepare { xid, gid, time: at, .. } => format!("{xid} PREPARE gid {gid}: {}", time(at)),
                What::Commit { xid, time: at, .. } => format!("{xid} COMMIT {}", time(at)),
                What::Abort { xid, time: at } => format!("{xid} ABORT {}", time(at)),
                What::CommitPrepared { xid, time: at, .. } => {
                    format!("0 COMMIT_PREPARED {xid}: {}", time(at))
                }
                What::RollbackPrepared { xid, time: at, .. } => {
                    format!("0 ABORT_PREPARED {xid}: {}", time(at))
                }
                _ => return None,
            };
            Some((event.lsn, text))
        });
        let ours: Vec<(Lsn, String)> = ours.collect();
        assert_eq!(ours.len(), theirs.len(), "node {node}");
        for ((lsn, text), their) in ours.iter().zip(theirs) {
            let (their_lsn, rest) = their.split_once(' ').unwrap();
            assert_eq!(their_lsn.parse::<Lsn>().unwrap(), *lsn);
            // What follows the time (subtransactions, invalidations) is not compared.
            assert!(rest.starts_with(text.as_str()), "{rest:?} is not {text:?}");
        }
    }
}

#[test]
fn every_committed_gid_has_its_decision() {
    let mut decided = BTreeSet::new();
    let mut committed = BTreeMap::new();
    for node in 0..3 {
        for event in events(node).0 {
            match event.what {
                What::Commit { decides, .. } => decided.extend(decides.into_iter().map(|d| (d.group, d.gid))),
                // One is not Citus's: a client prepared it by hand.
                What::CommitPrepared { gid: Some(gid), .. } if gid != "not-citus" => {
                    *committed.entry((GroupId(node as i32), gid)).or_insert(0) += 1;
                }
                _ => {}
            }
        }
    }
    assert!(committed.len() > 300, "{} two-phase commits", committed.len());
    let missing: Vec<_> = committed.keys().filter(|gid| !decided.contains(gid)).collect();
    assert_eq!(missing, Vec::<&(GroupId, String)>::new());
    let initiators: BTreeSet<_> =
        committed.keys().filter_map(|(_, gid)| Some(Gid::parse(gid)?.transaction().group)).collect();
    assert_eq!(initiators, [GroupId(0), GroupId(1)].into_iter().collect());
}

#[test]
fn an_index_is_what_its_segment_says() {
    for node in 0..3 {
        let (start, bytes) = wal(node);
        let (all, end) = events(node);
        let valid = &bytes[..(end.0 - start.0) as usize];
        let build = |piece: usize| {
            let mut builder = IndexBuilder::new(TimelineId(1), MIB, start, Open::default());
            let mut indexes = Vec::new();
            for piece in valid.chunks(piece) {
                indexes.extend(builder.feed(piece).unwrap());
            }
            indexes.push(builder.tail());
            indexes
        };
        let indexes = build(valid.len());
        assert_eq!(indexes, build(1000));
        let indexed: Vec<Event> = indexes.iter().flat_map(|index| index.events.clone()).collect();
        assert_eq!(indexed, all.into_iter().filter(|e| e.what.is_indexed()).collect::<Vec<_>>());
        for index in &indexes {
            let bytes = pitrus::manifest::to_bytes(index);
            assert_eq!(
                &pitrus::manifest::from_bytes::<pitrus::manifest::wal_index::WalIndex>(&bytes).unwrap(),
                index
            );
        }
    }
}
