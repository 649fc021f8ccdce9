//! Brings a node's files from the vault to its data directory.
//!
//! manifest, block by block -> folders and empty files -> windows of what is wanted -> runs of chunks,
//! several ahead -> opened on as many threads as there are cores, written at their places, checked ->
//! links of tablespaces, `backup_label` -> all durable -> `pg_control`
//!
//! Memory is bounded by a window and by the runs under way, whatever the size of the backup. Every file
//! is made new; none is ever opened that was there before, except in a stopped copy ([`super::former`]):
//! there a chunk is not fetched when the files hold it, and what the manifest does not name is removed.
//! Until the last step no server can start there.

mod files;
mod ground;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::former::Belonging;
use super::install::OsUser;
use super::layout::Layout;
use super::store::Store;
use super::{Error, Progress, Step};
use crate::ids::{BackupId, NodeName};
use crate::manifest::backup::{Entry, Foot, Kind};
use files::Files;
use window::{Run, Window};

pub(super) use ground::{set_mode, sync_all};

/// Runs under way for all nodes together, read or being opened: at a few MiB each.
const AHEAD: usize = 10;
/// Runs that are known and not begun.
const READY: usize = 32;

/// Which backup is fetched, and where to.
#[derive(Clone)]
pub(super) struct FetchOptions {
    pub(super) node: NodeName,
    pub(super) backup: BackupId,
    pub(super) layout: Layout,
    pub(super) directory: PathBuf,
    pub(super) user: OsUser,
    pub(super) progress: Progress,
    /// The directory may hold a stopped copy.
    pub(super) delta: bool,
}

/// What has been done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fetched {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Bytes that were there already.
    pub(super) kept: u64,
}

/// What nodes that are fetched side by side share.
pub(super) struct Share {
    ahead: Semaphore,
}

impl Share {
    pub(super) fn new() -> Self {
        Share { ahead: Semaphore::new(AHEAD) }
    }
}

/// Lays out and fills a data directory.
pub(super) async fn fetch<S: Store>(
    options: FetchOptions,
    entries: impl Iterator<Item = Result<Entry, Error>> + Send + 'static,
    foot: Foot,
    store: &S,
    share: &Share,
) -> Result<Fetched, Error> {
    let options = Arc::new(options);
    let (send, mut ready) = mpsc::channel(READY);
    let surveyor = Surveyor {
        options: Arc::clone(&options),
        runs: send,
        belonging: Belonging::default(),
        done: Fetched::default(),
    };
    let survey = tokio::task::spawn_blocking(move || surveyor.lay_out(entries));
    let filling = Filling {
        options: Arc::clone(&options),
        files: Arc::default(),
        share,
        done: AtomicU64::new(0),
        kept: AtomicU64::new(0),
        of: foot.bytes,
    };
    futures::stream::poll_fn(|context| ready.poll_recv(context))
        .map(|run| filling.fill(store, run))
        .buffer_unordered(AHEAD)
        .try_collect::<()>()
        .await?;
    tracing::debug!(node = %options.node, "all files are written");
    let (done, belonging) = survey.await.map_err(|_| Error::Lost("laying out files"))??;
    let kept = filling.kept.into_inner();
    let finish = tokio::task::spawn_blocking(move || {
        if options.delta {
            belonging.sweep(&options.directory)?;
            belonging.sweep_tablespaces(options.layout.tablespaces())?;
        }
        ground::finish(&options, &foot)
    });
    finish.await.map_err(|_| Error::Lost("making files durable"))??;
    Ok(Fetched { kept, ..done })
}

/// Files that are being filled.
struct Filling<'a> {
    options: Arc<FetchOptions>,
    files: Arc<Files>,
    share: &'a Share,
    done: AtomicU64,
    kept: AtomicU64,
    of: u64,
}

impl Filling<'_> {
    async fn fill<S: Store>(&self, store: &S, run: Run) -> Result<(), Error> {
        let _turn = self.share.ahead.acquire().await;
        let length = run.bytes();
        let runs = if self.options.delta { self.differing(run).await? } else { vec![run] };
        for run in runs {
            let (pack, places) = (run.pack.clone(), run.places());
            let (files, options) = (Arc::clone(&self.files), Arc::clone(&self.options));
            let take = move |number: usize, plain: &[u8]| write(&options, &files, &run, number, plain);
            store.chunks(&self.options.node, &pack, places, take).await?;
        }
        let bytes = self.done.fetch_add(length, Ordering::Relaxed) + length;
        (self.options.progress)(&self.options.node, Step::Fetched { bytes, of: self.of });
        Ok(())
    }

    /// Returns what of a run the files do not hold yet.
    async fn differing(&self, run: Run) -> Result<Vec<Run>, Error> {
        let (files, length) = (Arc::clone(&self.files), run.bytes());
        let compare = tokio::task::spawn_blocking(move || {
            let (open_files, mut buffer) = (Arc::clone(&run.files), Vec::new());
            run.without(|chunk| files.hold(&open_files, chunk, &mut buffer))
        });
        let left = compare.await.map_err(|_| Error::Lost("comparing files"))?;
        let kept = length.saturating_sub(left.iter().map(Run::bytes).sum());
        self.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(left)
    }
}

/// Writes one opened chunk of a run, if it is what was backed up.
fn write(options: &FetchOptions, files: &Files, run: &Run, number: usize, plain: &[u8]) -> Result<(), Error> {
    let Some(chunk) = run.chunks.get(number) else { return Ok(()) };
    if plain.len() != chunk.plain as usize || crc32fast::hash(plain) != chunk.crc {
        let place = format!("chunk {} of pack {}/{}", chunk.place.index, run.pack.backup, run.pack.number);
        return Err(damaged(options, format!("{place} has other bytes than were backed up")));
    }
    files.write(&run.files, chunk, plain).map_err(|(path, error)| Error::file("write", path)(error))
}

/// Goes through the manifest on a thread of its own.
struct Surveyor {
    options: Arc<FetchOptions>,
    runs: mpsc::Sender<Run>,
    /// What is there in the end; kept for a stopped copy only.
    belonging: Belonging,
    done: Fetched,
}

impl Surveyor {
    /// Makes folders and files, and sends what fills them.
    fn lay_out(
        mut self,
        entries: impl Iterator<Item = Result<Entry, Error>>,
    ) -> Result<(Fetched, Belonging), Error> {
        let options = Arc::clone(&self.options);
        ground::make_folders(&options, |path| self.note(path))?;
        let mut window = Window::default();
        for entry in entries {
            let entry = entry?;
            if self.runs.is_closed() {
                break;
            }
            if ground::is_left_out(&entry.path) {
                continue;
            }
            self.add(&mut window, entry)?;
            if window.is_full() {
                self.send(std::mem::take(&mut window))?;
            }
        }
        self.send(window)?;
        Ok((self.done, self.belonging))
    }

    fn note(&mut self, path: &Path) {
        if self.options.delta {
            self.belonging.note(path);
        }
    }

    /// Makes the folder or the empty file, and notes where its bytes come from.
    fn add(&mut self, window: &mut Window, entry: Entry) -> Result<(), Error> {
        let options = Arc::clone(&self.options);
        let broken = |problem| damaged(&options, problem);
        let path = ground::place(&options, &entry.path).map_err(broken)?;
        self.note(&path);
        let Kind::File { size, extents, .. } = entry.kind else {
            return ground::make_folder(&path, entry.mode, &options);
        };
        if path.parent().is_some_and(|folder| !folder.is_dir()) {
            return Err(broken(format!("{} comes before its folder", entry.path)));
        }
        let is_new = match options.delta {
            true => ground::take_file(&path, entry.mode, size, &options.user)?,
            false => {
                ground::make_file(&path, entry.mode, size, &options.user)?;
                true
            }
        };
        let file = window::File::new(self.done.files, path, size, is_new);
        window.add(file, &extents, &options.backup).map_err(broken)?;
        self.done.files += 1;
        self.done.bytes += size;
        Ok(())
    }

    fn send(&self, window: Window) -> Result<(), Error> {
        for run in window.runs().map_err(|problem| damaged(&self.options, problem))? {
            if self.runs.blocking_send(run).is_err() {
                // The other side has failed, and says why.
                return Ok(());
            }
        }
        Ok(())
    }
}

fn damaged(options: &FetchOptions, problem: String) -> Error {
    Error::Backup { node: options.node.clone(), backup: options.backup.to_string(), problem }
}
