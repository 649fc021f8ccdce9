//! A worker whose place a promoted copy took that had lost WAL: which moments come back, and with what.
//!
//! first load -> a cold copy of the worker -> second load -> the worker is gone, its copy promoted -> third load

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use pitrus::restore::plan::{NodePlan, Plan};
use pitrus::timeline::TimelineId;

use crate::scene::{LOAD, MARGIN_US, Scene};
use crate::world::{
    Books, ClusterOptions, Kind, Landing, Load, NODES, Server, Stop, Truth, open_hba, proof, text,
};

/// The worker that is promoted: group 1, an initiator too.
const LOSER: usize = 1;

struct Lost {
    scene: Scene,
    /// One for each node, filled by its `archive_command`.
    archives: PathBuf,
    /// Moments in the middle of each load.
    moments: [Moment; 3],
    truth: Truth,
    /// Ids of the transfers of each load.
    loads: [BTreeSet<i64>; 3],
    books: Books,
}

impl Lost {
    async fn new(kind: Kind) -> anyhow::Result<Lost> {
        let folder = std::env::temp_dir().join(format!("pitrus-promoted-{}-{kind:?}", std::process::id()));
        let command =
            format!("d={}/$(basename $(dirname $(pwd))); mkdir -p $d && cp %p $d/%f", folder.display());
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let mut options = ClusterOptions::of(kind);
        for (name, value) in [("archive_mode", "on"), ("archive_command", &command)] {
            options.settings.push((name.to_owned(), value.to_owned()));
        }
        let settings: &[(&str, &str)] =
            if kind == Kind::Citus { &[("citus.recover_2pc_interval", "2s")] } else { &[] };
        let scene = Scene::set_with(options, settings).await?;
        let (nowhere, none) = (Moment(0), BTreeSet::new);
        let mut lost = Lost {
            scene,
            archives: folder,
            moments: [nowhere; 3],
            truth: Truth::default(),
            loads: [none(), none(), none()],
            books: Books::default(),
        };
        lost.load(0).await?;
        let copy = lost.copy()?;
        lost.load(1).await?;
        // The servers' own archives get whole segments only.
        copied(&lost.scene.cluster.nodes[LOSER]).await?;
        lost.scene.archived().await?;
        lost.promote(&copy).await?;
        // What the restore of a moment in the lost WAL may have to tell from what came after.
        tokio::time::sleep(Duration::from_secs(2)).await;
        lost.load(2).await?;
        for node in &lost.scene.cluster.nodes {
            node.run("postgres", "checkpoint").await?;
            copied(node).await?;
        }
        lost.scene.archived().await?;
        lost.books = lost.scene.bank.read(&lost.scene.cluster.nodes).await?;
        Ok(lost)
    }

    async fn load(&mut self, number: usize) -> anyhow::Result<()> {
        let run = i64::try_from(number)?;
        let load = Load::start_after(&self.scene.cluster, &self.scene.bank, LOAD, run).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        self.moments[number] = clock::now();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let seen = load.stop().await?;
        ensure!(seen.failures.is_empty(), "load {number} failed: {:?}", seen.failures);
        self.loads[number] = seen.transfers.iter().map(|transfer| transfer.id).collect();
        self.truth.transfers.extend(seen.transfers);
        Ok(())
    }

    /// Copies the worker while it is stopped.
    fn copy(&mut self) -> anyhow::Result<PathBuf> {
        let server = &mut self.scene.cluster.nodes[LOSER];
        server.stop(Stop::Fast)?;
        let copy = self.scene.folder.path().join("copy");
        copy_all(&server.data, &copy)?;
        server.start()?;
        Ok(copy)
    }

    /// Loses the worker, and promotes its copy in its place.
    async fn promote(&mut self, copy: &Path) -> anyhow::Result<()> {
        let server = &mut self.scene.cluster.nodes[LOSER];
        server.stop(Stop::Immediate)?;
        std::fs::rename(&server.data, server.data.with_extension("lost"))?;
        std::fs::rename(copy, &server.data)?;
        self.scene.folder.write(&server.data.join("standby.signal"), "")?;
        server.start()?;
        server.run("postgres", "select pg_promote()").await?;
        Ok(())
    }

    async fn plan(&self, what: &[&str]) -> anyhow::Result<Plan> {
        let ask = [&["restore", "plan", "--output", "json"][..], what].concat();
        let said = self.scene.protected.run_with(&[0, 1, 2], &ask).await?.ok()?;
        serde_json::from_str(&said.out).context("the plan")
    }

    /// Restores, and returns what is in the books and what is wrong with them for this moment.
    async fn restored(
        &self,
        name: &str,
        what: &[&str],
        target: Moment,
    ) -> anyhow::Result<(Books, Vec<String>)> {
        let nodes = NODES.map(str::to_owned);
        let landing = Landing::choose(&self.scene.folder, name, &nodes)?;
        let run = ["restore", "run", "--as", "bank-restored", "--targets", text(&landing.targets)?];
        self.scene.protected.run_with(&[0, 1, 2], &[&run[..], what].concat()).await?.ok()?;
        let servers: Vec<Server> = landing.start(&self.scene.folder)?;
        proof::closed(&servers).await?;
        open_hba(&self.scene.folder, &servers)?;
        let books = self.scene.bank.read(&servers).await?;
        let problems = books.judge(&self.scene.bank, &self.truth, target, MARGIN_US).problems();
        Ok((books, problems))
    }

    /// Cuts what the servers archived by themselves.
    fn cut(&self, what: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut cut = Command::new(env!("CARGO_BIN_EXE_pitrus"));
        cut.args(["cut", "--output", "json"]).args(what).env_remove("PITRUS_CONFIG");
        for (group, name) in NODES.iter().enumerate() {
            cut.arg("--node").arg(format!("{group}={}", self.archives.join(name).display()));
        }
        let ran = cut.output()?;
        ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        Ok(serde_json::from_slice(&ran.stdout)?)
    }

    /// A directory says what the vault says.
    fn cuts_alike(&self, plan: &Plan, what: &[&str]) -> anyhow::Result<()> {
        let clock = |node: &NodePlan| {
            format!("--clock={}={:+}us", node.group.map_or(0, |group| group.0), node.clock_ahead_micros)
        };
        let clocks: Vec<String> = plan.nodes.iter().map(clock).collect();
        let clocks: Vec<&str> = clocks.iter().map(String::as_str).collect();
        let cut = self.cut(&[what, &clocks].concat())?;
        let nodes = cut["nodes"].as_array().context("nodes")?.iter();
        let stops: Vec<Option<Lsn>> =
            nodes.map(|node| node["stop_before"].as_str().map(|lsn| lsn.parse().unwrap())).collect();
        assert_eq!(stops, plan.nodes.iter().map(|node| node.stop_before).collect::<Vec<_>>(), "{cut}");
        let noted = |notes: String| notes.contains("was promoted at");
        assert_eq!(noted(cut["notes"].to_string()), noted(plan.notes.join(" ")), "{cut}\n{plan}");
        Ok(())
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.archives);
    }
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "cp {} failed", from.display());
    Ok(())
}

fn count(books: &Books, load: &BTreeSet<i64>) -> usize {
    load.iter().filter(|id| books.ledger.contains_key(id)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_around_a_promotion_that_lost_wal_comes_back() {
    if Kind::Plain.can_run("every_moment_around_a_promotion_that_lost_wal_comes_back") {
        around(Kind::Plain).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_citus_worker_that_lost_wal_with_its_promotion() {
    if Kind::Citus.can_run("a_citus_worker_that_lost_wal_with_its_promotion") {
        around(Kind::Citus).await.unwrap();
    }
}

/// Ends a server's segment, and waits until its own archive has it too.
async fn copied(node: &Server) -> anyhow::Result<()> {
    let last =
        node.value("postgres", "select pg_walfile_name(pg_switch_wal())").await?.context("a segment")?;
    let done = format!("select last_archived_wal >= '{last}' from pg_stat_archiver");
    let begun = Instant::now();
    while node.value("postgres", &done).await?.as_deref() != Some("t") {
        ensure!(begun.elapsed() < Duration::from_secs(120), "{last} is not archived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn around(kind: Kind) -> anyhow::Result<()> {
    let lost = Lost::new(kind).await?;
    let times = lost.moments.map(|moment| moment.to_string());

    // Before the promotion: along the newest timeline's history, as if nothing had been.
    let what = ["--time", times[0].as_str()];
    let plan = lost.plan(&what).await?;
    ensure!(plan.notes.is_empty() && plan.orphans.is_empty(), "{plan}");
    lost.cuts_alike(&plan, &what)?;
    let (_, problems) = lost.restored("before", &what, lost.moments[0]).await?;
    ensure!(problems.is_empty(), "before: {problems:?}");

    // In what was lost: nothing of it on any node, nothing torn, and the plan says how to have it.
    let what = ["--time", times[1].as_str()];
    let plan = lost.plan(&what).await?;
    let note = plan.notes.iter().find(|note| note.contains("was promoted at")).context("a note")?;
    ensure!(note.contains("--timeline worker1=1"), "{note}");
    ensure!(plan.orphans.is_empty() && !plan.left_out.is_empty(), "{plan}");
    lost.cuts_alike(&plan, &what)?;
    let (books, problems) = lost.restored("lost", &what, lost.moments[1]).await?;
    ensure!(problems.iter().all(|problem| problem.contains("are missing")), "lost: {problems:?}");
    assert_eq!(count(&books, &lost.loads[0]), lost.loads[0].len());
    assert_eq!(count(&books, &lost.loads[1]), 0, "no part of what worker1 lost");

    // The same moment on the timeline that was left: all of it.
    let what = ["--time", times[1].as_str(), "--timeline", "worker1=1"];
    let plan = lost.plan(&what).await?;
    assert_eq!(plan.nodes[LOSER].timeline, TimelineId(1));
    ensure!(plan.notes.iter().any(|note| note.contains("worker1 follows timeline 1, as asked")), "{plan}");
    lost.cuts_alike(&plan, &["--time", times[1].as_str(), "--timeline", "1=1"])?;
    let (books, problems) = lost.restored("left", &what, lost.moments[1]).await?;
    ensure!(problems.is_empty(), "left: {problems:?}");
    ensure!(count(&books, &lost.loads[1]) > 10, "what was lost is back");
    // Without the branch of the others' later life.
    let what = ["--latest", "--timeline", "worker1=1"];
    let (books, problems) = lost.restored("left-end", &what, lost.moments[1]).await?;
    ensure!(problems.iter().all(|problem| problem.contains("begun after")), "left-end: {problems:?}");
    assert_eq!(count(&books, &lost.loads[1]), lost.loads[1].len());
    assert_eq!(count(&books, &lost.loads[2]), 0);

    // After the promotion: as the source was, with what it had torn.
    let plan = lost.plan(&["--latest"]).await?;
    ensure!(plan.left_out.is_empty(), "{plan}");
    let (books, _) = lost.restored("after", &["--latest"], lost.moments[2]).await?;
    assert_eq!((&books.balances, &books.ledger), (&lost.books.balances, &lost.books.ledger));
    ensure!(count(&books, &lost.loads[2]) == lost.loads[2].len());

    for wrong in [["--timeline", "worker1=7"], ["--timeline", "worker9=1"], ["--timeline", "2"]] {
        let ask = [&["restore", "plan", "--latest"][..], &wrong].concat();
        let said = lost.scene.protected.run_with(&[0, 1, 2], &ask).await?;
        assert_eq!(said.status.code(), Some(2), "{wrong:?}: {}", said.err);
    }
    Ok(())
}
