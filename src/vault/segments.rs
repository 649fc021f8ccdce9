//! Which WAL segments are stored of a node: a year of them fits in little memory.
//!
//! Almost all are complete, have their index and follow each other: such a run is one entry, however long.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};

use crate::lsn::Lsn;
use crate::timeline::{History, TimelineId};

/// What is stored of one WAL segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentState {
    pub complete: bool,
    pub index: bool,
    /// By rising start; none of a complete segment.
    pub parts: Vec<PartRange>,
}

/// Bytes [start, end) of a segment, stored as an object of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartRange {
    pub start: u32,
    pub end: u32,
}

impl SegmentState {
    /// Returns up to which byte of the segment the parts join.
    pub fn joined(&self) -> u32 {
        let mut parts = self.parts.clone();
        parts.sort();
        parts.iter().fold(0, |to, part| if part.start <= to { to.max(part.end) } else { to })
    }

    /// Complete, with its index.
    fn whole() -> Self {
        SegmentState { complete: true, index: true, parts: Vec::new() }
    }
}

/// An object that was listed of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    Whole,
    Index,
    Part(PartRange),
}

/// A segment's place: its timeline and number.
pub(super) type Place = (TimelineId, u64);

/// Consecutive segments of one timeline that are stored alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub numbers: RangeInclusive<u64>,
    pub state: SegmentState,
}

/// The segments that are stored of a node.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    /// Runs of whole segments: the last number, by the place of the first. Runs do not touch.
    runs: BTreeMap<Place, u64>,
    /// All that are not whole.
    others: BTreeMap<Place, SegmentState>,
}

impl Segments {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.others.is_empty()
    }

    pub fn contains(&self, at: Place) -> bool {
        self.others.contains_key(&at) || self.is_in_run(at)
    }

    /// Returns what is stored of a segment; `None` where nothing is.
    pub fn get(&self, at: Place) -> Option<SegmentState> {
        self.others.get(&at).cloned().or_else(|| self.is_in_run(at).then(SegmentState::whole))
    }

    /// Returns the last segment of the greatest timeline.
    pub fn last(&self) -> Option<(Place, SegmentState)> {
        let run = self.runs.last_key_value().map(|((timeline, _), last)| (*timeline, *last));
        let other = self.others.last_key_value().map(|(at, _)| *at);
        let at = run.max(other)?;
        Some((at, self.get(at)?))
    }

    /// Returns the last segment of a timeline.
    pub fn last_of(&self, timeline: TimelineId) -> Option<u64> {
        let all = (timeline, 0)..=(timeline, u64::MAX);
        let run = self.runs.range(all.clone()).next_back().map(|(_, last)| *last);
        run.max(self.others.range(all).next_back().map(|((_, number), _)| *number))
    }

    /// Returns the timelines of which there are segments.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> =
            self.runs.keys().chain(self.others.keys()).map(|(timeline, _)| *timeline).collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// Returns the segments of a timeline, by rising number.
    pub fn stretches(&self, timeline: TimelineId) -> Vec<Stretch> {
        let all = (timeline, 0)..=(timeline, u64::MAX);
        let run = |((_, first), last): (&Place, &u64)| Stretch {
            numbers: *first..=*last,
            state: SegmentState::whole(),
        };
        let other = |((_, number), state): (&Place, &SegmentState)| Stretch {
            numbers: *number..=*number,
            state: state.clone(),
        };
        let mut found: Vec<Stretch> = self.runs.range(all.clone()).map(run).collect();
        found.extend(self.others.range(all).map(other));
        found.sort_by_key(|stretch| *stretch.numbers.start());
        found
    }

    /// Returns every segment.
    pub fn iter(&self) -> impl Iterator<Item = (Place, SegmentState)> {
        let each = |timeline| {
            let one = move |stretch: Stretch| {
                let state = stretch.state;
                stretch.numbers.map(move |number| ((timeline, number), state.clone()))
            };
            self.stretches(timeline).into_iter().flat_map(one)
        };
        self.timelines().into_iter().flat_map(each)
    }

    /// Returns the stretches without a gap of what a history can be read from, by their first and last number,
    /// up to segment `last`: as if each segment were asked for, but without asking for each.
    pub fn along(&self, history: &History, segment_bytes: u32, last: u64) -> Vec<(u64, u64)> {
        let start = |number: u64| Lsn(number.saturating_mul(segment_bytes.into()));
        let holder = |number: u64| {
            let holds = |timeline| self.contains((timeline, number));
            history.holder(start(number), start(number.saturating_add(1)), holds)
        };
        let mut found = Vec::new();
        for (timeline, numbers) in spans(history, segment_bytes, last) {
            for stretch in self.stretches(timeline) {
                let first = *stretch.numbers.start().max(numbers.start());
                let end = *stretch.numbers.end().min(numbers.end());
                let is_whole = stretch.state.complete || stretch.state.joined() == segment_bytes;
                // Of a segment within which a branch left, the branch's file has more.
                let is_others = end == *numbers.end() && first <= end && holder(end) != Some(timeline);
                let end = if is_others { end.checked_sub(1) } else { Some(end) };
                let Some(end) = end.filter(|end| first <= *end) else { continue };
                // Of a segment within which a branch left, only the branch's file has the rest.
                let is_left = history.end_of(timeline) < start(end.saturating_add(1));
                found.push((first, end, is_whole && !is_left));
            }
        }
        found.sort_unstable();
        let (mut joined, mut goes_on): (Vec<(u64, u64)>, bool) = (Vec::new(), false);
        for (first, end, is_whole) in found {
            match joined.last_mut() {
                Some((_, before)) if goes_on && before.checked_add(1) == Some(first) => *before = end,
                _ => joined.push((first, end)),
            }
            goes_on = is_whole;
        }
        joined
    }

    /// Notes an object that was listed. In the order of names each segment is put into a run as soon as it is
    /// whole.
    pub(super) fn note(&mut self, at: Place, piece: Piece) {
        if self.is_in_run(at) {
            return;
        }
        let state = self.others.entry(at).or_default();
        match piece {
            Piece::Whole => (state.complete, state.parts) = (true, Vec::new()),
            Piece::Index => state.index = true,
            Piece::Part(_) if state.complete => {}
            Piece::Part(part) => state.parts.push(part),
        }
        if state.complete && state.index {
            self.others.remove(&at);
            self.join(at);
        }
    }

    /// Adds a whole segment to the runs.
    fn join(&mut self, (timeline, number): Place) {
        let mut last = number;
        if let Some(next) = number.checked_add(1)
            && let Some(end) = self.runs.remove(&(timeline, next))
        {
            last = end;
        }
        match self.run_before((timeline, number)) {
            Some((first, end)) if end.checked_add(1) == Some(number) => {
                self.runs.insert((timeline, first), last)
            }
            _ => self.runs.insert((timeline, number), last),
        };
    }

    fn is_in_run(&self, at: Place) -> bool {
        self.run_before(at).is_some_and(|(_, last)| at.1 <= last)
    }

    /// Returns the run that begins last at or before a place.
    fn run_before(&self, at: Place) -> Option<(u64, u64)> {
        let before = (Bound::Included((at.0, 0)), Bound::Included(at));
        self.runs.range(before).next_back().map(|((_, first), last)| (*first, *last))
    }
}

/// Returns the segments in which each timeline of a history wrote, oldest timeline first.
fn spans(history: &History, segment_bytes: u32, last: u64) -> Vec<(TimelineId, RangeInclusive<u64>)> {
    let (mut spans, mut begin) = (Vec::new(), Lsn(0));
    for ancestor in &history.ancestors {
        // One that wrote nothing may still have a file of the segment within which it was left.
        if ancestor.end > begin || ancestor.end.segment_offset(segment_bytes) != 0 {
            let end = Lsn(ancestor.end.0.saturating_sub(1)).segment(segment_bytes).min(last);
            spans.push((ancestor.timeline, begin.segment(segment_bytes)..=end));
            begin = ancestor.end;
        }
    }
    spans.push((history.timeline, begin.segment(segment_bytes)..=last));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Ancestor;
    use proptest::prelude::*;

    const ONE: TimelineId = TimelineId(1);

    #[test]
    fn a_year_is_one_entry() {
        let mut segments = Segments::default();
        for number in 0..200_000 {
            segments.note((ONE, number), Piece::Whole);
            segments.note((ONE, number), Piece::Index);
        }
        assert_eq!((segments.runs.len(), segments.others.len()), (1, 0));
        assert_eq!(segments.last(), Some(((ONE, 199_999), SegmentState::whole())));
    }

    proptest! {
        /// Like a map with an entry for each segment, in whatever order objects are listed.
        #[test]
        fn runs_say_what_single_entries_say(
            pieces in prop::collection::vec((1u32..4, 0u64..12, 0u8..3), 0..80),
            switches in prop::collection::vec((0u64..96, 0u64..96), 4),
        ) {
            let mut segments = Segments::default();
            let mut map: BTreeMap<Place, SegmentState> = BTreeMap::new();
            for (timeline, number, kind) in pieces {
                let at = (TimelineId(timeline), number);
                let part = PartRange { start: 0, end: 8 };
                let piece = [Piece::Whole, Piece::Index, Piece::Part(part)][usize::from(kind)];
                segments.note(at, piece);
                let state = map.entry(at).or_default();
                match piece {
                    Piece::Whole => state.complete = true,
                    Piece::Index => state.index = true,
                    Piece::Part(part) => state.parts.push(part),
                }
            }
            for state in map.values_mut().filter(|state| state.complete) {
                state.parts.clear();
            }
            prop_assert_eq!(segments.iter().collect::<Vec<_>>(), map.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(segments.last(), map.last_key_value().map(|(at, state)| (*at, state.clone())));
            for at in (1..4).flat_map(|t| (0..13).map(move |n| (TimelineId(t), n))) {
                prop_assert_eq!(segments.get(at), map.get(&at).cloned());
                prop_assert_eq!(segments.contains(at), map.contains_key(&at));
            }
            for (ends, last) in switches.iter().flat_map(|ends| [(ends, 5), (ends, 12)]) {
                let (first, second) = (ends.0.min(ends.1), ends.0.max(ends.1));
                let history = History {
                    timeline: TimelineId(3),
                    ancestors: [(1, first), (2, second)].map(|(t, end)| Ancestor { timeline: TimelineId(t), end: Lsn(end) }).into(),
                };
                let held = (0..=last).filter(|n| history.holder(Lsn(n * 8), Lsn(n * 8 + 8), |t| map.contains_key(&(t, *n))).is_some());
                let is_whole = |n: u64| {
                    let at = history.holder(Lsn(n * 8), Lsn(n * 8 + 8), |t| map.contains_key(&(t, n))).unwrap();
                    (map[&(at, n)].complete || map[&(at, n)].joined() == 8) && history.end_of(at) >= Lsn(n * 8 + 8)
                };
                let want = crate::wal::segment::stretches(held, is_whole);
                prop_assert_eq!(segments.along(&history, 8, last), want, "switches at {:?}", ends);
            }
            let touching = segments.runs.iter().any(|((t, _), last)| segments.runs.contains_key(&(*t, last + 1)));
            prop_assert!(!touching);
        }
    }
}
