//! Names and catalogue rows that Citus gives to distributed transactions.
#![deny(clippy::indexing_slicing)]

pub mod gid;

pub use gid::Gid;
