//! From where decoding must begin, so that everything prepared at a position was seen to be prepared.
//!
//! A server writes down which transactions run, prepared ones among them, every few seconds and at each
//! checkpoint (`xl_running_xacts`). Let the last such list before a position name `oldest`. Where the WAL says
//! earlier that no transaction as new as `oldest` had begun, all that run at the list began after that; so
//! decoding from there sees their PREPARE, if they have one. No more WAL is read than the age of the oldest
//! transaction under way.

use std::collections::BTreeMap;

use super::Error;
use super::listing::Listing;
use super::tape::Tape;
use crate::lsn::Lsn;
use crate::manifest::wal_index::Times;
use crate::wal::event::What;

/// What is kept of every segment that was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brief {
    pub(super) times: Option<Times>,
    /// The first word on which transaction begins next.
    pub(super) next: Option<u32>,
    /// The oldest transaction in the last list of those that run.
    oldest: Option<u32>,
}

/// Where decoding begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) segment: u64,
    /// Everything that is prepared at the position asked for will be seen.
    pub(super) is_sure: bool,
}

/// Returns whether a transaction number comes before another: they go round.
pub(super) fn is_before(xid: u32, other: u32) -> bool {
    xid.wrapping_sub(other).cast_signed() < 0
}

/// Briefs of segments, read when they are asked for.
#[derive(Debug, Default)]
pub(super) struct Briefs(BTreeMap<u64, Brief>);

impl Briefs {
    pub(super) fn of(
        &mut self,
        listing: &Listing,
        (number, last): (u64, u64),
        pretended: i64,
    ) -> Result<Brief, Error> {
        if let Some(brief) = self.0.get(&number) {
            return Ok(*brief);
        }
        let mut tape = Tape::new(listing, (number, last), pretended);
        let mut brief = Brief::default();
        let limit = listing.start_of(number.saturating_add(1));
        while let Some(event) = tape.before(listing, limit)? {
            if let Some(time) = event.what.time() {
                let times = brief.times.get_or_insert(Times { min: time, max: time });
                (times.min, times.max) = (times.min.min(time), times.max.max(time));
            }
            match event.what {
                What::Running { oldest, next } => {
                    brief.oldest = Some(oldest);
                    brief.next.get_or_insert(next);
                }
                // The low half of a full transaction id is the id itself.
                What::Checkpoint { next_xid, .. } => {
                    brief.next.get_or_insert((next_xid & u64::from(u32::MAX)) as u32);
                }
                _ => {}
            }
        }
        self.0.insert(number, brief);
        Ok(brief)
    }

    /// Returns where to begin, so that what is prepared at the start of segment `number` is known.
    pub(super) fn since(
        &mut self,
        listing: &Listing,
        (first, last): (u64, u64),
        number: u64,
        pretended: i64,
    ) -> Result<Since, Error> {
        let unsure = Since { segment: first, is_sure: false };
        let mut listed = number;
        let oldest = loop {
            if listed <= first {
                return Ok(unsure);
            }
            listed -= 1;
            if let Some(oldest) = self.of(listing, (listed, last), pretended)?.oldest {
                break oldest;
            }
        };
        let (mut segment, mut step) = (listed, 1);
        loop {
            let next = self.of(listing, (segment, last), pretended)?.next;
            if next.is_some_and(|next| !is_before(oldest, next)) {
                return Ok(Since { segment, is_sure: true });
            }
            if segment == first {
                return Ok(unsure);
            }
            if step == 64 {
                tracing::info!(
                    "{}: looking for the beginning of transaction {oldest}, under way at {}",
                    listing.folder().display(),
                    listing.start_of(number)
                );
            }
            segment = segment.saturating_sub(step).max(first);
            step *= 2;
        }
    }
}

/// Lists of running transactions: where, and the oldest in it.
pub(super) type Lists = Vec<(Lsn, u32)>;
