//! Decoding tried on real WAL (see `fixtures/README.md`), beside what PostgreSQL's own reader found in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use pitrus::citus::Gid;
use pitrus::lsn::Lsn;
use pitrus::timeline::TimelineId;
use pitrus::wal::event::{Event, Open, What};
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::scan::{EventScan, Found};

pub(crate) const SEGMENT_BYTES: u32 = 1 << 20;

/// A node of the recorded cluster, its WAL as bytes.
pub(crate) struct Recorded {
    pub(crate) name: String,
    pub(crate) group: i32,
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) wal: Vec<u8>,
}

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/wal/citus").join(name);
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(packed.as_slice()).unwrap()
}

pub(crate) fn truth() -> serde_json::Value {
    serde_json::from_slice(&file("truth.json.zst")).unwrap()
}

pub(crate) fn nodes() -> Vec<Recorded> {
    let truth = truth();
    let nodes = truth["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            let name = node["name"].as_str().unwrap().to_owned();
            let segments = node["segments"].as_array().unwrap().iter();
            let wal = segments.flat_map(|s| file(&format!("{name}/{}.zst", s.as_str().unwrap()))).collect();
            let lsn = |field: &str| node[field].as_str().unwrap().parse().unwrap();
            let group = i32::try_from(node["group"].as_i64().unwrap()).unwrap();
            Recorded { group, start: lsn("start"), end: lsn("end"), name, wal }
        })
        .collect()
}

/// Decodes a node's WAL in pieces of an odd size.
pub(crate) fn events(node: &Recorded) -> Vec<Event> {
    let mut scan = EventScan::new(SEGMENT_BYTES, node.start, Open::default());
    let mut events = Vec::new();
    for piece in node.wal.chunks(7919) {
        scan.feed(piece);
        loop {
            match scan.step().unwrap() {
                Found::Event(event) => events.push(event),
                Found::NeedMore => break,
                Found::End { at, why } => {
                    assert_eq!(at, node.end, "{}: {why}", node.name);
                    return events;
                }
            }
        }
    }
    panic!("{}: the end of the WAL was not seen", node.name);
}

/// Everything PostgreSQL's own reader lists as a transaction's record is an event, and nothing else is.
#[test]
fn transaction_records_are_those_that_postgres_lists() {
    for node in nodes() {
        let listed = String::from_utf8(file(&format!("{}/transactions.txt.zst", node.name))).unwrap();
        let listed: Vec<(Lsn, String)> = listed
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                let mut word = || words.next().unwrap();
                let (lsn, xid, kind, first) = (word().parse().unwrap(), word(), word(), word());
                (
                    lsn,
                    match kind {
                        // Its transaction is in its body.
                        "COMMIT_PREPARED" | "ABORT_PREPARED" => {
                            format!("{kind} {}", first.trim_end_matches(':'))
                        }
                        "PREPARE" => format!("{kind} {xid} {}", word().trim_end_matches(':')),
                        _ => format!("{kind} {xid}"),
                    },
                )
            })
            .collect();
        let found: Vec<(Lsn, String)> = events(&node)
            .into_iter()
            .filter_map(|event| {
                let text = match event.what {
                    What::Prepare { xid, gid, .. } => format!("PREPARE {xid} {gid}"),
                    What::Commit { xid, .. } => format!("COMMIT {xid}"),
                    What::Abort { xid, .. } => format!("ABORT {xid}"),
                    What::CommitPrepared { xid, .. } => format!("COMMIT_PREPARED {xid}"),
                    What::RollbackPrepared { xid, .. } => format!("ABORT_PREPARED {xid}"),
                    _ => return None,
                };
                Some((event.lsn, text))
            })
            .collect();
        assert!(found.len() > 500, "{}: only {} records", node.name, found.len());
        assert_eq!(found, listed, "{}", node.name);
    }
}

/// Every transaction that Citus prepared is decided on its initiator, and was prepared before that.
#[test]
fn every_prepared_transaction_has_its_decision() {
    let (mut prepared, mut decided) = (BTreeSet::new(), BTreeMap::new());
    for node in nodes() {
        for event in events(&node) {
            match event.what {
                What::Prepare { gid, .. } if Gid::parse(&gid).is_some() => {
                    assert!(prepared.insert(gid));
                }
                What::Commit { decides, .. } => {
                    decided.extend(decides.into_iter().map(|row| (row.gid, node.group)));
                }
                _ => {}
            }
        }
    }
    // Citus's own changes to its metadata came before the first segment.
    assert!(prepared.len() > 1000);
    assert_eq!(prepared, decided.keys().cloned().collect());
    for (gid, group) in &decided {
        assert_eq!(Gid::parse(gid).unwrap().transaction.group.0, *group, "{gid} is decided by its initiator");
    }
    let transfers = truth()["transfers"].as_array().unwrap().len();
    let transactions: BTreeSet<_> =
        prepared.iter().map(|gid| Gid::parse(gid).unwrap().transaction()).collect();
    assert!(transactions.len() >= transfers, "{} of {transfers} transfers were seen", transactions.len());
}

#[test]
fn the_restore_point_is_on_every_node() {
    for node in nodes() {
        let named =
            |event: &Event| matches!(&event.what, What::RestorePoint { name, .. } if name == "in-the-middle");
        assert_eq!(events(&node).iter().filter(|event| named(event)).count(), 1, "{}", node.name);
    }
}

/// Indexes, made a segment at a time, hold the same events as one long reading.
#[test]
fn indexes_hold_what_a_scan_finds() {
    for node in nodes() {
        let mut builder = IndexBuilder::new(TimelineId(1), SEGMENT_BYTES, node.start, Open::default());
        let mut indexes = Vec::new();
        // A stream from a server ends where its WAL does.
        let valid = usize::try_from(node.end.0 - node.start.0).unwrap();
        for piece in node.wal[..valid].chunks(10_007) {
            indexes.extend(builder.feed(piece).unwrap());
        }
        assert_eq!(builder.decoded_to(), node.end);
        indexes.push(builder.tail());
        let kept: Vec<Event> = indexes.into_iter().flat_map(|index| index.events).collect();
        let scanned: Vec<Event> = events(&node).into_iter().filter(|event| event.what.is_indexed()).collect();
        assert_eq!(kept, scanned, "{}", node.name);
    }
}
