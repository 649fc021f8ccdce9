//! PostgreSQL's write-ahead log: bytes in, records and events out.
//!
//! segment bytes -> pages -> records (CRC-32C checked) -> [`event::Event`]s -> one index a segment
//!
//! No I/O. No input may panic, hang or allocate without bound: every length is checked against what
//! is there.
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

mod blocks;
pub(crate) mod bytes;
mod decision;
pub mod decoder;
pub mod event;
mod image;
pub mod index;
pub mod record;
pub mod scan;
pub mod segment;
#[cfg(test)]
mod tests;
mod version;
pub(crate) mod xact;

use crate::class::{Class, Classified};
use crate::lsn::Lsn;

pub use version::Version;

/// WAL that cannot be read. The end of WAL is no error: see [`decoder::Step::End`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("WAL at {lsn} was written by PostgreSQL {version}, which this pitrus does not read")]
    Version { lsn: Lsn, version: &'static str },
    #[error("WAL at {lsn} was written by PostgreSQL {found}, that before it by {before}")]
    Mixed { lsn: Lsn, before: Version, found: Version },
    #[error("not WAL at {lsn}: page magic {magic:04X}")]
    NotWal { lsn: Lsn, magic: u16 },
    #[error("WAL at {lsn} has pages of another size than 8192 bytes")]
    BlockSize { lsn: Lsn },
    #[error("record at {lsn}: its checksum is right but its parts do not add up")]
    Malformed { lsn: Lsn },
    #[error("WAL ends at {at}, before the end of what was written: {why}")]
    EndsEarly { at: Lsn, why: &'static str },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Version { .. } | Error::BlockSize { .. } => Class::Operator,
            Error::Mixed { .. } | Error::NotWal { .. } | Error::EndsEarly { .. } => Class::Damage,
            Error::Malformed { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Error::Version { .. }).then(|| format!("pitrus reads PostgreSQL {}", Version::NAMES))
    }
}
