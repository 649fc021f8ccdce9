//! Where to begin to push: after what the vault holds, as far as the server still has the files.

use super::{Pusher, Wanted, blocking};
use crate::archive::branch::Place;
use crate::archive::receive::Event;
use crate::archive::{Error, resume};
use crate::lsn::Lsn;
use crate::timeline::{History, TimelineId};
use crate::wal::segment::Segment;

impl Pusher {
    /// Begins a line with the oldest segment that the server wants archived, else with the one it writes.
    pub(super) async fn begin(&mut self, wanted: &Wanted) -> Result<bool, Error> {
        let own = self.pg_wal.segment_bytes;
        let oldest = wanted.ready.first().map(|segment| (segment.timeline, segment.start(own)));
        let now = wanted.now.map(|now| (now.timeline, now.flushed.segment_start(own)));
        let Some((timeline, start)) = oldest.or(now) else { return Ok(false) };
        let history = self.history(timeline).await?;
        let mut begin = resume::look(&self.shelf, &history, None, start).await?;
        let found = begin.place;
        let place = match self.can_read(found).await? {
            true if found.timeline == timeline => found,
            _ => self.nearest(&history, found, start),
        };
        begin.place = place;
        if let Some(lost) = self.lost.take().filter(|lost| lost.at < place.at) {
            self.shelf.report_gap(lost, place.at);
        } else if found.at < place.at && found.timeline == place.timeline {
            self.shelf.report_gap(found, place.at);
        }
        let begin = resume::begin(&self.shelf, &history, begin).await?;
        tracing::info!(at = %place.at, timeline = %place.timeline, "pushing WAL");
        self.ledger.send_modify(|ledger| ledger.begin(place.timeline, place.at));
        self.events.send(Event::Begin(Box::new(begin))).await.map_err(|_| Error::Stopped)?;
        self.line = Some(place);
        Ok(true)
    }

    /// Returns the history of a timeline, which the vault has then.
    async fn history(&self, timeline: TimelineId) -> Result<History, Error> {
        if timeline.0 <= 1 {
            return Ok(History::root(timeline));
        }
        let pg_wal = self.pg_wal.clone();
        let text = blocking(move || pg_wal.history_text(timeline)).await?;
        let text = text.ok_or(Error::NoHistory { timeline })?;
        let history = History::parse(timeline, &text)?;
        self.shelf.put_history(timeline, text).await?;
        Ok(history)
    }

    /// Returns whether the server still has the file with this place.
    async fn can_read(&self, place: Place) -> Result<bool, Error> {
        let (pg_wal, segment) =
            (self.pg_wal.clone(), Segment::of(place.timeline, place.at, self.pg_wal.segment_bytes));
        Ok(blocking(move || pg_wal.open(segment)).await?.is_some())
    }

    /// Returns where to begin in the file at `start`: it holds a copy of what its timeline's ancestor wrote in it,
    /// of which only what the vault may lack is needed.
    fn nearest(&self, history: &History, found: Place, start: Lsn) -> Place {
        let left = history.ancestors.last().map_or(Lsn::INVALID, |ancestor| ancestor.end);
        let within = start <= left && left < start.plus(self.pg_wal.segment_bytes.into());
        let at = match within {
            true => found.at.max(start).min(left.segment_start(self.shelf.segment_bytes)),
            false => start,
        };
        Place { timeline: history.timeline, at }
    }
}
