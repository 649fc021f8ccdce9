//! A zone that is a folder of this machine.
//!
//! object_store's local store reads, lists and deletes. Writing is ours (`file`): it would make any folder that is
//! missing, the zone's own too, and takes those that it finds to be durable, though the process that made them may have
//! died before it synced them. So the first write into a folder by this process makes it, and all above it up to the
//! zone's, and syncs them.
//!
//! A zone's own folder is never made, and only one that bears the file [`MARK`] is written to or
//! believed to be empty: where a disk is not mounted, its mount point is an empty folder, and writing on
//! would fill the wrong disk and call that a copy.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::fault::Fault;
use super::file::{self, sync_folder};
use super::store::Created;
use crate::clock;
use crate::moment::Moment;

/// The file that says that a folder is a zone. What is in it does not matter.
pub(super) const MARK: &str = "pitrus.zone";
const MARK_TEXT: &[u8] =
    b"This folder is a zone of pitrus. Without this file it is taken for a disk that is not mounted.\n";
/// Temporary files that are older were left by a crash.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    opened: Mutex<Option<Opened>>,
}

/// The folder as it was last seen: another disk mounted there is another folder.
#[derive(Clone, Debug)]
struct Opened {
    device: u64,
    inode: u64,
    store: Arc<LocalFileSystem>,
    /// Folders below the root that this process has made durable.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

/// What a zone is before anything is written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It holds nothing, and no mark.
    Empty,
    /// It is a zone.
    Used,
    /// It holds something, but no mark.
    Unmarked,
}

/// Makes the folder of a new zone, durably, and marks it; fine where it is one already.
pub fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Folders above may be closed to us, and then were not made by us.
    let _ = path.ancestors().skip(1).try_for_each(sync_folder);
    mark(path)
}

fn mark(root: &Path) -> io::Result<()> {
    use io::Write;
    match OpenOptions::new().write(true).create_new(true).open(root.join(MARK)) {
        Ok(mut file) => file.write_all(MARK_TEXT).and_then(|()| file.sync_all())?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    sync_folder(root)
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Folder { root, opened: Mutex::default() }
    }

    /// Returns the store, for reading. Blocks.
    pub(super) fn store(&self) -> Result<Arc<dyn ObjectStore>, Fault> {
        self.open().map(|opened| opened.store as Arc<dyn ObjectStore>)
    }

    fn open(&self) -> Result<Opened, Fault> {
        let gone = || Fault::NoFolder(self.root.clone());
        let found = match fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => found,
            Ok(_) => return Err(gone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
            Err(error) => return Err(Fault::Folder(error)),
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.as_ref().filter(|o| (o.device, o.inode) == (found.dev(), found.ino())) {
            return Ok(known.clone());
        }
        let store = LocalFileSystem::new_with_prefix(&self.root).map_err(Fault::store)?.with_fsync(true);
        let new = Opened {
            device: found.dev(),
            inode: found.ino(),
            store: Arc::new(store),
            durable: Arc::default(),
        };
        *opened = Some(new.clone());
        Ok(new)
    }

    /// Fails unless the folder bears the mark. Blocks.
    pub(super) fn vouch(&self) -> Result<(), Fault> {
        match fs::metadata(self.root.join(MARK)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::NoZone(self.root.clone())),
            Err(error) => Err(Fault::Folder(error)),
        }
    }

    /// Makes the folders of an object, durably. Blocks.
    fn prepare(&self, object: &str) -> Result<(), Fault> {
        let opened = self.open()?;
        self.vouch()?;
        let mut folder = self.root.clone();
        let mut names: Vec<&str> = object.split('/').collect();
        names.pop();
        for name in names {
            let parent = folder.clone();
            folder.push(name);
            if opened.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&folder) {
                continue;
            }
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Fault::Folder(error)),
            }
            sync_folder(&parent).map_err(Fault::Folder)?;
            opened.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone());
        }
        Ok(())
    }

    /// Creates an object; one that exists is left as it is. Blocks.
    pub(super) fn create(&self, object: &str, bytes: &[u8]) -> Result<Created, Fault> {
        self.prepare(object)?;
        file::create(&self.root.join(object), bytes).map_err(Fault::Write)
    }

    /// Puts an object in place of what is there. Blocks.
    pub(super) fn replace(&self, object: &str, bytes: &[u8]) -> Result<(), Fault> {
        self.prepare(object)?;
        file::replace(&self.root.join(object), bytes).map_err(Fault::Write)
    }

    /// Makes an object durable that another writer put there: it may have died before its last sync. Blocks.
    pub(super) fn confirm(&self, object: &str) -> Result<(), Fault> {
        file::sync_parent(&self.root.join(object)).map_err(Fault::Folder)
    }

    /// Returns what the folder is. Blocks.
    pub(super) fn state(&self) -> Result<State, Fault> {
        self.open()?;
        match self.vouch() {
            Ok(()) => return Ok(State::Used),
            Err(Fault::NoZone(_)) => {}
            Err(fault) => return Err(fault),
        }
        let mut entries = fs::read_dir(&self.root).map_err(Fault::Folder)?;
        // A file system of its own brings this folder along.
        let is_empty = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"));
        Ok(if is_empty { State::Empty } else { State::Unmarked })
    }

    /// Marks the folder as a zone. Blocks.
    pub(super) fn mark(&self) -> Result<(), Fault> {
        mark(&self.root).map_err(Fault::Folder)
    }

    /// Deletes the store's temporary files (`name#1`) that are a day old. Blocks.
    pub(super) fn sweep_leftovers(&self) -> Result<u64, Fault> {
        self.open()?;
        let mut folders = vec![self.root.clone()];
        let mut swept = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(Fault::Folder)? {
                let entry = entry.map_err(Fault::Folder)?;
                let kind = entry.file_type().map_err(Fault::Folder)?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() && is_leftover(&entry) {
                    swept += u64::from(fs::remove_file(entry.path()).is_ok());
                }
            }
        }
        Ok(swept)
    }
}

fn is_leftover(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let suffix = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, suffix)| suffix);
    let temporary = suffix.is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()));
    temporary
        && entry.metadata().is_ok_and(|meta| {
            let written = Moment::from_unix_micros(meta.mtime().saturating_mul(1_000_000));
            clock::now().micros_since(written) > LEFTOVER_AGE.as_micros() as i64
        })
}
