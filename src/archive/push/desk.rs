//! Answers `pitrus archive-push`: over a socket in the state folder, one line each way.
//!
//! name, device and inode of a file -> wait until a quorum holds it -> `K`, or `F` and what is wrong
//!
//! Segments come by the pusher, ahead of the question; all else is put away here. Nothing is answered
//! with `K` that a quorum does not hold, but for `.backup` files, which say nothing that a manifest does not.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::ledger::{Known, Ledger};
use super::pg_wal::{Identity, OpenSegment, PgWal};
use super::{SOCKET, blocking};
use crate::archive::Error;
use crate::archive::intake::Part;
use crate::archive::shelf::Shelf;
use crate::archive::status::Mishap;
use crate::class::Classified;
use crate::lsn::Lsn;
use crate::wal::segment::{Segment, parse_history_file_name};

/// The server asks one question at a time; what asked longer ago has gone.
const QUESTIONS_MAX: usize = 8;
const LINE_BYTES_MAX: u64 = 256;

#[derive(Clone)]
pub(super) struct Desk {
    pub(super) pg_wal: PgWal,
    pub(super) shelf: Shelf,
    pub(super) ledger: watch::Sender<Ledger>,
    /// Tells the pusher that somebody waits.
    pub(super) wake: Arc<Notify>,
}

/// Makes the socket, which only our own user may use.
pub(super) fn listen(state_dir: &Path) -> Result<UnixListener, Error> {
    let path = state_dir.join(SOCKET);
    let failed = |source| Error::File { path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

impl Desk {
    /// Answers until dropped.
    pub(super) async fn serve(self, listener: UnixListener) {
        let room = Arc::new(Semaphore::new(QUESTIONS_MAX));
        let mut answering = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let desk = self.clone();
                    answering.spawn(async move {
                        if let Err(error) = desk.answer(stream).await {
                            tracing::debug!(%error, "a question of archive-push was not answered");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "archive-push cannot be heard");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
            while answering.try_join_next().is_some() {}
        }
    }

    async fn answer(&self, stream: UnixStream) -> std::io::Result<()> {
        let (from, mut to) = stream.into_split();
        let mut from = BufReader::new(from);
        let mut line = String::new();
        (&mut from).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        let mut words = line.split_whitespace();
        let (name, device, inode) = (words.next(), words.next(), words.next());
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
        let (Some(name), Some(device), Some(inode)) = (name, number(device), number(inode)) else {
            return to.write_all(b"Fnot a question of archive-push").await;
        };
        let mut gone = [0];
        let held = tokio::select! {
            held = self.hold(name, (device, inode)) => held,
            _ = from.read(&mut gone) => return Ok(()), // it waits no longer
        };
        let said = match held {
            Ok(()) => "K".to_owned(),
            Err(error) => {
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                tracing::warn!(file = name, error = Mishap::now(&error).text, "not archived");
                format!("F{}{hint}", Mishap::now(&error).text)
            }
        };
        to.write_all(said.as_bytes()).await
    }

    /// Returns when a quorum holds the file.
    async fn hold(&self, name: &str, asked: (u64, u64)) -> Result<(), Error> {
        let pg_wal = self.pg_wal.clone();
        let bytes = pg_wal.segment_bytes;
        let file = name.to_owned();
        let identity = blocking(move || pg_wal.identity(&file)).await?;
        if (identity.device, identity.inode) != asked {
            return Err(Error::OtherFile { name: name.to_owned() });
        }
        if let Some(segment) = Segment::parse(name, bytes) {
            return self.segment(segment, identity).await;
        }
        if let Some(timeline) = parse_history_file_name(name) {
            let pg_wal = self.pg_wal.clone();
            let text = blocking(move || pg_wal.history_text(timeline)).await?;
            let text = text.ok_or_else(|| Error::OtherFile { name: name.to_owned() })?;
            return self.shelf.put_history(timeline, text).await;
        }
        if let Some(segment) = name.strip_suffix(".partial").and_then(|name| Segment::parse(name, bytes)) {
            return self.partial(segment, name).await;
        }
        if is_backup_label(name, bytes) {
            return Ok(());
        }
        Err(Error::NoWalFile { name: name.to_owned() })
    }

    async fn segment(&self, segment: Segment, identity: Identity) -> Result<(), Error> {
        let end = segment.end(self.pg_wal.segment_bytes);
        let mut ledger = self.ledger.subscribe();
        loop {
            self.wake.notify_one();
            let known = ledger.borrow_and_update().known(segment, end, identity);
            match known {
                Known::Held => return Ok(()),
                Known::Behind => return self.again(segment).await,
                Known::Ahead => ledger.changed().await.map_err(|_| Error::Thread)?,
            }
        }
    }

    /// Puts a segment that was put before, as the vault does with anything: the same bytes are done, and
    /// brought to a quorum; others are refused.
    async fn again(&self, segment: Segment) -> Result<(), Error> {
        let pg_wal = self.pg_wal.clone();
        let opened = blocking(move || pg_wal.open(segment)).await?;
        let own = self.pg_wal.segment_bytes;
        let opened = Arc::new(opened.ok_or(Error::OtherFile { name: segment.file_name(own) })?);
        self.pieces(segment, &opened, segment.end(own)).await
    }

    /// Keeps the last segment of a timeline that was left: up to where it was left, where that is known.
    async fn partial(&self, segment: Segment, name: &str) -> Result<(), Error> {
        let (pg_wal, file) = (self.pg_wal.clone(), name.to_owned());
        let found = blocking(move || Ok((OpenSegment::named(&pg_wal, &file)?, pg_wal.left_within(segment)?)));
        let (opened, left) = found.await?;
        let end = left.ok_or_else(|| Error::NoBranch { name: name.to_owned() })?;
        self.pieces(segment, &Arc::new(opened), end).await
    }

    /// Keeps a file's bytes up to `end`, by the vault's segments.
    async fn pieces(&self, segment: Segment, file: &Arc<OpenSegment>, end: Lsn) -> Result<(), Error> {
        let (kept, begin) = (self.shelf.segment_bytes, segment.start(self.pg_wal.segment_bytes));
        let mut start = begin;
        while start < end {
            let length = (end.0 - start.0).min(u64::from(kept));
            let (file, at) = (Arc::clone(file), start.0 - begin.0);
            let bytes = blocking(move || file.read(at, length as usize)).await?;
            let whole = length == u64::from(kept);
            let part = Part { segment: start, start, bytes };
            let name = match whole {
                true => self.shelf.segment_name(segment.timeline, start),
                false => self.shelf.part(segment.timeline, &part),
            };
            self.shelf.put_part(&name, part.bytes).await?;
            start = start.plus(length);
        }
        Ok(())
    }
}

/// Returns whether this is the file that marks a backup: `<segment>.<offset, 8 digits>.backup`.
fn is_backup_label(name: &str, segment_bytes: u32) -> bool {
    let parts = name.strip_suffix(".backup").and_then(|name| name.split_once('.'));
    parts.is_some_and(|(segment, offset)| {
        let is_offset = offset.len() == 8 && offset.bytes().all(|b| b.is_ascii_hexdigit());
        is_offset && Segment::parse(segment, segment_bytes).is_some()
    })
}
