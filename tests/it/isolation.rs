//! A restore beside a living source: the source's held transaction is not touched and nobody calls on it.
//! And the naive order does both, which shows that the test could see it.

use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::clock;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::scene::Scene;
use crate::world::{DATABASE, Kind, Landing, Server, Truth, bin_dir, free_port, proof, text};

/// Citus's own visits between its nodes are switched off on the source: whoever comes by TCP is a stranger.
const QUIET: [(&str, &str); 3] = [
    ("citus.recover_2pc_interval", "-1"),
    ("citus.distributed_deadlock_detection_factor", "-1"),
    ("citus.defer_shard_delete_interval", "-1"),
];
const AMOUNT: i64 = 100;
/// The advisory lock on worker 2 that holds a transfer's PREPARE up.
const LOCK: i64 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_beside_its_living_source_leaves_it_alone() {
    if Kind::Citus.can_run("a_restore_beside_its_living_source_leaves_it_alone") {
        beside_the_source().await.unwrap();
    }
}

async fn beside_the_source() -> anyhow::Result<()> {
    let mut scene = Scene::set(Kind::Citus, &QUIET).await?;
    // Something to be in before, so that the restore has books to agree with.
    let (_, truth) = scene.load(Duration::from_secs(1), Duration::ZERO).await?;
    put_hold(&scene).await?;
    let held = Held::begin(&scene, 1).await?;
    let target = clock::now();
    for node in &scene.cluster.nodes {
        // A commit after the moment: the WAL reaches past it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        node.run(DATABASE, "select txid_current()").await?;
    }
    scene.archived().await?;
    scene.protected.stop_agents().await?;

    let before = visits(&scene.cluster.nodes);
    restored_beside(&scene, &truth, target).await?;
    ensure!(visits(&scene.cluster.nodes) == before, "somebody called on the source");
    ensure!(prepared(&scene).await? == 1, "the source's prepared transaction is not where it was");
    held.release().await.context("the source's commit")?;
    let books = scene.bank.read(&scene.cluster.nodes).await?;
    let verdict = books.judge(&scene.bank, &truth, clock::now(), 0);
    ensure!(verdict.problems().is_empty(), "the source: {:?}", verdict.problems());

    naive_order_does_harm(&scene).await
}

async fn restored_beside(scene: &Scene, truth: &Truth, target: pitrus::moment::Moment) -> anyhow::Result<()> {
    let time = target.to_string();
    let (landing, said): (Landing, _) = scene.restore(&[0, 1, 2], "beside", &["--time", &time]).await?;
    said.ok()?;
    let (servers, verdict) = scene.proved(&landing, truth, target, 0).await?;
    ensure!(verdict.transfers == truth.transfers.len(), "the held transfer was not decided, yet it is in");
    // Time for the restored cluster's daemons to do what they would.
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(servers);
    Ok(())
}

/// A copy of the coordinator started the usual way, with Citus loaded and the old metadata, rolls back what
/// the source has prepared: the source's commit leaves money that nobody paid.
async fn naive_order_does_harm(scene: &Scene) -> anyhow::Result<()> {
    let coordinator = scene.cluster.coordinator()?;
    let home = scene.folder.folder("naive")?;
    let data = home.join("data");
    let copied = scene
        .folder
        .command(&bin_dir().map_err(anyhow::Error::msg)?.join("pg_basebackup"))
        .args(["--checkpoint=fast", "--no-sync", "--wal-method=stream", "--username=postgres", "--pgdata"])
        .arg(&data)
        .args(["--host", text(&coordinator.socket)?, "--port", &coordinator.port.to_string()])
        .output()?;
    ensure!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
    let port = free_port()?;
    let mut naive = Server::adopt(&scene.folder, "naive-coordinator", &data, &home, port);
    naive.append_settings(&format!(
        "port = {port}\nunix_socket_directories = '{}'\ncitus.recover_2pc_interval = 60000\n",
        home.display()
    ))?;

    let held = Held::begin(scene, 2).await?;
    let before = visits(&scene.cluster.nodes);
    naive.start()?;
    // A maintenance daemon starts when its database is first visited; it runs recovery at once.
    naive.run(DATABASE, "select 1").await?;
    proof::eventually(
        "the naive copy settles the source's transaction",
        Duration::from_secs(90),
        async || Ok(prepared(scene).await? == 0),
    )
    .await?;
    ensure!(visits(&scene.cluster.nodes) > before, "the connection log does not show the stranger");
    // The decision was made, so Citus only warns that worker 1's part "does not exist".
    held.release().await.context("the source's commit")?;
    let books = scene.bank.read(&scene.cluster.nodes).await?;
    let verdict = books.judge(&scene.bank, &Truth::default(), clock::now(), 0);
    ensure!(verdict.total == verdict.expected_total + AMOUNT, "the source was not harmed: {verdict:?}");
    Ok(())
}

/// Puts a trigger on one shard on worker 2 that waits for [`LOCK`] before its PREPARE.
async fn put_hold(scene: &Scene) -> anyhow::Result<()> {
    let account = scene.bank.sides[1][0];
    let shard = format!("select get_shard_id_for_distribution_column('accounts', {account})");
    let shard = scene.cluster.coordinator()?.value(DATABASE, &shard).await?.context("a shard")?;
    let sql = format!(
        "set citus.override_table_visibility = off;
         set citus.enable_ddl_propagation = off;
         create function hold() returns trigger language plpgsql as
            'begin perform pg_advisory_xact_lock_shared({LOCK}); return null; end';
         create constraint trigger hold after update on accounts_{shard} deferrable initially deferred
            for each row when (new.id = {account}) execute function hold()"
    );
    scene.cluster.nodes[2].run(DATABASE, &sql).await
}

/// A transfer that is prepared on worker 1 and not yet on worker 2.
struct Held {
    lock: Client,
    commit: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Held {
    async fn begin(scene: &Scene, id: i64) -> anyhow::Result<Held> {
        let lock = scene.cluster.nodes[2].connect(DATABASE).await?;
        lock.batch_execute(&format!("select pg_advisory_lock({LOCK})")).await?;
        let client = scene.cluster.coordinator()?.connect(DATABASE).await?;
        let [source, target] = [scene.bank.sides[0][0], scene.bank.sides[1][0]];
        let sql = format!(
            "begin;
             update accounts set balance = balance - {AMOUNT} where id = {source};
             update accounts set balance = balance + {AMOUNT} where id = {target};
             insert into ledger values ({id}, {source}, {target}, {AMOUNT}, 0);
             commit"
        );
        let commit = tokio::spawn(async move { client.batch_execute(&sql).await });
        proof::eventually("worker 1 has prepared", Duration::from_secs(90), async || {
            Ok(prepared(scene).await? == 1)
        })
        .await?;
        Ok(Held { lock, commit })
    }

    /// Lets it go on, and returns how it ended.
    async fn release(self) -> anyhow::Result<()> {
        self.lock.batch_execute(&format!("select pg_advisory_unlock({LOCK})")).await?;
        self.commit.await?.map_err(|error| match error.as_db_error() {
            Some(said) => anyhow::anyhow!("{}", said.message()),
            None => error.into(),
        })
    }
}

/// Returns how many transactions the source's first worker holds prepared.
async fn prepared(scene: &Scene) -> anyhow::Result<usize> {
    let count = scene.cluster.nodes[1].value(DATABASE, "select count(*) from pg_prepared_xacts").await?;
    Ok(count.context("a count")?.parse()?)
}

/// Returns how many TCP connections the logs of these servers show.
fn visits(servers: &[Server]) -> usize {
    let came = |server: &Server| server.log_text().matches("connection received: host=127.0.0.1").count();
    servers.iter().map(came).sum()
}
