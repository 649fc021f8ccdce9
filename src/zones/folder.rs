//! A zone that is a folder of this machine.
//!
//! object_store's local store writes a temporary file, syncs it, links it to its name and syncs the
//! folder (`with_fsync`). What it leaves to us: folders it finds are taken to be durable, though the
//! process that made them may have died before it synced them, and two writers may race past each
//! other there. So the first write into a folder by this process makes it, and all above it up to the
//! zone's, and syncs them. And a zone's own folder is never made: where a disk is not mounted, writing
//! on would fill the wrong one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::fault::Fault;

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    opened: OnceLock<(Identity, Arc<LocalFileSystem>)>,
    /// Folders below the root that this process has made durable.
    durable: Mutex<HashSet<PathBuf>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// Makes the folder of a new zone, durably. One that exists is left as it is.
pub fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for folder in path.ancestors() {
        sync_folder(folder)?;
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Folder { root, opened: OnceLock::new(), durable: Mutex::default() }
    }

    /// Returns the store, if the folder is there and still the one it was. Blocks.
    pub(super) fn store(&self) -> Result<Arc<dyn ObjectStore>, Fault> {
        let gone = || Fault::NoFolder(self.root.clone());
        let found = match fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => Identity { device: found.dev(), inode: found.ino() },
            Ok(_) => return Err(gone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
            Err(error) => return Err(Fault::Folder(error)),
        };
        if self.opened.get().is_none() {
            let store = LocalFileSystem::new_with_prefix(&self.root).map_err(Fault::store)?.with_fsync(true);
            // Another thread may have been first; then its store serves.
            let _ = self.opened.set((found, Arc::new(store)));
        }
        match self.opened.get() {
            Some((identity, store)) if *identity == found => Ok(store.clone()),
            _ => Err(gone()),
        }
    }

    /// Makes the folders of an object, and makes them durable. Blocks.
    pub(super) fn prepare(&self, object: &str) -> Result<(), Fault> {
        let mut folder = self.root.clone();
        let mut names: Vec<&str> = object.split('/').collect();
        names.pop();
        for name in names {
            let parent = folder.clone();
            folder.push(name);
            if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&folder) {
                continue;
            }
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Fault::Folder(error)),
            }
            sync_folder(&parent).map_err(Fault::Folder)?;
            self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone());
        }
        Ok(())
    }

    /// Makes an object durable that another writer put there: it may have died before its last sync. Blocks.
    pub(super) fn confirm(&self, object: &str) -> Result<(), Fault> {
        let path = self.root.join(object);
        path.parent().map_or(Ok(()), sync_folder).map_err(Fault::Folder)
    }
}
