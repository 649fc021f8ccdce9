//! Cuts of histories that can be read: what moves, why, and what becomes of the rest.

use super::world::lsn;
use crate::cut::{
    Action, Error, Fault, Known, NodeHistory, Reason, Side, first_consistent_at_or_after,
    greatest_consistent, torn,
};
use crate::ids::GroupId;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::wal::event::{Decided, Event, Prepared, What};

const SECOND: i64 = 1_000_000;

/// Writes the log of a node: record `n` begins at `lsn(n)`, one second after the one before.
struct Log {
    group: i32,
    begin: i64,
    events: Vec<Event>,
}

impl Log {
    fn new(group: i32) -> Self {
        Log { group, begin: 1_000, events: Vec::new() }
    }

    fn at(group: i32, begin: i64) -> Self {
        Log { begin, ..Log::new(group) }
    }

    fn add(mut self, what: impl FnOnce(Moment) -> What) -> Self {
        let number = self.events.len();
        let time = Moment((self.begin + number as i64) * SECOND);
        self.events.push(Event { lsn: lsn(number), end: lsn(number + 1), what: what(time) });
        self
    }

    fn prepare(self, xid: u32, gid: &str) -> Self {
        self.add(|time| What::Prepare { xid, database: 5, gid: gid.to_owned(), time })
    }

    fn commit(self, xid: u32) -> Self {
        self.add(|time| What::CommitPrepared { xid, time, gid: None })
    }

    fn roll_back(self, xid: u32) -> Self {
        self.add(|time| What::RollbackPrepared { xid, time, gid: None })
    }

    fn decide(self, rows: &[(i32, &str)]) -> Self {
        let row = |(group, gid): &(i32, &str)| Decided { group: GroupId(*group), gid: (*gid).to_owned() };
        let decides = rows.iter().map(row).collect();
        self.add(|time| What::Commit { xid: 9, time, decides })
    }

    fn promote(self) -> Self {
        self.add(|time| What::EndOfRecovery { timeline: TimelineId(2), previous: TimelineId(1), time })
    }

    fn other(self) -> Self {
        self.decide(&[])
    }

    fn end(self) -> NodeHistory {
        NodeHistory {
            node: format!("n{}", self.group).parse().unwrap(),
            group: Some(GroupId(self.group)),
            earliest: Lsn(1),
            end: lsn(self.events.len()),
            events: self.events,
            prepared_at_start: Vec::new(),
            times: None,
        }
    }
}

const A: &str = "citus_0_51_1_0";
const B: &str = "citus_0_51_1_1";
const ALL: Lsn = Lsn::MAX;

/// The coordinator decides one transaction of both workers.
fn cluster() -> [NodeHistory; 3] {
    [
        Log::new(0).other().decide(&[(1, A), (2, B)]).other().end(),
        Log::new(1).prepare(11, A).commit(11).other().end(),
        Log::new(2).prepare(22, B).commit(22).other().end(),
    ]
}

#[test]
fn a_participant_that_committed_goes_back_before_its_commit_when_the_decision_is_outside() {
    let nodes = cluster();
    let start = [lsn(1), ALL, lsn(1)];
    assert_eq!(torn(&nodes, &start).unwrap()[0].kept_on[0].as_str(), "n1");
    let cut = greatest_consistent(&nodes, &start).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(1), lsn(1)]);
    assert_eq!(cut.moves.len(), 1);
    let because =
        Reason::UndecidedInside { gid: A.into(), initiator: "n0".parse().unwrap(), decision: lsn(1) };
    assert_eq!(cut.moves[0].because, because);
    assert!(cut.settle.iter().all(|settle| settle.action == Action::Rollback));
    assert_eq!(cut.settle.len(), 2);
    assert_eq!(cut.left_out.len(), 1);
    assert_eq!(cut.left_out[0].gids, [A, B]);
}

#[test]
fn a_decision_goes_out_when_one_prepare_is_outside_and_takes_the_others_with_it() {
    let nodes = cluster();
    let cut = greatest_consistent(&nodes, &[ALL, lsn(0), ALL]).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(0), lsn(1)]);
    assert!(matches!(&cut.moves[0].because, Reason::UnpreparedInside { prepare, .. } if *prepare == lsn(0)));
    assert_eq!(cut.settle.len(), 1);
    assert_eq!((cut.settle[0].xid, cut.settle[0].action), (22, Action::Rollback));
}

#[test]
fn a_decision_inside_commits_what_is_still_prepared() {
    let nodes = cluster();
    let cut = greatest_consistent(&nodes, &[lsn(2), lsn(1), lsn(1)]).unwrap();
    assert!(cut.moves.is_empty() && cut.left_out.is_empty());
    assert!(cut.settle.iter().all(|settle| settle.action == Action::Commit));
    assert_eq!(cut.settle.len(), 2);
}

#[test]
fn going_forward_takes_in_what_is_needed() {
    let nodes = cluster();
    let cut = first_consistent_at_or_after(&nodes, &[lsn(0), lsn(2), lsn(0)]).unwrap();
    assert_eq!(cut.stop, [lsn(2), lsn(2), lsn(1)]);
    assert!(matches!(&cut.moves[0].because, Reason::Needed { by, .. } if by.as_str() == "n1"));
}

/// The initiator's archive ends before the decision: the participant's commit must not be restored alone.
#[test]
fn a_decision_that_is_not_archived_yet_keeps_its_commits_out() {
    let mut nodes = cluster();
    nodes[0].events.truncate(1);
    nodes[0].end = lsn(1);
    let cut = greatest_consistent(&nodes, &[ALL, ALL, ALL]).unwrap();
    assert_eq!(cut.stop, [ALL, lsn(1), lsn(1)]);
    assert!(matches!(&cut.moves[0].because, Reason::DecisionUnknown { end, .. } if *end == lsn(1)));
    assert!(cut.wants.iter().any(|want| want.side == Side::Later && want.node.as_str() == "n0"));
    assert_eq!(cut.left_out.len(), 1);
}

/// A participant's archive ends before its PREPARE: the decision must not be restored without it.
#[test]
fn a_prepare_that_is_not_archived_yet_keeps_its_decision_out() {
    let mut nodes = cluster();
    nodes[2].events.clear();
    nodes[2].end = lsn(0);
    let cut = greatest_consistent(&nodes, &[ALL, ALL, ALL]).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(1), ALL]);
    assert!(
        matches!(&cut.moves[0].because, Reason::PrepareUnknown { participant, .. } if participant.as_str() == "n2")
    );
}

/// A participant that is not restored holds nobody back.
#[test]
fn a_participant_outside_the_cluster_is_not_waited_for() {
    let [first, second, _] = cluster();
    let nodes = [first, second];
    let cut = greatest_consistent(&nodes, &[ALL, ALL]).unwrap();
    assert!(cut.moves.is_empty());
}

/// A coordinator lost a decision in a crash; later transactions prove it will never come.
#[test]
fn a_lost_decision_is_reported_and_pins_nothing() {
    let later = "citus_0_52_9_0";
    let nodes = [
        Log::at(0, 900).decide(&[(1, "citus_0_50_1_0")]).decide(&[(1, later)]).end(),
        Log::at(1, 900)
            .prepare(1, "citus_0_50_1_0")
            .commit(1)
            .prepare(11, A)
            .commit(11)
            .prepare(12, later)
            .commit(12)
            .end(),
    ];
    let cut = greatest_consistent(&nodes, &[ALL, ALL]).unwrap();
    assert_eq!(cut.stop, [ALL, ALL]);
    assert_eq!(cut.orphans.len(), 1);
    assert_eq!((cut.orphans[0].gid.as_str(), cut.orphans[0].fault), (A, Fault::NoDecision));
    let mut early = nodes.clone();
    early[1].events.truncate(4);
    assert_eq!(greatest_consistent(&early, &[ALL, ALL]).unwrap().stop, [lsn(1), lsn(3)], "no proof yet");
}

#[test]
fn a_transaction_older_than_what_is_known_ends_as_the_catalogue_says() {
    let mut nodes = cluster();
    for node in &mut nodes {
        node.events.clear();
    }
    nodes[1].prepared_at_start =
        vec![Prepared { lsn: Lsn::INVALID, xid: 11, database: 5, gid: A.into(), time: Moment(0) }];
    let cut = greatest_consistent(&nodes, &[ALL, ALL, ALL]).unwrap();
    assert_eq!(cut.settle[0].action, Action::AsCatalogue);
    assert_eq!(cut.wants.len(), 1);
}

#[test]
fn prepared_on_several_nodes_without_citus_is_kept_whole_and_on_one_left_alone() {
    let mut nodes = [
        Log::new(0).prepare(1, "pay-7").commit(1).prepare(2, "mine").end(),
        Log::new(1).prepare(1, "pay-7").commit(1).end(),
    ];
    (nodes[0].group, nodes[1].group) = (None, None);
    let known = Known::new(&nodes).unwrap();
    let cut = known.greatest(&[ALL, lsn(1)]).unwrap();
    assert_eq!(cut.stop, [ALL, lsn(1)]);
    assert_eq!(cut.settle[0].action, Action::Commit);
    assert_eq!(cut.foreign[0].gid, "mine");
    let cut = known.greatest(&[ALL, lsn(0)]).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(0)]);
    assert_eq!(cut.settle[0].action, Action::Rollback);
}

#[test]
fn broken_in_the_source_is_told() {
    let nodes =
        [Log::new(0).other().decide(&[(1, A)]).end(), Log::new(1).prepare(11, A).other().roll_back(11).end()];
    let cut = greatest_consistent(&nodes, &[ALL, ALL]).unwrap();
    assert_eq!(cut.stop, [ALL, ALL]);
    assert_eq!(cut.orphans[0].fault, Fault::RolledBack);
    let cut = greatest_consistent(&nodes, &[ALL, lsn(2)]).unwrap();
    assert_eq!(cut.settle[0].action, Action::Commit, "before the mistake it can still be made whole");
}

const BEFORE: &str = "citus_0_50_1_0";
const AFTER: &str = "citus_0_52_1_0";

#[test]
fn what_a_participant_lost_with_its_promotion_is_left_out_as_long_as_it_can_be() {
    let nodes = [
        Log::new(0).decide(&[(1, BEFORE)]).decide(&[(1, A)]).decide(&[(1, AFTER)]).end(),
        Log::new(1).prepare(11, BEFORE).commit(11).promote().prepare(12, AFTER).commit(12).end(),
    ];
    let cut = greatest_consistent(&nodes, &[ALL, lsn(2)]).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(2)]);
    assert!(matches!(&cut.moves[0].because, Reason::LostWithPromotion { gid, .. } if gid == A));
    assert_eq!((cut.left_out[0].gids[0].as_str(), cut.orphans.len()), (A, 0));
    assert_eq!(torn(&nodes, &[lsn(2), lsn(2)]).unwrap().len(), 1);
    // After the promotion the source itself has it torn: that holds back no later cut.
    let cut = greatest_consistent(&nodes, &[ALL, ALL]).unwrap();
    assert_eq!(cut.stop, [ALL, ALL]);
    assert_eq!((cut.orphans[0].gid.as_str(), cut.orphans[0].fault), (A, Fault::NoPrepare));
    assert_eq!(first_consistent_at_or_after(&nodes, &[lsn(2), lsn(0)]).unwrap().stop[1], lsn(3));
}

#[test]
fn what_an_initiator_lost_with_its_promotion_is_left_out_as_long_as_it_can_be() {
    let nodes = [
        Log::new(0).decide(&[(1, BEFORE)]).promote().decide(&[(1, AFTER)]).end(),
        Log::new(1)
            .prepare(11, BEFORE)
            .commit(11)
            .prepare(12, A)
            .commit(12)
            .prepare(13, AFTER)
            .commit(13)
            .end(),
    ];
    let cut = greatest_consistent(&nodes, &[lsn(1), ALL]).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(3)]);
    assert_eq!((cut.settle[0].gid.as_str(), cut.settle[0].action), (A, Action::Rollback));
    let cut = greatest_consistent(&nodes, &[ALL, ALL]).unwrap();
    assert_eq!(cut.stop, [ALL, ALL]);
    assert_eq!((cut.orphans[0].gid.as_str(), cut.orphans[0].fault), (A, Fault::NoDecision));
}

#[test]
fn a_name_used_again_goes_with_its_own_decision() {
    let again = |log: Log| {
        let mut log = log;
        log.begin += 3_600;
        log
    };
    let nodes = [
        again(Log::new(0).decide(&[(1, A)])).decide(&[(1, A)]).end(),
        again(Log::new(1).prepare(11, A).commit(11)).prepare(12, A).commit(12).end(),
    ];
    let cut = greatest_consistent(&nodes, &[lsn(1), ALL]).unwrap();
    assert_eq!(cut.stop, [lsn(1), lsn(3)]);
    let cut = greatest_consistent(&nodes, &[lsn(0), ALL]).unwrap();
    assert_eq!(cut.stop, [lsn(0), lsn(1)]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut nodes = cluster();
    assert!(matches!(greatest_consistent(&nodes, &[ALL]), Err(Error::Count { .. })));
    nodes[1].earliest = lsn(2);
    nodes[1].events.drain(..2);
    assert!(matches!(greatest_consistent(&nodes, &[ALL, lsn(0), ALL]), Err(Error::Before { .. })));
    nodes[1].events[0].lsn = lsn(0);
    assert!(matches!(greatest_consistent(&nodes, &[ALL, ALL, ALL]), Err(Error::Disorder { .. })));
    nodes[2].group = Some(GroupId(0));
    assert!(matches!(greatest_consistent(&nodes, &[ALL, ALL, ALL]), Err(Error::OneGroup { .. })));
}

/// The work grows with the number of ties, not with its square.
#[test]
fn a_long_chain_of_moves_is_quick() {
    const LENGTH: usize = 20_000;
    let (mut zero, mut one) = (Log::new(0), Log::new(1).prepare(0, "citus_0_1_0_0"));
    for n in 0..LENGTH {
        let xid = n as u32;
        zero = zero.decide(&[(1, &format!("citus_0_1_{n}_0"))]);
        one = one.prepare(xid + 1, &format!("citus_0_1_{}_0", n + 1)).commit(xid);
    }
    let nodes = [zero.end(), one.end()];
    let known = Known::new(&nodes).unwrap();
    let cut = known.greatest(&[lsn(0), ALL]).unwrap();
    assert_eq!(cut.stop, [lsn(0), lsn(2)]);
    assert_eq!(cut.left_out.len(), LENGTH);
}
