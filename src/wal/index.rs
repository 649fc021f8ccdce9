//! Makes the index of each segment while its WAL streams by.
//!
//! A record belongs to the segment in which it begins, so the index of a segment is finished when the
//! first record of a later one has been reached.

use super::Error;
use super::blocks::Changed;
use super::decoder::{Decoder, Step};
use super::event::{Event, Open};
use super::record::Record;
use super::scan::Track;
use crate::lsn::Lsn;
use crate::manifest::Document;
use crate::manifest::wal_index::{Times, WalIndex};
use crate::timeline::TimelineId;

/// Builds indexes of one timeline's segments, one after the other.
#[derive(Debug)]
pub struct IndexBuilder {
    decoder: Decoder,
    collector: Collector,
}

impl IndexBuilder {
    /// Begins at the start of a segment with what was open there.
    pub fn new(timeline: TimelineId, segment_bytes: u32, segment_start: Lsn, open: Open) -> Self {
        IndexBuilder {
            decoder: Decoder::new(segment_bytes, segment_start),
            collector: Collector {
                segment_bytes,
                track: Track::new(open.clone()),
                changed: Changed::default(),
                index: empty(timeline, segment_start, open),
            },
        }
    }

    /// Makes an index of every `bytes`, of which a segment is a multiple, in place of one a segment.
    pub fn every(mut self, bytes: u32) -> Self {
        self.collector.segment_bytes = bytes;
        self
    }

    /// Takes in the bytes that follow; returns the indexes that they finished.
    ///
    /// # Errors
    /// [`Error::EndsEarly`] where the WAL ends within what was fed: what a server sent as flushed always goes on.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<WalIndex>, Error> {
        self.decoder.feed(bytes);
        let mut finished = Vec::new();
        loop {
            match self.decoder.step()? {
                Step::Record(record) => self.collector.take(&record, &mut finished)?,
                Step::NeedMore => return Ok(finished),
                Step::End { at, why } => return Err(Error::EndsEarly { at, why }),
            }
        }
    }

    /// Returns where the next record begins or will begin.
    pub fn decoded_to(&self) -> Lsn {
        self.decoder.position()
    }

    /// Returns the index of the unfinished segment as far as it was decoded.
    pub fn tail(mut self) -> WalIndex {
        self.collector.finish()
    }
}

#[derive(Debug)]
struct Collector {
    segment_bytes: u32,
    track: Track,
    changed: Changed,
    index: WalIndex,
}

impl Collector {
    fn take(&mut self, record: &Record<'_>, finished: &mut Vec<WalIndex>) -> Result<(), Error> {
        while self.index.start.plus(u64::from(self.segment_bytes)) <= record.lsn {
            finished.push(self.finish());
        }
        self.changed.take(record);
        let what = self.track.take(record)?;
        let index = &mut self.index;
        index.end = record.end;
        index.records += 1;
        index.first_record.get_or_insert(record.lsn);
        let Some(what) = what else { return Ok(()) };
        if let Some(time) = what.time() {
            let times = index.times.get_or_insert(Times { min: time, max: time });
            (times.min, times.max) = (times.min.min(time), times.max.max(time));
        }
        if what.is_indexed() {
            index.events.push(Event { lsn: record.lsn, end: record.end, what });
        }
        Ok(())
    }

    /// Finishes the index at hand and begins the next segment's. A record may lie over whole segments:
    /// none begins in those, and each has its index all the same.
    fn finish(&mut self) -> WalIndex {
        let open = self.track.open();
        let next = self.index.start.plus(u64::from(self.segment_bytes));
        let mut next = empty(self.index.timeline, next, open.clone());
        next.end = self.index.end.max(next.start);
        let mut done = std::mem::replace(&mut self.index, next);
        done.open_at_end = open;
        done.blocks = self.changed.finish();
        done
    }
}

fn empty(timeline: TimelineId, start: Lsn, open: Open) -> WalIndex {
    WalIndex {
        version: WalIndex::VERSION,
        timeline,
        start,
        end: start,
        first_record: None,
        records: 0,
        times: None,
        events: Vec::new(),
        open_at_start: open,
        open_at_end: Open::default(),
        blocks: Vec::new(),
    }
}
