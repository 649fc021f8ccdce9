//! Which nodes the cluster had.
//!
//! The coordinator's agent records the shape when it sees that it changed: seconds after the change, more where the
//! agent was away. In between, the coordinator's WAL tells: a node joins by a distributed transaction with a part
//! on itself (`citus_add_node`), so a decision about a group that the recorded shape does not have, inside the cut,
//! means that the next shape counts already. A node that has left is merely restored beside the others.

use super::Error;
use crate::cut::{NodeHistory, Request};
use crate::ids::{GroupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::topology::{CitusNode, TopologyDoc};
use crate::moment::Moment;
use crate::vault::{Catalog, NodeCatalog};

type Chosen<'a> = Vec<(&'a NodeName, &'a NodeCatalog)>;

/// Returns the recorded shape of the moment asked for: its place among those in the catalogue.
pub(super) fn recorded(catalog: &Catalog, request: &Request) -> Option<usize> {
    let last = catalog.topologies.len().checked_sub(1)?;
    let at = |time: Moment| catalog.topologies.partition_point(|doc| doc.recorded_at <= time);
    match request {
        Request::Time(time)
        | Request::AtOrAfter(time)
        | Request::BeforeTransaction { near: Some(time), .. } => Some(at(*time).saturating_sub(1)),
        Request::Earliest => Some(0),
        Request::Latest
        | Request::RestorePoint(_)
        | Request::BeforeTransaction { near: None, .. }
        | Request::Stop { .. } => Some(last),
    }
}

/// Returns the nodes of a recorded shape.
pub(super) fn nodes<'a>(
    catalog: &'a Catalog,
    topology: Option<&TopologyDoc>,
    notes: &mut Vec<String>,
) -> Result<Chosen<'a>, Error> {
    let Some(topology) = topology else {
        notes.push("no shape of the cluster was recorded: all nodes in the vault are restored".to_owned());
        return Ok(catalog.nodes.iter().collect());
    };
    let mut chosen = Vec::new();
    // The coordinator may not have added itself: it is the one that recorded this.
    let own = catalog.nodes.get_key_value(&topology.recorded_by);
    chosen.extend(own.filter(|_| topology.databases.iter().any(|database| !database.nodes.is_empty())));
    for member in primaries(topology) {
        let found = catalog.nodes.iter().find(|(_, node)| node.doc.group == Some(member.group));
        let (name, node) = found.ok_or_else(|| Error::NoNode {
            group: member.group,
            host: member.host.clone(),
            port: member.port,
        })?;
        if !chosen.iter().any(|(other, _)| *other == name) {
            chosen.push((name, node));
        }
    }
    if chosen.is_empty() {
        return Ok(catalog.nodes.iter().collect());
    }
    for name in catalog.nodes.keys().filter(|name| !chosen.iter().any(|(other, _)| other == name)) {
        notes.push(format!("{name} was not in the cluster then and is not restored"));
    }
    chosen.sort_by_key(|(_, node)| node.doc.group);
    Ok(chosen)
}

fn primaries(topology: &TopologyDoc) -> impl Iterator<Item = &CitusNode> {
    let members = topology.databases.iter().flat_map(|database| &database.nodes);
    members.filter(|node| node.role == "primary" && node.is_active)
}

/// A node that the cluster had at a cut, though the recorded shape does not have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    pub(super) group: GroupId,
    /// When a transaction with a part on it was first decided, by the initiator's clock.
    pub(super) at: Moment,
}

/// Finds one in what is known of the nodes that were chosen by the shape at place `at`.
pub(super) fn joined(
    catalog: &Catalog,
    at: usize,
    histories: &[NodeHistory],
    stops: &[Lsn],
) -> Option<Joined> {
    let upto = catalog.topologies.get(..=at)?;
    // Of one that left before, the WAL may still tell.
    let is_known = |group: GroupId| {
        let ever = upto.iter().flat_map(primaries).any(|member| member.group == group);
        ever || histories.iter().any(|history| history.group == Some(group))
    };
    let inside = histories
        .iter()
        .zip(stops)
        .flat_map(|(history, stop)| history.events.iter().take_while(move |event| event.lsn < *stop));
    let decided = inside.flat_map(|event| {
        let time = event.what.time().unwrap_or(Moment(i64::MAX));
        event.what.decides().iter().map(move |row| Joined { group: row.group, at: time })
    });
    decided.filter(|joined| !is_known(joined.group)).min_by_key(|joined| joined.at)
}

/// Returns the recorded shape from `at` on that has this node; why there is none, if there is none.
pub(super) fn with(catalog: &Catalog, at: usize, joined: Joined) -> Result<usize, String> {
    let has = |doc: &TopologyDoc| primaries(doc).any(|member| member.group == joined.group);
    let later = catalog.topologies.iter().enumerate().skip(at.saturating_add(1));
    later.into_iter().find(|(_, doc)| has(doc)).map(|(at, _)| at).ok_or_else(|| {
        format!(
            "a node of group {} joined the cluster at {}, and the coordinator's agent has not recorded that yet: a \
             moment before that can be restored, this one when the agent runs and has looked again, within seconds",
            joined.group, joined.at
        )
    })
}

/// Says why the moment cannot be restored with a node that has just joined, and which can.
pub(super) fn too_new(chosen: &Chosen<'_>, joined: Joined, why: &str) -> String {
    let node = chosen.iter().find(|(_, node)| node.doc.group == Some(joined.group));
    let first = node.and_then(|(_, node)| node.backups.iter().map(|ends| ends.foot.stopped_at).min());
    let from = first.map_or_else(
        || "once it has one".to_owned(),
        |first| format!("from the end of its first backup on, at {first}"),
    );
    format!(
        "{why}: it joined the cluster at {}; a moment before that can be restored, and others {from}",
        joined.at
    )
}
