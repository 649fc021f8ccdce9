//! The shape of a Citus cluster at a moment: recorded by the coordinator's agent whenever it changes.

use serde::{Deserialize, Serialize};

use super::Document;
use crate::ids::{ClusterName, GroupId, NodeName};
use crate::moment::Moment;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyDoc {
    pub version: u32,
    pub cluster: ClusterName,
    pub recorded_by: NodeName,
    pub recorded_at: Moment,
    /// Databases with Citus's catalogue, by name.
    pub databases: Vec<CitusDatabase>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CitusDatabase {
    pub name: String,
    pub oid: u32,
    /// `None` where the catalogue tables exist without the extension.
    pub citus_version: Option<String>,
    pub nodes: Vec<CitusNode>,
}

/// A row of `pg_dist_node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CitusNode {
    pub node_id: i32,
    pub group: GroupId,
    pub host: String,
    pub port: i32,
    pub role: String,
    pub is_active: bool,
}

impl Document for TopologyDoc {
    const NAME: &'static str = "topology document";
    const VERSION: u32 = 1;
}
