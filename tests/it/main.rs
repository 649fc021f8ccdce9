//! All integration tests: one binary, one link, one world of real servers.
#![allow(clippy::unwrap_used)]

#[path = "../world/mod.rs"]
mod world;

mod servers;
mod tidy;
