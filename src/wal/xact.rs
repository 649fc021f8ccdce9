//! Transaction records: commits, rollbacks, and the two phases.
//!
//! Layout: PostgreSQL `src/include/access/xact.h`, read as `ParseCommitRecord`, `ParseAbortRecord` and
//! `ParsePrepareRecord` do (`src/backend/access/rmgrdesc/xactdesc.c`).

use super::Version;
use super::bytes::{Bytes, c_string, u32_at};
use super::record::{Record, RelFile};
use crate::moment::Moment;

const OPERATION: u8 = 0x70;
const HAS_INFO: u8 = 0x80;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATS: u32 = 1 << 8;

/// A transaction record.
#[derive(Debug)]
pub(crate) enum Xact {
    Prepare(Prepare),
    /// An end, one-phase or of a prepared transaction.
    End(End),
    /// Assignments and invalidations, which no restore needs.
    Other,
}

/// A PREPARE record; a two-phase state file has the same contents.
#[derive(Debug)]
pub(crate) struct Prepare {
    pub(crate) xid: u32,
    pub(crate) database: u32,
    pub(crate) time: Moment,
    pub(crate) gid: String,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) commit: bool,
    /// The prepared transaction that ends; else the transaction is the record's own.
    pub(crate) prepared: Option<u32>,
    pub(crate) time: Moment,
    pub(crate) gid: Option<String>,
    pub(crate) subxacts: Vec<u32>,
    /// Relation files that end with it.
    pub(crate) dropped: Vec<RelFile>,
}

/// Reads a record of the transaction manager; `None` when its parts do not add up.
pub(crate) fn parse(record: &Record<'_>) -> Option<Xact> {
    match record.info & OPERATION {
        PREPARE => prepare(record.main, record.version).map(Xact::Prepare),
        COMMIT => end(record, true, false).map(Xact::End),
        ABORT => end(record, false, false).map(Xact::End),
        COMMIT_PREPARED => end(record, true, true).map(Xact::End),
        ABORT_PREPARED => end(record, false, true).map(Xact::End),
        _ => Some(Xact::Other),
    }
}

/// Reads `xl_xact_prepare` and the gid that follows it. 15 put two counts, of dropped statistics, before
/// the gid's length.
pub(crate) fn prepare(main: &[u8], version: Version) -> Option<Prepare> {
    let (gid_length_at, header_bytes) = if version == Version::V14 { (46, 64) } else { (54, 72) };
    let xid = u32_at(main, 8)?;
    let database = u32_at(main, 12)?;
    let time = Moment(Bytes(main.get(16..)?).i64()?);
    let gid_bytes = usize::from(Bytes(main.get(gid_length_at..)?).u16()?);
    let gid = main.get(header_bytes..header_bytes + gid_bytes)?;
    Some(Prepare { xid, database, time, gid: c_string(gid) })
}

fn end(record: &Record<'_>, commit: bool, of_prepared: bool) -> Option<End> {
    let mut rest = Bytes(record.main);
    let time = Moment(rest.i64()?);
    let has = if record.info & HAS_INFO != 0 { rest.u32()? } else { 0 };
    let mut end = End { commit, prepared: None, time, gid: None, subxacts: Vec::new(), dropped: Vec::new() };
    if has & HAS_DATABASE != 0 {
        rest.take(8)?;
    }
    if has & HAS_SUBXACTS != 0 {
        let count = rest.i32()?;
        end.subxacts = xids(&mut rest, count)?;
    }
    if has & HAS_RELATIONS != 0 {
        end.dropped = rel_files(&mut rest)?;
    }
    if has & HAS_DROPPED_STATS != 0 {
        let count = rest.i32()?;
        // `xl_xact_stats_item`: from 18 on, 64 bits name an object.
        rest.skip_items(count, if record.version < Version::V18 { 12 } else { 16 })?;
    }
    if has & HAS_INVALIDATIONS != 0 {
        let count = rest.i32()?;
        rest.skip_items(count, 16)?;
    }
    if has & HAS_TWOPHASE != 0 {
        end.prepared = Some(rest.u32()?);
        if has & HAS_GID != 0 {
            end.gid = Some(c_string(rest.0));
        }
    }
    // The record's own header has no transaction then: the one that ends is in its body.
    (end.prepared.is_some() == of_prepared).then_some(end)
}

fn xids(rest: &mut Bytes<'_>, count: i32) -> Option<Vec<u32>> {
    let bytes = rest.take(usize::try_from(count).ok()?.checked_mul(4)?)?;
    Some(bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect())
}

fn rel_files(rest: &mut Bytes<'_>) -> Option<Vec<RelFile>> {
    let count = usize::try_from(rest.i32()?).ok()?;
    let mut bytes = Bytes(rest.take(count.checked_mul(12)?)?);
    let mut files = Vec::with_capacity(count);
    while !bytes.0.is_empty() {
        files.push(RelFile { tablespace: bytes.u32()?, database: bytes.u32()?, relation: bytes.u32()? });
    }
    Some(files)
}
