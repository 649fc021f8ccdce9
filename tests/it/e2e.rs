//! From a running cluster through its loss to a whole one, on real servers.

use std::sync::Arc;
use std::time::Duration;

use pitrus::clock;

use crate::scene::{LOAD, MARGIN_US, Scene};
use crate::world::{Cluster, Ears, Kind, Load, Stop, remove};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_cluster_is_restored_whole() {
    if Kind::Plain.can_run("a_plain_cluster_is_restored_whole") {
        destroyed_and_restored(Kind::Plain).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_citus_cluster_is_restored_whole() {
    if Kind::Citus.can_run("a_citus_cluster_is_restored_whole") {
        destroyed_and_restored(Kind::Citus).await.unwrap();
    }
}

async fn destroyed_and_restored(kind: Kind) -> anyhow::Result<()> {
    let mut scene = Scene::set(kind, &[]).await?;
    let (target, truth) = scene.load(Duration::from_secs(4), Duration::from_secs(2)).await?;
    scene.archived().await?;
    let died = clock::now();
    scene.cluster.destroy()?;
    scene.protected.kill_agents()?;
    remove(&scene.protected.zones[1])?;
    let ears = Ears::on(&scene.protected.ports).await?;

    let time = target.to_string();
    let plan = scene.protected.run_with(&[0, 2], &["restore", "plan", "--time", &time]).await?.ok()?;
    assert!(plan.out.contains("worker2"), "the plan names its nodes:\n{}", plan.out);
    let (landing, said) = scene.restore(&[0, 2], "new", &["--time", &time]).await?;
    said.ok()?;
    let (servers, verdict) = scene.proved(&landing, &truth, target, MARGIN_US).await?;
    assert!(verdict.must_out > 0, "the load went on after the moment");

    // It works as a cluster, and its nodes speak to each other only.
    let mut restored = Cluster { kind, nodes: servers, folder: Arc::clone(&scene.folder) };
    let load = Load::start_after(&restored, &scene.bank, LOAD, 1).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let more = load.stop().await?;
    assert_eq!(more.failures, Vec::<String>::new());
    let books = scene.bank.read(&restored.nodes).await?;
    assert_eq!(books.judge(&scene.bank, &more, clock::now(), 0).problems(), Vec::<String>::new());
    restored.stop(Stop::Fast)?;

    // Again, to the last moment there is, from one zone.
    let (landing, said) = scene.restore(&[2], "latest", &["--latest"]).await?;
    said.ok()?;
    scene.proved(&landing, &truth, died, 2_500_000).await?;
    assert_eq!(ears.heard(), 0, "nobody came to the ports of the destroyed cluster");
    Ok(())
}
