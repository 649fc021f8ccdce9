//! Index objects: documents and manifests of any text. What can be read is written and read again the same, and
//! can be used for a cut.

use pitrus::cut::{self, NodeHistory};
use pitrus::ids::GroupId;
use pitrus::lsn::Lsn;
use pitrus::manifest::backup::ManifestReader;
use pitrus::manifest::clock::ClockDoc;
use pitrus::manifest::clone_mark::CloneMark;
use pitrus::manifest::node::NodeDoc;
use pitrus::manifest::topology::TopologyDoc;
use pitrus::manifest::wal_index::WalIndex;
use pitrus::manifest::{self, Document};
use pitrus::restore::plan::Plan;

/// The first byte says what the rest is read as.
pub fn objects(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 8 {
        0 | 1 => {
            let documents = bytes.split(|byte| *byte == b'\n');
            use_indexes(documents.take(6).filter_map(read::<WalIndex>).collect());
        }
        2 => drop(read::<TopologyDoc>(bytes)),
        3 => drop(read::<NodeDoc>(bytes)),
        4 => drop(read::<CloneMark>(bytes)),
        5 => drop(read::<ClockDoc>(bytes)),
        6 => {
            if let Ok(plan) = manifest::from_bytes::<Plan>(bytes) {
                let _ = plan.to_string();
            }
        }
        _ => manifest(bytes),
    }
}

/// Reads a document; what was read is read again from what it is written as.
fn read<T: Document + serde::Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let document: T = manifest::from_bytes(bytes).ok()?;
    let again: T = manifest::from_bytes(&manifest::to_bytes(&document)).expect("we wrote it");
    assert_eq!(again, document);
    Some(document)
}

/// Uses each as the whole that is known of one node.
fn use_indexes(indexes: Vec<WalIndex>) {
    let nodes: Vec<NodeHistory> = indexes
        .into_iter()
        .zip(0..)
        .map(|(index, group)| NodeHistory {
            node: format!("n{group}").parse().expect("a name"),
            group: Some(GroupId(group)),
            earliest: index.start,
            end: index.end,
            events: index.events,
            prepared_at_start: index.open_at_start.prepared,
            times: index.times,
        })
        .collect();
    let start = vec![Lsn::MAX; nodes.len()];
    if let Ok(cut) = cut::greatest_consistent(&nodes, &start) {
        assert!(cut::torn(&nodes, &cut.stop).expect("a cut of these nodes").is_empty());
    }
}

/// A manifest gives the same lines, or the same end of them, whole and in pieces.
fn manifest(bytes: &[u8]) {
    let read = |size: usize| {
        let mut reader = ManifestReader::new();
        let mut lines = Vec::new();
        for piece in bytes.chunks(size) {
            reader.feed(piece);
            loop {
                match reader.next() {
                    Ok(Some(line)) => lines.push(line),
                    Ok(None) => break,
                    Err(error) => return (lines, Some(error.to_string())),
                }
            }
        }
        let end = reader.finish().err().map(|error| error.to_string());
        (lines, end)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(7), whole);
    assert_eq!(ManifestReader::ends(bytes).is_ok(), whole.1.is_none());
}
