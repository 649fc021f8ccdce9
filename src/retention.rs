//! What may be deleted: a list, deleting nothing. Pure.
//!
//! what one node holds, and how long back every moment counts -> [`Doomed`]
//!
//! The invariant: a moment within the window that could be restored before can be restored after,
//! and just as well (a damaged backup never stands in for a good one). So a node keeps the newest
//! good backup that was finished before the window, all later ones, and the WAL and what tells of the
//! clock from the oldest of them on. The window is taken [`MARGIN_MICROS`] longer, since a cut may lie before the moment asked for.
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::BackupId;
use crate::lsn::Lsn;
use crate::manifest::backup::Pack;
use crate::moment::Moment;
use crate::timeline::TimelineId;

/// How much longer than asked the window is: clocks differ, and a cut moves back.
pub const MARGIN_MICROS: i64 = 3_600_000_000;
/// Packs without a manifest may belong to a backup that still runs; after three days they do not.
pub const UNFINISHED_MICROS: i64 = 3 * DAY_MICROS;
const DAY_MICROS: i64 = 86_400_000_000;

/// What the vault holds of one node.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    pub segment_bytes: u32,
    /// As its server writes them: recovery looks at the first page of the segment in which it begins.
    pub server_segment_bytes: u32,
    pub backups: Vec<Backup>,
    pub segments: Vec<Segment>,
    pub packs: BTreeSet<Pack>,
    /// Between which moments objects tell how far its clock was ahead.
    pub clocks: BTreeMap<Moment, Moment>,
}

/// A backup whose manifest exists.
#[derive(Clone, Debug)]
pub struct Backup {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub start: Lsn,
    pub stop: Lsn,
    pub stopped_at: Moment,
    /// Pages were damaged on the source when it was taken.
    pub damaged: bool,
    /// The packs that its manifest names, its own and others'.
    pub packs: BTreeSet<Pack>,
}

/// A WAL segment, complete or begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub timeline: TimelineId,
    pub number: u64,
    /// How far its bytes are held from its start on without a gap.
    pub held_to: Lsn,
}

/// What may go, in the order in which to delete it: without its manifest a backup does not exist,
/// so that whatever a crash leaves is garbage, never a backup that lacks something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doomed {
    pub backups: Vec<BackupId>,
    pub packs: Vec<Pack>,
    pub segments: Vec<(TimelineId, u64)>,
    /// What tells of the clock, by its first moment.
    pub clocks: Vec<Moment>,
}

impl Doomed {
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty() && self.packs.is_empty() && self.segments.is_empty() && self.clocks.is_empty()
    }
}

/// Decides what of one node may be deleted at `now` such that every moment of the last `window_days`
/// days stays restorable.
pub fn decide(now: Moment, window_days: u32, held: &Holdings) -> Doomed {
    let window = i64::from(window_days).saturating_mul(DAY_MICROS).saturating_add(MARGIN_MICROS);
    let horizon = now.plus_micros(window.saturating_neg());
    let kept = kept(horizon, held);
    let doomed = |backup: &&Backup| !kept.contains(&backup.id);
    Doomed {
        backups: held.backups.iter().filter(doomed).map(|b| b.id.clone()).collect(),
        packs: doomed_packs(now, held, &kept),
        segments: doomed_segments(held, &kept),
        clocks: doomed_clocks(held, &kept),
    }
}

fn kept(horizon: Moment, held: &Holdings) -> BTreeSet<BackupId> {
    let newest = |fits: &dyn Fn(&Backup) -> bool| {
        let old = held.backups.iter().filter(|b| b.stopped_at <= horizon && fits(b));
        old.map(|b| b.stopped_at).max()
    };
    // Without a good one from before the window, one that is merely whole serves its beginning.
    let from = newest(&|b| !b.damaged && held.is_whole(b)).or_else(|| newest(&|b| held.is_whole(b)));
    let stays = |b: &&Backup| from.is_none_or(|from| b.stopped_at >= from);
    held.backups.iter().filter(stays).map(|b| b.id.clone()).collect()
}

fn doomed_packs(now: Moment, held: &Holdings, kept: &BTreeSet<BackupId>) -> Vec<Pack> {
    let known: BTreeSet<&BackupId> = held.backups.iter().map(|b| &b.id).collect();
    let named: BTreeSet<&Pack> =
        held.backups.iter().filter(|b| kept.contains(&b.id)).flat_map(|b| &b.packs).collect();
    let may_still_run = |pack: &Pack| {
        let age = pack.backup.start().map(|start| now.micros_since(start));
        !known.contains(&pack.backup) && age.is_none_or(|age| age < UNFINISHED_MICROS)
    };
    held.packs.iter().filter(|pack| !named.contains(pack) && !may_still_run(pack)).cloned().collect()
}

fn doomed_segments(held: &Holdings, kept: &BTreeSet<BackupId>) -> Vec<(TimelineId, u64)> {
    // Positions only grow along any history, so this holds for every timeline.
    let starts = held.backups.iter().filter(|b| kept.contains(&b.id)).map(|b| b.start);
    let Some(needed_from) = starts.min() else { return Vec::new() };
    let begins = needed_from.segment_start(held.server_segment_bytes.max(1));
    let needed = begins.segment(held.segment_bytes.max(1));
    let old = held.segments.iter().filter(|s| s.number < needed);
    old.map(|s| (s.timeline, s.number)).collect()
}

/// What tells of the clock stays from the last object on that begins before anything can be restored.
fn doomed_clocks(held: &Holdings, kept: &BTreeSet<BackupId>) -> Vec<Moment> {
    let stops = held.backups.iter().filter(|b| kept.contains(&b.id)).map(|b| b.stopped_at);
    let Some(needed_from) = stops.min().map(|stop| stop.plus_micros(-MARGIN_MICROS)) else {
        return Vec::new();
    };
    let mut old: Vec<Moment> = held.clocks.range(..=needed_from).map(|(first, _)| *first).collect();
    old.pop();
    old
}

impl Holdings {
    /// Returns whether nothing that this backup needs is missing: its packs, and the WAL from its start
    /// to its stop.
    fn is_whole(&self, backup: &Backup) -> bool {
        backup.packs.is_subset(&self.packs)
            && covers(&self.segments, self.segment_bytes, backup.timeline, backup.start, backup.stop)
    }
}

/// Returns whether `segments` hold all WAL of `timeline` in `from..to`.
fn covers(segments: &[Segment], segment_bytes: u32, timeline: TimelineId, from: Lsn, to: Lsn) -> bool {
    let bytes = segment_bytes.max(1);
    let mut reached = from;
    let mut own: Vec<&Segment> = segments.iter().filter(|s| s.timeline == timeline).collect();
    own.sort_by_key(|s| s.number);
    for segment in own {
        if segment.number == reached.segment(bytes) {
            reached = reached.max(segment.held_to);
        }
    }
    reached >= to
}

#[cfg(test)]
mod tests;
