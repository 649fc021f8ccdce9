//! Agents as processes beside real servers: what they write, whom they refuse, and that they may be
//! killed at any moment.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitrus::agent::status::{self, AgentStatus};
use pitrus::lsn::Lsn;
use pitrus::manifest;
use pitrus::manifest::node::NodeDoc;
use pitrus::manifest::topology::TopologyDoc;
use pitrus::seal::MasterKey;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, ObjectName, Vault, WalName};
use pitrus::zones::{ZoneOptions, ZoneSet};

use crate::world::cluster::{Cluster, ClusterOptions, DATABASE, Kind};
use crate::world::protect::{CLUSTER, Protected, ZONES};
use crate::world::{self, Folder, Server};

const BUILT: &str = env!("CARGO_BIN_EXE_pitrus");

async fn vault(protected: &Protected) -> Vault {
    let zones = ZONES.iter().zip(&protected.zones).map(|(name, path)| ZoneOptions {
        name: name.parse().unwrap(),
        url: path.to_str().unwrap().to_owned(),
        options: Vec::new(),
    });
    let zones = ZoneSet::open(zones.collect(), 2).unwrap();
    let key = MasterKey::from_text(&std::fs::read_to_string(&protected.key).unwrap()).unwrap();
    Vault::open(zones, key, CLUSTER.parse().unwrap(), Access::Read).await.unwrap()
}

async fn until(state: &Path, what: &str, reached: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
    let began = Instant::now();
    loop {
        let status = status::read(state).unwrap();
        if let Some(status) = status.as_ref().filter(|status| reached(status)) {
            return status.clone();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn flushed(server: &Server) -> Lsn {
    server.value("postgres", "select pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_protects_its_node_and_survives_twenty_kills() {
    if !world::can_run("an_agent_protects_its_node_and_survives_twenty_kills") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let keep = ("wal_keep_size".to_owned(), "4GB".to_owned());
    let options = ClusterOptions { settings: vec![keep], ..ClusterOptions::of(Kind::Plain) };
    let cluster = Cluster::start(&folder, &options).await.unwrap();
    let mut protected = Protected::set_up(&cluster, Path::new(BUILT)).await.unwrap();
    let coordinator = Arc::new(cluster).clone();
    let node = &coordinator.nodes[0];
    let state = folder.path().join("state").join(&node.name);
    protected.start_agent(0).unwrap();
    let first = until(&state, "backed up", |s| s.backup.last.is_some() && s.topology.is_some()).await;
    assert_eq!((first.zones.len(), first.topology.unwrap().nodes), (3, 3));

    // A second agent with the same state folder is refused.
    let second = protected.run_on(0, &["agent"]).await.unwrap();
    assert_eq!(second.status.code(), Some(2), "{}", second.err);
    assert!(second.err.contains("another agent is running"), "{}", second.err);

    let load = tokio::spawn({
        let cluster = Arc::clone(&coordinator);
        async move {
            let node = &cluster.nodes[0];
            node.run(DATABASE, "create table load (x text)").await.unwrap();
            for _ in 0..400 {
                let sql = "insert into load select md5(n::text) from generate_series(1, 2000) n";
                node.run(DATABASE, sql).await.unwrap();
            }
        }
    });
    for kill in 0..20_u64 {
        tokio::time::sleep(Duration::from_millis(300 + kill * 71 % 500)).await;
        protected.agents[0].take().unwrap().kill().unwrap();
        protected.start_agent(0).unwrap();
    }
    load.await.unwrap();
    let end = flushed(node).await;
    let status = until(&state, "archived", |s| s.archive.archived >= end).await;
    assert_eq!(status.archive.gaps, []);
    let ended = protected.agents[0].take().unwrap().stop().await.unwrap();
    assert!(ended.success(), "{ended}");

    let vault = vault(&protected).await;
    let name = || node.name.parse().unwrap();
    let doc: NodeDoc =
        manifest::from_bytes(&vault.get(&ObjectName::Node { node: name() }).await.unwrap()).unwrap();
    assert_eq!(doc.group.map(|group| group.0), Some(0));
    let segments = end.segment(doc.segment_bytes);
    let listing = vault.list(&format!("nodes/{}/wal", node.name)).await.unwrap();
    let first =
        listing.objects.iter().find_map(|object| match ObjectName::parse(vault.cluster(), &object.name)? {
            ObjectName::Segment { wal, .. } => Some(wal.number(doc.segment_bytes)),
            _ => None,
        });
    for number in first.unwrap()..segments {
        let wal = WalName::new(TimelineId(1), number, doc.segment_bytes);
        let own = std::fs::read(node.data.join("pg_wal").join(wal.to_string())).unwrap();
        let kept = vault.get(&ObjectName::Segment { node: name(), wal }).await.unwrap();
        assert!(kept == own, "{wal} differs");
        if number + 1 < segments {
            assert!(vault.exists(&ObjectName::Index { node: name(), wal }).await.unwrap(), "index of {wal}");
        }
    }
    let topology = vault.list("topology").await.unwrap().objects;
    assert_eq!(topology.len(), 1, "{topology:?}");
    let topology = ObjectName::parse(vault.cluster(), &topology[0].name).unwrap();
    let topology: TopologyDoc = manifest::from_bytes(&vault.get(&topology).await.unwrap()).unwrap();
    assert_eq!(topology.databases[0].name, DATABASE);
}
