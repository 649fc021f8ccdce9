//! All integration tests: one binary, one link, one world of real servers.
#![allow(clippy::unwrap_used)]

#[path = "../world/mod.rs"]
mod world;

mod node;
mod servers;
mod tidy;
