//! The part of one node's WAL that is looked at: it begins around a position and grows where it was too little.

use super::log::Log;
use crate::cut::{NodeHistory, Side};
use crate::ids::{GroupId, NodeName};
use crate::lsn::Lsn;

/// How much WAL on both sides of the position asked for is looked at first, in microseconds: distributed
/// transactions last milliseconds, and clocks are rarely seconds apart.
const LOOK_MICROS: i64 = 10_000_000;
/// A side grows by so much each time it was not enough.
const GROW: i64 = 30;

#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    look_back: i64,
    look_on: i64,
    /// First and last segment looked at.
    seen: (u64, u64),
}

impl View {
    pub(crate) fn new() -> Self {
        View { look_back: LOOK_MICROS, look_on: LOOK_MICROS, seen: (u64::MAX, 0) }
    }

    /// Looks farther to one side next time; returns whether there is anything more.
    pub(crate) fn grow(&mut self, log: &impl Log, side: Side) -> bool {
        let (first, last) = log.ends();
        match side {
            Side::Earlier if self.seen.0 > first => self.look_back = self.look_back.saturating_mul(GROW),
            Side::Later if self.seen.1 < last => self.look_on = self.look_on.saturating_mul(GROW),
            _ => return false,
        }
        true
    }

    /// Returns what is known around `start`.
    pub(crate) async fn history<L: Log>(
        &mut self,
        log: &mut L,
        node: (NodeName, Option<GroupId>),
        start: Lsn,
    ) -> Result<NodeHistory, L::Error> {
        let (lowest, last) = log.ends();
        let at = log.number_of(start).clamp(lowest, last);
        let mut known = log.times(at).await?;
        let mut first = at;
        while first > lowest {
            first -= 1;
            let times = log.times(first).await?;
            known = known.or(times);
            if times.zip(known).is_some_and(|(its, known)| known.min.micros_since(its.max) > self.look_back) {
                break;
            }
        }
        let mut end = at;
        while end < last {
            end += 1;
            let times = log.times(end).await?;
            known = known.or(times);
            if times.zip(known).is_some_and(|(its, known)| its.min.micros_since(known.max) > self.look_on) {
                break;
            }
        }
        self.seen = (first, end);
        log.history(node, (first, end)).await
    }
}
