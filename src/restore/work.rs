//! One node's way through a restore: from an empty folder to a closed server, stage by stage.
//!
//! Each stage is noted in the ledger when it is done and skipped when the ledger has it, so a run that
//! crashed goes on. Stages that concern the whole cluster (all promoted before any settles) are kept in
//! step by the caller.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::conf::{self, Needs};
use super::fetch::{self, FetchOptions, Fetched, Share};
use super::former;
use super::landing;
use super::layout::Layout;
use super::ledger::{Ledger, Stage};
use super::metadata::{self, Address};
use super::plan::NodePlan;
use super::recovery::{self, Replay};
use super::report::Figures;
use super::server::{Instance, Server};
use super::settle::{self, Decisions};
use super::store::{NodeWal, Store};
use super::targets::Target;
use super::{Error, Progress, Step, open};
use crate::clock;
use crate::cut::Settle;
use crate::manifest;
use crate::manifest::backup::{Entry, Foot, Head, Line, ManifestReader};
use crate::manifest::clone_mark::{self, CloneMark};
use crate::pgfile::control::ControlFile;

/// A node under restore.
pub(super) struct Work {
    pub(super) plan: NodePlan,
    /// Prepared transactions of this node that are to be ended.
    pub(super) settle: Vec<Settle>,
    pub(super) head: Head,
    pub(super) foot: Foot,
    pub(super) instance: Instance,
    pub(super) needs: Needs,
    pub(super) ledger: Ledger,
    pub(super) progress: Progress,
    /// Our program, as the servers' user can run it.
    pub(super) program: PathBuf,
    /// What is in the target may be kept where it is the same.
    pub(super) delta: bool,
    pub(super) server: Option<Server>,
}

impl Work {
    fn is_at(&self, stage: Stage) -> bool {
        self.ledger.stage >= stage
    }

    fn reach(&mut self, stage: Stage) -> Result<(), Error> {
        self.ledger.reach(stage, &self.instance.user)?;
        (self.progress)(&self.plan.node, Step::Reached(stage));
        Ok(())
    }

    /// Returns where this node's Citus group will be.
    pub(super) fn address(&self) -> Option<Address> {
        let Target { host, port, .. } = &self.ledger.target;
        Some(Address { group: self.plan.group?, host: host.clone(), port: *port })
    }

    /// Takes possession of the target, and brings the files.
    pub(super) async fn fetch<S: Store>(&mut self, store: &S, share: &Share) -> Result<(), Error> {
        if let Some(why) = self.must_begin_again().await? {
            tracing::warn!(node = %self.plan.node, "{why}; its files are fetched again");
            (self.ledger.stage, self.ledger.unsynced_in) = (Stage::Begun, None);
        }
        if self.is_at(Stage::Fetched) {
            return Ok(());
        }
        let begun = Instant::now();
        let (instance, ledger, head) = (self.instance.clone(), self.ledger.clone(), self.head.clone());
        let delta = self.delta && instance.directory.is_dir();
        let possess = tokio::task::spawn_blocking(move || possess(&instance, &ledger, &head, delta));
        possess.await.map_err(|_| Error::Lost("clearing the target"))??;
        let options = FetchOptions {
            node: self.plan.node.clone(),
            backup: self.plan.backup.clone(),
            layout: Layout::new(&self.head, &self.ledger.target),
            directory: self.instance.directory.clone(),
            user: self.instance.user.clone(),
            progress: self.progress.clone(),
            delta,
        };
        let manifest = store.manifest(&self.plan.node, &self.plan.backup).await?;
        let entries = entries(manifest, &self.plan);
        let Fetched { files, bytes, kept } =
            fetch::fetch(options, entries, self.foot.clone(), store, share).await?;
        self.mark()?;
        self.ledger.figures = Figures { files, bytes, kept, fetch_ms: millis(begun), ..self.ledger.figures };
        self.reach(Stage::Fetched)
    }

    /// Returns why what an earlier run left cannot be gone on from.
    async fn must_begin_again(&self) -> Result<Option<&'static str>, Error> {
        if self.ledger.may_be_lost()? {
            return Ok(Some("the machine has started again before this node was durable"));
        }
        if self.ledger.stage == Stage::Fetched && !self.is_recoverable().await? {
            return Ok(Some("stopped in the middle of its promotion"));
        }
        Ok(None)
    }

    /// Returns whether a fetched node can go on. A server that is promoted takes `recovery.signal` away before
    /// the new timeline is durable (`StartupXLOG`); one that was stopped between the two would start as after
    /// a crash, on the old timeline, and replay whatever WAL it has, past the stop.
    async fn is_recoverable(&self) -> Result<bool, Error> {
        self.instance.quiet().await?;
        let directory = &self.instance.directory;
        if directory.join("recovery.signal").exists() {
            return Ok(true);
        }
        let path = directory.join("global/pg_control");
        let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
        let control = ControlFile::parse(&bytes);
        Ok(control.is_ok_and(|control| control.timeline > self.plan.timeline))
    }

    /// Writes the mark by which an agent knows a copy.
    fn mark(&self) -> Result<(), Error> {
        let mark = CloneMark {
            version: 1,
            cluster: self.ledger.cluster.clone(),
            source_cluster: self.ledger.source_cluster.clone(),
            source_node: self.plan.node.clone(),
            restored_at: clock::now(),
        };
        let path = self.instance.directory.join(clone_mark::FILE);
        conf::replace(&path, &manifest::to_bytes(&mark), &self.instance.user)
    }

    /// Replays to the stop and proves it; leaves the server running, promoted and private.
    pub(super) async fn land<S: Store>(&mut self, store: S) -> Result<(), Error> {
        if self.is_at(Stage::Done) {
            return Ok(());
        }
        let begun = Instant::now();
        self.ledger.leave_unsynced(&self.instance.user)?;
        let replay =
            Replay { instance: &self.instance, needs: &self.needs, plan: &self.plan, program: &self.program };
        let server = recovery::replay(&replay, NodeWal::new(store, self.plan.clone())).await?;
        if !self.is_at(Stage::Landed) {
            let client = server.connect("template1").await?;
            match landing::prove(&self.instance, &client, &self.plan).await {
                Ok(proof) => self.ledger.proof = Some(proof),
                Err(error) => {
                    // The error that matters is the first one.
                    let _ = server.stop().await;
                    return Err(error);
                }
            }
            self.ledger.figures.replay_ms = millis(begun);
            self.reach(Stage::Landed)?;
        }
        self.server = Some(server);
        Ok(())
    }

    /// Returns the decisions in this node's catalogue, where it still matters.
    pub(super) async fn decisions(&self) -> Result<Decisions, Error> {
        match &self.server {
            Some(server) => settle::decisions(server).await,
            None => Ok(Decisions::new()),
        }
    }

    /// Settles prepared transactions and names the new addresses; stops the server. To be called when all
    /// nodes have landed.
    pub(super) async fn settle(&mut self, decisions: &Decisions, addresses: &[Address]) -> Result<(), Error> {
        let Some(server) = self.server.take() else { return Ok(()) };
        let begun = Instant::now();
        if !self.is_at(Stage::Settled) {
            let orders: Vec<&Settle> = self.settle.iter().collect();
            self.ledger.settled = settle::settle(&server, &orders, decisions).await?;
            self.reach(Stage::Settled)?;
        }
        if !self.is_at(Stage::Addressed) {
            self.ledger.metadata = metadata::readdress(&server, addresses).await?;
        }
        // A checkpoint; nothing of it was synced since recovery began.
        server.stop().await?;
        let (directory, layout) =
            (self.instance.directory.clone(), Layout::new(&self.head, &self.ledger.target));
        let sync = tokio::task::spawn_blocking(move || fetch::sync_all(&directory, &layout));
        sync.await.map_err(|_| Error::Lost("syncing a data directory"))??;
        self.ledger.figures.settle_ms = millis(begun);
        self.reach(Stage::Addressed)
    }

    /// Checks the node with Citus loaded, and closes it. To be called when all nodes have new addresses.
    pub(super) async fn open(&mut self) -> Result<(), Error> {
        if self.is_at(Stage::Done) {
            return Ok(());
        }
        let begun = Instant::now();
        let file = |name: &str| self.instance.directory.join(name).is_file();
        self.needs.ssl = self.needs.ssl && file("server.crt") && file("server.key");
        self.ledger.checked = open::open(&self.instance, &self.needs).await?;
        self.ledger.figures.open_ms = millis(begun);
        self.reach(Stage::Done)
    }

    /// Stops the server, where one runs: another node has failed.
    pub(super) async fn abandon(&mut self) {
        if let Some(server) = self.server.take()
            && let Err(error) = server.stop().await
        {
            tracing::warn!(node = %self.plan.node, %error, "a server did not stop in order");
        }
    }
}

/// Makes the folder ours, and empties it of what a crashed run of this restore left; a stopped copy keeps its
/// files for now, but not what would let it start.
fn possess(instance: &Instance, ledger: &Ledger, head: &Head, delta: bool) -> Result<(), Error> {
    let Instance { directory, user, .. } = instance;
    conf::make_way(directory)?;
    fetch::set_mode(directory, 0o700)?;
    user.own(directory)?;
    ledger.write(user)?;
    let tablespaces = &ledger.target.tablespaces;
    if delta {
        former::disarm(&ledger.target)?;
    } else {
        empty(directory, Some(super::ledger::FILE))?;
    }
    if tablespaces.is_dir() {
        if !delta {
            empty(tablespaces, None)?;
        }
    } else if !head.tablespaces.is_empty() {
        conf::make_way(tablespaces)?;
        fetch::set_mode(tablespaces, 0o700)?;
        user.own(tablespaces)?;
    }
    Ok(())
}

/// Returns the entries of a manifest, one by one; for a thread that may block.
fn entries(
    mut blocks: BoxStream<'static, Result<Bytes, Error>>,
    plan: &NodePlan,
) -> impl Iterator<Item = Result<Entry, Error>> + Send + 'static + use<> {
    let (node, backup) = (plan.node.clone(), plan.backup.clone());
    let runtime = tokio::runtime::Handle::current();
    // `None` behind the end, or behind what was wrong.
    let mut reader = Some(ManifestReader::new());
    std::iter::from_fn(move || {
        loop {
            let found = match reader.as_mut()?.next() {
                Ok(Some(Line::Entry(entry))) => return Some(Ok(entry)),
                Ok(Some(_)) => continue,
                Ok(None) => match runtime.block_on(blocks.next()) {
                    Some(Ok(block)) => {
                        reader.as_mut()?.feed(&block);
                        continue;
                    }
                    Some(Err(error)) => Err(error),
                    None => Ok(reader.take()?.finish()),
                },
                Err(source) => Ok(Err(source)),
            };
            reader = None;
            let wrong = |source| Error::Manifest { node: node.clone(), backup: backup.clone(), source };
            return found.and_then(|ended| ended.map_err(wrong)).err().map(Err);
        }
    })
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Removes everything in a folder of ours, except one file.
fn empty(folder: &Path, keep: Option<&str>) -> Result<(), Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::file("look into", folder))?;
    for entry in entries {
        let entry = entry.map_err(Error::file("look into", folder))?;
        if keep.is_some_and(|name| entry.file_name() == name) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().map_err(Error::file("look at", &path))?.is_dir();
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(Error::file("remove", &path))?;
    }
    Ok(())
}
