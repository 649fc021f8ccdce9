//! The other way in: the server's own files of WAL, for those who have it archive with a command.
//!
//! `pg_wal`, up to what the server has flushed or wants archived -> [`Pusher`] -> the keeper, as streamed WAL does
//! `archive_command` -> [`call`] -> [`desk`] -> done when the [`ledger`] says that a quorum holds the segment
//!
//! The server keeps every segment until its command succeeds, so no slot is needed. The files are read
//! ahead of the command; the parts of the unfinished segment are sent as from a stream.

mod begin;
mod call;
mod desk;
mod ledger;
mod pg_wal;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::branch::Place;
use super::keep::Keeper;
use super::receive::Event;
use super::shelf::Shelf;
use super::status::Mishap;
use super::{Error, Options, PIECES_MAX};
use crate::class::Classified;
use crate::clock;
use crate::lsn::Lsn;
use crate::node::Session;
use crate::node::position::Position;
use crate::retry::Backoff;
use crate::timeline::TimelineId;
use crate::wal::segment::Segment;
use desk::Desk;
use ledger::Ledger;
use pg_wal::PgWal;

pub use call::{PushError, ask};

/// The desk's socket in the state folder.
const SOCKET: &str = "push";
/// How much is read of a file at once, and how much of it is one piece for the keeper.
const READ_BYTES: u64 = 1 << 20;
const PIECE_BYTES: usize = 128 << 10;
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Where the server's files are, and where questions come in.
#[derive(Clone, Debug)]
pub struct Push {
    pub data_directory: std::path::PathBuf,
    pub state_dir: std::path::PathBuf,
}

/// Pushes until `shutdown`, or until an error that trying again cannot help.
pub(super) async fn run(
    push: &Push,
    options: &Options,
    shelf: Shelf,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = desk::listen(&push.state_dir)?;
    let pg_wal = PgWal::new(&push.data_directory, &options.system_identifier, shelf.server_segment_bytes);
    let (ledger, wake) = (watch::Sender::new(Ledger::default()), Arc::new(Notify::new()));
    let desk = Desk {
        pg_wal: pg_wal.clone(),
        shelf: shelf.clone(),
        ledger: ledger.clone(),
        wake: Arc::clone(&wake),
    };
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let pushing = async {
        loop {
            let (events, pieces) = mpsc::channel(PIECES_MAX);
            let (tell, held) = watch::channel(Lsn::INVALID);
            let pusher = Pusher {
                options: options.clone(),
                shelf: shelf.clone(),
                pg_wal: pg_wal.clone(),
                events,
                ledger: ledger.clone(),
                wake: Arc::clone(&wake),
                shutdown: shutdown.clone(),
                session: None,
                line: None,
                lost: None,
            };
            let keeper = Keeper::new(shelf.clone(), options.part_every, tell);
            let kept = tokio::select! {
                (pushed, kept) = futures::future::join(pusher.run(), keeper.run(pieces)) => kept.and(pushed),
                () = acknowledge(held, &ledger) => std::future::pending().await,
            };
            match kept {
                // Other bytes are held: the server is told when it asks, and everything after goes on.
                Err(Error::Vault(error)) if error.is_clash() => {
                    ledger.send_modify(Ledger::break_off);
                    tracing::error!(error = Mishap::now(&error).text, hint = error.hint(), "refused");
                    shelf.status.send_modify(|status| status.last_error = Some(Mishap::now(&error)));
                    sleep(backoff.wait()).await;
                }
                ended => return ended,
            }
        }
    };
    tokio::select! {
        ended = pushing => ended,
        () = desk.serve(listener) => Err(Error::Thread),
    }
}

/// Carries over from the keeper what is held, until the keeper ends.
async fn acknowledge(mut held: watch::Receiver<Lsn>, ledger: &watch::Sender<Ledger>) {
    while held.changed().await.is_ok() {
        // Read within the change: what is pending then is of the line that this is of.
        ledger.send_if_modified(|ledger| ledger.take_held(*held.borrow_and_update()));
    }
    std::future::pending().await
}

struct Pusher {
    options: Options,
    shelf: Shelf,
    pg_wal: PgWal,
    events: mpsc::Sender<Event>,
    ledger: watch::Sender<Ledger>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
    session: Option<Session>,
    /// Up to where the files were read.
    line: Option<Place>,
    /// Where a line ended because a file was gone.
    lost: Option<Place>,
}

/// What there is to push.
struct Wanted {
    ready: BTreeSet<Segment>,
    now: Option<Position>,
}

impl Pusher {
    async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let (shutdown, events, wake) = (self.shutdown.clone(), self.events.clone(), Arc::clone(&self.wake));
        loop {
            let turn = tokio::select! {
                turn = self.turn() => turn,
                () = shutdown.cancelled() => break,
                () = events.closed() => return Err(Error::Stopped),
            };
            let pause = match turn {
                Ok(true) => {
                    backoff.reset();
                    continue;
                }
                Ok(false) => self.options.part_every / 2,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    let why = Mishap::now(&error);
                    tracing::warn!(error = why.text, hint = error.hint(), "WAL cannot be pushed");
                    self.shelf.status.send_modify(|status| status.last_error = Some(why));
                    backoff.wait()
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = wake.notified() => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.finish().await
    }

    /// Looks once, and pushes at most one file; returns whether there may be more at once.
    async fn turn(&mut self) -> Result<bool, Error> {
        let wanted = self.look().await?;
        let Some(line) = self.line else { return self.begin(&wanted).await };
        let is_newer = |timeline: TimelineId| timeline > line.timeline;
        let left = wanted.now.is_some_and(|now| is_newer(now.timeline))
            || wanted.ready.iter().any(|segment| is_newer(segment.timeline));
        let to = self.reaches(line, &wanted);
        if to > line.at {
            return self.push(line, to).await;
        }
        if left {
            self.finish().await?;
            self.line = None;
        }
        Ok(left)
    }

    /// Returns up to where the line can be read: what the server has flushed, or wants archived.
    fn reaches(&self, line: Place, wanted: &Wanted) -> Lsn {
        let flushed = wanted.now.filter(|now| now.timeline == line.timeline).map(|now| now.flushed);
        let own = wanted.ready.iter().filter(|segment| segment.timeline == line.timeline);
        let ready = own.map(|segment| segment.end(self.pg_wal.segment_bytes)).max();
        flushed.max(ready).unwrap_or(Lsn::INVALID)
    }

    async fn look(&mut self) -> Result<Wanted, Error> {
        let pg_wal = self.pg_wal.clone();
        let mut ready = blocking(move || pg_wal.ready()).await?;
        // What is held waits only for the server to ask.
        ready.retain(|segment| !self.ledger.borrow().has(*segment));
        // A server that is down may have left segments to push all the same.
        let now = match tokio::time::timeout(ANSWERS_WITHIN, self.position()).await {
            Ok(Ok(now)) => now,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the server does not say how far it is");
                None
            }
            Err(_) => None,
        };
        self.shelf.status.send_modify(|status| {
            status.connected = now.is_some();
            if let Some(now) = now {
                status.server = status.server.max(now.flushed);
                status.heard_at = Some(clock::now());
            }
        });
        Ok(Wanted { ready, now })
    }

    async fn position(&mut self) -> Result<Option<Position>, Error> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::connect(&self.options.connection, None).await?,
        };
        let now = session.wal_position().await?;
        self.session = Some(session);
        Ok(now)
    }

    /// Pushes what there is of the next file, up to `to`.
    async fn push(&mut self, line: Place, to: Lsn) -> Result<bool, Error> {
        let own = self.pg_wal.segment_bytes;
        let segment = Segment::of(line.timeline, line.at, own);
        let pg_wal = self.pg_wal.clone();
        let Some(file) = blocking(move || pg_wal.open(segment)).await? else {
            return self.gone(line).await;
        };
        let file = Arc::new(file);
        let (start, end) = (segment.start(own), segment.end(own));
        let mut at = line.at;
        while at < to.min(end) {
            let length = (to.min(end).0 - at.0).min(READ_BYTES) as usize;
            let (reading, from) = (Arc::clone(&file), at.0 - start.0);
            let mut bytes = blocking(move || reading.read(from, length)).await?;
            while !bytes.is_empty() {
                let data = bytes.split_to(PIECE_BYTES.min(bytes.len()));
                let next = at.plus(data.len() as u64);
                self.events.send(Event::Wal { start: at, data }).await.map_err(|_| Error::Stopped)?;
                at = next;
                self.line = Some(Place { at, ..line });
            }
        }
        let identity = blocking(move || file.identity()).await?;
        self.ledger.send_modify(|ledger| {
            ledger.read_to(at);
            if at == end {
                ledger.read(segment, end, identity);
            }
        });
        Ok(true)
    }

    /// Has the keeper put away what it was given.
    async fn finish(&mut self) -> Result<(), Error> {
        let (answer, finished) = oneshot::channel();
        self.events.send(Event::Finish(answer)).await.map_err(|_| Error::Stopped)?;
        finished.await.map(drop).map_err(|_| Error::Stopped)
    }

    async fn gone(&mut self, line: Place) -> Result<bool, Error> {
        self.finish().await?;
        (self.line, self.lost) = (None, Some(line));
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Thread)?
}
