//! Between which moments the whole cluster can be restored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{self, Line, Span, oldest_backup};
use crate::cut::look::Log;
use crate::flow;
use crate::ids::NodeName;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::vault::{Catalog, NodeCatalog, Vault};

/// The moments to which the whole cluster can be restored, as far as the catalogue tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When the latest of the nodes' oldest usable backups ended; `None` while a node has none.
    pub earliest: Option<Moment>,
    /// The newest archived transaction of any node: a node without newer ones may have been idle.
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

const NODES_AT_ONCE: usize = 8;

/// Which timeline is followed, of nodes that do not follow their newest.
pub type Timelines = BTreeMap<NodeName, TimelineId>;

/// Finds the window: opens the newest indexes of each node.
pub async fn of(vault: &Vault, catalog: &Catalog, timelines: &Timelines) -> Result<Window, plan::Error> {
    let nodes = flow::try_map(catalog.nodes.iter().collect(), NODES_AT_ONCE, |(name, node)| async move {
        node_window(vault, name, node, timelines.get(name).copied()).await
    })
    .await?;
    let all = nodes.iter().map(|node| node.earliest).collect::<Option<Vec<_>>>();
    let earliest = all.and_then(|all| all.into_iter().max());
    let latest = nodes.iter().filter_map(|node| node.latest).max();
    Ok(Window { earliest, latest, nodes })
}

async fn node_window(
    vault: &Vault,
    name: &NodeName,
    node: &NodeCatalog,
    timeline: Option<TimelineId>,
) -> Result<NodeWindow, plan::Error> {
    let mut window = NodeWindow { node: name.clone(), earliest: None, latest: None, gaps: gaps(node) };
    if let Some(mut line) = Line::new(vault, name, node, timeline) {
        window.earliest = oldest_backup(&mut line).map(|ends| ends.foot.stopped_at);
    }
    if let Some(line) = Line::new(vault, name, node, timeline) {
        window.latest = Span::new(line, 0).newest_time().await?;
    }
    Ok(window)
}

/// Returns what is missing between the segments of each timeline.
fn gaps(node: &NodeCatalog) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for timeline in node.segments.timelines() {
        let runs = node.runs(timeline);
        for (before, after) in runs.iter().zip(runs.iter().skip(1)) {
            gaps.push(Gap { timeline, first: before.end() + 1, last: after.start() - 1 });
        }
    }
    gaps
}
