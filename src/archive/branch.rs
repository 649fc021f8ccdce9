//! Which timeline to stream next, from what is archived and the server's own history. Pure.
//!
//! A server is on the newest timeline of its history; what the vault holds may lie on one of the
//! ancestors, reach past the point where the server left it (a failover that lost the old primary's
//! last moments), or lie on no timeline of this server at all.

use crate::lsn::Lsn;
use crate::timeline::{History, TimelineId};

/// A place in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) timeline: TimelineId,
    pub(super) at: Lsn,
}

/// What the server's history says of a place that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The server has this timeline, at least up to here.
    Along,
    /// The server left this timeline at or before the place: go on in the next one, from the start of
    /// the segment with the switch.
    Over { next: TimelineId, switch: Lsn },
    /// This timeline is not in the server's history.
    Elsewhere,
}

/// Judges a place that was reached.
pub(super) fn way(history: &History, reached: Place) -> Way {
    if reached.timeline == history.timeline {
        return Way::Along;
    }
    let Some(number) = history.ancestors.iter().position(|a| a.timeline == reached.timeline) else {
        return Way::Elsewhere;
    };
    let after = history.ancestors.get(number + 1).map_or(history.timeline, |a| a.timeline);
    match history.ancestors.get(number) {
        Some(here) if here.end <= reached.at => Way::Over { next: after, switch: here.end },
        _ => Way::Along,
    }
}

/// Returns the server's timelines, newest first.
pub(super) fn newest_first(history: &History) -> Vec<TimelineId> {
    let ancestors = history.ancestors.iter().rev().map(|a| a.timeline);
    std::iter::once(history.timeline).chain(ancestors).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_and_leaves_timelines() {
        let history = History::parse(TimelineId(4), "1 0/500\n3 0/900\n").unwrap();
        let at = |timeline, at| way(&history, Place { timeline: TimelineId(timeline), at: Lsn(at) });
        assert_eq!(at(4, 0xA00), Way::Along);
        assert_eq!(at(1, 0x4FF), Way::Along);
        assert_eq!(at(1, 0x500), Way::Over { next: TimelineId(3), switch: Lsn(0x500) });
        assert_eq!(at(1, 0x800), Way::Over { next: TimelineId(3), switch: Lsn(0x500) });
        assert_eq!(at(3, 0x901), Way::Over { next: TimelineId(4), switch: Lsn(0x900) });
        assert_eq!(at(2, 0x100), Way::Elsewhere);
        assert_eq!(at(5, 0x100), Way::Elsewhere);
        assert_eq!(newest_first(&history), [TimelineId(4), TimelineId(3), TimelineId(1)]);
    }
}
