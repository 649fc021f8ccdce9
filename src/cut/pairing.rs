//! Which decision belongs to which part.
//!
//! A gid names both, but repeats after a restart of the initiator's server. Where it does, each
//! decision goes with the part nearest in time, after the two clocks' difference, as the gids that occur
//! once show it, is taken off. Here clocks serve to tell repeats apart, and for nothing else.

use std::collections::HashMap;

use super::history::{Found, Table};
use crate::moment::Moment;

/// How far a decision may lie outside the span of its part, once the clocks' difference is off.
/// Farther, they are different uses of one gid.
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
    let uses = uses(found);
    let clocks = clocks(found, &uses);
    for one in uses {
        let (live, dead): (Vec<usize>, Vec<usize>) =
            one.parts.iter().partition(|at| found.parts[**at].rolled_back().is_none());
        let left = marry(found, &clocks, live, one.rows);
        // A decision whose only part was rolled back: the source itself broke this transaction.
        marry(found, &clocks, dead, left);
    }
    clocks
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

/// What matched transactions tell of two clocks' difference: a decision comes after the PREPARE and before
/// the COMMIT PREPARED, so it lies between two bounds.
#[derive(Default)]
struct Samples {
    bounds: Vec<(i64, i64)>,
}

impl Samples {
    /// Returns the least difference that explains all samples; where none does, as after a step of a clock, a
    /// middling one.
    fn ahead(mut self) -> i64 {
        let least = self.bounds.iter().map(|bounds| bounds.0).max().unwrap_or(0);
        let most = self.bounds.iter().map(|bounds| bounds.1).min().unwrap_or(0);
        if least <= most {
            return 0.clamp(least, most);
        }
        let middle = self.bounds.len() / 2;
        self.bounds.select_nth_unstable_by_key(middle, |bounds| bounds.1).1.1
    }
}

fn clocks(found: &Found, uses: &[Uses]) -> Clocks {
    let mut samples: HashMap<(usize, usize), Samples> = HashMap::new();
    for one in uses {
        let ([part], [(decision, _)]) = (one.parts.as_slice(), one.rows.as_slice()) else { continue };
        let (part, decision) = (&found.parts[*part], &found.decisions[*decision]);
        if part.prepared_at.is_none() || part.rolled_back().is_some() {
            continue;
        }
        let (from, to) = part.span();
        let (least, most) = (decision.time.micros_since(to), decision.time.micros_since(from));
        if least <= most {
            let (there, back) = ((part.node, decision.spot.node), (decision.spot.node, part.node));
            samples.entry(there).or_default().bounds.push((least, most));
            samples.entry(back).or_default().bounds.push((most.saturating_neg(), least.saturating_neg()));
        }
    }
    samples.into_iter().map(|(pair, samples)| (pair, samples.ahead())).collect()
}

/// One use of a gid: a part's span, or the moment of a decision, on the part's clock.
struct Candidate<T> {
    from: Moment,
    to: Moment,
    is: T,
}

/// Ties rows to parts that are nearest to each other; returns the rows that found none.
fn marry(
    found: &mut Found,
    clocks: &Clocks,
    parts: Vec<usize>,
    rows: Vec<(usize, usize)>,
) -> Vec<(usize, usize)> {
    let mut parts: Vec<Candidate<usize>> = parts
        .into_iter()
        .map(|is| {
            let (from, to) = found.known_span(&found.parts[is]);
            Candidate { from, to, is }
        })
        .collect();
    let mut rows: Vec<Candidate<(usize, usize)>> = rows
        .into_iter()
        .map(|is| {
            let decision = &found.decisions[is.0];
            let participant = decision.rows.get(is.1).and_then(|row| row.participant);
            let pair = participant.map(|node| (node, decision.spot.node));
            let ahead = pair.and_then(|pair| clocks.get(&pair)).copied().unwrap_or(0);
            let at = decision.time.plus_micros(ahead.saturating_neg());
            Candidate { from: at, to: at, is }
        })
        .collect();
    parts.sort_by_key(|part| (part.from, part.is));
    rows.sort_by_key(|row| (row.from, row.is));
    loop {
        let pairs = mutual(&parts, &rows);
        if pairs.is_empty() {
            return rows.into_iter().map(|row| row.is).collect();
        }
        let mut row_taken = vec![false; rows.len()];
        let mut part_taken = vec![false; parts.len()];
        for (row_at, part_at) in pairs {
            let (Some(row), Some(part)) = (rows.get(row_at), parts.get(part_at)) else { continue };
            tie(found, row.is, part.is);
            row_taken.iter_mut().skip(row_at).take(1).for_each(|t| *t = true);
            part_taken.iter_mut().skip(part_at).take(1).for_each(|t| *t = true);
        }
        let mut taken = row_taken.into_iter();
        rows.retain(|_| !taken.next().unwrap_or(false));
        let mut taken = part_taken.into_iter();
        parts.retain(|_| !taken.next().unwrap_or(false));
    }
}

fn tie(found: &mut Found, (decision, row): (usize, usize), part: usize) {
    found.parts[part].decision = Some(decision);
    if let Some(row) = found.decisions[decision].rows.get_mut(row) {
        row.part = Some(part);
    }
}

/// Returns the pairs (row, part) of which each is the nearest to the other. Both lists are sorted by time,
/// and spans of parts of one gid on one node do not overlap, so the nearest is a neighbour.
fn mutual(parts: &[Candidate<usize>], rows: &[Candidate<(usize, usize)>]) -> Vec<(usize, usize)> {
    let nearest_part = |row: &Candidate<(usize, usize)>| {
        let after = parts.partition_point(|part| part.from <= row.from);
        let near = [after.checked_sub(1), Some(after)].into_iter().flatten();
        near.filter_map(|at| Some((distance(parts.get(at)?, row.from), at))).min()
    };
    let nearest_row = |part: &Candidate<usize>| {
        let after = rows.partition_point(|row| row.from < part.from);
        let near = [after.checked_sub(1), Some(after)].into_iter().flatten();
        near.filter_map(|at| Some((distance(part, rows.get(at)?.from), at))).min()
    };
    let mut pairs = Vec::new();
    for (row_at, row) in rows.iter().enumerate() {
        let Some(((outside, _), part_at)) = nearest_part(row) else { continue };
        let back = parts.get(part_at).and_then(nearest_row);
        if outside <= APART_MAX_MICROS && back.is_some_and(|(_, at)| at == row_at) {
            pairs.push((row_at, part_at));
        }
    }
    pairs
}

/// Returns how far `at` lies outside the part's span, and then how far from its PREPARE.
fn distance(part: &Candidate<usize>, at: Moment) -> (i64, u64) {
    let outside = part.from.micros_since(at).max(at.micros_since(part.to)).max(0);
    (outside, at.micros_since(part.from).unsigned_abs())
}
