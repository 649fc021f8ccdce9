//! The stretch of one node's WAL that a plan looks at: a few segments on both sides of the moment asked for,
//! never the whole archive.

use std::collections::{BTreeMap, HashSet};

use super::Error;
use super::document::{Landmark, LandmarkKind};
use super::line::Line;
use crate::cut::look::{Log, Told, shift};
use crate::lsn::Lsn;
use crate::manifest::backup::Ends;
use crate::manifest::wal_index::{Times, WalIndex};
use crate::moment::Moment;
use crate::wal::event::{Event, Parameters, Prepared, What};

/// Indexes of consecutive segments of one node.
pub(in crate::restore) struct Span<'a> {
    pub(super) line: Line<'a>,
    /// What is added to every time stamp read: how wrong the node's clock is pretended to be.
    pretended: i64,
    indexes: BTreeMap<u64, WalIndex>,
    /// Segments decoded in full.
    events: BTreeMap<u64, (Vec<Event>, Lsn)>,
    /// A backup that may have found transactions prepared that are older than the archive.
    pub(super) backup: Option<&'a Ends>,
    /// Where the WAL ended when, by the node's clock, as backups and samples of the clock tell.
    marks: Vec<(Moment, Lsn)>,
}

impl Log for Span<'_> {
    type Error = Error;

    fn ends(&self) -> (u64, u64) {
        (self.line.first, self.line.last)
    }

    fn segment_bytes(&self) -> u32 {
        self.line.catalog.segment_bytes()
    }

    fn written_at(&self, time: Moment) -> Option<u64> {
        let apart = |(at, _): &&(Moment, Lsn)| time.micros_since(*at).unsigned_abs();
        self.marks.iter().min_by_key(apart).map(|(_, lsn)| self.line.number_of(*lsn))
    }

    async fn told(&mut self, number: u64) -> Result<Told<'_>, Error> {
        let index = self.index(number).await?;
        Ok(Told { events: &index.events, times: index.times, end: index.end })
    }

    async fn events_of(&mut self, number: u64, see: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        if let Some(index) = self.indexes.get(&number) {
            index.events.iter().for_each(see);
            return Ok(());
        }
        let mut index = self.line.index(number, None).await?;
        self.shift(&mut index);
        index.events.iter().for_each(see);
        Ok(())
    }

    async fn all_events_of(&mut self, number: u64, see: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        self.events(number).await?.0.iter().for_each(see);
        Ok(())
    }

    async fn later(
        &mut self,
        number: u64,
        time: Moment,
        counts: fn(&What) -> bool,
    ) -> Result<Option<Lsn>, Error> {
        let (events, _) = self.events(number).await?;
        let later =
            events.iter().find(|event| counts(&event.what) && event.what.time().is_some_and(|at| at > time));
        Ok(later.map(|event| event.lsn))
    }

    async fn prepared_at(&mut self, number: u64) -> Result<Vec<Prepared>, Error> {
        let mut prepared = self.index(number).await?.open_at_start.prepared.clone();
        if let Some(backup) = self.backup {
            prepared.extend(self.older_than_archive(backup, number).await?);
        }
        Ok(prepared)
    }
}

impl<'a> Span<'a> {
    pub(in crate::restore) fn new(line: Line<'a>, pretended: i64) -> Self {
        let ends = |Ends { head, foot }: &Ends| {
            [(head.started_at, head.start_lsn), (foot.stopped_at, foot.stop_lsn)]
        };
        let marks = line.catalog.backups.iter().flat_map(ends).collect();
        let mut span = Span {
            line,
            pretended,
            indexes: BTreeMap::new(),
            events: BTreeMap::new(),
            backup: None,
            marks: Vec::new(),
        };
        span.mark(marks);
        span
    }

    /// Takes in where the WAL ended at some moments of the node's clock.
    pub(super) fn mark(&mut self, marks: Vec<(Moment, Lsn)>) {
        self.marks.extend(marks.into_iter().map(|(at, lsn)| (at.plus_micros(self.pretended), lsn)));
    }

    /// Returns the index of a segment.
    pub(super) async fn index(&mut self, number: u64) -> Result<&WalIndex, Error> {
        if !self.indexes.contains_key(&number) {
            let before = number.checked_sub(1).and_then(|before| self.indexes.get(&before));
            let mut index = self.line.index(number, before).await?;
            self.shift(&mut index);
            self.indexes.insert(number, index);
        }
        self.indexes.get(&number).ok_or_else(|| self.line.gap(number))
    }

    /// Returns all events of a segment, and where the WAL goes on after its last record.
    pub(super) async fn events(&mut self, number: u64) -> Result<&(Vec<Event>, Lsn), Error> {
        if !self.events.contains_key(&number) {
            let next = self.start_of(number.saturating_add(1));
            let index = self.index(number).await?;
            // The rest of a segment that was switched away from holds no record, only zeros.
            let is_rest = index.first_record.is_none() && index.end >= next;
            let (open, end) = (index.open_at_start.clone(), index.end);
            let (mut events, end) =
                if is_rest { (Vec::new(), end) } else { self.line.events(number, open).await? };
            events.iter_mut().for_each(|event| shift(event, self.pretended));
            self.events.insert(number, (events, end));
        }
        self.events.get(&number).ok_or_else(|| self.line.gap(number))
    }

    fn shift(&self, index: &mut WalIndex) {
        if self.pretended == 0 {
            return;
        }
        index.events.iter_mut().for_each(|event| shift(event, self.pretended));
        if let Some(Times { min, max }) = &mut index.times {
            (*min, *max) = (min.plus_micros(self.pretended), max.plus_micros(self.pretended));
        }
    }

    /// Returns the end of the WAL that is archived.
    pub(super) async fn end(&mut self) -> Result<Lsn, Error> {
        let last = self.line.last;
        Ok(self.events(last).await?.1)
    }

    /// Looks at the WAL before the gap; returns whether there is any.
    pub(super) fn step_back(&mut self) -> bool {
        self.line.step_back()
    }

    /// Looks at the WAL after the gap; returns whether there is any.
    pub(super) fn step_on(&mut self) -> bool {
        self.line.step_on()
    }

    /// Returns the transactions that a backup found prepared, that the archive does not know, and that
    /// are not finished before segment `first`.
    async fn older_than_archive(&mut self, backup: &Ends, first: u64) -> Result<Vec<Prepared>, Error> {
        let mut older = backup.foot.prepared.clone();
        let (start, stop) =
            (self.line.number_of(backup.head.start_lsn), self.line.number_of(backup.foot.stop_lsn));
        for number in start..=stop.min(self.line.last) {
            if older.is_empty() {
                break;
            }
            let index = self.index(number).await?;
            let open = index.open_at_start.prepared.iter().map(|prepared| prepared.xid);
            let begun = index.events.iter().filter_map(|event| match event.what {
                What::Prepare { xid, .. } => Some(xid),
                _ => None,
            });
            let known: HashSet<u32> = open.chain(begun).collect();
            older.retain(|prepared| !known.contains(&prepared.xid));
        }
        for number in start..first {
            if older.is_empty() {
                break;
            }
            for event in &self.index(number).await?.events {
                if let What::CommitPrepared { xid, .. } | What::RollbackPrepared { xid, .. } = event.what {
                    older.retain(|prepared| prepared.xid != xid);
                }
            }
        }
        Ok(older)
    }

    /// Returns up to `count` transaction records before and from `stop` on, in order of position.
    pub(super) async fn around(&mut self, stop: Lsn, floor: Lsn, count: usize) -> Result<Around, Error> {
        const SEGMENTS_BACK: u64 = 8;
        let at = self.line.number_of(stop).min(self.line.last);
        let (mut before, mut after): (Vec<Landmark>, Vec<Landmark>) = (Vec::new(), Vec::new());
        let lowest = self.line.number_of(floor).max(at.saturating_sub(SEGMENTS_BACK));
        for number in (lowest..=at).rev() {
            let (events, _) = self.events(number).await?;
            let inside = events.iter().rev().filter(|e| e.lsn < stop && e.lsn >= floor);
            before.extend(inside.filter_map(landmark));
            if before.len() >= count {
                break;
            }
        }
        for number in at..=self.line.last.min(at.saturating_add(1)) {
            let (events, _) = self.events(number).await?;
            after.extend(events.iter().filter(|e| e.lsn >= stop).filter_map(landmark));
            if after.len() >= count {
                break;
            }
        }
        before.truncate(count);
        before.reverse();
        after.truncate(count);
        Ok(Around { before, after })
    }

    /// Returns whether a record begins at or after `stop`: without one PostgreSQL refuses it as a target.
    pub(super) async fn goes_on(&mut self, stop: Lsn) -> Result<bool, Error> {
        const PAGE_BYTES: u64 = 8192;
        // The end of the WAL may lie after the header of a page that has no record yet.
        let header = match stop {
            _ if stop.segment_offset(self.line.catalog.doc.segment_bytes) == 0 => 40,
            _ if stop.0.is_multiple_of(PAGE_BYTES) => 24,
            _ => 0,
        };
        Ok(self.end().await? > stop.plus(header))
    }

    /// Returns the greatest settings of which this node's backups, and the segments looked at, tell.
    pub(super) fn parameters(&self) -> Parameters {
        let of_backups = self.line.catalog.backups.iter().map(|ends| ends.foot.parameters);
        let events = self.indexes.values().flat_map(|index| &index.events);
        let changed = events.filter_map(|event| match event.what {
            What::Parameters(parameters) => Some(parameters),
            _ => None,
        });
        of_backups.chain(changed).fold(Parameters::default(), |all, one| Parameters {
            max_connections: all.max_connections.max(one.max_connections),
            max_worker_processes: all.max_worker_processes.max(one.max_worker_processes),
            max_wal_senders: all.max_wal_senders.max(one.max_wal_senders),
            max_prepared_transactions: all.max_prepared_transactions.max(one.max_prepared_transactions),
            max_locks_per_transaction: all.max_locks_per_transaction.max(one.max_locks_per_transaction),
        })
    }
}

/// Transaction records on both sides of a position.
pub(super) struct Around {
    pub(super) before: Vec<Landmark>,
    pub(super) after: Vec<Landmark>,
}

fn landmark(event: &Event) -> Option<Landmark> {
    let (xid, time, kind) = match &event.what {
        What::Prepare { xid, time, .. } => (*xid, *time, LandmarkKind::Prepare),
        What::Commit { xid, time, .. } => (*xid, *time, LandmarkKind::Commit),
        What::Abort { xid, time } => (*xid, *time, LandmarkKind::Abort),
        What::CommitPrepared { xid, time, .. } => (*xid, *time, LandmarkKind::CommitPrepared),
        What::RollbackPrepared { xid, time, .. } => (*xid, *time, LandmarkKind::RollbackPrepared),
        _ => return None,
    };
    Some(Landmark { lsn: event.lsn, xid, time, kind })
}
