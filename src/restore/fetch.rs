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
use super::store::{ChunkRef, Store};
use super::{Error, Progress, Step};
use crate::ids::{BackupId, NodeName};
use crate::manifest::backup::{Entry, Extent, Foot, Kind, Pack};

/// Chunks under way at once: enough to hide the delay of a distant store.
const AT_ONCE: usize = 16;

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
    crc: u32,
}

/// All that a manifest asks for.
#[derive(Default)]
struct Wanted {
    files: Vec<PathBuf>,
    chunks: BTreeMap<ChunkRef, Vec<Piece>>,
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
    futures::stream::iter(wanted.chunks)
        .map(|(chunk, pieces)| filled.fill(store, chunk, pieces, &done))
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
    async fn fill<S: Store>(
        &self,
        store: &S,
        chunk: ChunkRef,
        pieces: Vec<Piece>,
        done: &AtomicU64,
    ) -> Result<(), Error> {
        let plain = store.chunk(&self.options.node, &chunk).await?;
        let length: u64 = pieces.iter().map(|p| u64::from(p.len)).sum();
        let paths = Arc::clone(&self.paths);
        let write = tokio::task::spawn_blocking(move || write_pieces(&paths, &pieces, &plain));
        let written = write.await.map_err(|_| Error::Lost("writing files"))?;
        written.map_err(|problem| problem.error(&self.options, &chunk))?;
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
            let chunk = chunk_of(&options.backup, extent).map_err(broken)?;
            let Extent { offset, len, crc, .. } = *extent;
            self.chunks.entry(chunk).or_default().push(Piece { file, file_at, offset, len, crc });
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

fn chunk_of(own: &BackupId, extent: &Extent) -> Result<ChunkRef, String> {
    let pack = Pack::named(&extent.pack, own).map_err(|error| error.to_string())?;
    Ok(ChunkRef { pack, chunk: extent.chunk, at: extent.at, sealed: extent.sealed })
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
    fn error(self, options: &FetchOptions, chunk: &ChunkRef) -> Error {
        match self {
            Unwritten::File(path, source) => Error::File { action: "write", path, source },
            Unwritten::Wrong(path, what) => {
                let place =
                    format!("chunk {} of pack {}/{}", chunk.chunk, chunk.pack.backup, chunk.pack.number);
                damaged(options, format!("{}: {place} {what}", path.display()))
            }
        }
    }
}

fn write_pieces(paths: &[PathBuf], pieces: &[Piece], plain: &[u8]) -> Result<(), Unwritten> {
    for piece in pieces {
        let path = &paths[piece.file as usize];
        let bytes = usize::try_from(piece.offset).ok().and_then(|from| plain.get(from..));
        let bytes = bytes.and_then(|rest| rest.get(..usize::try_from(piece.len).ok()?));
        let bytes = bytes.ok_or_else(|| Unwritten::Wrong(path.clone(), "is too short"))?;
        if crc32fast::hash(bytes) != piece.crc {
            return Err(Unwritten::Wrong(path.clone(), "has other bytes than were backed up"));
        }
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
