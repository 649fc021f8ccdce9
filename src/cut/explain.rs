//! From a cut and the moves that led to it to what explains it.

use std::collections::BTreeMap;

use super::Known;
use super::explanation::{Chain, Explanation, Part, Stands, Straddling};
use super::history::{self, Spot};
use super::rules::{Loose, Tie};
use super::search::{Cause, Reached, Step};
use crate::lsn::Lsn;
use crate::moment::Moment;

/// Chains are told up to so many moves.
const CHAIN_MAX: usize = 20;

impl Known<'_> {
    pub(super) fn explanation(&self, start: &[Lsn], reached: &Reached) -> Explanation {
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        last.extend(reached.steps.iter().enumerate().map(|(at, step)| (step.node, at)));
        let chains = last.into_values().map(|at| self.chain(start, &reached.steps, at)).collect();
        Explanation { chains, straddling: self.straddling(start, &reached.stops) }
    }

    /// Follows a move to the one that made it necessary: the first that put the other end of the tie on its side.
    fn chain(&self, start: &[Lsn], steps: &[Step], at: usize) -> Chain {
        let mut chain = Chain { moves: Vec::new(), began: None };
        let mut next = steps.get(at).map(|step| (at, step));
        while let Some((at, step)) = next.filter(|_| chain.moves.len() < CHAIN_MAX) {
            chain.moves.push(self.step(step));
            let is_onward = step.to > step.from;
            let trigger = match step.cause {
                Cause::Tie(Tie { later, .. }) if is_onward => later,
                Cause::Tie(Tie { earlier, .. }) => earlier,
                Cause::Loose(Loose { .. }) => return chain,
            };
            if trigger.inside(start) == is_onward {
                chain.began = Some(self.name(trigger.node));
                return chain;
            }
            let passed = |step: &Step| step.node == trigger.node && (trigger.lsn < step.to) == is_onward;
            next = steps.iter().enumerate().take(at).find(|(_, step)| passed(step));
        }
        chain
    }

    fn straddling(&self, start: &[Lsn], stops: &[Lsn]) -> Vec<Straddling> {
        let found = &self.found;
        let mut all: Vec<(Moment, Straddling)> = Vec::new();
        for (_, decision) in found.decisions.iter() {
            let parts: Vec<&history::Part> =
                decision.rows.iter().filter_map(|row| Some(&found.parts[row.part?])).collect();
            let decided = Some((decision.spot, decision.time));
            if straddles(decided, &parts, start) || straddles(decided, &parts, stops) {
                let kept = decision.spot.inside(stops);
                all.push((decision.time, self.told(decided, &parts, kept, (start, stops))));
            }
        }
        for group in &self.rules.groups {
            let parts: Vec<&history::Part> = group.parts.iter().map(|at| &found.parts[*at]).collect();
            let is_own = group.initiator.is_none() && self.nodes_of(group).len() < 2;
            if is_own || !(straddles(None, &parts, start) || straddles(None, &parts, stops)) {
                continue;
            }
            let kept = parts.iter().any(|part| part.committed().is_some_and(|end| end.spot.inside(stops)));
            let time = parts.iter().filter_map(|part| part.prepared_at).min().unwrap_or(Moment(0));
            all.push((time, self.told(None, &parts, kept, (start, stops))));
        }
        all.sort_by_key(|(time, _)| *time);
        all.into_iter().map(|(_, one)| one).collect()
    }

    fn told(
        &self,
        decided: Option<(Spot, Moment)>,
        parts: &[&history::Part],
        kept: bool,
        (start, stops): (&[Lsn], &[Lsn]),
    ) -> Straddling {
        let stands = |(spot, time): (Spot, Moment)| Stands {
            node: self.name(spot.node),
            lsn: spot.lsn,
            time,
            inside_asked: spot.inside(start),
            inside_cut: spot.inside(stops),
        };
        let part = |part: &&history::Part| Part {
            node: self.name(part.node),
            gid: part.gid.to_owned(),
            prepared: part.prepare.zip(part.prepared_at).map(stands),
            ended: part.finish.map(|end| stands((end.spot, end.time))),
            committed: part.committed().is_some(),
        };
        Straddling { decision: decided.map(stands), parts: parts.iter().map(part).collect(), kept }
    }
}

/// Returns whether positions hold some of a transaction's records and not all.
fn straddles(decided: Option<(Spot, Moment)>, parts: &[&history::Part], stops: &[Lsn]) -> bool {
    let decided = decided.map(|(spot, _)| spot.inside(stops));
    // What lies before the known history is inside, what lies after it is not.
    let prepared = parts.iter().map(|part| part.prepare.is_none_or(|spot| spot.inside(stops)));
    let ended = parts.iter().map(|part| part.finish.is_some_and(|end| end.spot.inside(stops)));
    let mut sides = decided.into_iter().chain(prepared).chain(ended);
    let first = sides.next();
    sides.any(|side| Some(side) != first)
}
