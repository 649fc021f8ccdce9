//! Who a node is. Written once, when an agent first sees it; a later agent that finds another system
//! identifier under the same name is refused.

use serde::{Deserialize, Serialize};

use super::Document;
use crate::ids::{ClusterName, GroupId, NodeName};
use crate::moment::Moment;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDoc {
    pub version: u32,
    pub cluster: ClusterName,
    pub node: NodeName,
    /// Its Citus group; `None` for a server without Citus's catalogue.
    pub group: Option<GroupId>,
    /// As text: it does not fit a JSON number.
    pub system_identifier: String,
    /// As `server_version_num`: 150018.
    pub postgres_version: u32,
    /// The server's own; the vault's are perhaps shorter.
    pub segment_bytes: u32,
    pub recorded_at: Moment,
}

impl Document for NodeDoc {
    const NAME: &'static str = "node document";
    const VERSION: u32 = 1;
}
