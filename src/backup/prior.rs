//! The backup that this one goes on from, and what the WAL changed since.
//!
//! newest good backup -> its manifest, kept on a tape ([`Older`], while the server makes its checkpoint) -> WAL
//! indexes from its start to ours -> for each file of the scan: kept, patched or read whole
//!
//! Invariant: where anything is missing or in doubt there is no [`Prior`], or the file is read whole.
//! Memory: 5 to 17 bytes for each extent, some for each file, about a bit for each changed block.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::changes::Changes;
use super::scan::Found;
use super::tape::{PriorExtent, Stretch, Tape};
use super::weave::{fresh, weave};
use crate::flow;
use crate::ids::BackupId;
use crate::lsn::Lsn;
use crate::manifest;
use crate::manifest::backup::{Entry, Extent, Head, Kind, Line, ManifestReader, Pack};
use crate::manifest::wal_index::{ChangedBlocks, WalIndex};
use crate::retry::Backoff;
use crate::seal::ChunkPlace;
use crate::vault::{self, ObjectName, Vault, WalName, kept_segment_bytes};
use crate::wal::event::Open;
use crate::wal::index::IndexBuilder;
use crate::wal::segment::is_first_record;

/// A pack of which less than this is named by a manifest is worth writing anew.
const WORTH_KEEPING: f64 = 0.5;
/// Indexes that are read at once.
const INDEXES_AT_ONCE: usize = 16;
/// How long an index that must come is looked for, and how often.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// An older backup, and what was changed since it began.
#[derive(Debug)]
pub(super) struct Prior {
    pub(super) backup: BackupId,
    files: HashMap<Box<str>, PriorFile>,
    tape: Tape,
    packs: Vec<Pack>,
    /// As the new manifest names them.
    names: Vec<Arc<str>>,
    /// Of `packs`: those that are to be written anew.
    unfit: HashSet<u32>,
    /// Files with damaged pages.
    damaged: HashSet<String>,
    changes: Changes,
    /// Nothing is kept unread.
    pub(super) paranoid: bool,
}

#[derive(Debug)]
struct PriorFile {
    size: u64,
    modified: i64,
    extents: Stretch,
}

/// What is to be done with a file.
#[derive(Debug)]
pub(super) enum Fate {
    /// Nothing is known of it.
    Whole,
    /// Nothing changed.
    Kept(Entry),
    /// These ranges are read, the others come from the older copy.
    Patched { older: Vec<Extent>, ranges: Vec<Range<u64>> },
}

/// What a search is for.
pub(super) struct Search<'a> {
    pub(super) vault: &'a Vault,
    /// The head of the backup that is being made.
    pub(super) head: &'a Head,
    /// How many per cent of all bytes may be written anew where packs have become sparse.
    pub(super) rewrite_percent: u8,
    pub(super) paranoid: bool,
}

/// Why nothing can be taken from an older backup.
pub(super) type WhyFull = String;

/// A backup that this one can go on from; what was changed since is not known yet.
pub(super) struct Older {
    prior: Prior,
    start: Lsn,
}

impl Search<'_> {
    /// Reads the newest backup, if it is one to go on from. Of the head, the start does not matter.
    pub(super) async fn older(&self, newest: Option<&BackupId>) -> Result<Result<Older, WhyFull>, Error> {
        outcome(self.read(newest).await)
    }

    /// Finds what was changed since. The WAL up to the head's start must be archived.
    pub(super) async fn since(&self, older: Older) -> Result<Result<Prior, WhyFull>, Error> {
        let Older { mut prior, start } = older;
        if start >= self.head.start_lsn {
            return Ok(Err(format!("backup {} began later than this one", prior.backup)));
        }
        outcome(self.changes(start, &mut prior.changes).await.map(|()| prior))
    }

    async fn read(&self, newest: Option<&BackupId>) -> Result<Older, No> {
        let node = &self.head.node;
        let newest = newest.ok_or_else(|| No::Because("there is no backup yet".to_owned()))?;
        let mut older = self.manifest(newest).await?;
        let packs = self.vault.list(&format!("nodes/{node}/packs")).await?;
        let sizes = packs.objects.iter().filter_map(|object| {
            match ObjectName::parse(self.vault.cluster(), &object.name)? {
                ObjectName::Pack { backup, number, .. } => Some((Pack { backup, number }, object.size)),
                _ => None,
            }
        });
        older.prior.choose_unfit(sizes.collect(), self.rewrite_percent);
        Ok(older)
    }

    /// Reads a backup's manifest.
    async fn manifest(&self, backup: &BackupId) -> Result<Older, No> {
        let unreadable = |problem: String| No::Because(format!("backup {backup} cannot be read: {problem}"));
        // Newest of all, yet not readable: the schedule must not fail for it.
        let blocks = self.vault.manifest_blocks(&self.head.node, backup).await;
        let mut blocks = blocks.map_err(|error| unreadable(error.to_string()))?;
        let mut reading = Reading::new(self.head.clone(), self.paranoid);
        let mut block = blocks.next().await.map_err(|error| unreadable(error.to_string()))?;
        while let Some(bytes) = block {
            let take = tokio::task::spawn_blocking(move || reading.take(&bytes).map(|()| reading));
            // The next block is opened meanwhile.
            let (taken, next) = tokio::join!(take, blocks.next());
            let taken = taken.map_err(|error| unreadable(error.to_string()))?;
            reading = taken.map_err(|error| unreadable(error.to_string()))?;
            block = next.map_err(|error| unreadable(error.to_string()))?;
            if let Some(why) = reading.unlike {
                return Err(No::Because(format!("backup {backup} {why}")));
            }
        }
        let Reading { reader, prior, start, .. } = reading;
        reader.finish().map_err(|error| unreadable(error.to_string()))?;
        Ok(Older { prior, start })
    }

    /// Adds what WAL from `from` to our start changed.
    async fn changes(&self, from: Lsn, changes: &mut Changes) -> Result<(), No> {
        let bytes = kept_segment_bytes(self.head.segment_bytes);
        let (first, last) = (from.segment(bytes), self.head.start_lsn.segment(bytes));
        let mut open = Open::default();
        let numbers: Vec<u64> = (first..last).collect();
        for batch in numbers.chunks(INDEXES_AT_ONCE) {
            let read = flow::try_map(batch.to_vec(), INDEXES_AT_ONCE, |number| self.index(number));
            for index in read.await? {
                index.blocks.iter().for_each(|changed| changes.add(changed));
                open = index.open_at_end;
            }
        }
        if !is_first_record(self.head.start_lsn, self.head.segment_bytes) {
            for changed in self.begun(last, open).await? {
                changes.add(&changed);
            }
        }
        Ok(())
    }

    /// Reads the index of a finished segment; waits a little for one that must be on its way.
    async fn index(&self, number: u64) -> Result<WalIndex, No> {
        let wal = WalName::new(self.head.timeline, number, kept_segment_bytes(self.head.segment_bytes));
        let name = ObjectName::Index { node: self.head.node.clone(), wal };
        let began = Instant::now();
        let mut pause = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while began.elapsed() < PATIENCE {
            match self.vault.get(&name).await {
                Ok(bytes) => {
                    let read = manifest::from_bytes(&bytes);
                    return read.map_err(|error| No::Because(format!("WAL index {wal}: {error}")));
                }
                Err(error) if error.is_not_found() => tokio::time::sleep(pause.wait()).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(No::Because(format!("there is no WAL index of segment {wal}")))
    }

    /// Returns what the records in the segment of our start changed, those before it at least.
    async fn begun(&self, number: u64, open: Open) -> Result<Vec<ChangedBlocks>, No> {
        let Head { node, timeline, segment_bytes, start_lsn, .. } = self.head;
        let kept_bytes = kept_segment_bytes(*segment_bytes);
        let held = self.vault.segment_bytes(node, *timeline, number, kept_bytes).await?;
        let start = start_lsn.segment_start(kept_bytes);
        let held = held.filter(|held| start.plus(held.valid.into()) >= *start_lsn);
        let wal = WalName::new(*timeline, number, kept_bytes);
        let held =
            held.ok_or_else(|| No::Because(format!("segment {wal} is not archived to {start_lsn}")))?;
        let (timeline, segment_bytes, wanted) = (*timeline, *segment_bytes, *start_lsn);
        let decode = tokio::task::spawn_blocking(move || {
            let mut builder = IndexBuilder::new(timeline, segment_bytes, start, open).every(kept_bytes);
            // A finished segment may end in zeros after a switch: what was decoded before them counts.
            let fed = builder.feed(&held.bytes);
            (fed, builder.decoded_to(), builder.tail())
        });
        let (fed, to, tail) = decode.await.map_err(|error| No::Because(error.to_string()))?;
        match fed {
            Ok(finished) => Ok(finished.into_iter().chain([tail]).flat_map(|index| index.blocks).collect()),
            Err(error) if to < wanted => {
                Err(No::Because(format!("segment {wal} cannot be decoded: {error}")))
            }
            Err(_) => Ok(tail.blocks),
        }
    }
}

/// Why there is no prior backup.
#[derive(Debug)]
enum No {
    Because(WhyFull),
    Failed(vault::Error),
}

impl From<vault::Error> for No {
    fn from(error: vault::Error) -> Self {
        No::Failed(error)
    }
}

fn outcome<T>(found: Result<T, No>) -> Result<Result<T, WhyFull>, Error> {
    match found {
        Ok(found) => Ok(Ok(found)),
        Err(No::Because(why)) => Ok(Err(why)),
        Err(No::Failed(source)) => Err(Error::Store { what: "the backup before".to_owned(), source }),
    }
}

/// A manifest that is being read.
struct Reading {
    reader: ManifestReader,
    prior: Prior,
    /// The head of the backup that is being made.
    new: Head,
    start: Lsn,
    /// Why it is none to go on from, as soon as its head was read.
    unlike: Option<&'static str>,
    numbers: HashMap<Arc<str>, u32>,
}

/// Returns why a backup is none to go on from.
fn unlike(new: &Head, older: &Head) -> Option<&'static str> {
    let major = |head: &Head| head.postgres_version / 10_000;
    if older.system_identifier != new.system_identifier {
        Some("is of another server")
    } else if older.timeline != new.timeline {
        Some("is of another timeline")
    } else if major(older) != major(new) || older.segment_bytes != new.segment_bytes {
        Some("is of another version of PostgreSQL")
    } else if older.data_checksums != new.data_checksums {
        Some("was taken before page checksums were switched")
    } else {
        None
    }
}

impl Reading {
    fn new(new: Head, paranoid: bool) -> Reading {
        let prior = Prior {
            backup: new.backup.clone(),
            files: HashMap::new(),
            tape: Tape::default(),
            packs: Vec::new(),
            names: Vec::new(),
            unfit: HashSet::new(),
            damaged: HashSet::new(),
            changes: Changes::default(),
            paranoid,
        };
        let (reader, numbers) = (ManifestReader::new(), HashMap::new());
        Reading { reader, prior, new, start: Lsn::INVALID, unlike: None, numbers }
    }

    /// Takes the next bytes.
    fn take(&mut self, block: &[u8]) -> Result<(), manifest::Error> {
        self.reader.feed(block);
        while let Some(line) = self.reader.next()? {
            match line {
                Line::Head(found) => {
                    self.unlike = unlike(&self.new, &found);
                    (self.prior.backup, self.start) = (found.backup, found.start_lsn);
                }
                Line::Entry(entry) => self.add(entry)?,
                Line::Foot(foot) => {
                    self.prior.damaged = foot.bad_pages.into_iter().map(|page| page.path).collect();
                    if foot.bad_pages_more > 0 {
                        // Which they are is not known.
                        self.prior.files.clear();
                        self.prior.tape.clear();
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) -> Result<(), manifest::Error> {
        let Kind::File { size, modified, extents } = entry.kind else { return Ok(()) };
        let mut all = Vec::with_capacity(extents.len());
        for extent in extents {
            all.push(PriorExtent {
                pack: self.number(&extent.pack)?,
                place: ChunkPlace { at: extent.at, sealed: extent.sealed, index: extent.chunk },
                offset: extent.offset,
                len: extent.len,
                plain: extent.plain,
                crc: extent.crc,
            });
        }
        let file = PriorFile { size, modified, extents: self.prior.tape.write(all) };
        self.prior.files.insert(entry.path.into(), file);
        Ok(())
    }

    fn number(&mut self, name: &Arc<str>) -> Result<u32, manifest::Error> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let pack = Pack::named(name, &self.prior.backup)?;
        let number = u32::try_from(self.prior.packs.len()).unwrap_or(u32::MAX);
        self.prior.names.push(pack.name(&self.new.backup).into());
        self.prior.packs.push(pack);
        self.numbers.insert(Arc::clone(name), number);
        Ok(number)
    }
}

impl Prior {
    /// Chooses sparse packs to be written anew, the sparsest first, as long as the bytes to be read again
    /// stay below so many per cent of all.
    fn choose_unfit(&mut self, sizes: HashMap<Pack, u64>, percent: u8) {
        let mut live = vec![(0.0, 0_u64); self.packs.len()];
        for extent in self.files.values().flat_map(|file| self.tape.read(file.extents)) {
            let share = f64::from(extent.len) / f64::from(extent.plain.max(1));
            if let Some((sealed, plain)) = live.get_mut(extent.pack as usize) {
                *sealed += share * f64::from(extent.place.sealed);
                *plain += u64::from(extent.len);
            }
        }
        let whole: u64 = self.files.values().map(|file| file.size).sum();
        let mut budget = whole / 100 * u64::from(percent);
        let share = |(number, (sealed, plain)): (usize, (f64, u64))| {
            let size = sizes.get(self.packs.get(number)?)?;
            Some((sealed / (*size).max(1) as f64, u32::try_from(number).ok()?, plain))
        };
        let mut sparse: Vec<(f64, u32, u64)> = live.into_iter().enumerate().filter_map(share).collect();
        sparse.retain(|(share, ..)| *share < WORTH_KEEPING);
        sparse.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, number, plain) in sparse {
            let Some(left) = budget.checked_sub(plain) else { break };
            budget = left;
            self.unfit.insert(number);
        }
    }

    /// Says what is to be done with a file.
    pub(super) fn fate(&self, found: &Found) -> Fate {
        let Some(file) = self.files.get(&found.path).filter(|_| !self.damaged.contains(&*found.path)) else {
            return Fate::Whole;
        };
        let stale = self.changes.of(&found.path);
        let older: Vec<Extent> = self.tape.read(file.extents).filter_map(|own| self.extent(own)).collect();
        let mut numbers = self.tape.read(file.extents).map(|own| own.pack);
        // In the order of the extents, once each.
        let is_unfit = |_: &Extent| numbers.next().is_some_and(|pack| self.unfit.contains(&pack));
        let Some(ranges) = fresh(&older, found.size, &stale, is_unfit) else { return Fate::Whole };
        let same_size = file.size == found.size;
        if !ranges.is_empty() || !same_size || self.paranoid {
            return Fate::Patched { older, ranges };
        }
        if file.modified != found.modified {
            // The WAL says that nothing changed, the file says otherwise.
            return Fate::Whole;
        }
        match weave(&older, Vec::new(), found.size) {
            Some(extents) => Fate::Kept(super::source::entry(found, extents)),
            None => Fate::Whole,
        }
    }

    /// Returns an extent as the manifest of the new backup names it.
    fn extent(&self, extent: PriorExtent) -> Option<Extent> {
        let PriorExtent { pack, place, offset, len, plain, crc } = extent;
        let pack = Arc::clone(self.names.get(pack as usize)?);
        let ChunkPlace { at, sealed, index: chunk } = place;
        Some(Extent { pack, chunk, at, sealed, offset, len, plain, crc })
    }
}
