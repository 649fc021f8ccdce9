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

/// Returns whether servers can run here, and prints why where they cannot: `skipped: …`.
pub fn can_run(test: &str) -> bool {
    match bin_dir() {
        Ok(_) => true,
        Err(why) => {
            eprintln!("skipped: {test}: {why}");
            false
        }
    }
}
