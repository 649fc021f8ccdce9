//! One recorded history of a Citus cluster to which everything happens; then it is restored to moments taken at
//! random, with clocks taken to be wrong, and the books are checked each time.
//!
//! `PITRUS_MOMENTS` sets how many moments.

mod story;
mod traffic;

use std::time::Instant;

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::moment::Moment;
use pitrus::restore::plan::Plan;

use crate::scene::{MARGIN_US, Scene};
use crate::world::{
    Books, ClusterOptions, DATABASE, Kind, Landing, Server, open_hba, proof, remove, say, text,
};
use story::Recorded;

const MOMENTS: usize = 2;
const CLOCK_ERRORS_MS: [i64; 4] = [0, 50, 5, 500];

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_of_a_rich_history_is_restored_whole() {
    if Kind::Citus.can_run("any_moment_of_a_rich_history_is_restored_whole") {
        restored().await.unwrap();
    }
}

async fn restored() -> anyhow::Result<()> {
    let moments = std::env::var("PITRUS_MOMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(MOMENTS);
    let options = ClusterOptions::of(Kind::Citus);
    let mut scene = Scene::set_with(options, &[("citus.recover_2pc_interval", "2s")]).await?;
    let recorded = story::record(&mut scene).await?;
    let books = read(&scene.cluster.nodes).await?;
    let own = books.judge(&scene.bank, &recorded.seen.truth, clock::now(), 0).problems();
    ensure!(own.is_empty(), "the source itself is not whole: {}", own.join("; "));
    scene.archived().await?;
    scene.protected.stop_agents().await?;

    let mut done = Vec::new();
    for number in 0..moments {
        let error_ms = CLOCK_ERRORS_MS[number % CLOCK_ERRORS_MS.len()];
        let one = restore(&scene, &recorded, number, error_ms).await;
        let one = one.with_context(|| format!("moment {number}, clocks off by {error_ms} ms"))?;
        say!("{one}");
        done.push(one);
    }
    tell(&done);
    Ok(())
}

/// One restore that was proved.
struct Done {
    target: Moment,
    nodes: usize,
    error_ms: i64,
    /// Distributed transactions that a time target per node would have torn.
    torn_by_time: usize,
    settled: usize,
    left_out: usize,
    moved: usize,
    distance_us: i64,
    seconds: f64,
    transfers: usize,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "restored to {}: {} nodes, clocks off by {} ms, {} transfers, {} moved, {} settled, {} left out, \
             {:.3} ms before the moment, torn by time {}; {:.1} s",
            self.target,
            self.nodes,
            self.error_ms,
            self.transfers,
            self.moved,
            self.settled,
            self.left_out,
            self.distance_us as f64 / 1000.0,
            self.torn_by_time,
            self.seconds
        )
    }
}

async fn restore(scene: &Scene, recorded: &Recorded, number: usize, error_ms: i64) -> anyhow::Result<Done> {
    let (target, nodes) = recorded.pick(number);
    let (time, ahead, behind) =
        (target.to_string(), format!("worker1=+{error_ms}ms"), format!("worker2=-{error_ms}ms"));
    let what = ["--time", &time, "--pretend-clock", &ahead, "--pretend-clock", &behind];
    let ask = [&["restore", "plan", "--output", "json"][..], &what].concat();
    let said = scene.protected.run_with(&[0, 1, 2], &ask).await?.ok()?;
    let plan: Plan = serde_json::from_str(&said.out).context("the plan")?;
    ensure!(
        plan.nodes.len() == nodes.len(),
        "the plan has {} nodes, and not {}",
        plan.nodes.len(),
        nodes.len()
    );

    let name = format!("moment-{number}");
    let landing = Landing::choose(&scene.folder, &name, nodes)?;
    let run = ["restore", "run", "--as", "bank-restored", "--targets", text(&landing.targets)?];
    let began = Instant::now();
    scene.protected.run_with(&[0, 1, 2], &[&run[..], &what].concat()).await?.ok()?;
    let seconds = began.elapsed().as_secs_f64();
    let servers = landing.start(&scene.folder)?;
    proof::closed(&servers).await?;
    open_hba(&scene.folder, &servers)?;
    let books = read(&servers).await?;
    let margin = MARGIN_US + error_ms * 1000;
    let verdict = books.judge(&scene.bank, &recorded.seen.truth, target, margin);
    let problems = verdict.problems();
    ensure!(problems.is_empty(), "not whole: {}", problems.join("; "));
    let aborted = recorded.seen.aborted.iter().find(|id| books.ledger.contains_key(id));
    ensure!(aborted.is_none(), "{aborted:?} was rolled back, and is in the ledger");
    proof::parameters_reset(&servers).await?;
    proof::metadata_is_new(&servers).await?;
    proof::citus_agrees(Kind::Citus, &servers, verdict.expected_total).await?;
    drop(servers);
    remove(&landing.directory)?;
    let distances = plan.nodes.iter().filter_map(|node| node.before_target_micros);
    Ok(Done {
        target,
        nodes: nodes.len(),
        error_ms,
        torn_by_time: plan.torn_by_time.len(),
        settled: plan.settle.len(),
        left_out: plan.left_out.len(),
        moved: plan.moves.len(),
        distance_us: distances.max().unwrap_or(0),
        seconds,
        transfers: verdict.transfers,
    })
}

/// Reads the books through Citus, and what is prepared on each node.
pub(crate) async fn read(servers: &[Server]) -> anyhow::Result<Books> {
    let mut books = Books::default();
    let coordinator = servers.first().context("a coordinator")?.connect(DATABASE).await?;
    for row in coordinator.query("select id, balance from accounts", &[]).await? {
        books.balances.insert(row.get(0), row.get(1));
    }
    for row in coordinator.query("select id, source, target, amount from ledger", &[]).await? {
        books.ledger.insert(row.get(0), (row.get(1), row.get(2), row.get(3)));
    }
    for server in servers {
        for row in server.connect(DATABASE).await?.query("select gid from pg_prepared_xacts", &[]).await? {
            books.prepared.push(format!("{} on {}", row.get::<_, String>(0), server.name));
        }
    }
    Ok(books)
}

/// Prints the figures of all restores.
fn tell(done: &[Done]) {
    for error_ms in [0, 5, 50, 500] {
        let of: Vec<&Done> = done.iter().filter(|one| one.error_ms == error_ms).collect();
        if of.is_empty() {
            continue;
        }
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[values.len() - 1])
        };
        let (median, most) = middle(of.iter().map(|one| one.distance_us as f64 / 1000.0).collect());
        let (seconds, longest) = middle(of.iter().map(|one| one.seconds).collect());
        say!(
            "clocks off by {error_ms} ms: {} restores, torn: 0; before the moment: median {median:.1} ms, most {most:.1} ms; \
             a time target per node would have torn {}; seconds: median {seconds:.1}, most {longest:.1}",
            of.len(),
            of.iter().filter(|one| one.torn_by_time > 0).count(),
        );
    }
}
