//! The job that makes a base backup of one node.
//!
//! pg_backup_start -> scan -> what the WAL changed since the newest backup -> read that, look at pages, pack,
//! compress, encrypt -> zones -> pg_backup_stop -> wait for the WAL it needs -> manifest last
//!
//! Every manifest lists every file in full; what did not change names packs of older backups.
//!
//! Invariants: a backup exists when its manifest does, and then all that a restore of it needs is in
//! the zones. Memory is bounded whatever the size. A crash leaves packs that no manifest names, which
//! expiry collects, and nothing on the server: it ends a backup whose session is gone.

mod ahead;
mod archived;
mod bracket;
mod changes;
mod copy;
mod error;
mod pace;
mod packer;
mod pages;
mod paranoid;
mod prior;
mod progress;
mod scan;
mod scribe;
mod source;
mod tape;
mod weave;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use error::Error;
pub use pace::{DiskPriority, Pace};
pub use progress::{Phase, Progress, Silent};

use crate::clock;
use crate::ids::{BackupId, ClusterName, NodeName};
use crate::lsn::Lsn;
use crate::manifest::backup::{BadPage, Entry, Foot, Head, Kind, VERSION};
use crate::moment::Moment;
use crate::node::ConnectionOptions;
use crate::pgfile::control::ControlFile;
use crate::vault::{ObjectName, Vault, kept_segment_bytes};
use crate::wal::segment::is_first_record;
use archived::Needed;
use bracket::{Bracket, Stopped};
use copy::{Copied, Copier};
use prior::{Older, Prior, Search, WhyFull};
use scan::{Found, Inventory};
use scribe::{Scribe, Written};
use worker::CONTROL_FILE;

const SECOND_US: i64 = 1_000_000;

/// How a backup is made.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// zstd level.
    pub level: i32,
    /// Files are read, compressed and encrypted by so many threads.
    pub threads: usize,
    /// How gently.
    pub pace: Pace,
    /// What the server's log and `backup_label` call it.
    pub label: String,
    /// Begin with an immediate checkpoint, not one that is spread over minutes.
    pub fast: bool,
    /// How long to wait for WAL while none comes.
    pub wal_patience: Duration,
    /// Read everything, whatever older backups hold.
    pub full: bool,
    /// Read everything, compare it with what would not have been read, and tell what differs.
    pub paranoid: bool,
    /// Packs that have become sparse are written anew, as far as so many per cent of all bytes go.
    pub rewrite_percent: u8,
}

impl BackupOptions {
    pub fn new(cluster: ClusterName, node: NodeName) -> Self {
        BackupOptions {
            cluster,
            node,
            level: 1,
            threads: 2,
            pace: Pace::default(),
            label: "pitrus".to_owned(),
            fast: true,
            wal_patience: Duration::from_secs(60),
            full: false,
            paranoid: false,
            rewrite_percent: 5,
        }
    }
}

/// What a finished backup is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BackupReport {
    pub backup: BackupId,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub started_at: Moment,
    pub stopped_at: Moment,
    pub files: u64,
    pub bytes: u64,
    /// Bytes read from the data directory.
    pub read: u64,
    /// In one zone, in bytes.
    pub stored: u64,
    /// The backup that gave what was not read.
    pub goes_on: Option<BackupId>,
    /// Why there is none.
    pub full_because: Option<String>,
    /// Pages that were changed without a word in the WAL; only a paranoid backup looks for them.
    pub unlogged: Vec<BadPage>,
    /// How many more there are.
    pub unlogged_more: u64,
    /// Pages that are damaged on the source; the backup is kept and marked.
    pub bad_pages: Vec<BadPage>,
    /// How many more there are.
    pub bad_pages_more: u64,
    /// Links and special files, which a backup cannot keep.
    pub left_out: Vec<String>,
}

impl BackupReport {
    /// Returns whether the source had damaged pages.
    pub fn is_damaged(&self) -> bool {
        !self.bad_pages.is_empty() || self.bad_pages_more > 0
    }
}

/// Makes a base backup of a node now. Its agent must be archiving.
pub async fn run(
    options: &BackupOptions,
    vault: &Vault,
    connection: &ConnectionOptions,
    progress: Arc<dyn Progress>,
) -> Result<BackupReport, Error> {
    progress.phase(Phase::Starting);
    let bracket = Bracket::open(options, connection).await?;
    check_data_directory(&bracket).await?;
    // Better to find now that nobody archives than after hours of copying; and the start switches to another segment,
    // which an agent that is just making its slot must not miss.
    let flushed = bracket.flushed().await?;
    let segment_start = flushed.segment_start(kept_segment_bytes(bracket.facts.segment_bytes));
    needed(&bracket, options, segment_start, flushed).wait(vault, options.wal_patience).await?;

    let before = vault.newest_backup(&options.node).await;
    let before = before.map_err(|source| Error::Store { what: "the backup before".to_owned(), source })?;
    let started_at = name_free_from(before.as_ref()).await;
    let job = Job {
        options,
        vault,
        bracket: &bracket,
        backup: BackupId::new(started_at, clock::random()),
        started_at,
        before,
        next_pack: Arc::default(),
        progress,
    };
    let outcome = job.run().await;
    if outcome.is_err() {
        job.clean_up().await;
    }
    outcome
}

/// Waits until a backup's name is behind that of the one before: names have seconds, and the newest is found by
/// its name. Returns the time.
async fn name_free_from(before: Option<&BackupId>) -> Moment {
    let now = clock::now();
    let taken = before.and_then(BackupId::start).map_or(0, |start| SECOND_US - now.micros_since(start));
    // More than a second: its clock was ahead of ours, and would have us wait for as long.
    if !(1..=SECOND_US).contains(&taken) {
        return now;
    }
    tokio::time::sleep(Duration::from_micros(taken.unsigned_abs())).await;
    clock::now()
}

/// One backup under way.
struct Job<'a> {
    options: &'a BackupOptions,
    vault: &'a Vault,
    bracket: &'a Bracket<'a>,
    backup: BackupId,
    started_at: Moment,
    /// The newest that there is.
    before: Option<BackupId>,
    next_pack: Arc<AtomicU32>,
    progress: Arc<dyn Progress>,
}

/// What has been read and stored, before the manifest.
struct Stored {
    written: Written,
    copied: Copied,
    control: ControlFile,
    left_out: Vec<String>,
    goes_on: Option<BackupId>,
    full_because: Option<String>,
}

impl Job<'_> {
    async fn run(&self) -> Result<BackupReport, Error> {
        let facts = &self.bracket.facts;
        let (start, older) = tokio::try_join!(self.bracket.start(), self.older())?;
        tracing::info!(node = %self.options.node, backup = %self.backup, %start, "backup began");
        self.progress.phase(Phase::Copying);
        let mut stored = self.copy(start, older).await?;
        let (settings, hba) = (self.bracket.settings().await?, self.bracket.hba().await);
        let superuser = self.bracket.superuser().await?;
        let Stopped { stop, label, tablespace_map } = self.bracket.stop(start).await?;
        let stopped_at = clock::now();

        self.progress.phase(Phase::AwaitingWal);
        needed(self.bracket, self.options, start, stop).wait(self.vault, self.options.wal_patience).await?;
        self.progress.phase(Phase::Finishing);
        self.packs_are_there().await?;
        if let Some(prior) = &stored.goes_on {
            self.is_there(prior).await?;
        }
        let read = stored.copied.findings.read;
        let unlogged = std::mem::take(&mut stored.copied.findings.unlogged);
        let wrong = &mut stored.copied.findings.wrong;
        wrong.settle(stop);
        let foot = Foot {
            stop_lsn: stop,
            stopped_at,
            backup_label: label,
            tablespace_map,
            read,
            stored: stored.copied.stored,
            bad_pages: wrong.bad.clone(),
            bad_pages_more: wrong.more,
            prepared: std::mem::take(&mut stored.copied.findings.prepared),
            parameters: stored.control.parameters,
            settings,
            hba,
            superuser,
            // The writer has counted these.
            files: 0,
            bytes: 0,
            packs: Vec::new(),
        };
        let (files, bytes) = stored.written.counted();
        let (bad_pages, bad_pages_more) = (foot.bad_pages.clone(), foot.bad_pages_more);
        let sealed = stored.written.seal(foot).await?;
        let name = ObjectName::Manifest { node: self.options.node.clone(), backup: self.backup.clone() };
        let put = copy::store(self.vault, &name, sealed).await;
        put.map_err(|source| Error::Store { what: "the manifest".to_owned(), source })?;
        tracing::info!(
            node = %self.options.node, backup = %self.backup, %start, %stop, files, bytes, read,
            timeline = %facts.timeline, "backup finished"
        );
        Ok(BackupReport {
            backup: self.backup.clone(),
            start_lsn: start,
            stop_lsn: stop,
            started_at: self.started_at,
            stopped_at,
            files,
            bytes,
            read,
            stored: stored.copied.stored,
            goes_on: stored.goes_on,
            full_because: stored.full_because,
            unlogged: unlogged.pages,
            unlogged_more: unlogged.more,
            bad_pages,
            bad_pages_more,
            left_out: stored.left_out,
        })
    }

    /// Copies everything, `pg_control` last (`basebackup.c`, `perform_base_backup`).
    async fn copy(&self, start: Lsn, older: Result<Older, WhyFull>) -> Result<Stored, Error> {
        let facts = &self.bracket.facts;
        let data = facts.data_directory.clone();
        let version = self.bracket.version;
        let scan = tokio::task::spawn_blocking(move || Inventory::scan(&data, version));
        let scan = async { scan.await.map_err(|_| Error::Ended)? };
        let mut head = self.head(start);
        let (mut inventory, (prior, full_because)) = tokio::try_join!(scan, self.prior(&head, older))?;
        self.progress.total(inventory.bytes());
        let control = take_control(&mut inventory, facts.data_directory.join(CONTROL_FILE))?;

        let folders = inventory.folders.into_iter();
        let folders = folders.map(|f| Entry { path: f.path, kind: Kind::Folder, mode: f.mode }).collect();
        head.tablespaces = inventory.tablespaces;
        head.goes_on = prior.as_ref().map(|prior| prior.backup.clone());
        let goes_on = head.goes_on.clone();
        let manifest = self.vault.manifest(&head, MANIFEST_LEVEL);
        let manifest = manifest.map_err(|source| Error::Store { what: "the manifest".to_owned(), source })?;
        let scribe = Scribe::start(manifest, folders);
        let copier = self.copier(start, prior);
        let copied = match copier.copy(inventory.files, scribe.entries()).await {
            Ok(mut copied) => copier.copy(vec![control], scribe.entries()).await.map(|last| {
                copied.merge(last);
                copied
            }),
            failed => failed,
        };
        let written = scribe.wait().await;
        // Workers that lost their scribe only know that they ended early.
        let copied = match (copied, &written) {
            (Err(Error::Ended), Err(_)) => Copied::default(),
            (copied, _) => copied?,
        };
        let written = written?;
        let control = copied.findings.control.ok_or(Error::Ended)?;
        Ok(Stored { written, copied, control, left_out: inventory.left_out, goes_on, full_because })
    }

    fn search<'a>(&'a self, head: &'a Head) -> Search<'a> {
        let BackupOptions { paranoid, rewrite_percent, .. } = *self.options;
        Search { vault: self.vault, head, rewrite_percent, paranoid }
    }

    /// Reads the backup to go on from, or says why there is none.
    async fn older(&self) -> Result<Result<Older, WhyFull>, Error> {
        if self.options.full {
            return Ok(Err("it was asked for".to_owned()));
        }
        self.search(&self.head(Lsn::INVALID)).older(self.before.as_ref()).await
    }

    /// Finds what changed since the backup to go on from, or why there is none.
    async fn prior(
        &self,
        head: &Head,
        older: Result<Older, WhyFull>,
    ) -> Result<(Option<Arc<Prior>>, Option<WhyFull>), Error> {
        let found = match older {
            Ok(older) => self.since(head, older).await?,
            Err(why) => Err(why),
        };
        Ok(match found {
            Ok(prior) => (Some(Arc::new(prior)), None),
            Err(why) => {
                tracing::info!(node = %self.options.node, because = why, "everything is read");
                (None, Some(why))
            }
        })
    }

    async fn since(&self, head: &Head, older: Older) -> Result<Result<Prior, WhyFull>, Error> {
        // Its last records are on their way.
        let kept_bytes = kept_segment_bytes(head.segment_bytes);
        let mut to = head.start_lsn;
        if is_first_record(to, head.segment_bytes) {
            to = to.segment_start(kept_bytes);
        }
        let from = Lsn(to.0.saturating_sub(1)).segment_start(kept_bytes);
        needed(self.bracket, self.options, from, to).wait(self.vault, self.options.wal_patience).await?;
        self.search(head).since(older).await
    }

    /// Makes sure that a backup still exists: then expiry keeps all that its manifest names.
    async fn is_there(&self, backup: &BackupId) -> Result<(), Error> {
        let name = ObjectName::Manifest { node: self.options.node.clone(), backup: backup.clone() };
        let there = self.vault.exists(&name).await;
        if there.map_err(|source| Error::Store { what: "the manifest".to_owned(), source })? {
            return Ok(());
        }
        Err(Error::PriorGone { backup: backup.clone() })
    }

    /// After so long expiry takes packs without a manifest for garbage: makes sure that it did not.
    async fn packs_are_there(&self) -> Result<(), Error> {
        if clock::now().micros_since(self.started_at) < LONG_MICROS {
            return Ok(());
        }
        for number in 0..self.next_pack.load(Ordering::Relaxed) {
            let there = self.vault.exists(&self.pack(number)).await;
            if !there.map_err(|source| Error::Store { what: format!("pack {number}"), source })? {
                return Err(Error::PackGone { number });
            }
        }
        Ok(())
    }

    fn pack(&self, number: u32) -> ObjectName {
        ObjectName::Pack { node: self.options.node.clone(), backup: self.backup.clone(), number }
    }

    /// Deletes what was stored: best effort, since expiry collects it as well.
    async fn clean_up(&self) {
        for number in 0..self.next_pack.load(Ordering::Relaxed) {
            let name = self.pack(number);
            if let Err(error) = self.vault.delete(&name).await {
                tracing::debug!(%error, "a pack of the failed backup stays for expiry");
                return;
            }
        }
    }

    fn copier(&self, start: Lsn, prior: Option<Arc<Prior>>) -> Copier {
        let facts = &self.bracket.facts;
        Copier {
            vault: self.vault.clone(),
            node: self.options.node.clone(),
            backup: self.backup.clone(),
            data: facts.data_directory.clone(),
            version: self.bracket.version,
            start,
            checksums: facts.data_checksums,
            paranoid: self.options.paranoid && prior.is_some(),
            prior,
            threads: self.options.threads,
            level: self.options.level,
            pace: self.options.pace,
            progress: Arc::clone(&self.progress),
            next_pack: Arc::clone(&self.next_pack),
        }
    }

    /// Returns the head of the manifest, as far as it is known before the scan.
    fn head(&self, start: Lsn) -> Head {
        let facts = &self.bracket.facts;
        Head {
            version: VERSION,
            backup: self.backup.clone(),
            cluster: self.options.cluster.clone(),
            node: self.options.node.clone(),
            group: facts.group,
            system_identifier: facts.system_identifier.clone(),
            postgres_version: facts.server_version_num,
            segment_bytes: facts.segment_bytes,
            timeline: facts.timeline,
            start_lsn: start,
            started_at: self.started_at,
            data_checksums: facts.data_checksums,
            tablespaces: Vec::new(),
            goes_on: None,
        }
    }
}

/// A backup that takes longer looks whether its packs are still there: two days.
const LONG_MICROS: i64 = 2 * 86_400_000_000;
/// Manifests are text, and one for each backup.
const MANIFEST_LEVEL: i32 = 3;

fn needed(bracket: &Bracket<'_>, options: &BackupOptions, from: Lsn, to: Lsn) -> Needed {
    let facts = &bracket.facts;
    Needed {
        node: options.node.clone(),
        timeline: facts.timeline,
        segment_bytes: kept_segment_bytes(facts.segment_bytes),
        from,
        to,
    }
}

/// Refuses a data directory that is not of the server we are connected to.
async fn check_data_directory(bracket: &Bracket<'_>) -> Result<(), Error> {
    let path = bracket.facts.data_directory.join(CONTROL_FILE);
    let bytes = tokio::fs::read(&path).await.map_err(|source| Error::Read { path: path.clone(), source })?;
    // The first field (`src/include/catalog/pg_control.h`); never changes, so it needs no whole read.
    let found = bytes.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first));
    let expected = bracket.facts.system_identifier.clone();
    if found.to_string() == expected { Ok(()) } else { Err(Error::OtherServer { path, found, expected }) }
}

fn take_control(inventory: &mut Inventory, path: PathBuf) -> Result<Found, Error> {
    let at = inventory.files.iter().position(|found| &*found.path == CONTROL_FILE);
    let gone = || Error::Read { path, source: std::io::ErrorKind::NotFound.into() };
    at.map(|at| inventory.files.remove(at)).ok_or_else(gone)
}
