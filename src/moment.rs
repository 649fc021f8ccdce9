//! A moment as PostgreSQL's WAL writes it: microseconds since 2000-01-01 00:00 UTC.
//!
//! Prints and reads as RFC 3339 with microseconds; a time without a zone is refused, since on-call
//! people in three zones read the same page.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// PostgreSQL's epoch in microseconds of Unix time (`POSTGRES_EPOCH_JDATE`).
const EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// How a moment in no year that a calendar prints is written, behind its microseconds: what was written is read.
const OUTSIDE_CALENDAR: &str = " µs from 2000-01-01";

/// Microseconds since 2000-01-01 00:00 UTC (`TimestampTz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

impl Moment {
    /// From microseconds of Unix time.
    pub fn from_unix_micros(micros: i64) -> Self {
        Moment(micros.saturating_sub(EPOCH_UNIX_MICROS))
    }

    /// Returns microseconds of Unix time.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_UNIX_MICROS)
    }

    /// Returns this moment moved by so many microseconds.
    pub fn plus_micros(self, micros: i64) -> Self {
        Moment(self.0.saturating_add(micros))
    }

    /// Returns microseconds from `earlier` to this moment; negative if it is later.
    pub fn micros_since(self, earlier: Moment) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns it as PostgreSQL's settings take it: they refuse the `Z` of RFC 3339.
    pub fn for_postgres(self) -> String {
        let text = self.to_string();
        text.strip_suffix('Z').map_or(text.clone(), |plain| format!("{}+00", plain.replace('T', " ")))
    }

    fn timestamp(self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::from_microsecond(self.unix_micros()).ok()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timestamp() {
            Some(t) => f.pad(&format!("{t:.6}")),
            // Outside the years any calendar prints: from damaged input only.
            None => write!(f, "{}{OUTSIDE_CALENDAR}", self.0),
        }
    }
}

/// Text that is not a moment.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a time with a zone; write it as 2026-11-21T08:30:00Z or 2026-11-21 09:30:00.25+01")]
pub struct BadMoment(String);

impl FromStr for Moment {
    type Err = BadMoment;

    /// Reads RFC 3339, and the form PostgreSQL prints (a space, a short zone such as `+01`).
    fn from_str(s: &str) -> Result<Self, BadMoment> {
        if let Some(Ok(micros)) = s.strip_suffix(OUTSIDE_CALENDAR).map(str::parse) {
            return Ok(Moment(micros));
        }
        let parsed: jiff::Timestamp = s.trim().parse().map_err(|_| BadMoment(s.to_owned()))?;
        Ok(Moment::from_unix_micros(parsed.as_microsecond()))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_and_postgres_write() {
        let want = Moment(0).plus_micros(250_000);
        for text in ["2000-01-01T00:00:00.25Z", "2000-01-01 01:00:00.25+01", "1999-12-31 18:30:00.25-05:30"] {
            assert_eq!(text.parse::<Moment>().unwrap(), want, "{text}");
        }
        assert_eq!(want.to_string(), "2000-01-01T00:00:00.250000Z");
        assert_eq!(want.for_postgres(), "2000-01-01 00:00:00.250000+00");
        assert_eq!(want.for_postgres().parse::<Moment>().unwrap(), want);
        for bad in ["2000-01-01 00:00:00", "yesterday", "", "2000-01-01"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
        for outside in [Moment(i64::MIN), Moment(i64::MAX)] {
            assert_eq!(outside.to_string().parse::<Moment>().unwrap(), outside);
        }
    }
}
