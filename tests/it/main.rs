//! All integration tests: one binary, one link, one world of real servers.
#![allow(clippy::unwrap_used)]

#[path = "../world/mod.rs"]
mod world;

mod agent;
mod archive;
mod backup;
mod cli;
mod damaged_wal;
mod expire;
mod fixtures;
mod node;
mod recorded;
mod repair;
mod restore;
mod servers;
mod tidy;
mod waldump;
