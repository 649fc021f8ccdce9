//! Runs the workers, and stores their packs as they come.
//!
//! queue -> workers (threads of their own) -> sealed packs, a bounded number -> zones
//!
//! What is in memory: the pack each worker fills, and the packs on their way out.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;

use super::pace::{Pace, Throttle};
use super::packer::SealedPack;
use super::paranoid::Stored;
use super::prior::Prior;
use super::scan::Found;
use super::source::Queue;
use super::worker::{self, Findings, Shared};
use super::{Error, Progress};
use crate::class::{Class, Classified};
use crate::ids::{BackupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::backup::{Entry, Pack};
use crate::retry::Backoff;
use crate::seal::Sealer;
use crate::vault::{self, ObjectName, Vault};
use crate::wal::Version;

/// Packs on their way to the zones at once.
const UPLOADS: usize = 3;
/// All packs in memory together, in bytes.
const PACKS_BYTES: usize = 96 << 20;
/// Small enough that the last ones, for which nobody compresses any more, are soon written.
const PACK_BYTES_MAX: usize = 8 << 20;
/// How long zones may fail to answer before the backup is given up.
const STORE_PATIENCE: Duration = Duration::from_secs(300);

/// Everything that copying files takes.
#[derive(Clone)]
pub(super) struct Copier {
    pub(super) vault: Vault,
    pub(super) node: NodeName,
    pub(super) backup: BackupId,
    pub(super) data: PathBuf,
    pub(super) version: Version,
    pub(super) start: Lsn,
    pub(super) checksums: bool,
    /// The backup that this one goes on from.
    pub(super) prior: Option<Arc<Prior>>,
    /// Compare with it what is not read.
    pub(super) paranoid: bool,
    pub(super) threads: usize,
    /// zstd level.
    pub(super) level: i32,
    pub(super) pace: Pace,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) next_pack: Arc<AtomicU32>,
}

/// What has been copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) findings: Findings,
    /// Bytes of packs.
    pub(super) stored: u64,
}

impl Copied {
    pub(super) fn merge(&mut self, other: Copied) {
        self.findings.merge(other.findings);
        self.stored += other.stored;
    }
}

/// Tells the workers to stop when whoever waits for them goes away.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Copier {
    /// Copies these files. Their entries go to `entries`.
    pub(super) async fn copy(
        &self,
        files: Vec<Found>,
        entries: mpsc::SyncSender<Entry>,
    ) -> Result<Copied, Error> {
        let threads = self.threads.clamp(1, files.len().max(1));
        let stop = StopOnDrop(Arc::default());
        let (packs, received) = tokio::sync::mpsc::channel(1);
        let shared = Arc::new(Shared {
            data: self.data.clone(),
            version: self.version,
            start: self.start,
            checksums: self.checksums,
            queue: Mutex::new(Queue::new(files, self.prior.clone())),
            stop: Arc::clone(&stop.0),
            next_pack: Arc::clone(&self.next_pack),
            pack_bytes: (PACKS_BYTES / (threads + UPLOADS + 1)).min(PACK_BYTES_MAX),
            begin: {
                let copier = self.clone();
                Box::new(move |number| copier.begin(number))
            },
            stored: self.paranoid.then(|| self.stored()),
            pace: self.pace,
            throttle: Throttle::new(self.pace.max_rate),
            progress: Arc::clone(&self.progress),
            packs,
            entries,
        });
        let workers = (0..threads).map(|_| start(&shared)).collect::<Result<Vec<_>, Error>>()?;
        drop(shared);
        let uploaded = self.upload(received).await;
        if uploaded.is_err() {
            stop.0.store(true, Ordering::Relaxed);
        }
        let worked = join(workers).await;
        Ok(Copied { stored: uploaded?, findings: worked? })
    }

    /// Returns what opens chunks of older backups, for threads that may block.
    fn stored(&self) -> Stored {
        let (copier, runtime) = (self.clone(), tokio::runtime::Handle::current());
        Box::new(move |pack, place| {
            let Pack { backup, number } =
                Pack::named(pack, &copier.backup).map_err(|source| Error::Manifest { source })?;
            let name = ObjectName::Pack { node: copier.node.clone(), backup, number };
            let opened = runtime.block_on(copier.vault.get_chunk(&name, place, false));
            opened.map_err(|source| Error::Older { pack: pack.to_owned(), source })
        })
    }

    fn name(&self, number: u32) -> ObjectName {
        ObjectName::Pack { node: self.node.clone(), backup: self.backup.clone(), number }
    }

    fn begin(&self, number: u32) -> Result<Sealer, Error> {
        self.vault.sealer(&self.name(number), self.level).map_err(|source| stored(number, source))
    }

    /// Stores packs until no more come; returns their bytes.
    async fn upload(&self, mut packs: tokio::sync::mpsc::Receiver<SealedPack>) -> Result<u64, Error> {
        let mut uploads = FuturesUnordered::new();
        let (mut stored, mut open) = (0, true);
        while open || !uploads.is_empty() {
            tokio::select! {
                pack = packs.recv(), if open && uploads.len() < UPLOADS => match pack {
                    Some(pack) => {
                        stored += pack.bytes.len() as u64;
                        uploads.push(self.put(pack));
                    }
                    None => open = false,
                },
                Some(done) = uploads.next() => done?,
            }
        }
        Ok(stored)
    }

    async fn put(&self, pack: SealedPack) -> Result<(), Error> {
        let put = store(&self.vault, &self.name(pack.number), pack.bytes).await;
        put.map_err(|source| stored(pack.number, source))
    }
}

/// Stores a sealed object; while the zones do not answer, tries again for a few minutes. The same bytes
/// each time, so that a lost reply does no harm.
pub(super) async fn store(vault: &Vault, name: &ObjectName, sealed: Bytes) -> Result<(), vault::Error> {
    let began = tokio::time::Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
    loop {
        let error = match vault.put_sealed(name, sealed.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if error.class() != Class::Transient || began.elapsed() > STORE_PATIENCE {
            return Err(error);
        }
        tracing::warn!(object = vault.path(name), %error, "not stored yet");
        tokio::time::sleep(backoff.wait()).await;
    }
}

fn stored(pack: u32, source: vault::Error) -> Error {
    Error::Store { what: format!("pack {pack}"), source }
}

type Outcome = Result<Findings, Error>;

/// Starts a worker, on a thread of its own: one that stood back for others would do so for ever.
fn start(shared: &Arc<Shared>) -> Result<oneshot::Receiver<Outcome>, Error> {
    let shared = Arc::clone(shared);
    let (tell, told) = oneshot::channel();
    let work = move || {
        let outcome = worker::work(&shared);
        if outcome.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        // Gives back its hold on the channels first: whoever is told may wait for their end.
        drop(shared);
        let _ = tell.send(outcome);
    };
    let thread = std::thread::Builder::new().name("backup".to_owned()).spawn(work);
    thread.map_err(|source| Error::Thread { source })?;
    Ok(told)
}

/// Waits for all workers; of several errors returns the one that stopped the others.
async fn join(workers: Vec<oneshot::Receiver<Outcome>>) -> Outcome {
    let mut all: Outcome = Ok(Findings::default());
    for worker in workers {
        let found = worker.await.unwrap_or(Err(Error::Ended));
        all = match (all, found) {
            (Ok(mut all), Ok(found)) => {
                all.merge(found);
                Ok(all)
            }
            (Err(Error::Ended) | Ok(_), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        };
    }
    all
}
