//! Which server wrote WAL: the magic number of its pages (`XLOG_PAGE_MAGIC`).

use super::Error;
use crate::lsn::Lsn;

/// The page magic of PostgreSQL 15.
pub(super) const MAGIC_15: u16 = 0xD110;

/// Refuses WAL of a version whose records this pitrus would misread.
pub(crate) fn check_magic(magic: u16, lsn: Lsn) -> Result<(), Error> {
    let version = match magic {
        MAGIC_15 => return Ok(()),
        0xD10D => "14",
        0xD113 => "16",
        0xD116 => "17",
        0xD118 => "18",
        _ => return Err(Error::NotWal { lsn, magic }),
    };
    Err(Error::Version { lsn, version })
}
