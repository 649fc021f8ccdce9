//! Events of WAL in order, with what is under way carried along.
//!
//! bytes -> [`Decoder`] -> transaction, checkpoint and decision records -> [`Event`]
//!
//! A decision is a COMMIT whose transaction, or a subtransaction of it, inserted rows into
//! `pg_dist_transaction`; the rows wait in [`Open`] until the COMMIT is seen.

use std::collections::BTreeMap;

use super::bytes::{Bytes, c_string, u32_at, u64_at};
use super::decoder::{Decoder, Step};
use super::event::{Decided, Event, Open, Parameters, PendingDecision, Prepared, What};
use super::record::{Record, rmgr};
use super::xact::{self, Xact};
use super::{Error, decision};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

/// What [`EventScan::step`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Event(Event),
    NeedMore,
    End { at: Lsn, why: &'static str },
}

/// Reads events from a position on.
#[derive(Debug)]
pub struct EventScan {
    decoder: Decoder,
    track: Track,
}

impl EventScan {
    /// Begins at `start` (see [`Decoder::new`]) with what was open there.
    pub fn new(segment_bytes: u32, start: Lsn, open: Open) -> Self {
        EventScan { decoder: Decoder::new(segment_bytes, start), track: Track::new(open) }
    }

    /// Adds the bytes that follow those fed before.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// Returns the next event, ordinary commits and rollbacks included.
    pub fn step(&mut self) -> Result<Found, Error> {
        loop {
            match self.decoder.step()? {
                Step::Record(record) => {
                    if let Some(what) = self.track.take(&record)? {
                        return Ok(Found::Event(Event { lsn: record.lsn, end: record.end, what }));
                    }
                }
                Step::NeedMore => return Ok(Found::NeedMore),
                Step::End { at, why } => return Ok(Found::End { at, why }),
            }
        }
    }

    /// Returns where the next record begins or will begin.
    pub fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Returns what is under way at [`EventScan::position`].
    pub fn open(&self) -> Open {
        self.track.open()
    }
}

/// What is under way, record by record.
#[derive(Debug, Default)]
pub(super) struct Track {
    prepared: BTreeMap<u32, Prepared>,
    pending: BTreeMap<u32, Vec<Decided>>,
}

impl Track {
    pub(super) fn new(open: Open) -> Self {
        let mut track = Track::default();
        track.prepared.extend(open.prepared.into_iter().map(|p| (p.xid, p)));
        for PendingDecision { xid, row } in open.pending {
            track.pending.entry(xid).or_default().push(row);
        }
        track
    }

    pub(super) fn open(&self) -> Open {
        let pending = self
            .pending
            .iter()
            .flat_map(|(&xid, rows)| rows.iter().map(move |row| PendingDecision { xid, row: row.clone() }));
        Open { prepared: self.prepared.values().cloned().collect(), pending: pending.collect() }
    }

    /// Takes in one record; returns its event if it has one.
    pub(super) fn take(&mut self, record: &Record<'_>) -> Result<Option<What>, Error> {
        let malformed = Error::Malformed { lsn: record.lsn };
        match record.rmgr {
            rmgr::HEAP => {
                if let Some(row) = decision::inserted(record) {
                    self.pending.entry(record.xid).or_default().push(row);
                }
                Ok(None)
            }
            rmgr::TRANSACTION => {
                let xact = xact::parse(record).ok_or(malformed)?;
                Ok(self.transaction(record, xact))
            }
            rmgr::XLOG => log_event(record).ok_or(malformed),
            rmgr::STANDBY => {
                let Some((oldest, next)) = running(record) else { return Ok(None) };
                self.forget_dead(oldest);
                Ok(Some(What::Running { oldest, next }))
            }
            _ => Ok(None),
        }
    }

    fn transaction(&mut self, record: &Record<'_>, xact: Xact) -> Option<What> {
        match xact {
            Xact::Other => None,
            Xact::Prepare(p) => {
                let xact::Prepare { xid, database, time, gid } = p;
                let prepared = Prepared { lsn: record.lsn, xid, database, gid: gid.clone(), time };
                self.prepared.insert(xid, prepared);
                Some(What::Prepare { xid, database, gid, time })
            }
            Xact::End(end) => Some(self.end(record.xid, end)),
        }
    }

    fn end(&mut self, own_xid: u32, end: xact::End) -> What {
        let xact::End { commit, prepared, time, gid, subxacts, .. } = end;
        let xid = prepared.unwrap_or(own_xid);
        let mut decides = self.pending.remove(&xid).unwrap_or_default();
        for subxact in subxacts {
            decides.extend(self.pending.remove(&subxact).unwrap_or_default());
        }
        if prepared.is_some() {
            let known = self.prepared.remove(&xid).map(|p| p.gid);
            let gid = gid.or(known);
            return if commit {
                What::CommitPrepared { xid, time, gid }
            } else {
                What::RollbackPrepared { xid, time, gid }
            };
        }
        if commit { What::Commit { xid, time, decides } } else { What::Abort { xid, time } }
    }

    /// Drops the rows of transactions that ended without a record, in a crash: a list of running
    /// transactions says which is the oldest alive (`xl_running_xacts`).
    fn forget_dead(&mut self, oldest: u32) {
        let prepared = &self.prepared;
        // Transaction ids go round: before means less than half the circle behind.
        self.pending
            .retain(|&xid, _| prepared.contains_key(&xid) || xid.wrapping_sub(oldest).cast_signed() >= 0);
    }
}

/// Reads which transactions run, oldest and next, where the record is a list of them.
fn running(record: &Record<'_>) -> Option<(u32, u32)> {
    const RUNNING_XACTS: u8 = 0x10;
    let listed = record.operation() == RUNNING_XACTS;
    listed.then(|| Some((u32_at(record.main, 16)?, u32_at(record.main, 12)?))).flatten()
}

/// Reads the records of the log itself (`src/include/catalog/pg_control.h`, `xlog_internal.h`). The
/// outer `None`: its parts do not add up; the inner: no event.
fn log_event(record: &Record<'_>) -> Option<Option<What>> {
    const CHECKPOINT_SHUTDOWN: u8 = 0x00;
    const CHECKPOINT_ONLINE: u8 = 0x10;
    const PARAMETER_CHANGE: u8 = 0x60;
    const RESTORE_POINT: u8 = 0x70;
    const END_OF_RECOVERY: u8 = 0x90;
    let main = record.main;
    let mut rest = Bytes(main);
    let what = match record.operation() {
        operation @ (CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE) => {
            let (redo, timeline, previous) =
                (Lsn(rest.u64()?), TimelineId(rest.u32()?), TimelineId(rest.u32()?));
            What::Checkpoint {
                redo,
                timeline,
                previous: (previous != timeline).then_some(previous),
                next_xid: u64_at(main, 24)?,
                shutdown: operation == CHECKPOINT_SHUTDOWN,
                time: Moment::from_unix_micros(Bytes(main.get(64..)?).i64()?.saturating_mul(1_000_000)),
            }
        }
        PARAMETER_CHANGE => What::Parameters(parameters(&mut rest)?),
        RESTORE_POINT => What::RestorePoint { time: Moment(rest.i64()?), name: c_string(rest.0) },
        END_OF_RECOVERY => What::EndOfRecovery {
            time: Moment(rest.i64()?),
            timeline: TimelineId(rest.u32()?),
            previous: TimelineId(rest.u32()?),
        },
        _ => return Some(None),
    };
    Some(Some(what))
}

/// Reads the five settings in the order of `xl_parameter_change`, which is that of `ControlFileData` too.
pub(crate) fn parameters(rest: &mut Bytes<'_>) -> Option<Parameters> {
    Some(Parameters {
        max_connections: rest.i32()?,
        max_worker_processes: rest.i32()?,
        max_wal_senders: rest.i32()?,
        max_prepared_transactions: rest.i32()?,
        max_locks_per_transaction: rest.i32()?,
    })
}
