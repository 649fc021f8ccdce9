//! `global/pg_control`: who the cluster is and where recovery begins
//! (PostgreSQL `src/include/catalog/pg_control.h`, `ControlFileData`; offsets of a 64-bit server).

use super::Error;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::wal::bytes::{Bytes, u32_at, u64_at};
use crate::wal::event::Parameters;
use crate::wal::scan::parameters;

/// What `pg_control` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    pub system_identifier: u64,
    pub catalog_version: u32,
    pub state: State,
    /// Where the last checkpoint record begins.
    pub checkpoint: Lsn,
    pub redo: Lsn,
    pub timeline: TimelineId,
    /// With its epoch.
    pub next_xid: u64,
    pub parameters: Parameters,
    pub segment_bytes: u32,
    pub data_checksums: bool,
}

/// `DBState`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ControlFile {
    /// Reads the file's bytes and checks their CRC-32C.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let version = u32_at(bytes, 8).ok_or(Error::Control("too short"))?;
        let crc_at = crc_at(version).ok_or(Error::ControlVersion(version))?;
        let body = bytes.get(..crc_at).ok_or(Error::Control("too short"))?;
        if u32_at(bytes, crc_at) != Some(crc32c::crc32c(body)) {
            return Err(Error::Control("its checksum is wrong"));
        }
        Self::fields(body).ok_or(Error::Control("its fields do not add up"))
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        Some(ControlFile {
            system_identifier: u64_at(bytes, 0)?,
            catalog_version: u32_at(bytes, 12)?,
            state: state(u32_at(bytes, 16)?)?,
            checkpoint: Lsn(u64_at(bytes, 32)?),
            redo: Lsn(u64_at(bytes, 40)?),
            timeline: TimelineId(u32_at(bytes, 48)?),
            next_xid: u64_at(bytes, 64)?,
            parameters: parameters(&mut Bytes(bytes.get(180..)?))?,
            segment_bytes: u32_at(bytes, 228)?,
            data_checksums: u32_at(bytes, 252)? != 0,
        })
    }
}

/// Returns where the checksum lies, by `PG_CONTROL_VERSION`; what is read lies in one place in all.
fn crc_at(version: u32) -> Option<usize> {
    match version {
        // 13 to 16, and 17, which put a field into padding of the checkpoint.
        1300 | 1700 => Some(288),
        // 18 tells whether `char` is signed, before the 32 bytes that end the rest.
        1800 => Some(292),
        _ => None,
    }
}

fn state(number: u32) -> Option<State> {
    Some(match number {
        0 => State::StartingUp,
        1 => State::ShutDown,
        2 => State::ShutDownInRecovery,
        3 => State::ShuttingDown,
        4 => State::InCrashRecovery,
        5 => State::InArchiveRecovery,
        6 => State::InProduction,
        _ => return None,
    })
}
