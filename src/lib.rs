//! pitrus restores a sharded Citus/PostgreSQL cluster to any moment, whole.
//!
//! The floors. A module names only floors below its own; above floor 1 nobody names a neighbour
//! (`tests/it/tidy.rs` checks it).
//!
//! 0. words: [`lsn`] [`timeline`] [`ids`] [`moment`] [`class`] [`clock`] [`retry`] [`flow`] — values everyone may speak; [`loops`] over every byte; no I/O but [`folio`]: how a file is written
//! 1. formats: [`wal`] [`pgfile`] [`citus`] [`seal`] [`manifest`] — bytes in, values out, pure
//! 2. judgement: [`cut`] [`skew`] [`retention`] — decisions over values, pure
//! 3. worlds: [`zones`] [`node`] [`waldir`] — one outside thing each
//! 4. [`vault`] — sealed objects by name; the only place that forms an object's name
//! 5. jobs: [`backup`] [`archive`] [`restore`] [`repair`] [`expire`] — none names another
//! 6. [`config`] — what was written, and what it means
//! 7. [`agent`] — the jobs of one node, side by side
//! 8. [`cli`] — the face; only it and the agent combine jobs
#![forbid(unsafe_code)]

pub use pitrus_loops as loops;

pub mod class;
pub mod clock;
pub mod flow;
pub mod folio;
pub mod ids;
pub mod lsn;
pub mod moment;
pub mod retry;
pub mod timeline;

pub mod citus;
pub mod manifest;
pub mod pgfile;
pub mod seal;
pub mod wal;

pub mod cut;
pub mod retention;
pub mod skew;

pub mod node;
pub mod waldir;
pub mod zones;

pub mod vault;

pub mod archive;
pub mod backup;
pub mod expire;
pub mod repair;
pub mod restore;

pub mod config;

pub mod agent;

pub mod cli;
