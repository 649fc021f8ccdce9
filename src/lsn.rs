//! A position in PostgreSQL's write-ahead log, and the arithmetic of segments.
//!
//! For people an LSN prints as PostgreSQL prints it (`0/3000148`); in object names it is 16 hex
//! digits, so that names sort as positions do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A byte position in the WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);
    /// Greater than every position.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Returns the number of the segment that holds this byte.
    pub fn segment(self, segment_bytes: u32) -> u64 {
        self.0 / u64::from(segment_bytes)
    }

    /// Returns the first byte of the segment that holds this byte.
    pub fn segment_start(self, segment_bytes: u32) -> Lsn {
        Lsn(self.0 - self.0 % u64::from(segment_bytes))
    }

    /// Returns the distance from the start of its segment, in bytes.
    pub fn segment_offset(self, segment_bytes: u32) -> u32 {
        (self.0 % u64::from(segment_bytes)) as u32
    }

    /// Returns this position moved forward, stopping at the greatest.
    pub fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Text that is not an LSN.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an LSN; expected two hexadecimal numbers such as 0/3000148")]
pub struct BadLsn(String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(s: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(s.to_owned());
        let (high, low) = s.split_once('/').ok_or_else(bad)?;
        let part = |p: &str| {
            let plain = !p.is_empty() && p.len() <= 8 && p.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(p, 16).ok()).flatten().ok_or_else(bad)
        };
        Ok(Lsn(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_as_postgres_does() {
        for (text, value) in [("0/0", 0), ("0/3000148", 0x300_0148), ("1A/FF", 0x1A_0000_00FF)] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in ["", "/", "0", "0/", "+1/2", "0/123456789", "G/0", "0/1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
