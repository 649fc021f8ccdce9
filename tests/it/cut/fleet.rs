//! A fleet without Citus, without pitrus's agents: two servers whose `archive_command` is `cp`, clients that
//! use one gid on both, and a restore by hand with the figures that `pitrus cut` prints.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::moment::Moment;

use super::{Said, pitrus};
use crate::world::{self, Folder, Server, ServerOptions, Stop, faketime, free_port, say};

const CLIENTS: i64 = 4;
const AHEAD_MS: i32 = 50;
/// The gid of a transaction that nobody ends.
const FORGOTTEN: &str = "forgotten";

/// Two servers, where they archive to, and a cold copy of each from before the load.
struct Fleet {
    folder: Arc<Folder>,
    servers: Vec<Server>,
    archives: Vec<PathBuf>,
    copies: Vec<PathBuf>,
}

/// When each transaction was begun and acknowledged.
type Seen = Vec<(i64, Moment, Moment)>;

impl Fleet {
    async fn new(ahead_ms: i32) -> anyhow::Result<Fleet> {
        let folder = Arc::new(Folder::new()?);
        let mut fleet = Fleet { folder, servers: Vec::new(), archives: Vec::new(), copies: Vec::new() };
        for (name, clock_ahead_ms) in [("left", 0), ("right", ahead_ms)] {
            let archive = fleet.folder.folder(&format!("archive-{name}"))?;
            let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
            let mut options =
                ServerOptions::named(name).set("archive_mode", "on").set("archive_command", &command);
            (options.wal_segment_mib, options.clock_ahead_ms) = (1, clock_ahead_ms);
            let mut server = Server::start_new(&fleet.folder, &options)?;
            server.run("postgres", "create table done (id bigint primary key)").await?;
            server.stop(Stop::Fast)?;
            let copy = fleet.folder.path().join(format!("copy-{name}"));
            copy_all(&fleet.folder, &server.data, &copy)?;
            server.start()?;
            fleet.servers.push(server);
            fleet.archives.push(archive);
            fleet.copies.push(copy);
        }
        Ok(fleet)
    }

    /// Prepares a transaction on both servers, and writes WAL for longer than a cut looks back at first.
    async fn forget_one(&self) -> anyhow::Result<()> {
        for server in &self.servers {
            let sql = format!("begin; insert into done values (0); prepare transaction '{FORGOTTEN}'");
            server.run("postgres", &sql).await?;
        }
        for _ in 0..8 {
            for server in &self.servers {
                server
                    .run("postgres", "insert into done values (-1); delete from done where id = -1")
                    .await?;
                // Each writes which transactions run, at the beginning of a segment.
                server.run("postgres", "select pg_switch_wal()").await?;
                server.run("postgres", "checkpoint").await?;
            }
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
        Ok(())
    }

    /// Makes a restore point of one name on both servers, not at the same moment.
    async fn name_a_point(&self) -> anyhow::Result<()> {
        for server in &self.servers {
            server.run("postgres", "select pg_create_restore_point('half')").await?;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        Ok(())
    }

    /// Runs transactions on both servers at once for a while, and returns a moment among them too.
    async fn load(&self, lasting: Duration) -> anyhow::Result<(Moment, Seen)> {
        let (ended, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let sides =
                [self.servers[0].connect("postgres").await?, self.servers[1].connect("postgres").await?];
            let (ended, next) = (Arc::clone(&ended), Arc::clone(&next));
            clients.push(tokio::spawn(async move {
                let mut seen = Seen::new();
                while !ended.load(Ordering::Relaxed) {
                    let (id, began) = (next.fetch_add(1, Ordering::Relaxed), clock::now());
                    for side in &sides {
                        let sql = format!(
                            "begin; insert into done values ({id}); prepare transaction 'it''s {id}'"
                        );
                        side.batch_execute(&sql).await?;
                    }
                    for side in &sides {
                        side.batch_execute(&format!("commit prepared 'it''s {id}'")).await?;
                    }
                    seen.push((id, began, clock::now()));
                }
                anyhow::Ok(seen)
            }));
        }
        tokio::time::sleep(lasting / 2).await;
        let among = clock::now();
        tokio::time::sleep(lasting / 8).await;
        self.name_a_point().await?;
        tokio::time::sleep(lasting / 2).await;
        ended.store(true, Ordering::Relaxed);
        let mut all = Seen::new();
        for client in clients {
            all.extend(client.await??);
        }
        Ok((among, all))
    }

    /// Waits until all WAL is archived, and ends the servers.
    async fn archived(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            let last = "select pg_walfile_name(pg_switch_wal())";
            let last = server.value("postgres", last).await?.context("a segment")?;
            let is_there = format!("select last_archived_wal >= '{last}' from pg_stat_archiver");
            let began = clock::now();
            while server.value("postgres", &is_there).await?.as_deref() != Some("t") {
                ensure!(clock::now().micros_since(began) < 60_000_000, "{last} was not archived");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            server.stop(Stop::Immediate)?;
        }
        Ok(())
    }

    fn cut(&self, more: &[&str]) -> Said {
        let nodes: Vec<String> = self
            .archives
            .iter()
            .enumerate()
            .map(|(at, path)| format!("--node={}={}", at + 1, path.display()))
            .collect();
        let mut args = vec!["cut"];
        args.extend(nodes.iter().map(String::as_str));
        args.extend(more);
        pitrus(&args)
    }

    /// Restores both by hand, as a cut says, settles what is prepared, and returns what both hold.
    async fn whole(&self, cut: &serde_json::Value, name: &str) -> anyhow::Result<BTreeSet<String>> {
        let nodes = cut["nodes"].as_array().context("nodes")?;
        let mut servers = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            let stop = node["stop_before"].as_str().context("the load went on after it")?;
            let settings = format!(
                "recovery_target_lsn = '{stop}'\nrecovery_target_inclusive = off\n\
                 recovery_target_action = 'promote'\nrecovery_target_timeline = '{}'",
                node["timeline"]
            );
            let server = self.restored(at, &format!("{name}-{at}"), &settings)?;
            promoted(&server).await?;
            servers.push(server);
        }
        for one in cut["to_settle"].as_array().context("a list")? {
            let server = &servers[usize::try_from(one["group"].as_u64().context("a group")?)? - 1];
            let name = format!("select datname from pg_database where oid = {}", one["database"]);
            let database = server.value("postgres", &name).await?.context("its database")?;
            server.run(&database, one["statement"].as_str().context("a statement")?).await?;
        }
        let (left, right) = (
            column(&servers[0], "select id::text from done").await?,
            column(&servers[1], "select id::text from done").await?,
        );
        assert_eq!(left, right, "every transaction is on both or on none");
        for server in &servers {
            assert_eq!(column(server, "select gid from pg_prepared_xacts").await?, BTreeSet::new());
        }
        Ok(left)
    }

    /// Without one segment from before the load, a moment in it cannot be cut; one of the load can, and it is
    /// said that something may have been prepared before the gap.
    fn gap(&self, time: Moment, whole: &serde_json::Value) -> anyhow::Result<()> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.archives[1])?
            .map(|entry| anyhow::Ok(entry?.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let missing = files.get(5).context("five segments before the load")?;
        let records = ["wal", "show", "--records", "--output", "json", missing.to_str().context("a path")?];
        let lines = pitrus(&records).out;
        let events =
            lines.lines().map(serde_json::from_str::<serde_json::Value>).collect::<Result<Vec<_>, _>>()?;
        let commit = events.iter().find(|line| line["event"]["what"] == "commit").context("a commit")?;
        std::fs::remove_file(missing)?;
        let inside = commit["event"]["time"].as_str().context("a time")?;
        self.cut(&["--time", inside]).fails(5, &["WAL of node 2 is missing there", "then a gap"]);

        let cut = self.cut(&["--time", &time.to_string(), "--output", "json"]).json();
        assert_eq!(super::stops(&cut), super::stops(whole));
        let notes = cut["notes"].to_string();
        assert!(
            notes.contains("node 2: the WAL in") && notes.contains("look at pg_prepared_xacts"),
            "{notes}"
        );
        Ok(())
    }

    /// Recovers a copy with these settings, by hand.
    fn restored(&self, at: usize, name: &str, settings: &str) -> anyhow::Result<Server> {
        let data = self.folder.path().join(name);
        copy_all(&self.folder, &self.copies[at], &data)?;
        let (port, socket) = (free_port()?, self.folder.folder(&format!("s-{name}"))?);
        let archive = self.archives[at].display();
        let text = format!(
            "port = {port}\nunix_socket_directories = '{}'\narchive_mode = off\n\
             restore_command = 'cp {archive}/%f %p'\n{settings}\n",
            socket.display()
        );
        self.folder.write(&data.join("postgresql.auto.conf"), &text)?;
        self.folder.write(&data.join("recovery.signal"), "")?;
        let mut server = Server::adopt(&self.folder, name, &data, &socket, port);
        server.start()?;
        Ok(server)
    }
}

fn copy_all(folder: &Folder, from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = folder.command(Path::new("cp")).arg("-a").arg(from).arg(to).status();
    ensure!(copied.context("cp")?.success(), "cp {} failed", from.display());
    Ok(())
}

/// Waits until a server has ended recovery.
async fn promoted(server: &Server) -> anyhow::Result<()> {
    let began = clock::now();
    while server.value("postgres", "select pg_is_in_recovery()").await?.as_deref() != Some("f") {
        ensure!(clock::now().micros_since(began) < 60_000_000, "{} goes on recovering", server.name);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn column(server: &Server, sql: &str) -> anyhow::Result<BTreeSet<String>> {
    let rows = server.connect("postgres").await?.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get::<_, String>(0)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_restored_by_hand() {
    if world::can_run("a_fleet_is_restored_by_hand") {
        by_hand().await.unwrap();
    }
}

async fn by_hand() -> anyhow::Result<()> {
    let ahead_ms = match faketime() {
        Ok(_) => AHEAD_MS,
        Err(why) => {
            say!("a_fleet_is_restored_by_hand: {why}");
            0
        }
    };
    let mut fleet = Fleet::new(ahead_ms).await?;
    fleet.forget_one().await?;
    let (time, seen) = fleet.load(Duration::from_secs(4)).await?;
    fleet.archived().await?;

    let cut = fleet.cut(&["--time", &time.to_string(), "--output", "json"]).json();
    assert_eq!(cut["notes"], serde_json::json!([]));
    let rolled_back = cut["to_settle"].as_array().context("a list")?.iter().filter(|one| {
        one["gid"] == FORGOTTEN && one["statement"] == format!("ROLLBACK PREPARED '{FORGOTTEN}';")
    });
    assert_eq!(rolled_back.count(), 2, "{cut}");
    let left = fleet.whole(&cut, "time").await?;
    let slack = i64::from(ahead_ms) * 1000 + 20_000;
    let (mut inside, mut outside) = (0, 0);
    for (id, began, acknowledged) in &seen {
        if acknowledged.micros_since(time) < -slack {
            assert!(left.contains(&id.to_string()), "{id} was acknowledged at {acknowledged}, before {time}");
            inside += 1;
        }
        if began.micros_since(time) > 0 {
            assert!(!left.contains(&id.to_string()), "{id} was begun at {began}, after {time}");
            outside += 1;
        }
    }
    assert!(inside > 50 && outside > 50, "{inside} before and {outside} after");

    let half = fleet.cut(&["--restore-point", "half", "--output", "json"]).json();
    assert!(!half["moves"].as_array().context("a list")?.is_empty(), "the restore point is torn itself");
    fleet.whole(&half, "half").await?;
    naive(&fleet, time, &cut, ahead_ms).await?;
    fleet.gap(time, &cut)
}

/// What a plain time target tears for real is what was said that it would.
async fn naive(fleet: &Fleet, time: Moment, cut: &serde_json::Value, ahead_ms: i32) -> anyhow::Result<()> {
    let settings =
        format!("recovery_target_time = '{}'\nrecovery_target_action = 'promote'", time.for_postgres());
    let (mut done, mut open) = (Vec::new(), Vec::new());
    for at in 0..2 {
        let server = fleet.restored(at, &format!("naive-{at}"), &settings)?;
        promoted(&server).await?;
        done.push(column(&server, "select 'it''s ' || id from done").await?);
        open.push(column(&server, "select gid from pg_prepared_xacts").await?);
    }
    let lost = |kept: usize, other: usize| {
        let has = |gid: &&String| !done[other].contains(*gid) && !open[other].contains(*gid);
        done[kept].iter().filter(has).cloned().collect::<Vec<_>>()
    };
    let mut torn = [lost(0, 1), lost(1, 0)].concat();
    torn.sort();
    let said = cut["torn_by_time"].as_array().context("a list")?.iter();
    let mut said: Vec<String> =
        said.map(|one| one["gids"][0].as_str().unwrap_or_default().to_owned()).collect();
    said.sort();
    assert_eq!(said, torn);
    if ahead_ms != 0 {
        assert!(torn.len() > 3, "a clock {ahead_ms} ms ahead tore only {torn:?}");
    }
    say!("a_fleet_is_restored_by_hand: {} torn by the time, none by the cut", torn.len());
    Ok(())
}
