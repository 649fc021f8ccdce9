//! A server's clock, read from afar.

use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use super::{ConnectionOptions, Error, Session};
use crate::lsn::Lsn;
use crate::moment::Moment;

/// A session that asks one server for its time.
pub struct ServerClock {
    session: Session,
    query: Statement,
}

/// An answer: what the server's clock showed at some moment between two of ours.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    asked: Instant,
    round_trip: Duration,
    pub shown: Moment,
    /// Where its WAL ended; `None` of a standby.
    pub lsn: Option<Lsn>,
}

/// How far one server's clock was ahead of another's, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    pub micros: i64,
    /// Up to so much more or less: half of both round trips.
    pub uncertain: i64,
}

const QUERY: &str = "
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END";

impl ServerClock {
    pub async fn connect(options: &ConnectionOptions, database: Option<&str>) -> Result<Self, Error> {
        let session = Session::connect(options, database).await?;
        let prepared = session.client().prepare(QUERY).await;
        let query = prepared.map_err(|error| session.failed("read the clock", error))?;
        Ok(ServerClock { session, query })
    }

    /// Asks so many times, and returns the quickest answer: the one that is known best.
    pub async fn read(&self, times: usize) -> Result<Reading, Error> {
        let mut best = self.ask().await?;
        for _ in 1..times {
            let again = self.ask().await?;
            if again.round_trip < best.round_trip {
                best = again;
            }
        }
        Ok(best)
    }

    async fn ask(&self) -> Result<Reading, Error> {
        let asked = Instant::now();
        let row = self.session.client().query_one(&self.query, &[]).await;
        let round_trip = asked.elapsed();
        let row = row.map_err(|error| self.session.failed("read the clock", error))?;
        Ok(Reading {
            asked,
            round_trip,
            shown: Moment::from_unix_micros(row.get(0)),
            lsn: row.get::<_, Option<&str>>(1).and_then(|text| text.parse().ok()),
        })
    }
}

impl Reading {
    /// Returns how far this clock is ahead of the other.
    pub fn ahead_of(&self, other: &Reading) -> Ahead {
        let (here, there) = (self.asked + self.round_trip / 2, other.asked + other.round_trip / 2);
        let passed = match here.checked_duration_since(there) {
            Some(later) => micros(later),
            None => -micros(there.duration_since(here)),
        };
        Ahead {
            micros: self.shown.micros_since(other.shown).saturating_sub(passed),
            // A microsecond more for what was rounded.
            uncertain: (micros(self.round_trip) + micros(other.round_trip)) / 2 + 1,
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_known_to_half_of_the_round_trips() {
        let start = Instant::now();
        let reading = |after_ms: u64, round_trip_ms: u64, shown: i64| Reading {
            asked: start + Duration::from_millis(after_ms),
            round_trip: Duration::from_millis(round_trip_ms),
            shown: Moment(shown),
            lsn: None,
        };
        // Asked at 0 and 10 ms; answered in the middle of 2 and 4 ms: 11 ms lie between.
        let (reference, own) = (reading(0, 2, 1_000_000), reading(10, 4, 1_061_000));
        assert_eq!(own.ahead_of(&reference), Ahead { micros: 50_000, uncertain: 3001 });
        assert_eq!(reference.ahead_of(&own), Ahead { micros: -50_000, uncertain: 3001 });
        // However the answers lay within their round trips, the truth lies within what is said.
        for (early, late) in [(-1000, 2000), (1000, -2000)] {
            let (reference, own) = (reading(0, 2, 1_000_000 + early), reading(10, 4, 1_061_000 + late));
            let said = own.ahead_of(&reference);
            assert!((said.micros - 50_000).abs() <= said.uncertain, "{said:?}");
        }
    }
}
