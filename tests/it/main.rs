//! All integration tests: one binary, one link, one world of real servers.
#![allow(clippy::unwrap_used)]

#[path = "../world/mod.rs"]
mod world;

mod agent;
mod archive;
mod backup;
mod branches;
mod cli;
mod clocks;
mod cut;
mod damage;
mod damaged_wal;
mod e2e;
mod endings;
mod errors;
mod expire;
mod fixtures;
mod formats;
mod fuzz;
mod isolation;
mod kills;
mod moments;
mod node;
mod plan;
mod promoted;
mod pushed;
mod recorded;
mod repair;
mod restore;
mod scene;
mod servers;
mod shape;
mod skew;
mod tidy;
mod versions;
mod waldump;
mod year;
mod zones;
