//! One live PostgreSQL node: its SQL session, its replication stream, its data directory.
//!
//! [`ConnectionOptions`] -> [`Session`] (SQL by tokio-postgres) -> [`facts`], [`topology`], [`report`], [`clock`]
//! [`ConnectionOptions`] -> [`Replication`] (our own client: tokio-postgres has no CopyBoth) -> WAL bytes
//!
//! Knows nothing of zones, clusters of other nodes, or what the bytes mean. Every wait on the server
//! is bounded. Passwords travel as [`Secret`], which never prints.

pub mod clock;
mod error;
pub mod facts;
mod options;
pub mod pgdata;
pub mod position;
mod replication;
pub mod report;
mod session;
mod tls;
pub mod topology;
mod wire;

pub use error::{Error, sqlstate};
pub use facts::NodeFacts;
pub use options::{ConnectionOptions, Secret};
pub use replication::{HistoryFile, Identity, NextTimeline, Replication, SlotPosition, Start, Streamed};
pub use session::Session;
