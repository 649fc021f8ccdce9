//! What a consistent cut must keep, as ties between records: if the later one is inside, so is the
//! earlier one.
//!
//! - A decision inside needs every PREPARE it decides inside (A), and a COMMIT PREPARED inside needs its
//!   decision inside (B).
//! - Parts without a decision anywhere (Citus's whose initiator lost it or is not here, and parts of one gid
//!   on several nodes of a fleet without Citus) are whole among themselves: a COMMIT PREPARED inside needs
//!   every PREPARE inside. A lost decision pins nothing else (D).
//! - Where a node lost its record with a promotion (its new timeline left before it), the record at the other end
//!   needs that promotion inside: up to there the transaction can still be left out whole, and after it the
//!   source itself has it torn.
//! - Where the record at the other end of a tie is not known, it lies before the known history (then it is
//!   inside every cut), or after it (then it is inside none).
//!
//! All ties have one direction, so consistent cuts are closed under union and intersection.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Found, Part, Spot};
use super::order::{Order, Place};
use crate::citus::gid::Transaction;
use crate::moment::Moment;

/// Parts of one gid on several nodes, prepared this long after one of them ended, are another
/// transaction's.
const APART_MAX_MICROS: i64 = 60_000_000;

/// One transaction: decided, or a group of parts without a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    Decision(usize),
    Group(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The later is a COMMIT PREPARED, the earlier its decision.
    Decision,
    /// The later is a decision, the earlier a PREPARE it decides.
    Prepare,
    /// The later is a COMMIT PREPARED, the earlier another node's PREPARE.
    Part,
    /// The later is a COMMIT PREPARED or a decision, the earlier the promotion with which another node lost its own
    /// record.
    Lost,
}

/// If `later` is inside, so is `earlier`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tie<'a> {
    pub(super) later: Spot,
    pub(super) earlier: Spot,
    pub(super) kind: Kind,
    pub(super) gid: &'a str,
    pub(super) owner: Owner,
}

/// A record whose other end lies outside the known history of node `other`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loose<'a> {
    pub(super) spot: Spot,
    pub(super) other: usize,
    pub(super) kind: Kind,
    pub(super) gid: &'a str,
    pub(super) owner: Owner,
}

/// Parts of one transaction without a decision.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) parts: Vec<usize>,
    /// The node that would have decided it, where that is among the nodes.
    pub(super) initiator: Option<usize>,
    /// Where its decision is; `None` without an initiator, and where every part was rolled back.
    pub(super) place: Option<Place>,
}

impl Group {
    fn close(&mut self, found: &Found, order: &Order) -> Group {
        let mut group = std::mem::take(self);
        let parts = || group.parts.iter().map(|at| &found.parts[*at]);
        group.initiator = parts().find_map(|part| part.initiator);
        let live = parts().filter(|part| part.rolled_back().is_none());
        let places = live.filter_map(|part| Some(order.place_of_decision(found, part, part.initiator?)));
        group.place = places.reduce(Place::and);
        group
    }
}

/// All rules that hold for one set of histories.
#[derive(Debug, Default)]
pub(super) struct Rules<'a> {
    pub(super) ties: Vec<Tie<'a>>,
    /// Inside no cut: the other end lies after the known history.
    pub(super) never: Vec<Loose<'a>>,
    /// Inside every cut: the other end lies before the known history.
    pub(super) always: Vec<Loose<'a>>,
    /// Decisions whose PREPARE may lie before the known history of a node.
    pub(super) doubts: Vec<(Spot, usize)>,
    /// Decisions of which a participant has no PREPARE, and never will.
    pub(super) unprepared: Vec<(usize, &'a str)>,
    pub(super) groups: Vec<Group>,
    group_of: HashMap<usize, usize>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(found: &Found<'a>, order: &Order) -> Self {
        let groups = groups(found, order);
        let numbered = groups.iter().enumerate();
        let group_of =
            numbered.flat_map(|(at, group)| group.parts.iter().map(move |part| (*part, at))).collect();
        let mut rules = Rules { groups, group_of, ..Rules::default() };
        rules.add_decided(found, order);
        for at in 0..rules.groups.len() {
            rules.add_group(found, order, at);
        }
        rules
    }

    /// Returns the transaction of a part without a decision.
    pub(super) fn group_of(&self, part: usize) -> Option<&Group> {
        self.groups.get(*self.group_of.get(&part)?)
    }

    fn add_decided(&mut self, found: &Found<'a>, order: &Order) {
        for (at, decision) in found.decisions.iter() {
            let (owner, decided) = (Owner::Decision(at), decision.spot);
            for row in &decision.rows {
                let gid = row.gid;
                if let Some(part) = row.part.map(|part| &found.parts[part]) {
                    if let Some(earlier) = part.prepare {
                        self.ties.push(Tie { later: decided, earlier, kind: Kind::Prepare, gid, owner });
                    }
                    if let Some(finish) = part.committed() {
                        let (later, earlier) = (finish.spot, decided);
                        self.ties.push(Tie { later, earlier, kind: Kind::Decision, gid, owner });
                    }
                    continue;
                }
                let Some(other) = row.participant else { continue };
                let loose = Loose { spot: decided, other, kind: Kind::Prepare, gid, owner };
                let place = order.place_of_prepare(found, decision, other);
                if place.is_doubtful() {
                    self.doubts.push((decided, other));
                }
                match place {
                    Place::Nowhere => {
                        self.unprepared.push((at, gid));
                        let lost = order.lost_with(found, decided.node, other, decision.time);
                        self.add_lost(decided, lost, gid, owner);
                    }
                    Place::After { .. } => self.never.push(loose),
                    Place::Before { .. } => self.always.push(loose),
                }
            }
        }
    }

    fn add_group(&mut self, found: &Found<'a>, order: &Order, at: usize) {
        let Some(group) = self.groups.get(at) else { return };
        let parts: Vec<&Part> = group.parts.iter().map(|part| &found.parts[*part]).collect();
        let owner = Owner::Group(at);
        let (Some(place), Some(other)) = (group.place, group.initiator) else {
            return self.add_whole(&parts, owner);
        };
        let committed = parts.iter().filter_map(|part| Some((part.gid, part.committed()?.spot)));
        let loose = |(gid, spot)| Loose { spot, other, kind: Kind::Decision, gid, owner };
        match place {
            Place::Nowhere => {
                for (part, end) in parts.iter().filter_map(|part| Some((part, part.committed()?))) {
                    let lost = order.lost_with(found, part.node, other, end.time);
                    self.add_lost(end.spot, lost, part.gid, owner);
                }
                self.add_whole(&parts, owner);
            }
            Place::After { .. } => self.never.extend(committed.map(loose)),
            Place::Before { .. } => {
                let live = parts.iter().filter(|part| part.rolled_back().is_none());
                self.always.extend(live.filter_map(|part| Some((part.gid, part.prepare?))).map(loose));
            }
        }
    }

    fn add_lost(&mut self, later: Spot, promotion: Option<Spot>, gid: &'a str, owner: Owner) {
        let tie = |earlier| Tie { later, earlier, kind: Kind::Lost, gid, owner };
        self.ties.extend(promotion.map(tie));
    }

    /// Ties the parts of a transaction without a decision to each other.
    fn add_whole(&mut self, parts: &[&Part<'a>], owner: Owner) {
        if parts.iter().any(|part| part.rolled_back().is_some()) {
            return; // none of its cuts is whole
        }
        let mut prepares: BTreeMap<usize, Spot> = BTreeMap::new();
        for spot in parts.iter().filter_map(|part| part.prepare) {
            let last = prepares.entry(spot.node).or_insert(spot);
            *last = if last.lsn < spot.lsn { spot } else { *last };
        }
        for part in parts {
            let Some(finish) = part.committed() else { continue };
            for earlier in prepares.values().filter(|spot| spot.node != part.node) {
                let (later, earlier) = (finish.spot, *earlier);
                self.ties.push(Tie { later, earlier, kind: Kind::Part, gid: part.gid, owner });
            }
        }
    }
}

/// What tells transactions without a decision apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Name<'a> {
    Citus(Transaction),
    Other(&'a str),
}

/// Gathers the parts without a decision, transaction by transaction. Names repeat: a part begins
/// a new group when the last one has that node's part already, or ended long before.
fn groups(found: &Found, order: &Order) -> Vec<Group> {
    let mut named: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
    for (at, part) in found.parts.iter().filter(|(_, part)| part.decision.is_none()) {
        let name = part.citus.map_or(Name::Other(part.gid), |gid| Name::Citus(gid.transaction()));
        named.entry(name).or_default().push(at);
    }
    let mut groups = Vec::new();
    for (_, mut parts) in named {
        parts.sort_by_key(|at| (found.parts[*at].span().0, *at));
        let mut group = Group::default();
        let mut members: HashSet<(usize, &str)> = HashSet::new();
        let mut end = Moment(i64::MAX);
        for at in parts {
            let part = &found.parts[at];
            let (from, to) = found.known_span(part);
            let is_late = from > end.plus_micros(APART_MAX_MICROS);
            if !members.insert((part.node, part.gid)) || is_late {
                groups.push(group.close(found, order));
                (members, end) = (HashSet::from([(part.node, part.gid)]), Moment(i64::MAX));
            }
            end = end.min(to);
            group.parts.push(at);
        }
        groups.push(group.close(found, order));
    }
    groups
}
