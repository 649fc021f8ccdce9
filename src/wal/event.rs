//! What happened in the WAL that a restore has to know.
//!
//! An event is one record's meaning. `lsn` is where its record begins: stopping recovery before
//! `lsn` leaves it out (`recovery_target_lsn = lsn`, `recovery_target_inclusive = off`).

use serde::{Deserialize, Serialize};

use crate::ids::GroupId;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

/// One record that matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Where the next record may begin.
    pub end: Lsn,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A transaction was prepared under `gid`.
    Prepare { xid: u32, database: u32, gid: String, time: Moment },
    /// An ordinary commit. `decides` lists the `pg_dist_transaction` rows that this transaction
    /// inserted: where it is not empty this record is the decision of a distributed transaction.
    Commit {
        xid: u32,
        time: Moment,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        decides: Vec<Decided>,
    },
    /// An ordinary rollback.
    Abort { xid: u32, time: Moment },
    /// A prepared transaction became visible. The gid is in the record only with wal_level = logical;
    /// else it was filled in from the PREPARE of `xid` where that was seen.
    CommitPrepared { xid: u32, time: Moment, gid: Option<String> },
    /// A prepared transaction was rolled back.
    RollbackPrepared { xid: u32, time: Moment, gid: Option<String> },
    /// A named restore point.
    RestorePoint { name: String, time: Moment },
    /// A checkpoint; recovery that begins with it begins at `redo`. `previous`: a server that was promoted
    /// without an end-of-recovery record began this timeline with it.
    Checkpoint {
        redo: Lsn,
        timeline: TimelineId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<TimelineId>,
        next_xid: u64,
        shutdown: bool,
        time: Moment,
    },
    /// A promoted server began this timeline.
    EndOfRecovery { timeline: TimelineId, previous: TimelineId, time: Moment },
    /// Settings that a restored server must not set lower.
    Parameters(Parameters),
    /// A list of running transactions (`xl_running_xacts`), prepared ones among them: none is older than
    /// `oldest`, and none as new as `next` has begun. Not in indexes.
    Running { oldest: u32, next: u32 },
}

/// Settings with which recovery refuses to run when they are lower than the original's
/// (PostgreSQL `xl_parameter_change`, and the same in `pg_control`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_transactions: i32,
    pub max_locks_per_transaction: i32,
}

impl What {
    /// Returns the record's time stamp, where its kind has one that follows commit order.
    pub fn time(&self) -> Option<Moment> {
        match self {
            What::Prepare { time, .. }
            | What::Commit { time, .. }
            | What::Abort { time, .. }
            | What::CommitPrepared { time, .. }
            | What::RollbackPrepared { time, .. }
            | What::RestorePoint { time, .. } => Some(*time),
            What::EndOfRecovery { .. } | What::Checkpoint { .. } => self.promotion(),
            What::Parameters(_) | What::Running { .. } => None,
        }
    }

    /// Returns when a server was promoted, where this is the record with which its timeline begins.
    pub fn promotion(&self) -> Option<Moment> {
        match self {
            What::EndOfRecovery { time, .. } | What::Checkpoint { previous: Some(_), time, .. } => {
                Some(*time)
            }
            _ => None,
        }
    }

    /// Returns the rows of a decision; none of other events.
    pub fn decides(&self) -> &[Decided] {
        match self {
            What::Commit { decides, .. } => decides,
            _ => &[],
        }
    }

    /// Returns whether this ends a transaction: the records at which `recovery_target_time` looks
    /// (`recoveryStopsBefore` in PostgreSQL's `xlogrecovery.c`).
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            What::Commit { .. }
                | What::Abort { .. }
                | What::CommitPrepared { .. }
                | What::RollbackPrepared { .. }
        )
    }

    /// Returns whether the index of a segment keeps this event: everything but ordinary one-node
    /// commits and rollbacks, of which a segment may hold tens of thousands.
    pub fn is_indexed(&self) -> bool {
        match self {
            What::Commit { decides, .. } => !decides.is_empty(),
            What::Abort { .. } | What::Running { .. } => false,
            _ => true,
        }
    }
}

/// A transaction that is prepared and not yet finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Where its PREPARE begins; [`Lsn::INVALID`] where only its two-phase state file was seen.
    pub lsn: Lsn,
    pub xid: u32,
    pub database: u32,
    pub gid: String,
    pub time: Moment,
}

/// A `pg_dist_transaction` row: one participant of a distributed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The group of the node where `gid` was prepared (the row's `groupid`), not of the initiator.
    pub group: GroupId,
    pub gid: String,
}

/// A `pg_dist_transaction` row of a transaction that has not committed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingDecision {
    /// The (sub)transaction that inserted the row.
    pub xid: u32,
    #[serde(flatten)]
    pub row: Decided,
}

/// What is under way at a position: all that decoding from there must know of what came before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub prepared: Vec<Prepared>,
    pub pending: Vec<PendingDecision>,
}
