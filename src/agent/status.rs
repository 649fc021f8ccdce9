//! The agent's state for people and monitors: one JSON file in the state folder, replaced whole about
//! every second. A file whose `updated_at` stands still is that of an agent that does not run.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::archive;
use crate::archive::Mishap;
use crate::ids::{BackupId, ClusterName, NodeName, ZoneName};
use crate::manifest::clock::Reference;
use crate::manifest::{self, Document};
use crate::moment::Moment;

/// Its name in the state folder.
pub const FILE: &str = "status.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub version: u32,
    pub cluster: ClusterName,
    pub node: NodeName,
    pub pid: u32,
    pub started_at: Moment,
    pub updated_at: Moment,
    pub archive: archive::Status,
    /// Bytes that the server has and no quorum holds.
    pub lag_bytes: u64,
    pub zones: Vec<ZoneLine>,
    /// Damaged copies that this agent met and that are not repaired.
    pub damage: u64,
    pub backup: BackupLine,
    pub topology: Option<TopologyLine>,
    #[serde(default)]
    pub repair: RepairLine,
    #[serde(default)]
    pub clock: ClockLine,
}

/// How a zone did when this agent last used it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneLine {
    pub zone: ZoneName,
    /// `None` while it works.
    pub failing_since: Option<Moment>,
    pub last_error: Option<String>,
    /// Objects that this agent wrote and that are not in it yet.
    pub missed: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupLine {
    /// Since when one is being taken.
    pub running_since: Option<Moment>,
    pub last: Option<BackupId>,
    pub next_at: Option<Moment>,
    pub last_error: Option<Mishap>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyLine {
    pub recorded_at: Moment,
    pub nodes: usize,
}

/// What repairing the zones did since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairLine {
    pub last_at: Option<Moment>,
    pub copied: u64,
    /// Damaged copies.
    pub replaced: u64,
    pub last_error: Option<Mishap>,
}

/// How far the node's clock is ahead of the coordinator's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockLine {
    /// Whom it is compared with; `None` while nobody is known.
    pub reference: Option<Reference>,
    /// When it was last compared; the two numbers are of then.
    pub sampled_at: Option<Moment>,
    pub ahead_micros: i64,
    pub uncertain_micros: i64,
    pub stored_at: Option<Moment>,
    /// Why it cannot be compared.
    pub last_error: Option<Mishap>,
    /// Why it cannot be stored.
    pub store_error: Option<Mishap>,
}

impl Document for AgentStatus {
    const NAME: &'static str = "agent status";
    const VERSION: u32 = 1;
}

/// Replaces the status file.
pub(super) fn write(state_dir: &Path, status: &AgentStatus) -> io::Result<()> {
    let new = state_dir.join(".status.json.new");
    // Not synced: it is worth nothing after a crash.
    std::fs::write(&new, manifest::to_bytes(status))?;
    std::fs::rename(&new, path(state_dir))
}

/// Returns what the agent of this state folder last said; `None` where none has run.
pub fn read(state_dir: &Path) -> Result<Option<AgentStatus>, Unreadable> {
    let path = path(state_dir);
    match std::fs::read(&path) {
        Ok(bytes) => {
            manifest::from_bytes(&bytes).map(Some).map_err(|e| Unreadable { path, source: Box::new(e) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unreadable { path, source: Box::new(error) }),
    }
}

/// A status file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct Unreadable {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let status = AgentStatus {
            version: AgentStatus::VERSION,
            cluster: "c".parse().unwrap(),
            node: "n".parse().unwrap(),
            pid: 1,
            started_at: Moment(0),
            updated_at: Moment(1),
            archive: archive::Status::default(),
            lag_bytes: 0,
            zones: Vec::new(),
            damage: 0,
            backup: BackupLine::default(),
            topology: None,
            repair: RepairLine::default(),
            clock: ClockLine::default(),
        };
        write(folder.path(), &status).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(status));
        std::fs::write(path(folder.path()), "{").unwrap();
        assert!(read(folder.path()).is_err());
    }
}
