//! Base backups of real servers: what is restored from one is a server, byte for byte.

mod fetched;
mod incremental;
mod site;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pitrus::backup::{self, DiskPriority, Error, Pace, Silent};
use pitrus::class::{Class, Classified};
use pitrus::manifest::backup::Kind;

use crate::world::{self, Server, ServerOptions, Stop, say};
use fetched::Fetched;
use site::{Site, file_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_becomes_a_server() {
    if !world::can_run("a_backup_under_load_becomes_a_server") {
        return;
    }
    let mut site = Site::start(ServerOptions::named("one").set("wal_keep_size", "4GB")).await;
    let fast = site.folder.folder("fast").unwrap();
    let place = format!("create tablespace fast location '{}'", fast.display());
    site.server.run("postgres", &place).await.unwrap();
    site.server.run("postgres", "create database bench tablespace fast").await.unwrap();
    site.pgbench(&["-i", "-q", "-s", "5", "bench"]).status().unwrap();
    let check = site.amcheck("bench").await;
    let unlogged = "create unlogged table lost (n int); insert into lost select generate_series(1, 9999)";
    site.server.run("bench", unlogged).await.unwrap();
    site.server.run("bench", "begin; create table later (n int); prepare transaction 'held'").await.unwrap();

    let mut load = site.pgbench(&["-c", "3", "-T", "600", "bench"]).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = site.backup().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.kill().unwrap();
    load.wait().unwrap();
    assert!(report.bad_pages.is_empty() && report.left_out.is_empty(), "{report:?}");
    assert!(report.stop_lsn > report.start_lsn && report.bytes > 100 << 20);

    let held = site.value("bench", "select sum(abalance) from pgbench_accounts").await;
    let end = site.archive_all().await;
    let target = site.folder.folder("copy").unwrap();
    let moved = site.folder.folder("copy/fast").unwrap();
    let copy = Fetched::new(&site, &report.backup, &target.join("data"), &moved).await;
    assert_eq!(copy.foot.prepared.iter().map(|p| p.gid.as_str()).collect::<Vec<_>>(), ["held"]);
    assert_eq!(copy.foot.superuser, "postgres");
    assert!(copy.foot.settings.iter().any(|s| s.name == "max_connections" && s.value == "200"));
    assert_eq!(copy.foot.parameters.max_prepared_transactions, 200);
    assert_eq!(copy.foot.hba.first().map(|rule| rule.contains("trust")), Some(true), "{:?}", copy.foot.hba);
    let mut restored = copy.recover(&site, end).await;
    assert_eq!(restored.value("bench", "select sum(abalance) from pgbench_accounts").await.unwrap(), held);
    let sums =
        "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)
        and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)";
    assert_eq!(restored.value("bench", sums).await.unwrap().as_deref(), Some("t"));
    assert_eq!(restored.value("bench", "select count(*) from lost").await.unwrap().as_deref(), Some("0"));
    restored.run("bench", check).await.unwrap();
    restored.run("bench", "rollback prepared 'held'").await.unwrap();
    restored.stop(Stop::Fast).unwrap();
    site.checksums_are_right(&restored);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_the_servers_own() {
    if !world::can_run("every_file_is_the_servers_own") {
        return;
    }
    let mut site = Site::start(ServerOptions::named("one").set("autovacuum", "off")).await;
    let rows = "create table t as select n, md5(n::text) from generate_series(1, 100000) n";
    site.server.run("postgres", rows).await.unwrap();
    site.server.run("postgres", "vacuum t").await.unwrap();
    let large = site.server.data.join("large.bin");
    fs::write(&large, noise(70)).unwrap();
    let report = site.backup().await.unwrap();
    site.server.stop(Stop::Immediate).unwrap();
    let target = site.folder.folder("copy").unwrap();
    let copy = Fetched::new(&site, &report.backup, &target, &target).await;
    let mut compared = 0;
    for entry in &copy.entries {
        let Kind::File { size, .. } = &entry.kind else { continue };
        let (theirs, ours) = (site.server.data.join(&entry.path), target.join(&entry.path));
        let theirs = fs::read(&theirs).unwrap_or_default();
        assert_eq!(fs::read(&ours).unwrap().len() as u64, *size);
        // The server goes on writing these at its end.
        if !["global/pg_control", "pg_xact/0000"].contains(&entry.path.as_str()) {
            assert!(theirs == fs::read(&ours).unwrap(), "{}", entry.path);
            compared += 1;
        }
    }
    assert!(compared > 900, "{compared}");
    assert_eq!(file_modes(&copy), file_modes_on_disk(&site.server, &copy));
    assert!(copy.entries.iter().any(|e| e.path == "pg_notify" && e.kind == Kind::Folder && e.mode == 0o700));
    site.end().await;
}

fn file_modes(copy: &Fetched) -> BTreeMap<&str, u32> {
    copy.entries.iter().map(|entry| (entry.path.as_str(), entry.mode)).collect()
}

fn file_modes_on_disk<'a>(server: &Server, copy: &'a Fetched) -> BTreeMap<&'a str, u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    copy.entries.iter().map(|entry| (entry.path.as_str(), mode(&server.data.join(&entry.path)))).collect()
}

/// Mebibytes that do not compress, each beginning with its number.
fn noise(mebibytes: u32) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut block = vec![0; 1 << 20];
    for word in block.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut all = Vec::with_capacity(block.len() * mebibytes as usize);
    for number in 0..mebibytes {
        block[..4].copy_from_slice(&number.to_le_bytes());
        all.extend_from_slice(&block);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_listed_and_the_backup_is_kept() {
    if !world::can_run("damaged_pages_are_listed_and_the_backup_is_kept") {
        return;
    }
    let mut site = Site::start(ServerOptions::named("one")).await;
    site.server.run("postgres", "create table t as select generate_series(1, 500000) n").await.unwrap();
    let path = file_of(&site.server, "t").await;
    site.server.stop(Stop::Fast).unwrap();
    let place = site.server.data.join(&path);
    let mut bytes = fs::read(&place).unwrap();
    bytes[3 * 8192 + 4000] ^= 1;
    // An LSN that no WAL of this server has reached excuses nothing.
    bytes[200 * 8192 + 2] ^= 1;
    fs::write(&place, bytes).unwrap();
    site.server.start().unwrap();
    site.restart_archiver().await;
    let report = site.backup().await.unwrap();
    let blocks: Vec<_> = report.bad_pages.iter().map(|page| (page.path.as_str(), page.block)).collect();
    assert_eq!(blocks, [(path.as_str(), 3), (path.as_str(), 200)]);
    assert!(report.is_damaged());
    let summary = site.vault.backup_ends(&site.node, &report.backup).await.unwrap();
    assert!(summary.foot.is_damaged());
    assert_eq!(summary.foot.bad_pages, report.bad_pages);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_there_is_no_backup() {
    if !world::can_run("without_an_agent_there_is_no_backup") {
        return;
    }
    let mut site = Site::start(ServerOptions::named("one")).await;
    // A second one at the same time is refused.
    let session = site.server.connect("postgres").await.unwrap();
    session.batch_execute("select pg_advisory_lock(8100133439748129355)").await.unwrap();
    let error = site.backup().await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error:?}");
    session.batch_execute("select pg_advisory_unlock_all()").await.unwrap();

    site.stop_archiver().await;
    site.server.run("postgres", "create table t as select generate_series(1, 100000)").await.unwrap();
    let options = backup::BackupOptions { wal_patience: Duration::from_secs(2), ..site.options() };
    let error = backup::run(&options, &site.vault, &site.connection, Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(error, Error::NotArchived { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().contains("no agent archives node one"), "{error}");
    let listing = site.vault.list("nodes/one/packs").await.unwrap();
    assert!(listing.objects.is_empty(), "{:?}", listing.objects);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_reads_no_faster_than_it_may() {
    if !world::can_run("a_backup_reads_no_faster_than_it_may") {
        return;
    }
    let site = Site::start(ServerOptions::named("one")).await;
    let max_rate = std::num::NonZeroU64::new(10_000_000);
    let pace = Pace { max_rate, nice: 5, disk: Some(DiskPriority::Idle) };
    let began = std::time::Instant::now();
    let report = site.backup_with(&backup::BackupOptions { pace, ..site.options() }).await.unwrap();
    let took = began.elapsed().as_secs_f64();
    // What each of the two threads reads last is paid for by nobody.
    let paid = report.read.saturating_sub(2 << 20) as f64 / 10e6;
    assert!(report.read > 15 << 20 && took >= paid, "{took} s for {} bytes", report.read);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing_behind() {
    if !world::can_run("what_is_given_up_leaves_nothing_behind") {
        return;
    }
    let site = Site::start(ServerOptions::named("one")).await;
    fs::write(site.server.data.join("large.bin"), noise(300)).unwrap();
    // Dropped in the middle, as an agent does that is told to stop.
    for after_ms in [30, 300, 600] {
        let _ = tokio::time::timeout(Duration::from_millis(after_ms), site.backup()).await;
    }
    let sessions = "select count(*) from pg_stat_activity where usename = 'pitrus' and query like '%backup%'";
    for _ in 0..50 {
        if site.value("postgres", sessions).await.as_deref() == Some("0") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(site.value("postgres", sessions).await.as_deref(), Some("0"));
    // A broken data directory: the packs so far are taken back.
    std::os::unix::fs::symlink("loop", site.server.data.join("base/loop")).unwrap();
    let report = site.backup().await.unwrap();
    assert_eq!(report.left_out, ["base/loop"]);
    let own = site.vault.list("nodes/one/backups").await.unwrap();
    assert_eq!(own.objects.len(), 1);
    site.end().await;
}

/// Prints how fast a backup is and what it takes. The archiver runs in the same process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and prints figures only"]
async fn figures() {
    let options = ServerOptions::named("one").set("max_wal_size", "4GB").set("wal_keep_size", "4GB");
    let mut site = Site::start(options).await;
    site.pgbench(&["-i", "-q", "-s", "60", "postgres"]).status().unwrap();
    let mixed = "create table mixed as select gen_random_uuid(), md5(n::text), n, now() from generate_series(1, 5000000) n";
    site.server.run("postgres", mixed).await.unwrap();
    site.server.run("postgres", "checkpoint").await.unwrap();
    site.archive_all().await;
    for (level, threads) in [(1, 1), (1, 2), (3, 2), (1, 8)] {
        let options = backup::BackupOptions { level, threads, full: true, ..site.options() };
        let (cpu, began) = (cpu_seconds(), std::time::Instant::now());
        let report = backup::run(&options, &site.vault, &site.connection, Arc::new(Silent)).await.unwrap();
        let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        say!(
            "level {level}, {threads} threads: {:.0} MB in {wall:.1} s ({:.0} MB/s), cpu {cpu:.1} s, stored {:.0} MB, peak {}",
            megabytes(report.bytes),
            megabytes(report.bytes) / wall,
            megabytes(report.stored),
            status("VmHWM"),
        );
    }
    site.end().await;
}

fn status(name: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
