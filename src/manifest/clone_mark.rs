//! The mark in a restored data directory: a copy shares its original's system identifier, so nothing
//! but this tells them apart. Agents and backups refuse a marked server under any other cluster's name.

use serde::{Deserialize, Serialize};

use super::Document;
use crate::ids::{ClusterName, NodeName};
use crate::moment::Moment;

/// Its file name in the data directory.
pub const FILE: &str = "pitrus.restored.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneMark {
    pub version: u32,
    /// The new cluster's name: the only one under which this server may be archived.
    pub cluster: ClusterName,
    pub source_cluster: ClusterName,
    /// The node that this server is a copy of.
    pub source_node: NodeName,
    pub restored_at: Moment,
}

impl Document for CloneMark {
    const NAME: &'static str = "clone mark";
    const VERSION: u32 = 1;
}
