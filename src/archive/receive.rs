//! The server's side: connects, keeps the slot, streams, follows timelines, and comes back after
//! whatever broke.
//!
//! server -> pieces of WAL in order -> the keeper, over a bounded channel: when the keeper does not
//! take more, the server is not read, and keeps its WAL in the slot.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::branch::{Place, Way, way};
use super::resume::{self, Begin};
use super::shelf::Shelf;
use super::status::Mishap;
use super::{Error, Options};
use crate::class::{Class, Classified};
use crate::clock;
use crate::lsn::Lsn;
use crate::node::{Replication, Start, Streamed, sqlstate};
use crate::retry::Backoff;
use crate::timeline::{History, TimelineId};

/// What the keeper is told.
pub(super) enum Event {
    /// What follows joins nothing before it.
    Begin(Box<Begin>),
    Wal {
        start: Lsn,
        data: Bytes,
    },
    /// Nothing follows for now: put everything away, then answer up to where a quorum holds it.
    Finish(oneshot::Sender<Lsn>),
}

/// How the stream stopped, other than by an error.
enum Stop {
    TimelineEnd,
    Asked,
}

const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Silence after which the server is asked for a sign of life, and after which it counts as gone.
const SILENCE_ASKS: Duration = Duration::from_secs(20);
const SILENCE_ENDS: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Where a person must change something first.
const OPERATOR_WAIT: Duration = Duration::from_secs(30);

pub(super) struct Receiver {
    pub(super) options: Options,
    pub(super) shelf: Shelf,
    pub(super) events: mpsc::Sender<Event>,
    /// Up to here a quorum holds the WAL.
    pub(super) held: watch::Receiver<Lsn>,
    pub(super) shutdown: CancellationToken,
    /// The end of what the keeper was given; `None` before anything.
    reached: Option<Place>,
    /// Where what the keeper was given began: everything before is held, or lost.
    begun: Lsn,
    /// The server no longer has the WAL at `reached`.
    lost: bool,
    /// Timelines whose history files the vault has.
    histories: BTreeSet<TimelineId>,
}

impl Receiver {
    pub(super) fn new(
        options: Options,
        shelf: Shelf,
        events: mpsc::Sender<Event>,
        held: watch::Receiver<Lsn>,
        shutdown: CancellationToken,
    ) -> Self {
        Receiver {
            options,
            shelf,
            events,
            held,
            shutdown,
            reached: None,
            begun: Lsn::INVALID,
            lost: false,
            histories: BTreeSet::new(),
        }
    }

    /// Receives until asked to stop, or until an error that trying again cannot help.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let (shutdown, shelf) = (self.shutdown.clone(), self.shelf.clone());
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.connected() => ended,
                () = stop_before_streaming(&shutdown, &shelf) => return Ok(()),
            };
            self.shelf.status.send_modify(|status| status.connected = false);
            let error = match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final() || self.events.is_closed() => return Err(error),
                Err(error) => error,
            };
            self.lost = matches!(error, Error::Removed { .. });
            tracing::warn!(error = %Mishap::now(&error).text, hint = error.hint(), "WAL stream interrupted");
            self.shelf.status.send_modify(|status| status.last_error = Some(Mishap::now(&error)));
            if began.elapsed() > LONGEST_WAIT {
                backoff.reset();
            }
            let wait =
                if error.class() == Class::Operator && !self.lost { OPERATOR_WAIT } else { backoff.wait() };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.shutdown.cancelled() => return Ok(()),
                () = self.events.closed() => return Err(Error::Stopped),
            }
        }
    }

    /// Streams over one connection. Returns when asked to stop.
    async fn connected(&mut self) -> Result<(), Error> {
        let mut server = Replication::connect(&self.options.connection).await?;
        let identity = server.identify_system().await?;
        if identity.system_identifier != self.options.system_identifier {
            let expected = self.options.system_identifier.clone();
            return Err(Error::OtherServer { expected, found: identity.system_identifier });
        }
        let mut history = self.history(&mut server, identity.timeline).await?;
        let slot = self.slot(&mut server).await?;
        loop {
            let place = self.place(&history, slot).await?;
            tracing::info!(at = %place.at, timeline = %place.timeline, "streaming WAL");
            let start = server.start_physical(&self.options.slot, place.at, place.timeline).await;
            let start = start.map_err(|error| removed(place)(error.into()))?;
            let next = match start {
                Start::Ended(next) => next,
                Start::Streaming => {
                    match self.stream(&mut server).await.map_err(removed(self.reached.unwrap_or(place)))? {
                        Stop::Asked => return self.stop(server).await,
                        Stop::TimelineEnd => server.next_timeline().await?,
                    }
                }
            };
            tracing::info!(timeline = %place.timeline, at = %next.at, next = %next.timeline, "timeline ended");
            self.reached = Some(Place { timeline: place.timeline, at: next.at });
            history = self.history(&mut server, next.timeline.max(history.timeline)).await?;
        }
    }

    /// Returns the server's history, and keeps the history files of its timelines.
    async fn history(&mut self, server: &mut Replication, timeline: TimelineId) -> Result<History, Error> {
        if timeline.0 <= 1 {
            return Ok(History::root(timeline));
        }
        let text = self.history_file(server, timeline).await?;
        let history = History::parse(timeline, &text)?;
        for ancestor in &history.ancestors {
            if ancestor.timeline.0 > 1 && !self.histories.contains(&ancestor.timeline) {
                self.history_file(server, ancestor.timeline).await?;
            }
        }
        Ok(history)
    }

    async fn history_file(
        &mut self,
        server: &mut Replication,
        timeline: TimelineId,
    ) -> Result<String, Error> {
        let text = server.timeline_history(timeline).await?.text;
        if !self.histories.contains(&timeline) {
            self.shelf.put_history(timeline, text.clone()).await?;
            self.histories.insert(timeline);
        }
        Ok(text)
    }

    /// Makes sure of the slot; returns from where it keeps WAL.
    async fn slot(&self, server: &mut Replication) -> Result<Lsn, Error> {
        let name = self.options.slot.as_str();
        let kept = server.read_slot(name).await?;
        let useless = |restart: Lsn| self.lost && self.reached.is_some_and(|reached| restart <= reached.at);
        match kept.map(|slot| slot.restart) {
            Some(Some(restart)) if !useless(restart) => return Ok(restart),
            Some(_) => {
                tracing::error!(
                    slot = name,
                    "the slot no longer keeps the WAL that comes next; making it anew"
                );
                server.drop_slot(name).await?;
            }
            None => {}
        }
        server.create_physical_slot(name).await?;
        let restart = server.read_slot(name).await?.and_then(|slot| slot.restart);
        restart.ok_or_else(|| Error::NoReserve { slot: name.to_owned() })
    }

    /// Returns where to stream from, after telling the keeper where it is not where the last stream ended.
    async fn place(&mut self, history: &History, slot: Lsn) -> Result<Place, Error> {
        let lost = std::mem::take(&mut self.lost);
        let begin = match self.reached {
            Some(reached) if lost && slot.segment_start(self.shelf.segment_bytes) > reached.at => {
                self.finish().await?;
                self.shelf.report_gap(reached, slot.segment_start(self.shelf.segment_bytes));
                resume::after_gap(&self.shelf, history, slot).await?
            }
            Some(reached) if way(history, reached) == Way::Along => return Ok(reached),
            reached => {
                self.finish().await?;
                resume::find(&self.shelf, history, reached, slot).await?
            }
        };
        let place = begin.place;
        self.send(Event::Begin(Box::new(begin))).await?;
        (self.reached, self.begun) = (Some(place), place.at);
        Ok(place)
    }

    async fn stream(&mut self, server: &mut Replication) -> Result<Stop, Error> {
        let events = self.events.clone();
        let mut pending: Option<Event> = None;
        let mut heard = Instant::now();
        let mut status = interval(STATUS_EVERY);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                permit = events.reserve(), if pending.is_some() => {
                    let permit = permit.map_err(|_| Error::Stopped)?;
                    if let Some(event) = pending.take() {
                        permit.send(event);
                    }
                    // While the keeper took nothing, the server was not listened to.
                    heard = Instant::now();
                }
                streamed = server.next(), if pending.is_none() => {
                    heard = Instant::now();
                    match streamed? {
                        Streamed::Wal { start, data, server_end } => {
                            pending = Some(self.advance(start, data, server_end)?);
                        }
                        Streamed::Keepalive { server_end, reply, .. } => {
                            self.heard(server_end);
                            if reply {
                                self.tell(server, false).await?;
                            }
                        }
                        Streamed::End => return Ok(Stop::TimelineEnd),
                    }
                }
                _ = status.tick() => {
                    if heard.elapsed() > SILENCE_ENDS && pending.is_none() {
                        return Err(server.silent(SILENCE_ENDS).into());
                    }
                    self.tell(server, heard.elapsed() > SILENCE_ASKS).await?;
                }
                () = events.closed() => return Err(Error::Stopped),
                Ok(()) = self.held.changed() => self.tell(server, false).await?,
                () = self.shutdown.cancelled() => {
                    if let Some(event) = pending.take() {
                        self.send(event).await?;
                    }
                    return Ok(Stop::Asked);
                }
            }
        }
    }

    fn advance(&mut self, start: Lsn, data: Bytes, server_end: Lsn) -> Result<Event, Error> {
        let reached = self.reached.as_mut().ok_or(Error::Thread)?;
        if start != reached.at {
            return Err(Error::Disjoint { expected: reached.at, found: start });
        }
        reached.at = start.plus(data.len() as u64);
        self.heard(server_end);
        Ok(Event::Wal { start, data })
    }

    fn heard(&self, server_end: Lsn) {
        self.shelf.status.send_modify(|status| {
            status.connected = true;
            status.server = status.server.max(server_end);
            status.heard_at = Some(clock::now());
        });
    }

    /// Tells the server up to where its WAL is safe: the slot moves there.
    async fn tell(&mut self, server: &mut Replication, answer: bool) -> Result<(), Error> {
        let held = (*self.held.borrow_and_update()).max(self.begun);
        let written = self.reached.map_or(held, |reached| reached.at);
        Ok(server.status(written, held, answer).await?)
    }

    /// Has the keeper put away the last bytes, tells the server, and parts from it.
    async fn stop(&mut self, mut server: Replication) -> Result<(), Error> {
        let held = self.finish().await?;
        server.status(held, held, false).await?;
        Ok(server.close().await?)
    }

    /// Waits until the keeper has put away everything; returns up to where a quorum holds it.
    async fn finish(&self) -> Result<Lsn, Error> {
        let (answer, finished) = oneshot::channel();
        self.send(Event::Finish(answer)).await?;
        finished.await.map_err(|_| Error::Stopped)
    }

    async fn send(&self, event: Event) -> Result<(), Error> {
        self.events.send(event).await.map_err(|_| Error::Stopped)
    }
}

/// Resolves when asked to stop while there is no stream that could end in good order.
async fn stop_before_streaming(shutdown: &CancellationToken, shelf: &Shelf) {
    shutdown.cancelled().await;
    if shelf.status.borrow().connected {
        std::future::pending::<()>().await;
    }
}

/// Tells WAL that the server no longer has from other refusals.
fn removed(place: Place) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Node(source) if source.sqlstate() == Some(sqlstate::UNDEFINED_FILE) => {
            Error::Removed { timeline: place.timeline, at: place.at, source }
        }
        other => other,
    }
}
