//! Between which moments the whole cluster can be restored.

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::moment::Moment;
use crate::timeline::TimelineId;

/// The moments to which the whole cluster can be restored, as far as the catalogue tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When the latest of the nodes' oldest usable backups ended; `None` while a node has none.
    pub earliest: Option<Moment>,
    /// The end of the archived WAL of the node whose archive ends first.
    pub latest: Option<Moment>,
    pub nodes: Vec<NodeWindow>,
}

/// The same for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWindow {
    pub node: NodeName,
    pub earliest: Option<Moment>,
    pub latest: Option<Moment>,
    /// WAL that is missing between what is archived.
    pub gaps: Vec<Gap>,
}

/// Segments that are not archived, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub timeline: TimelineId,
    pub first: u64,
    pub last: u64,
}
