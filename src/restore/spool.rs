//! WAL for a recovering server, fetched before it asks: keys and zones stay in our process.
//!
//! vault -> [`Supply`] -> a few segments ahead in a folder -> `pitrus restore wal-from-spool` (the
//! server's `restore_command`) -> renamed into `pg_wal`
//!
//! The command asks over a Unix socket and gets the path of the file, or that there is none. A failure of
//! ours must not look like the end of the WAL, at which the server would promote: the command then
//! exits with 255, at which the server stops.

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
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::Error;
use super::install::OsUser;
use crate::clock;
use crate::folio;
use crate::timeline::TimelineId;
use crate::wal::segment::{Segment, history_file_name, parse_history_file_name};

/// The socket's name in the private folder.
const SOCKET: &str = "wal";
/// The command of ours that asks.
pub const WAL_FROM_SPOOL: &str = "wal-from-spool";
/// Longer than any name that PostgreSQL asks for.
const NAME_MAX: u64 = 256;

/// The server takes an exit code above 125 for a fault that ends recovery
/// (PostgreSQL `RestoreArchivedFile`).
const GIVEN: u8 = 0;
const ABSENT: u8 = 1;
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
    /// Folder for fetched segments, on the file system of `pg_wal`.
    pub(super) folder: PathBuf,
    /// The private folder, for the socket.
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
    asked: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<Error>>>,
}

impl Spool {
    /// Begins to serve one server.
    pub(super) fn open<S: Supply>(options: SpoolOptions, supply: S) -> Result<Self, Error> {
        let socket = options.private.join(SOCKET);
        clear(&options.folder)?;
        options.user.own(&options.folder)?;
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(Error::file("listen on", &socket))?;
        options.user.own(&socket)?;
        let (asked, fault) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let desk = Desk {
            supply: Arc::new(supply),
            turns: Arc::new(Semaphore::new(options.at_once)),
            options: Arc::new(options),
            fetching: BTreeMap::new(),
            asked: Arc::clone(&asked),
            fault: Arc::clone(&fault),
        };
        Ok(Spool { serving: tokio::spawn(desk.serve(listener)), asked, fault })
    }

    /// Returns how many files the server has asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Takes the failure for which recovery was ended, where there was one.
    pub(super) async fn fault(&self) -> Option<Error> {
        self.fault.lock().await.take()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Makes the folder anew: what an earlier run left in it is old.
fn clear(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", folder)(error));
        }
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(Error::file("make", folder))
}

type Fetch = JoinHandle<Result<Option<PathBuf>, Error>>;

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
    async fn serve(mut self, listener: UnixListener) {
        loop {
            let answered = match listener.accept().await {
                Ok((stream, _)) => self.answer(stream).await,
                Err(error) => Err(error),
            };
            if let Err(error) = answered {
                // The command that asked has gone; the server asks again or ends, and says so.
                tracing::warn!(%error, "a request for WAL was not answered");
            }
        }
    }

    async fn answer(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut name = String::new();
        (&mut stream).take(NAME_MAX).read_to_string(&mut name).await?;
        let reply = match Wanted::read(&name, self.options.segment_bytes) {
            None => Ok(None),
            Some(wanted) => self.fetch(wanted).await,
        };
        self.asked.fetch_add(1, Ordering::Relaxed);
        let reply = match reply {
            Ok(Some(path)) => [b"R", path.as_os_str().as_encoded_bytes()].concat(),
            Ok(None) => b"A".to_vec(),
            Err(error) => {
                let reply = format!("F{error}").into_bytes();
                *self.fault.lock().await = Some(error);
                reply
            }
        };
        stream.write_all(&reply).await?;
        stream.shutdown().await
    }

    /// Returns where the file is, and sees that the next ones are under way.
    async fn fetch(&mut self, wanted: Wanted) -> Result<Option<PathBuf>, Error> {
        let next = (0..=self.options.ahead).map_while(|n| wanted.after(n));
        let next: Vec<Wanted> = next.collect();
        // Whoever jumps elsewhere no longer wants what was fetched ahead.
        self.fetching.retain(|known, _| next.contains(known));
        self.begin(wanted);
        for ahead in next {
            self.begin(ahead);
        }
        let mut fetch = self.fetching.remove(&wanted).ok_or(Error::Lost("fetching WAL"))?;
        (&mut fetch.0).await.map_err(|_| Error::Lost("fetching WAL"))?
    }

    fn begin(&mut self, wanted: Wanted) {
        let (supply, options) = (Arc::clone(&self.supply), Arc::clone(&self.options));
        let turns = Arc::clone(&self.turns);
        self.fetching.entry(wanted).or_insert_with(|| {
            Aborted(tokio::spawn(async move {
                let turn = turns.acquire_owned().await.map_err(|_| Error::Lost("fetching WAL"))?;
                let Some(pieces) = supply.file(wanted).await? else { return Ok(None) };
                keep(&options, wanted, pieces, turn).await.map(Some)
            }))
        });
    }
}

/// Writes a file of the spool. `turn` is held as long as bytes of it are in memory.
async fn keep(
    options: &SpoolOptions,
    wanted: Wanted,
    mut pieces: Pieces,
    turn: OwnedSemaphorePermit,
) -> Result<PathBuf, Error> {
    let (name, length) = match wanted {
        Wanted::Segment(s) => (s.file_name(options.segment_bytes), Some(options.segment_bytes.into())),
        Wanted::History(timeline) => (history_file_name(timeline), None),
    };
    let path = options.folder.join(&name);
    // Its own name while it is written: an earlier fetch of the same file may not have ended yet.
    let chance = u64::from_le_bytes(clock::random());
    let temporary = options.folder.join(format!("{name}.{chance:016x}"));
    let file = Arc::new(File::create(&temporary).map_err(Error::file("make", &temporary))?);
    while let Some((at, bytes)) = pieces.try_next().await? {
        blocking(&file, &temporary, move |file| folio::write_all_at(file, &bytes, at)).await?;
    }
    drop(pieces);
    drop(turn);
    options.user.own(&temporary)?;
    // Durable here, ahead of recovery: the server syncs what it is given while it waits for it
    // (`KeepFileRestoredFromArchive`), and then finds little to do.
    let end = move |file: &File| {
        length.map_or(Ok(()), |length| file.set_len(length)).and_then(|()| file.sync_data())
    };
    blocking(&file, &temporary, end).await?;
    std::fs::rename(&temporary, &path).map_err(Error::file("write", &path))?;
    Ok(path)
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
/// folder; `file` and `target` are `%f` and `%p`.
pub fn deliver(spool: &Path, file: &str, target: &Path) -> u8 {
    match ask(spool, file) {
        Ok(Reply::Here(path)) => match take(&path, target) {
            Ok(()) => GIVEN,
            Err(error) => broken(file, &error.to_string()),
        },
        Ok(Reply::Absent) => ABSENT,
        Ok(Reply::Broken(problem)) => broken(file, &problem),
        Err(error) => broken(file, &format!("the restore does not answer: {error}")),
    }
}

/// Standard error of this command is the server's log.
fn broken(file: &str, problem: &str) -> u8 {
    // Nothing is left to do if even that fails.
    let _ = writeln!(std::io::stderr(), "pitrus: {file}: {problem}");
    BROKEN
}

enum Reply {
    Here(PathBuf),
    Absent,
    Broken(String),
}

fn ask(spool: &Path, file: &str) -> std::io::Result<Reply> {
    use std::os::unix::ffi::OsStringExt;
    let mut stream = std::os::unix::net::UnixStream::connect(spool.join(SOCKET))?;
    stream.write_all(file.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    match reply.split_first() {
        Some((b'R', path)) => Ok(Reply::Here(std::ffi::OsString::from_vec(path.to_vec()).into())),
        Some((b'A', _)) => Ok(Reply::Absent),
        Some((b'F', problem)) => Ok(Reply::Broken(String::from_utf8_lossy(problem).into_owned())),
        // It ended while we waited.
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Moves the file into place; `pg_wal` may be on another file system.
fn take(path: &Path, target: &Path) -> std::io::Result<()> {
    match std::fs::rename(path, target) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            std::fs::copy(path, target)?;
            std::fs::remove_file(path)
        }
        moved => moved,
    }
}

/// Returns the `restore_command`: quoted for the shell, and `%` doubled for the server.
pub(super) fn restore_command(program: &Path, private: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let (program, private) = (quoted(program), quoted(private));
    let command = format!("exec {program} restore {WAL_FROM_SPOOL} {private}");
    format!("{} \"%f\" \"%p\"", command.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    struct Three;

    impl Supply for Three {
        async fn file(&self, wanted: Wanted) -> Result<Option<Pieces>, Error> {
            let piece = |at: u64, n: u64| Ok((at, Bytes::from(vec![n as u8; 64])));
            match wanted {
                Wanted::Segment(s) if s.number < 3 => {
                    Ok(Some(futures::stream::iter([piece(0, s.number), piece(128, 7)]).boxed()))
                }
                Wanted::Segment(Segment { number: 9, .. }) => Err(Error::Lost("a test")),
                _ => Ok(None),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn gives_what_is_there_and_never_mistakes_a_fault_for_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().to_owned();
        let user = OsUser::find("postgres").unwrap();
        let options = SpoolOptions {
            folder: private.join("spool"),
            private: private.clone(),
            user,
            segment_bytes: 1 << 24,
            ahead: 2,
            at_once: 2,
        };
        let spool = Spool::open(options, Three).unwrap();
        let get = |name: &'static str| {
            let private = private.clone();
            let run = move || deliver(&private, name, &private.join("given"));
            async move { tokio::task::spawn_blocking(run).await.unwrap() }
        };
        assert_eq!(get("000000010000000000000001").await, GIVEN);
        let given = std::fs::read(private.join("given")).unwrap();
        assert_eq!(given[..192], [[1; 64], [0; 64], [7; 64]].concat());
        assert!(given.len() == 1 << 24 && given[192..].iter().all(|byte| *byte == 0));
        // Asked again, as recovery does at its end.
        assert_eq!(get("000000010000000000000001").await, GIVEN);
        assert_eq!(get("000000010000000000000003").await, ABSENT);
        assert_eq!(get("00000002.history").await, ABSENT);
        assert_eq!(get("../../etc/passwd").await, ABSENT);
        assert!(spool.fault().await.is_none());
        assert_eq!(get("000000010000000000000009").await, BROKEN);
        assert!(spool.fault().await.is_some());
        drop(spool);
        let mut code = get("000000010000000000000001").await;
        for _ in 0..100 {
            // Ending is asynchronous.
            if code == BROKEN {
                break;
            }
            code = get("000000010000000000000001").await;
        }
        assert_eq!(code, BROKEN);
    }

    #[test]
    fn the_command_survives_strange_paths() {
        let command = restore_command(Path::new("/a b/it's"), Path::new("/tmp/100%"));
        assert_eq!(command, r#"exec '/a b/it'\''s' restore wal-from-spool '/tmp/100%%' "%f" "%p""#);
    }
}
