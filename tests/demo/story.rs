//! The story, part by part.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::clock;
use pitrus::moment::Moment;

use crate::table::Table;
use crate::world::{
    Bank, Cluster, ClusterOptions, DATABASE, Ears, Folder, Kind, Landing, Load, LoadOptions, Protected,
    Server, Stop, Truth, Verdict, faketime, open_hba, proof, remove, text,
};

/// Clients' and servers' clocks are one here; this much is left for their queues, in microseconds.
const MARGIN_US: i64 = 250_000;
const SKEW_MS: i32 = 50;
const ACCOUNTS: i64 = 600;
const LOAD: LoadOptions = LoadOptions { clients: 3, pause: Duration::ZERO };

pub(crate) struct Plot {
    pub(crate) kind: Kind,
    pub(crate) pitrus: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) keep: bool,
}

pub(crate) async fn tell(plot: &Plot) -> anyhow::Result<()> {
    let mut folder = Folder::new()?;
    if plot.keep {
        folder.keep();
    }
    let folder = Arc::new(folder);
    println!("everything happens in {}", folder.path().display());
    let mut table = Table::new();

    let (mut cluster, bank) = source(plot.kind, &folder).await?;
    table.done("cluster", describe(&cluster, &bank).await?);
    let mut protected = protect(&cluster, &plot.pitrus).await?;
    table.done("first backups", "an agent beside each node; three encrypted zones");
    let (target, truth, rate) = load(&cluster, &bank, plot.seconds).await?;
    table.done("load", format!("{rate:.0} distributed transactions a second, from two initiators"));
    println!("   the moment to come back to is {target}, in the middle of the load");

    disaster(&mut cluster, &mut protected).await?;
    table.done("disaster", "table dropped, all data directories and zone b destroyed");

    // Where the destroyed cluster was, somebody listens: a restore must not come by.
    let ears = Ears::on(&protected.ports).await?;
    let landing = Landing::choose(&folder, "restored", &protected.nodes)?;
    let plan = plan(&protected, target).await?;
    table.done("restore plan", plan);
    restore(&protected, &landing, target).await?;
    table.done("restore run", "every node replayed to its record, settled, closed");

    let servers = landing.start(&folder)?;
    proof::closed(&servers).await?;
    open_hba(&folder, &servers)?;
    let verdict = bank.read(&servers).await?.judge(&bank, &truth, target, MARGIN_US);
    prove(plot.kind, &servers, &verdict).await?;
    ensure!(ears.heard() == 0, "{} connections came to the destroyed cluster's ports", ears.heard());
    table.done("proof", summary(&verdict));
    let again = resume(plot.kind, servers, &bank, &folder).await?;
    table.done("back in use", format!("{again} new distributed transactions on the restored cluster"));

    table.print();
    if plot.keep {
        println!("\nkept: {} (all servers are stopped)", folder.path().display());
    }
    Ok(())
}

async fn source(kind: Kind, folder: &Arc<Folder>) -> anyhow::Result<(Cluster, Bank)> {
    let mut options = ClusterOptions::of(kind);
    // As in life: one clock is a little off.
    options.skew_ms = if faketime().is_ok() { SKEW_MS } else { 0 };
    for (name, value, _) in proof::CHANGED {
        options.settings.push((name.to_owned(), value.to_owned()));
    }
    let cluster = Cluster::start(folder, &options).await?;
    let bank = Bank::open(&cluster, ACCOUNTS).await?;
    Ok((cluster, bank))
}

async fn describe(cluster: &Cluster, bank: &Bank) -> anyhow::Result<String> {
    let version = cluster.coordinator()?.value(DATABASE, "show server_version").await?.unwrap_or_default();
    let version = version.split(' ').next().unwrap_or_default().to_owned();
    let citus = "select extversion from pg_extension where extname = 'citus'";
    let what = match cluster.coordinator()?.value(DATABASE, citus).await? {
        Some(citus) => format!("PostgreSQL {version} with Citus {citus}"),
        None => format!("PostgreSQL {version}, no Citus: its two-phase protocol is driven by the demo"),
    };
    Ok(format!("{what}; a coordinator, two workers, {} accounts (fsync off)", bank.accounts()))
}

async fn protect(cluster: &Cluster, built: &std::path::Path) -> anyhow::Result<Protected> {
    let mut protected = Protected::set_up(cluster, built).await?;
    let check = protected.run_on(0, &["check"]).await?.ok()?;
    println!("{}", indented(&check.out));
    protected.start_agents()?;
    protected.wait_for_backups(Duration::from_secs(60)).await?;
    let info = protected.run_on(0, &["info"]).await?.ok()?;
    println!("{}", indented(&info.out));
    Ok(protected)
}

async fn load(cluster: &Cluster, bank: &Bank, seconds: u64) -> anyhow::Result<(Moment, Truth, f64)> {
    let began = clock::now();
    let load = Load::start(cluster, bank, LOAD).await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let target = clock::now();
    let until_target = load.acknowledged();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let truth = load.stop().await?;
    if let Some(failure) = truth.failures.first() {
        anyhow::bail!("a client of the load failed: {failure}");
    }
    let rate = until_target as f64 / (target.micros_since(began) as f64 / 1e6);
    Ok((target, truth, rate))
}

/// A mistake, then worse: nothing is left but two zones, and the key.
async fn disaster(cluster: &mut Cluster, protected: &mut Protected) -> anyhow::Result<()> {
    match cluster.kind {
        Kind::Citus => cluster.coordinator()?.run(DATABASE, "drop table ledger").await?,
        Kind::Plain => {
            for worker in cluster.nodes.iter().skip(1) {
                worker.run(DATABASE, "drop table ledger").await?;
            }
        }
    }
    protected.wait_for_wal(&cluster.nodes).await?;
    cluster.destroy()?;
    protected.kill_agents()?;
    remove(&protected.zones[1])
}

/// Runs a command from the two zones that are left.
async fn run(protected: &Protected, arguments: &[&str]) -> anyhow::Result<String> {
    Ok(protected.run_with(&[0, 2], arguments).await?.ok()?.out)
}

/// Prints the plan, and returns what stopping each node by its own clock would have done.
async fn plan(protected: &Protected, target: Moment) -> anyhow::Result<String> {
    let time = target.to_string();
    println!("{}", indented(&run(protected, &["restore", "plan", "--time", &time]).await?));
    let json = run(protected, &["restore", "plan", "--time", &time, "--output", "json"]).await?;
    let plan: serde_json::Value = serde_json::from_str(&json).context("the plan as JSON")?;
    let torn = plan.get("torn_by_time").and_then(serde_json::Value::as_array);
    let torn = torn.context("the plan has torn_by_time")?.len();
    if faketime().is_err() {
        return Ok(format!("nothing torn; a time per node would tear {torn}, were all clocks one as here"));
    }
    ensure!(torn > 0, "the clock that is off tears nothing: the load was too light");
    Ok(format!(
        "nothing torn; a time per node would tear {torn} transactions, as worker1's clock is {SKEW_MS} ms ahead"
    ))
}

async fn restore(protected: &Protected, landing: &Landing, target: Moment) -> anyhow::Result<()> {
    let time = target.to_string();
    let targets = text(&landing.targets)?;
    let said =
        run(protected, &["restore", "run", "--time", &time, "--as", "bank-restored", "--targets", targets])
            .await?;
    println!("{}", indented(&said));
    Ok(())
}

async fn prove(kind: Kind, servers: &[Server], verdict: &Verdict) -> anyhow::Result<()> {
    let problems = verdict.problems();
    ensure!(problems.is_empty(), "the restored cluster is not whole: {}", problems.join("; "));
    ensure!(verdict.must_in > 0 && verdict.must_out > 0, "the load did not surround the moment");
    proof::parameters_reset(servers).await?;
    proof::metadata_is_new(servers).await?;
    proof::citus_agrees(kind, servers, verdict.expected_total).await
}

fn summary(verdict: &Verdict) -> String {
    format!(
        "money conserved; every account agrees with {} ledger rows; {} known transfers are in, {} out; \
         no prepared transaction; parameters reset; TCP refused; nobody came to the old ports",
        verdict.transfers, verdict.must_in, verdict.must_out
    )
}

/// Puts the restored cluster under load, and judges its books once more.
async fn resume(
    kind: Kind,
    servers: Vec<Server>,
    bank: &Bank,
    folder: &Arc<Folder>,
) -> anyhow::Result<usize> {
    let mut cluster = Cluster { kind, nodes: servers, folder: Arc::clone(folder) };
    let load = Load::start_after(&cluster, bank, LOAD, 1).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let truth = load.stop().await?;
    if let Some(failure) = truth.failures.first() {
        anyhow::bail!("a client of the restored cluster failed: {failure}");
    }
    let problems = bank.read(&cluster.nodes).await?.judge(bank, &truth, clock::now(), 0).problems();
    ensure!(problems.is_empty(), "after new transfers: {}", problems.join("; "));
    cluster.stop(Stop::Fast)?;
    Ok(truth.transfers.len())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}
