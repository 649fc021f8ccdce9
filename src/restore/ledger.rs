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
    /// Replayed, promoted, and proved to have stopped where the plan says.
    Landed,
    /// No distributed transaction is left prepared.
    Settled,
    /// The metadata names only the new cluster.
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
        self.write(user)
    }
}
