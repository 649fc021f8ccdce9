//! Where to begin: after what the vault holds, else where the slot begins.
//!
//! A segment's index is put only once a quorum holds that segment and all before it, so the newest
//! index of a timeline says up to where nothing is missing. Whole segments after it count where a
//! quorum lists them, or where we told the server that it may forget them.

use std::collections::BTreeMap;

use super::Error;
use super::branch::{Place, Way, newest_first, way};
use super::decode::Indexer;
use super::shelf::{Kept, Shelf};
use crate::lsn::Lsn;
use crate::manifest::wal_index::WalIndex;
use crate::timeline::{History, TimelineId};
use crate::vault::ObjectName;
use crate::wal::event::Open;

/// A line of WAL to archive, from a segment's first byte.
pub(super) struct Begin {
    pub(super) place: Place,
    /// Has decoded up to `place`.
    pub(super) indexer: Indexer,
    /// Of segments that were whole but had none.
    pub(super) indexes: Vec<WalIndex>,
    /// Parts of segments of this timeline that are not whole, by segment number.
    pub(super) parts: Parts,
    /// Parts of segments that are whole.
    pub(super) needless: Vec<ObjectName>,
}

pub(super) type Parts = BTreeMap<u64, Vec<ObjectName>>;

type AllKept = BTreeMap<TimelineId, Kept>;

/// Finds where to begin after what the vault holds, or after `reached` where that is known. With nothing to go on
/// from, at the first byte of one of the server's segments, which recovery reads to know the rest.
pub(super) async fn find(
    shelf: &Shelf,
    history: &History,
    reached: Option<Place>,
    slot: Lsn,
) -> Result<Begin, Error> {
    begin(shelf, history, look(shelf, history, reached, slot).await?).await
}

/// What is kept of a node, and where to begin after it.
pub(super) struct Found {
    kept: AllKept,
    pub(super) place: Place,
}

/// Looks where to begin; `slot` is up to where the server was told that it may forget.
pub(super) async fn look(
    shelf: &Shelf,
    history: &History,
    reached: Option<Place>,
    slot: Lsn,
) -> Result<Found, Error> {
    let kept = shelf.kept(slot).await?;
    let slot = slot.segment_start(shelf.server_segment_bytes);
    let place = choose(history, &kept, reached, slot, shelf.segment_bytes);
    Ok(Found { kept, place })
}

/// Begins at the place that was found.
pub(super) async fn begin(shelf: &Shelf, history: &History, found: Found) -> Result<Begin, Error> {
    let Found { kept, place } = found;
    let mut begin = at(shelf, history, &kept, place).await?;
    for (timeline, kept) in kept {
        let (needless, parts): (Parts, Parts) =
            kept.parts.into_iter().partition(|(number, _)| kept.complete.contains(number));
        begin.needless.extend(needless.into_values().flatten());
        if timeline == place.timeline {
            begin.parts = parts;
        }
    }
    Ok(begin)
}

/// Begins at a place that was chosen otherwise: after a gap.
pub(super) async fn after_gap(shelf: &Shelf, history: &History, slot: Lsn) -> Result<Begin, Error> {
    let place = fresh(history, slot, shelf.server_segment_bytes);
    at(shelf, history, &shelf.kept(slot).await?, place).await
}

fn fresh(history: &History, slot: Lsn, segment_bytes: u32) -> Place {
    let at = slot.segment_start(segment_bytes);
    Place { timeline: history.timeline_at(at), at }
}

fn choose(history: &History, kept: &AllKept, reached: Option<Place>, slot: Lsn, segment_bytes: u32) -> Place {
    let follow = |place: Place| match way(history, place) {
        Way::Along => Some(Place { timeline: place.timeline, at: place.at.segment_start(segment_bytes) }),
        Way::Over { next, switch } => Some(Place { timeline: next, at: switch.segment_start(segment_bytes) }),
        Way::Elsewhere => None,
    };
    let from_vault = || {
        let known = newest_first(history).into_iter().find_map(|t| Some((t, kept.get(&t)?.next_segment()?)));
        let (timeline, number) = known?;
        follow(Place { timeline, at: Lsn(number * u64::from(segment_bytes)) })
    };
    reached.and_then(follow).or_else(from_vault).unwrap_or_else(|| fresh(history, slot, segment_bytes))
}

impl Kept {
    /// Returns the number of the first segment that is not held whole.
    fn next_segment(&self) -> Option<u64> {
        let first_known = || self.complete.iter().chain(self.parts.keys()).min().copied();
        let mut next = self.indexed.last().map(|n| n + 1).or_else(first_known)?;
        while self.complete.contains(&next) {
            next += 1;
        }
        Some(next)
    }
}

/// Decodes what is held without an index before `place`, up to it.
async fn at(shelf: &Shelf, history: &History, kept: &AllKept, place: Place) -> Result<Begin, Error> {
    let number = place.at.segment(shelf.segment_bytes);
    let start = |n: u64| Lsn(n * u64::from(shelf.segment_bytes));
    let begin =
        |indexer, indexes| Begin { place, indexer, indexes, parts: Parts::new(), needless: Vec::new() };
    let nothing = (Open::default(), Lsn::INVALID);
    let (timeline, first) = decode_from(history, kept, place, shelf.segment_bytes);
    let before = first.checked_sub(1).filter(|n| kept.get(&timeline).is_some_and(|k| k.indexed.contains(n)));
    let (open, reached) = match before {
        Some(indexed) => shelf.index(timeline, start(indexed)).await.map(|i| (i.open_at_end, i.end))?,
        None => nothing.clone(),
    };
    let (mut indexer, mut indexes) = shelf.indexer(timeline, start(first), open, reached);
    for next in first..number {
        let Some((fed, finished)) = feed(indexer, shelf.segment(timeline, start(next)).await?).await? else {
            let (anew, _) = shelf.indexer(place.timeline, place.at, nothing.0, nothing.1);
            return Ok(begin(anew, indexes));
        };
        indexer = fed;
        indexes.extend(finished);
    }
    if timeline != place.timeline {
        let last = indexer.tail();
        let open = if first == number { last.open_at_start } else { last.open_at_end };
        (indexer, _) = shelf.indexer(place.timeline, place.at, open, Lsn::INVALID);
    }
    Ok(begin(indexer, indexes))
}

/// Returns from which segment to decode: after the nearest index, where no segment is missing from
/// there to `place`; else from the first of the whole segments that end at `place`, or `place` itself.
fn decode_from(history: &History, kept: &AllKept, place: Place, segment_bytes: u32) -> (TimelineId, u64) {
    let number = place.at.segment(segment_bytes);
    let whole = |timeline: TimelineId, n: u64| kept.get(&timeline).is_some_and(|k| k.complete.contains(&n));
    if let Some((timeline, indexed)) = nearest_index(history, kept, place, segment_bytes)
        && (indexed + 1..number).all(|n| whole(timeline, n))
    {
        return (timeline, indexed + 1);
    }
    let mut first = number;
    while first > 0 && whole(place.timeline, first - 1) {
        first -= 1;
    }
    (place.timeline, first)
}

/// Returns the newest index before `place` on its timeline or, where that has none, an ancestor's.
fn nearest_index(
    history: &History,
    kept: &AllKept,
    place: Place,
    segment_bytes: u32,
) -> Option<(TimelineId, u64)> {
    let number = place.at.segment(segment_bytes);
    let ends = |timeline| {
        let ancestor = history.ancestors.iter().find(|a| a.timeline == timeline);
        ancestor.map_or(Lsn::MAX, |a| a.end).segment(segment_bytes)
    };
    newest_first(history).into_iter().filter(|t| *t <= place.timeline).find_map(|timeline| {
        let before = number.min(ends(timeline));
        let indexed = kept.get(&timeline)?.indexed.range(..before).next_back()?;
        Some((timeline, *indexed))
    })
}

/// Feeds a segment, away from the async threads; `None` where it cannot be decoded.
async fn feed(mut indexer: Indexer, bytes: bytes::Bytes) -> Result<Option<(Indexer, Vec<WalIndex>)>, Error> {
    let fed = tokio::task::spawn_blocking(move || match indexer.feed(&bytes) {
        Ok(finished) => Some((indexer, finished)),
        Err(error) => {
            tracing::error!(%error, at = %indexer.decoded_to(), "archived WAL cannot be decoded");
            None
        }
    });
    fed.await.map_err(|_| Error::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u32 = 0x100;

    fn kept(complete: &[u64], indexed: &[u64]) -> Kept {
        let (complete, indexed) = (complete.iter().copied().collect(), indexed.iter().copied().collect());
        Kept { complete, indexed, parts: BTreeMap::new() }
    }

    fn chosen(history: &History, all: &[(u32, Kept)], reached: Option<(u32, u64)>) -> (u32, u64) {
        let all = all.iter().map(|(t, kept)| (TimelineId(*t), kept.clone())).collect();
        let reached = reached.map(|(t, at)| Place { timeline: TimelineId(t), at: Lsn(at) });
        let place = choose(history, &all, reached, Lsn(0x1234), SEGMENT);
        (place.timeline.0, place.at.0)
    }

    #[test]
    fn begins_after_what_is_held_without_a_hole() {
        let one = History::root(TimelineId(1));
        assert_eq!(chosen(&one, &[], None), (1, 0x1200));
        assert_eq!(chosen(&one, &[(1, kept(&[3, 4, 5], &[3, 4]))], None), (1, 0x600));
        assert_eq!(chosen(&one, &[(1, kept(&[3, 4, 6], &[3]))], None), (1, 0x500));
        assert_eq!(chosen(&one, &[(1, kept(&[4, 5], &[]))], None), (1, 0x600));
        let mut parts = kept(&[], &[]);
        parts.parts.insert(9, Vec::new());
        assert_eq!(chosen(&one, &[(1, parts)], None), (1, 0x900));
    }

    #[test]
    fn changes_to_the_timeline_of_the_server() {
        let two = History::parse(TimelineId(2), "1 0/580\n").unwrap();
        // Not all of timeline 1 was archived: the rest of it comes first.
        assert_eq!(chosen(&two, &[(1, kept(&[3], &[3]))], None), (1, 0x400));
        assert_eq!(chosen(&two, &[(1, kept(&[3, 4], &[3, 4]))], None), (1, 0x500));
        // More of it was archived than the server took over.
        assert_eq!(chosen(&two, &[(1, kept(&[3, 4, 5, 6], &[3, 4, 5, 6]))], None), (2, 0x500));
        // It was all received.
        assert_eq!(chosen(&two, &[(1, kept(&[3, 4], &[3, 4]))], Some((1, 0x580))), (2, 0x500));
        assert_eq!(chosen(&two, &[(1, kept(&[4], &[4])), (2, kept(&[5], &[]))], None), (2, 0x600));
        // What is archived is of another branch altogether.
        assert_eq!(chosen(&two, &[(3, kept(&[4], &[4]))], None), (2, 0x1200));
    }

    #[test]
    fn the_nearest_index_lies_on_the_branch() {
        let two = History::parse(TimelineId(2), "1 0/580\n").unwrap();
        let all: AllKept = [(TimelineId(1), kept(&[3, 4, 5, 6], &[3, 4, 5, 6]))].into();
        let place = Place { timeline: TimelineId(2), at: Lsn(0x500) };
        assert_eq!(nearest_index(&two, &all, place, SEGMENT), Some((TimelineId(1), 4)));
        assert_eq!(decode_from(&two, &all, place, SEGMENT), (TimelineId(1), 5));
    }

    #[test]
    fn whole_segments_without_an_index_get_one() {
        let one = History::root(TimelineId(1));
        let from = |complete: &[u64], indexed: &[u64]| {
            let all: AllKept = [(TimelineId(1), kept(complete, indexed))].into();
            decode_from(&one, &all, Place { timeline: TimelineId(1), at: Lsn(0x900) }, SEGMENT).1
        };
        assert_eq!(from(&[3, 4, 5, 6, 7, 8], &[3, 4]), 5);
        assert_eq!(from(&[7, 8], &[]), 7);
        assert_eq!(from(&[3, 7, 8], &[3]), 7);
        assert_eq!(from(&[], &[]), 9);
        assert_eq!(from(&[8], &[8]), 9);
    }
}
