//! `pg_twophase/<xid>`: transactions that were prepared before the last checkpoint. The file holds what
//! the PREPARE record held, then a CRC-32C (PostgreSQL `src/backend/access/transam/twophase.c`).

use super::Error;
use crate::lsn::Lsn;
use crate::wal::bytes::u32_at;
use crate::wal::event::Prepared;
use crate::wal::xact;

/// `TWOPHASE_MAGIC`
const MAGIC: u32 = 0x57F9_4534;

/// Reads a state file and checks its sum. Its PREPARE's position is not in it.
pub fn parse(bytes: &[u8]) -> Result<Prepared, Error> {
    if u32_at(bytes, 0) != Some(MAGIC) {
        return Err(Error::TwoPhase("another magic number than PostgreSQL 15's"));
    }
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Error::TwoPhase("too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(Error::TwoPhase("its checksum is wrong"));
    }
    let xact::Prepare { xid, database, time, gid } =
        xact::prepare(body).ok_or(Error::TwoPhase("its fields do not add up"))?;
    Ok(Prepared { lsn: Lsn::INVALID, xid, database, gid, time })
}
