//! Brings a node's files from the vault to its data directory.
//!
//! manifest, block by block -> folders and empty files -> windows of what is wanted -> runs of chunks,
//! several ahead -> opened on as many threads as there are cores, written at their places, checked ->
//! links of tablespaces, `backup_label` -> all durable -> `pg_control`
//!
//! Memory is bounded by a window and by the runs under way, whatever the size of the backup. Every file
//! is made new; none is ever opened that was there before. Until the last step no server can start there.

mod files;
mod ground;
mod window;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::install::OsUser;
use super::layout::Layout;
use super::store::Store;
use super::{Error, Progress, Step};
use crate::ids::{BackupId, NodeName};
use crate::manifest::backup::{Entry, Foot, Kind};
use files::Files;
use window::{Run, Window};

pub(super) use ground::set_mode;

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

/// Lays out and fills a data directory; returns how many files and bytes.
pub(super) async fn fetch<S: Store>(
    options: FetchOptions,
    entries: impl Iterator<Item = Result<Entry, Error>> + Send + 'static,
    foot: Foot,
    store: &S,
    share: &Share,
) -> Result<(u64, u64), Error> {
    let options = Arc::new(options);
    let (send, mut ready) = mpsc::channel(READY);
    let surveyor = Surveyor { options: Arc::clone(&options), runs: send, files: 0, bytes: 0 };
    let survey = tokio::task::spawn_blocking(move || surveyor.lay_out(entries));
    let filling = Filling {
        options: Arc::clone(&options),
        files: Arc::default(),
        share,
        done: AtomicU64::new(0),
        of: foot.bytes,
    };
    futures::stream::poll_fn(|context| ready.poll_recv(context))
        .map(|run| filling.fill(store, run))
        .buffer_unordered(AHEAD)
        .try_collect::<()>()
        .await?;
    let figures = survey.await.map_err(|_| Error::Lost("laying out files"))??;
    let finish = tokio::task::spawn_blocking(move || ground::finish(&options, &foot));
    finish.await.map_err(|_| Error::Lost("making files durable"))??;
    Ok(figures)
}

/// Files that are being filled.
struct Filling<'a> {
    options: Arc<FetchOptions>,
    files: Arc<Files>,
    share: &'a Share,
    done: AtomicU64,
    of: u64,
}

impl Filling<'_> {
    async fn fill<S: Store>(&self, store: &S, run: Run) -> Result<(), Error> {
        let _turn = self.share.ahead.acquire().await;
        let (length, pack, places) = (run.bytes(), run.pack.clone(), run.places());
        let (files, options) = (Arc::clone(&self.files), Arc::clone(&self.options));
        let take = move |number: usize, plain: &[u8]| write(&options, &files, &run, number, plain);
        store.chunks(&self.options.node, &pack, places, take).await?;
        let bytes = self.done.fetch_add(length, Ordering::Relaxed) + length;
        (self.options.progress)(&self.options.node, Step::Fetched { bytes, of: self.of });
        Ok(())
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
    files: u64,
    bytes: u64,
}

impl Surveyor {
    /// Makes folders and files, and sends what fills them; returns how many files and bytes.
    fn lay_out(mut self, entries: impl Iterator<Item = Result<Entry, Error>>) -> Result<(u64, u64), Error> {
        ground::make_folders(&self.options)?;
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
        Ok((self.files, self.bytes))
    }

    /// Makes the folder or the empty file, and notes where its bytes come from.
    fn add(&mut self, window: &mut Window, entry: Entry) -> Result<(), Error> {
        let options = &self.options;
        let broken = |problem| damaged(options, problem);
        let path = ground::place(options, &entry.path).map_err(broken)?;
        let Kind::File { size, extents, .. } = entry.kind else {
            return ground::make_folder(&path, entry.mode, &options.user);
        };
        if path.parent().is_some_and(|folder| !folder.is_dir()) {
            return Err(broken(format!("{} comes before its folder", entry.path)));
        }
        ground::make_file(&path, entry.mode, size, &options.user)?;
        let file = window::File { number: self.files, path, is_new: true };
        window.add(file, &extents, &options.backup).map_err(broken)?;
        self.files += 1;
        self.bytes += size;
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
