//! Did a record that is not in a node's known history come before it, or will it come after it?
//!
//! Every matched transaction orders records of two nodes: PREPARE, then decision, then COMMIT PREPARED.
//! A part committed before a later PREPARE of the same node, whose decision is known, was decided
//! before that known decision; so if its own decision is not known it never will be. Such proofs need no
//! clock. Where there is none, the time stamps speak, within [`APART_MAX_MICROS`].

use std::collections::HashMap;

use super::history::{Decision, Found, Part, Spot};
use super::pairing::Clocks;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// Clocks of two nodes are never farther apart than this, once their known difference is off: generous, since
/// a clock may be set while nothing else shows it.
const APART_MAX_MICROS: i64 = 300_000_000;

/// Where a record is that the known history of its node does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the known history; `sure` is false where only the order of time stamps says so.
    Before { sure: bool },
    /// After the known history, or nothing tells otherwise.
    After { after_start: bool },
    /// Nowhere: the known history covers its time.
    Nowhere,
}

impl Place {
    /// Returns whether history before what is known might hold the record.
    pub(super) fn is_doubtful(self) -> bool {
        matches!(self, Place::Before { sure: false } | Place::After { after_start: false })
    }

    /// Joins what two parts of one transaction tell of its one decision.
    pub(super) fn and(self, other: Place) -> Place {
        use Place::{After, Before, Nowhere};
        match (self, other) {
            (Nowhere, _) | (_, Nowhere) => Nowhere,
            (After { after_start: true }, Before { sure: true })
            | (Before { sure: true }, After { after_start: true }) => Nowhere,
            (Before { sure: true }, _) | (_, Before { sure: true }) => Before { sure: true },
            (After { after_start: a }, After { after_start: b }) => After { after_start: a || b },
            (After { after_start }, Before { .. }) | (Before { .. }, After { after_start }) => {
                After { after_start }
            }
            (Before { .. }, Before { .. }) => Before { sure: false },
        }
    }
}

/// For a first and a second node, what ties a record of the first to known records of the second.
#[derive(Debug, Default)]
struct Bond {
    /// The least position on the first node that comes after some known record of the second.
    follows: Option<Lsn>,
    /// The greatest position on the first node that comes before some known record of the second.
    precedes: Option<Lsn>,
}

/// The order between nodes, as matched transactions prove it.
#[derive(Debug)]
pub(super) struct Order {
    bonds: HashMap<(usize, usize), Bond>,
    clocks: Clocks,
}

impl Order {
    pub(super) fn new(found: &Found, clocks: Clocks) -> Self {
        let mut order = Order { bonds: HashMap::new(), clocks };
        for (_, part) in found.parts.iter() {
            let Some(decision) = part.decision.map(|at| &found.decisions[at]) else { continue };
            let decided = decision.spot;
            if let Some(prepare) = part.prepare {
                order.comes_after(prepare.node, prepare.lsn, decided.node, decided.lsn);
            }
            if let Some(finish) = part.committed() {
                order.comes_after(decided.node, decided.lsn, part.node, finish.spot.lsn);
            }
        }
        order
    }

    /// Notes that `after` on one node comes after `before` on another.
    fn comes_after(&mut self, first: usize, before: Lsn, second: usize, after: Lsn) {
        let bond = self.bonds.entry((second, first)).or_default();
        bond.follows = Some(bond.follows.map_or(after, |lsn| lsn.min(after)));
        let bond = self.bonds.entry((first, second)).or_default();
        bond.precedes = Some(bond.precedes.map_or(before, |lsn| lsn.max(before)));
    }

    fn follows(&self, first: usize, second: usize) -> Option<Lsn> {
        self.bonds.get(&(first, second)).and_then(|bond| bond.follows)
    }

    fn precedes(&self, first: usize, second: usize) -> Option<Lsn> {
        self.bonds.get(&(first, second)).and_then(|bond| bond.precedes)
    }

    /// Returns where the decision of an unmatched part is, on its initiator.
    pub(super) fn place_of_decision(&self, found: &Found, part: &Part, initiator: usize) -> Place {
        let follows = self.follows(part.node, initiator);
        let after_start = part.prepare.is_some_and(|p| follows.is_some_and(|lsn| lsn < p.lsn));
        let precedes = self.precedes(part.node, initiator);
        let before_end = part.committed().is_some_and(|q| precedes.is_some_and(|lsn| lsn > q.spot.lsn));
        let (from, to) = part.span();
        self.place(found, (part.node, initiator), (after_start, before_end), (from, to))
    }

    /// Returns where the PREPARE of an unmatched row is, on its participant.
    pub(super) fn place_of_prepare(&self, found: &Found, decision: &Decision, participant: usize) -> Place {
        let spot = decision.spot;
        // Its COMMIT PREPARED comes after the decision, and its PREPARE before it.
        let after_start = self.follows(spot.node, participant).is_some_and(|lsn| lsn <= spot.lsn);
        let before_end = self.precedes(spot.node, participant).is_some_and(|lsn| lsn >= spot.lsn);
        let span = (decision.time, decision.time);
        self.place(found, (spot.node, participant), (after_start, before_end), span)
    }

    /// Returns the promotion with which a record may have been lost that the known WAL of `second` should hold:
    /// the nearest to `time`, which is read on the clock of `first`.
    pub(super) fn lost_with(&self, found: &Found, first: usize, second: usize, time: Moment) -> Option<Spot> {
        let ahead = self.clocks.get(&(first, second)).copied().unwrap_or(0);
        let apart = |at: Moment| time.plus_micros(ahead).micros_since(at).abs();
        let near = found.promotions[second].iter().filter(|(_, at)| apart(*at) <= APART_MAX_MICROS);
        near.min_by_key(|(_, at)| apart(*at)).map(|(spot, _)| *spot)
    }

    /// Judges by proofs, then by time stamps: `(from, to)` is read on the first node's clock.
    fn place(
        &self,
        found: &Found,
        (first, second): (usize, usize),
        (after_start, before_end): (bool, bool),
        (from, to): (Moment, Moment),
    ) -> Place {
        let Some(known) = found.times[second] else {
            return if before_end { Place::Before { sure: true } } else { Place::After { after_start } };
        };
        let ahead = self.clocks.get(&(first, second)).copied().unwrap_or(0);
        let (from, to) = (from.plus_micros(ahead), to.plus_micros(ahead));
        let after_start = after_start || from > known.min.plus_micros(APART_MAX_MICROS);
        let before_end = before_end || to.plus_micros(APART_MAX_MICROS) < known.max;
        match (after_start, before_end) {
            (true, true) => Place::Nowhere,
            (true, false) => Place::After { after_start },
            (false, true) => Place::Before { sure: true },
            (false, false) if from < known.min && to <= known.max => Place::Before { sure: false },
            (false, false) => Place::After { after_start },
        }
    }
}
