//! Makes `fixtures/wal/citus`: real WAL of a real Citus cluster under load, with what its clients saw and
//! what PostgreSQL's own reader finds in it; and [`versions`], WAL of plain servers. Run by `scripts/fixtures`;
//! the tests that read it run everywhere.

mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pitrus::lsn::Lsn;
use serde_json::json;

use crate::world::{
    Bank, Cluster, ClusterOptions, DATABASE, Folder, Kind, Load, LoadOptions, Server, Truth, bin_dir,
};

const SEGMENT: u64 = 1 << 20;
const LOAD: LoadOptions = LoadOptions { clients: 2, pause: Duration::from_millis(1) };
const COMPRESSIONS: [&str; 4] = ["off", "pglz", "lz4", "zstd"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes fixtures/: run scripts/fixtures"]
async fn make() {
    if Kind::Citus.can_run("fixtures::make") {
        let target = PathBuf::from(std::env::var_os("PITRUS_FIXTURES").expect("scripts/fixtures names it"));
        made(&target).await.unwrap();
    }
}

async fn made(target: &Path) -> anyhow::Result<()> {
    let folder = Arc::new(Folder::new()?);
    let mut options = ClusterOptions::of(Kind::Citus);
    options.wal_segment_mib = 1;
    // Nothing but the load, and everything it wrote still there at the end.
    for (name, value) in [("autovacuum", "off"), ("checkpoint_timeout", "1h"), ("wal_keep_size", "1GB")] {
        options.settings.push((name.to_owned(), value.to_owned()));
    }
    let cluster = Cluster::start(&folder, &options).await?;
    let bank = Bank::open(&cluster, 32).await?;
    let mut starts = Vec::new();
    for node in &cluster.nodes {
        node.run(DATABASE, "checkpoint; select pg_switch_wal()").await?;
        node.run(DATABASE, "checkpoint").await?;
        starts.push(Lsn(lsn(node).await?.0 / SEGMENT * SEGMENT));
    }
    let truth = history(&cluster, &bank).await?;
    let mut nodes = Vec::new();
    for (node, start) in cluster.nodes.iter().zip(starts) {
        nodes.push(save(node, start, target).await?);
    }
    write_truth(target, &nodes, &truth)
}

/// Transfers while the pages of `pg_dist_transaction` are logged in every form there is, and some
/// transactions of other kinds between them.
async fn history(cluster: &Cluster, bank: &Bank) -> anyhow::Result<Truth> {
    let mut truth = Truth::default();
    for (run, compression) in COMPRESSIONS.into_iter().enumerate() {
        for node in &cluster.nodes {
            let client = node.connect(DATABASE).await?;
            client.batch_execute(&format!("alter system set wal_compression = '{compression}'")).await?;
            client.batch_execute("select pg_reload_conf()").await?;
            client.batch_execute("checkpoint").await?;
        }
        let load = Load::start_after(cluster, bank, LOAD, run as i64).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        if run == 1 {
            others(cluster).await?;
        }
        let seen = load.stop().await?;
        ensure!(seen.failures.is_empty(), "the load failed: {:?}", seen.failures);
        truth.transfers.extend(seen.transfers);
    }
    Ok(truth)
}

/// Subtransactions, rollbacks, a prepared transaction that is not Citus's, a restore point.
async fn others(cluster: &Cluster) -> anyhow::Result<()> {
    let coordinator = cluster.coordinator()?;
    coordinator
        .run(
            DATABASE,
            "begin;
             insert into ledger select n, 0, 0, 0, 0 from generate_series(1, 20) n;
             savepoint a; insert into ledger select n, 0, 0, 0, 0 from generate_series(21, 40) n;
             rollback to a;
             savepoint b; insert into ledger select n, 0, 0, 0, 0 from generate_series(41, 60) n;
             commit",
        )
        .await?;
    coordinator.run(DATABASE, "begin; insert into ledger values (61, 0, 0, 0, 0); rollback").await?;
    coordinator.run(DATABASE, "select citus_create_restore_point('in-the-middle')").await?;
    for (sql, node) in [
        ("create table notes (n int)", 0),
        ("begin; insert into notes values (1); prepare transaction 'not-citus'", 0),
        ("commit prepared 'not-citus'", 0),
        ("begin; insert into notes values (2); prepare transaction 'left-open'", 0),
    ] {
        cluster.nodes[node].run(DATABASE, sql).await?;
    }
    Ok(())
}

async fn lsn(node: &Server) -> anyhow::Result<Lsn> {
    let text = node.value(DATABASE, "select pg_current_wal_insert_lsn()").await?.context("an LSN")?;
    text.parse().context("an LSN")
}

/// Saves a node's segments from `start` on, compressed, and PostgreSQL's own list of its transaction records.
async fn save(node: &Server, start: Lsn, target: &Path) -> anyhow::Result<serde_json::Value> {
    let end = lsn(node).await?;
    let folder = target.join(&node.name);
    std::fs::create_dir_all(&folder)?;
    let mut segments = Vec::new();
    for number in start.0 / SEGMENT..=end.0 / SEGMENT {
        let name = format!("00000001{:08X}{:08X}", number / 4096, number % 4096);
        let mut bytes = std::fs::read(node.data.join("pg_wal").join(&name)).context(name.clone())?;
        // What follows the end is an older segment's, recycled.
        if number == end.0 / SEGMENT {
            let valid = usize::try_from(end.0 % SEGMENT)?;
            bytes[valid..].fill(0);
        }
        std::fs::write(folder.join(format!("{name}.zst")), zstd::encode_all(bytes.as_slice(), 19)?)?;
        segments.push(name);
    }
    let dump = std::process::Command::new(bin_dir().map_err(anyhow::Error::msg)?.join("pg_waldump"))
        .args(["--path".as_ref(), node.data.join("pg_wal").as_os_str()])
        .args(["--start", &start.to_string(), "--end", &end.to_string(), "--rmgr", "Transaction"])
        .output()?;
    ensure!(dump.status.success(), "pg_waldump: {}", String::from_utf8_lossy(&dump.stderr));
    let records: String = String::from_utf8(dump.stdout)?.lines().filter_map(record).collect();
    std::fs::write(folder.join("transactions.txt.zst"), zstd::encode_all(records.as_bytes(), 19)?)?;
    let group = node.value(DATABASE, "select groupid from pg_dist_local_group").await?.context("a group")?;
    let database = format!("select oid from pg_database where datname = '{DATABASE}'");
    Ok(json!({
        "name": node.name,
        "group": group.parse::<i32>()?,
        "database": node.value(DATABASE, &database).await?.context("an oid")?.parse::<u32>()?,
        "start": start.to_string(),
        "end": end.to_string(),
        "segments": segments,
    }))
}

/// Returns `LSN xid KIND rest` of a line of pg_waldump; time stamps are in the rest.
fn record(line: &str) -> Option<String> {
    let lsn = line.split("lsn: ").nth(1)?.split(',').next()?;
    let xid = line.split("tx: ").nth(1)?.split(',').next()?.trim();
    let description = line.split("desc: ").nth(1)?;
    Some(format!("{lsn} {xid} {description}\n"))
}

fn write_truth(target: &Path, nodes: &[serde_json::Value], truth: &Truth) -> anyhow::Result<()> {
    let transfers: Vec<serde_json::Value> = truth
        .transfers
        .iter()
        .map(|t| json!([t.id, t.initiator, t.began.to_string(), t.acknowledged.map(|at| at.to_string())]))
        .collect();
    let all = json!({ "nodes": nodes, "transfers": transfers });
    let text = serde_json::to_vec(&all)?;
    std::fs::write(target.join("truth.json.zst"), zstd::encode_all(text.as_slice(), 19)?)?;
    Ok(())
}
