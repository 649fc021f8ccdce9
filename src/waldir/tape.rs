//! Events of consecutive segments, read from their files as they are asked for.

use std::collections::BTreeMap;

use super::file::Pieces;
use super::listing::Listing;
use super::{Error, file};
use crate::cut::look::shift;
use crate::lsn::Lsn;
use crate::wal::event::{Event, Open, Prepared, What};
use crate::wal::scan::{EventScan, Found};

#[derive(Debug)]
pub(super) struct Tape {
    scan: EventScan,
    /// The segment to open next.
    next: u64,
    /// The last there is.
    last: u64,
    pieces: Option<Pieces>,
    /// Read already, and behind the limit.
    held_back: Option<Event>,
    /// What is prepared after the last event given.
    prepared: BTreeMap<u32, Prepared>,
    /// What is added to time stamps.
    pretended: i64,
}

impl Tape {
    /// Begins at the start of segment `first`, knowing nothing of what was before.
    pub(super) fn new(listing: &Listing, (first, last): (u64, u64), pretended: i64) -> Self {
        Tape {
            scan: EventScan::new(listing.segment_bytes, listing.start_of(first), Open::default()),
            next: first,
            last,
            pieces: None,
            held_back: None,
            prepared: BTreeMap::new(),
            pretended,
        }
    }

    /// Returns where the next record begins or would.
    pub(super) fn position(&self) -> Lsn {
        self.held_back.as_ref().map_or_else(|| self.scan.position(), |event| event.lsn)
    }

    pub(super) fn prepared(&self) -> Vec<Prepared> {
        self.prepared.values().cloned().collect()
    }

    /// Returns whether a transaction was seen prepared, and not ended.
    pub(super) fn is_prepared(&self, xid: u32) -> bool {
        self.prepared.contains_key(&xid)
    }

    /// Returns the next event that begins before `limit`.
    pub(super) fn before(&mut self, listing: &Listing, limit: Lsn) -> Result<Option<Event>, Error> {
        loop {
            let found = match self.held_back.take() {
                Some(event) => Found::Event(event),
                None => self.step(listing)?,
            };
            match found {
                Found::Event(event) if event.lsn >= limit => {
                    self.held_back = Some(event);
                    return Ok(None);
                }
                Found::Event(event) => return Ok(Some(event)),
                Found::NeedMore if self.scan.position() >= limit || !self.feed(listing)? => return Ok(None),
                Found::NeedMore => {}
                Found::End { at, why } => {
                    let number = at.0 / u64::from(listing.segment_bytes);
                    if number >= self.last {
                        return Ok(None);
                    }
                    return Err(Error::EndsEarly { path: self.path(listing, number)?, at, why });
                }
            }
        }
    }

    fn step(&mut self, listing: &Listing) -> Result<Found, Error> {
        let mut found = match self.scan.step() {
            Ok(found) => found,
            Err(source) => {
                let path = self.path(listing, self.next.saturating_sub(1))?;
                return Err(Error::Wal { path, source });
            }
        };
        if let Found::Event(event) = &mut found {
            shift(event, self.pretended);
        }
        Ok(found)
    }

    /// Notes what an event that was given does to what is prepared.
    pub(super) fn note(&mut self, event: &Event) {
        match &event.what {
            What::Prepare { xid, database, gid, time } => {
                let (lsn, gid) = (event.lsn, gid.clone());
                let prepared = Prepared { lsn, xid: *xid, database: *database, gid, time: *time };
                self.prepared.insert(*xid, prepared);
            }
            What::CommitPrepared { xid, .. } | What::RollbackPrepared { xid, .. } => {
                self.prepared.remove(xid);
            }
            _ => {}
        }
    }

    /// Feeds what follows; returns whether there was anything.
    fn feed(&mut self, listing: &Listing) -> Result<bool, Error> {
        loop {
            if self.pieces.is_none() {
                if self.next > self.last {
                    return Ok(false);
                }
                self.pieces = Some(self.open(listing)?);
                self.next += 1;
            }
            let Some(pieces) = &mut self.pieces else { return Ok(false) };
            let bytes = pieces.next()?;
            if !bytes.is_empty() {
                self.scan.feed(bytes);
                return Ok(true);
            }
            self.pieces = None;
        }
    }

    fn open(&self, listing: &Listing) -> Result<Pieces, Error> {
        let path = self.path(listing, self.next)?;
        if let Some(header) = file::header(&path)?.filter(|header| header.system != listing.system) {
            return Err(Error::Mixed { path, found: header.system, expected: listing.system });
        }
        Pieces::open(path, listing.own_bytes(self.next))
    }

    fn path(&self, listing: &Listing, number: u64) -> Result<std::path::PathBuf, Error> {
        let missing = || Error::Missing { path: listing.folder().to_owned(), number };
        listing.path_of(number).ok_or_else(missing)
    }
}
