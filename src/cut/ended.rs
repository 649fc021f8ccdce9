//! Where one transaction became final: what a cut before it has to leave out.

use super::history::Found;
use super::look::find::Wanted;
use super::rules::Rules;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// Parts and decisions of one use of a name are not farther apart than this.
const APART_MICROS: i64 = 60_000_000;

/// A record that makes a transaction final: its decision, or where nobody decided, a COMMIT PREPARED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// By its number among the histories.
    pub(crate) node: usize,
    pub(crate) lsn: Lsn,
    pub(crate) time: Moment,
}

pub(super) fn of(found: &Found, rules: &Rules, wanted: &Wanted<'_>, near: Moment) -> Vec<Ended> {
    let decided =
        found.decisions.iter().filter(|(_, decision)| decision.rows.iter().any(|row| wanted.is(row.gid)));
    let decided = decided.map(|(_, decision)| Ended {
        node: decision.spot.node,
        lsn: decision.spot.lsn,
        time: decision.time,
    });
    let parts = rules.groups.iter().flat_map(|group| &group.parts).map(|at| &found.parts[*at]);
    let committed = parts.filter(|part| wanted.is(part.gid)).filter_map(|part| {
        let end = part.committed()?;
        Some(Ended { node: part.node, lsn: end.spot.lsn, time: end.time })
    });
    let mut all: Vec<Ended> = decided.chain(committed).collect();
    let apart = |one: &Ended| one.time.micros_since(near).abs();
    let nearest = all.iter().map(apart).min().unwrap_or(0);
    all.retain(|one| apart(one) <= nearest.saturating_add(APART_MICROS));
    all
}
