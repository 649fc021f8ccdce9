//! Which moment is consistent on all nodes, and why.
//!
//! histories (events of each node's WAL) -> parts and decisions -> matched -> ties between records ->
//! the greatest cut at or before the positions asked for -> what moved, what is left out, how
//! transactions that are prepared there end
//!
//! A cut gives each node a position; records that begin before it are inside. It is consistent when
//! every distributed transaction is kept whole or left out whole. Judged by the order of records, never by
//! clocks, wherever records can tell (see [`order`] for the rest). Pure: values in, values out; how much WAL
//! that takes is in [`look`].
#![deny(clippy::indexing_slicing)]

mod ended;
mod explain;
mod explanation;
mod history;
pub(crate) mod look;
mod nearest;
mod order;
mod outcome;
mod pairing;
mod rules;
mod search;
mod verdict;

#[cfg(test)]
mod tests;

pub use look::Request;
pub use outcome::{Action, Cut, Fault, Foreign, LeftOut, Move, Orphan, Reason, Settle, Side, Torn, Want};

use serde::{Deserialize, Serialize};

use crate::class::{Class, Classified};
use crate::ids::{GroupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::wal_index::Times;
use crate::moment::Moment;
use crate::wal::event::{Event, Prepared};
pub(crate) use ended::Ended;
pub use explanation::{Chain, Explanation, Part as ExplainedPart, Stands, Straddling};
use history::Found;
use look::find::Wanted;
use order::Order;
use rules::Rules;

/// What is known of one node's WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHistory {
    pub node: NodeName,
    /// Its Citus group; decisions of a node without one are not looked at.
    pub group: Option<GroupId>,
    /// All events from here on are known. No cut lies before it.
    pub earliest: Lsn,
    /// Nothing is known from here on.
    pub end: Lsn,
    /// In order of position. Ordinary commits and rollbacks may be missing.
    pub events: Vec<Event>,
    /// Transactions that are prepared at `earliest`.
    pub prepared_at_start: Vec<Prepared>,
    /// Least and greatest time stamp from `earliest` to `end`, where events that are not listed had any.
    pub times: Option<Times>,
}

/// Why there is no cut.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{stops} positions for {nodes} nodes")]
    Count { nodes: usize, stops: usize },
    #[error("nodes {first} and {second} are both of group {group}")]
    OneGroup { group: GroupId, first: NodeName, second: NodeName },
    #[error("the known events of node {node} are not in order at {lsn}")]
    Disorder { node: NodeName, lsn: Lsn },
    #[error("node {node} cannot stop at {stop}: its known WAL begins at {earliest}")]
    Before { node: NodeName, stop: Lsn, earliest: Lsn },
    #[error(
        "no consistent cut: {gid} was finished on node {other} before its known WAL begins, but node {node} \
         has its record at {lsn}, outside"
    )]
    TooEarly { node: NodeName, lsn: Lsn, gid: String, other: NodeName },
    #[error(
        "no consistent cut: node {node} has {gid} at {lsn}, but the known WAL of node {other} ends before it"
    )]
    TooLate { node: NodeName, lsn: Lsn, gid: String, other: NodeName },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Count { .. } | Error::Disorder { .. } => Class::Bug,
            Error::OneGroup { .. } => Class::Operator,
            Error::Before { .. } | Error::TooEarly { .. } | Error::TooLate { .. } => Class::Outside,
        }
    }
}

/// Returns the greatest consistent cut at or before `start`. A position of [`Lsn::MAX`] is everything known.
pub fn greatest_consistent(nodes: &[NodeHistory], start: &[Lsn]) -> Result<Cut, Error> {
    Known::new(nodes)?.greatest(start)
}

/// Returns the least consistent cut at or after `start`.
pub fn first_consistent_at_or_after(nodes: &[NodeHistory], start: &[Lsn]) -> Result<Cut, Error> {
    Known::new(nodes)?.first(start)
}

/// Returns the transactions that `stops` would tear.
pub fn torn(nodes: &[NodeHistory], stops: &[Lsn]) -> Result<Vec<Torn>, Error> {
    Known::new(nodes)?.torn(stops)
}

/// Histories, matched once, of which several questions can be asked.
#[derive(Debug)]
pub struct Known<'a> {
    nodes: &'a [NodeHistory],
    found: Found<'a>,
    rules: Rules<'a>,
}

impl<'a> Known<'a> {
    pub fn new(nodes: &'a [NodeHistory]) -> Result<Self, Error> {
        let mut found = Found::new(nodes)?;
        let clocks = pairing::pair(&mut found);
        let order = Order::new(&found, clocks);
        let rules = Rules::new(&found, &order);
        Ok(Known { nodes, found, rules })
    }

    /// Returns the greatest consistent cut at or before `start`.
    pub fn greatest(&self, start: &[Lsn]) -> Result<Cut, Error> {
        self.check(start)?;
        let reached = search::back(&self.rules, start).map_err(|blocked| self.blocked(blocked))?;
        self.check(&reached.stops)?;
        Ok(self.cut(start, &reached))
    }

    /// Returns the least consistent cut at or after `start`.
    pub fn first(&self, start: &[Lsn]) -> Result<Cut, Error> {
        self.check(start)?;
        let reached = search::forward(&self.rules, start).map_err(|blocked| self.blocked(blocked))?;
        Ok(self.cut(start, &reached))
    }

    /// Explains the greatest consistent cut at or before `start`, or with `is_onward` the least at or after it.
    pub fn explain(&self, start: &[Lsn], is_onward: bool) -> Result<Explanation, Error> {
        self.check(start)?;
        let search = if is_onward { search::forward } else { search::back };
        let reached = search(&self.rules, start).map_err(|blocked| self.blocked(blocked))?;
        Ok(self.explanation(start, &reached))
    }

    /// Returns the records with which a transaction of that name became final, those of the use nearest to `near`.
    pub(crate) fn ends_of(&self, wanted: &Wanted<'_>, near: Moment) -> Vec<Ended> {
        ended::of(&self.found, &self.rules, wanted, near)
    }

    fn check(&self, stops: &[Lsn]) -> Result<(), Error> {
        if stops.len() != self.nodes.len() {
            return Err(Error::Count { nodes: self.nodes.len(), stops: stops.len() });
        }
        match self.nodes.iter().zip(stops).find(|(node, stop)| **stop < node.earliest) {
            None => Ok(()),
            Some((node, stop)) => {
                Err(Error::Before { node: node.node.clone(), stop: *stop, earliest: node.earliest })
            }
        }
    }

    fn blocked(&self, blocked: search::Blocked) -> Error {
        let loose = blocked.loose;
        let (node, other) = (self.name(loose.spot.node), self.name(loose.other));
        let (lsn, gid) = (loose.spot.lsn, loose.gid.to_owned());
        if blocked.needed {
            Error::TooEarly { node, lsn, gid, other }
        } else {
            Error::TooLate { node, lsn, gid, other }
        }
    }

    fn history(&self, at: usize) -> &NodeHistory {
        self.nodes.get(at).expect("parts and decisions are numbered by these nodes")
    }

    fn name(&self, at: usize) -> NodeName {
        self.history(at).node.clone()
    }
}
