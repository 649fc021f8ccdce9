//! What happens to the cluster while clients transfer money: a table changed, shards moved, sessions ended between
//! PREPARE and COMMIT PREPARED, a worker and a coordinator crashed, a worker added.

use std::time::Duration;

use anyhow::ensure;
use pitrus::clock;
use pitrus::moment::Moment;

use super::traffic::{Seen, Traffic};
use crate::scene::Scene;
use crate::world::{DATABASE, NODES, Stop, proof, say};

const CLIENTS: usize = 3;
const ADDED: &str = "worker3";

/// What was recorded.
pub(super) struct Recorded {
    pub(super) seen: Seen,
    /// Moments with three nodes, and those with four.
    spans: [(Moment, Moment); 2],
    three: Vec<String>,
    four: Vec<String>,
}

impl Recorded {
    /// Picks a moment, and says which nodes the cluster had then.
    pub(super) fn pick(&self, number: usize) -> (Moment, &[String]) {
        let lengths = self.spans.map(|(from, to)| to.0 - from.0);
        let dice = u64::from_le_bytes(clock::random::<8>());
        // Few moments show both sides, and with each error of a clock.
        let side = (number + number / 4) % 2;
        let (from, _) = self.spans[side];
        let into = dice % u64::try_from(lengths[side]).unwrap_or(1).max(1);
        let moment = from.plus_micros(i64::try_from(into).unwrap_or(0));
        (moment, if side == 0 { &self.three } else { &self.four })
    }
}

/// Makes the history, and leaves cluster and agents running.
pub(super) async fn record(scene: &mut Scene) -> anyhow::Result<Recorded> {
    let traffic = Traffic::start(&scene.cluster, &scene.bank, CLIENTS);
    wait(1000).await;
    let begin = clock::now();
    wait(2000).await;
    scene.cluster.coordinator()?.run(DATABASE, "alter table ledger add column note text").await?;
    wait(1000).await;
    move_shard(scene, &traffic, 1, 2).await?;
    wait(500).await;
    end_sessions_between_phases(scene).await?;
    wait(500).await;
    crash(scene, 2).await?;
    wait(1500).await;
    crash(scene, 0).await?;
    wait(2500).await;
    recover(scene).await?;
    scene.cluster.coordinator()?.run(DATABASE, "create index on ledger (source)").await?;
    wait(1000).await;
    let before_added = clock::now();
    scene.add_worker(ADDED).await?;
    move_shard(scene, &traffic, 2, 3).await?;
    scene.protected.wait_for_shape(before_added).await?;
    scene.protected.wait_for_backups(Duration::from_secs(120)).await?;
    wait(1000).await;
    let added = clock::now();
    end_sessions_between_phases(scene).await?;
    crash(scene, 1).await?;
    wait(2000).await;
    move_shard(scene, &traffic, 3, 1).await?;
    wait(2000).await;
    let end = clock::now();
    wait(1000).await;
    let seen = traffic.stop().await?;
    recover(scene).await?;
    let three: Vec<String> = NODES.map(str::to_owned).to_vec();
    let four = [three.as_slice(), &[ADDED.to_owned()]].concat();
    let acknowledged = seen.truth.transfers.iter().filter(|t| t.acknowledged.is_some()).count();
    say!(
        "recorded: {acknowledged} transfers, {} of unknown end, {} rolled back",
        seen.unknown,
        seen.aborted.len()
    );
    ensure!(acknowledged > 1000 && !seen.aborted.is_empty(), "too little happened");
    Ok(Recorded { seen, spans: [(begin, before_added), (added, end)], three, four })
}

async fn wait(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Ends the sessions of other nodes on worker 2 at moments when transactions are prepared there.
async fn end_sessions_between_phases(scene: &Scene) -> anyhow::Result<()> {
    let worker = scene.cluster.nodes[2].connect(DATABASE).await?;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where application_name like 'citus_internal%' and exists (select from pg_prepared_xacts)";
    let mut ended = 0;
    for _ in 0..400 {
        ended += worker.query_one(end, &[]).await?.get::<_, i64>(0);
        if ended >= 6 {
            break;
        }
        wait(3).await;
    }
    say!("{ended} sessions were ended while a transaction was prepared");
    Ok(())
}

/// Ends a server without a checkpoint while another node has transactions prepared, and starts it again.
async fn crash(scene: &mut Scene, node: usize) -> anyhow::Result<()> {
    let other = scene.cluster.nodes[if node == 2 { 1 } else { 2 }].connect(DATABASE).await?;
    for _ in 0..1000 {
        if other.query_one("select count(*) from pg_prepared_xacts", &[]).await?.get::<_, i64>(0) > 0 {
            break;
        }
        wait(1).await;
    }
    let server = &mut scene.cluster.nodes[node];
    server.stop(Stop::Immediate)?;
    wait(300).await;
    server.start()
}

/// Moves a shard while nobody writes and nothing is in doubt. Citus itself loses writes that meet a move: a transaction
/// that is left prepared meanwhile is later committed into the old copy, and so are statements of a client
/// of a worker that waited for the move. Then the source is torn, and no restore of it can be judged.
async fn move_shard(scene: &Scene, traffic: &Traffic, from: i32, to: i32) -> anyhow::Result<()> {
    let _held = traffic.held().await;
    recover(scene).await?;
    scene.move_shard(from, to).await
}

/// Lets every node finish what was left prepared, until nothing is.
async fn recover(scene: &Scene) -> anyhow::Result<()> {
    proof::eventually("prepared transactions end", Duration::from_secs(90), async || {
        for node in &scene.cluster.nodes {
            node.value(DATABASE, "select recover_prepared_transactions()").await?;
        }
        for node in &scene.cluster.nodes {
            let old = "select count(*) from pg_prepared_xacts where prepared < now() - interval '2 s'";
            if node.value(DATABASE, old).await?.as_deref() != Some("0") {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}
