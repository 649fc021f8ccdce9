//! The moment asked for, in the ways in which it can be said.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// The moment asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The last consistent state at or before this time.
    Time(Moment),
    /// The first consistent state at or after this time.
    AtOrAfter(Moment),
    /// As much as the archive holds.
    Latest,
    /// The first state that the oldest backups can reach.
    Earliest,
    /// The last consistent state at or before this named restore point.
    RestorePoint(String),
    /// The last consistent state without this distributed transaction; of several of that name the one
    /// nearest to the time.
    BeforeTransaction { gid: String, near: Option<Moment> },
    /// The last consistent state at or before this position of one node.
    Stop { node: NodeName, lsn: Lsn },
}

impl Request {
    /// Returns the time that was said.
    pub fn time(&self) -> Option<Moment> {
        match self {
            Request::Time(time) | Request::AtOrAfter(time) => Some(*time),
            _ => None,
        }
    }

    /// Returns whether the state asked for may lie after the moment.
    pub(crate) fn is_onward(&self) -> bool {
        matches!(self, Request::Earliest | Request::AtOrAfter(_))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Time(time) => write!(f, "{time}"),
            Request::AtOrAfter(time) => write!(f, "{time} or the first moment after it"),
            Request::Latest => f.write_str("the latest moment"),
            Request::Earliest => f.write_str("the earliest moment"),
            Request::RestorePoint(name) => write!(f, "restore point {name:?}"),
            Request::BeforeTransaction { gid, near: None } => write!(f, "before transaction {gid}"),
            Request::BeforeTransaction { gid, near: Some(time) } => {
                write!(f, "before transaction {gid} of about {time}")
            }
            Request::Stop { node, lsn } => write!(f, "{lsn} of {node}"),
        }
    }
}
