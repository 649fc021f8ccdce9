//! What the end-to-end tests begin with: a cluster with a bank, under pitrus.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::moment::Moment;

use crate::world::{
    Bank, Cluster, ClusterOptions, DATABASE, Folder, Kind, Landing, Load, LoadOptions, Protected, Said,
    Server, ServerOptions, Truth, Verdict, open_hba, proof, text,
};

/// Clients' and servers' clocks are one here; this much is left for their queues, in microseconds.
pub(crate) const MARGIN_US: i64 = 500_000;
const ACCOUNTS: i64 = 200;
/// Enough to have transactions open at any moment, and to leave the machine to what is tested.
pub(crate) const LOAD: LoadOptions = LoadOptions { clients: 2, pause: Duration::from_millis(2) };

pub(crate) struct Scene {
    pub(crate) folder: Arc<Folder>,
    pub(crate) cluster: Cluster,
    pub(crate) bank: Bank,
    pub(crate) protected: Protected,
}

impl Scene {
    /// Starts a cluster with small WAL segments, and an agent beside each node; waits for the first backups.
    pub(crate) async fn set(kind: Kind, settings: &[(&str, &str)]) -> anyhow::Result<Scene> {
        Scene::set_with(ClusterOptions::of(kind), settings).await
    }

    pub(crate) async fn set_with(
        mut options: ClusterOptions,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Scene> {
        let folder = Arc::new(Folder::new()?);
        options.wal_segment_mib = 1;
        let changed = proof::CHANGED.map(|(name, value, _)| (name, value));
        for (name, value) in changed.iter().chain(settings) {
            options.settings.push(((*name).to_owned(), (*value).to_owned()));
        }
        let cluster = Cluster::start(&folder, &options).await?;
        let bank = Bank::open(&cluster, ACCOUNTS).await?;
        let mut protected = Protected::set_up(&cluster, Path::new(env!("CARGO_BIN_EXE_pitrus"))).await?;
        protected.start_agents()?;
        protected.wait_for_backups(Duration::from_secs(120)).await?;
        Ok(Scene { folder, cluster, bank, protected })
    }

    /// Loads for so long before and after a moment, and returns that moment.
    pub(crate) async fn load(&self, before: Duration, after: Duration) -> anyhow::Result<(Moment, Truth)> {
        let load = Load::start(&self.cluster, &self.bank, LOAD).await?;
        tokio::time::sleep(before).await;
        let target = clock::now();
        tokio::time::sleep(after).await;
        let truth = load.stop().await?;
        ensure!(truth.failures.is_empty(), "the load failed: {:?}", truth.failures);
        Ok((target, truth))
    }

    /// Waits until the zones hold what is committed now on every node.
    pub(crate) async fn archived(&mut self) -> anyhow::Result<()> {
        self.protected.wait_for_wal(&self.cluster.nodes).await
    }

    /// Restores into a new folder `name`, without starting anything.
    pub(crate) async fn restore(
        &self,
        zones: &[usize],
        name: &str,
        what: &[&str],
    ) -> anyhow::Result<(Landing, Said)> {
        let landing = Landing::choose(&self.folder, name, &self.protected.nodes)?;
        let targets = text(&landing.targets)?;
        let arguments = [&["restore", "run", "--as", "bank-restored", "--targets", targets], what].concat();
        let said = self.protected.run_with(zones, &arguments).await?;
        Ok((landing, said))
    }

    /// Starts a restored cluster and checks everything that must hold of any.
    pub(crate) async fn proved(
        &self,
        landing: &Landing,
        truth: &Truth,
        target: Moment,
        margin_us: i64,
    ) -> anyhow::Result<(Vec<Server>, Verdict)> {
        let servers = landing.start(&self.folder)?;
        proof::closed(&servers).await?;
        open_hba(&self.folder, &servers)?;
        let verdict = self.bank.read(&servers).await?.judge(&self.bank, truth, target, margin_us);
        let problems = verdict.problems();
        ensure!(problems.is_empty(), "not whole: {}", problems.join("; "));
        ensure!(verdict.must_in > 0, "the load did not reach the moment");
        proof::parameters_reset(&servers).await?;
        proof::metadata_is_new(&servers).await?;
        proof::citus_agrees(self.cluster.kind, &servers, verdict.expected_total).await?;
        Ok((servers, verdict))
    }

    /// Moves the first shard of the accounts that is on one group, and what is kept with it, to another group.
    pub(crate) async fn move_shard(&self, from: i32, to: i32) -> anyhow::Result<()> {
        let move_it = format!(
            "select citus_move_shard_placement(
                 (select min(s.shardid) from pg_dist_shard s join pg_dist_placement p using (shardid)
                  where s.logicalrelid = 'accounts'::regclass and p.groupid = {from}),
                 '127.0.0.1', {}, '127.0.0.1', {}, shard_transfer_mode := 'block_writes')",
            self.port(from)?,
            self.port(to)?
        );
        let moved = self.cluster.coordinator()?.run(DATABASE, &move_it).await;
        moved.with_context(|| format!("a shard from {from} to {to}"))
    }

    fn port(&self, group: i32) -> anyhow::Result<u16> {
        let node = self.cluster.nodes.get(usize::try_from(group)?).context("a node of that group")?;
        Ok(node.port)
    }

    /// Adds a worker, with an agent of its own; returns the moment before it joined, and the one after.
    pub(crate) async fn add_worker(&mut self, name: &str) -> anyhow::Result<(Moment, Moment)> {
        let mut options = ServerOptions::named(name).set("shared_preload_libraries", "citus");
        options.wal_segment_mib = 1;
        for (name, value, _) in proof::CHANGED {
            options = options.set(name, value);
        }
        let folder = Arc::clone(&self.folder);
        let server = tokio::task::spawn_blocking(move || Server::start_new(&folder, &options)).await??;
        server.run("postgres", &format!("create database {DATABASE}")).await?;
        server.run(DATABASE, "create extension citus").await?;
        let before = clock::now();
        let add = format!("select citus_add_node('127.0.0.1', {})", server.port);
        self.cluster.coordinator()?.run(DATABASE, &add).await.context("citus_add_node")?;
        let after = clock::now();
        server.run("postgres", "create table of_its_own ()").await?;
        self.protected.add(&server).await?;
        self.cluster.nodes.push(server);
        Ok((before, after))
    }
}
