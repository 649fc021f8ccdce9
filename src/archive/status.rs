//! What the archiver tells of itself, all the time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Gap;
use crate::clock;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

/// The archiver at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Is the server streaming to us?
    pub connected: bool,
    pub timeline: Option<TimelineId>,
    /// Up to here a quorum of zones holds the WAL.
    pub archived: Lsn,
    /// Up to here we have it.
    pub received: Lsn,
    /// What the server had flushed when last heard.
    pub server: Lsn,
    pub heard_at: Option<Moment>,
    /// How long the oldest received byte that no quorum holds has waited, in milliseconds.
    pub waiting_ms: u64,
    /// Segments completed since the start of this process.
    pub segments: u64,
    pub last_error: Option<Mishap>,
    /// Found since the start of this process.
    pub gaps: Vec<Gap>,
}

/// An error and when it came; it may be over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mishap {
    pub at: Moment,
    pub text: String,
}

impl Mishap {
    /// Prints an error with its causes.
    pub fn now(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        Mishap { at: clock::now(), text }
    }
}

impl Status {
    /// Returns how many bytes the server has that no quorum holds.
    pub fn lag_bytes(&self) -> u64 {
        self.server.0.saturating_sub(self.archived.0)
    }
}

/// When which position was received, until it is held: one sample a tick.
#[derive(Default)]
pub(super) struct Waiting(VecDeque<(Lsn, Moment)>);

/// Samples kept; beyond, the newest give way. At one a second, an hour.
const SAMPLES_MAX: usize = 3600;

impl Waiting {
    pub(super) fn received(&mut self, to: Lsn) {
        if self.0.back().is_none_or(|(last, _)| *last < to) && self.0.len() < SAMPLES_MAX {
            self.0.push_back((to, clock::now()));
        }
    }

    /// Returns how long the oldest byte past `held` has waited, in milliseconds.
    pub(super) fn oldest_ms(&mut self, held: Lsn) -> u64 {
        while self.0.front().is_some_and(|(to, _)| *to <= held) {
            self.0.pop_front();
        }
        let micros = self.0.front().map_or(0, |(_, since)| clock::now().micros_since(*since));
        u64::try_from(micros / 1000).unwrap_or(0)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
