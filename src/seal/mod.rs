//! How bytes are kept in a zone: compressed, then encrypted and authenticated. Pure.
//!
//! plain bytes -> chunks of at most [`CHUNK_BYTES`] -> of pages, their columns -> zstd -> AES-256-GCM -> one object
//!
//! Every object has its own random data key; its header wraps that key for an *epoch key*, and small
//! key objects wrap epoch keys for the [`MasterKey`], so a new master key rewrites only those. The
//! object's full name is authenticated, so a zone cannot pass one object for another. Each chunk opens
//! alone: a reader needs the header and that chunk.
//!
//! One writer seals with a [`Sealer`]. Several workers seal one object together through its
//! [`ObjectKey`]: whoever decides the order takes a [`Seat`] for each chunk ([`ObjectKey::seat`]), any
//! thread fills it ([`Seat::seal`]), and the results are laid one after the other by an [`Assembly`],
//! which says where each came to lie. A seat is used up by sealing, so no nonce is ever used twice. A
//! writer that does not know its last chunk in advance seals all with `last == false` and lets
//! [`Assembly::finish`] add an empty last one.
//!
//! The bytes, so that another program can read them:
#![doc = include_str!("format.md")]
#![deny(clippy::indexing_slicing)]

mod header;
mod key;
mod open;
mod sealer;
mod squeeze;

pub use header::HEADER_BYTES;
pub use key::{EpochId, EpochKey, KeyId, KeyRing, MasterKey};
pub use open::{Opener, Walk, last_chunk, open, same_contents};
pub use sealer::{Assembly, ChunkPlace, ObjectKey, Sealer, Seat};
pub use squeeze::Form;

use crate::class::{Class, Classified};

/// The greatest length of a chunk before it is sealed, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Bytes that cannot be opened, or a key that is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name}: not an object of pitrus")]
    Foreign { name: String },
    #[error("{name}: format version {found} is not known to this pitrus (it reads {known})")]
    Version { name: String, found: u8, known: u8 },
    #[error("{name}: sealed under epoch key {epoch}, which is not known here")]
    UnknownEpoch { name: String, epoch: EpochId },
    #[error("{name}: damaged: {problem}")]
    Damaged { name: String, problem: &'static str },
    #[error("{name}: wrapped for master key {wanted}; the key at hand is {given}")]
    OtherMaster { name: String, wanted: KeyId, given: KeyId },
    #[error("a master key is 32 bytes, written as 64 hexadecimal digits or as base64")]
    NotAKey,
    #[error("{name}: {problem}")]
    Misuse { name: String, problem: &'static str },
    #[error("{name}: the compressor refused a chunk")]
    Compressor { name: String, source: std::io::Error },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Foreign { .. } | Error::Damaged { .. } | Error::UnknownEpoch { .. } => Class::Damage,
            Error::Version { .. } | Error::OtherMaster { .. } | Error::NotAKey => Class::Operator,
            Error::Misuse { .. } | Error::Compressor { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Version { .. } => Some("use a newer pitrus".into()),
            Error::OtherMaster { wanted, .. } => {
                Some(format!("give the master key whose id is {wanted}, or remove the other from [key]"))
            }
            Error::NotAKey => {
                Some("`pitrus key generate` makes one; check that the file holds nothing else".into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
