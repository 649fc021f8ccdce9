//! Restores into stopped copies: what differs is fetched, what does not belong goes, nothing else is touched.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitrus::restore::{self, RestoreOptions};

use super::{gone, options, prove, silent};
use crate::world::{Folder, Kind, Landing, NODES, Stop};

/// The files of a database that are longer than a page, longest first.
fn tables(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("base/1")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(u64, PathBuf)> =
        files.map(|path| (fs::metadata(&path).unwrap().len(), path)).collect();
    files.retain(|(length, _)| *length > 8192);
    files.sort();
    files.into_iter().rev().map(|(_, path)| path).collect()
}

/// Changes a copy in every way that a restore has to set right; returns a file that it must not touch.
fn spoil(data: &Path, outside: &Path) {
    let files = tables(data);
    let open = |n: usize| fs::File::options().write(true).open(&files[n]).unwrap();
    open(0).write_all_at(b"changed", 5000).unwrap();
    fs::remove_file(&files[1]).unwrap();
    open(2).set_len(fs::metadata(&files[2]).unwrap().len() + 8192).unwrap();
    open(3).set_len(8192).unwrap();
    fs::write(outside, "not ours").unwrap();
    fs::remove_file(&files[4]).unwrap();
    symlink(outside, &files[4]).unwrap();
    fs::remove_file(&files[5]).unwrap();
    fs::hard_link(outside, &files[5]).unwrap();
    fs::remove_file(&files[6]).unwrap();
    fs::create_dir(&files[6]).unwrap();
    fs::create_dir_all(data.join("base/99999/more")).unwrap();
    fs::write(data.join("base/99999/more/1"), "extra").unwrap();
    fs::write(data.join("standby.signal"), "").unwrap();
}

async fn refused(options: &RestoreOptions, gone: &super::Gone, why: &str) {
    let run = restore::run(options, gone.copies.clone(), gone.plan.clone(), Arc::new(silent));
    let said = run.await.unwrap_err().to_string();
    assert!(said.contains(why), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_copy_is_brought_to_the_moment() {
    if !Kind::Plain.can_run("a_stopped_copy_is_brought_to_the_moment") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let mut gone = gone(&folder, Kind::Plain).await;
    let names: Vec<String> = NODES.map(str::to_owned).to_vec();
    let landing = Landing::choose(&folder, "new", &names).unwrap();
    let plain = options(landing.targets.clone());
    restore::run(&plain, gone.copies.clone(), gone.plan.clone(), Arc::new(silent)).await.unwrap();
    for mut server in landing.start(&folder).unwrap() {
        server.stop(Stop::Fast).unwrap();
    }

    let delta = RestoreOptions { delta: true, ..plain.clone() };
    let data = landing.directory.join(NODES[1]);
    let other = gone.plan.nodes[1].stop_before.take();
    refused(&plain, &gone, "by another plan").await;
    gone.plan.nodes[1].stop_before = other;
    fs::write(data.join("postmaster.pid"), "1\n").unwrap();
    refused(&delta, &gone, "has a postmaster.pid").await;
    fs::remove_file(data.join("postmaster.pid")).unwrap();
    let own = std::mem::replace(&mut gone.plan.nodes[1].system_identifier, "77".into());
    refused(&delta, &gone, "belongs to another cluster").await;
    gone.plan.nodes[1].system_identifier = own;
    fs::rename(data.join("PG_VERSION"), data.join("x")).unwrap();
    refused(&delta, &gone, "is not a data directory of PostgreSQL").await;
    fs::rename(data.join("x"), data.join("PG_VERSION")).unwrap();

    // It fails on the way: nothing can start there, and the next run goes on.
    let outside = folder.path().join("outside");
    spoil(&data, &outside);
    let tablespaces = landing.directory.join(format!("{}-tablespaces", NODES[1]));
    assert!(tablespaces.is_dir());
    fs::create_dir_all(tablespaces.join("99999/PG_15_202209061/5")).unwrap();
    fs::write(tablespaces.join("99999/PG_15_202209061/5/16385"), "dropped").unwrap();
    gone.copies.fail(NODES[1], true);
    refused(&delta, &gone, "a file of the copy").await;
    assert!(!data.join("global/pg_control").exists());
    gone.copies.fail(NODES[1], false);
    let report =
        restore::run(&delta, gone.copies.clone(), gone.plan.clone(), Arc::new(silent)).await.unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "not ours");
    assert!(!data.join("base/99999").exists() && !data.join("standby.signal").exists());
    assert!(!tablespaces.join("99999").exists());
    for node in &report.nodes {
        let figures = node.figures;
        assert!(figures.kept > figures.bytes / 2 && figures.kept < figures.bytes, "{figures:?}");
    }
    prove(Kind::Plain, &folder, &gone, &landing, &report).await;
}
