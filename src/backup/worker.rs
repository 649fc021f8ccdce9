//! One thread of a backup: takes units of work, and makes sealed packs and manifest entries of them.
//!
//! unit -> read -> look at its pages -> chunk -> zstd and AES-256-GCM -> pack -> out
//!
//! Each worker fills a pack of its own, so that workers share nothing but the queue. Chunks that
//! entries name are never their pack's last one: that is empty.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::Bytes;

use super::pages::{Expected, Wrong};
use super::scan::{Found, there};
use super::source::{CHUNK_BYTES, Queue, Range, Unit, entry, read_at};
use super::{Error, Progress};
use crate::lsn::Lsn;
use crate::manifest::backup::{Entry, Extent};
use crate::pgfile::{control::ControlFile, kind::RelationFile, twophase};
use crate::seal::{ChunkPlace, Sealer};
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
    /// `None` where the server has no page checksums; else the backup's start.
    pub(super) verify_before: Option<Lsn>,
    pub(super) queue: Mutex<Queue>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) next_pack: Arc<AtomicU32>,
    pub(super) pack_bytes: usize,
    /// Begins the pack with this number.
    pub(super) begin: Box<dyn Fn(u32) -> Result<Sealer, Error> + Send + Sync>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) packs: tokio::sync::mpsc::Sender<SealedPack>,
    pub(super) entries: mpsc::SyncSender<Entry>,
}

/// A pack, ready to be stored.
#[derive(Debug)]
pub(super) struct SealedPack {
    pub(super) number: u32,
    pub(super) bytes: Bytes,
}

/// What a worker found besides.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) wrong: Wrong,
    pub(super) prepared: Vec<Prepared>,
    pub(super) control: Option<ControlFile>,
}

impl Findings {
    pub(super) fn merge(&mut self, other: Findings) {
        self.wrong.merge(other.wrong);
        self.prepared.extend(other.prepared);
        self.control = self.control.take().or(other.control);
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    pack: Option<Pack>,
    /// Small files that wait to be sealed as one chunk.
    bundle: Vec<u8>,
    bundled: Vec<Bundled>,
    buffer: Vec<u8>,
    findings: Findings,
}

struct Pack {
    number: u32,
    sealer: Sealer,
}

/// A small file in the bundle.
struct Bundled {
    found: Found,
    offset: usize,
    length: usize,
}

/// Works until the queue is empty. Blocks.
pub(super) fn work(shared: &Shared) -> Result<Findings, Error> {
    let mut worker = Worker {
        shared,
        pack: None,
        bundle: Vec::new(),
        bundled: Vec::new(),
        buffer: Vec::new(),
        findings: Findings::default(),
    };
    while let Some(unit) = shared.next_unit() {
        match unit {
            Unit::Small(found) => worker.small(found)?,
            Unit::Range(range) => worker.range(range)?,
        }
    }
    worker.seal_bundle()?;
    worker.close_pack()?;
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
        let start = self.verify_before?;
        let relation = RelationFile::parse(path)?;
        Some(Expected { first_block: relation.first_block(), start })
    }

    fn read_error(&self, path: &str) -> impl FnOnce(std::io::Error) -> Error {
        let path = self.data.join(path);
        |source| Error::Read { path, source }
    }

    fn hand_over(&self, entry: Entry) -> Result<(), Error> {
        self.entries.send(entry).map_err(|_| Error::Ended)
    }
}

impl Worker<'_> {
    /// Adds a file to the bundle.
    fn small(&mut self, found: Found) -> Result<(), Error> {
        let shared = self.shared;
        let path = shared.data.join(&*found.path);
        let Some(file) = there(&path, File::open(&path))? else { return Ok(()) };
        // A file that was replaced since the scan may be longer; it is read whole where it fits.
        let size = file.metadata().map_err(shared.read_error(&found.path))?.len();
        let size = usize::try_from(size).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        if self.bundle.len() + size > CHUNK_BYTES {
            self.seal_bundle()?;
        }
        let offset = self.bundle.len();
        let length = self.read_small(&found, &file, offset, size)?;
        self.bundle.truncate(offset + length);
        shared.progress.read(length as u64);
        self.bundled.push(Bundled { found, offset, length });
        Ok(())
    }

    /// Reads a small file behind what the bundle holds; again where it must be whole and is not.
    fn read_small(&mut self, found: &Found, file: &File, offset: usize, size: usize) -> Result<usize, Error> {
        let shared = self.shared;
        for attempt in 1.. {
            self.bundle.resize(offset + size, 0);
            let place = self.bundle.get_mut(offset..).unwrap_or_default();
            let length = read_at(file, 0, place).map_err(shared.read_error(&found.path))?;
            let bytes = place.get_mut(..length).unwrap_or_default();
            let outcome = if &*found.path == CONTROL_FILE {
                ControlFile::parse(bytes).map(|control| self.findings.control = Some(control))
            } else if found.path.starts_with(TWO_PHASE_FOLDER) {
                twophase::parse(bytes, shared.version).map(|prepared| self.findings.prepared.push(prepared))
            } else {
                if let Some(expected) = shared.expected(&found.path) {
                    self.findings.wrong.check(&found.path, expected, file, 0, bytes);
                }
                Ok(())
            };
            match outcome {
                Ok(()) => return Ok(length),
                Err(source) if attempt >= TRIES => {
                    return Err(Error::Format { path: shared.data.join(&*found.path), source });
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Ok(0)
    }

    /// Reads one range of a large file, chunk by chunk.
    fn range(&mut self, range: Range) -> Result<(), Error> {
        let shared = self.shared;
        let mut extents = Vec::new();
        let found = &range.file.found;
        let expected = shared.expected(&found.path);
        if let Some(file) = range.file.open(&shared.data)? {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(CHUNK_BYTES, 0);
            let (mut at, end) = (range.at, range.at + range.length);
            while at < end && !shared.stop.load(Ordering::Relaxed) {
                let wanted = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                let place = buffer.get_mut(..wanted).unwrap_or_default();
                let length = read_at(file, at, place).map_err(shared.read_error(&found.path))?;
                let bytes = place.get_mut(..length).unwrap_or_default();
                if let Some(expected) = expected {
                    self.findings.wrong.check(&found.path, expected, file, at, bytes);
                }
                if length > 0 {
                    let (pack, place) = self.seal(bytes)?;
                    extents.push(extent(pack, place, 0, bytes));
                }
                shared.progress.read(length as u64);
                at += length as u64;
                if length < wanted {
                    break;
                }
            }
            self.buffer = buffer;
        }
        range.finish(extents).map_or(Ok(()), |entry| shared.hand_over(entry))
    }

    /// Seals the bundle as one chunk, and hands over the entries of its files.
    fn seal_bundle(&mut self) -> Result<(), Error> {
        let mut bundle = std::mem::take(&mut self.bundle);
        let place = if bundle.is_empty() { None } else { Some(self.seal(&bundle)?) };
        for Bundled { found, offset, length } in std::mem::take(&mut self.bundled) {
            let bytes = bundle.get(offset..offset + length).unwrap_or_default();
            let extents = match place {
                Some((pack, place)) if length > 0 => vec![extent(pack, place, offset, bytes)],
                _ => Vec::new(),
            };
            self.shared.hand_over(entry(&found, extents))?;
        }
        bundle.clear();
        self.bundle = bundle;
        Ok(())
    }

    /// Seals a chunk into the open pack; returns the pack's number and the place in it.
    fn seal(&mut self, plain: &[u8]) -> Result<(u32, ChunkPlace), Error> {
        let shared = self.shared;
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => {
                let number = shared.next_pack.fetch_add(1, Ordering::Relaxed);
                Pack { number, sealer: (shared.begin)(number)? }
            }
        };
        let place = pack.sealer.chunk(plain, false).map_err(|source| Error::Seal { source })?;
        let (number, length) = (pack.number, pack.sealer.len());
        self.pack = Some(pack);
        if length >= shared.pack_bytes {
            self.close_pack()?;
        }
        Ok((number, place))
    }

    /// Ends the open pack, and hands it over; waits where the zones are slower.
    fn close_pack(&mut self) -> Result<(), Error> {
        let Some(Pack { number, sealer }) = self.pack.take() else { return Ok(()) };
        let bytes = sealer.finish().map_err(|source| Error::Seal { source })?;
        self.shared.packs.blocking_send(SealedPack { number, bytes }).map_err(|_| Error::Ended)
    }
}

fn extent(pack: u32, place: ChunkPlace, offset: usize, bytes: &[u8]) -> Extent {
    let short = |n: usize| u32::try_from(n).expect("it lies in a chunk of at most 1 MiB");
    Extent {
        pack: pack.to_string(),
        chunk: place.index,
        at: place.at,
        sealed: place.sealed,
        offset: short(offset),
        len: short(bytes.len()),
        crc: crc32fast::hash(bytes),
    }
}
