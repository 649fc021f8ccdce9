//! Which of the server's segments are held, as far as this process has pushed them. Pure.
//!
//! A segment counts once a quorum holds all of it and all before it on its line; then it is noted with which
//! file it was, so that another file of the same name is never taken for it.

use std::collections::{BTreeMap, VecDeque};

use super::pg_wal::Identity;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::wal::segment::Segment;

/// The server asks for one segment after the other: far more are never waited for.
const KEPT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The timeline that is pushed, and up to where its files have been read.
    line: Option<(TimelineId, Lsn)>,
    /// Read to their ends on this line, and not held yet.
    pending: VecDeque<(Segment, Lsn, Identity)>,
    /// Up to where the line is held.
    held_to: Lsn,
    held: BTreeMap<Segment, Identity>,
}

/// What is known of a segment that the server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Held,
    /// It comes, or will come.
    Ahead,
    /// The line is past it, and what was read there was not this file: it must be compared.
    Behind,
}

impl Ledger {
    /// Begins a line. What was pending is held: the line before was put away.
    pub(super) fn begin(&mut self, timeline: TimelineId, at: Lsn) {
        self.take_held(Lsn::MAX);
        (self.line, self.held_to) = (Some((timeline, at)), Lsn::INVALID);
    }

    /// Ends the line without knowing what of it is held.
    pub(super) fn break_off(&mut self) {
        (self.line, self.pending, self.held_to) = (None, VecDeque::new(), Lsn::INVALID);
    }

    pub(super) fn read_to(&mut self, at: Lsn) {
        if let Some((_, reached)) = &mut self.line {
            *reached = at;
        }
    }

    /// Notes a segment that was read to its end; it may be held by now.
    pub(super) fn read(&mut self, segment: Segment, end: Lsn, identity: Identity) {
        self.pending.push_back((segment, end, identity));
        self.take_held(self.held_to);
    }

    /// Returns whether a segment was held, as some file.
    pub(super) fn has(&self, segment: Segment) -> bool {
        self.held.contains_key(&segment)
    }

    /// Notes up to where this line is held; returns whether that says anything new.
    pub(super) fn take_held(&mut self, to: Lsn) -> bool {
        self.held_to = to;
        let mut any = false;
        while self.pending.front().is_some_and(|(_, end, _)| *end <= to) {
            let Some((segment, _, identity)) = self.pending.pop_front() else { break };
            any = true;
            self.held.insert(segment, identity);
            if self.held.len() > KEPT_MAX {
                self.held.pop_first();
            }
        }
        any
    }

    /// Judges a segment that ends at `end`.
    pub(super) fn known(&self, segment: Segment, end: Lsn, identity: Identity) -> Known {
        if self.held.get(&segment) == Some(&identity) {
            return Known::Held;
        }
        let is_pending = self.pending.iter().any(|(s, _, i)| *s == segment && *i == identity);
        let is_passed =
            self.line.is_some_and(|(timeline, reached)| (segment.timeline, end) <= (timeline, reached));
        if is_passed && !is_pending { Known::Behind } else { Known::Ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TimelineId = TimelineId(1);

    fn file(number: u64) -> Identity {
        Identity::test(number)
    }

    fn segment(timeline: u32, number: u64) -> Segment {
        Segment { timeline: TimelineId(timeline), number }
    }

    #[test]
    fn nothing_is_held_that_was_not_read_and_acknowledged_as_this_file() {
        let mut ledger = Ledger::default();
        let ask = |ledger: &Ledger, timeline, number| {
            ledger.known(segment(timeline, number), Lsn((number + 1) * 100), file(number))
        };
        assert_eq!(ask(&ledger, 1, 3), Known::Ahead);
        ledger.begin(ONE, Lsn(300));
        assert_eq!((ask(&ledger, 1, 2), ask(&ledger, 1, 3)), (Known::Behind, Known::Ahead));
        ledger.read(segment(1, 3), Lsn(400), file(3));
        ledger.read_to(Lsn(400));
        assert_eq!(ask(&ledger, 1, 3), Known::Ahead);
        assert!(!ledger.take_held(Lsn(399)));
        assert!(ledger.take_held(Lsn(400)));
        assert_eq!(ask(&ledger, 1, 3), Known::Held);
        assert_eq!(ledger.known(segment(1, 3), Lsn(400), file(9)), Known::Behind, "another file");
        // Put away with its line, and the next line is no proof of what it did not read.
        ledger.read(segment(1, 4), Lsn(500), file(4));
        ledger.begin(TimelineId(2), Lsn(400));
        assert_eq!((ask(&ledger, 1, 4), ask(&ledger, 1, 5)), (Known::Held, Known::Behind));
        assert_eq!((ask(&ledger, 2, 3), ask(&ledger, 2, 4)), (Known::Behind, Known::Ahead));
        ledger.take_held(Lsn(450));
        ledger.read(segment(2, 3), Lsn(450), file(3));
        assert_eq!(ask(&ledger, 2, 3), Known::Held, "held before its end was noted");
        ledger.read(segment(2, 4), Lsn(500), file(4));
        ledger.break_off();
        assert_eq!(ask(&ledger, 2, 4), Known::Ahead, "what broke off is read again");
    }
}
