//! The plan of a restore: everything decided before the first byte is written.

use serde::{Deserialize, Serialize};

use super::Follow;
use crate::cut::{Explanation, Foreign, LeftOut, Move, Orphan, Request, Settle, Torn};
use crate::ids::{BackupId, ClusterName, GroupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::Document;
use crate::manifest::topology::TopologyDoc;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::wal::event::Parameters;

/// What a restore will do, decided in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    pub cluster: ClusterName,
    /// The restored cluster's name.
    pub new_name: ClusterName,
    pub made_at: Moment,
    pub request: Request,
    /// The timelines asked for.
    #[serde(default, skip_serializing_if = "Follow::is_newest")]
    pub follow: Follow,
    /// The moment that the cut is measured against: the time asked for, else that of the latest
    /// transaction at the positions asked for.
    pub target: Option<Moment>,
    pub window: super::Window,
    /// The cluster's shape at the cut; `None` where none was recorded.
    pub topology: Option<TopologyDoc>,
    pub nodes: Vec<NodePlan>,
    pub moves: Vec<Move>,
    pub settle: Vec<Settle>,
    pub left_out: Vec<LeftOut>,
    pub foreign: Vec<Foreign>,
    pub orphans: Vec<Orphan>,
    /// What stopping each node by its own clock (`recovery_target_time`) would tear.
    pub torn_by_time: Vec<Torn>,
    /// How well independent one-node transactions of different nodes are ordered at the time asked for, in
    /// microseconds; `None` where a clock was not measured, or no time is asked for.
    #[serde(default)]
    pub order_uncertain_micros: Option<i64>,
    /// Where it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// What the operator should know before going on.
    pub notes: Vec<String>,
}

/// What happens on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePlan {
    pub node: NodeName,
    pub group: Option<GroupId>,
    pub system_identifier: String,
    /// As `server_version_num`.
    pub postgres_version: u32,
    /// The server's.
    pub segment_bytes: u32,
    pub backup: BackupId,
    /// Recovery begins here.
    pub backup_start: Lsn,
    /// The copy is consistent from here on.
    pub backup_stop: Lsn,
    pub backup_stopped_at: Moment,
    /// The timeline to follow (`recovery_target_timeline`): that of the last segment read. Its history file is in the vault unless it is the first.
    pub timeline: TimelineId,
    /// The vault's segments that recovery reads, in order.
    pub wal: Vec<WalRange>,
    /// The end of the valid WAL of the last segment read.
    pub wal_end: Lsn,
    /// Recovery stops before the record that begins here (`recovery_target_lsn`, not inclusive); `None`: at
    /// the end of the WAL above, without a recovery target, which past the last record would be fatal.
    pub stop_before: Option<Lsn>,
    /// The last transaction record inside, and the first outside, by position: where a landing is proved.
    pub last_included: Option<Landmark>,
    pub first_excluded: Option<Landmark>,
    /// How long before the target the last transaction inside was, by this node's clock; negative when after it.
    pub before_target_micros: Option<i64>,
    /// How far this node's clock is taken to be ahead of the coordinator's at the time asked for.
    pub clock_ahead_micros: i64,
    /// Up to so much more or less; `None` where nobody measured.
    #[serde(default)]
    pub clock_uncertain_micros: Option<i64>,
    #[serde(default)]
    pub clock_source: ClockSource,
    /// A restored server must not set these lower.
    pub parameters: Parameters,
    /// A few transaction records on both sides of the stop, in order of position.
    pub around: Vec<Landmark>,
}

/// From where it is known how far a node's clock was ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// No time is asked for, so no clock is read.
    #[default]
    NotNeeded,
    /// Nobody measured it: it is taken to be right.
    NotMeasured,
    /// The operator said it.
    Given,
    /// It is the clock by which the others are measured.
    Coordinator,
    /// The node's agent compared it with the coordinator's.
    Sampled,
}

/// Consecutive segments of one timeline, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    pub timeline: TimelineId,
    pub first: u64,
    pub last: u64,
}

/// A transaction record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landmark {
    pub lsn: Lsn,
    pub xid: u32,
    pub time: Moment,
    pub kind: LandmarkKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LandmarkKind {
    Prepare,
    Commit,
    Abort,
    CommitPrepared,
    RollbackPrepared,
}

impl Document for Plan {
    const NAME: &'static str = "restore plan";
    const VERSION: u32 = 1;
}

impl WalRange {
    /// Returns how many segments it covers.
    pub fn count(&self) -> u64 {
        self.last.saturating_sub(self.first) + 1
    }
}
