//! The decision against a slow oracle: every moment is tried before and after.
#![allow(clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

/// In these tests a byte of WAL is written each minute, so a position is a moment.
const MINUTE: i64 = 60_000_000;
const SEGMENT: u32 = 60;
const DAY: u64 = 24 * 60;

fn moment(lsn: u64) -> Moment {
    Moment(lsn.cast_signed() * MINUTE)
}

fn id(number: u64) -> BackupId {
    BackupId::new(moment(number), [0, 0])
}

fn pack(number: u64) -> Pack {
    Pack { backup: id(number), number: 0 }
}

fn backup(start: u64, stop: u64, damaged: bool) -> Backup {
    Backup {
        id: id(start),
        timeline: TimelineId(1),
        start: Lsn(start),
        stop: Lsn(stop),
        stopped_at: moment(stop),
        damaged,
        packs: BTreeSet::from([pack(start)]),
    }
}

fn segment(number: u64) -> Segment {
    Segment { timeline: TimelineId(1), number, held_to: Lsn((number + 1) * u64::from(SEGMENT)) }
}

fn holdings(backups: Vec<Backup>, hours: u64) -> Holdings {
    let packs = backups.iter().flat_map(|b| b.packs.clone()).collect();
    let segments = (0..hours).map(segment).collect();
    let clocks = (0..hours).map(|hour| (moment(hour * 60), moment(hour * 60 + 59))).collect();
    Holdings { segment_bytes: SEGMENT, server_segment_bytes: SEGMENT, backups, segments, packs, clocks }
}

/// Which bytes of WAL are there.
fn bytes(held: &Holdings) -> Vec<bool> {
    let mut bytes = vec![false; 14 * DAY as usize];
    for segment in &held.segments {
        let start = segment.number as usize * SEGMENT as usize;
        bytes[start..segment.held_to.0 as usize].fill(true);
    }
    bytes
}

/// Can the position be restored from a backup that `fits`? Walks the WAL byte by byte.
fn restorable(held: &Holdings, wal: &[bool], at: u64, fits: impl Fn(&Backup) -> bool) -> bool {
    held.backups.iter().any(|b| {
        fits(b)
            && b.stop.0 <= at
            && b.packs.is_subset(&held.packs)
            && wal[b.start.0 as usize..at as usize].iter().all(|there| *there)
    })
}

fn after(held: &Holdings, doomed: &Doomed) -> Holdings {
    let mut left = held.clone();
    left.backups.retain(|b| !doomed.backups.contains(&b.id));
    left.packs.retain(|p| !doomed.packs.contains(p));
    left.segments.retain(|s| !doomed.segments.contains(&(s.timeline, s.number)));
    left.clocks.retain(|first, _| !doomed.clocks.contains(first));
    left
}

#[test]
fn keeps_the_newest_good_one_from_before_the_window() {
    let backups: Vec<_> = (0..6).map(|day| backup(day * DAY + 10, day * DAY + 20, day == 3)).collect();
    let held = holdings(backups, 6 * 24);
    let doomed = decide(moment(6 * DAY), 2, &held);
    // Day 3's is damaged, so day 2's stays for the window that begins on day 4 less an hour.
    assert_eq!(doomed.backups, [id(10), id(DAY + 10)]);
    assert_eq!(doomed.packs, [pack(10), pack(DAY + 10)]);
    let numbers: Vec<u64> = doomed.segments.iter().map(|s| s.1).collect();
    assert_eq!(numbers, (0..48).collect::<Vec<_>>());
    // The clock is told from the object on in which the hour before the backup's end begins.
    assert_eq!(doomed.clocks, (0..47).map(|hour| moment(hour * 60)).collect::<Vec<_>>());
    assert!(decide(moment(6 * DAY), 2, &after(&held, &doomed)).is_empty(), "a second run finds nothing");
}

#[test]
fn never_deletes_the_last_good_one() {
    let held = holdings(vec![backup(10, 20, false), backup(DAY, DAY + 5, true)], 30);
    assert!(decide(moment(900 * DAY), 1, &held).is_empty());
    let none = holdings(Vec::new(), 30);
    assert!(decide(moment(900 * DAY), 1, &none).is_empty(), "the WAL of a node without a backup stays");
}

#[test]
fn a_backup_that_lacks_wal_or_packs_displaces_nothing() {
    let whole = holdings(vec![backup(10, 20, false), backup(DAY, DAY + 90, false)], 26);
    assert_eq!(decide(moment(9 * DAY), 1, &whole).backups, [id(10)]);
    let mut torn = whole.clone();
    torn.segments.retain(|s| s.number != 25);
    assert!(decide(moment(9 * DAY), 1, &torn).is_empty());
    let mut torn = whole;
    torn.packs.remove(&pack(DAY));
    assert!(decide(moment(9 * DAY), 1, &torn).is_empty());
}

#[test]
fn packs_of_others_stay_while_named() {
    let mut newer = backup(DAY, DAY + 5, false);
    newer.packs.insert(pack(10));
    let mut held = holdings(vec![backup(10, 20, false), newer], 26);
    held.packs.insert(Pack { backup: id(10), number: 1 });
    let doomed = decide(moment(9 * DAY), 1, &held);
    assert_eq!(doomed.backups, [id(10)]);
    assert_eq!(doomed.packs, [Pack { backup: id(10), number: 1 }]);
}

#[test]
fn unfinished_backups_are_garbage_after_three_days() {
    let mut held = holdings(Vec::new(), 0);
    held.packs = BTreeSet::from([pack(0), pack(5 * DAY)]);
    assert_eq!(decide(moment(6 * DAY), 1, &held).packs, [pack(0)]);
}

prop_compose! {
    fn any_holdings()(
        starts in prop::collection::btree_set(0u64..9 * DAY, 0..9),
        lengths in prop::collection::vec(1u64..600, 9),
        damaged in prop::collection::vec(prop::bool::weighted(0.3), 9),
        older_packs in prop::collection::vec(any::<bool>(), 9),
        lost_segments in prop::collection::btree_set(0u64..10 * 24, 0..4),
        short in prop::collection::btree_set(0u64..10 * 24, 0..3),
        lost_packs in prop::collection::btree_set(0usize..9, 0..2),
    ) -> Holdings {
        let mut backups: Vec<Backup> = Vec::new();
        for (i, start) in starts.into_iter().enumerate() {
            let mut next = backup(start, start + lengths[i], damaged[i]);
            if let (true, Some(last)) = (older_packs[i], backups.last()) {
                next.packs.extend(last.packs.clone());
            }
            backups.push(next);
        }
        let mut held = holdings(backups, 10 * 24);
        held.segments.retain(|s| !lost_segments.contains(&s.number));
        held.clocks.retain(|first, _| !lost_segments.contains(&(first.0 / (60 * MINUTE)).cast_unsigned()));
        for segment in &mut held.segments {
            if short.contains(&segment.number) {
                segment.held_to = Lsn(segment.held_to.0 - 20);
            }
        }
        let mut at = 0;
        held.packs.retain(|_| { at += 1; !lost_packs.contains(&(at - 1)) });
        held
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_was_restorable_in_the_window_stays_so(held in any_holdings(), now in 0u64..14 * DAY, days in 0u32..6) {
        let doomed = decide(moment(now), days, &held);
        let left = after(&held, &doomed);
        let (before, then) = (bytes(&held), bytes(&left));
        let first = now.saturating_sub(u64::from(days) * DAY + 60);
        for at in (first..=now.min(10 * DAY)).step_by(37) {
            for fits in [|b: &Backup| !b.damaged, |_: &Backup| true] {
                prop_assert!(!restorable(&held, &before, at, fits) || restorable(&left, &then, at, fits), "moment {at}");
            }
            if restorable(&held, &before, at, |_| true) {
                let told = |held: &Holdings| held.clocks.range(..=moment(at)).next_back().map(|(first, _)| *first);
                prop_assert_eq!(told(&held), told(&left), "the clock at {}", at);
            }
        }
        // Something good is always left where something good was.
        let good = |held: &Holdings| held.backups.iter().any(|b| !b.damaged && held.is_whole(b));
        prop_assert!(!good(&held) || good(&left));
        prop_assert!(decide(moment(now), days, &left).is_empty());
    }
}
