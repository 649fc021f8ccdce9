//! Which moment is consistent on all nodes, and why.
#![deny(clippy::indexing_slicing)]

mod outcome;

pub use outcome::{Action, Cut, Fault, Foreign, LeftOut, Move, Orphan, Reason, Settle, Side, Torn, Want};
