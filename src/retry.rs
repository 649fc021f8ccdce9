//! How long to wait between tries: doubling, bounded, and shaken so that forty agents do not come
//! back in step.

use std::time::Duration;

use crate::clock;

/// Waits between tries of one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { next: first, first, most }
    }

    /// Returns the next wait: between half and all of a duration that doubles each time.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        let share = f64::from(u16::from_le_bytes(clock::random())) / f64::from(u16::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }

    /// Begins again from the first wait, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
