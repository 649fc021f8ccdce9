//! Names: of clusters, nodes, zones and backups. Checked once, where they enter, so that they are
//! safe in object names, file names and messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::moment::Moment;

/// Text that cannot be a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} cannot name a {what}: use 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or a digit"
)]
pub struct BadName {
    what: &'static str,
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(s: &str) -> Result<Self, BadName> {
                let fits = (1..=63).contains(&s.len())
                    && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                    && s.starts_with(|c: char| c.is_ascii_alphanumeric());
                if fits { Ok($type(s.to_owned())) } else { Err(BadName { what: $what, text: s.to_owned() }) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A cluster: all nodes that are restored together.
    ClusterName,
    "cluster"
);
name!(
    /// One PostgreSQL server of a cluster.
    NodeName,
    "node"
);
name!(
    /// One of the places where every object is kept.
    ZoneName,
    "zone"
);
name!(
    /// A base backup: its start in UTC and four random hex digits, so that names sort by time.
    BackupId,
    "backup"
);

impl BackupId {
    /// Makes the name of a backup that begins now.
    pub fn new(start: Moment, chance: [u8; 2]) -> Self {
        let digits: String = start.to_string().chars().take(19).filter(char::is_ascii_digit).collect();
        let (day, time) = digits.split_at(digits.len().min(8));
        BackupId(format!("{day}t{time}z-{:02x}{:02x}", chance[0], chance[1]))
    }

    /// Returns when the backup began, to the second; `None` for a name that was not made here.
    pub fn start(&self) -> Option<Moment> {
        let digit = |at: usize, len: usize| self.0.get(at..at + len);
        let (date, time) =
            ((digit(0, 4)?, digit(4, 2)?, digit(6, 2)?), (digit(9, 2)?, digit(11, 2)?, digit(13, 2)?));
        format!("{}-{}-{}T{}:{}:{}Z", date.0, date.1, date.2, time.0, time.1, time.2).parse().ok()
    }
}

/// A Citus group: 0 is the coordinator, each worker has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub i32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["prod", "worker-1", "0a_b"] {
            assert!(good.parse::<NodeName>().is_ok());
        }
        for bad in ["", "-a", "A", "a/b", "..", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        let id = BackupId::new("2026-11-21T08:30:00Z".parse().unwrap(), [0xab, 1]);
        assert_eq!(id.as_str(), "20261121t083000z-ab01");
        assert!(id.as_str().parse::<BackupId>().is_ok());
        assert_eq!(id.start(), "2026-11-21T08:30:00Z".parse().ok());
        assert_eq!("full".parse::<BackupId>().unwrap().start(), None);
    }
}
