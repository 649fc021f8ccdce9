//! Real servers for tests and the demo: PostgreSQL from its own binaries, Citus where it is installed.
//!
//! Everything lives in one temporary folder and on free ports; a server is ended by its own handle
//! only, and nothing outlives the process that made it. As root the servers run as the operating
//! system user `postgres`, since PostgreSQL refuses to run as root.
#![allow(dead_code, unreachable_pub, unused_imports)] // each of its users is a crate of its own and needs another part
#![allow(clippy::unwrap_used)] // a world that cannot be made fails its test at once

pub mod bank;
pub mod cluster;
pub mod folder;
pub mod load;
pub mod proof;
pub mod protect;
pub mod server;

use std::path::PathBuf;

pub use bank::{Bank, Books, Truth, Verdict};
pub use cluster::{Cluster, ClusterOptions, DATABASE, Kind, NODES, remove};
pub use folder::Folder;
pub use load::{Load, LoadOptions};
pub use protect::{Ears, Installed, Landing, Protected, Said, open_hba, text};
pub use server::{Server, ServerOptions, Stop, faketime, free_port};

/// Prints past the test harness, which shows what a test prints only where it fails.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use say;

/// Returns the folder of the server binaries, or why there is none.
pub fn bin_dir() -> Result<PathBuf, String> {
    let dir = match std::env::var_os("PITRUS_PG_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from("/usr/lib/postgresql/15/bin"),
    };
    if dir.join("postgres").is_file() && dir.join("initdb").is_file() {
        Ok(dir)
    } else {
        Err(format!("no PostgreSQL server in {} (PITRUS_PG_BIN names another folder)", dir.display()))
    }
}

/// A server's programs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub version: pitrus::wal::Version,
    pub bin: PathBuf,
}

/// Returns the programs of each version at hand that pitrus reads, the oldest first: those in the folders
/// that PITRUS_PG_BINS lists (as PATH does), else those of [`bin_dir`] and in Debian's usual places.
pub fn all_programs() -> Vec<Programs> {
    let folders: Vec<PathBuf> = match std::env::var_os("PITRUS_PG_BINS") {
        Some(list) => std::env::split_paths(&list).collect(),
        None => {
            let usual = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            bin_dir().into_iter().chain(usual.map(|folder| folder.path().join("bin"))).collect()
        }
    };
    let mut found: Vec<Programs> = folders.into_iter().filter_map(programs_in).collect();
    found.sort_by_key(|programs| programs.version);
    found.dedup_by_key(|programs| programs.version);
    found
}

fn programs_in(bin: PathBuf) -> Option<Programs> {
    let said = std::process::Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let major: u32 = text.split(' ').nth(2)?.split('.').next()?.trim().parse().ok()?;
    let version = pitrus::wal::Version::of_server(major * 10_000)?;
    Some(Programs { version, bin })
}

/// Returns the version of the servers in [`bin_dir`], as `server_version_num` of its first release.
pub fn version_num() -> Result<u32, String> {
    let bin = bin_dir()?;
    let programs = programs_in(bin.clone()).ok_or_else(|| format!("no known version: {}", bin.display()))?;
    Ok(programs.version.major() * 10_000)
}

/// Returns whether servers can run here, and prints why where they cannot: `skipped: …`.
pub fn can_run(test: &str) -> bool {
    match bin_dir() {
        Ok(_) => true,
        Err(why) => {
            say!("skipped: {test}: {why}");
            false
        }
    }
}
