//! The commands that run one job and say what it did: backup, expire, repair.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args;
use super::failure::{Failure, exit};
use super::info::bytes;
use super::open::Place;
use super::progress;
use crate::backup::{self, BackupOptions, BackupReport};
use crate::config::Settings;
use crate::expire::{self, ExpireOptions};
use crate::node::{NodeFacts, pgdata};
use crate::repair;
use crate::vault::Access;

const SETTLE_MOST: Duration = Duration::from_secs(30);

/// Takes a base backup of this node. Damaged pages are told by the exit code: the backup is kept.
pub(super) async fn backup(settings: &Settings, args: &args::Backup) -> Result<ExitCode, Failure> {
    let (node, postgres) = settings.own_node()?;
    let connection = postgres.server.options()?;
    let facts = NodeFacts::read(&connection).await?;
    facts.supported()?;
    pgdata::refuse_clone(&facts.data_directory, &settings.cluster)?;
    let vault = Place::of(settings)?.vault(Access::Write).await?;
    let options = BackupOptions {
        level: args.level.unwrap_or(settings.backup.level),
        threads: settings.backup.threads,
        rewrite_percent: settings.backup.rewrite_percent,
        pace: settings.backup.pace,
        full: args.full,
        paranoid: args.paranoid,
        ..BackupOptions::new(settings.cluster.clone(), node.clone())
    };
    let bar = progress::Backup::new();
    let report = backup::run(&options, &vault, &connection, bar.clone()).await;
    bar.end();
    let report = report?;
    // The zones beyond the quorum; what does not get there now is repaired later.
    vault.zones().settle(SETTLE_MOST).await;
    println!(
        "backup {} of node {node}: {} files, {}; {} read, {} stored in each zone",
        report.backup,
        report.files,
        bytes(report.bytes),
        bytes(report.read),
        bytes(report.stored)
    );
    match (&report.goes_on, &report.full_because) {
        (Some(backup), _) => println!("what did not change is shared with backup {backup}"),
        (None, Some(why)) => println!("everything was read: {why}"),
        (None, None) => {}
    }
    println!("restorable from {} on", report.stopped_at);
    for path in &report.left_out {
        println!("left out: {path} is neither a file nor a folder");
    }
    unlogged(&report, &facts);
    if !report.is_damaged() && (report.unlogged.is_empty() || !facts.data_checksums) {
        return Ok(ExitCode::SUCCESS);
    }
    for page in &report.bad_pages {
        println!("DAMAGED on the server: {} block {}", page.path, page.block);
    }
    if report.bad_pages_more > 0 {
        println!("DAMAGED on the server: {} more pages", report.bad_pages_more);
    }
    Ok(ExitCode::from(exit::DAMAGE))
}

/// Tells of pages that changed without a word in the WAL. They are in the backup as they are now.
fn unlogged(report: &BackupReport, facts: &NodeFacts) {
    for page in &report.unlogged {
        println!("CHANGED without WAL: {} block {}", page.path, page.block);
    }
    if report.unlogged_more > 0 {
        println!("CHANGED without WAL: {} more pages", report.unlogged_more);
    }
    if !report.unlogged.is_empty() && !facts.data_checksums {
        println!("without page checksums, hint bits are set so: that does no harm");
    }
}

pub(super) async fn expire(settings: &Settings, args: &args::Expire) -> Result<(), Failure> {
    let access = if args.dry_run { Access::Read } else { Access::Write };
    let vault = Place::of(settings)?.vault(access).await?;
    let options = ExpireOptions { window_days: settings.retention_days, dry_run: args.dry_run };
    let report = expire::run(options, &vault).await?;
    let verb = if report.dry_run { "would delete" } else { "deleted" };
    for (node, of_node) in &report.nodes {
        if let Some(why) = &of_node.skipped {
            println!("node {node}: nothing deleted: {why}");
            continue;
        }
        println!(
            "node {node}: {verb} {} backups, {} packs, {} WAL segments: {} in each zone",
            of_node.backups.len(),
            of_node.packs,
            of_node.segments,
            bytes(of_node.bytes)
        );
        for backup in &of_node.backups {
            println!("  backup {backup}");
        }
    }
    for (zone, objects) in &report.left {
        println!("zone {zone} did not delete {objects} objects: the next run tries again");
    }
    Ok(())
}

/// Brings every zone to hold every object. What could not be done is told by the exit code.
pub(super) async fn repair(args: &args::Repair, config: &Path) -> Result<ExitCode, Failure> {
    let vault = Place::find(&args.vault, config)?.vault(Access::Write).await?;
    let report = repair::run(&vault, args.deep).await?;
    println!("{} objects are stored", report.objects);
    for (zone, objects) in &report.copied {
        println!("zone {zone}: {objects} objects copied from the others");
    }
    for (zone, objects) in &report.replaced {
        println!("zone {zone}: {objects} damaged objects replaced");
    }
    if report.deleted + report.leftovers > 0 {
        println!("deleted: {} objects that nothing needs, {} leftovers", report.deleted, report.leftovers);
    }
    for (zone, why) in &report.silent {
        println!("zone {zone} DOES NOT ANSWER: {why}");
    }
    for object in &report.unreadable {
        println!("LOST: {object}: no zone has a copy that opens");
    }
    for object in &report.conflicts {
        println!("CONFLICT: {object}: zones hold different copies, and both open");
    }
    for what in &report.left {
        println!("left: {what}");
    }
    Ok(match &report {
        report if report.is_whole() => ExitCode::SUCCESS,
        report if !report.unreadable.is_empty() || !report.conflicts.is_empty() => {
            ExitCode::from(exit::DAMAGE)
        }
        _ => ExitCode::from(exit::TRANSIENT),
    })
}
