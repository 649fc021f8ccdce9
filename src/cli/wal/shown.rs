//! What `pitrus wal show` gathers: nodes, and transactions by what they did where.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::read::{Ended, Source};
use crate::citus::{Gid, gid::Transaction};
use crate::ids::GroupId;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::wal::event::{Event, What};

#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Of this document.
    version: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) transactions: Vec<Distributed>,
    /// For each node and xid that is prepared there, its gid.
    #[serde(skip)]
    open: HashMap<(usize, u32), String>,
    #[serde(skip)]
    gathered: BTreeMap<Name, Vec<Step>>,
}

/// One server.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) node: usize,
    pub(super) system_identifier: String,
    /// As the names of transactions that it decided tell.
    pub(super) group: Option<GroupId>,
    pub(super) files: Vec<String>,
    /// Runs of WAL that was read.
    pub(super) read: Vec<Ended>,
    pub(super) commits: u64,
    pub(super) aborts: u64,
    pub(super) marks: Vec<Mark>,
}

/// Something that is no transaction's.
#[derive(Debug, Serialize)]
pub(super) struct Mark {
    pub(super) lsn: Lsn,
    pub(super) what: String,
    pub(super) time: Option<Moment>,
}

/// What tells distributed transactions apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Citus(Transaction),
    Other(String),
    /// Ended here, and prepared before what was read.
    Unknown(usize, u32),
}

#[derive(Debug, Serialize)]
pub(super) struct Distributed {
    /// What all its gids have in common; the gid of one that is not Citus's.
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initiator: Option<GroupId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) number: Option<u64>,
    /// In order of time.
    pub(super) steps: Vec<Step>,
}

/// One record of a distributed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    pub(super) time: Moment,
    pub(super) node: usize,
    pub(super) lsn: Lsn,
    pub(super) did: Did,
    pub(super) xid: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gids: Vec<String>,
    /// The groups for which it was decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<GroupId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Did {
    Prepare,
    Decide,
    CommitPrepared,
    RollbackPrepared,
}

impl Shown {
    pub(super) fn new(sources: &[Source]) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for source in sources {
            if nodes.len() <= source.node {
                nodes.push(Node {
                    node: source.node,
                    system_identifier: source.system.to_string(),
                    group: None,
                    files: Vec::new(),
                    read: Vec::new(),
                    commits: 0,
                    aborts: 0,
                    marks: Vec::new(),
                });
            }
            let files = source.files.iter().map(|path| path.display().to_string());
            nodes
                .iter_mut()
                .filter(|node| node.node == source.node)
                .for_each(|node| node.files.extend(files.clone()));
        }
        Shown { version: 1, nodes, transactions: Vec::new(), open: HashMap::new(), gathered: BTreeMap::new() }
    }

    /// Takes in one event of a node.
    pub(super) fn take(&mut self, node: usize, event: Event) {
        let Event { lsn, what, .. } = event;
        let step = |time, did, xid, gids, groups| Step { time, node, lsn, did, xid, gids, groups };
        match what {
            What::Prepare { xid, gid, time, .. } => {
                self.open.insert((node, xid), gid.clone());
                self.add(Some(&gid), step(time, Did::Prepare, xid, vec![gid.clone()], Vec::new()));
            }
            What::CommitPrepared { xid, time, gid } => {
                self.end(gid, step(time, Did::CommitPrepared, xid, Vec::new(), Vec::new()))
            }
            What::RollbackPrepared { xid, time, gid } => {
                self.end(gid, step(time, Did::RollbackPrepared, xid, Vec::new(), Vec::new()))
            }
            What::Commit { xid, time, decides } if !decides.is_empty() => {
                let groups = decides.iter().map(|row| row.group).collect();
                let gids: Vec<String> = decides.into_iter().map(|row| row.gid).collect();
                let first = gids.first().cloned();
                let initiator = first.as_deref().and_then(Gid::parse).map(|gid| gid.transaction().group);
                if let Some(node) = self.nodes.get_mut(node) {
                    node.group = initiator.or(node.group);
                }
                self.add(first.as_deref(), step(time, Did::Decide, xid, gids, groups));
            }
            other => self.count(node, lsn, &other),
        }
    }

    fn count(&mut self, node: usize, lsn: Lsn, what: &What) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let (said, time) = match what {
            What::Commit { .. } => return node.commits += 1,
            What::Abort { .. } => return node.aborts += 1,
            What::RestorePoint { name, time } => (format!("restore point {name:?}"), Some(*time)),
            What::Checkpoint { redo, shutdown, time, .. } => {
                let kind = if *shutdown { "shutdown checkpoint" } else { "checkpoint" };
                (format!("{kind}, recovery from {redo}"), Some(*time))
            }
            What::EndOfRecovery { timeline, previous, time } => {
                (format!("promoted: timeline {timeline} left {previous}"), Some(*time))
            }
            _ => return,
        };
        node.marks.push(Mark { lsn, what: said, time });
    }

    fn end(&mut self, gid: Option<String>, mut step: Step) {
        let gid = self.open.remove(&(step.node, step.xid)).or(gid);
        step.gids.extend(gid.clone());
        self.add(gid.as_deref(), step);
    }

    fn add(&mut self, gid: Option<&str>, step: Step) {
        let name = match (gid, gid.and_then(Gid::parse)) {
            (_, Some(gid)) => Name::Citus(gid.transaction()),
            (Some(gid), None) => Name::Other(gid.to_owned()),
            (None, None) => Name::Unknown(step.node, step.xid),
        };
        let steps = self.gathered.entry(name).or_default();
        // A new timeline's first file begins with a copy of the old one's last.
        if !steps.contains(&step) {
            steps.push(step);
        }
    }

    /// Notes where some of a node's WAL ended.
    pub(super) fn ends(&mut self, node: usize, ended: &Ended) {
        self.nodes.iter_mut().filter(|one| one.node == node).for_each(|one| one.read.push(ended.clone()));
    }

    /// Tells the groups of nodes that decided nothing by what others decided for them.
    fn find_groups(&mut self) {
        let steps = || self.gathered.values().flatten();
        let decided = steps().flat_map(|step| step.gids.iter().zip(&step.groups));
        let groups: HashMap<&str, GroupId> = decided.map(|(gid, group)| (gid.as_str(), *group)).collect();
        for node in self.nodes.iter_mut().filter(|node| node.group.is_none()) {
            let own = steps().filter(|step| step.node == node.node && step.did == Did::Prepare);
            node.group = own.flat_map(|step| &step.gids).find_map(|gid| groups.get(gid.as_str()).copied());
        }
    }

    /// Puts all in order.
    pub(super) fn finish(mut self) -> Self {
        self.find_groups();
        for (name, mut steps) in std::mem::take(&mut self.gathered) {
            steps.sort_by_key(|step| (step.time, step.did as u8, step.node, step.lsn));
            let (citus, name) = match name {
                Name::Citus(one) => (Some(one), format!("citus_{}_{}_{}", one.group, one.pid, one.number)),
                Name::Other(gid) => (None, gid),
                Name::Unknown(node, xid) => (None, format!("xid {xid} of node {node}, prepared before")),
            };
            self.transactions.push(Distributed {
                name,
                initiator: citus.map(|one| one.group),
                pid: citus.map(|one| one.pid),
                number: citus.map(|one| one.number),
                steps,
            });
        }
        self.transactions.sort_by_key(|one| one.steps.first().map(|step| step.time));
        self
    }
}
