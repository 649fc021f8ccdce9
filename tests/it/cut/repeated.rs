//! One gid used again and again on real servers, as Citus's come back when a server has restarted or its process
//! numbers have gone round: what becomes of each use is its own matter.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::moment::Moment;

use super::{Said, pitrus};
use crate::world::{self, Folder, Server, ServerOptions, Stop, faketime, say};

/// Initiator 1, so that its decisions are rows of its `pg_dist_transaction`; prepared on node 2.
const GID: &str = "citus_1_4711_9_0";
/// How much later the servers' second life is: farther than uses that can be confused.
const LATER_MS: i32 = 150_000;
const ROWS: &str =
    "create table pg_dist_transaction (groupid int not null, gid text not null, outer_xid xid8)";

struct Pair {
    servers: [Server; 2],
    archives: [PathBuf; 2],
    _folder: Arc<Folder>,
}

/// Moments in one use of the gid: before it, prepared, decided (or given up), and ended.
#[derive(Clone, Copy)]
struct Use {
    before: Moment,
    prepared: Moment,
    decided: Moment,
    ended: Moment,
    committed: bool,
}

impl Pair {
    async fn new() -> anyhow::Result<Pair> {
        let folder = Arc::new(Folder::new()?);
        let start = |name: &str| {
            let archive = folder.folder(&format!("archive-{name}"))?;
            let command = format!("cp %p {}/%f", archive.display());
            let mut options =
                ServerOptions::named(name).set("archive_mode", "on").set("archive_command", &command);
            options.wal_segment_mib = 1;
            anyhow::Ok((Server::start_new(&folder, &options)?, archive))
        };
        let ((one, first), (two, second)) = (start("one")?, start("two")?);
        one.run("postgres", ROWS).await?;
        two.run("postgres", "create table done (v int)").await?;
        // Each writes which transactions run, at the beginning of a segment: nothing older is prepared.
        for server in [&one, &two] {
            for _ in 0..2 {
                server.run("postgres", "create temp table t (v int); select pg_switch_wal()").await?;
                server.run("postgres", "checkpoint").await?;
            }
        }
        Ok(Pair { servers: [one, two], archives: [first, second], _folder: folder })
    }

    /// Ends the first server's life as the names' giver: its next begins with the same ones.
    fn restart(&mut self, clock_ahead_ms: i32) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.stop(Stop::Fast)?;
            server.clock_ahead_ms = clock_ahead_ms;
            server.start()?;
        }
        Ok(())
    }

    /// Uses the gid once, with a moment between any two of its records; `ahead_ms` is the servers' clocks'.
    async fn once(&self, number: i32, committed: bool, ahead_ms: i32) -> anyhow::Result<Use> {
        let [one, two] = &self.servers;
        let pause = async || {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let now = clock::now().plus_micros(i64::from(ahead_ms) * 1000);
            tokio::time::sleep(Duration::from_millis(60)).await;
            // Something ends on both after each moment.
            for server in [one, two] {
                server.run("postgres", "create temp table t (v int)").await?;
            }
            anyhow::Ok(now)
        };
        let before = pause().await?;
        two.run(
            "postgres",
            &format!("begin; insert into done values ({number}); prepare transaction '{GID}'"),
        )
        .await?;
        let prepared = pause().await?;
        if committed {
            one.run("postgres", &format!("insert into pg_dist_transaction values (2, '{GID}', null)"))
                .await?;
        }
        let decided = pause().await?;
        let end = if committed { "commit" } else { "rollback" };
        two.run("postgres", &format!("{end} prepared '{GID}'")).await?;
        one.run("postgres", "delete from pg_dist_transaction").await?;
        Ok(Use { before, prepared, decided, ended: pause().await?, committed })
    }

    async fn archived(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            let last = server.value("postgres", "select pg_walfile_name(pg_switch_wal())").await?;
            let last = last.context("a segment")?;
            let is_there = format!("select last_archived_wal >= '{last}' from pg_stat_archiver");
            world::proof::eventually("archived WAL", Duration::from_secs(60), async || {
                Ok(server.value("postgres", &is_there).await?.as_deref() == Some("t"))
            })
            .await?;
            server.stop(Stop::Immediate)?;
        }
        Ok(())
    }

    fn cut(&self, more: &[&str]) -> Said {
        let node = |group: usize| format!("--node={group}={}", self.archives[group - 1].display());
        let (one, two) = (node(1), node(2));
        pitrus(&[&["cut", "--output", "json", &one, &two], more].concat())
    }

    /// What a cut at a moment settles: nothing, or the one part in one way.
    #[track_caller]
    fn settles(&self, number: usize, time: Moment, verb: Option<&str>) {
        let cut = self.cut(&["--time", &time.to_string()]).json();
        let statements: Vec<&str> = cut["to_settle"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["statement"].as_str().unwrap())
            .collect();
        let expected: Vec<String> = verb.iter().map(|verb| format!("{verb} PREPARED '{GID}';")).collect();
        assert_eq!(statements, expected, "use {number} at {time}: {cut}");
        for none in ["moves", "left_out", "orphans", "torn_by_time", "foreign", "notes"] {
            assert_eq!(cut[none], serde_json::json!([]), "use {number} at {time}: {cut}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_use_of_a_repeated_gid_is_its_own() {
    if world::can_run("each_use_of_a_repeated_gid_is_its_own") {
        repeated().await.unwrap();
    }
}

async fn repeated() -> anyhow::Result<()> {
    let later = match faketime() {
        Ok(_) => LATER_MS,
        Err(why) => {
            say!("each_use_of_a_repeated_gid_is_its_own: all uses are of one minute, because {why}");
            0
        }
    };
    let mut pair = Pair::new().await?;
    let mut uses = vec![pair.once(0, true, 0).await?, pair.once(1, false, 0).await?];
    pair.restart(later)?;
    for (number, committed) in [(2, true), (3, false), (4, false), (5, true), (6, true)] {
        uses.push(pair.once(number, committed, later).await?);
    }
    pair.archived().await?;

    for (number, one) in uses.iter().enumerate() {
        pair.settles(number, one.before, None);
        pair.settles(number, one.prepared, Some("ROLLBACK"));
        pair.settles(number, one.decided, Some(if one.committed { "COMMIT" } else { "ROLLBACK" }));
        pair.settles(number, one.ended, None);
    }
    // Between decision and commit a wrong clock tears, and the cut does not: with the very use it is about.
    let wrong = uses[5].decided.to_string();
    let cut = pair.cut(&["--time", &wrong, "--pretend-clock", "1=+100ms"]).json();
    assert_eq!(cut["to_settle"][0]["action"], "rollback", "{cut}");
    let early = uses[5].prepared.to_string();
    let cut = pair.cut(&["--time", &early, "--pretend-clock", "2=-3s"]).json();
    ensure!(!cut["torn_by_time"].as_array().context("a list")?.is_empty(), "{cut}");
    assert_eq!(
        (&cut["to_settle"][0]["action"], &cut["orphans"]),
        (&"rollback".into(), &serde_json::json!([])),
        "{cut}"
    );
    named(&pair, &uses, later != 0)
}

/// The name alone means several transactions; with a time, the one of then.
fn named(pair: &Pair, uses: &[Use], has_gap: bool) -> anyhow::Result<()> {
    let name = &GID[..GID.len() - 2];
    if has_gap {
        let said = pair.cut(&["--before-transaction", name]);
        said.fails(2, &["names 2 transactions", "add --time"]);
    }
    let cut = pair.cut(&["--before-transaction", name, "--time", &uses[0].decided.to_string()]).json();
    let stop = |cut: &serde_json::Value| -> anyhow::Result<pitrus::lsn::Lsn> {
        Ok(cut["nodes"][0]["stop_before"].as_str().context("a stop")?.parse()?)
    };
    let before = stop(&pair.cut(&["--time", &uses[0].before.to_string()]).json())?;
    let after = stop(&pair.cut(&["--time", &uses[0].ended.to_string()]).json())?;
    ensure!((before..after).contains(&stop(&cut)?), "{cut}");
    Ok(())
}
