//! Searches for a named thing: newest first, and not farther than must be.

use super::log::Log;
use crate::citus::Gid;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::wal::event::{Event, What};

/// A gid can only mean one transaction in so much time: its number begins anew with the initiator's server,
/// and who names their own gids does not use one twice in a minute.
const APART_MICROS: i64 = 60_000_000;
/// How long before its newest use a gid is looked for again.
const AGAIN_MICROS: i64 = 24 * 3_600_000_000;
/// How far around a time that was said a gid is looked for.
const NEAR_MICROS: i64 = 3_600_000_000;
/// Words on how the search goes on come after so many segments.
const TOLD_EVERY: u64 = 500;

/// Returns where the newest restore point of that name ends.
pub(crate) async fn point<L: Log>(log: &mut L, name: &str) -> Result<Option<Lsn>, L::Error> {
    let (first, last) = log.ends();
    for number in (first..=last).rev() {
        tell(last - number, number, name);
        let mut end = None;
        log.events_of(number, &mut |event| match &event.what {
            What::RestorePoint { name: its, .. } if its == name => end = Some(event.end),
            _ => {}
        })
        .await?;
        if end.is_some() {
            return Ok(end);
        }
    }
    Ok(None)
}

fn tell(seen: u64, number: u64, what: &str) {
    if seen > 0 && seen.is_multiple_of(TOLD_EVERY) {
        tracing::info!("looking for {what}: {seen} segments had nothing, now at segment {number}");
    }
}

/// A name of a distributed transaction: one of its gids, or what Citus's have in common.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a>(&'a str);

impl<'a> Wanted<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Wanted(text)
    }

    pub(crate) fn text(&self) -> &'a str {
        self.0
    }

    /// Returns whether a part with this gid belongs to the transaction. All gids of a transaction of Citus
    /// differ in their last number.
    pub(crate) fn is(&self, gid: &str) -> bool {
        let own = Gid::parse(self.0).or_else(|| Gid::parse(&format!("{}_0", self.0)));
        match (own, Gid::parse(gid)) {
            (Some(own), Some(other)) => own.transaction() == other.transaction(),
            _ => gid == self.0,
        }
    }
}

/// Returns when parts of a transaction were prepared, by the node's clock: from its newest use back to a day
/// before that, or around a time that was said.
pub(crate) async fn prepared<L: Log>(
    log: &mut L,
    wanted: &Wanted<'_>,
    near: Option<Moment>,
) -> Result<Vec<Moment>, L::Error> {
    let (mut first, mut last) = log.ends();
    if let Some(near) = near {
        let on = |micros| near.plus_micros(micros);
        let from = log.first_after(on(-NEAR_MICROS)).await?;
        last = log.first_after(on(NEAR_MICROS)).await?.min(last);
        first = from.saturating_sub(1).max(first).min(last);
    }
    let mut found: Vec<Moment> = Vec::new();
    for number in (first..=last).rev() {
        if found.is_empty() {
            tell(last - number, number, wanted.text());
        }
        let mut newest_here = None::<Moment>;
        log.events_of(number, &mut |event: &Event| {
            newest_here = newest_here.max(event.what.time());
            match &event.what {
                What::Prepare { gid, time, .. } if wanted.is(gid) => found.push(*time),
                _ => {}
            }
        })
        .await?;
        let newest = found.iter().max().copied().zip(newest_here);
        if newest.is_some_and(|(found, here)| found.micros_since(here) > AGAIN_MICROS) {
            break;
        }
    }
    Ok(found)
}

/// Returns when each use of a name began, of the times at which its parts were prepared.
pub(crate) fn uses(mut prepared: Vec<Moment>) -> Vec<Moment> {
    prepared.sort_unstable();
    let mut uses: Vec<Moment> = Vec::new();
    let mut last = None::<Moment>;
    for time in prepared {
        if last.is_none_or(|last| time.micros_since(last) > APART_MICROS) {
            uses.push(time);
        }
        last = Some(time);
    }
    uses
}

/// Returns the newest time stamp before a position.
pub(crate) async fn time_before<L: Log>(log: &mut L, lsn: Lsn) -> Result<Option<Moment>, L::Error> {
    let (first, last) = log.ends();
    let at = log.number_of(lsn).clamp(first, last);
    let mut newest = None::<Moment>;
    for number in (first..=at).rev() {
        log.all_events_of(number, &mut |event: &Event| {
            newest = newest.max(event.what.time().filter(|_| event.lsn < lsn));
        })
        .await?;
        if newest.is_some() {
            break;
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_all_parts_of_its_transaction() {
        for text in ["citus_0_4711_29", "citus_0_4711_29_3", "citus_0_4711_29_0"] {
            assert!(Wanted::new(text).is("citus_0_4711_29_8"), "{text}");
            assert!(!Wanted::new(text).is("citus_0_4711_290_8"), "{text}");
        }
        assert!(Wanted::new("order 7").is("order 7") && !Wanted::new("order 7").is("order 77"));
    }

    #[test]
    fn names_that_repeat_are_told_apart_by_time() {
        let second = |at: i64| Moment(at * 1_000_000);
        let prepared = [900, 0, 1, 59, 901].map(second).to_vec();
        assert_eq!(uses(prepared), [second(0), second(900)]);
        assert_eq!(uses(Vec::new()), []);
    }
}
