//! Records the cluster's shape whenever it changes; on the coordinator only.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::status::TopologyLine;
use super::{Error, Post};
use crate::ids::GroupId;
use crate::manifest::topology::{CitusDatabase, TopologyDoc};
use crate::manifest::{self, Document};
use crate::node::topology;
use crate::vault::ObjectName;
use crate::{archive, clock};

const POLL_EVERY: Duration = Duration::from_secs(10);
/// A worker may become a coordinator, but not often.
const POLL_ELSEWHERE_EVERY: Duration = Duration::from_secs(60);
const COORDINATOR: GroupId = GroupId(0);
/// zstd level: documents are small and many are alike.
const LEVEL: i32 = 3;

/// Records until dropped.
pub(super) async fn record(post: Post, tell: watch::Sender<Option<TopologyLine>>) {
    let mut recorded: Option<TopologyDoc> = None;
    loop {
        let mut wait = POLL_EVERY;
        match once(&post, &mut recorded).await {
            Ok(false) => wait = POLL_ELSEWHERE_EVERY,
            Ok(true) => {
                let line = |doc: &TopologyDoc| TopologyLine {
                    recorded_at: doc.recorded_at,
                    nodes: nodes(&doc.databases),
                };
                tell.send_replace(recorded.as_ref().map(line));
            }
            Err(error) => {
                let why = archive::Mishap::now(&error).text;
                tracing::warn!(error = %why, "the cluster's topology could not be recorded");
            }
        }
        sleep(wait).await;
    }
}

/// Records once; returns whether this is the coordinator.
async fn once(post: &Post, recorded: &mut Option<TopologyDoc>) -> Result<bool, Error> {
    let groups = topology::local_groups(&post.connection).await?;
    if !groups.iter().any(|(_, group)| *group == COORDINATOR) {
        return Ok(false);
    }
    let databases = topology::read(&post.connection).await?;
    if recorded.is_none() {
        *recorded = newest(post).await?;
    }
    if recorded.as_ref().is_some_and(|doc| doc.databases == databases) {
        return Ok(true);
    }
    // A server that has Citus, but is of no cluster yet, calls itself a coordinator too.
    let is_of_none =
        nodes(&databases) == 0 && recorded.as_ref().is_none_or(|doc| doc.recorded_by != post.node);
    if is_of_none {
        return Ok(true);
    }
    let doc = TopologyDoc {
        version: TopologyDoc::VERSION,
        cluster: post.cluster.clone(),
        recorded_by: post.node.clone(),
        recorded_at: clock::now(),
        databases,
    };
    let name = ObjectName::Topology { at: doc.recorded_at };
    post.vault.put(&name, manifest::to_bytes(&doc).into(), LEVEL).await?;
    tracing::info!(nodes = nodes(&doc.databases), "recorded the cluster's topology");
    *recorded = Some(doc);
    Ok(true)
}

/// Returns the newest document that the vault has.
async fn newest(post: &Post) -> Result<Option<TopologyDoc>, Error> {
    let listing = post.vault.list("topology").await?;
    let newest =
        listing.objects.iter().rev().find_map(|object| ObjectName::parse(&post.cluster, &object.name));
    match newest {
        Some(name) => Ok(Some(manifest::from_bytes(&post.vault.get(&name).await?)?)),
        None => Ok(None),
    }
}

/// Returns how many nodes the databases know together.
fn nodes(databases: &[CitusDatabase]) -> usize {
    let all = databases.iter().flat_map(|database| &database.nodes).map(|node| (&node.host, node.port));
    all.collect::<std::collections::BTreeSet<_>>().len()
}
