//! Two workers whose clocks are wrong, agents that notice, and a restore that keeps what was committed before
//! the moment asked for on each node, and nothing that came after.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::agent::status;
use pitrus::clock;
use pitrus::moment::Moment;
use pitrus::restore::plan::{ClockSource, Plan};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::scene::Scene;
use crate::world::{ClusterOptions, DATABASE, Kind, NODES, Server, Stop, faketime, open_hba, proof, say};

/// How far each node's clock is ahead.
const SKEW_MS: [i64; 3] = [0, 50, -500];
/// A plan must find the offsets as well as this.
const CLOSE_US: i64 = 5000;
const TICK_EVERY: Duration = Duration::from_millis(3);

#[tokio::test(flavor = "multi_thread")]
async fn one_node_transactions_are_kept_by_true_time() {
    let test = "one_node_transactions_are_kept_by_true_time";
    if !Kind::Plain.can_run(test) {
        return;
    }
    match faketime() {
        Ok(_) => wrong_clocks(Kind::here()).await.unwrap(),
        Err(why) => say!("skipped: {test}: {why}"),
    }
}

async fn wrong_clocks(kind: Kind) -> anyhow::Result<()> {
    let [_, first, second] = SKEW_MS.map(|ms| ms as i32);
    let options = ClusterOptions { skew_ms: first, second_skew_ms: second, ..ClusterOptions::of(kind) };
    let mut scene = Scene::set_with(options, &[]).await?;
    let mut tickers = Vec::new();
    for node in &scene.cluster.nodes {
        tickers.push(Ticker::start(node).await?);
    }
    // A sample before the moment, and one after it.
    sampled_after(&scene, clock::now()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let target = clock::now();
    sampled_after(&scene, target.plus_micros(1_000_000)).await?;
    let mut ticks = Vec::new();
    for ticker in tickers {
        ticks.push(ticker.stop().await?);
    }
    scene.archived().await?;
    scene.protected.stop_agents().await?;
    scene.cluster.stop(Stop::Fast)?;

    let time = target.to_string();
    let plan = ["restore", "plan", "--time", &time, "--output", "json"];
    let said = scene.protected.run_with(&[0, 1], &plan).await?.ok()?;
    let plan: Plan = serde_json::from_str(&said.out)?;
    let uncertain = offsets_are_true(&plan)?;

    let (landing, said) = scene.restore(&[0, 2], "by-true-time", &["--time", &time]).await?;
    said.ok()?;
    let servers = landing.start(&scene.folder)?;
    open_hba(&scene.folder, &servers)?;
    for (number, server) in servers.iter().enumerate() {
        let wrong = misplaced(server, &ticks[number], target, uncertain[number]).await?;
        ensure!(
            wrong.is_empty(),
            "{}: {} of {} ticks: {wrong:?}",
            server.name,
            wrong.len(),
            ticks[number].len()
        );
    }
    drop(servers);

    // Taken to be right, the same clocks put hundreds of ticks on the wrong side.
    let believed = ["--time", &time, "--clock", "worker1=0ms", "--clock", "worker2=0ms"];
    let (landing, said) = scene.restore(&[0, 1, 2], "believed", &believed).await?;
    said.ok()?;
    let servers = landing.start(&scene.folder)?;
    open_hba(&scene.folder, &servers)?;
    for (number, server) in servers.iter().enumerate().skip(1) {
        let wrong = misplaced(server, &ticks[number], target, uncertain[number]).await?;
        ensure!(!wrong.is_empty(), "{}: too few ticks to show anything", server.name);
        say!("{}: {} ticks misplaced where its clock is believed", server.name, wrong.len());
    }
    Ok(())
}

/// Waits until every agent has compared its clock at or after `moment`, by true time.
async fn sampled_after(scene: &Scene, moment: Moment) -> anyhow::Result<()> {
    let state = |node: &str| scene.folder.path().join("state").join(node);
    proof::eventually("clocks are compared", Duration::from_secs(60), async || {
        let mut all = true;
        for node in NODES {
            let status = status::read(&state(node))?.context("a status")?;
            ensure!(status.clock.last_error.is_none(), "{node}: {:?}", status.clock.last_error);
            all &= status.clock.sampled_at.is_some_and(|at| at >= moment);
        }
        Ok(all)
    })
    .await
}

/// Checks the plan's offsets against the truth, and returns how uncertain it calls each.
fn offsets_are_true(plan: &Plan) -> anyhow::Result<Vec<i64>> {
    let mut uncertain = Vec::new();
    for (node, skew_ms) in plan.nodes.iter().zip(SKEW_MS) {
        let its = node.clock_uncertain_micros.context("a measured clock")?;
        say!("{}: {} us ahead, give or take {its} us", node.node, node.clock_ahead_micros);
        let off = (node.clock_ahead_micros - skew_ms * 1000).abs();
        ensure!(off <= CLOSE_US && off <= its, "{}: {off} us from the truth", node.node);
        let source = if skew_ms == 0 { ClockSource::Coordinator } else { ClockSource::Sampled };
        ensure!(node.clock_source == source, "{}: {:?}", node.node, node.clock_source);
        uncertain.push(its);
    }
    let mut worst = uncertain.clone();
    worst.sort_unstable();
    ensure!(plan.order_uncertain_micros == Some(worst.iter().rev().take(2).sum()));
    Ok(uncertain)
}

/// A one-node transaction, and between which moments of true time it was committed.
struct Tick {
    id: i64,
    began: Moment,
    acknowledged: Moment,
}

/// Commits one-node transactions on one node until stopped.
struct Ticker {
    stop: CancellationToken,
    ticking: JoinHandle<anyhow::Result<Vec<Tick>>>,
}

impl Ticker {
    async fn start(node: &Server) -> anyhow::Result<Ticker> {
        let client = node.connect(DATABASE).await?;
        client
            .batch_execute("set citus.enable_ddl_propagation = off; create table ticks (id bigint)")
            .await?;
        let insert = client.prepare("insert into ticks values ($1)").await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ticking = tokio::spawn(async move {
            let mut ticks = Vec::new();
            for id in 0.. {
                if stopped.is_cancelled() {
                    break;
                }
                let began = clock::now();
                client.execute(&insert, &[&id]).await?;
                ticks.push(Tick { id, began, acknowledged: clock::now() });
                tokio::time::sleep(TICK_EVERY).await;
            }
            Ok(ticks)
        });
        Ok(Ticker { stop, ticking })
    }

    async fn stop(self) -> anyhow::Result<Vec<Tick>> {
        self.stop.cancel();
        self.ticking.await?
    }
}

/// Returns the ticks that are in though they came after the moment, or out though they came before it, by
/// more than is uncertain.
async fn misplaced(
    server: &Server,
    ticks: &[Tick],
    target: Moment,
    uncertain: i64,
) -> anyhow::Result<Vec<(i64, &'static str)>> {
    let rows = server.connect(DATABASE).await?.query("select id from ticks", &[]).await?;
    let kept: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let (mut wrong, mut before, mut after) = (Vec::new(), 0, 0);
    for tick in ticks {
        if tick.acknowledged < target.plus_micros(-uncertain) {
            before += 1;
            wrong.extend((!kept.contains(&tick.id)).then_some((tick.id, "missing")));
        } else if tick.began > target.plus_micros(uncertain) {
            after += 1;
            wrong.extend(kept.contains(&tick.id).then_some((tick.id, "too many")));
        }
    }
    ensure!(before > 100 && after > 100, "{}: {before} ticks before, {after} after", server.name);
    Ok(wrong)
}
