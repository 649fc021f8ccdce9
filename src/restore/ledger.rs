//! How far the restore of one node has come, kept in its data directory.
//!
//! The ledger is written before anything else, into a directory that was empty: whatever is found
//! beside it later is ours. A run that crashed goes on from its stage; the ledger stays behind when all is
//! done, so that running the same restore again changes nothing.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::install::OsUser;
use super::landing::Proof;
use super::metadata::Readdressed;
use super::open::Checked;
use super::report::Figures;
use super::settle::Settled;
use super::targets::Target;
use super::{Error, conf};
use crate::ids::{ClusterName, NodeName};
use crate::manifest::{self, Document};

/// Its name in the data directory.
pub(super) const FILE: &str = "pitrus.restoring.json";

/// What is done; each stage includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The directory is ours; files are coming.
    Begun,
    /// All files are there and durable.
    Fetched,
    /// Replayed, promoted, and proved to have stopped where the plan says. Not durable yet.
    Landed,
    /// No distributed transaction is left prepared. Not durable yet.
    Settled,
    /// The metadata names only the new cluster, and all is durable.
    Addressed,
    /// Closed, checked with Citus loaded, and stopped.
    Done,
}

/// What is kept of one node's restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub(super) version: u32,
    /// Identifies the plan: only the same restore goes on.
    pub(super) plan: String,
    pub(super) cluster: ClusterName,
    pub(super) source_cluster: ClusterName,
    pub(super) source_node: NodeName,
    pub(super) target: Target,
    pub(super) stage: Stage,
    /// The boot of this machine in which a server began to write without syncing, until all of it is synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unsynced_in: Option<String>,
    pub(super) proof: Option<Proof>,
    pub(super) settled: Settled,
    pub(super) metadata: Vec<Readdressed>,
    pub(super) checked: Checked,
    pub(super) figures: Figures,
}

impl Document for Ledger {
    const NAME: &'static str = "restore ledger";
    const VERSION: u32 = 1;
}

impl Ledger {
    /// Reads a directory's ledger, where it has one.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                manifest::from_bytes(&bytes).map(Some).map_err(|source| Error::Document { path, source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", &path)(error)),
        }
    }

    pub(super) fn write(&self, user: &OsUser) -> Result<(), Error> {
        conf::replace(&self.target.directory.join(FILE), &manifest::to_bytes(self), user)
    }

    /// Notes that a stage is done.
    pub(super) fn reach(&mut self, stage: Stage, user: &OsUser) -> Result<(), Error> {
        self.stage = self.stage.max(stage);
        if self.stage >= Stage::Addressed {
            self.unsynced_in = None;
        }
        self.write(user)
    }

    /// Notes that a server is about to write without syncing.
    pub(super) fn leave_unsynced(&mut self, user: &OsUser) -> Result<(), Error> {
        if self.unsynced_in.is_none() {
            self.unsynced_in = Some(boot()?);
            self.write(user)?;
        }
        Ok(())
    }

    /// Returns whether what a server wrote without syncing may be lost: the machine has started again since.
    pub(super) fn may_be_lost(&self) -> Result<bool, Error> {
        Ok(match &self.unsynced_in {
            Some(then) => *then != boot()?,
            None => false,
        })
    }
}

/// Identifies this run of the machine's kernel (random(4)).
fn boot() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    Ok(id.trim().to_owned())
}
