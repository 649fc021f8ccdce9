//! A simulated cluster whose truth is known: transactions run in true time, each node logs its events
//! with its own wrong clock, and what is known of each node may end early.

use std::collections::BTreeMap;

use crate::cut::NodeHistory;
use crate::ids::GroupId;
use crate::lsn::Lsn;
use crate::manifest::wal_index::Times;
use crate::moment::Moment;
use crate::wal::event::{Decided, Event, Prepared, What};

/// splitmix64: the same histories from the same seed, everywhere.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Where a record ended up: its node and its number there.
pub(super) type At = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Story {
    /// Decided by its initiator.
    Decided,
    /// Prepared, then rolled back or left so.
    Aborted,
    /// Decided, but the decision was lost in a crash.
    Lost,
    /// Without an initiator among the nodes.
    Alone,
}

#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) node: usize,
    pub(super) gid: String,
    pub(super) xid: u32,
    pub(super) prepare: Option<At>,
    pub(super) commit: Option<At>,
    pub(super) rollback: Option<At>,
}

/// One transaction as it truly was.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    pub(super) story: Story,
    pub(super) initiator: Option<usize>,
    pub(super) decision: Option<At>,
    pub(super) pieces: Vec<Piece>,
}

pub(super) struct World {
    pub(super) era_micros: i64,
    pub(super) deeds: Vec<Deed>,
    pub(super) histories: Vec<NodeHistory>,
}

pub(super) struct Shape {
    pub(super) nodes: usize,
    pub(super) deeds: usize,
    /// Length of one run of the servers, in microseconds; names repeat from run to run.
    pub(super) era_micros: i64,
    pub(super) eras: usize,
    pub(super) clock_error_micros: i64,
    /// Whether decisions may be lost.
    pub(super) losses: bool,
    /// Whether there are transactions without an initiator.
    pub(super) alone: bool,
    /// Whether what is known of a node may end early.
    pub(super) ends: bool,
}

/// Before the first era: known histories begin this long before anything happens.
const QUIET_MICROS: i64 = 400_000_000;
/// Between two runs of the servers.
const REST_MICROS: i64 = 700_000_000;

/// Returns the run of the servers in which a node's clock showed this; clocks err less than the rest between runs.
pub(super) fn era(time: Moment, era_micros: i64) -> i64 {
    (time.0 + REST_MICROS / 2).div_euclid(era_micros + REST_MICROS)
}

/// A record before it has a position: when, on which node, of which deed and piece.
struct Draft {
    time: i64,
    node: usize,
    deed: usize,
    piece: usize,
    what: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Prepare,
    Decide,
    Commit,
    Rollback,
    Noise,
}

pub(super) fn lsn(number: usize) -> Lsn {
    Lsn(100 * (number as u64 + 1))
}

impl World {
    pub(super) fn new(dice: &mut Dice, shape: &Shape) -> World {
        let mut deeds = Vec::new();
        let mut drafts = Vec::new();
        let mut names = vec![0; shape.eras];
        for _ in 0..shape.deeds {
            let era = dice.below(shape.eras as u64) as usize;
            names[era] += 1;
            let number = names[era];
            let begin = era as i64 * (shape.era_micros + REST_MICROS);
            let at = begin + dice.between(0, shape.era_micros / 2);
            let long = if dice.chance(20) { shape.era_micros / 2 } else { 3_000 };
            let is_last = era + 1 == shape.eras;
            plot(dice, shape, (number, is_last), at, long, &mut deeds, &mut drafts);
        }
        for _ in 0..dice.below(shape.deeds as u64 + 1) {
            let (time, node) = (dice.between(0, shape.era_micros), dice.below(shape.nodes as u64) as usize);
            drafts.push(Draft { time, node, deed: 0, piece: 0, what: Step::Noise });
        }
        drafts.sort_by_key(|draft| draft.time);
        let histories = write(dice, shape, &drafts, &mut deeds);
        World { era_micros: shape.era_micros, deeds, histories }
    }

    /// Returns how many records of each node a vector of positions holds.
    pub(super) fn counts(&self, stops: &[Lsn]) -> Vec<usize> {
        let inside = |(history, stop): (&NodeHistory, &Lsn)| {
            history.events.iter().take_while(|event| event.lsn < *stop).count()
        };
        self.histories.iter().zip(stops).map(inside).collect()
    }
}

/// Makes one transaction: its truth and its records. One gid is used by one deed an era.
fn plot(
    dice: &mut Dice,
    shape: &Shape,
    (number, is_last): (usize, bool),
    at: i64,
    long: i64,
    deeds: &mut Vec<Deed>,
    drafts: &mut Vec<Draft>,
) {
    let story = match dice.below(100) {
        0..=64 => Story::Decided,
        65..=79 => Story::Aborted,
        80..=89 if shape.losses => Story::Lost,
        90..=99 if shape.alone => Story::Alone,
        _ => Story::Decided,
    };
    let initiator = (story != Story::Alone).then(|| dice.below(shape.nodes as u64) as usize);
    let prefix = match initiator {
        Some(node) => format!("citus_{node}_{}_{}", 50 + number % 7, number),
        None if dice.chance(50) => format!("citus_99_{}_{}", 50 + number % 7, number),
        None => format!("own-{number}"),
    };
    let step = |dice: &mut Dice, from: i64| from + dice.between(1, long);
    let mut pieces = Vec::new();
    let mut prepared = Vec::new();
    let count = 1 + dice.below(shape.nodes as u64) as usize;
    for connection in 0..count {
        let node = dice.below(shape.nodes as u64) as usize;
        let gid = match initiator {
            None if !prefix.starts_with("citus") => prefix.clone(),
            _ => format!("{prefix}_{connection}"),
        };
        if pieces.iter().any(|piece: &Piece| piece.node == node && piece.gid == gid) {
            continue;
        }
        let xid = 1000 + (deeds.len() * 64 + connection) as u32;
        pieces.push(Piece { node, gid, xid, prepare: None, commit: None, rollback: None });
        prepared.push(step(dice, at));
    }
    let decided = step(dice, prepared.iter().copied().max().unwrap_or(at));
    let deed = deeds.len();
    let mut draft = |time, node, piece, what| drafts.push(Draft { time, node, deed, piece, what });
    if let (Story::Decided, Some(node)) = (story, initiator) {
        draft(decided, node, 0, Step::Decide);
    }
    for (at, piece) in pieces.iter().enumerate() {
        draft(prepared[at], piece.node, at, Step::Prepare);
        let end = step(dice, if story == Story::Aborted { prepared[at] } else { decided });
        match story {
            // Left prepared; a gid that is cannot be used again.
            _ if is_last && dice.chance(15) => {}
            Story::Aborted => draft(end, piece.node, at, Step::Rollback),
            Story::Lost | Story::Alone if dice.chance(10) => draft(end, piece.node, at, Step::Rollback),
            _ => draft(end, piece.node, at, Step::Commit),
        }
    }
    deeds.push(Deed { story, initiator, decision: None, pieces });
}

/// Writes the drafts into each node's log, and tells the deeds where their records are.
fn write(dice: &mut Dice, shape: &Shape, drafts: &[Draft], deeds: &mut [Deed]) -> Vec<NodeHistory> {
    let mut histories = Vec::new();
    for node in 0..shape.nodes {
        let off = dice.between(-shape.clock_error_micros, shape.clock_error_micros);
        let mine: Vec<&Draft> = drafts.iter().filter(|draft| draft.node == node).collect();
        let known = match shape.ends && dice.chance(50) {
            true => mine.len().saturating_sub(dice.below(5) as usize),
            false => mine.len(),
        };
        let mut events = Vec::new();
        for (number, draft) in mine.iter().take(known).enumerate() {
            let time = Moment(draft.time + off + dice.between(-3, 3));
            let what = record(draft, deeds, (node, number), time, dice.chance(10));
            let lsn = lsn(number);
            events.push(Event { lsn, end: lsn.plus(dice.below(100) + 1), what });
        }
        let last = events.iter().filter_map(|event| event.what.time()).max();
        let min = Moment(off - QUIET_MICROS);
        histories.push(NodeHistory {
            node: format!("n{node}").parse().unwrap(),
            group: Some(GroupId(node as i32)),
            earliest: Lsn(1),
            end: lsn(known),
            events,
            prepared_at_start: Vec::new(),
            times: Some(Times { min, max: last.unwrap_or(min) }),
        });
    }
    histories
}

fn record(draft: &Draft, deeds: &mut [Deed], at: At, time: Moment, with_gid: bool) -> What {
    if draft.what == Step::Noise {
        return What::Commit { xid: 7, time, decides: Vec::new() };
    }
    let deed = &mut deeds[draft.deed];
    if draft.what == Step::Decide {
        deed.decision = Some(at);
        let row = |piece: &Piece| Decided { group: GroupId(piece.node as i32), gid: piece.gid.clone() };
        return What::Commit { xid: 9, time, decides: deed.pieces.iter().map(row).collect() };
    }
    let piece = &mut deed.pieces[draft.piece];
    let gid = with_gid.then(|| piece.gid.clone());
    let xid = piece.xid;
    match draft.what {
        Step::Prepare => {
            piece.prepare = Some(at);
            // Several databases.
            let database = 5 + xid / 64 % 3;
            What::Prepare { xid, database, gid: piece.gid.clone(), time }
        }
        Step::Commit => {
            piece.commit = Some(at);
            What::CommitPrepared { xid, time, gid }
        }
        _ => {
            piece.rollback = Some(at);
            What::RollbackPrepared { xid, time, gid }
        }
    }
}

/// Tells what happened, when a test fails.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for deed in &self.deeds {
            eprintln!("{:?}, decided {:?}", deed.story, deed.decision);
            for piece in &deed.pieces {
                let Piece { gid, prepare, commit, rollback, .. } = piece;
                eprintln!("    n{} {gid}: {prepare:?} {commit:?} {rollback:?}", piece.node);
            }
        }
        for history in &self.histories {
            eprintln!("{} from {} {:?}", history.node, history.earliest, history.times);
            for event in &history.events {
                eprintln!("    {} {:?}", event.lsn, event.what);
            }
        }
    }
}

/// Forgets the first `forget[n]` events of each node, as where known history begins later.
pub(super) fn forget(histories: &mut [NodeHistory], forget: &[usize]) {
    for (history, count) in histories.iter_mut().zip(forget) {
        let mut open: BTreeMap<u32, Prepared> = BTreeMap::new();
        let rest = history.events.split_off((*count).min(history.events.len()));
        let mut last = None;
        for event in std::mem::replace(&mut history.events, rest) {
            last = last.max(event.what.time());
            match event.what {
                What::Prepare { xid, database, gid, time } => {
                    open.insert(xid, Prepared { lsn: event.lsn, xid, database, gid, time });
                }
                What::CommitPrepared { xid, .. } | What::RollbackPrepared { xid, .. } => {
                    open.remove(&xid);
                }
                _ => {}
            }
        }
        history.earliest = lsn(*count);
        history.prepared_at_start = open.into_values().collect();
        // The time at which known history begins is known also where it holds no event.
        let min = last.or(history.times.map(|times| times.min)).unwrap_or(Moment(0));
        let max = history.events.iter().filter_map(|event| event.what.time()).max().unwrap_or(min);
        history.times = Some(Times { min, max });
    }
}
