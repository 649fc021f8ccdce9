//! What a node's objects are in retention's words, and retention's verdict in names of objects. Deleting
//! by retention and repair both judge with this, so that neither brings back what the other deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeCatalog, ObjectName, SegmentState};
use crate::ids::{BackupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::backup::{Ends, Pack};
use crate::moment::Moment;
use crate::retention::{Backup, Doomed, Holdings, Segment};
use crate::timeline::TimelineId;
use crate::zones::ZoneMask;

/// Returns what is held of a node; `objects` are all of its names.
pub fn holdings<'o>(held: &NodeCatalog, objects: impl Iterator<Item = &'o ObjectName>) -> Holdings {
    let segment_bytes = held.segment_bytes();
    let segment = |((timeline, number), state): ((TimelineId, u64), SegmentState)| {
        let start = Lsn(number.saturating_mul(segment_bytes.into()));
        let length = if state.complete { segment_bytes } else { state.joined() };
        Segment { timeline, number, held_to: start.plus(length.into()) }
    };
    let pack = |name: &ObjectName| match name {
        ObjectName::Pack { backup, number, .. } => Some(Pack { backup: backup.clone(), number: *number }),
        _ => None,
    };
    Holdings {
        segment_bytes,
        server_segment_bytes: held.doc.segment_bytes,
        backups: held.backups.iter().map(backup).collect(),
        segments: held.segments.iter().map(segment).collect(),
        packs: objects.filter_map(pack).collect(),
        clocks: held.clocks.clone(),
    }
}

fn backup(Ends { head, foot }: &Ends) -> Backup {
    // The reader has checked these names.
    let packs = foot.packs.iter().filter_map(|name| Pack::named(name, &head.backup).ok());
    Backup {
        id: head.backup.clone(),
        timeline: head.timeline,
        start: head.start_lsn,
        stop: foot.stop_lsn,
        stopped_at: foot.stopped_at,
        damaged: foot.is_damaged(),
        packs: packs.collect(),
    }
}

/// Returns what to delete, each step only after the one before: manifests, packs, WAL and clocks. Manifests of
/// backups whose tombstone exists are among them: a zone that was away has brought them back.
pub fn doomed_names<'o>(
    node: &NodeName,
    segment_bytes: u32,
    doomed: &Doomed,
    objects: impl Iterator<Item = &'o ObjectName> + Clone,
) -> [Vec<ObjectName>; 3] {
    let gone: BTreeSet<&BackupId> = objects
        .clone()
        .filter_map(|name| match name {
            ObjectName::Gone { backup, .. } => Some(backup),
            _ => None,
        })
        .chain(&doomed.backups)
        .collect();
    let segments: BTreeSet<_> = doomed.segments.iter().copied().collect();
    let clocks: BTreeSet<_> = doomed.clocks.iter().copied().collect();
    let pack = |pack: &Pack| ObjectName::Pack {
        node: node.clone(),
        backup: pack.backup.clone(),
        number: pack.number,
    };
    let of =
        |fits: &dyn Fn(&ObjectName) -> bool| objects.clone().filter(|name| fits(name)).cloned().collect();
    [
        of(&|name| matches!(name, ObjectName::Manifest { backup, .. } if gone.contains(backup))),
        doomed.packs.iter().map(pack).collect(),
        of(&|name| match name {
            ObjectName::Segment { wal, .. }
            | ObjectName::Index { wal, .. }
            | ObjectName::Part { wal, .. } => segments.contains(&(wal.timeline, wal.number(segment_bytes))),
            ObjectName::Clock { first, .. } => clocks.contains(first),
            _ => false,
        }),
    ]
}

/// Objects about the clock that a longer one replaces, which a quorum holds; with them come their zones.
pub fn outgrown_clocks(names: &[(ObjectName, ZoneMask)], quorum: usize) -> Vec<ObjectName> {
    let mut longest: BTreeMap<Moment, Moment> = BTreeMap::new();
    for (name, zones) in names {
        if let ObjectName::Clock { first, last, .. } = name
            && zones.count() >= quorum
        {
            let known = longest.entry(*first).or_insert(*last);
            *known = (*known).max(*last);
        }
    }
    let is_outgrown = |name: &&ObjectName| match name {
        ObjectName::Clock { first, last, .. } => longest.get(first).is_some_and(|longest| last < longest),
        _ => false,
    };
    names.iter().map(|(name, _)| name).filter(is_outgrown).cloned().collect()
}

/// Tombstones that are needed no more: nothing of their backups is left in `objects`, which must be of
/// all zones.
pub fn spent_tombstones<'o>(objects: impl Iterator<Item = &'o ObjectName>) -> Vec<ObjectName> {
    let mut left: BTreeMap<&BackupId, (Option<&ObjectName>, bool)> = BTreeMap::new();
    for name in objects {
        match name {
            ObjectName::Gone { backup, .. } => left.entry(backup).or_default().0 = Some(name),
            ObjectName::Manifest { backup, .. } | ObjectName::Pack { backup, .. } => {
                left.entry(backup).or_default().1 = true;
            }
            _ => {}
        }
    }
    left.into_values().filter(|(_, something)| !something).filter_map(|(gone, _)| gone.cloned()).collect()
}
