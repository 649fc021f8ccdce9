//! From a catalogue and a moment asked for to a [`Plan`].

mod again;
mod branch;
mod choose;
mod clock;
mod document;
mod error;
mod line;
mod make;
mod node;
mod print;
mod shape;
mod span;

pub use crate::cut::Request;
pub use again::while_gone;
pub use branch::Follow;
pub use document::{ClockSource, Landmark, LandmarkKind, NodePlan, Plan, WalRange};
pub use error::Error;
pub use make::{PlanOptions, find, make};
pub(crate) use print::table;

pub(super) use choose::oldest_backup;
pub(super) use line::Line;
pub(super) use span::Span;

use super::window::Window;

const VERSION: u32 = 1;
