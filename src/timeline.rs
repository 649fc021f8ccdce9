//! Timelines: which branch of history a WAL position belongs to.
//!
//! A history file (`00000003.history`) lists for each ancestor the position at which the next
//! branch left it (PostgreSQL `src/backend/access/transam/timeline.c`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// A timeline's number; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One ancestor: WAL before `end` belongs to `timeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub timeline: TimelineId,
    /// Where the next timeline branched off.
    pub end: Lsn,
}

/// A timeline and its ancestors, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub timeline: TimelineId,
    pub ancestors: Vec<Ancestor>,
}

/// A history file that PostgreSQL would refuse.
#[derive(Debug, thiserror::Error)]
#[error("history file of timeline {timeline}, line {line}: {problem}")]
pub struct BadHistory {
    timeline: TimelineId,
    line: usize,
    problem: &'static str,
}

impl History {
    /// A timeline without ancestors.
    pub fn root(timeline: TimelineId) -> Self {
        History { timeline, ancestors: Vec::new() }
    }

    /// Reads a history file's text.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, BadHistory> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let bad = |problem| BadHistory { timeline, line: number + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let id = words.next().and_then(|w| w.parse().ok()).ok_or_else(|| bad("no timeline number"))?;
            let end = words.next().and_then(|w| w.parse().ok()).ok_or_else(|| bad("no switch position"))?;
            if ancestors.last().is_some_and(|last| last.timeline.0 >= id) || id >= timeline.0 {
                return Err(bad("timeline numbers must rise"));
            }
            ancestors.push(Ancestor { timeline: TimelineId(id), end });
        }
        Ok(History { timeline, ancestors })
    }

    /// Returns the timeline whose file of the segment from `start` to `end` reaches furthest, of those that hold
    /// one: where a branch left within the segment, the branch's file begins with a copy of what came before.
    pub fn holder(&self, start: Lsn, end: Lsn, holds: impl Fn(TimelineId) -> bool) -> Option<TimelineId> {
        let wanted = self.timeline_at(Lsn(end.0.saturating_sub(1)));
        // An ancestor's own later segments are another branch's.
        let ancestors = self.ancestors.iter().rev();
        let ancestors = ancestors.filter(|a| a.timeline < wanted && start < a.end).map(|a| a.timeline);
        std::iter::once(wanted).chain(ancestors).find(|timeline| holds(*timeline))
    }

    /// Returns up to where this history uses the WAL of one of its timelines: beyond that the timeline's own
    /// segments are another branch's, or nobody's.
    pub fn end_of(&self, timeline: TimelineId) -> Lsn {
        self.ancestors.iter().find(|a| a.timeline == timeline).map_or(Lsn::MAX, |a| a.end)
    }

    /// Returns the timeline to which the WAL byte at `lsn` belongs.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.ancestors.iter().find(|a| lsn < a.end).map_or(self.timeline, |a| a.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_branch_of_a_position() {
        let text = "1\t0/5000000\tno recovery target specified\n\n2\t0/7000060\tbefore 0/7000060\n";
        let history = History::parse(TimelineId(3), text).unwrap();
        assert_eq!(history.timeline_at(Lsn(0x4FF_FFFF)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0x500_0000)), TimelineId(2));
        assert_eq!(history.timeline_at(Lsn(0x700_0060)), TimelineId(3));
        assert_eq!(history.end_of(TimelineId(2)), Lsn(0x700_0060));
        assert_eq!(history.end_of(TimelineId(3)), Lsn::MAX);
        assert!(History::parse(TimelineId(2), "2 0/1").is_err());
        assert!(History::parse(TimelineId(4), "2 0/1\n1 0/2").is_err());
    }
}
