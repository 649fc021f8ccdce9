//! Which backup of each node.

use super::line::Line;
use crate::lsn::Lsn;
use crate::manifest::backup::Ends;

/// A backup of one node.
#[derive(Clone, Debug)]
pub(super) struct Choice<'a> {
    pub(super) ends: &'a Ends,
}

impl Choice<'_> {
    /// Returns where the copy is consistent.
    pub(super) fn stop(&self) -> Lsn {
        self.ends.foot.stop_lsn
    }
}

/// Backups from which the WAL goes on to the end of the stretch, the best last: newer ones, and those without
/// damaged pages before all others.
fn usable<'a>(line: &Line<'a>) -> Vec<Choice<'a>> {
    let is_held = |ends: &&Ends| line.holds(ends.head.timeline, ends.head.start_lsn, ends.foot.stop_lsn);
    let mut all: Vec<Choice<'a>> =
        line.catalog.backups.iter().filter(is_held).map(|ends| Choice { ends }).collect();
    all.sort_by_key(|choice| (!choice.ends.foot.is_damaged(), choice.stop()));
    all
}

/// Returns the best backup that is consistent at or before `start`.
pub(super) fn newest_at<'a>(line: &Line<'a>, start: Lsn) -> Option<Choice<'a>> {
    usable(line).into_iter().rev().find(|choice| choice.stop() <= start)
}

/// Returns the oldest backup without damaged pages, else the oldest.
pub(super) fn oldest<'a>(line: &Line<'a>) -> Option<Choice<'a>> {
    let all = usable(line);
    let good = all.iter().find(|choice| !choice.ends.foot.is_damaged()).cloned();
    good.or_else(|| all.into_iter().next())
}

/// Returns the ends of the backup with which the window begins.
pub(in crate::restore) fn oldest_backup<'a>(line: &mut Line<'a>) -> Option<&'a Ends> {
    while line.step_back() {}
    let mut found = oldest(line);
    while found.is_none() && line.step_on() {
        found = oldest(line);
    }
    found.map(|choice| choice.ends)
}
