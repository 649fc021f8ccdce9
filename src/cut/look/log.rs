//! One node's WAL by segments, and the searches that every kind of it shares.

use crate::cut::NodeHistory;
use crate::ids::{GroupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::wal_index::Times;
use crate::moment::Moment;
use crate::wal::event::{Event, Prepared, What};

/// What the records that begin in one segment tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    /// Ordinary commits may be missing.
    pub(crate) events: &'a [Event],
    /// Of all transaction records.
    pub(crate) times: Option<Times>,
    /// The end of the last record, or of what was decodable.
    pub(crate) end: Lsn,
}

/// A stretch of one node's WAL without a gap.
pub(crate) trait Log {
    type Error;

    /// Returns the first and the last segment.
    fn ends(&self) -> (u64, u64);

    fn segment_bytes(&self) -> u32;

    async fn told(&mut self, number: u64) -> Result<Told<'_>, Self::Error>;

    /// Returns the least and the greatest time stamp of a segment; may be cheaper than all it tells.
    async fn times(&mut self, number: u64) -> Result<Option<Times>, Self::Error> {
        Ok(self.told(number).await?.times)
    }

    /// Shows the events of one segment, in order; ordinary commits may be missing. Keeps nothing.
    async fn events_of(&mut self, number: u64, see: &mut dyn FnMut(&Event)) -> Result<(), Self::Error>;

    /// Shows the events of one segment, in order and without exception.
    async fn all_events_of(&mut self, number: u64, see: &mut dyn FnMut(&Event)) -> Result<(), Self::Error>;

    /// Returns where the first record of a segment begins that is later than `time`, of those that count.
    async fn later(
        &mut self,
        number: u64,
        time: Moment,
        counts: fn(&What) -> bool,
    ) -> Result<Option<Lsn>, Self::Error>;

    /// Returns the transactions that are prepared where a segment begins.
    async fn prepared_at(&mut self, number: u64) -> Result<Vec<Prepared>, Self::Error>;

    fn number_of(&self, lsn: Lsn) -> u64 {
        lsn.segment(self.segment_bytes())
    }

    fn start_of(&self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(u64::from(self.segment_bytes())))
    }

    /// Returns a segment that was written at about this time, where something tells of one.
    fn written_at(&self, _time: Moment) -> Option<u64> {
        None
    }

    /// Returns the first segment in which a record is later than `time`; one past the last where none is. Searches
    /// outward from what [`Log::written_at`] tells, so what it opens grows with the logarithm of how far off that
    /// is; without it, with that of the number of segments.
    async fn first_after(&mut self, time: Moment) -> Result<u64, Self::Error> {
        let (first, last) = self.ends();
        let (mut low, mut high) = (first, last.saturating_add(1));
        let mut near = self.written_at(time).filter(|at| (low..high).contains(at));
        let mut step = 1;
        while low < high {
            let middle = near.unwrap_or(low + (high - low) / 2);
            // Segments without a time stamp say nothing: the next one that has some answers for them.
            let mut at = middle;
            let later = loop {
                if at >= high {
                    break true;
                }
                match self.times(at).await? {
                    Some(times) => break times.max > time,
                    None => at += 1,
                }
            };
            if later {
                high = middle
            } else {
                low = at + 1
            }
            // On the same side as long as the bound has not moved past it.
            near = near.and_then(|from| if later { from.checked_sub(step) } else { at.checked_add(step) });
            near = near.filter(|at| (low..high).contains(at));
            step *= 4;
        }
        // Clocks step back: a few segments before may hold a later time stamp too.
        for back in low.saturating_sub(3).max(first)..low {
            if self.times(back).await?.is_some_and(|times| times.max > time) {
                return Ok(back);
            }
        }
        Ok(low)
    }

    /// Returns where the first record later than `time` begins, of those that count; [`Lsn::MAX`] where none is.
    async fn first_later(&mut self, time: Moment, counts: fn(&What) -> bool) -> Result<Lsn, Self::Error> {
        for number in self.first_after(time).await?..=self.ends().1 {
            if self.times(number).await?.is_none_or(|times| times.max <= time) {
                continue;
            }
            if let Some(lsn) = self.later(number, time, counts).await? {
                return Ok(lsn);
            }
        }
        Ok(Lsn::MAX)
    }

    /// Returns where the first record later than `time` begins.
    async fn position_after(&mut self, time: Moment) -> Result<Lsn, Self::Error> {
        self.first_later(time, |_| true).await
    }

    /// Returns where a server with this `recovery_target_time` would stop.
    async fn naive_stop(&mut self, time: Moment) -> Result<Lsn, Self::Error> {
        self.first_later(time, What::is_end).await
    }

    /// Returns the newest time stamp.
    async fn newest_time(&mut self) -> Result<Option<Moment>, Self::Error> {
        let (first, last) = self.ends();
        for number in (first..=last).rev() {
            if let Some(times) = self.times(number).await? {
                return Ok(Some(times.max));
            }
        }
        Ok(None)
    }

    /// Returns what is known of the segments from `first` to `last`, for the cut.
    async fn history(
        &mut self,
        (node, group): (NodeName, Option<GroupId>),
        (first, last): (u64, u64),
    ) -> Result<NodeHistory, Self::Error> {
        let earliest = self.start_of(first);
        let prepared_at_start = self.prepared_at(first).await?;
        let (mut events, mut times, mut end) = (Vec::new(), None::<Times>, earliest);
        for number in first..=last {
            let told = self.told(number).await?;
            events.extend(told.events.iter().cloned());
            end = end.max(told.end);
            if let Some(Times { min, max }) = told.times {
                let all = times.get_or_insert(Times { min, max });
                (all.min, all.max) = (all.min.min(min), all.max.max(max));
            }
        }
        Ok(NodeHistory { node, group, earliest, end, events, prepared_at_start, times })
    }
}

/// Moves an event's time stamp, as if its node's clock had been wrong by so many microseconds.
pub(crate) fn shift(event: &mut Event, by: i64) {
    match &mut event.what {
        What::Prepare { time, .. }
        | What::Commit { time, .. }
        | What::Abort { time, .. }
        | What::CommitPrepared { time, .. }
        | What::RollbackPrepared { time, .. }
        | What::RestorePoint { time, .. }
        | What::EndOfRecovery { time, .. }
        | What::Checkpoint { time, .. } => *time = time.plus_micros(by),
        What::Parameters(_) | What::Running { .. } => {}
    }
}
