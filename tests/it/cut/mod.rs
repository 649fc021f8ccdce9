//! `pitrus cut` and `pitrus wal show`, by running the binary on plain directories of WAL: the recorded Citus
//! cluster (see `fixtures/README.md`), what can be wrong with a directory, and a real fleet.

mod faces;
mod fleet;
mod folders;
mod repeated;
mod truth;

use std::path::{Path, PathBuf};
use std::process::Command;

use pitrus::lsn::Lsn;
use pitrus::moment::Moment;

use crate::recorded::{self, Recorded, SEGMENT_BYTES};

/// What the binary said.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Said {
    pub(super) fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    #[track_caller]
    pub(super) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{}\nlacks {word:?}", self.err);
        }
        assert!(self.out.is_empty(), "a failure says nothing on standard output: {}", self.out);
    }
}

pub(super) fn pitrus(args: &[&str]) -> Said {
    let ran = Command::new(env!("CARGO_BIN_EXE_pitrus"))
        .args(args)
        .env_remove("PITRUS_CONFIG")
        .env_remove("PITRUS_LOG")
        .output()
        .unwrap();
    Said {
        code: ran.status.code().unwrap(),
        out: String::from_utf8(ran.stdout).unwrap(),
        err: String::from_utf8(ran.stderr).unwrap(),
    }
}

/// The recorded cluster's segments in a folder for each node.
pub(super) struct Unpacked {
    pub(super) nodes: Vec<Recorded>,
    folder: tempfile::TempDir,
}

impl Unpacked {
    pub(super) fn new() -> Self {
        let unpacked = Unpacked { nodes: recorded::nodes(), folder: tempfile::tempdir().unwrap() };
        for node in &unpacked.nodes {
            std::fs::create_dir(unpacked.path(node.group)).unwrap();
            for (at, bytes) in node.wal.chunks(SEGMENT_BYTES as usize).enumerate() {
                std::fs::write(unpacked.file(node.group, at as u64), bytes).unwrap();
            }
        }
        unpacked
    }

    pub(super) fn path(&self, group: i32) -> PathBuf {
        self.folder.path().join(group.to_string())
    }

    /// Returns a node's file by its number among those recorded.
    pub(super) fn file(&self, group: i32, at: u64) -> PathBuf {
        let first = self.nodes[0].start.segment(SEGMENT_BYTES);
        self.path(group).join(segment_name(1, first + at))
    }

    /// Cuts all nodes, and says it as JSON.
    pub(super) fn cut(&self, more: &[&str]) -> Said {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|n| format!("--node={}={}", n.group, self.path(n.group).display()))
            .collect();
        let mut args = vec!["cut", "--output", "json"];
        args.extend(nodes.iter().map(String::as_str));
        args.extend(more);
        pitrus(&args)
    }
}

/// Returns the name of a segment of the recorded size.
pub(super) fn segment_name(timeline: u32, number: u64) -> String {
    let per_id = (1_u64 << 32) / u64::from(SEGMENT_BYTES);
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// Returns where each node stops.
pub(super) fn stops(cut: &serde_json::Value) -> Vec<Lsn> {
    let nodes = cut["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["stop_before"].as_str().map_or(Lsn::MAX, |lsn| lsn.parse().unwrap())).collect()
}

pub(super) fn moment(text: &str) -> Moment {
    text.parse().unwrap()
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}
