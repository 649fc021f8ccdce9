//! An agent that is killed again and again loses nothing and repeats nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use pitrus::clock;

use crate::scene::{LOAD, MARGIN_US, Scene};
use crate::world::{Kind, Landing, Load, proof, protect};

const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_an_agent_leave_the_wal_complete() {
    if !Kind::Plain.can_run("twenty_kills_of_an_agent_leave_the_wal_complete") {
        return;
    }
    let mut scene = Scene::set(Kind::Plain, &[]).await.unwrap();
    let load = Load::start(&scene.cluster, &scene.bank, LOAD).await.unwrap();
    for kill in 0..KILLS {
        // From just started to well under way.
        tokio::time::sleep(Duration::from_millis(100 + (kill as u64 * 137) % 900)).await;
        scene.protected.agents[1].take().unwrap().kill().unwrap();
        scene.protected.start_agent(1).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let target = clock::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let truth = load.stop().await.unwrap();
    assert_eq!(truth.failures, Vec::<String>::new());
    scene.archived().await.unwrap();
    scene.protected.stop_agents().await.unwrap();

    for zone in &scene.protected.zones {
        let segments = segments(zone, "worker1");
        assert!(segments.len() > 3, "the load filled only {segments:?}");
        let joined: Vec<u64> = (*segments.keys().next().unwrap()..).take(segments.len()).collect();
        assert_eq!(segments.keys().copied().collect::<Vec<_>>(), joined, "no gap in {}", zone.display());
    }
    let (landing, said) = scene.restore(&[0, 1, 2], "new", &["--time", &target.to_string()]).await.unwrap();
    said.ok().unwrap();
    scene.proved(&landing, &truth, target, MARGIN_US).await.unwrap();
}

/// Interrupted while its files come, and again while its servers replay: nothing runs on, and it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_interrupted_ends_and_goes_on() {
    if !Kind::Plain.can_run("a_restore_that_is_interrupted_ends_and_goes_on") {
        return;
    }
    let mut scene = Scene::set(Kind::Plain, &[]).await.unwrap();
    let (target, truth) = scene.load(Duration::from_secs(3), Duration::from_secs(1)).await.unwrap();
    scene.archived().await.unwrap();
    scene.protected.stop_agents().await.unwrap();
    let landing = Landing::choose(&scene.folder, "new", &scene.protected.nodes).unwrap();
    let (config, targets) = (scene.protected.configs[0].clone(), landing.targets.clone());
    let time = target.to_string();
    let arguments = ["restore", "run", "--as", "again", "--time", &time, "--config"];
    let arguments =
        [&arguments[..], &[config.to_str().unwrap(), "--targets", targets.to_str().unwrap()]].concat();
    let nodes = scene.protected.nodes.clone();
    let started = |file: &str| nodes.iter().any(|node| landing.directory.join(node).join(file).exists());
    for (round, sign) in ["base/1", "pitrus.log"].into_iter().enumerate() {
        let run = scene.protected.pitrus.start(&format!("restore-{round}"), &arguments).unwrap();
        proof::eventually(sign, Duration::from_secs(60), async || Ok(started(sign))).await.unwrap();
        let (status, said) = run.interrupt().await.unwrap();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("run the same restore again"), "{said}");
        let quiet = async || Ok(!started("postmaster.pid"));
        proof::eventually("servers that stop", Duration::from_secs(90), quiet).await.unwrap();
    }
    scene.protected.pitrus.run(&arguments).await.unwrap().ok().unwrap();
    scene.proved(&landing, &truth, target, MARGIN_US).await.unwrap();
}

/// Returns the complete segments of a node in a zone, by number.
fn segments(zone: &Path, node: &str) -> BTreeMap<u64, String> {
    let folder = zone.join(protect::CLUSTER).join("nodes").join(node).join("wal/00000001");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.filter_map(|name| name.into_string().ok()).filter(|name| name.len() == 24);
    let number = |name: &str| {
        let (log, segment) = (u64::from_str_radix(&name[8..16], 16), u64::from_str_radix(&name[16..], 16));
        // 4096 segments of 1 MiB in each 4 GiB.
        log.unwrap() * 4096 + segment.unwrap()
    };
    names.map(|name| (number(&name), name)).collect()
}
