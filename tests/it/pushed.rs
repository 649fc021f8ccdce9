//! A server that archives with `pitrus archive-push` and restores with `pitrus archive-get`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::world::cluster::{Cluster, DATABASE, Kind};
use crate::world::proof::eventually;
use crate::world::protect::{Landing, Protected, open_hba, text};
use crate::world::{self, Folder, Server, ServerOptions, Stop};

const BUILT: &str = env!("CARGO_BIN_EXE_pitrus");
const PATIENCE: Duration = Duration::from_secs(60);

/// One server that archives with our command, and its agent.
struct Scene {
    cluster: Cluster,
    protected: Protected,
}

impl Scene {
    async fn set(segment_mib: u32) -> Scene {
        let folder = Arc::new(Folder::new().unwrap());
        let options = ServerOptions { wal_segment_mib: segment_mib, ..ServerOptions::named("one") };
        let options = options.set("archive_mode", "on").set("archive_command", "false");
        let options = options.set("wal_keep_size", "4GB").set("archive_timeout", "0");
        let server = Server::start_new(&folder, &options).unwrap();
        server.run("postgres", &format!("create database {DATABASE}")).await.unwrap();
        let cluster = Cluster { kind: Kind::Plain, nodes: vec![server], folder };
        let protected = Protected::set_up(&cluster, Path::new(BUILT)).await.unwrap();
        let config = &protected.configs[0];
        let written = std::fs::read_to_string(config).unwrap();
        let pushed = written.replace("#method = \"stream\"", "method = \"push\"");
        assert_ne!(pushed, written);
        std::fs::write(config, pushed).unwrap();
        let (program, config) = (protected.pitrus.binary.display(), config.display());
        let command = format!("{program} --config {config} archive-push --timeout 20 %p");
        let scene = Scene { protected, cluster };
        scene.run(&format!("alter system set archive_command = '{command}'")).await;
        scene.server().reload().unwrap();
        scene
    }

    fn server(&self) -> &Server {
        &self.cluster.nodes[0]
    }

    async fn run(&self, sql: &str) {
        self.server().run(DATABASE, sql).await.unwrap();
    }

    async fn value(&self, sql: &str) -> String {
        self.server().value(DATABASE, sql).await.unwrap().unwrap()
    }

    async fn write(&self, rows: u32) {
        let sql = format!("insert into t select md5(n::text) from generate_series(1, {rows}) n");
        self.run(&sql).await;
    }

    /// Switches to a new segment; returns the name of the one that was left.
    async fn switch(&self) -> String {
        self.value("select pg_walfile_name(pg_switch_wal())").await
    }

    fn status(&self, name: &str) -> PathBuf {
        self.server().data.join("pg_wal/archive_status").join(name)
    }

    /// Waits until the server was told that a file is archived.
    async fn acknowledged(&self, name: &str) {
        let done = self.status(&format!("{name}.done"));
        let told = eventually(name, PATIENCE, async || Ok(done.exists())).await;
        if let Err(error) = told {
            let log = self.protected.agents[0].as_ref().map(|agent| agent.log_text());
            panic!("{error}\n{}\n{log:?}", self.server().log_text());
        }
    }

    async fn push(&self, path: &Path) -> world::protect::Said {
        let arguments = ["archive-push", "--timeout", "3", text(path).unwrap()];
        self.protected.run_on(0, &arguments).await.unwrap()
    }

    /// Asks for a file as recovery would; returns the exit code and what came.
    async fn get(&self, name: &str) -> (Option<i32>, Option<Vec<u8>>) {
        let target = self.cluster.folder.folder("got").unwrap().join(name);
        let said = self.protected.run_on(0, &["archive-get", name, text(&target).unwrap()]).await.unwrap();
        let came = std::fs::read(&target).ok();
        let left = std::fs::read_dir(target.parent().unwrap()).unwrap().count();
        assert_eq!(left, usize::from(came.is_some()), "{}", said.err);
        let _ = std::fs::remove_file(&target);
        (said.status.code(), came)
    }

    /// Every file of whose archiving the server was told comes back as it is; of segments before the first backup,
    /// which nothing needs, some may be gone.
    async fn all_come_back(&self) -> usize {
        let listed = std::fs::read_dir(self.server().data.join("pg_wal/archive_status")).unwrap();
        let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let done = names.filter_map(|name| Some(name.strip_suffix(".done")?.to_owned()));
        let mut done: Vec<String> =
            done.filter(|name| !name.ends_with(".partial") && !name.ends_with(".backup")).collect();
        done.sort();
        let mut seen = 0;
        for name in done {
            let own = std::fs::read(self.server().data.join("pg_wal").join(&name)).unwrap();
            let (code, came) = self.get(&name).await;
            if seen == 0 && code == Some(1) {
                continue;
            }
            assert!(code == Some(0) && came.as_ref() == Some(&own), "{name}: {code:?}");
            seen += 1;
        }
        seen
    }

    fn zones_away(&self, away: bool) {
        for zone in &self.protected.zones[1..] {
            let there = zone.with_extension("away");
            let (from, to) = if away { (zone, &there) } else { (&there, zone) };
            std::fs::rename(from, to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_wal_is_held_before_the_server_is_told() {
    if !world::can_run("pushed_wal_is_held_before_the_server_is_told") {
        return;
    }
    let mut scene = Scene::set(1).await;
    scene.run("create table t (x text)").await;
    scene.protected.start_agents().unwrap();
    for _ in 0..6 {
        scene.write(20_000).await;
        scene.protected.kill_agents().unwrap();
        scene.protected.start_agents().unwrap();
    }
    scene.acknowledged(&scene.switch().await).await;
    assert!(scene.all_come_back().await > 10);

    // A zone fewer than a quorum: nothing is acknowledged, and nothing lost.
    scene.zones_away(true);
    scene.write(30_000).await;
    let left = scene.switch().await;
    let said = scene.push(&scene.server().data.join("pg_wal").join(&left)).await;
    assert_eq!(said.status.code(), Some(3), "{}", said.err);
    assert!(said.err.contains("not held by a quorum"), "{}", said.err);
    assert!(!scene.status(&format!("{left}.done")).exists());
    let (code, came) = scene.get("0000000100000000000000FF").await;
    assert!(
        code == Some(255) && came.is_none(),
        "absence is not sure: recovery must stop, not end: {code:?}"
    );
    scene.zones_away(false);
    scene.acknowledged(&left).await;

    // The agent is gone in the middle, and its folder takes no more files.
    let state = scene.cluster.folder.path().join("state/one");
    scene.protected.kill_agents().unwrap();
    scene.write(30_000).await;
    let left = scene.switch().await;
    let said = scene.push(&scene.server().data.join("pg_wal").join(&left)).await;
    assert!(!said.status.success() && said.err.contains("no agent answers"), "{}", said.err);
    scene.protected.start_agents().unwrap();
    eventually("the agent listens", PATIENCE, async || {
        Ok(scene.push(&scene.server().data.join("pg_wal").join(&left)).await.status.success())
    })
    .await
    .unwrap();
    let full = std::os::unix::fs::PermissionsExt::from_mode(0o500);
    std::fs::set_permissions(&state, full).unwrap();
    scene.write(30_000).await;
    scene.acknowledged(&scene.switch().await).await;
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();

    // The same bytes again are done; other bytes under the name are refused.
    let path = scene.server().data.join("pg_wal").join(&left);
    scene.push(&path).await.ok().unwrap();
    let own = std::fs::read(&path).unwrap();
    let mut other = own.clone();
    other[5000] ^= 1;
    std::fs::write(&path, &other).unwrap();
    let said = scene.push(&path).await;
    assert!(!said.status.success() && said.err.contains("already holds other bytes"), "{}", said.err);
    std::fs::write(&path, &own).unwrap();
    scene.push(&path).await.ok().unwrap();

    // Neither is another's file taken, nor one that is no WAL.
    let stranger = scene.cluster.folder.path().join(&left);
    scene.cluster.folder.write(&stranger, "not this server's").unwrap();
    let said = scene.push(&stranger).await;
    assert!(said.err.contains("is not the file of that name"), "{}", said.err);
    let said = scene.push(&scene.server().data.join("pg_wal/archive_status")).await;
    assert!(said.err.contains("not the name of a file that PostgreSQL archives"), "{}", said.err);
    for absent in ["0000000100000000000000FF", "00000002.history", "000000010000000000000001.partial"] {
        let (code, came) = scene.get(absent).await;
        assert!(code == Some(1) && came.is_none(), "{absent}: {code:?}");
    }
    assert_eq!(scene.value("select count(*) from pg_replication_slots").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_node_is_restored_across_its_promotion() {
    if world::can_run("a_pushed_node_is_restored_across_its_promotion") {
        promoted_and_restored(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_longer_than_the_vaults_are_pushed_and_restored() {
    if world::can_run("segments_longer_than_the_vaults_are_pushed_and_restored") {
        promoted_and_restored(64).await;
    }
}

async fn promoted_and_restored(segment_mib: u32) {
    let mut scene = Scene::set(segment_mib).await;
    scene.run("create table t (x text)").await;
    scene.protected.start_agents().unwrap();
    scene.protected.wait_for_backups(PATIENCE).await.unwrap();
    scene.write(600_000).await;
    scene.protected.kill_agents().unwrap();
    scene.protected.start_agents().unwrap();
    scene.write(10_000).await;
    // A server that stops waits for its archive_command, and that for an agent.
    scene.acknowledged(&scene.switch().await).await;
    promote(&mut scene).await;
    scene.write(10_000).await;
    scene.protected.run_on(0, &["backup"]).await.unwrap().ok().unwrap();
    scene.write(10_000).await;
    scene.acknowledged(&scene.switch().await).await;
    scene.acknowledged("00000002.history").await;
    assert!(scene.all_come_back().await > 2);
    // What is not archived as a whole segment is there all the same, a moment later.
    scene.write(5).await;
    let rows = scene.value("select count(*) from t").await;
    assert_eq!(rows, "630005");
    let flushed = scene.value("select pg_current_wal_flush_lsn()").await;
    let state = scene.cluster.folder.path().join("state/one");
    let held = async || {
        let status = pitrus::agent::status::read(&state).unwrap();
        Ok(status.is_some_and(|status| status.archive.archived >= flushed.parse().unwrap()))
    };
    eventually("the unfinished segment", PATIENCE, held).await.unwrap();
    scene.protected.kill_agents().unwrap();
    scene.cluster.stop(Stop::Kill).unwrap();

    let landing = Landing::choose(&scene.cluster.folder, "new", &scene.protected.nodes).unwrap();
    let targets = text(&landing.targets).unwrap();
    let arguments = ["restore", "run", "--latest", "--as", "copy", "--targets", targets];
    scene.protected.run_with(&[0, 2], &arguments).await.unwrap().ok().unwrap();
    let servers = landing.start(&scene.cluster.folder).unwrap();
    open_hba(&scene.cluster.folder, &servers).unwrap();
    assert_eq!(servers[0].value(DATABASE, "select count(*) from t").await.unwrap(), Some(rows));
}

/// Restarts the server as a standby of nothing, and promotes it: a new timeline.
async fn promote(scene: &mut Scene) {
    let folder = Arc::clone(&scene.cluster.folder);
    let server = &mut scene.cluster.nodes[0];
    server.stop(Stop::Fast).unwrap();
    folder.write(&server.data.join("standby.signal"), "").unwrap();
    server.start().unwrap();
    server.run("postgres", "select pg_promote()").await.unwrap();
}
