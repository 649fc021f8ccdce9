//! What `pitrus cut` shows, for people and for programs.

use serde::Serialize;

use crate::cut::{Action, Cut, Explanation, Fault, Foreign, LeftOut, Move, Orphan, Request, Settle, Torn};
use crate::ids::{GroupId, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Of this document.
    version: u32,
    pub(super) request: Request,
    pub(super) nodes: Vec<NodeShown>,
    pub(super) moves: Vec<MoveShown>,
    pub(super) left_out: Vec<LeftOutShown>,
    pub(super) to_settle: Vec<SettleShown>,
    pub(super) torn_by_time: Vec<TornShown>,
    /// Prepared on one node only, and not by Citus: left as they are.
    pub(super) foreign: Vec<PreparedShown>,
    pub(super) orphans: Vec<OrphanShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explanation: Option<Explanation>,
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NodeShown {
    pub(super) group: GroupId,
    /// `recovery_target_lsn`, not inclusive; `None`: the end of the directory's WAL, without a target.
    pub(super) stop_before: Option<Lsn>,
    /// `recovery_target_timeline`
    pub(super) timeline: TimelineId,
    /// How long before the moment asked for the node stops for the sake of consistency; negative: after it.
    pub(super) moved_back_ms: f64,
    /// The newest time stamp inside, by the node's clock.
    pub(super) last_inside: Option<Moment>,
    /// The end of the directory's WAL.
    pub(super) known_to: Lsn,
}

/// Why a node stops elsewhere than asked.
#[derive(Debug, Serialize)]
pub(super) struct MoveShown {
    pub(super) group: GroupId,
    /// `None`: the end.
    pub(super) from: Option<Lsn>,
    pub(super) to: Lsn,
    pub(super) because: String,
}

/// A transaction that the source did not keep whole.
#[derive(Debug, Serialize)]
pub(super) struct OrphanShown {
    pub(super) group: GroupId,
    pub(super) gid: String,
    pub(super) at: Lsn,
    pub(super) time: Moment,
    pub(super) fault: Fault,
    #[serde(skip)]
    pub(super) text: String,
}

#[derive(Debug, Serialize)]
pub(super) struct LeftOutShown {
    /// `None` where no node of these decided.
    pub(super) initiator: Option<GroupId>,
    pub(super) decision: Option<Lsn>,
    pub(super) time: Moment,
    pub(super) gids: Vec<String>,
    pub(super) participants: Vec<GroupId>,
}

#[derive(Debug, Serialize)]
pub(super) struct TornShown {
    pub(super) gids: Vec<String>,
    pub(super) time: Moment,
    pub(super) kept_on: Vec<GroupId>,
    pub(super) lost_on: Vec<GroupId>,
}

#[derive(Debug, Serialize)]
pub(super) struct PreparedShown {
    pub(super) group: GroupId,
    pub(super) database: Option<u32>,
    pub(super) xid: u32,
    pub(super) gid: String,
}

#[derive(Debug, Serialize)]
pub(super) struct SettleShown {
    #[serde(flatten)]
    pub(super) prepared: PreparedShown,
    pub(super) action: Action,
    /// What to run in that database; `None` where the initiator's `pg_dist_transaction` has to be asked.
    pub(super) statement: Option<String>,
}

impl Shown {
    pub(super) fn new(
        request: &Request,
        nodes: Vec<NodeShown>,
        cut: Cut,
        torn: Vec<Torn>,
        notes: Vec<String>,
    ) -> Self {
        Shown {
            version: 1,
            request: request.clone(),
            nodes,
            moves: cut.moves.into_iter().map(moved).collect(),
            left_out: cut.left_out.into_iter().map(left_out).collect(),
            to_settle: cut.settle.into_iter().map(settled).collect(),
            torn_by_time: torn.into_iter().map(torn_shown).collect(),
            foreign: cut.foreign.into_iter().map(foreign).collect(),
            orphans: cut.orphans.into_iter().map(orphan).collect(),
            explanation: None,
            notes,
        }
    }
}

/// Returns the group of which a node's name was made.
fn group(node: &NodeName) -> GroupId {
    let number = node.as_str().strip_prefix("node-").and_then(|number| number.parse().ok());
    GroupId(number.expect("the name was made of the group"))
}

fn groups(nodes: &[NodeName]) -> Vec<GroupId> {
    nodes.iter().map(group).collect()
}

fn moved(one: Move) -> MoveShown {
    let from = Some(one.from).filter(|from| *from != Lsn::MAX);
    MoveShown { group: group(&one.node), from, to: one.to, because: one.because.to_string() }
}

fn orphan(one: Orphan) -> OrphanShown {
    let text = one.to_string();
    OrphanShown { group: group(&one.node), gid: one.gid, at: one.at, time: one.time, fault: one.fault, text }
}

fn left_out(one: LeftOut) -> LeftOutShown {
    LeftOutShown {
        initiator: one.initiator.as_ref().map(group),
        decision: one.decision,
        time: one.time,
        participants: groups(&one.participants),
        gids: one.gids,
    }
}

fn torn_shown(one: Torn) -> TornShown {
    TornShown { kept_on: groups(&one.kept_on), lost_on: groups(&one.lost_on), gids: one.gids, time: one.time }
}

fn foreign(one: Foreign) -> PreparedShown {
    PreparedShown { group: group(&one.node), database: one.database, xid: one.xid, gid: one.gid }
}

fn settled(one: Settle) -> SettleShown {
    let verb = match one.action {
        Action::Commit => Some("COMMIT"),
        Action::Rollback => Some("ROLLBACK"),
        Action::AsCatalogue => None,
    };
    let statement = verb.map(|verb| format!("{verb} PREPARED {};", literal(&one.gid)));
    let prepared =
        PreparedShown { group: group(&one.node), database: one.database, xid: one.xid, gid: one.gid };
    SettleShown { prepared, action: one.action, statement }
}

/// Writes text as SQL takes it, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_are_quoted() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
