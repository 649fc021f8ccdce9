//! Which decision belongs to which part.
//!
//! A gid names both, but repeats after a restart of the initiator's server. Where it does, each
//! decision goes with the part nearest in time, after the two clocks' difference, as the gids that occur
//! once show it, is taken off. Here clocks serve to tell repeats apart, and for nothing else.

use std::collections::HashMap;

use super::history::{Found, Table};
use super::nearest::{Candidate, nearest};
use crate::lsn::Lsn;

/// How far a decision may lie outside the span of its part, once the clocks' difference is off. Where it
/// is farther, either a clock was set or they are different uses of one gid: the order of the other pairs tells.
const APART_MAX_MICROS: i64 = 60_000_000;

/// For a participant and an initiator, how far the initiator's clock is ahead, in microseconds.
pub(super) type Clocks = HashMap<(usize, usize), i64>;

/// The parts of a node that have one gid, and the rows that decide such parts: (decision, row).
#[derive(Default)]
struct Uses {
    parts: Vec<usize>,
    rows: Vec<(usize, usize)>,
}

/// Ties parts to decisions in `found`; returns the differences of clocks that it saw.
pub(super) fn pair(found: &mut Found) -> Clocks {
    let mut uses = uses(found);
    let clocks = clocks(found, &uses);
    let near = |_: &Found, outside: i64, _: usize, _: usize| outside <= APART_MAX_MICROS;
    for one in &mut uses {
        one.marry(found, &clocks, false, &near);
    }
    let ties = Ties::new(found);
    let fits = |found: &Found, _: i64, part: usize, decision: usize| ties.fit(found, part, decision);
    for one in uses.iter_mut().filter(|one| !one.rows.is_empty()) {
        one.marry(found, &clocks, false, &fits);
        // A decision whose only part was rolled back: the source itself broke this transaction.
        one.marry(found, &clocks, true, &near);
    }
    clocks
}

/// Judges a pair that is nearest: how far apart, the part, the decision.
type Judge<'j> = dyn Fn(&Found, i64, usize, usize) -> bool + 'j;

impl Uses {
    /// Ties rows to parts that were not rolled back, or that were, and keeps the rows that found none.
    fn marry(&mut self, found: &mut Found, clocks: &Clocks, rolled_back: bool, judge: &Judge) {
        let is_free = |at: &&usize| {
            let part = &found.parts[**at];
            part.decision.is_none() && part.rolled_back().is_some() == rolled_back
        };
        let parts: Vec<usize> = self.parts.iter().filter(is_free).copied().collect();
        let mut parts: Vec<Candidate> = parts
            .into_iter()
            .map(|part| {
                let (from, to) = found.known_span(&found.parts[part]);
                Candidate { from, to, is: (part, 0) }
            })
            .collect();
        let row = |is: (usize, usize)| {
            let decision = &found.decisions[is.0];
            let participant = decision.rows.get(is.1).and_then(|row| row.participant);
            let pair = participant.map(|node| (node, decision.spot.node));
            let ahead = pair.and_then(|pair| clocks.get(&pair)).copied().unwrap_or(0);
            let at = decision.time.plus_micros(ahead.saturating_neg());
            Candidate { from: at, to: at, is }
        };
        let mut rows: Vec<Candidate> = self.rows.drain(..).map(row).collect();
        while let taken @ [_, ..] =
            nearest(&mut parts, &mut rows, |outside, part, row| judge(found, outside, part.0, row.0))
                .as_slice()
        {
            for ((part, _), (decision, row)) in taken {
                found.parts[*part].decision = Some(*decision);
                if let Some(row) = found.decisions[*decision].rows.get_mut(*row) {
                    row.part = Some(*part);
                }
            }
        }
        self.rows.extend(rows.into_iter().map(|row| row.is));
    }
}

/// Pairs found so far, for each participant and initiator: what a further pair must not contradict.
struct Ties {
    pairs: HashMap<(usize, usize), Pairs>,
}

#[derive(Default)]
struct Pairs {
    /// (COMMIT PREPARED, greatest decision of all up to here), rising.
    ended: Vec<(Lsn, Lsn)>,
    /// (PREPARE, least decision of all from here), rising.
    begun: Vec<(Lsn, Lsn)>,
}

impl Ties {
    fn new(found: &Found) -> Self {
        let mut ties = Ties { pairs: HashMap::new() };
        for (_, part) in found.parts.iter() {
            let Some(decision) = part.decision.map(|at| found.decisions[at].spot) else { continue };
            let pairs = ties.pairs.entry((part.node, decision.node)).or_default();
            pairs.ended.extend(part.committed().map(|end| (end.spot.lsn, decision.lsn)));
            pairs.begun.extend(part.prepare.map(|begin| (begin.lsn, decision.lsn)));
        }
        for pairs in ties.pairs.values_mut() {
            pairs.ended.sort_unstable();
            pairs.begun.sort_unstable();
            let mut greatest = Lsn::INVALID;
            for (_, decision) in &mut pairs.ended {
                greatest = greatest.max(*decision);
                *decision = greatest;
            }
            let mut least = Lsn::MAX;
            for (_, decision) in pairs.begun.iter_mut().rev() {
                least = least.min(*decision);
                *decision = least;
            }
        }
        ties
    }

    /// Parts that ended before this one began were decided before it, and those that began after it ended,
    /// after it. Where there is neither, nothing speaks for the pair. Nothing does either while the part is open
    /// and its node's known WAL may end before the decision: the gid may have been prepared once more since.
    fn fit(&self, found: &Found, part: usize, decision: usize) -> bool {
        let (part, decided) = (&found.parts[part], found.decisions[decision].spot);
        let Some(pairs) = self.pairs.get(&(part.node, decided.node)) else { return false };
        let earlier = part.prepare.and_then(|begin| {
            let after = pairs.ended.partition_point(|(end, _)| *end < begin.lsn);
            pairs.ended.get(after.checked_sub(1)?)
        });
        let later = part.committed().and_then(|end| {
            pairs.begun.get(pairs.begun.partition_point(|(begin, _)| *begin <= end.spot.lsn))
        });
        let begin = part.prepare.map(|begin| begin.lsn);
        let is_known_to_decision =
            || pairs.begun.last().is_some_and(|(at, decision)| Some(*at) > begin && *decision > decided.lsn);
        (earlier.is_some() || later.is_some())
            && (part.committed().is_some() || is_known_to_decision())
            && earlier.is_none_or(|(_, lsn)| *lsn < decided.lsn)
            && later.is_none_or(|(_, lsn)| *lsn > decided.lsn)
    }
}

/// Returns all uses of each gid on each node, in an order that depends on nothing but the input.
fn uses(found: &Found) -> Vec<Uses> {
    let mut numbers: HashMap<(usize, &str), usize> = HashMap::new();
    let mut uses: Table<Uses> = Table::default();
    for (at, decision) in found.decisions.iter() {
        for (row_at, row) in decision.rows.iter().enumerate() {
            let Some(participant) = row.participant else { continue };
            let number = *numbers.entry((participant, row.gid)).or_insert_with(|| uses.push(Uses::default()));
            uses[number].rows.push((at, row_at));
        }
    }
    for (at, part) in found.parts.iter() {
        if let Some(number) = numbers.get(&(part.node, part.gid)) {
            uses[*number].parts.push(at);
        }
    }
    uses.into_rows()
}

/// What one transaction tells of two clocks' difference: a decision comes after the PREPARE and before the
/// COMMIT PREPARED.
struct Sample {
    least: i64,
    most: i64,
    likely: i64,
}

/// Returns the least difference that explains all samples; where none does, as after a step of a clock,
/// the middle one.
fn ahead(mut samples: Vec<Sample>) -> i64 {
    let least = samples.iter().map(|sample| sample.least).max().unwrap_or(0);
    let most = samples.iter().map(|sample| sample.most).min().unwrap_or(0);
    if least <= most {
        return 0.clamp(least, most);
    }
    let middle = samples.len() / 2;
    samples.select_nth_unstable_by_key(middle, |sample| sample.likely).1.likely
}

fn clocks(found: &Found, uses: &[Uses]) -> Clocks {
    let mut samples: HashMap<(usize, usize), Vec<Sample>> = HashMap::new();
    for one in uses {
        let ([part], [(decision, _)]) = (one.parts.as_slice(), one.rows.as_slice()) else { continue };
        let (part, decision) = (&found.parts[*part], &found.decisions[*decision]);
        let (own, other) = (part.node, decision.spot.node);
        if own == other || part.prepared_at.is_none() || part.rolled_back().is_some() {
            continue;
        }
        let (from, to) = part.span();
        let (least, most) = (decision.time.micros_since(to), decision.time.micros_since(from));
        if least <= most {
            let likely = part.committed().map_or(most, |_| least / 2 + most / 2);
            samples.entry((own, other)).or_default().push(Sample { least, most, likely });
            let (least, most, likely) =
                (most.saturating_neg(), least.saturating_neg(), likely.saturating_neg());
            samples.entry((other, own)).or_default().push(Sample { least, most, likely });
        }
    }
    samples.into_iter().map(|(pair, samples)| (pair, ahead(samples))).collect()
}
