//! WAL for a recovering server, laid into its `pg_wal` before it asks: keys and zones stay in our process.
//!
//! vault -> [`Supply`] -> a few segments ahead in `pg_wal` <- the server, told by its `restore_command` to look there
//!
//! The command says that the archive has no such file, at which the server looks into `pg_wal` itself
//! (`XLogFileReadAnyTLI`) and replays at the speed of local WAL; what it is handed otherwise it renames and syncs while
//! recovery waits (`KeepFileRestoredFromArchive`). Nothing here is synced: after a crash of the machine all of it is
//! laid again. Where the file is there already the command is done within the shell, which says so in a FIFO.
//! Where it is not, `pitrus restore wal-from-spool` asks over a socket and waits.
//!
//! A failure of ours must not look like the end of the WAL, at which the server would promote: the command
//! then exits with 255, at which the server stops.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::Error;
use super::fetch::set_mode;
use super::install::OsUser;
use crate::clock;
use crate::folio;
use crate::timeline::TimelineId;
use crate::wal::segment::{Segment, history_file_name, parse_history_file_name};

/// The socket's name in the private folder.
const SOCKET: &str = "wal";
/// The FIFO's: names of files that the server found without us, a line each.
const FOUND: &str = "found";
/// Folder in `pg_wal` of what is not whole yet.
const UNFINISHED: &str = "pitrus.spool";
/// Folder in `pg_wal` where the server keeps what it knows of archiving. A file laid by us is marked in it as
/// archived: so we know it from an old one that the server renamed for later use, and no archive of the new cluster
/// gets it.
const STATUS: &str = "archive_status";
/// The command of ours that asks.
pub const WAL_FROM_SPOOL: &str = "wal-from-spool";
/// Longer than any name that PostgreSQL asks for.
const NAME_MAX: u64 = 256;

/// The server takes an exit code above 125 for a fault that ends recovery
/// (PostgreSQL `RestoreArchivedFile`).
const LOOK: u8 = 1;
const BROKEN: u8 = 255;

/// A file that recovery may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Segment(Segment),
    History(TimelineId),
}

impl Wanted {
    /// Reads a name as the server gives it in `%f`; other files than these we never have.
    fn read(name: &str, segment_bytes: u32) -> Option<Self> {
        let segment = Segment::parse(name, segment_bytes).map(Wanted::Segment);
        segment.or_else(|| parse_history_file_name(name).map(Wanted::History))
    }

    /// Returns the `n`th segment after this one.
    fn after(self, n: u64) -> Option<Self> {
        match self {
            Wanted::Segment(s) => Some(Wanted::Segment(Segment { number: s.number.checked_add(n)?, ..s })),
            Wanted::History(_) => None,
        }
    }
}

/// Parts of a file, with where they begin; between and behind them it is zeros.
pub(super) type Pieces = BoxStream<'static, Result<(u64, Bytes), Error>>;

/// Where WAL comes from.
pub(super) trait Supply: Send + Sync + 'static {
    /// Returns what is in a file, in pieces of a length that memory bears; `None` where there is none.
    fn file(&self, wanted: Wanted) -> impl Future<Output = Result<Option<Pieces>, Error>> + Send;
}

/// What a spool is given.
#[derive(Clone, Debug)]
pub(super) struct SpoolOptions {
    pub(super) pg_wal: PathBuf,
    /// The private folder, for the socket and the FIFO.
    pub(super) private: PathBuf,
    pub(super) user: OsUser,
    pub(super) segment_bytes: u32,
    /// How many segments are fetched ahead.
    pub(super) ahead: u64,
    /// How many of them at a time: each is in memory meanwhile.
    pub(super) at_once: usize,
}

/// A running spool; it ends when dropped.
pub(super) struct Spool {
    serving: JoinHandle<()>,
    unfinished: PathBuf,
    asked: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<Error>>>,
}

impl Spool {
    /// Begins to serve one server.
    pub(super) fn open<S: Supply>(options: SpoolOptions, supply: S) -> Result<Self, Error> {
        clear(&options)?;
        let (socket, fifo) = (options.private.join(SOCKET), options.private.join(FOUND));
        for old in [&socket, &fifo] {
            let _ = std::fs::remove_file(old);
        }
        let listener = UnixListener::bind(&socket).map_err(Error::file("listen on", &socket))?;
        let found = listen(&fifo).map_err(Error::file("listen on", &fifo))?;
        options.user.own(&socket)?;
        options.user.own(&fifo)?;
        let unfinished = options.pg_wal.join(UNFINISHED);
        let (asked, fault) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let desk = Desk {
            supply: Arc::new(supply),
            turns: Arc::new(Semaphore::new(options.at_once)),
            options: Arc::new(options),
            fetching: BTreeMap::new(),
            asked: Arc::clone(&asked),
            fault: Arc::clone(&fault),
        };
        Ok(Spool { serving: tokio::spawn(desk.serve(listener, found)), unfinished, asked, fault })
    }

    /// Returns how many files the server has asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Takes the failure for which recovery was ended, where there was one.
    pub(super) async fn fault(&self) -> Option<Error> {
        self.fault.lock().await.take()
    }

    /// Ends, and leaves nothing unfinished behind.
    pub(super) async fn close(mut self) -> Result<(), Error> {
        self.serving.abort();
        // It was: that is all there is to learn.
        let _ = (&mut self.serving).await;
        std::fs::remove_dir_all(&self.unfinished).map_err(Error::file("remove", &self.unfinished))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Makes the FIFO. It is open for writing too: it never ends, and no writer waits.
fn listen(fifo: &Path) -> std::io::Result<pipe::Receiver> {
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)?;
    pipe::Receiver::from_file(File::options().read(true).write(true).open(fifo)?)
}

/// Removes what an earlier run left: its files are asked for again, and may never have reached the disk.
fn clear(options: &SpoolOptions) -> Result<(), Error> {
    for folder in [UNFINISHED, STATUS].map(|name| options.pg_wal.join(name)) {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &folder)(error));
            }
            _ => {}
        }
        std::fs::create_dir(&folder).map_err(Error::file("make", &folder))?;
        set_mode(&folder, 0o700)?;
        // The server goes on to write in it.
        options.user.own(&folder)?;
    }
    Ok(())
}

type Fetch = JoinHandle<Result<(), Error>>;

/// Serves requests one after the other, as recovery makes them.
struct Desk<S> {
    supply: Arc<S>,
    /// Given in the order in which they are asked for, which is recovery's.
    turns: Arc<Semaphore>,
    options: Arc<SpoolOptions>,
    fetching: BTreeMap<Wanted, Aborted>,
    asked: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<Error>>>,
}

/// A fetch under way, ended when dropped.
struct Aborted(Fetch);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<S: Supply> Desk<S> {
    async fn serve(mut self, listener: UnixListener, mut found: pipe::Receiver) {
        // Longer than all lines that can wait: recovery writes one and then asks for what is behind it.
        let mut lines = [0; 4096];
        loop {
            let answered = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.answer(stream).await,
                    Err(error) => Err(error),
                },
                read = found.read(&mut lines) => {
                    read.map(|length| self.found(&String::from_utf8_lossy(&lines[..length])))
                }
            };
            if let Err(error) = answered {
                // The command that asked has gone; the server asks again or ends, and says so.
                tracing::warn!(%error, "a request for WAL was not answered");
            }
        }
    }

    /// Goes on behind what the server has found.
    fn found(&mut self, lines: &str) {
        for line in lines.lines() {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Some(wanted) = Wanted::read(line, self.options.segment_bytes) {
                self.look_ahead(wanted);
            }
        }
    }

    async fn answer(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut name = String::new();
        (&mut stream).take(NAME_MAX).read_to_string(&mut name).await?;
        let fetched = match Wanted::read(&name, self.options.segment_bytes) {
            None => Ok(()),
            Some(wanted) => self.fetch(wanted).await,
        };
        self.asked.fetch_add(1, Ordering::Relaxed);
        let reply = match fetched {
            Ok(()) => b"L".to_vec(),
            Err(error) => {
                let reply = format!("F{error}").into_bytes();
                *self.fault.lock().await = Some(error);
                reply
            }
        };
        stream.write_all(&reply).await?;
        stream.shutdown().await
    }

    /// Returns when the file is in `pg_wal`, or there is none.
    async fn fetch(&mut self, wanted: Wanted) -> Result<(), Error> {
        self.begin(wanted);
        self.look_ahead(wanted);
        let mut fetch = self.fetching.remove(&wanted).ok_or(Error::Lost("fetching WAL"))?;
        (&mut fetch.0).await.map_err(|_| Error::Lost("fetching WAL"))?
    }

    /// Sees that the files behind this one are under way.
    fn look_ahead(&mut self, wanted: Wanted) {
        let next = (1..=self.options.ahead).map_while(|n| wanted.after(n));
        let next: Vec<Wanted> = next.collect();
        // Whoever jumps elsewhere no longer wants what was fetched ahead.
        self.fetching.retain(|known, _| *known == wanted || next.contains(known));
        for ahead in next {
            self.begin(ahead);
        }
    }

    fn begin(&mut self, wanted: Wanted) {
        let (supply, options) = (Arc::clone(&self.supply), Arc::clone(&self.options));
        let turns = Arc::clone(&self.turns);
        self.fetching.entry(wanted).or_insert_with(|| {
            Aborted(tokio::spawn(async move {
                let turn = turns.acquire_owned().await.map_err(|_| Error::Lost("fetching WAL"))?;
                let Some(pieces) = supply.file(wanted).await? else { return Ok(()) };
                lay(&options, wanted, pieces, turn).await
            }))
        });
    }
}

/// Writes a file into `pg_wal`. `turn` is held as long as bytes of it are in memory.
async fn lay(
    options: &SpoolOptions,
    wanted: Wanted,
    mut pieces: Pieces,
    turn: OwnedSemaphorePermit,
) -> Result<(), Error> {
    let (name, length) = match wanted {
        Wanted::Segment(s) => (s.file_name(options.segment_bytes), Some(options.segment_bytes.into())),
        Wanted::History(timeline) => (history_file_name(timeline), None),
    };
    let path = options.pg_wal.join(&name);
    // Its own name while it is written: an earlier fetch of the same file may not have ended yet.
    let chance = u64::from_le_bytes(clock::random());
    let temporary = options.pg_wal.join(UNFINISHED).join(format!("{name}.{chance:016x}"));
    let file = Arc::new(File::create(&temporary).map_err(Error::file("make", &temporary))?);
    while let Some((at, bytes)) = pieces.try_next().await? {
        blocking(&file, &temporary, move |file| folio::write_all_at(file, &bytes, at)).await?;
    }
    drop(pieces);
    drop(turn);
    options.user.own(&temporary)?;
    if let Some(length) = length {
        file.set_len(length).map_err(Error::file("write", &temporary))?;
    }
    std::fs::rename(&temporary, &path).map_err(Error::file("write", &path))?;
    let laid = options.pg_wal.join(STATUS).join(format!("{name}.done"));
    File::create(&laid).map_err(Error::file("make", &laid))?;
    options.user.own(&laid)
}

/// Works on a file where it may take its time.
async fn blocking(
    file: &Arc<File>,
    path: &Path,
    work: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static,
) -> Result<(), Error> {
    let file = Arc::clone(file);
    let done = tokio::task::spawn_blocking(move || work(&file));
    done.await.map_err(|_| Error::Lost("keeping WAL"))?.map_err(Error::file("write", path))
}

/// The other side, run by the server as `restore_command`: returns the exit code. `spool` is the private
/// folder; `file` is `%f`.
pub fn deliver(spool: &Path, file: &str) -> u8 {
    match ask(spool, file) {
        Ok(None) => LOOK,
        Ok(Some(problem)) => broken(file, &problem),
        Err(error) => broken(file, &format!("the restore does not answer: {error}")),
    }
}

/// Standard error of this command is the server's log.
fn broken(file: &str, problem: &str) -> u8 {
    // Nothing is left to do if even that fails.
    let _ = writeln!(std::io::stderr(), "pitrus: {file}: {problem}");
    BROKEN
}

/// Asks for a file, and returns when it is there or there is none; or with what went wrong in the restore.
fn ask(spool: &Path, file: &str) -> std::io::Result<Option<String>> {
    let mut stream = std::os::unix::net::UnixStream::connect(spool.join(SOCKET))?;
    stream.write_all(file.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    match reply.split_first() {
        Some((b'L', _)) => Ok(None),
        Some((b'F', problem)) => Ok(Some(String::from_utf8_lossy(problem).into_owned())),
        // It ended while we waited.
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Returns the `restore_command`: quoted for the shell, and `%` doubled for the server, which runs it in the data
/// directory. `1<>` opens without waiting for a reader.
pub(super) fn restore_command(program: &Path, private: &Path) -> String {
    let quoted =
        |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''").replace('%', "%%"));
    let (program, found, private) = (quoted(program), quoted(&private.join(FOUND)), quoted(private));
    format!(
        "[ -e pg_wal/%f ] && [ -e pg_wal/{STATUS}/%f.done ] && echo %f 1<>{found} && exit {LOOK}; \
         exec {program} restore {WAL_FROM_SPOOL} {private} %f"
    )
}

#[cfg(test)]
mod tests;
