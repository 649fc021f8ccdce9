//! Which server wrote WAL: the magic number of its pages (`XLOG_PAGE_MAGIC`), and by it everything that
//! lies differently in the records of different versions.

use super::Error;
use crate::lsn::Lsn;

/// A major version of PostgreSQL whose WAL and files are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V14,
    V15,
    V16,
    V17,
    V18,
}

impl Version {
    /// All that are read, the oldest first.
    pub const ALL: [Version; 5] = [Version::V14, Version::V15, Version::V16, Version::V17, Version::V18];
    /// [`Version::ALL`] for people.
    pub const NAMES: &'static str = "14 to 18";

    /// Returns the number that PostgreSQL calls itself by.
    pub fn major(self) -> u32 {
        match self {
            Version::V14 => 14,
            Version::V15 => 15,
            Version::V16 => 16,
            Version::V17 => 17,
            Version::V18 => 18,
        }
    }

    /// Reads a `server_version_num` such as 150018; `None` for versions that are not read.
    pub fn of_server(version_num: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.major() == version_num / 10_000)
    }

    /// Reads the magic number of a page.
    pub(crate) fn of_magic(magic: u16, lsn: Lsn) -> Result<Self, Error> {
        let version = match magic {
            0xD10D => Version::V14,
            0xD110 => Version::V15,
            0xD113 => Version::V16,
            0xD116 => Version::V17,
            0xD118 => Version::V18,
            // 9.3 to 13, and those to come.
            0xD075..=0xD10C => return Err(Error::Version { lsn, version: "older than 14" }),
            0xD119..=0xD1FF => return Err(Error::Version { lsn, version: "newer than 18" }),
            _ => return Err(Error::NotWal { lsn, magic }),
        };
        Ok(version)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.major())
    }
}
