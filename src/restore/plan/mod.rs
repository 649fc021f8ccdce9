//! From a catalogue and a moment asked for to a [`Plan`].

mod document;
mod print;

pub use document::{Landmark, LandmarkKind, NodePlan, Plan, Request, WalRange};

use super::window::Window;
