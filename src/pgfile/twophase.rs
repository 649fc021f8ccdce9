//! `pg_twophase/<xid>` (its name is of 8 hexadecimal digits, from 17 on of 16, which begin with the
//! epoch): transactions that were prepared before the last checkpoint. The file holds what
//! the PREPARE record held, then a CRC-32C (PostgreSQL `src/backend/access/transam/twophase.c`).

use super::Error;
use crate::lsn::Lsn;
use crate::wal::Version;
use crate::wal::bytes::u32_at;
use crate::wal::event::Prepared;
use crate::wal::xact;

/// `TWOPHASE_MAGIC`
const MAGIC: u32 = 0x57F9_4534;

/// Reads a state file and checks its sum. Its PREPARE's position is not in it, nor who wrote it: 14 to 18
/// have one magic number, and 15 changed what follows.
pub fn parse(bytes: &[u8], version: Version) -> Result<Prepared, Error> {
    if u32_at(bytes, 0) != Some(MAGIC) {
        return Err(Error::TwoPhase("a magic number that is none of PostgreSQL 14 to 18"));
    }
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Error::TwoPhase("too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(Error::TwoPhase("its checksum is wrong"));
    }
    let xact::Prepare { xid, database, time, gid } =
        xact::prepare(body, version).ok_or(Error::TwoPhase("its fields do not add up"))?;
    Ok(Prepared { lsn: Lsn::INVALID, xid, database, gid, time })
}
