//! The greatest consistent cut at or before given positions, and the least at or after them.
//!
//! Going back: a node that stops earlier leaves records out; every tie whose earlier record is among them
//! takes its later record out too, which may move another node; until nothing moves. Each tie fires once, so
//! the work is that of sorting the ties. The result does not depend on the order of the work, since
//! consistent cuts are closed under union: the union of all at or before the start is the one reached.

use super::history::Spot;
use super::rules::{Loose, Rules, Tie};
use crate::lsn::Lsn;

/// Something that must move a node, but must not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked<'a> {
    pub(super) loose: Loose<'a>,
    /// The record would have to be inside.
    pub(super) needed: bool,
}

/// Why a node stops where it does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause<'a> {
    Tie(Tie<'a>),
    Loose(Loose<'a>),
}

/// Ties of each node, sorted, with those still to fire on one end.
struct Waiting<'r, 'a> {
    nodes: Vec<Vec<&'r Tie<'a>>>,
}

impl<'r, 'a> Waiting<'r, 'a> {
    /// Files each tie under the node of its trigger, sorted so that the first to fire is popped first.
    fn new(nodes: usize, rules: &'r Rules<'a>, trigger: impl Fn(&Tie) -> Spot, descending: bool) -> Self {
        let mut waiting = Waiting { nodes: vec![Vec::new(); nodes] };
        for tie in &rules.ties {
            if let Some(list) = waiting.nodes.get_mut(trigger(tie).node) {
                list.push(tie);
            }
        }
        for list in &mut waiting.nodes {
            list.sort_by_key(|tie| trigger(tie).lsn);
            if descending {
                list.reverse();
            }
        }
        waiting
    }

    fn pop_if(&mut self, node: usize, fires: impl FnOnce(&Tie) -> bool) -> Option<&'r Tie<'a>> {
        self.nodes.get_mut(node)?.pop_if(|tie| fires(tie))
    }
}

/// One move of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    pub(super) node: usize,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    pub(super) cause: Cause<'a>,
}

/// The positions reached, and every move on the way there, in order.
pub(super) struct Reached<'a> {
    pub(super) stops: Vec<Lsn>,
    pub(super) steps: Vec<Step<'a>>,
}

impl<'a> Reached<'a> {
    fn new(start: &[Lsn]) -> Self {
        Reached { stops: start.to_vec(), steps: Vec::new() }
    }

    fn stop(&self, node: usize) -> Lsn {
        self.stops.get(node).copied().unwrap_or(Lsn::INVALID)
    }

    fn set(&mut self, node: usize, stop: Lsn, cause: Cause<'a>) {
        if let Some(own) = self.stops.get_mut(node) {
            self.steps.push(Step { node, from: *own, to: stop, cause });
            *own = stop;
        }
    }

    /// Leaves a record out; returns whether that moved its node.
    fn leave_out(&mut self, spot: Spot, cause: Cause<'a>) -> bool {
        let moves = spot.inside(&self.stops);
        if moves {
            self.set(spot.node, spot.lsn, cause);
        }
        moves
    }

    /// Takes a record in; returns whether that moved its node.
    fn take_in(&mut self, spot: Spot, cause: Cause<'a>) -> bool {
        let moves = !spot.inside(&self.stops);
        if moves {
            self.set(spot.node, spot.end, cause);
        }
        moves
    }
}

/// Returns the greatest consistent cut at or before `start`.
pub(super) fn back<'a>(rules: &Rules<'a>, start: &[Lsn]) -> Result<Reached<'a>, Blocked<'a>> {
    let mut reached = Reached::new(start);
    let mut waiting = Waiting::new(start.len(), rules, |tie| tie.earlier, false);
    for loose in &rules.never {
        reached.leave_out(loose.spot, Cause::Loose(*loose));
    }
    let mut moved: Vec<usize> = (0..start.len()).collect();
    while let Some(node) = moved.pop() {
        while let Some(tie) = waiting.pop_if(node, |tie| tie.earlier.lsn >= reached.stop(node)) {
            if reached.leave_out(tie.later, Cause::Tie(*tie)) {
                moved.push(tie.later.node);
            }
        }
    }
    match rules.always.iter().find(|loose| !loose.spot.inside(&reached.stops)) {
        Some(loose) => Err(Blocked { loose: *loose, needed: true }),
        None => Ok(reached),
    }
}

/// Returns the least consistent cut at or after `start`.
pub(super) fn forward<'a>(rules: &Rules<'a>, start: &[Lsn]) -> Result<Reached<'a>, Blocked<'a>> {
    let mut reached = Reached::new(start);
    let mut waiting = Waiting::new(start.len(), rules, |tie| tie.later, true);
    for loose in &rules.always {
        reached.take_in(loose.spot, Cause::Loose(*loose));
    }
    let mut moved: Vec<usize> = (0..start.len()).collect();
    while let Some(node) = moved.pop() {
        while let Some(tie) = waiting.pop_if(node, |tie| tie.later.lsn < reached.stop(node)) {
            if reached.take_in(tie.earlier, Cause::Tie(*tie)) {
                moved.push(tie.earlier.node);
            }
        }
    }
    match rules.never.iter().find(|loose| loose.spot.inside(&reached.stops)) {
        Some(loose) => Err(Blocked { loose: *loose, needed: false }),
        None => Ok(reached),
    }
}
