//! A worker that joins the cluster and leaves it again: which nodes a moment has, seconds after each change too.

use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::moment::Moment;
use pitrus::restore::plan::Plan;

use crate::moments::read;
use crate::scene::{MARGIN_US, Scene};
use crate::world::{DATABASE, Kind, Landing, Load, LoadOptions, NODES, Stop, Truth, open_hba, proof, text};

const ADDED: &str = "worker3";
const LOAD: LoadOptions = LoadOptions { clients: 1, pause: Duration::from_millis(10) };

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_has_the_nodes_of_then() {
    if Kind::Citus.can_run("every_moment_has_the_nodes_of_then") {
        nodes_of_then().await.unwrap();
    }
}

struct Story {
    scene: Scene,
    truth: Truth,
}

impl Story {
    /// Transfers for a while, and returns a moment in the middle.
    async fn load(&mut self, run: i64) -> anyhow::Result<Moment> {
        let load = Load::start_after(&self.scene.cluster, &self.scene.bank, LOAD, run).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let middle = clock::now();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let seen = load.stop().await?;
        ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
        self.truth.transfers.extend(seen.transfers);
        Ok(middle)
    }

    async fn plan(&self, time: Moment) -> anyhow::Result<Plan> {
        let ask = ["restore", "plan", "--output", "json", "--time", &time.to_string()];
        let said = self.scene.protected.run_with(&[0, 1, 2], &ask).await?.ok()?;
        serde_json::from_str(&said.out).context("the plan")
    }

    /// Restores a moment with these nodes, of which the metadata know the first so many, and checks the books.
    async fn restored(&self, name: &str, time: Moment, nodes: &[String], known: usize) -> anyhow::Result<()> {
        let landing = Landing::choose(&self.scene.folder, name, nodes)?;
        let (targets, time_text) = (text(&landing.targets)?, time.to_string());
        let run = ["restore", "run", "--as", "bank-restored", "--targets", targets, "--time", &time_text];
        self.scene.protected.run_with(&[0, 1, 2], &run).await?.ok()?;
        let servers = landing.start(&self.scene.folder)?;
        proof::closed(&servers).await?;
        open_hba(&self.scene.folder, &servers)?;
        let verdict = read(&servers).await?.judge(&self.scene.bank, &self.truth, time, MARGIN_US);
        ensure!(verdict.problems().is_empty(), "{name}: {:?}", verdict.problems());
        ensure!(verdict.must_in > 0, "{name}: nothing had to be in");
        proof::metadata_is_new(&servers[..known]).await?;
        Ok(())
    }
}

async fn nodes_of_then() -> anyhow::Result<()> {
    let scene = Scene::set(Kind::Citus, &[("citus.recover_2pc_interval", "2s")]).await?;
    let mut story = Story { scene, truth: Truth::default() };
    let three: Vec<String> = NODES.map(str::to_owned).to_vec();
    let four = [three.as_slice(), &[ADDED.to_owned()]].concat();
    story.load(0).await?;
    let (before_added, after_added) = story.scene.add_worker(ADDED).await?;
    story.load(1).await?;
    story.scene.protected.wait_for_backups(Duration::from_secs(120)).await?;
    story.scene.protected.wait_for_shape(before_added).await?;
    story.scene.move_shard(1, 3).await?;
    let with_four = story.load(2).await?;
    let held = "select count(*) from pg_dist_placement where groupid = 3 and shardid in
                (select shardid from pg_dist_shard where logicalrelid = 'accounts'::regclass)";
    while story.scene.cluster.coordinator()?.value(DATABASE, held).await?.as_deref() != Some("0") {
        story.scene.move_shard(3, 2).await?;
    }
    let before_removed = clock::now();
    let remove = format!("select citus_remove_node('127.0.0.1', {})", story.scene.cluster.nodes[3].port);
    story.scene.cluster.coordinator()?.run(DATABASE, &remove).await?;
    let just_removed = story.load(3).await?;
    story.scene.archived().await?;
    story.scene.protected.wait_for_shape(before_removed).await?;
    let agent = story.scene.protected.agents.pop().flatten().context("its agent")?;
    agent.stop().await?;
    story.scene.cluster.nodes.pop().context("the worker")?.stop(Stop::Fast)?;
    let with_three = story.load(4).await?;
    story.scene.archived().await?;

    // As it was, up to the moment at which it joined.
    ensure!(story.plan(before_added).await?.nodes.len() == 3);
    // It had joined, but no backup of it was finished: refused before anything is written, with what to do.
    let ask = ["restore", "plan", "--time", &after_added.to_string()];
    let said = story.scene.protected.run_with(&[0, 1, 2], &ask).await?;
    assert_eq!(said.status.code(), Some(5), "{}{}", said.out, said.err);
    for word in ["worker3 has no backup", "it joined the cluster at", "a moment before that", "first backup"]
    {
        ensure!(said.err.contains(word), "{}\nlacks {word:?}", said.err);
    }
    ensure!(story.plan(before_removed).await?.nodes.len() == 4);
    // Recorded as one of the cluster still: restored beside the others, whose metadata knows it no more. Unless the
    // cluster's shape was recorded between its removal and that moment.
    let still = story.plan(just_removed).await?.nodes.len();
    ensure!(still == 3 || still == 4, "{still}");
    story.restored("four", with_four, &four, 4).await?;
    story.restored("removed", just_removed, four.get(..still).unwrap_or_default(), 3).await?;
    story.restored("three", with_three, &three, 3).await
}
