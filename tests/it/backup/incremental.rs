//! Backups that go on from older ones: they read what changed, and are as whole as any.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pitrus::backup::{BackupOptions, BackupReport};
use pitrus::clock;
use pitrus::ids::BackupId;
use pitrus::manifest::backup::Kind;
use pitrus::manifest::node::NodeDoc;
use pitrus::manifest::{self, Document};
use pitrus::node::NodeFacts;
use pitrus::retention;
use pitrus::vault::{self, NodeCatalog, ObjectName};

use super::fetched::Fetched;
use super::site::{Site, file_of};
use crate::world::{self, ServerOptions, Stop};

const PAGE: u64 = 8192;

fn quiet() -> ServerOptions {
    ServerOptions::named("one").set("autovacuum", "off").set("wal_keep_size", "4GB")
}

/// A table of 100 MB or so, and an index.
const TABLE: &str = "create table t (id int primary key, n int, filler text);
    insert into t select i, 0, repeat('x', 300) from generate_series(1, 200000) i";

async fn fill(site: &Site) {
    site.server.run("postgres", TABLE).await.unwrap();
    site.server.run("postgres", "vacuum freeze t").await.unwrap();
}

async fn paranoid(site: &Site) -> BackupReport {
    let options = BackupOptions { paranoid: true, ..site.options() };
    site.backup_with(&options).await.unwrap()
}

/// Compares every relation file with the server's own, which must have been stopped without a checkpoint since.
fn same_files(site: &Site, copy: &Fetched, target: &Path) -> usize {
    let mut compared = 0;
    for entry in &copy.entries {
        let Kind::File { size, .. } = &entry.kind else { continue };
        let ours = fs::read(target.join(&entry.path)).unwrap();
        assert_eq!(ours.len() as u64, *size);
        if !["global/pg_control", "pg_xact/0000"].contains(&entry.path.as_str()) {
            let theirs = fs::read(site.server.data.join(&entry.path)).unwrap_or_default();
            assert!(theirs == ours, "{}", entry.path);
            compared += 1;
        }
    }
    compared
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_backup_reads_what_changed_and_is_whole() {
    if !world::can_run("an_incremental_backup_reads_what_changed_and_is_whole") {
        return;
    }
    let mut site = Site::start(quiet()).await;
    fill(&site).await;
    let full = site.backup().await.unwrap();
    assert!(full.goes_on.is_none() && full.full_because.is_some(), "{full:?}");
    assert!(full.read >= full.bytes && full.bytes > 70 << 20, "{full:?}");

    // One row on each of a few hundred pages.
    site.server.run("postgres", "update t set n = 1 where id % 400 = 7").await.unwrap();
    let second = site.backup().await.unwrap();
    assert_eq!(second.goes_on, Some(full.backup.clone()), "{second:?}");
    // Free space maps, the catalogue's own files and the commit log besides.
    assert!(second.read < (20 << 20) && second.read < full.read / 4, "{second:?}");

    let nothing = site.backup().await.unwrap();
    assert!(nothing.read < second.read && nothing.stored < full.stored / 4, "{nothing:?}");
    site.server.run("postgres", "delete from t where id > 150000").await.unwrap();
    site.server.run("postgres", "vacuum t").await.unwrap();
    let third = site.backup().await.unwrap();
    site.server.stop(Stop::Immediate).unwrap();
    let target = site.folder.folder("copy").unwrap();
    let copy = Fetched::new(&site, &third.backup, &target, &target).await;
    assert_eq!(copy.head.goes_on, Some(nothing.backup));
    assert!(same_files(&site, &copy, &target) > 900);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_relations_an_incremental_backup_restores() {
    if !world::can_run("whatever_happens_to_relations_an_incremental_backup_restores") {
        return;
    }
    let mut site = Site::start(quiet()).await;
    let fast = site.folder.folder("fast").unwrap();
    site.server
        .run("postgres", &format!("create tablespace fast location '{}'", fast.display()))
        .await
        .unwrap();
    site.server.run("postgres", "create database bench tablespace fast").await.unwrap();
    site.pgbench(&["-i", "-q", "-s", "3", "bench"]).status().unwrap();
    let check = site.amcheck("bench").await;
    site.backup().await.unwrap();
    let mut last = None;
    for round in 0..3 {
        let mut load = site.pgbench(&["-c", "3", "-T", "600", "bench"]).spawn().unwrap();
        let changes = [
            "create table if not exists kept as select generate_series(1, 50000) n".to_owned(),
            format!("create table made{round} as select i, md5(i::text) from generate_series(1, 30000) i"),
            format!("create index on made{round} (md5)"),
            "truncate kept".to_owned(),
            "insert into kept select generate_series(1, 9000)".to_owned(),
            "delete from kept where n > 3000".to_owned(),
            "vacuum kept".to_owned(),
            format!("alter table made{round} set tablespace pg_default"),
            format!("vacuum full made{round}"),
            format!("create unlogged table lost{round} as select generate_series(1, 3000) n"),
            "reindex table pgbench_branches".to_owned(),
        ];
        for sql in &changes {
            site.server.run("bench", sql).await.unwrap();
        }
        let copied = format!("create database copy{round} template postgres strategy file_copy");
        site.server.run("bench", &copied).await.unwrap();
        if round > 0 {
            site.server.run("bench", &format!("drop database copy{}", round - 1)).await.unwrap();
            site.server.run("bench", &format!("drop table made{}", round - 1)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let report = site.backup().await.unwrap();
        assert!(report.goes_on.is_some(), "{report:?}");
        load.kill().unwrap();
        load.wait().unwrap();
        last = Some(report);
    }
    let checked = paranoid(&site).await;
    assert!(checked.unlogged.is_empty() && checked.unlogged_more == 0, "{:?}", checked.unlogged);
    assert!(checked.goes_on.is_some());

    let state = "select row((select sum(abalance) from pgbench_accounts), (select count(*) from kept),
        (select count(*) from made2), (select count(*) from pgbench_history))::text";
    let held = site.value("bench", state).await;
    let end = site.archive_all().await;
    let target = site.folder.folder("copy").unwrap();
    let moved = site.folder.folder("copy/fast").unwrap();
    let copy = Fetched::new(&site, &last.unwrap().backup, &target.join("data"), &moved).await;
    let mut restored = copy.recover(&site, end).await;
    assert_eq!(restored.value("bench", state).await.unwrap(), held);
    restored.run("bench", check).await.unwrap();
    restored.stop(Stop::Fast).unwrap();
    site.checksums_are_right(&restored);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paranoid_backup_finds_what_no_wal_tells() {
    if !world::can_run("a_paranoid_backup_finds_what_no_wal_tells") {
        return;
    }
    let mut site = Site::start(quiet()).await;
    fill(&site).await;
    site.backup().await.unwrap();
    site.server.run("postgres", "update t set n = 1 where id = 5").await.unwrap();
    let clean = paranoid(&site).await;
    assert!(clean.unlogged.is_empty() && clean.read < clean.bytes / 4, "{clean:?}");

    // A hand in the files: the time of the file stays, and so does each page's checksum.
    let path = file_of(&site.server, "t").await;
    site.server.stop(Stop::Fast).unwrap();
    let place = site.server.data.join(&path);
    let times = fs::metadata(&place).unwrap().modified().unwrap();
    let mut bytes = fs::read(&place).unwrap();
    bytes.copy_within(40 * PAGE as usize + 100..40 * PAGE as usize + 200, 30 * PAGE as usize + 1000);
    bytes[30 * PAGE as usize + 1000] ^= 0x55;
    fs::write(&place, &bytes).unwrap();
    fs::File::options().write(true).open(&place).unwrap().set_modified(times).unwrap();
    site.server.start().unwrap();
    site.restart_archiver().await;
    let trusting = site.backup().await.unwrap();
    assert!(trusting.goes_on.is_some());
    let found = paranoid(&site).await;
    let blocks: Vec<(&str, u32)> =
        found.unlogged.iter().map(|page| (page.path.as_str(), page.block)).collect();
    assert_eq!(blocks, [(path.as_str(), 30)]);
    // And it holds the page as it is now.
    site.server.stop(Stop::Immediate).unwrap();
    let target = site.folder.folder("copy").unwrap();
    let copy = Fetched::new(&site, &found.backup, &target, &target).await;
    assert!(same_files(&site, &copy, &target) > 900);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_backups_go_and_the_newest_stays_whole() {
    if !world::can_run("older_backups_go_and_the_newest_stays_whole") {
        return;
    }
    let mut site = Site::start(quiet()).await;
    fill(&site).await;
    let first = site.backup().await.unwrap();
    site.server.run("postgres", "update t set n = 1 where id < 150000").await.unwrap();
    let mut newest = site.backup().await.unwrap();
    for _ in 0..3 {
        // Of the first backup's packs less than half is needed: they are written anew, a part each time.
        let options = BackupOptions { rewrite_percent: 50, ..site.options() };
        newest = site.backup_with(&options).await.unwrap();
    }
    let (backups, packs) = expire_in_a_week(&site).await;
    assert!(backups.contains(&first.backup) && packs > 0, "{backups:?} {packs}");
    site.server.stop(Stop::Immediate).unwrap();
    let target = site.folder.folder("copy").unwrap();
    let copy = Fetched::new(&site, &newest.backup, &target, &target).await;
    assert!(same_files(&site, &copy, &target) > 900);
    site.end().await;
}

/// Deletes what no moment from then on needs; returns what backups, and how many packs.
async fn expire_in_a_week(site: &Site) -> (Vec<BackupId>, usize) {
    let facts = NodeFacts::read(&site.connection).await.unwrap();
    let doc = NodeDoc {
        version: NodeDoc::VERSION,
        cluster: "test".parse().unwrap(),
        node: site.node.clone(),
        group: None,
        system_identifier: facts.system_identifier,
        postgres_version: facts.server_version_num,
        segment_bytes: facts.segment_bytes,
        recorded_at: clock::now(),
    };
    let (node, vault) = (&site.node, &site.vault);
    let name = ObjectName::Node { node: node.clone() };
    vault.put(&name, manifest::to_bytes(&doc).into(), 1).await.unwrap();
    let held = NodeCatalog::load(vault, node).await.unwrap().unwrap();
    let listing = vault.list(&format!("nodes/{node}")).await.unwrap();
    let names = listing.objects.iter().filter_map(|o| ObjectName::parse(vault.cluster(), &o.name));
    let names: Vec<ObjectName> = names.collect();
    let then = clock::now().plus_micros(7 * 86_400_000_000);
    let doomed = retention::decide(then, 0, &vault::holdings(&held, names.iter()));
    for step in vault::doomed_names(node, facts.segment_bytes, &doomed, names.iter()) {
        for name in step {
            vault.delete(&name).await.unwrap();
        }
    }
    (doomed.backups, doomed.packs.len())
}
