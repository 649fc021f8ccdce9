//! An agent that is killed again and again loses nothing and repeats nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use pitrus::clock;

use crate::scene::{LOAD, MARGIN_US, Scene};
use crate::world::{Kind, Load, protect};

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
