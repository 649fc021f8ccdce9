//! A directory of WAL as the cut looks at it.

use std::collections::BTreeMap;
use std::path::Path;

use super::Error;
use super::known::{Brief, Briefs, Lists, Since, is_before};
use super::listing::Listing;
use super::tape::Tape;
use crate::cut::look::{Log, Told};
use crate::lsn::Lsn;
use crate::manifest::wal_index::Times;
use crate::moment::Moment;
use crate::timeline::{Ancestor, TimelineId};
use crate::wal::event::{Event, Prepared, What};

/// One node's directory of WAL: the stretch between two gaps that is looked at.
#[derive(Debug)]
pub struct WalDir {
    listing: Listing,
    /// Which stretch is looked at.
    at: usize,
    /// Its ends.
    first: u64,
    last: u64,
    /// What is added to every time stamp read: how wrong the node's clock is pretended to be.
    pretended: i64,
    briefs: Briefs,
    held: BTreeMap<u64, Held>,
    /// Where the last reading stands: at the start of this segment.
    tape: Option<(u64, Tape)>,
    since: Option<Since>,
}

/// What is kept of a segment that was decoded for the cut.
#[derive(Debug, Default)]
struct Held {
    events: Vec<Event>,
    times: Option<Times>,
    end: Lsn,
    prepared_at_start: Vec<Prepared>,
    lists: Lists,
    strangers: Vec<Stranger>,
}

/// A COMMIT PREPARED or ROLLBACK PREPARED whose PREPARE lies before the directory's WAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stranger {
    pub(crate) lsn: Lsn,
    pub(crate) xid: u32,
    pub(crate) time: Moment,
}

impl WalDir {
    /// Lists a directory, and looks at the newest stretch of a timeline, else of the newest.
    pub fn open(path: &Path, timeline: Option<TimelineId>) -> Result<Self, Error> {
        let listing = Listing::read(path, timeline)?;
        let at = listing.stretches.len().saturating_sub(1);
        let Some((first, last)) = listing.stretches.last().copied() else {
            return Err(Error::NoWal { path: path.to_owned(), instead: None });
        };
        Ok(WalDir {
            listing,
            at,
            first,
            last,
            pretended: 0,
            briefs: Briefs::default(),
            held: BTreeMap::new(),
            tape: None,
            since: None,
        })
    }

    /// Reads time stamps as if the node's clock had been wrong by so many microseconds.
    pub(crate) fn pretending(self, micros: i64) -> Self {
        WalDir { pretended: micros, ..self }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.listing.folder()
    }

    /// Returns the server's system identifier.
    pub(crate) fn system(&self) -> u64 {
        self.listing.system
    }

    /// Returns whether both directories hold the WAL of one server. Servers of which one began as a copy of the
    /// other have the same system identifier, but not the same newest segment.
    pub(crate) fn is_of_one_server(&self, other: &WalDir) -> Result<bool, Error> {
        Ok(self.system() == other.system() && self.listing.ends_like(&other.listing)?)
    }

    /// Returns what was found about the files.
    pub(crate) fn notes(&self) -> &[String] {
        &self.listing.notes
    }

    /// Looks at the stretch before the gap; returns whether there is one.
    pub(crate) fn step_back(&mut self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| Some((at, *self.listing.stretches.get(at)?)));
        if let Some((at, (first, last))) = before {
            (self.at, self.first, self.last) = (at, first, last);
            (self.tape, self.since) = (None, None);
            self.held.clear();
        }
        before.is_some()
    }

    /// Returns whether WAL is missing after what is looked at.
    pub(crate) fn is_before_gap(&self) -> bool {
        self.at + 1 < self.listing.stretches.len()
    }

    /// Returns the timeline that recovery must follow to a stop at `lsn`: its own, or that whose files hold the
    /// segments from there on.
    pub(crate) fn timeline_to(&self, lsn: Lsn) -> TimelineId {
        let own = self.listing.history.timeline_at(Lsn(lsn.0.saturating_sub(1)));
        let number = self.number_of(lsn);
        let read = [number, number.saturating_add(1)].map(|number| self.listing.timeline_of(number));
        read.into_iter().flatten().fold(own, TimelineId::max)
    }

    /// Returns the timeline that the one followed left last at or before `lsn`, if its own WAL goes on after that
    /// place, and the place: a promotion left it aside.
    pub(crate) fn left_aside(&self, lsn: Lsn) -> Result<Option<(WalDir, Ancestor)>, Error> {
        let left = self.listing.history.ancestors.iter().rev().find(|ancestor| ancestor.end <= lsn).copied();
        let Some(left) = left else { return Ok(None) };
        let mut old = match WalDir::open(self.folder(), Some(left.timeline)) {
            Err(Error::NoTimeline { .. } | Error::NoWal { .. }) => return Ok(None),
            opened => opened?.pretending(self.pretended),
        };
        Ok((old.end()? > left.end).then_some((old, left)))
    }

    /// Returns whether the newest segment is a file of the timeline before, and this file goes on after the place
    /// where the timeline that is followed left it.
    pub(crate) fn is_left_at_end(&self) -> Result<bool, Error> {
        let is_old = self.listing.timeline_of(self.last).is_some_and(|held| held != self.timeline());
        Ok(is_old && self.left_aside(self.listing.start_of(self.last.saturating_add(1)))?.is_some())
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        self.listing.history.timeline
    }

    /// Returns the end of the stretch's WAL.
    pub(crate) fn end(&mut self) -> Result<Lsn, Error> {
        Ok(self.decoded(self.last)?.end)
    }

    /// Returns the first time stamp of the stretch.
    pub(crate) fn oldest_time(&mut self) -> Result<Option<Moment>, Error> {
        for number in self.first..=self.last {
            if let Some(times) = self.brief(number)?.times {
                return Ok(Some(times.min));
            }
        }
        Ok(None)
    }

    /// Returns why transactions may be prepared at `stop` of which nothing is known, where they may.
    pub(crate) fn doubt(&mut self, stop: Lsn) -> Result<Option<String>, Error> {
        let Some(Since { segment, is_sure: false }) = self.since else { return Ok(None) };
        let since = self.brief(segment)?.next;
        let mut lists = self.held.values().flat_map(|held| &held.lists).filter(|(lsn, _)| *lsn < stop);
        let is_known = since.is_some_and(|since| lists.any(|(_, oldest)| !is_before(*oldest, since)));
        Ok((!is_known).then(|| {
            format!(
                "the WAL in {} begins at {}: a transaction that was prepared before, and not finished by the cut, \
                 is not seen; look at pg_prepared_xacts after recovery",
                self.listing.folder().display(),
                self.listing.start_of(segment)
            )
        }))
    }

    /// Returns the prepared transactions that ended in what was looked at, and began before the directory's WAL.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = &Stranger> {
        self.held.values().flat_map(|held| &held.strangers)
    }

    fn brief(&mut self, number: u64) -> Result<Brief, Error> {
        self.briefs.of(&self.listing, (number, self.last), self.pretended)
    }

    fn decoded(&mut self, number: u64) -> Result<&Held, Error> {
        if !self.held.contains_key(&number) {
            let mut tape = match self.tape.take() {
                Some((at, tape)) if at == number => tape,
                _ => self.tape_to(number)?,
            };
            let held = self.hold(&mut tape, number)?;
            self.held.insert(number, held);
            self.tape = Some((number.saturating_add(1), tape));
        }
        let missing = || Error::Missing { path: self.listing.folder().to_owned(), number };
        self.held.get(&number).ok_or_else(missing)
    }

    /// Returns a tape at the start of a segment that knows what is under way there.
    fn tape_to(&mut self, number: u64) -> Result<Tape, Error> {
        let ends = (self.first, self.last);
        let since = self.briefs.since(&self.listing, ends, number, self.pretended)?;
        // A stretch that grows to earlier segments is judged by its beginning.
        if self.since.is_none_or(|known| since.segment <= known.segment) {
            self.since = Some(since);
        }
        let mut tape = Tape::new(&self.listing, (since.segment, self.last), self.pretended);
        while let Some(event) = tape.before(&self.listing, self.listing.start_of(number))? {
            tape.note(&event);
        }
        Ok(tape)
    }

    fn hold(&self, tape: &mut Tape, number: u64) -> Result<Held, Error> {
        let mut held = Held { prepared_at_start: tape.prepared(), ..Held::default() };
        let limit = self.listing.start_of(number.saturating_add(1));
        while let Some(event) = tape.before(&self.listing, limit)? {
            if let Some(time) = event.what.time() {
                let times = held.times.get_or_insert(Times { min: time, max: time });
                (times.min, times.max) = (times.min.min(time), times.max.max(time));
            }
            match event.what {
                What::Running { oldest, .. } => held.lists.push((event.lsn, oldest)),
                What::CommitPrepared { xid, time, gid: None }
                | What::RollbackPrepared { xid, time, gid: None }
                    if !tape.is_prepared(xid) =>
                {
                    held.strangers.push(Stranger { lsn: event.lsn, xid, time });
                }
                _ => {}
            }
            tape.note(&event);
            if event.what.is_indexed() {
                held.events.push(event);
            }
        }
        held.end = tape.position();
        Ok(held)
    }
}

impl Log for WalDir {
    type Error = Error;

    fn ends(&self) -> (u64, u64) {
        (self.first, self.last)
    }

    fn segment_bytes(&self) -> u32 {
        self.listing.segment_bytes
    }

    async fn told(&mut self, number: u64) -> Result<Told<'_>, Error> {
        let held = self.decoded(number)?;
        Ok(Told { events: &held.events, times: held.times, end: held.end })
    }

    async fn times(&mut self, number: u64) -> Result<Option<Times>, Error> {
        Ok(self.brief(number)?.times)
    }

    async fn events_of(&mut self, number: u64, see: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        let mut tape = Tape::new(&self.listing, (number, self.last), self.pretended);
        let limit = self.listing.start_of(number.saturating_add(1));
        while let Some(event) = tape.before(&self.listing, limit)? {
            see(&event);
        }
        Ok(())
    }

    async fn all_events_of(&mut self, number: u64, see: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        self.events_of(number, see).await
    }

    async fn later(
        &mut self,
        number: u64,
        time: Moment,
        counts: fn(&What) -> bool,
    ) -> Result<Option<Lsn>, Error> {
        let mut tape = Tape::new(&self.listing, (number, self.last), self.pretended);
        let limit = self.listing.start_of(number.saturating_add(1));
        while let Some(event) = tape.before(&self.listing, limit)? {
            if counts(&event.what) && event.what.time().is_some_and(|at| at > time) {
                return Ok(Some(event.lsn));
            }
        }
        Ok(None)
    }

    async fn prepared_at(&mut self, number: u64) -> Result<Vec<Prepared>, Error> {
        Ok(self.decoded(number)?.prepared_at_start.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = 1 << 20;

    /// The recorded WAL of a worker (see `fixtures/README.md`), with a transaction prepared across its segments.
    fn unpacked() -> tempfile::TempDir {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wal/citus/worker1");
        let folder = tempfile::tempdir().unwrap();
        for name in ["00000001000000000000000F", "000000010000000000000010"] {
            let packed = std::fs::read(from.join(format!("{name}.zst"))).unwrap();
            std::fs::write(folder.path().join(name), zstd::decode_all(packed.as_slice()).unwrap()).unwrap();
        }
        folder
    }

    /// Whatever is prepared at the start of each segment, by reading all from the beginning.
    #[test]
    fn what_is_prepared_is_known_wherever_reading_begins() {
        let folder = unpacked();
        let mut dir = WalDir::open(folder.path(), None).unwrap();
        let (first, last) = dir.ends();
        assert_eq!((first, last), (0xF, 0x10));
        let mut tape = Tape::new(&dir.listing, (first, last), 0);
        while let Some(event) = tape.before(&dir.listing, Lsn(last * SEGMENT_BYTES)).unwrap() {
            tape.note(&event);
        }
        let held = dir.decoded(last).unwrap();
        assert_eq!(held.prepared_at_start, tape.prepared());
        assert!(held.strangers.is_empty());
        assert!(dir.doubt(Lsn::MAX).unwrap().is_none());
        assert_eq!(dir.since, Some(Since { segment: first, is_sure: true }));

        // Alone, the second segment says what it cannot know, until its own list of what runs.
        std::fs::remove_file(folder.path().join("00000001000000000000000F")).unwrap();
        let mut alone = WalDir::open(folder.path(), None).unwrap();
        let start = alone.decoded(last).unwrap().lists.first().unwrap().0;
        assert!(alone.doubt(start).unwrap().is_some());
        assert!(alone.doubt(Lsn::MAX).unwrap().is_none());
    }
}
