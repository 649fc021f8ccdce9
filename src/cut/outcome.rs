//! What a cut says: where each node stops, why it moved, and what becomes of transactions that are
//! open there. Values only; all of them are printed and kept in plans.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// A consistent cut of a cluster. Its vectors of positions follow the order of the histories given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// For each node: records that begin before it are inside. [`Lsn::MAX`] is everything known.
    pub stop: Vec<Lsn>,
    /// Nodes that stop elsewhere than asked.
    pub moves: Vec<Move>,
    /// Transactions that are prepared at the cut, and how each ends.
    pub settle: Vec<Settle>,
    /// Distributed transactions that were inside the positions asked for and are outside the cut.
    pub left_out: Vec<LeftOut>,
    /// Prepared at the cut on one node only, and not Citus's: left as they are.
    pub foreign: Vec<Foreign>,
    /// Transactions that the source cluster itself did not keep whole; no cut can.
    pub orphans: Vec<Orphan>,
    /// Where more known history would make the cut surer.
    pub wants: Vec<Want>,
}

/// One node that stops elsewhere than asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub node: NodeName,
    pub from: Lsn,
    pub to: Lsn,
    pub because: Reason,
}

/// Why a node had to move: what stands at the position to which it moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// This node committed its part; the initiator's decision is outside.
    UndecidedInside { gid: String, initiator: NodeName, decision: Lsn },
    /// This node decided; the participant's PREPARE is outside.
    UnpreparedInside { gid: String, participant: NodeName, prepare: Lsn },
    /// This node committed its part; the initiator's known WAL ends before the decision.
    DecisionUnknown { gid: String, initiator: NodeName, end: Lsn },
    /// This node decided; the participant's known WAL ends before its PREPARE.
    PrepareUnknown { gid: String, participant: NodeName, end: Lsn },
    /// This node committed its part of a transaction without an initiator here; another's PREPARE is outside.
    PartOutside { gid: String, other: NodeName, prepare: Lsn },
    /// This node's record belongs to a transaction of which another node lost its own when it was promoted there,
    /// outside.
    LostWithPromotion { gid: String, other: NodeName, promotion: Lsn },
    /// Another node's position holds a transaction that needs this node's record.
    Needed { gid: String, by: NodeName, at: Lsn },
}

/// How a transaction that is prepared at the cut ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    pub node: NodeName,
    /// Its database's oid; `None` where only a record with the gid was seen.
    pub database: Option<u32>,
    pub xid: u32,
    pub gid: String,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Commit,
    Rollback,
    /// Prepared before the initiator's known WAL begins: commit where the restored initiator's
    /// `pg_dist_transaction` has the gid, else roll back.
    AsCatalogue,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// `None` for transactions without an initiator among the nodes.
    pub initiator: Option<NodeName>,
    /// Where the initiator decided; `None` where that is not known.
    pub decision: Option<Lsn>,
    /// When it was decided, or first committed, by that node's clock.
    pub time: Moment,
    pub gids: Vec<String>,
    pub participants: Vec<NodeName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    pub node: NodeName,
    pub database: Option<u32>,
    pub xid: u32,
    pub gid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    pub node: NodeName,
    pub gid: String,
    /// Where this node finished its part, or decided.
    pub at: Lsn,
    pub time: Moment,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Committed here, but the initiator's WAL runs past it and holds no decision: a decision lost in a crash.
    NoDecision,
    /// Rolled back here, though the initiator decided to commit.
    RolledBack,
    /// Committed here and rolled back on another node.
    Mixed,
    /// Decided here, but the WAL of a participant runs past it and holds no PREPARE: lost with a promotion, or in
    /// a crash.
    NoPrepare,
}

/// A transaction that a vector of positions tears: kept on some nodes, gone on others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    pub gids: Vec<String>,
    pub time: Moment,
    pub kept_on: Vec<NodeName>,
    pub lost_on: Vec<NodeName>,
}

/// More of this node's WAL, on this side of what is known, would make the cut surer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Want {
    pub node: NodeName,
    pub side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Earlier,
    Later,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::UndecidedInside { gid, initiator, decision } => {
                write!(f, "it committed {gid} here, which {initiator} decided at {decision}, outside the cut")
            }
            Reason::UnpreparedInside { gid, participant, prepare } => {
                write!(f, "it decided {gid} here, which {participant} prepared at {prepare}, outside the cut")
            }
            Reason::DecisionUnknown { gid, initiator, end } => {
                write!(
                    f,
                    "it committed {gid} here, but the WAL of {initiator} ends at {end} without the decision"
                )
            }
            Reason::PrepareUnknown { gid, participant, end } => {
                write!(
                    f,
                    "it decided {gid} here, but the WAL of {participant} ends at {end} without its PREPARE"
                )
            }
            Reason::PartOutside { gid, other, prepare } => {
                write!(f, "it committed {gid} here, which {other} prepared at {prepare}, outside the cut")
            }
            Reason::LostWithPromotion { gid, other, promotion } => {
                write!(
                    f,
                    "{gid} is here, but {other} lost its record of it when it was promoted at {promotion}, outside the cut"
                )
            }
            Reason::Needed { gid, by, at } => {
                write!(f, "{by} holds its record of {gid} at {at}, so this node's must be inside too")
            }
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Lsn::MAX => write!(f, "{}: end -> {}: {}", self.node, self.to, self.because),
            from => write!(f, "{}: {from} -> {}: {}", self.node, self.to, self.because),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Action::Commit => "commit",
            Action::Rollback => "roll back",
            Action::AsCatalogue => "as the initiator's catalogue says",
        })
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault {
            Fault::NoDecision => "committed here, but its initiator lost the decision",
            Fault::RolledBack => "rolled back here, though its initiator decided to commit",
            Fault::Mixed => "committed here and rolled back on another node",
            Fault::NoPrepare => "decided here, but a participant lost its part",
        };
        write!(f, "{}: {} at {} ({}): {fault}", self.node, self.gid, self.at, self.time)
    }
}
