//! The job that keeps one node's WAL.

mod branch;
mod held;
mod intake;
