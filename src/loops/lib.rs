//! The loops that touch every byte of a database. Pure; a crate of its own (see its `Cargo.toml`), which pitrus knows as
//! its module `loops`.
//!
//! - [`Cipher`]: AES-256-GCM in place
//! - [`columns`]: pages laid out so that they compress
//! - [`checksum`]: what a page's header should hold
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod checksum;
mod cipher;
pub mod columns;

pub use checksum::checksum;
pub use cipher::Cipher;

/// Bytes of a page (`BLCKSZ`).
pub const PAGE_BYTES: usize = 8192;
