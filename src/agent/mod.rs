//! The sidecar beside one node: archives its WAL, takes base backups on schedule, has the zones
//! repaired, compares its clock, and records the cluster's shape where it is the coordinator.
//!
//! lock -> the server's facts -> vault -> is this the node that the vault knows? -> all parts, until
//! asked to stop or until one fails in a way that trying again cannot help
//!
//! What may pass by itself (a server that restarts, zones that do not answer) never ends it.

mod backups;
mod clocks;
mod error;
mod identity;
mod lock;
mod repairs;
pub mod status;
mod topology;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::archive;
use crate::class::{Class, Classified};
use crate::clock;
use crate::config::Settings;
use crate::config::settings::Method;
use crate::ids::{ClusterName, NodeName};
use crate::manifest::Document;
use crate::moment::Moment;
use crate::node::{ConnectionOptions, NodeFacts, pgdata};
use crate::retry::Backoff;
use crate::vault::{Access, Vault};
use crate::zones::ZoneSet;
use status::{AgentStatus, BackupLine, ClockLine, RepairLine, TopologyLine, ZoneLine};

pub use error::Error;

/// What every part of the agent needs.
#[derive(Clone)]
struct Post {
    settings: Arc<Settings>,
    cluster: ClusterName,
    node: NodeName,
    connection: ConnectionOptions,
    vault: Vault,
}

/// What the parts tell of themselves.
struct Board {
    state_dir: PathBuf,
    started_at: Moment,
    archive: watch::Receiver<archive::Status>,
    backup: watch::Receiver<BackupLine>,
    topology: watch::Receiver<Option<TopologyLine>>,
    repair: watch::Receiver<RepairLine>,
    clock: watch::Receiver<ClockLine>,
}

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long the end waits for writes that go on behind their quorum.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Runs until `shutdown`.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let _lock = lock::take(&settings.state_dir)?;
    let started_at = clock::now();
    let started = tokio::select! {
        started = start(Arc::new(settings)) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let (post, archiver) = started;
    let (tell_archive, archive) = watch::channel(archive::Status::default());
    let (tell_backup, backup) = watch::channel(BackupLine::default());
    let (tell_topology, topology) = watch::channel(None);
    let (tell_repair, repair) = watch::channel(RepairLine::default());
    let (tell_clock, clock) = watch::channel(ClockLine::default());
    let book = clocks::Book::default();
    let state_dir = post.settings.state_dir.clone();
    let board = Board { state_dir, started_at, archive: archive.clone(), backup, topology, repair, clock };
    // All but the archiver may be dropped at any moment.
    let beside = async {
        tokio::join!(
            topology::record(post.clone(), tell_topology),
            backups::take(post.clone(), archive, tell_backup, shutdown.clone()),
            repairs::keep(post.clone(), tell_repair),
            clocks::keep(&post, &book, &tell_clock),
            board.keep(&post),
        );
    };
    let archived = tokio::select! {
        archived = archive::run(archiver, post.vault.clone(), shutdown.clone(), tell_archive) => archived,
        () = beside => Err(archive::Error::Thread),
    };
    book.store(&post, &tell_clock).await;
    board.write(&post);
    post.vault.zones().settle(SETTLE_WITHIN).await;
    Ok(archived?)
}

/// Finds out all that the parts need, and refuses what must not be archived.
async fn start(settings: Arc<Settings>) -> Result<(Post, archive::Options), Error> {
    let (node, postgres) = settings.own_node()?;
    let (node, postgres) = (node.clone(), postgres.clone());
    let slot = postgres.slot.clone();
    let connection = blocking(move || postgres.server.options()).await??;
    let facts = patiently("the server", async || Ok(NodeFacts::read(&connection).await?)).await?;
    facts.supported()?;
    if facts.wal_level == "minimal" {
        return Err(Error::WalLevel { found: facts.wal_level });
    }
    pgdata::refuse_clone(&facts.data_directory, &settings.cluster)?;
    let vault = open_vault(&settings).await?;
    let cluster = settings.cluster.clone();
    let source = match settings.archive.method {
        Method::Stream => archive::Source::Stream,
        Method::Push => archive::Source::Push(archive::Push {
            data_directory: facts.data_directory.clone(),
            state_dir: settings.state_dir.clone(),
        }),
    };
    let archiver = archive::Options {
        source,
        level: settings.archive.level,
        part_every: settings.archive.part_interval,
        ..archive::Options::of(node.clone(), connection.clone(), slot, &facts)
    };
    let post = Post { settings, cluster, node, connection, vault };
    patiently("the zones", async || identity::admit(&post, &facts).await).await?;
    Ok((post, archiver))
}

async fn open_vault(settings: &Arc<Settings>) -> Result<Vault, Error> {
    let secrets = Arc::clone(settings);
    let (zones, master) =
        blocking(move || Ok::<_, Error>((secrets.zone_options()?, secrets.master_key()?))).await??;
    let zones = ZoneSet::open(zones, settings.write_quorum).map_err(crate::vault::Error::from)?;
    let open = async || {
        let cluster = settings.cluster.clone();
        Ok(Vault::open(zones.clone(), master.clone(), cluster, Access::Write).await?)
    };
    patiently("the zones", open).await
}

/// Tries again for as long as the failure may pass by itself.
async fn patiently<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let error = match attempt().await {
            Err(error) if error.class() == Class::Transient => error,
            done => return done,
        };
        tracing::warn!(error = archive::Mishap::now(&error).text, hint = error.hint(), "waiting for {what}");
        tokio::time::sleep(backoff.wait()).await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Thread)
}

impl Board {
    /// Writes the status file about every second, until dropped.
    async fn keep(&self, post: &Post) {
        let mut tick = tokio::time::interval(STATUS_EVERY);
        loop {
            tick.tick().await;
            self.write(post);
        }
    }

    fn write(&self, post: &Post) {
        let archive = self.archive.borrow().clone();
        let zones = post.vault.zones().status().into_iter().map(|zone| ZoneLine {
            zone: zone.zone,
            failing_since: zone.failing_since,
            last_error: zone.last_error,
            missed: zone.missed as u64,
        });
        let status = AgentStatus {
            version: AgentStatus::VERSION,
            cluster: post.cluster.clone(),
            node: post.node.clone(),
            pid: std::process::id(),
            started_at: self.started_at,
            updated_at: clock::now(),
            lag_bytes: archive.lag_bytes(),
            archive,
            zones: zones.collect(),
            damage: post.vault.damage().len() as u64,
            backup: self.backup.borrow().clone(),
            topology: self.topology.borrow().clone(),
            repair: self.repair.borrow().clone(),
            clock: self.clock.borrow().clone(),
        };
        if let Err(error) = status::write(&self.state_dir, &status) {
            tracing::warn!(%error, folder = %self.state_dir.display(), "the status file cannot be written");
        }
    }
}
