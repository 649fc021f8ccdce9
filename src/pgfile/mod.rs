//! PostgreSQL's files: pages and their checksums, `pg_control`, two-phase state files, and which files a
//! backup copies. Bytes and names in, values out; no I/O.
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

pub mod control;
pub mod kind;
pub mod page;
pub mod twophase;

use crate::class::{Class, Classified};

/// A file that is not what PostgreSQL writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("pg_control: {0}")]
    Control(&'static str),
    #[error("pg_control has version {0}, which is none of PostgreSQL 14 to 18")]
    ControlVersion(u32),
    #[error("two-phase state file: {0}")]
    TwoPhase(&'static str),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::ControlVersion(_) => Class::Operator,
            _ => Class::Damage,
        }
    }
}
