//! What the fuzz targets do with bytes. Plain functions, so that the ordinary tests run the kept corpus
//! (`fixtures/fuzz/<target>/`) through the same code.
//!
//! A checksum stops a fuzzer that changes bytes blindly. So most inputs are read as orders: what to write into
//! pages, records and files, whose checksums are then made right.

pub mod cut;
pub mod events;
pub mod files;
pub mod objects;
mod orders;
pub mod pages;
pub mod records;
pub mod sealed;
mod writer;
