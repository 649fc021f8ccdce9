//! The zones' side: segments, parts and indexes on their way to a quorum.
//!
//! pieces -> intake -> segments (several at once) and parts (one at a time)
//! pieces -> decoder -> indexes, put in order and only after their segment and all before it are held
//!
//! What a quorum holds without a gap is told to the receiver, which tells the server.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::Error;
use super::decode::Decoder;
use super::held::Held;
use super::intake::{Chunk, Intake};
use super::receive::Event;
use super::resume::{Begin, Parts};
use super::sealers::Sealing;
use super::shelf::Shelf;
use super::status::Waiting;
use crate::lsn::Lsn;
use crate::manifest::wal_index::WalIndex;
use crate::seal::CHUNK_BYTES;
use crate::timeline::TimelineId;
use crate::vault::ObjectName;

/// Bytes of whole segments that are on their way to the zones; beyond, nothing is read from the server.
const SENT_BYTES_MAX: u64 = 64 << 20;
/// Indexes that wait for their turn; beyond, nothing is read either.
const INDEXES_MAX: usize = 16;

/// How long a part that nobody needs stays.
const NEEDLESS_FOR: Duration = Duration::from_secs(60);

pub(super) struct Keeper {
    shelf: Shelf,
    part_every: Duration,
    held: watch::Sender<Lsn>,
    line: Option<Line>,
    jobs: JoinSet<Result<Done, Error>>,
    waiting: Waiting,
    /// Parts to be deleted, and since when nobody needs them.
    needless: VecDeque<(Instant, Vec<ObjectName>)>,
}

/// One stretch of WAL without a gap, on one timeline.
struct Line {
    timeline: TimelineId,
    intake: Intake,
    /// The unfinished segment, as far as it was sealed.
    sealing: Option<Sealing>,
    held: Held,
    decoder: Option<Decoder>,
    indexes: VecDeque<WalIndex>,
    /// The end of the intake at the last tick.
    ticked: Lsn,
    segments_sent: usize,
    part_sent: bool,
    index_sent: bool,
    /// Parts that the vault has or will have, by segment number.
    parts: Parts,
}

enum Done {
    Segment { start: Lsn, end: Lsn },
    Part { name: ObjectName, start: Lsn, end: Lsn },
    Index,
    Swept,
}

impl Keeper {
    pub(super) fn new(shelf: Shelf, part_every: Duration, held: watch::Sender<Lsn>) -> Self {
        Keeper {
            shelf,
            part_every,
            held,
            line: None,
            jobs: JoinSet::new(),
            waiting: Waiting::default(),
            needless: VecDeque::new(),
        }
    }

    /// Keeps what comes until the channel closes, then puts away the rest.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), Error> {
        let mut tick = interval(self.part_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv(), if self.may_take() => match event {
                    Some(event) => self.take(event).await?,
                    None => break,
                },
                Some(done) = self.jobs.join_next() => self.done(done)?,
                Some(index) = next_index(&mut self.line) => self.index(index),
                _ = tick.tick() => {
                    self.part();
                    self.sweep();
                }
            }
            self.tell();
        }
        self.finish().await.map(drop)
    }

    fn may_take(&self) -> bool {
        let segments_max = (SENT_BYTES_MAX / u64::from(self.shelf.segment_bytes).max(1)).max(1) as usize;
        let room = |line: &Line| line.segments_sent < segments_max && line.indexes.len() < INDEXES_MAX;
        self.line.as_ref().is_none_or(room)
    }

    async fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Begin(begin) => self.begin(*begin),
            Event::Wal { start, data } => self.wal(start, data).await?,
            Event::Finish(answer) => {
                let held = self.finish().await?;
                let _ = answer.send(held); // nobody waits only when we stop
            }
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin) {
        let Begin { place, indexer, indexes, parts, needless } = begin;
        self.line = Some(Line {
            timeline: place.timeline,
            intake: Intake::new(self.shelf.segment_bytes, CHUNK_BYTES, place.at),
            sealing: None,
            held: Held::new(place.at),
            decoder: Some(Decoder::start(indexer, self.shelf.status.clone())),
            indexes: indexes.into(),
            ticked: place.at,
            segments_sent: 0,
            part_sent: false,
            index_sent: false,
            parts,
        });
        self.waiting.clear();
        self.needless.push_back((Instant::now(), needless));
        self.next_index_job();
    }

    async fn wal(&mut self, start: Lsn, data: Bytes) -> Result<(), Error> {
        let line = self.line.as_mut().ok_or(Error::Thread)?;
        if let Some(decoder) = &line.decoder {
            decoder.feed(data.clone()).await;
        }
        let chunks = line
            .intake
            .push(start, &data)
            .map_err(|d| Error::Disjoint { expected: d.expected, found: d.found })?;
        for chunk in chunks {
            self.chunk(chunk).await?;
        }
        Ok(())
    }

    /// Has a chunk sealed; the last of a segment sends it on its way.
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), Error> {
        let Chunk { segment, bytes, last } = chunk;
        let line = self.line.as_mut().ok_or(Error::Thread)?;
        let name = self.shelf.segment_name(line.timeline, segment);
        let mut sealing = match line.sealing.take() {
            Some(begun) => begun,
            None => self.shelf.sealing(&name)?,
        };
        sealing.chunk(&self.shelf.sealers, bytes, last).await?;
        if !last {
            line.sealing = Some(sealing);
            return Ok(());
        }
        line.segments_sent += 1;
        let (shelf, end) = (self.shelf.clone(), segment.plus(self.shelf.segment_bytes.into()));
        self.jobs.spawn(async move {
            let sealed = sealing.finish().await?;
            shelf.put_sealed(&name, sealed).await?;
            Ok(Done::Segment { start: segment, end })
        });
        Ok(())
    }

    /// Sends what is new of the unfinished segment; one part at a time, so that what comes meanwhile
    /// goes into the next.
    fn part(&mut self) {
        let Some(line) = self.line.as_mut() else { return };
        self.waiting.received(line.intake.end());
        // At a segment a tick and more, segments alone keep up, and parts would only be deleted again.
        let moved = line.intake.end().0 - std::mem::replace(&mut line.ticked, line.intake.end()).0;
        if moved < u64::from(self.shelf.segment_bytes) {
            self.part_now();
        }
    }

    fn part_now(&mut self) {
        let Some(line) = self.line.as_mut().filter(|line| !line.part_sent) else { return };
        let Some(part) = line.intake.part() else { return };
        line.part_sent = true;
        let (shelf, name) = (self.shelf.clone(), self.shelf.part(line.timeline, &part));
        let (start, end) = (part.start, part.end());
        self.jobs.spawn(async move {
            shelf.put_part(&name, part.bytes).await?;
            Ok(Done::Part { name, start, end })
        });
    }

    fn index(&mut self, index: WalIndex) {
        if let Some(line) = self.line.as_mut() {
            line.indexes.push_back(index);
        }
        self.next_index_job();
    }

    fn next_index_job(&mut self) {
        let Some(line) = self.line.as_mut().filter(|line| !line.index_sent) else { return };
        let whole = u64::from(self.shelf.segment_bytes);
        let held = line.held.to();
        let due = line.indexes.front().is_some_and(|index| index.start.plus(whole) <= held);
        let Some(index) = due.then(|| line.indexes.pop_front()).flatten() else { return };
        line.index_sent = true;
        let shelf = self.shelf.clone();
        self.jobs.spawn(async move {
            shelf.put_index(index).await?;
            Ok(Done::Index)
        });
    }

    fn done(&mut self, done: Result<Result<Done, Error>, JoinError>) -> Result<(), Error> {
        let done = done.map_err(|_| Error::Thread)??;
        let mut needless = Vec::new();
        let Some(line) = self.line.as_mut() else { return Ok(()) };
        match done {
            Done::Segment { start, end } => {
                line.segments_sent -= 1;
                line.held.add(start, end);
                let number = start.segment(self.shelf.segment_bytes);
                needless = line.parts.remove(&number).unwrap_or_default();
                self.shelf.status.send_modify(|status| status.segments += 1);
            }
            Done::Part { name, start, end } => {
                line.part_sent = false;
                line.held.add(start, end);
                needless = line.keep_part(name, start, end, self.shelf.segment_bytes);
            }
            Done::Index => line.index_sent = false,
            Done::Swept => {}
        }
        if !needless.is_empty() {
            self.needless.push_back((Instant::now(), needless));
        }
        self.next_index_job();
        Ok(())
    }

    /// Deletes parts that have been needless for a while: a reader may be between its list and them.
    fn sweep(&mut self) {
        while let Some((since, parts)) = self.needless.pop_front() {
            if since.elapsed() < NEEDLESS_FOR {
                self.needless.push_front((since, parts));
                return;
            }
            let shelf = self.shelf.clone();
            self.jobs.spawn(async move {
                shelf.sweep(parts).await;
                Ok(Done::Swept)
            });
        }
    }

    /// Puts away everything that came, and ends the line; returns where it ended.
    async fn finish(&mut self) -> Result<Lsn, Error> {
        if let Some(line) = self.line.as_mut()
            && let Some(decoder) = line.decoder.take()
        {
            let (rest, last) = decoder.finish().await;
            // A segment is whole also when no record of the next one came.
            let whole = last.filter(|index| index.start < line.intake.segment());
            line.indexes.extend(rest);
            line.indexes.extend(whole);
        }
        loop {
            self.part_now();
            self.next_index_job();
            let Some(done) = self.jobs.join_next().await else { break };
            self.done(done)?;
            self.tell();
        }
        let held = self.line.take().map_or(Lsn::INVALID, |line| line.held.to());
        self.waiting.clear();
        // What comes next may begin before or after this: it must not be taken for held there.
        self.held.send_replace(Lsn::INVALID);
        Ok(held)
    }

    fn tell(&mut self) {
        let Some(line) = self.line.as_ref() else { return };
        let (held, received, timeline) = (line.held.to(), line.intake.end(), line.timeline);
        let waiting_ms = self.waiting.oldest_ms(held);
        self.held.send_if_modified(|old| std::mem::replace(old, held) != held);
        self.shelf.status.send_if_modified(|status| {
            let new = (Some(timeline), held, received, waiting_ms);
            let old = (status.timeline, status.archived, status.received, status.waiting_ms);
            (status.timeline, status.archived, status.received, status.waiting_ms) = new;
            new != old
        });
    }
}

impl Line {
    /// Notes a part that is held; returns those that it makes needless.
    fn keep_part(&mut self, name: ObjectName, start: Lsn, end: Lsn, segment_bytes: u32) -> Vec<ObjectName> {
        let number = start.segment(segment_bytes);
        let whole = self.held.to().segment(segment_bytes) > number;
        let parts = self.parts.entry(number).or_default();
        if !parts.contains(&name) {
            parts.push(name.clone());
        }
        if whole {
            return self.parts.remove(&number).unwrap_or_default();
        }
        if start.segment_offset(segment_bytes) > 0 {
            return Vec::new();
        }
        // Begun anew, it holds all that the earlier ones hold; but those of an earlier run may reach further.
        let reached = (end.0 - start.0) as u32;
        parts.extract_if(.., |part| *part != name && part_end(part) <= reached).collect()
    }
}

/// Returns how far a part reaches into its segment.
fn part_end(name: &ObjectName) -> u32 {
    match name {
        ObjectName::Part { end, .. } => *end,
        _ => u32::MAX,
    }
}

/// Returns the next finished index; waits for ever where there is no decoder.
async fn next_index(line: &mut Option<Line>) -> Option<WalIndex> {
    let decoder = line.as_mut().and_then(|line| line.decoder.as_mut());
    match decoder {
        Some(decoder) => decoder.next().await,
        None => std::future::pending().await,
    }
}
