//! The line of segments that one node's recovery follows: through ancestors to one timeline, and what each
//! segment says.
//!
//! Of a timeline that was left within a segment, only the bytes before that count: what its own server wrote on is
//! another branch, or was lost with a promotion.
//!
//! Indexes are opened where they exist; segments are decoded where they do not, and around the cut, where
//! single transactions are looked for.

use super::Error;
use super::document::WalRange;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::manifest::{self, wal_index::WalIndex};
use crate::timeline::{History, TimelineId};
use crate::vault::{NodeCatalog, ObjectName, Vault, WalName};
use crate::wal::event::{Event, Open};
use crate::wal::index::IndexBuilder;
use crate::wal::scan::{EventScan, Found};

/// One node's archived WAL along one timeline: the stretch between two gaps that is looked at.
pub(in crate::restore) struct Line<'a> {
    pub(super) vault: &'a Vault,
    pub(super) node: &'a NodeName,
    pub(super) catalog: &'a NodeCatalog,
    history: History,
    /// Stretches without a gap, oldest first, by the numbers of their first and last segment.
    stretches: Vec<(u64, u64)>,
    /// Which of them is looked at.
    at: usize,
    /// Its ends.
    pub(super) first: u64,
    pub(super) last: u64,
    /// There is a newer stretch.
    pub(super) is_before_gap: bool,
}

impl<'a> Line<'a> {
    /// Follows a timeline, else the newest, and looks at its WAL after the last gap; `None` where none is archived.
    pub(in crate::restore) fn new(
        vault: &'a Vault,
        node: &'a NodeName,
        catalog: &'a NodeCatalog,
        timeline: Option<TimelineId>,
    ) -> Option<Self> {
        let timeline = timeline.or_else(|| timelines(catalog).last().copied())?;
        let history = history_of(catalog, timeline);
        let ancestors = history.ancestors.iter().map(|a| a.timeline);
        let lasts = ancestors.chain([timeline]).filter_map(|timeline| catalog.segments.last_of(timeline));
        let last = catalog.segments.last_of(timeline).or(lasts.max())?;
        let mut line = Line {
            vault,
            node,
            catalog,
            history,
            stretches: Vec::new(),
            at: 0,
            first: last,
            last,
            is_before_gap: false,
        };
        line.stretches = catalog.segments.along(&line.history, line.bytes(), last);
        line.look_at(line.stretches.len().checked_sub(1)?);
        Some(line)
    }

    fn look_at(&mut self, at: usize) {
        if let Some((first, last)) = self.stretches.get(at) {
            (self.at, self.first, self.last) = (at, *first, *last);
            self.is_before_gap = at + 1 < self.stretches.len();
        }
    }

    /// Looks at the stretch before the gap; returns whether there is one.
    pub(in crate::restore) fn step_back(&mut self) -> bool {
        let before = self.at.checked_sub(1);
        before.into_iter().for_each(|at| self.look_at(at));
        before.is_some()
    }

    /// Looks at the stretch after the gap; returns whether there is one.
    pub(in crate::restore) fn step_on(&mut self) -> bool {
        let is_before_gap = self.is_before_gap;
        self.look_at(self.at + 1);
        is_before_gap
    }

    /// Returns whether a backup taken there leads onto this stretch.
    pub(super) fn holds(&self, timeline: TimelineId, start: Lsn, stop: Lsn) -> bool {
        self.history.timeline_at(start) == timeline
            && stop <= self.history.end_of(timeline)
            && self.number_of(start) >= self.first
            && self.number_of(Lsn(stop.0.saturating_sub(1))) <= self.last
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    fn bytes(&self) -> u32 {
        self.catalog.segment_bytes()
    }

    /// Returns how long the server's segments are: the pages tell where one begins.
    fn own_bytes(&self) -> u32 {
        self.catalog.doc.segment_bytes
    }

    pub(super) fn start_of(&self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(u64::from(self.bytes())))
    }

    pub(super) fn number_of(&self, lsn: Lsn) -> u64 {
        lsn.segment(self.bytes())
    }

    /// Returns the timeline to which the byte before `lsn` belongs.
    pub(super) fn timeline_before(&self, lsn: Lsn) -> TimelineId {
        self.history.timeline_at(Lsn(lsn.0.saturating_sub(1)))
    }

    fn timeline_of(&self, number: u64) -> Option<TimelineId> {
        let (start, end) = (self.start_of(number), self.start_of(number.saturating_add(1)));
        let holds = |timeline| self.catalog.segments.contains((timeline, number));
        self.history.holder(start, end, holds)
    }

    pub(super) fn name_of(&self, number: u64) -> String {
        let timeline = self.timeline_of(number).unwrap_or(self.history.timeline);
        WalName::new(timeline, number, self.bytes()).to_string()
    }

    /// Returns the segments from `first` to `last` by timeline.
    pub(super) fn ranges(&self, first: u64, last: u64) -> Result<Vec<WalRange>, Error> {
        let mut ranges: Vec<WalRange> = Vec::new();
        for number in first..=last {
            let timeline = self.timeline_of(number).ok_or_else(|| self.gap(number))?;
            match ranges.last_mut() {
                Some(range) if range.timeline == timeline => range.last = number,
                _ => ranges.push(WalRange { timeline, first: number, last: number }),
            }
        }
        Ok(ranges)
    }

    pub(super) fn gap(&self, number: u64) -> Error {
        Error::Gap { node: self.node.clone(), segment: self.name_of(number) }
    }

    /// Returns where the branch that is followed left the timeline whose file of the segment is read, if it did so
    /// within the segment.
    fn left_within(&self, number: u64) -> Option<Lsn> {
        let end = self.history.end_of(self.timeline_of(number)?);
        (end < self.start_of(number.saturating_add(1))).then_some(end)
    }

    /// Returns the bytes of a segment that are archived, from its start, and that this branch has.
    async fn read(&self, number: u64) -> Result<bytes::Bytes, Error> {
        let timeline = self.timeline_of(number).ok_or_else(|| self.gap(number))?;
        let state = self.catalog.segments.get((timeline, number)).ok_or_else(|| self.gap(number))?;
        let name = self.catalog.wal_name(timeline, number);
        let read = self.vault.listed_segment_bytes(self.node, name, &state, self.bytes()).await?;
        let bytes = read.map(|segment| segment.bytes).ok_or_else(|| self.gap(number))?;
        let own = self.left_within(number).map(|end| end.0.saturating_sub(self.start_of(number).0));
        let own = own.and_then(|own| usize::try_from(own).ok()).unwrap_or(usize::MAX);
        Ok(bytes.slice(..bytes.len().min(own)))
    }

    /// Returns the stored index of a segment.
    async fn stored_index(&self, number: u64) -> Result<Option<WalIndex>, Error> {
        let Some(timeline) = self.timeline_of(number) else { return Ok(None) };
        let state = self.catalog.segments.get((timeline, number));
        if !state.is_some_and(|state| state.index) || self.left_within(number).is_some() {
            return Ok(None);
        }
        let wal = self.catalog.wal_name(timeline, number);
        let name = ObjectName::Index { node: self.node.clone(), wal };
        let bytes = self.vault.get(&name).await?;
        Ok(Some(manifest::from_bytes(&bytes)?))
    }

    /// Returns the index of a segment: the stored one, or one made of its bytes. What was open at its
    /// start comes from `before`, else from the nearest stored index.
    pub(super) async fn index(&self, number: u64, before: Option<&WalIndex>) -> Result<WalIndex, Error> {
        if let Some(index) = self.stored_index(number).await? {
            return Ok(index);
        }
        let open_behind = |index: &WalIndex| (index.open_at_end.clone(), index.end);
        let mut known = before.map(open_behind);
        let mut from = number;
        while known.is_none() && from > self.first {
            from -= 1;
            known = self.stored_index(from).await?.as_ref().map(open_behind);
            if known.is_some() {
                from += 1;
            }
        }
        // Decoded on from `from`: records cross segments, and so does what is open. After a switch no record
        // begins before the next of the server's own segments.
        let (open, reached) = known.unwrap_or((Open::default(), Lsn::INVALID));
        let start = if before.is_some() { number } else { from }.max(self.number_of(reached));
        let at = start.min(number);
        let timeline = self.timeline_of(at).ok_or_else(|| self.gap(at))?;
        let mut builder =
            IndexBuilder::new(timeline, self.own_bytes(), self.start_of(at), open).every(self.bytes());
        if start > number {
            return Ok(WalIndex { end: reached, ..builder.tail() });
        }
        let mut made = Vec::new();
        for at in start..=number.saturating_add(1).min(self.last) {
            let bytes = self.read(at).await?;
            let (whole, fed) = (bytes.len() as u64 == u64::from(self.bytes()), builder.feed(&bytes));
            made.extend(fed.map_err(|source| self.undecodable(at, source))?);
            if !whole {
                break;
            }
        }
        made.push(builder.tail());
        let wanted = self.start_of(number);
        made.into_iter().find(|index| index.start == wanted).ok_or_else(|| self.gap(number))
    }

    fn undecodable(&self, number: u64, source: crate::wal::Error) -> Error {
        Error::Wal { node: self.node.clone(), segment: self.name_of(number), source }
    }

    /// Returns every event of the records that begin in a segment, ordinary commits included, and where
    /// the next record begins or would.
    pub(super) async fn events(&self, number: u64, open: Open) -> Result<(Vec<Event>, Lsn), Error> {
        let mut scan = EventScan::new(self.own_bytes(), self.start_of(number), open);
        let next = self.start_of(number.saturating_add(1));
        let mut events = Vec::new();
        let mut at = number;
        scan.feed(&self.read(at).await?);
        loop {
            match scan.step().map_err(|source| self.undecodable(at, source))? {
                Found::Event(event) if event.lsn >= next => return Ok((events, scan.position())),
                Found::Event(event) => events.push(event),
                Found::NeedMore if scan.position() < next && at < self.last => {
                    // The last record crosses into the next segment.
                    at += 1;
                    scan.feed(&self.read(at).await?);
                }
                Found::NeedMore => return Ok((events, scan.position())),
                Found::End { at: end, why } if at < self.last => {
                    let (node, segment) = (self.node.clone(), self.name_of(at));
                    return Err(Error::EndsEarly { node, segment, at: end, why });
                }
                Found::End { at, .. } => return Ok((events, at)),
            }
        }
    }
}

/// Returns the timelines of which anything is known, oldest first. One that has begun may have no WAL archived yet.
pub(super) fn timelines(catalog: &NodeCatalog) -> Vec<TimelineId> {
    let mut all = catalog.segments.timelines();
    if !all.is_empty() {
        all.extend(catalog.histories.keys());
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns a timeline's history; without one it is taken to be the first.
pub(super) fn history_of(catalog: &NodeCatalog, timeline: TimelineId) -> History {
    catalog.histories.get(&timeline).cloned().unwrap_or_else(|| History::root(timeline))
}
