//! What is known of a cluster's distributed transactions: events of all nodes in, parts and decisions
//! out, not yet matched.
//!
//! A *part* is one transaction prepared on one node; a COMMIT PREPARED or ROLLBACK PREPARED belongs to
//! the part of its xid that is open there. A *decision* is a commit that inserted `pg_dist_transaction`
//! rows, one a part. Its gid names a part's initiator, and a row's group the part's node.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::{Index, IndexMut};

use super::{Error, NodeHistory};
use crate::citus::Gid;
use crate::ids::GroupId;
use crate::lsn::Lsn;
use crate::manifest::wal_index::Times;
use crate::moment::Moment;
use crate::wal::event::{Decided, Event, What};

/// Rows of one kind, named by the indices that pushing them gave.
#[derive(Debug)]
pub(super) struct Table<T>(Vec<T>);

impl<T> Table<T> {
    pub(super) fn push(&mut self, row: T) -> usize {
        self.0.push(row);
        self.0.len() - 1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate()
    }

    pub(super) fn into_rows(self) -> Vec<T> {
        self.0
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(Vec::new())
    }
}

impl<T> FromIterator<T> for Table<T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        Table(rows.into_iter().collect())
    }
}

impl<T> Index<usize> for Table<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        self.0.get(at).expect("an index that this table gave")
    }
}

impl<T> IndexMut<usize> for Table<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        self.0.get_mut(at).expect("an index that this table gave")
    }
}

/// One record of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) node: usize,
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
}

impl Spot {
    /// Returns whether a vector of positions holds this record.
    pub(super) fn inside(self, stops: &[Lsn]) -> bool {
        stops.get(self.node).is_some_and(|stop| self.lsn < *stop)
    }
}

/// One transaction prepared on one node.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) node: usize,
    pub(super) gid: &'a str,
    pub(super) citus: Option<Gid>,
    pub(super) xid: u32,
    pub(super) database: Option<u32>,
    /// `None`: before what is known, and so inside every cut.
    pub(super) prepare: Option<Spot>,
    pub(super) prepared_at: Option<Moment>,
    pub(super) finish: Option<Finish>,
    /// The node whose decision it waits for, where that is among the nodes.
    pub(super) initiator: Option<usize>,
    pub(super) decision: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    pub(super) spot: Spot,
    pub(super) time: Moment,
    pub(super) committed: bool,
}

impl Part<'_> {
    /// Returns where it was committed.
    pub(super) fn committed(&self) -> Option<Finish> {
        self.finish.filter(|finish| finish.committed)
    }

    /// Returns where it was rolled back.
    pub(super) fn rolled_back(&self) -> Option<Finish> {
        self.finish.filter(|finish| !finish.committed)
    }

    /// Returns whether a vector of positions leaves it prepared.
    pub(super) fn prepared(&self, stops: &[Lsn]) -> bool {
        self.prepare.is_none_or(|spot| spot.inside(stops))
            && self.finish.is_none_or(|finish| !finish.spot.inside(stops))
    }

    /// Returns the first and the last moment between which it was decided, by its node's clock.
    pub(super) fn span(&self) -> (Moment, Moment) {
        let last = self.finish.map_or(Moment(i64::MAX), |finish| finish.time);
        (self.prepared_at.unwrap_or(last), last)
    }
}

/// A commit that decides a distributed transaction.
#[derive(Debug)]
pub(super) struct Decision<'a> {
    pub(super) spot: Spot,
    pub(super) time: Moment,
    pub(super) rows: Vec<Row<'a>>,
}

#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) gid: &'a str,
    /// The part's node, where that is among the nodes.
    pub(super) participant: Option<usize>,
    pub(super) part: Option<usize>,
}

/// Parts and decisions of all nodes.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) parts: Table<Part<'a>>,
    pub(super) decisions: Table<Decision<'a>>,
    /// For each node the least and greatest time in its known history.
    pub(super) times: Table<Option<Times>>,
    /// For each node where and when it was promoted.
    pub(super) promotions: Table<Vec<(Spot, Moment)>>,
}

impl<'a> Found<'a> {
    pub(super) fn new(nodes: &'a [NodeHistory]) -> Result<Self, Error> {
        let groups = groups(nodes)?;
        let mut found = Found {
            parts: Table::default(),
            decisions: Table::default(),
            times: nodes.iter().map(times).collect(),
            promotions: nodes.iter().enumerate().map(promotions).collect(),
        };
        for (node, history) in nodes.iter().enumerate() {
            found.add_parts(node, history, &groups)?;
            found.add_decisions(node, history, &groups);
        }
        Ok(found)
    }

    /// Returns between which moments a part was certainly prepared, by its node's clock. One that is
    /// open where its node's known history ends may have ended right after.
    pub(super) fn known_span(&self, part: &Part) -> (Moment, Moment) {
        let (from, to) = part.span();
        let known = self.times[part.node].filter(|_| part.finish.is_none());
        (from, known.map_or(to, |known| known.max.max(from)))
    }

    fn add_parts(
        &mut self,
        node: usize,
        history: &'a NodeHistory,
        groups: &HashMap<GroupId, usize>,
    ) -> Result<(), Error> {
        let mut open: HashMap<u32, usize> = HashMap::new();
        for prepared in &history.prepared_at_start {
            if let Entry::Vacant(place) = open.entry(prepared.xid) {
                let mut part = part(node, prepared.xid, &prepared.gid, groups);
                (part.database, part.prepared_at) = (Some(prepared.database), Some(prepared.time));
                place.insert(self.parts.push(part));
            }
        }
        let mut last = None;
        for event in &history.events {
            if last.is_some_and(|last| event.lsn <= last) || event.lsn < history.earliest {
                return Err(Error::Disorder { node: history.node.clone(), lsn: event.lsn });
            }
            last = Some(event.lsn);
            self.add_event(node, event, &mut open, groups);
        }
        Ok(())
    }

    fn add_event(
        &mut self,
        node: usize,
        event: &'a Event,
        open: &mut HashMap<u32, usize>,
        groups: &HashMap<GroupId, usize>,
    ) {
        let spot = Spot { node, lsn: event.lsn, end: event.end };
        match &event.what {
            What::Prepare { xid, database, gid, time } => {
                let at = match open.get(xid) {
                    // Known already from a backup that was taken after it.
                    Some(at) if self.parts[*at].gid == gid => *at,
                    _ => self.parts.push(part(node, *xid, gid, groups)),
                };
                let part = &mut self.parts[at];
                (part.database, part.prepare, part.prepared_at) = (Some(*database), Some(spot), Some(*time));
                open.insert(*xid, at);
            }
            What::CommitPrepared { xid, time, gid } => {
                self.finish(
                    open,
                    *xid,
                    gid.as_deref(),
                    Finish { spot, time: *time, committed: true },
                    groups,
                );
            }
            What::RollbackPrepared { xid, time, gid } => {
                self.finish(
                    open,
                    *xid,
                    gid.as_deref(),
                    Finish { spot, time: *time, committed: false },
                    groups,
                );
            }
            _ => {}
        }
    }

    /// Ends the part that is open under `xid`. One that was never seen and whose record has no gid
    /// cannot be tied to anything, and is left.
    fn finish(
        &mut self,
        open: &mut HashMap<u32, usize>,
        xid: u32,
        gid: Option<&'a str>,
        finish: Finish,
        groups: &HashMap<GroupId, usize>,
    ) {
        let known = open.remove(&xid).filter(|at| gid.is_none_or(|gid| self.parts[*at].gid == gid));
        let at = known.or_else(|| Some(self.parts.push(part(finish.spot.node, xid, gid?, groups))));
        if let Some(at) = at {
            self.parts[at].finish = Some(finish);
        }
    }

    fn add_decisions(&mut self, node: usize, history: &'a NodeHistory, groups: &HashMap<GroupId, usize>) {
        let Some(own) = history.group else { return };
        for event in &history.events {
            let What::Commit { time, decides, .. } = &event.what else { continue };
            // Rows under another initiator's name are copies that somebody made.
            let is_own = |row: &&Decided| Gid::parse(&row.gid).is_some_and(|g| g.transaction().group == own);
            let row = |row: &'a Decided| Row {
                gid: &row.gid,
                participant: groups.get(&row.group).copied(),
                part: None,
            };
            let mut seen = HashSet::new();
            let fresh = |row: &&'a Decided| seen.insert(row.gid.as_str());
            let rows: Vec<Row> = decides.iter().filter(is_own).filter(fresh).map(row).collect();
            if !rows.is_empty() {
                let spot = Spot { node, lsn: event.lsn, end: event.end };
                self.decisions.push(Decision { spot, time: *time, rows });
            }
        }
    }
}

fn part<'a>(node: usize, xid: u32, gid: &'a str, groups: &HashMap<GroupId, usize>) -> Part<'a> {
    let citus = Gid::parse(gid);
    Part {
        node,
        gid,
        citus,
        xid,
        database: None,
        prepare: None,
        prepared_at: None,
        finish: None,
        initiator: citus.and_then(|gid| groups.get(&gid.transaction().group).copied()),
        decision: None,
    }
}

fn groups(nodes: &[NodeHistory]) -> Result<HashMap<GroupId, usize>, Error> {
    let mut groups = HashMap::new();
    for (at, history) in nodes.iter().enumerate() {
        let Some(group) = history.group else { continue };
        let before = groups.insert(group, at).and_then(|other| nodes.get(other));
        if let Some(other) = before {
            let (first, second) = (other.node.clone(), history.node.clone());
            return Err(Error::OneGroup { group, first, second });
        }
    }
    Ok(groups)
}

fn promotions((node, history): (usize, &NodeHistory)) -> Vec<(Spot, Moment)> {
    let spot = |event: &Event| Spot { node, lsn: event.lsn, end: event.end };
    let promotion = |event: &Event| Some((spot(event), event.what.promotion()?));
    history.events.iter().filter_map(promotion).collect()
}

fn times(history: &NodeHistory) -> Option<Times> {
    let of_events = history.events.iter().filter_map(|event| event.what.time());
    let given = history.times.into_iter().flat_map(|times| [times.min, times.max]);
    given.chain(of_events).fold(None, |times: Option<Times>, time| match times {
        None => Some(Times { min: time, max: time }),
        Some(times) => Some(Times { min: times.min.min(time), max: times.max.max(time) }),
    })
}
