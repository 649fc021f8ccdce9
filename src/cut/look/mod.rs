//! How much of each node's WAL has to be read until a cut is certain.
//!
//! position asked for -> a few seconds of WAL on both sides -> the cut -> more WAL of the nodes that the cut
//! names -> the cut again, until it wants no more
//!
//! Reads nothing itself: a [`Log`] is one node's WAL, wherever it lies. What is read grows with the logarithm
//! of what there is.

mod aim;
pub(crate) mod find;
mod log;
mod request;
mod settle;
mod view;

pub(crate) use aim::{Aimed, Unaimed, aim};
pub(crate) use log::{Log, Told, shift};
pub use request::Request;
pub(crate) use settle::{NODES_AT_ONCE, Seen, settle};
pub(crate) use view::View;
