//! How long the greatest consistent cut takes: `cargo bench --bench cut`.
//!
//! Made-up histories of two-phase transactions, each on two to four of 2, 8 or 40 nodes, with clocks that are up
//! to 20 ms off; the cut is asked for in the middle. Prints events a second, and how the time grows with their number.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pitrus::cut::{Cut, Known, NodeHistory};
use pitrus::ids::GroupId;
use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use pitrus::wal::event::{Decided, Event, What};

const NODES: [usize; 3] = [2, 8, 40];
const EVENTS: [usize; 4] = [125_000, 250_000, 500_000, 1_000_000];
/// A transaction begins every so many microseconds.
const APART: i64 = 100;
const SKEW: i64 = 20_000;
const RECORD: u64 = 128;

fn main() {
    println!(
        "{:>5}  {:>9}  {:>9}  {:>9}  {:>12}  {:>6}  {:>6}",
        "nodes", "events", "match", "cut", "events/s", "growth", "moves"
    );
    for nodes in NODES {
        let mut before: Option<(usize, Duration)> = None;
        for events in EVENTS {
            let histories = histories(nodes, events);
            let events = histories.iter().map(|history| history.events.len()).sum();
            let starts = starts(&histories);
            let began = Instant::now();
            let known = Known::new(&histories).unwrap();
            let matched = began.elapsed();
            let cut: Cut = known.greatest(&starts).unwrap();
            let all = began.elapsed();
            // 1 is linear, 2 quadratic.
            let growth = before.map_or("-".to_owned(), |(fewer, time)| {
                let power =
                    (all.as_secs_f64() / time.as_secs_f64()).ln() / (events as f64 / fewer as f64).ln();
                format!("{power:.2}")
            });
            println!(
                "{nodes:>5}  {events:>9}  {:>7.3} s  {:>7.3} s  {:>12.0}  {growth:>6}  {:>6}",
                matched.as_secs_f64(),
                (all - matched).as_secs_f64(),
                events as f64 / all.as_secs_f64(),
                cut.moves.len()
            );
            before = Some((events, all));
        }
    }
}

/// The same numbers each time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Makes the history of each node.
fn histories(nodes: usize, events: usize) -> Vec<NodeHistory> {
    let mut numbers = Numbers(7);
    let mut made: Vec<Vec<(i64, What)>> = vec![Vec::new(); nodes];
    let mut xids = vec![700_u32; nodes];
    let mut xid = |node: usize| {
        xids[node] += 1;
        xids[node]
    };
    let (mut count, mut number) = (0, 0);
    while count < events {
        number += 1;
        let initiator = numbers.below(nodes as u64) as usize;
        let others = (1 + numbers.below(3) as usize).min(nodes - 1);
        let mut at = number * APART;
        let (mut decides, mut parts) = (Vec::new(), Vec::new());
        for connection in 1..=others {
            let node = (initiator + 1 + numbers.below(nodes as u64 - 1) as usize) % nodes;
            let gid = format!("citus_{initiator}_{}_{number}_{connection}", 1000 + number % 50);
            let prepared = at + numbers.below(1500) as i64;
            let part = xid(node);
            made[node].push((
                prepared,
                What::Prepare { xid: part, database: 5, gid: gid.clone(), time: Moment(prepared) },
            ));
            decides.push(Decided { group: GroupId(node as i32), gid: gid.clone() });
            parts.push((node, part, gid));
        }
        at += 1600 + numbers.below(1000) as i64;
        made[initiator].push((at, What::Commit { xid: xid(initiator), time: Moment(at), decides }));
        for (node, xid, gid) in parts {
            let done = at + 100 + numbers.below(2000) as i64;
            made[node].push((done, What::CommitPrepared { xid, time: Moment(done), gid: Some(gid) }));
        }
        count += 1 + 2 * others;
    }
    let skews: Vec<i64> = (0..nodes).map(|_| numbers.below(2 * SKEW as u64) as i64 - SKEW).collect();
    made.into_iter().zip(skews).enumerate().map(|(node, (made, skew))| history(node, made, skew)).collect()
}

fn history(node: usize, mut made: Vec<(i64, What)>, skew: i64) -> NodeHistory {
    made.sort_by_key(|(at, _)| *at);
    let events: Vec<Event> = made
        .into_iter()
        .enumerate()
        .map(|(number, (_, mut what))| {
            if let What::Prepare { time, .. }
            | What::Commit { time, .. }
            | What::CommitPrepared { time, .. } = &mut what
            {
                *time = time.plus_micros(skew);
            }
            let lsn = Lsn((number as u64 + 1) * RECORD);
            Event { lsn, end: lsn.plus(RECORD), what }
        })
        .collect();
    NodeHistory {
        node: format!("node-{node}").parse().unwrap(),
        group: Some(GroupId(node as i32)),
        earliest: Lsn(RECORD),
        end: events.last().map_or(Lsn(RECORD), |event| event.end),
        events,
        prepared_at_start: Vec::new(),
        times: None,
    }
}

/// The middle, by each node's own clock.
fn starts(histories: &[NodeHistory]) -> Vec<Lsn> {
    let last = histories.iter().filter_map(|history| history.events.last()?.what.time()).max().unwrap();
    let middle = Moment(last.0 / 2);
    let later = |history: &NodeHistory| {
        let at = history.events.partition_point(|event| event.what.time().is_none_or(|time| time <= middle));
        history.events.get(at).map_or(Lsn::MAX, |event| event.lsn)
    };
    histories.iter().map(later).collect()
}
