//! One thread of a backup: takes units of work, reads them, looks at their pages, and packs them.
//!
//! unit -> read -> look at its pages -> [`Packer`]

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::ahead::Ahead;
use super::pace::{Pace, Throttle};
use super::packer::{Packer, SealedPack};
use super::pages::{Expected, Wrong};
use super::paranoid::{self, Unlogged};
use super::scan::{Found, there};
use super::source::{CHUNK_BYTES, Part, Pieced, Queue, Range, Unit, read_at};
use super::{Error, Progress};
use crate::lsn::Lsn;
use crate::manifest::backup::Entry;
use crate::pgfile::{control::ControlFile, kind::RelationFile, twophase};
use crate::seal::Sealer;
use crate::wal::Version;
use crate::wal::event::Prepared;

pub(super) const CONTROL_FILE: &str = "global/pg_control";
const TWO_PHASE_FOLDER: &str = "pg_twophase/";

/// How often a file that must be whole is read, while the server rewrites it in place.
const TRIES: u32 = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

/// What all workers of a backup share.
pub(super) struct Shared {
    pub(super) data: PathBuf,
    pub(super) version: Version,
    /// The backup's start: the WAL repairs pages from there on.
    pub(super) start: Lsn,
    /// The server has page checksums.
    pub(super) checksums: bool,
    pub(super) queue: Mutex<Queue>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) next_pack: Arc<AtomicU32>,
    pub(super) pack_bytes: usize,
    pub(super) pace: Pace,
    pub(super) throttle: Throttle,
    /// Begins the pack with this number.
    pub(super) begin: Box<dyn Fn(u32) -> Result<Sealer, Error> + Send + Sync>,
    /// Reads what is taken from an older backup, where all of it is to be compared.
    pub(super) stored: Option<paranoid::Stored>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) packs: tokio::sync::mpsc::Sender<SealedPack>,
    pub(super) entries: mpsc::SyncSender<Entry>,
}

/// What a worker found besides.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Bytes read from the data directory.
    pub(super) read: u64,
    pub(super) wrong: Wrong,
    pub(super) unlogged: Unlogged,
    pub(super) prepared: Vec<Prepared>,
    pub(super) control: Option<ControlFile>,
}

impl Findings {
    pub(super) fn merge(&mut self, other: Findings) {
        self.read += other.read;
        self.wrong.merge(other.wrong);
        self.unlogged.merge(other.unlogged);
        self.prepared.extend(other.prepared);
        self.control = self.control.take().or(other.control);
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    packer: Packer<'a>,
    buffer: Vec<u8>,
    findings: Findings,
}

/// Works until the queue is empty. Blocks.
pub(super) fn work(shared: &Shared) -> Result<Findings, Error> {
    shared.pace.stand_back();
    let mut worker =
        Worker { shared, packer: Packer::new(shared), buffer: Vec::new(), findings: Findings::default() };
    while let Some(unit) = shared.next_unit() {
        match unit {
            Unit::Small(found) => worker.small(found)?,
            Unit::Range(range) => worker.range(range)?,
            Unit::Kept(entry, size) => {
                shared.progress.read(size);
                shared.hand_over(entry)?;
            }
            Unit::Patch(part) => worker.patch(part)?,
        }
    }
    worker.packer.finish()?;
    if shared.stop.load(Ordering::Relaxed) { Err(Error::Ended) } else { Ok(worker.findings) }
}

impl Shared {
    fn next_unit(&self) -> Option<Unit> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn expected(&self, path: &str) -> Option<Expected> {
        let relation = RelationFile::parse(path).filter(|_| self.checksums)?;
        Some(Expected { first_block: relation.first_block(), start: self.start })
    }

    pub(super) fn read_error(&self, path: &str) -> impl FnOnce(std::io::Error) -> Error {
        let path = self.data.join(path);
        |source| Error::Read { path, source }
    }

    pub(super) fn hand_over(&self, entry: Entry) -> Result<(), Error> {
        self.entries.send(entry).map_err(|_| Error::Ended)
    }

    /// Reads pages of a file and looks at them.
    fn read_pages(
        &self,
        findings: &mut Findings,
        path: &str,
        file: &File,
        at: u64,
        place: &mut [u8],
    ) -> Result<usize, Error> {
        self.throttle.wait(place.len(), &self.stop);
        let length = read_at(file, at, place).map_err(self.read_error(path))?;
        findings.read += length as u64;
        self.progress.read(length as u64);
        if let Some(expected) = self.expected(path) {
            let bytes = place.get_mut(..length).unwrap_or_default();
            findings.wrong.check(path, expected, file, at, bytes);
        }
        Ok(length)
    }
}

impl Worker<'_> {
    /// Packs a whole file.
    fn small(&mut self, found: Found) -> Result<(), Error> {
        let shared = self.shared;
        let path = shared.data.join(&*found.path);
        let Some(file) = there(&path, File::open(&path))? else { return Ok(()) };
        // A file that was replaced since the scan may be longer; it is read whole where it fits.
        let size = file.metadata().map_err(shared.read_error(&found.path))?.len();
        let size = usize::try_from(size).unwrap_or(CHUNK_BYTES);
        let name = found.path.clone();
        self.packer.begin(Arc::new(Pieced::whole(found)));
        let findings = &mut self.findings;
        let length = self.packer.add(0, size, |place| shared.read_small(findings, &name, &file, place))?;
        self.packer.end(length as u64);
        Ok(())
    }

    /// Packs what may have changed of a file; the rest comes from an older backup.
    fn patch(&mut self, part: Part) -> Result<(), Error> {
        let shared = self.shared;
        let Part { file: pieced, mut ranges, kept } = part;
        let Some(file) = pieced.open(&shared.data)? else { return Ok(()) };
        let (size, name) = (pieced.found.size, &*pieced.found.path);
        if let Some(stored) = &shared.stored {
            let compare = paranoid::Compare { shared, stored, file, path: name };
            let differing = compare.kept(&pieced.older, &ranges, size, &mut self.findings.unlogged)?;
            ranges.extend(differing);
        }
        self.packer.begin(Arc::clone(&pieced));
        let mut ahead = Ahead::new(file, &ranges);
        for range in &ranges {
            let mut at = range.start;
            while at < range.end {
                if shared.stop.load(Ordering::Relaxed) {
                    return Err(Error::Ended);
                }
                let wanted = usize::try_from(range.end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                let findings = &mut self.findings;
                let length = self
                    .packer
                    .add(at, wanted, |place| shared.read_pages(findings, name, file, at, place))?;
                at += length as u64;
                if length < wanted {
                    // Cut while it was read: the WAL tells of it, and what lies behind is gone.
                    self.packer.end(at);
                    return Ok(());
                }
                ahead.read(length as u64);
            }
        }
        shared.progress.read(kept);
        self.packer.end(size);
        Ok(())
    }

    /// Reads one range of a large file, chunk by chunk.
    fn range(&mut self, range: Range) -> Result<(), Error> {
        let shared = self.shared;
        let mut extents = Vec::new();
        let found = &range.file.found;
        if let Some(file) = range.file.open(&shared.data)? {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(CHUNK_BYTES, 0);
            let (mut at, end) = (range.at, range.at + range.length);
            let all = at..end;
            let mut ahead = Ahead::new(file, std::slice::from_ref(&all));
            while at < end && !shared.stop.load(Ordering::Relaxed) {
                let wanted = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                let place = buffer.get_mut(..wanted).unwrap_or_default();
                let length = shared.read_pages(&mut self.findings, &found.path, file, at, place)?;
                if length > 0 {
                    let sealed = self.packer.seal(place.get(..length).unwrap_or_default())?;
                    extents.push(sealed.extent(0, length));
                }
                at += length as u64;
                if length < wanted {
                    break;
                }
                ahead.read(length as u64);
            }
            self.buffer = buffer;
        }
        range.finish(extents).map_or(Ok(()), |entry| shared.hand_over(entry))
    }
}

impl Shared {
    /// Reads a small file; again where it must be whole and is not.
    fn read_small(
        &self,
        findings: &mut Findings,
        path: &str,
        file: &File,
        place: &mut [u8],
    ) -> Result<usize, Error> {
        for attempt in 1.. {
            let length = self.read_pages(findings, path, file, 0, place)?;
            let bytes = place.get(..length).unwrap_or_default();
            let outcome = if path == CONTROL_FILE {
                ControlFile::parse(bytes).map(|control| findings.control = Some(control))
            } else if path.starts_with(TWO_PHASE_FOLDER) {
                twophase::parse(bytes, self.version).map(|prepared| findings.prepared.push(prepared))
            } else {
                Ok(())
            };
            match outcome {
                Ok(()) => return Ok(length),
                Err(source) if attempt >= TRIES => {
                    return Err(Error::Format { path: self.data.join(path), source });
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Ok(0)
    }
}
