//! PostgreSQL's write-ahead log: bytes in, records and events out.
//!
//! segment bytes -> pages -> records (CRC-32C checked) -> [`event::Event`]s -> one index a segment
//!
//! No I/O. No input may panic, hang or allocate without bound: every length is checked against what
//! is there.
#![deny(clippy::indexing_slicing)]

pub mod event;
