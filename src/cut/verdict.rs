//! What a cut means for each transaction: settled, left out, foreign, broken in the source, or torn.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Part, Spot};
use super::order::Place;
use super::outcome::{Action, Cut, Fault, Foreign, LeftOut, Move, Orphan, Reason, Settle, Side, Torn, Want};
use super::rules::{Group, Kind, Loose, Owner, Tie};
use super::search::{Cause, Reached, Step};
use super::{Error, Known};
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// What becomes of a part that is prepared at the cut.
enum Fate {
    Settle(Action),
    LeaveAlone,
}

impl Known<'_> {
    pub(super) fn cut(&self, start: &[Lsn], reached: &Reached) -> Cut {
        let stops = reached.stops.as_slice();
        let (mut settle, mut foreign) = (Vec::new(), Vec::new());
        for (at, part) in self.found.parts.iter().filter(|(_, part)| part.prepared(stops)) {
            let (node, database, xid) = (self.name(part.node), part.database, part.xid);
            let gid = part.gid.to_owned();
            match self.fate(at, part, stops) {
                Fate::Settle(action) => settle.push(Settle { node, database, xid, gid, action }),
                Fate::LeaveAlone => foreign.push(Foreign { node, database, xid, gid }),
            }
        }
        Cut {
            stop: stops.to_vec(),
            moves: self.moves(start, reached),
            settle,
            left_out: self.left_out(start, stops),
            foreign,
            orphans: self.orphans(stops),
            wants: self.wants(start, stops),
        }
    }

    fn fate(&self, at: usize, part: &Part, stops: &[Lsn]) -> Fate {
        let decided = part.decision.map(|decision| self.found.decisions[decision].spot.inside(stops));
        let action = match decided {
            Some(true) => Action::Commit,
            Some(false) => Action::Rollback,
            None => {
                let Some(group) = self.rules.group_of(at) else {
                    return Fate::LeaveAlone;
                };
                if group.initiator.is_none() && self.nodes_of(group).len() < 2 {
                    return Fate::LeaveAlone;
                }
                self.undecided(group, part, stops)
            }
        };
        Fate::Settle(action)
    }

    /// Returns how a part without a known decision ends: as its siblings did inside the cut; else it is
    /// rolled back, unless the decision lies before what is known.
    fn undecided(&self, group: &Group, part: &Part, stops: &[Lsn]) -> Action {
        let siblings = || group.parts.iter().map(|at| &self.found.parts[*at]);
        if siblings().any(|sibling| sibling.committed().is_some_and(|q| q.spot.inside(stops))) {
            return Action::Commit;
        }
        match group.place {
            _ if part.rolled_back().is_some() => Action::Rollback,
            Some(Place::Before { sure: true }) => Action::Commit,
            Some(Place::Before { sure: false } | Place::After { after_start: false }) => Action::AsCatalogue,
            Some(Place::After { after_start: true } | Place::Nowhere) | None => Action::Rollback,
        }
    }

    pub(super) fn nodes_of(&self, group: &Group) -> BTreeSet<usize> {
        group.parts.iter().map(|at| self.found.parts[*at].node).collect()
    }

    fn moves(&self, start: &[Lsn], reached: &Reached) -> Vec<Move> {
        let mut last: BTreeMap<usize, &Step> = BTreeMap::new();
        last.extend(reached.steps.iter().map(|step| (step.node, step)));
        let moved = last.into_values().filter_map(|step| {
            let from = *start.get(step.node)?;
            Some(Move { from, ..self.step(step) })
        });
        moved.filter(|one| one.from != one.to).collect()
    }

    pub(super) fn step(&self, step: &Step) -> Move {
        let Step { node, from, to, cause } = *step;
        Move { node: self.name(node), from, to, because: self.reason(cause, to > from) }
    }

    fn reason(&self, cause: Cause, forward: bool) -> Reason {
        match cause {
            Cause::Tie(Tie { later, gid, .. }) if forward => {
                Reason::Needed { gid: gid.to_owned(), by: self.name(later.node), at: later.lsn }
            }
            Cause::Loose(Loose { gid, other, .. }) if forward => {
                let at = self.history(other).earliest;
                Reason::Needed { gid: gid.to_owned(), by: self.name(other), at }
            }
            Cause::Tie(Tie { earlier, kind, gid, .. }) => {
                let (gid, other, at) = (gid.to_owned(), self.name(earlier.node), earlier.lsn);
                match kind {
                    Kind::Decision => Reason::UndecidedInside { gid, initiator: other, decision: at },
                    Kind::Prepare => Reason::UnpreparedInside { gid, participant: other, prepare: at },
                    Kind::Part => Reason::PartOutside { gid, other, prepare: at },
                    Kind::Lost => Reason::LostWithPromotion { gid, other, promotion: at },
                }
            }
            Cause::Loose(Loose { other, kind, gid, .. }) => {
                let (gid, end, other) = (gid.to_owned(), self.history(other).end, self.name(other));
                match kind {
                    Kind::Prepare => Reason::PrepareUnknown { gid, participant: other, end },
                    Kind::Decision | Kind::Part | Kind::Lost => {
                        Reason::DecisionUnknown { gid, initiator: other, end }
                    }
                }
            }
        }
    }

    /// Lists transactions of which something final was inside `start`, and nothing is inside `stops`.
    fn left_out(&self, start: &[Lsn], stops: &[Lsn]) -> Vec<LeftOut> {
        let lost = |spot: Spot| spot.inside(start) && !spot.inside(stops);
        let mut all = Vec::new();
        for (_, decision) in self.found.decisions.iter() {
            let rows = decision.rows.iter();
            let parts: Vec<&Part> =
                rows.clone().filter_map(|row| Some(&self.found.parts[row.part?])).collect();
            let committed = parts.iter().any(|part| part.committed().is_some_and(|q| lost(q.spot)));
            if !decision.spot.inside(stops) && (lost(decision.spot) || committed) {
                all.push(LeftOut {
                    initiator: Some(self.name(decision.spot.node)),
                    decision: Some(decision.spot.lsn),
                    time: decision.time,
                    gids: rows.clone().map(|row| row.gid.to_owned()).collect(),
                    participants: self.names(rows.filter_map(|row| row.participant)),
                });
            }
        }
        for group in &self.rules.groups {
            let ends = group.parts.iter().filter_map(|at| self.found.parts[*at].committed());
            let first = ends.clone().filter(|end| lost(end.spot)).map(|end| end.time).min();
            let Some(time) = first else { continue };
            if !ends.clone().any(|end| end.spot.inside(stops)) {
                all.push(LeftOut {
                    initiator: group.initiator.map(|node| self.name(node)),
                    decision: None,
                    time,
                    gids: self.gids(group),
                    participants: self.names(self.nodes_of(group)),
                });
            }
        }
        all.sort_by_key(|one| one.time);
        all
    }

    fn orphans(&self, stops: &[Lsn]) -> Vec<Orphan> {
        let mut all = Vec::new();
        for (at, part) in self.found.parts.iter() {
            let Some(finish) = part.finish.filter(|finish| finish.spot.inside(stops)) else { continue };
            let group = self.rules.group_of(at);
            let Some(fault) = self.fault(part, finish.committed, group) else { continue };
            let (node, gid) = (self.name(part.node), part.gid.to_owned());
            all.push(Orphan { node, gid, at: finish.spot.lsn, time: finish.time, fault });
        }
        for (at, gid) in &self.rules.unprepared {
            let decision = &self.found.decisions[*at];
            if decision.spot.inside(stops) {
                let (node, gid, at) = (self.name(decision.spot.node), (*gid).to_owned(), decision.spot.lsn);
                all.push(Orphan { node, gid, at, time: decision.time, fault: Fault::NoPrepare });
            }
        }
        all
    }

    fn fault(&self, part: &Part, committed: bool, group: Option<&Group>) -> Option<Fault> {
        if part.decision.is_some() {
            return (!committed).then_some(Fault::RolledBack);
        }
        let group = group.filter(|_| committed)?;
        let rolled_back = |at: &usize| self.found.parts[*at].rolled_back().is_some();
        match group.place {
            Some(Place::Nowhere) => Some(Fault::NoDecision),
            None if group.parts.iter().any(rolled_back) => Some(Fault::Mixed),
            _ => None,
        }
    }

    /// Lists where more history would replace a guess, or an end of the archive, by knowledge.
    fn wants(&self, start: &[Lsn], stops: &[Lsn]) -> Vec<Want> {
        let mut wants = BTreeSet::new();
        for loose in self.rules.never.iter().filter(|loose| loose.spot.inside(start)) {
            wants.insert((loose.other, Side::Later));
        }
        for (_, other) in self.rules.doubts.iter().filter(|(spot, _)| spot.inside(start)) {
            wants.insert((*other, Side::Earlier));
        }
        for group in &self.rules.groups {
            let is_open = group.place.is_some_and(Place::is_doubtful);
            let mut parts = group.parts.iter().map(|at| &self.found.parts[*at]);
            let matters = |part: &Part| {
                part.prepared(stops) || part.committed().is_some_and(|end| end.spot.inside(start))
            };
            if let (true, Some(initiator)) = (is_open && parts.any(matters), group.initiator) {
                wants.insert((initiator, Side::Earlier));
            }
        }
        wants.into_iter().map(|(node, side)| Want { node: self.name(node), side }).collect()
    }

    /// Returns the transactions that `stops` would tear.
    pub fn torn(&self, stops: &[Lsn]) -> Result<Vec<Torn>, Error> {
        self.check(stops)?;
        let mut sides: BTreeMap<Owner, (BTreeSet<usize>, BTreeSet<usize>)> = BTreeMap::new();
        let mut tear = |owner, kept, lost| {
            let (on, off) = sides.entry(owner).or_default();
            on.insert(kept);
            off.insert(lost);
        };
        for tie in self.rules.ties.iter().filter(|tie| tie.later.inside(stops) && !tie.earlier.inside(stops))
        {
            tear(tie.owner, tie.later.node, tie.earlier.node);
        }
        for loose in self.rules.never.iter().filter(|loose| loose.spot.inside(stops)) {
            tear(loose.owner, loose.spot.node, loose.other);
        }
        for loose in self.rules.always.iter().filter(|loose| !loose.spot.inside(stops)) {
            tear(loose.owner, loose.other, loose.spot.node);
        }
        let torn = sides.into_iter().map(|(owner, (kept, lost))| {
            let (gids, time) = self.owner(owner);
            Torn { gids, time, kept_on: self.names(kept), lost_on: self.names(lost) }
        });
        let mut torn: Vec<Torn> = torn.collect();
        torn.sort_by_key(|one| one.time);
        Ok(torn)
    }

    fn owner(&self, owner: Owner) -> (Vec<String>, Moment) {
        match owner {
            Owner::Decision(at) => {
                let decision = &self.found.decisions[at];
                (decision.rows.iter().map(|row| row.gid.to_owned()).collect(), decision.time)
            }
            Owner::Group(at) => {
                let group = self.rules.groups.get(at);
                let parts = group.into_iter().flat_map(|group| &group.parts);
                let ends = parts.filter_map(|part| self.found.parts[*part].finish.map(|end| end.time));
                (group.map(|group| self.gids(group)).unwrap_or_default(), ends.min().unwrap_or(Moment(0)))
            }
        }
    }

    fn gids(&self, group: &Group) -> Vec<String> {
        let gids: BTreeSet<&str> = group.parts.iter().map(|at| self.found.parts[*at].gid).collect();
        gids.into_iter().map(str::to_owned).collect()
    }

    fn names(&self, nodes: impl IntoIterator<Item = usize>) -> Vec<NodeName> {
        let nodes: BTreeSet<usize> = nodes.into_iter().collect();
        nodes.into_iter().map(|node| self.name(node)).collect()
    }
}
