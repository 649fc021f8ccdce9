//! Which nodes, and which backup of each.

use super::Error;
use super::line::Line;
use crate::cut::Request;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::manifest::backup::Ends;
use crate::manifest::topology::TopologyDoc;
use crate::vault::{Catalog, NodeCatalog};

type Chosen<'a> = (Vec<(&'a NodeName, &'a NodeCatalog)>, Option<&'a TopologyDoc>);

/// Returns the nodes that the cluster had at the moment asked for, and its recorded shape then.
pub(super) fn nodes<'a>(
    catalog: &'a Catalog,
    request: &Request,
    notes: &mut Vec<String>,
) -> Result<Chosen<'a>, Error> {
    let recorded = &catalog.topologies;
    let topology = match request {
        Request::Time(time)
        | Request::AtOrAfter(time)
        | Request::BeforeTransaction { near: Some(time), .. } => {
            recorded.iter().rev().find(|doc| doc.recorded_at <= *time).or(recorded.first())
        }
        Request::Earliest => recorded.first(),
        Request::Latest
        | Request::RestorePoint(_)
        | Request::BeforeTransaction { near: None, .. }
        | Request::Stop { .. } => recorded.last(),
    };
    let Some(topology) = topology else {
        notes.push("no shape of the cluster was recorded: all nodes in the vault are restored".to_owned());
        return Ok((catalog.nodes.iter().collect(), None));
    };
    let members = topology.databases.iter().flat_map(|database| &database.nodes);
    let primaries = members.filter(|node| node.role == "primary" && node.is_active);
    let mut chosen = Vec::new();
    // The coordinator may not have added itself: it is the one that recorded this.
    let own = catalog.nodes.get_key_value(&topology.recorded_by);
    chosen.extend(own.filter(|_| topology.databases.iter().any(|database| !database.nodes.is_empty())));
    for member in primaries {
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
        return Ok((catalog.nodes.iter().collect(), Some(topology)));
    }
    for name in catalog.nodes.keys().filter(|name| !chosen.iter().any(|(other, _)| other == name)) {
        notes.push(format!("{name} was not in the cluster then and is not restored"));
    }
    chosen.sort_by_key(|(_, node)| node.doc.group);
    Ok((chosen, Some(topology)))
}

/// A backup of one node.
#[derive(Clone, Debug)]
pub(super) struct Choice<'a> {
    pub(super) ends: &'a Ends,
}

impl Choice<'_> {
    /// Returns where the copy is consistent.
    pub(super) fn stop(&self) -> Lsn {
        self.ends.foot.stop_lsn
    }
}

/// Backups from which the WAL goes on to the end of the stretch, the best last: newer ones, and those without
/// damaged pages before all others.
fn usable<'a>(line: &Line<'a>) -> Vec<Choice<'a>> {
    let is_held = |ends: &&Ends| line.holds(ends.head.timeline, ends.head.start_lsn, ends.foot.stop_lsn);
    let mut all: Vec<Choice<'a>> =
        line.catalog.backups.iter().filter(is_held).map(|ends| Choice { ends }).collect();
    all.sort_by_key(|choice| (!choice.ends.foot.is_damaged(), choice.stop()));
    all
}

/// Returns the best backup that is consistent at or before `start`.
pub(super) fn newest_at<'a>(line: &Line<'a>, start: Lsn) -> Option<Choice<'a>> {
    usable(line).into_iter().rev().find(|choice| choice.stop() <= start)
}

/// Returns the oldest backup without damaged pages, else the oldest.
pub(super) fn oldest<'a>(line: &Line<'a>) -> Option<Choice<'a>> {
    let all = usable(line);
    let good = all.iter().find(|choice| !choice.ends.foot.is_damaged()).cloned();
    good.or_else(|| all.into_iter().next())
}

/// Returns the ends of the backup with which the window begins.
pub(in crate::restore) fn oldest_backup<'a>(line: &mut Line<'a>) -> Option<&'a Ends> {
    while line.step_back() {}
    let mut found = oldest(line);
    while found.is_none() && line.step_on() {
        found = oldest(line);
    }
    found.map(|choice| choice.ends)
}
