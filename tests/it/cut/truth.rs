//! Cuts of the recorded cluster held against what its WAL says, reckoned here anew: no transaction is torn, no
//! later cut would do, and what a plain time would have torn is what is said.

use std::collections::BTreeMap;

use pitrus::citus::Gid;
use pitrus::cut::{self, NodeHistory};
use pitrus::ids::GroupId;
use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use pitrus::wal::event::{Event, What};

use super::{Unpacked, moment, stops};
use crate::recorded;

/// One part of a transaction: where it was prepared and committed, and where its initiator decided.
struct Part {
    transaction: String,
    node: usize,
    prepare: Lsn,
    commit: Lsn,
    initiator: usize,
    decision: Lsn,
}

struct Truth {
    unpacked: Unpacked,
    events: Vec<Vec<Event>>,
    parts: Vec<Part>,
}

impl Truth {
    fn new() -> Self {
        let unpacked = Unpacked::new();
        let events: Vec<Vec<Event>> = unpacked.nodes.iter().map(recorded::events).collect();
        let mut prepares: BTreeMap<String, (usize, Lsn)> = BTreeMap::new();
        let mut commits: BTreeMap<String, Lsn> = BTreeMap::new();
        let mut decisions: BTreeMap<String, (usize, Lsn)> = BTreeMap::new();
        for (node, events) in events.iter().enumerate() {
            for event in events {
                match &event.what {
                    What::Prepare { gid, .. } => drop(prepares.insert(gid.clone(), (node, event.lsn))),
                    What::CommitPrepared { gid: Some(gid), .. } => {
                        let _ = commits.insert(gid.clone(), event.lsn);
                    }
                    What::Commit { decides, .. } => {
                        decisions.extend(decides.iter().map(|row| (row.gid.clone(), (node, event.lsn))));
                    }
                    _ => {}
                }
            }
        }
        let part = |(gid, (initiator, decision)): (&String, &(usize, Lsn))| {
            let (node, prepare) = prepares[gid];
            let one = Gid::parse(gid).unwrap().transaction();
            let transaction = format!("{}_{}_{}", one.group, one.pid, one.number);
            let (initiator, decision) = (*initiator, *decision);
            Part { transaction, node, prepare, commit: commits[gid], initiator, decision }
        };
        let parts = decisions.iter().map(part).collect();
        Truth { unpacked, events, parts }
    }

    /// Returns the transactions of which something is kept that needs something that is lost.
    fn torn(&self, stops: &[Lsn]) -> Vec<&str> {
        let is_torn = |part: &&Part| {
            let prepared = part.prepare < stops[part.node];
            let committed = part.commit < stops[part.node];
            let decided = part.decision < stops[part.initiator];
            (decided && !prepared) || (committed && !decided)
        };
        let mut torn: Vec<&str> = self.parts.iter().filter(is_torn).map(|p| p.transaction.as_str()).collect();
        torn.sort_unstable();
        torn.dedup();
        torn
    }

    /// Returns on each node the first record later than `time`; the clock of group 1 is pretended ahead.
    fn after(&self, time: Moment, wrong: i64, counts: fn(&What) -> bool) -> Vec<Lsn> {
        let start = |(at, events): (usize, &Vec<Event>)| {
            let wrong = if at == 1 { wrong } else { 0 };
            let later =
                |e: &&Event| counts(&e.what) && e.what.time().is_some_and(|at| at.plus_micros(wrong) > time);
            events.iter().find(later).map_or(Lsn::MAX, |event| event.lsn)
        };
        self.events.iter().enumerate().map(start).collect()
    }

    fn histories(&self) -> Vec<NodeHistory> {
        let history = |(node, events): (&recorded::Recorded, &Vec<Event>)| NodeHistory {
            node: format!("node-{}", node.group).parse().unwrap(),
            group: Some(GroupId(node.group)),
            earliest: node.start,
            end: node.end,
            events: events.clone(),
            prepared_at_start: Vec::new(),
            times: None,
        };
        self.unpacked.nodes.iter().zip(&self.events).map(history).collect()
    }

    fn moments(&self, count: usize) -> Vec<Moment> {
        let times: Vec<Moment> = self.events[0].iter().filter_map(|event| event.what.time()).collect();
        (1..=count)
            .map(|part| times[times.len() * part / (count + 1)].plus_micros(part as i64 * 37))
            .collect()
    }
}

#[test]
fn every_time_gives_the_greatest_cut_that_keeps_transactions_whole() {
    let truth = Truth::new();
    let histories = truth.histories();
    let mut torn_by_time = 0;
    for (number, time) in truth.moments(16).into_iter().enumerate() {
        let wrong = [0, 5_000, 50_000, -50_000][number % 4];
        let pretended = format!("--pretend-clock=1={wrong:+}us");
        let cut = truth.unpacked.cut(&["--time", &time.to_string(), &pretended]).json();
        let stops = stops(&cut);
        assert_eq!(truth.torn(&stops), Vec::<&str>::new(), "{time} {wrong}");
        let starts = truth.after(time, wrong, |_| true);
        assert!(stops.iter().zip(&starts).all(|(stop, start)| stop <= start), "{time} {wrong}");
        let best = cut::greatest_consistent(&histories, &starts).unwrap();
        assert_eq!(stops, best.stop, "{time} {wrong}");

        let naive = truth.after(time, wrong, What::is_end);
        let said = cut["torn_by_time"].as_array().unwrap();
        assert_eq!(said.len(), truth.torn(&naive).len(), "{time} {wrong}");
        torn_by_time += said.len();
        assert_eq!(cut["to_settle"].as_array().unwrap().len(), best.settle.len());
        assert_eq!(cut["left_out"].as_array().unwrap().len(), best.left_out.len());
        for (node, (stop, start)) in cut["nodes"].as_array().unwrap().iter().zip(stops.iter().zip(&starts)) {
            let moved = node["moved_back_ms"].as_f64().unwrap();
            assert_eq!(moved > 0.0, stop < start, "{node}");
            assert!(moved < 200.0, "{node}");
        }
        // Where the clock's error is known it costs nothing.
        if wrong != 0 {
            let known = format!("--clock=1={wrong:+}us");
            let corrected = truth.unpacked.cut(&["--time", &time.to_string(), &pretended, &known]).json();
            let right = truth.unpacked.cut(&["--time", &time.to_string()]).json();
            assert_eq!(super::stops(&corrected), super::stops(&right));
            assert_eq!(corrected["torn_by_time"], cut["torn_by_time"]);
        }
    }
    assert!(torn_by_time > 100, "only {torn_by_time} were torn by wrong clocks");
}

/// Statements say what becomes of what is prepared, and the books of the cut come out even.
#[test]
fn what_is_to_be_settled_is_decided_by_the_cut() {
    let truth = Truth::new();
    let mut settled = 0;
    for time in truth.moments(8) {
        let pretended = "--pretend-clock=2=+30ms";
        let cut = truth.unpacked.cut(&["--time", &time.to_string(), pretended]).json();
        let stops = stops(&cut);
        let said: BTreeMap<&str, &str> = cut["to_settle"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["gid"].as_str().unwrap(), one["statement"].as_str().unwrap()))
            .collect();
        let mut prepared = 0;
        for events in &truth.events {
            for event in events {
                let What::CommitPrepared { gid: Some(gid), .. } = &event.what else { continue };
                let Some(one) = Gid::parse(gid) else { continue };
                let transaction =
                    format!("{}_{}_{}", one.transaction.group, one.transaction.pid, one.transaction.number);
                let part = truth
                    .parts
                    .iter()
                    .find(|p| p.commit == event.lsn && p.transaction == transaction)
                    .unwrap();
                if part.prepare < stops[part.node] && part.commit >= stops[part.node] {
                    let verb = if part.decision < stops[part.initiator] { "COMMIT" } else { "ROLLBACK" };
                    assert_eq!(said[gid.as_str()], format!("{verb} PREPARED '{gid}';"));
                    prepared += 1;
                }
            }
        }
        assert_eq!(said.len(), prepared);
        settled += prepared;
    }
    assert!(settled > 0, "no moment had a prepared transaction");
}

#[test]
fn other_ways_to_name_a_moment() {
    let truth = Truth::new();
    let histories = truth.histories();
    let time = truth.moments(3)[1];

    let named = truth.unpacked.cut(&["--restore-point", "in-the-middle"]).json();
    let is_it = |e: &&Event| matches!(&e.what, What::RestorePoint { name, .. } if name == "in-the-middle");
    let points: Vec<Lsn> = truth.events.iter().map(|events| events.iter().find(is_it).unwrap().end).collect();
    assert_eq!(stops(&named), cut::greatest_consistent(&histories, &points).unwrap().stop);

    let latest = truth.unpacked.cut(&["--latest"]).json();
    assert_eq!(stops(&latest), [Lsn::MAX; 3]);
    assert_eq!(latest["foreign"][0]["gid"], "left-open");

    let onward = ["--time", &time.to_string(), "--at-or-after", "--pretend-clock=1=+50ms"];
    let onward = truth.unpacked.cut(&onward).json();
    let starts = truth.after(time, 50_000, |_| true);
    assert_eq!(stops(&onward), cut::first_consistent_at_or_after(&histories, &starts).unwrap().stop);
    assert_eq!(truth.torn(&stops(&onward)), Vec::<&str>::new());

    let middle = &truth.parts[truth.parts.len() / 2];
    let gid = format!("citus_{}", middle.transaction);
    let before = truth.unpacked.cut(&["--before-transaction", &gid]).json();
    let reached = stops(&before);
    assert!(reached[middle.initiator] <= middle.decision && reached[middle.node] <= middle.commit);
    assert_eq!(truth.torn(&reached), Vec::<&str>::new());
    // Nothing less than that transaction is left out on its initiator.
    assert_eq!(reached[middle.initiator], middle.decision);

    let part = &truth.parts[truth.parts.len() / 3];
    let position = format!("{}={}", truth.unpacked.nodes[part.node].group, part.commit);
    let at = stops(&truth.unpacked.cut(&["--stop", &position]).json());
    assert!(at[part.node] <= part.commit);
    assert_eq!(truth.torn(&at), Vec::<&str>::new());
    let of_others = truth.unpacked.cut(&["--time", &moment("2026-11-21T09:45:47Z").to_string()]);
    of_others.fails(5, &["the WAL of node 0 begins after it"]);
}
