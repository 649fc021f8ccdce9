//! Writes and seals the manifest while the workers copy, on a thread of its own: entries leave memory
//! as they come, so a manifest of millions of files is held only sealed.

use std::sync::mpsc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Error;
use crate::manifest::backup::{Entry, Foot};
use crate::vault::ManifestSealer;

/// Entries that may wait. One of a file of 1 GB whose every page lies elsewhere is some 12 MB.
const WAITING_MAX: usize = 2;

/// The thread that writes.
pub(super) struct Scribe {
    entries: mpsc::SyncSender<Entry>,
    writing: JoinHandle<Result<Written, Error>>,
}

/// A manifest without its foot.
pub(super) struct Written(ManifestSealer);

impl Scribe {
    /// Goes on with a manifest, first with these entries.
    pub(super) fn start(manifest: ManifestSealer, first: Vec<Entry>) -> Scribe {
        let (entries, received) = mpsc::sync_channel(WAITING_MAX);
        let writing = tokio::task::spawn_blocking(move || {
            let mut manifest = manifest;
            first.into_iter().chain(received).try_for_each(|entry| manifest.entry(entry)).map_err(stored)?;
            Ok(Written(manifest))
        });
        Scribe { entries, writing }
    }

    /// Returns where entries go.
    pub(super) fn entries(&self) -> mpsc::SyncSender<Entry> {
        self.entries.clone()
    }

    /// Waits until all that was sent is written; every sender must be gone.
    pub(super) async fn wait(self) -> Result<Written, Error> {
        drop(self.entries);
        self.writing.await.map_err(|_| Error::Ended)?
    }
}

impl Written {
    /// Returns how many files it lists, and their bytes.
    pub(super) fn counted(&self) -> (u64, u64) {
        self.0.counted()
    }

    /// Ends the manifest.
    pub(super) async fn seal(self, foot: Foot) -> Result<Bytes, Error> {
        let sealing = tokio::task::spawn_blocking(move || self.0.seal(&foot));
        sealing.await.map_err(|_| Error::Ended)?.map_err(stored)
    }
}

fn stored(source: crate::vault::Error) -> Error {
    Error::Store { what: "the manifest".to_owned(), source }
}
