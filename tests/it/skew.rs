//! One node's clock is 50 ms off: a time target per node tears transactions, really restored; pitrus does not.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use pitrus::moment::Moment;

use crate::scene::{MARGIN_US, Scene};
use crate::world::{
    ClusterOptions, DATABASE, Kind, Server, Stop, bin_dir, faketime, free_port, proof, say, text,
};

const SKEW_MS: i32 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_skewed_clock_tears_the_naive_restore_only() {
    if Kind::Plain.can_run("a_skewed_clock_tears_the_naive_restore_only") {
        skewed(Kind::here()).await.unwrap();
    }
}

async fn skewed(kind: Kind) -> anyhow::Result<()> {
    let mut options = ClusterOptions::of(kind);
    match faketime() {
        Ok(_) => options.skew_ms = SKEW_MS,
        // All clocks are one then: worker 1 gets another target instead, and pitrus is told of an offset.
        Err(why) => say!("skipped: worker 1 with a clock of its own: {why}"),
    }
    let really = options.skew_ms != 0;
    let mut scene = Scene::set_with(options, &[("wal_keep_size", "1GB")]).await?;
    let mut copies = Vec::new();
    for node in &scene.cluster.nodes {
        copies.push(base_copy(&scene, node)?);
    }
    let (target, truth) = scene.load(Duration::from_secs(3), Duration::from_secs(1)).await?;
    scene.archived().await?;
    scene.protected.stop_agents().await?;
    scene.cluster.stop(Stop::Fast)?;

    let moved = if really { 0 } else { i64::from(SKEW_MS) * 1000 };
    let naive = naive_restore(&scene, &copies, target, moved).await?;
    let torn = scene.bank.read(&naive).await?.judge(&scene.bank, &truth, target, MARGIN_US).torn_accounts;
    drop(naive);
    ensure!(!torn.is_empty(), "the naive restore is whole: the load was too light to show anything");
    say!("a time target per node, one clock 50 ms off: {} accounts disagree with the ledger", torn.len());

    let time = target.to_string();
    for (name, clock) in [("ours", None), ("corrected", Some("worker1=+50ms"))] {
        let mut what = vec!["--time", &time];
        what.extend(clock.iter().flat_map(|offset| ["--clock", offset]));
        let (landing, said) = scene.restore(&[0, 1, 2], name, &what).await?;
        said.ok()?;
        scene.proved(&landing, &truth, target, MARGIN_US).await?;
    }
    Ok(())
}

/// Takes a base copy with PostgreSQL's own program.
fn base_copy(scene: &Scene, node: &Server) -> anyhow::Result<PathBuf> {
    let data = scene.folder.folder(&format!("naive/{}", node.name))?.join("data");
    let copied = scene
        .folder
        .command(&bin_dir().map_err(anyhow::Error::msg)?.join("pg_basebackup"))
        .args(["--checkpoint=fast", "--no-sync", "--wal-method=none", "--username=postgres", "--pgdata"])
        .arg(&data)
        .args(["--host", text(&node.socket)?, "--port", &node.port.to_string()])
        .output()?;
    ensure!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
    Ok(data)
}

/// Recovers each copy to the same time; worker 1's to one moved by so many microseconds.
async fn naive_restore(
    scene: &Scene,
    copies: &[PathBuf],
    target: Moment,
    moved_us: i64,
) -> anyhow::Result<Vec<Server>> {
    let mut servers = Vec::new();
    for (node, data) in scene.cluster.nodes.iter().zip(copies) {
        let seen = if node.name == "worker1" { target.plus_micros(moved_us) } else { target };
        // This setting is read before the server knows any name of a time zone.
        let seen = seen.to_string().replace('Z', "+00");
        let socket = scene.folder.folder(&format!("naive/{}/s", node.name))?;
        let mut server =
            Server::adopt(&scene.folder, &format!("naive-{}", node.name), data, &socket, free_port()?);
        // Without Citus: a restored node that loads it with the old metadata calls on its source.
        server.append_settings(&format!(
            "port = {}\nunix_socket_directories = '{}'\nshared_preload_libraries = ''\n\
             restore_command = 'cp {}/pg_wal/%f %p'\nrecovery_target_time = '{seen}'\n\
             recovery_target_action = promote\n",
            server.port,
            socket.display(),
            node.data.display()
        ))?;
        scene.folder.write(&data.join("recovery.signal"), "")?;
        server.start()?;
        proof::eventually("the naive copy is promoted", Duration::from_secs(60), async || {
            Ok(server.value(DATABASE, "select pg_is_in_recovery()").await?.as_deref() == Some("f"))
        })
        .await?;
        servers.push(server);
    }
    Ok(servers)
}
