//! Tests of the cut: stories with known ends, and random histories against an oracle that tries all cuts.
#![allow(clippy::indexing_slicing)]

mod oracle;
mod stories;
mod world;
