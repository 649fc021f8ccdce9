//! What happened, and how long each part took.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<(String, Duration, String)>,
    began: Instant,
    since: Instant,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { rows: Vec::new(), began: Instant::now(), since: Instant::now() }
    }

    /// Ends a part that began when the last one ended.
    pub(crate) fn done(&mut self, part: &str, what: impl Into<String>) {
        let what = what.into();
        println!("── {part}: {what}");
        self.rows.push((part.to_owned(), self.since.elapsed(), what));
        self.since = Instant::now();
    }

    pub(crate) fn print(&self) {
        println!();
        for (part, took, what) in &self.rows {
            println!("{part:<22}{:>6.1} s  {what}", took.as_secs_f64());
        }
        println!("{:<22}{:>6.1} s", "in all", self.began.elapsed().as_secs_f64());
    }
}
