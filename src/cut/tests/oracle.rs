//! Random histories against brute force: the oracle knows what truly happened, writes the rules down
//! naively, and tries every cut.
//!
//! `PITRUS_HISTORIES` sets how many; `PITRUS_SEED` the first seed.

use std::collections::HashMap;

use super::world::{At, Deed, Dice, Piece, Shape, Story, World, era, forget, lsn};
use crate::cut::{Action, Error, Fault, Known, NodeHistory};
use crate::lsn::Lsn;
use crate::moment::Moment;

const HISTORIES: u64 = 3_000;
const CUTS_MAX: usize = 20_000;
/// Stands for a record that is not known.
const NOWHERE: At = (usize::MAX, 0);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn shape(dice: &mut Dice, deeds: usize) -> Shape {
    // A lost decision whose names are used again, where little else is known, cannot be told from a late one.
    let (eras, losses) =
        if dice.chance(30) { (2 + dice.below(2) as usize, false) } else { (1, dice.chance(50)) };
    let nodes = if dice.chance(10) { 2 + dice.below(39) } else { 2 + dice.below(7) };
    Shape {
        nodes: nodes as usize,
        deeds: 1 + dice.below(deeds as u64) as usize,
        era_micros: 20_000,
        eras,
        clock_error_micros: if dice.chance(30) { 0 } else { dice.between(1, 10_000_000) },
        losses,
        alone: dice.chance(50),
        ends: dice.chance(50),
    }
}

fn inside(at: Option<At>, counts: &[usize]) -> bool {
    at.is_some_and(|(node, number)| number < counts[node])
}

/// "`later` inside needs `earlier` inside"; an unknown record is inside no cut.
struct Need {
    later: At,
    earlier: Option<At>,
}

struct Oracle {
    needs: Vec<Need>,
    /// For each record, those that need it.
    needing: HashMap<At, Vec<At>>,
    /// For each record, those that it needs.
    needed: HashMap<At, Vec<Option<At>>>,
}

impl Oracle {
    fn new(world: &World) -> Self {
        let mut needs = Vec::new();
        for deed in &world.deeds {
            let broken = deed.pieces.iter().any(|piece| piece.rollback.is_some());
            for piece in &deed.pieces {
                match deed.story {
                    Story::Decided => {
                        let earlier = piece.prepare;
                        needs.extend(deed.decision.map(|later| Need { later, earlier }));
                        let earlier = deed.decision;
                        needs.extend(piece.commit.map(|later| Need { later, earlier }));
                    }
                    Story::Lost if !is_surely_lost(world, deed) => {
                        needs.extend(piece.commit.map(|later| Need { later, earlier: None }));
                    }
                    Story::Lost | Story::Alone if !broken => {
                        let Some(later) = piece.commit else { continue };
                        let earlier = deed.pieces.iter().filter(|other| other.prepare.is_some());
                        needs.extend(earlier.map(|other| Need { later, earlier: other.prepare }));
                    }
                    _ => {}
                }
            }
        }
        let (mut needing, mut needed) = (HashMap::<_, Vec<At>>::new(), HashMap::<_, Vec<_>>::new());
        for need in &needs {
            needed.entry(need.later).or_default().push(need.earlier);
            needing.entry(need.earlier.unwrap_or(NOWHERE)).or_default().push(need.later);
        }
        Oracle { needs, needing, needed }
    }

    fn consistent(&self, counts: &[usize]) -> bool {
        self.needs.iter().all(|need| !inside(Some(need.later), counts) || inside(need.earlier, counts))
    }

    /// Tries all cuts between `low` and `high`; returns the union and the intersection of the consistent ones.
    fn try_all(&self, low: &[usize], high: &[usize]) -> Option<(Vec<usize>, Vec<usize>)> {
        let mut counts = low.to_vec();
        let mut found: Option<(Vec<usize>, Vec<usize>)> = None;
        loop {
            if self.consistent(&counts) {
                let (most, least) = found.get_or_insert_with(|| (counts.clone(), counts.clone()));
                for node in 0..counts.len() {
                    most[node] = most[node].max(counts[node]);
                    least[node] = least[node].min(counts[node]);
                }
            }
            let Some(node) = (0..counts.len()).find(|n| counts[*n] < high[*n]) else { return found };
            counts[node] += 1;
            counts[..node].copy_from_slice(&low[..node]);
        }
    }

    /// The greatest by taking out record after record, for histories with too many cuts to try.
    fn go_back(&self, start: &[usize]) -> Vec<usize> {
        let mut counts = start.to_vec();
        let outside = self.needs.iter().filter(|need| !inside(need.earlier, start));
        let mut out: Vec<At> = outside.map(|need| need.later).collect();
        while let Some((node, number)) = out.pop() {
            let gone = number..counts[node];
            counts[node] = counts[node].min(number);
            out.extend(gone.flat_map(|n| self.needing.get(&(node, n)).into_iter().flatten()));
        }
        counts
    }

    /// The least by taking in record after record; `None` where one is needed that is not known.
    fn go_on(&self, start: &[usize]) -> Option<Vec<usize>> {
        let mut counts = vec![0; start.len()];
        let mut inward: Vec<At> = (0..start.len()).map(|node| (node, start[node])).collect();
        while let Some((node, count)) = inward.pop() {
            let more = counts[node]..count;
            counts[node] = counts[node].max(count);
            for at in more {
                for earlier in self.needed.get(&(node, at)).into_iter().flatten() {
                    let (node, number) = (*earlier)?;
                    inward.push((node, number + 1));
                }
            }
        }
        Some(counts)
    }
}

/// Returns whether the order of known records proves that the decision is nowhere: after a COMMIT PREPARED of
/// the deed its node did something that came before a known record of the initiator, or whole minutes passed there.
fn is_surely_lost(world: &World, deed: &Deed) -> bool {
    let Some(initiator) = deed.initiator else { return false };
    let last = world.histories[initiator].times.unwrap().max;
    deed.pieces.iter().any(|piece| {
        let Some((node, commit)) = piece.commit else { return false };
        let committed = world.histories[node].events[commit].what.time().unwrap();
        if era(last, world.era_micros) > era(committed, world.era_micros) {
            return true;
        }
        world.deeds.iter().any(|other| {
            let Some(decision) = other.decision else { return false };
            other.pieces.iter().any(|p| {
                let then_decided = decision.0 == initiator
                    && p.prepare.is_some_and(|(n, number)| n == node && number > commit);
                let then_committed = decision.0 == node
                    && decision.1 > commit
                    && p.prepare.is_some()
                    && p.commit.is_some_and(|(n, _)| n == initiator);
                then_decided || then_committed
            })
        })
    })
}

fn expected_end(deed: &Deed, counts: &[usize]) -> Option<Action> {
    let any_inside = deed.pieces.iter().any(|piece| inside(piece.commit, counts));
    let commits = match deed.story {
        Story::Decided => inside(deed.decision, counts),
        Story::Aborted => false,
        Story::Lost => any_inside,
        Story::Alone => {
            let node = deed.pieces.iter().find(|piece| piece.prepare.is_some())?.node;
            if deed.pieces.iter().all(|piece| piece.node == node || piece.prepare.is_none()) {
                return None;
            }
            any_inside
        }
    };
    Some(if commits { Action::Commit } else { Action::Rollback })
}

fn is_prepared(piece: &Piece, counts: &[usize]) -> bool {
    inside(piece.prepare, counts) && !inside(piece.commit, counts) && !inside(piece.rollback, counts)
}

/// Picks positions: mostly near the end, as where archives end at different times.
fn pick(dice: &mut Dice, histories: &[NodeHistory]) -> Vec<Lsn> {
    let everything = dice.chance(20);
    let pick = |history: &NodeHistory| {
        let events = history.events.len();
        if everything || (events > 0 && dice.chance(10)) {
            return Lsn::MAX;
        }
        lsn(dice.below(events as u64 + 1) as usize)
    };
    histories.iter().map(pick).collect()
}

fn product(low: &[usize], high: &[usize]) -> usize {
    low.iter().zip(high).fold(1, |all: usize, (low, high)| all.saturating_mul(high - low + 1))
}

fn check_back(seed: u64, world: &World, known: &Known, oracle: &Oracle, start: &[Lsn]) {
    let counts = world.counts(start);
    let cut = known.greatest(start).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let reached = world.counts(&cut.stop);
    let zero = vec![0; counts.len()];
    if product(&zero, &counts) <= CUTS_MAX {
        let (most, _) = oracle.try_all(&zero, &counts).expect("nothing inside is consistent");
        assert!(oracle.consistent(&most), "seed {seed}: not a lattice");
        assert_eq!(reached, most, "seed {seed}: start {counts:?}");
    }
    assert_eq!(reached, oracle.go_back(&counts), "seed {seed}: start {counts:?}");
    for (stop, start) in cut.stop.iter().zip(start) {
        assert!(stop <= start, "seed {seed}: moved on");
    }
    assert_eq!(
        cut.moves.len(),
        (0..start.len()).filter(|n| cut.stop[*n] != start[*n]).count(),
        "seed {seed}"
    );
    let torn = known.torn(start).unwrap();
    assert_eq!(torn.is_empty(), oracle.consistent(&counts), "seed {seed}: {torn:?}");
    assert!(known.torn(&cut.stop).unwrap().is_empty(), "seed {seed}");
    check_settled(seed, world, &cut, &reached);
    check_left_out(seed, world, &cut, &counts, &reached);
    for orphan in cut.orphans.iter().filter(|orphan| orphan.fault == Fault::NoDecision) {
        let is_lost =
            |deed: &Deed| deed.story == Story::Lost && deed.pieces.iter().any(|p| p.gid == orphan.gid);
        assert!(world.deeds.iter().any(is_lost), "seed {seed}: {orphan}");
    }
}

fn check_settled(seed: u64, world: &World, cut: &crate::cut::Cut, reached: &[usize]) {
    let mut want = Vec::new();
    for deed in &world.deeds {
        for piece in deed.pieces.iter().filter(|piece| is_prepared(piece, reached)) {
            want.push((format!("n{}", piece.node), piece.xid, expected_end(deed, reached)));
        }
    }
    let settled = cut.settle.iter().map(|s| (s.node.to_string(), s.xid, Some(s.action)));
    let foreign = cut.foreign.iter().map(|f| (f.node.to_string(), f.xid, None));
    let mut got: Vec<_> = settled.chain(foreign).collect();
    let key = |a: &(String, u32, Option<Action>)| (a.0.clone(), a.1);
    want.sort_by_key(key);
    got.sort_by_key(key);
    assert_eq!(got, want, "seed {seed}");
}

fn check_left_out(seed: u64, world: &World, cut: &crate::cut::Cut, start: &[usize], reached: &[usize]) {
    let lost = |at: Option<At>| inside(at, start) && !inside(at, reached);
    let is_out = |deed: &&Deed| {
        let parts = || deed.pieces.iter().map(|piece| piece.commit);
        let kept = match deed.story {
            Story::Decided => inside(deed.decision, reached),
            _ => parts().any(|at| inside(at, reached)),
        };
        !kept && (lost(deed.decision) || parts().any(lost))
    };
    let want = world.deeds.iter().filter(is_out).count();
    assert_eq!(cut.left_out.len(), want, "seed {seed}: {:?}", cut.left_out);
}

fn check_forward(seed: u64, world: &World, known: &Known, oracle: &Oracle, start: &[Lsn]) {
    let counts = world.counts(start);
    let all: Vec<usize> = world.histories.iter().map(|history| history.events.len()).collect();
    let least = oracle.go_on(&counts);
    if product(&counts, &all) <= CUTS_MAX {
        let tried = oracle.try_all(&counts, &all).map(|(_, least)| least);
        assert_eq!(least, tried, "seed {seed}: start {counts:?}");
    }
    match (known.first(start), least) {
        (Ok(cut), Some(least)) => {
            assert_eq!(world.counts(&cut.stop), least, "seed {seed}: start {counts:?}");
            check_settled(seed, world, &cut, &least);
        }
        (Err(Error::TooLate { .. }), None) => {}
        (got, want) => panic!("seed {seed}: got {got:?}, want {want:?}"),
    }
}

/// The same histories in another order of nodes give the same cut.
fn check_order(seed: u64, dice: &mut Dice, world: &World, known: &Known, start: &[Lsn]) {
    let mut order: Vec<usize> = (0..start.len()).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let nodes: Vec<NodeHistory> = order.iter().map(|at| world.histories[*at].clone()).collect();
    let starts: Vec<Lsn> = order.iter().map(|at| start[*at]).collect();
    let cut = known.greatest(start).unwrap();
    let other = Known::new(&nodes).unwrap().greatest(&starts).unwrap();
    for (at, from) in order.iter().enumerate() {
        assert_eq!(other.stop[at], cut.stop[*from], "seed {seed}");
    }
    assert_eq!(other.settle.len(), cut.settle.len(), "seed {seed}");
}

#[test]
fn the_greatest_and_the_first_consistent_cut_are_those_of_brute_force() {
    let first = from_env("PITRUS_SEED", 1);
    for seed in first..first + from_env("PITRUS_HISTORIES", HISTORIES) {
        let mut dice = Dice(seed);
        let shape = shape(&mut dice, 8);
        let world = World::new(&mut dice, &shape);
        let known = Known::new(&world.histories).unwrap();
        let oracle = Oracle::new(&world);
        for _ in 0..3 {
            let start = pick(&mut dice, &world.histories);
            check_back(seed, &world, &known, &oracle, &start);
            check_forward(seed, &world, &known, &oracle, &start);
            check_order(seed, &mut dice, &world, &known, &start);
        }
    }
}

#[test]
fn long_histories_agree_with_a_fixpoint() {
    let first = from_env("PITRUS_SEED", 1);
    for seed in first..first + from_env("PITRUS_HISTORIES", HISTORIES) / 100 {
        let mut dice = Dice(seed);
        let mut shape = Shape { era_micros: 2_000_000, ..shape(&mut dice, 400) };
        if dice.chance(10) {
            // Whether a loss can be known takes the oracle too long there.
            (shape.deeds, shape.losses) = (1000 + dice.below(4000) as usize, false);
            shape.nodes = shape.nodes.min(10);
        }
        let world = World::new(&mut dice, &shape);
        let known = Known::new(&world.histories).unwrap();
        let oracle = Oracle::new(&world);
        for _ in 0..3 {
            let start = pick(&mut dice, &world.histories);
            check_back(seed, &world, &known, &oracle, &start);
            check_forward(seed, &world, &known, &oracle, &start);
        }
    }
}

/// Where known histories begin in the middle, at about one time, transactions are kept whole; and where
/// nothing more is wanted, it is the cut that all of history gives.
#[test]
fn histories_that_begin_in_the_middle_give_no_torn_cut() {
    let (mut same, mut found) = (0, 0);
    let first = from_env("PITRUS_SEED", 1);
    for seed in first..first + from_env("PITRUS_HISTORIES", HISTORIES) {
        let mut dice = Dice(seed);
        let shape =
            Shape { losses: false, alone: false, eras: 1, clock_error_micros: 0, ..shape(&mut dice, 12) };
        let mut world = World::new(&mut dice, &shape);
        let start = pick(&mut dice, &world.histories);
        let truth = Oracle::new(&world).go_back(&world.counts(&start));
        let is_wild = dice.chance(30);
        let when = Moment(dice.between(0, shape.era_micros));
        let mut begin = |(history, kept): (&NodeHistory, &usize)| match is_wild {
            true => dice.below(*kept as u64 + 1) as usize,
            false => history.events.iter().take_while(|e| e.what.time() < Some(when)).count().min(*kept),
        };
        let begin: Vec<usize> = world.histories.iter().zip(&truth).map(&mut begin).collect();
        let mut histories = std::mem::take(&mut world.histories);
        forget(&mut histories, &begin);
        let cut = Known::new(&histories).unwrap().greatest(&start);
        world.histories = histories;
        let Ok(cut) = cut else { continue };
        let kept = world.counts(&cut.stop);
        let counts: Vec<usize> = kept.iter().zip(&begin).map(|(kept, begin)| kept + begin).collect();
        found += 1;
        if cut.wants.is_empty() {
            assert_eq!(counts, truth, "seed {seed}: from {begin:?}");
            same += 1;
        } else if !is_wild {
            assert!(Oracle::new(&world).consistent(&counts), "seed {seed}: {counts:?} from {begin:?}");
        }
    }
    assert!(same > found / 4, "only {same} of {found} were sure");
}
