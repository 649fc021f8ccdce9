//! Brings a node's files from the vault to its data directory.
//!
//! manifest -> folders and empty files -> chunks, many at once -> bytes at their places, checked ->
//! links of tablespaces, `backup_label` -> all durable
//!
//! Memory is bounded by the chunks under way, besides 48 bytes for each extent of the manifest. Every
//! file is made new; none is ever opened that was there before.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};

use super::install::OsUser;
use super::layout::{FOLDERS, Layout};
use super::store::Store;
use super::{Error, Progress, Step};
use crate::ids::{BackupId, NodeName};
use crate::manifest::backup::{Entry, Extent, Foot, Kind, Pack};
use crate::seal::ChunkPlace;

/// Requests under way at once, and chunks (of at most 1 MiB) in each: enough to hide the delay of a distant
/// store, and little enough for memory.
const AT_ONCE: usize = 4;
const RUN_CHUNKS: usize = 8;
/// Unwanted bytes between two chunks that are still read with them, rather than by another request.
const GAP_BYTES: u64 = 256 << 10;

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

/// Bytes of a chunk, and where in which file they belong.
#[derive(Clone, Debug)]
struct Piece {
    file: u32,
    file_at: u64,
    offset: u32,
    len: u32,
}

/// A chunk, and what of it is wanted.
struct Chunk {
    place: ChunkPlace,
    /// Length and CRC-32 of what it holds.
    plain: (u32, u32),
    pieces: Vec<Piece>,
}

/// Neighbouring chunks of one pack, brought by one request.
struct Run {
    pack: Pack,
    chunks: Vec<Chunk>,
}

/// All that a manifest asks for.
#[derive(Default)]
struct Wanted {
    files: Vec<PathBuf>,
    chunks: BTreeMap<(Pack, u32), Chunk>,
    bytes: u64,
}

/// Lays out and fills a data directory; returns how many files and bytes.
pub(super) async fn fetch<S: Store>(
    options: FetchOptions,
    entries: impl Iterator<Item = Result<Entry, Error>> + Send + 'static,
    foot: Foot,
    store: &S,
) -> Result<(u64, u64), Error> {
    let options = Arc::new(options);
    let own = Arc::clone(&options);
    let lay_out = tokio::task::spawn_blocking(move || Wanted::lay_out(&own, entries));
    let wanted = lay_out.await.map_err(|_| Error::Lost("laying out files"))??;
    let filled = Filling { options: Arc::clone(&options), paths: Arc::new(wanted.files), of: wanted.bytes };
    let done = AtomicU64::new(0);
    futures::stream::iter(runs(wanted.chunks))
        .map(|run| filled.fill(store, run, &done))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let finish = tokio::task::spawn_blocking(move || finish(&options, &foot));
    finish.await.map_err(|_| Error::Lost("making files durable"))??;
    Ok((filled.paths.len() as u64, filled.of))
}

/// Files that are being filled.
struct Filling {
    options: Arc<FetchOptions>,
    paths: Arc<Vec<PathBuf>>,
    of: u64,
}

impl Filling {
    async fn fill<S: Store>(&self, store: &S, run: Run, done: &AtomicU64) -> Result<(), Error> {
        let places = run.chunks.iter().map(|chunk| chunk.place).collect();
        let plain = store.chunks(&self.options.node, &run.pack, places).await?;
        let (paths, options) = (Arc::clone(&self.paths), Arc::clone(&self.options));
        let write = tokio::task::spawn_blocking(move || {
            let mut length = 0;
            for (chunk, plain) in run.chunks.iter().zip(&plain) {
                length += chunk.pieces.iter().map(|p| u64::from(p.len)).sum::<u64>();
                let written = write_pieces(&paths, chunk, plain);
                written.map_err(|problem| problem.error(&options, &run.pack, chunk.place.index))?;
            }
            Ok::<u64, Error>(length)
        });
        let length = write.await.map_err(|_| Error::Lost("writing files"))??;
        let bytes = done.fetch_add(length, Ordering::Relaxed) + length;
        (self.options.progress)(&self.options.node, Step::Fetched { bytes, of: self.of });
        Ok(())
    }
}

impl Wanted {
    fn lay_out(
        options: &FetchOptions,
        entries: impl Iterator<Item = Result<Entry, Error>>,
    ) -> Result<Self, Error> {
        let mut wanted = Wanted::default();
        make_folders(options)?;
        for entry in entries {
            let entry = entry?;
            if !is_left_out(&entry.path) {
                wanted.add(options, entry)?;
            }
        }
        Ok(wanted)
    }

    /// Makes the folder or the empty file, and notes where its bytes come from.
    fn add(&mut self, options: &FetchOptions, entry: Entry) -> Result<(), Error> {
        let broken = |problem| damaged(options, problem);
        let path = options.layout.place(&entry.path).map_err(broken)?;
        let Kind::File { size, extents, .. } = entry.kind else {
            return make_folder(&path, entry.mode, &options.user);
        };
        if path.parent().is_some_and(|folder| !folder.is_dir()) {
            return Err(broken(format!("{} comes before its folder", entry.path)));
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(entry.mode & 0o777).open(&path);
        made.map_err(Error::file("make", &path))?;
        options.user.own(&path)?;
        let file = u32::try_from(self.files.len()).map_err(|_| broken("it lists too many files".into()))?;
        let mut file_at = 0;
        for extent in &extents {
            let Extent { chunk, at, sealed, offset, len, plain, crc, .. } = *extent;
            let pack = Pack::named(&extent.pack, &options.backup).map_err(|e| broken(e.to_string()))?;
            let place = ChunkPlace { at, sealed, index: chunk };
            let made = Chunk { place, plain: (plain, crc), pieces: Vec::new() };
            let entry = self.chunks.entry((pack, chunk)).or_insert(made);
            if (entry.place, entry.plain) != (place, (plain, crc)) {
                return Err(broken(format!("it names two places for chunk {chunk} of pack {}", extent.pack)));
            }
            entry.pieces.push(Piece { file, file_at, offset, len });
            file_at += u64::from(len);
        }
        if file_at != size {
            return Err(broken(format!("the extents of {} have {file_at} bytes of {size}", entry.path)));
        }
        self.bytes += size;
        self.files.push(path);
        Ok(())
    }
}

/// Returns whether an entry is not for this server: what we write ourselves, what tells a server how to
/// start, and what an earlier restore left in the source.
fn is_left_out(path: &str) -> bool {
    const NAMES: [&str; 8] = [
        "",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "recovery.signal",
        "standby.signal",
        "postmaster.pid",
    ];
    NAMES.contains(&path) || path.starts_with("pitrus.")
}

/// Joins neighbouring chunks to runs.
fn runs(chunks: BTreeMap<(Pack, u32), Chunk>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for ((pack, _), chunk) in chunks {
        let near = |run: &&mut Run| {
            let end = run.chunks.last().map(|c| c.place.at.saturating_add(u64::from(c.place.sealed)));
            let gap = end.and_then(|end| chunk.place.at.checked_sub(end));
            run.pack == pack && run.chunks.len() < RUN_CHUNKS && gap.is_some_and(|gap| gap <= GAP_BYTES)
        };
        match runs.last_mut().filter(near) {
            Some(run) => run.chunks.push(chunk),
            None => runs.push(Run { pack, chunks: vec![chunk] }),
        }
    }
    runs
}

fn damaged(options: &FetchOptions, problem: String) -> Error {
    Error::Backup { node: options.node.clone(), backup: options.backup.to_string(), problem }
}

/// Why a piece could not be written.
enum Unwritten {
    File(PathBuf, std::io::Error),
    Wrong(PathBuf, &'static str),
}

impl Unwritten {
    fn error(self, options: &FetchOptions, pack: &Pack, chunk: u32) -> Error {
        match self {
            Unwritten::File(path, source) => Error::File { action: "write", path, source },
            Unwritten::Wrong(path, what) => {
                let place = format!("chunk {chunk} of pack {}/{}", pack.backup, pack.number);
                damaged(options, format!("{}: {place} {what}", path.display()))
            }
        }
    }
}

fn write_pieces(paths: &[PathBuf], chunk: &Chunk, plain: &[u8]) -> Result<(), Unwritten> {
    let (length, crc) = chunk.plain;
    let is_ours = plain.len() == length as usize && crc32fast::hash(plain) == crc;
    for piece in &chunk.pieces {
        let path = &paths[piece.file as usize];
        if !is_ours {
            return Err(Unwritten::Wrong(path.clone(), "has other bytes than were backed up"));
        }
        let bytes = usize::try_from(piece.offset).ok().and_then(|from| plain.get(from..));
        let bytes = bytes.and_then(|rest| rest.get(..usize::try_from(piece.len).ok()?));
        let bytes = bytes.ok_or_else(|| Unwritten::Wrong(path.clone(), "is too short"))?;
        let written = File::options().write(true).open(path);
        let written = written.and_then(|file| file.write_all_at(bytes, piece.file_at));
        written.map_err(|source| Unwritten::File(path.clone(), source))?;
    }
    Ok(())
}

/// Makes the folders that do not come from the manifest.
fn make_folders(options: &FetchOptions) -> Result<(), Error> {
    for name in FOLDERS {
        make_folder(&options.directory.join(name), 0o700, &options.user)?;
    }
    for (_, folder, link) in options.layout.links() {
        std::fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        set_mode(&folder, 0o700)?;
        options.user.own(&folder)?;
        std::os::unix::fs::symlink(&folder, &link).map_err(Error::file("make", &link))?;
        options.user.own(&link)?;
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32, user: &OsUser) -> Result<(), Error> {
    match DirBuilder::new().mode(mode & 0o777).create(path) {
        Ok(()) => user.own(path),
        // Made above, or a tablespace's.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::file("make", path)(error)),
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(Error::file("change the mode of", path))
}

/// Writes what makes the server recover, and waits until all is on disk.
fn finish(options: &FetchOptions, foot: &Foot) -> Result<(), Error> {
    let write = |name: &str, text: &str| {
        super::conf::replace(&options.directory.join(name), text.as_bytes(), &options.user)
    };
    let map = options.layout.tablespace_map()?;
    if !map.is_empty() {
        write("tablespace_map", &map)?;
    }
    write("recovery.signal", "")?;
    super::conf::set_aside(&options.directory, &options.user)?;
    write("backup_label", &foot.backup_label)?;
    sync(&options.directory)?;
    options.layout.links().try_for_each(|(_, folder, _)| sync(&folder))
}

/// Waits until everything on the file system of this folder is durable: one call for any number of files.
fn sync(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|file| rustix::fs::syncfs(&file).map_err(Into::into));
    synced.map_err(Error::file("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together() {
        let pack = |number| Pack { backup: "b".parse().unwrap(), number };
        let mut chunks = BTreeMap::new();
        let mut add = |number, index, at| {
            let place = ChunkPlace { at, sealed: 100, index };
            chunks.insert((pack(number), index), Chunk { place, plain: (0, 0), pieces: Vec::new() });
        };
        (0..10).for_each(|n| add(1, n, u64::from(n) * 100));
        add(1, 20, GAP_BYTES + 1101);
        add(2, 0, GAP_BYTES + 1201);
        let lengths: Vec<usize> = runs(chunks).iter().map(|run| run.chunks.len()).collect();
        assert_eq!(lengths, [8, 2, 1, 1]);
    }
}
