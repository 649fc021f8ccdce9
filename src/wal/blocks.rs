//! Which blocks records changed, and where relations were made anew, cut or dropped: what an
//! incremental backup has to read. Defined as PostgreSQL 17's summarizer does it
//! (`src/backend/postmaster/walsummarizer.c`, `src/common/blkreftable.c`).

use std::collections::BTreeMap;

use super::Version;
use super::bytes::Bytes;
use super::record::{Record, RelFile, rmgr};
use super::xact::{self, Xact};
use crate::manifest::wal_index::ChangedBlocks;

const MAIN: u8 = 0;
const FSM: u8 = 1;
const VISIBILITY: u8 = 2;
const FORKS: u8 = 4;

/// Blocks as records named them, put in order only now and then: a segment of WAL names a hundred thousand.
#[derive(Debug, Default)]
struct Fork {
    blocks: Vec<u32>,
    /// How many there were when they were last put in order.
    ordered: usize,
    limit: Option<u32>,
}

impl Fork {
    fn insert(&mut self, block: u32) {
        const SPARE: usize = 8192;
        if self.blocks.last() == Some(&block) {
            return;
        }
        self.blocks.push(block);
        if self.blocks.len() > 2 * self.ordered + SPARE {
            self.order();
        }
    }

    fn order(&mut self) {
        self.blocks.sort_unstable();
        self.blocks.dedup();
        self.ordered = self.blocks.len();
    }

    fn cut(&mut self, limit: u32) {
        self.blocks.retain(|&block| block < limit);
        self.limit = Some(self.limit.map_or(limit, |old| old.min(limit)));
    }
}

type Key = (RelFile, u8);

/// How many forks are found without a search.
const RECENT: usize = 32;

/// Collects what the records of one segment changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    forks: Vec<(Key, Fork)>,
    /// Where each is in `forks`.
    places: BTreeMap<Key, usize>,
    /// The places of those named last, by some bits of their names: records name the same few again and again.
    recent: [usize; RECENT],
}

impl Changed {
    pub(super) fn take(&mut self, record: &Record<'_>) {
        for (file, fork, number) in record.blocks.names() {
            // FSM changes are not logged: its fork is always copied whole.
            if fork != FSM {
                self.fork(file, fork).insert(number);
            }
        }
        match record.rmgr {
            rmgr::STORAGE => drop(self.storage(record)),
            rmgr::TRANSACTION => {
                if let Some(Xact::End(end)) = xact::parse(record) {
                    end.dropped.iter().for_each(|&file| self.gone(file));
                }
            }
            rmgr::DATABASE => drop(self.database(record)),
            _ => {}
        }
    }

    fn fork(&mut self, file: RelFile, fork: u8) -> &mut Fork {
        let key = (file, fork);
        let slot = (file.relation as usize ^ usize::from(fork) << 3) % RECENT;
        let known = self.recent.get(slot).copied().unwrap_or_default();
        let at = match self.forks.get(known) {
            Some((found, _)) if *found == key => known,
            _ => self.place(key),
        };
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = at;
        }
        self.forks.get_mut(at).map(|(_, fork)| fork).expect("a place is that of a fork")
    }

    fn place(&mut self, key: Key) -> usize {
        *self.places.entry(key).or_insert_with(|| {
            self.forks.push((key, Fork::default()));
            self.forks.len() - 1
        })
    }

    fn gone(&mut self, file: RelFile) {
        (0..FORKS).filter(|&f| f != FSM).for_each(|fork| self.fork(file, fork).cut(0));
    }

    /// `xl_smgr_create`, `xl_smgr_truncate` (`src/include/catalog/storage_xlog.h`).
    fn storage(&mut self, record: &Record<'_>) -> Option<()> {
        const CREATE: u8 = 0x10;
        const TRUNCATE: u8 = 0x20;
        const TRUNCATES_HEAP: u32 = 1;
        const TRUNCATES_VISIBILITY: u32 = 2;
        let mut rest = Bytes(record.main);
        match record.operation() {
            CREATE => {
                let file = rel_file(&mut rest)?;
                let fork = u8::try_from(rest.u32()?).ok()?;
                if fork != FSM {
                    self.fork(file, fork).cut(0);
                }
            }
            TRUNCATE => {
                let limit = rest.u32()?;
                let file = rel_file(&mut rest)?;
                let flags = rest.u32()?;
                if flags & TRUNCATES_HEAP != 0 {
                    self.fork(file, MAIN).cut(limit);
                }
                if flags & TRUNCATES_VISIBILITY != 0 {
                    // How far it was cut is not in the record: nothing of it may be kept.
                    self.fork(file, VISIBILITY).cut(0);
                }
            }
            _ => {}
        }
        Some(())
    }

    /// A database copied file by file, or made or dropped: relation 0 with limit 0 stands for all its files
    /// (`src/include/commands/dbcommands_xlog.h`).
    fn database(&mut self, record: &Record<'_>) -> Option<()> {
        const CREATED: u8 = 0x00;
        // From 15 on; what 14 has there is the drop.
        const LOGGED: u8 = 0x10;
        let mut rest = Bytes(record.main);
        let database = rest.u32()?;
        let tablespaces = match record.operation() {
            CREATED => vec![rest.u32()?],
            LOGGED if record.version > Version::V14 => vec![rest.u32()?],
            _ => {
                let count = rest.u32()?;
                let mut ids = Bytes(rest.take((count as usize).checked_mul(4)?)?);
                std::iter::from_fn(|| ids.u32()).collect()
            }
        };
        for tablespace in tablespaces {
            self.fork(RelFile { tablespace, database, relation: 0 }, MAIN).cut(0);
        }
        Some(())
    }

    /// Returns what was collected, and begins anew.
    pub(super) fn finish(&mut self) -> Vec<ChangedBlocks> {
        let Changed { mut forks, .. } = std::mem::take(self);
        forks.sort_unstable_by_key(|(key, _)| *key);
        forks
            .into_iter()
            .map(|((file, fork), mut changed)| {
                changed.order();
                ChangedBlocks {
                    relation: [file.tablespace, file.database, file.relation],
                    fork,
                    runs: runs(&changed.blocks),
                    limit: changed.limit,
                }
            })
            .collect()
    }
}

fn rel_file(rest: &mut Bytes<'_>) -> Option<RelFile> {
    Some(RelFile { tablespace: rest.u32()?, database: rest.u32()?, relation: rest.u32()? })
}

fn runs(blocks: &[u32]) -> Vec<[u32; 2]> {
    let mut runs: Vec<[u32; 2]> = Vec::new();
    for &block in blocks {
        match runs.last_mut() {
            Some([_, last]) if last.checked_add(1) == Some(block) => *last = block,
            _ => runs.push([block, block]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join() {
        let blocks = [0, 1, 2, 5, 7, 8, u32::MAX];
        assert_eq!(runs(&blocks), [[0, 2], [5, 5], [7, 8], [u32::MAX, u32::MAX]]);
    }

    /// Whatever the order and number of names, what comes out is what sets would hold.
    #[test]
    fn forks_hold_each_block_once() {
        let mut changed = Changed::default();
        let mut expected: BTreeMap<Key, std::collections::BTreeSet<u32>> = BTreeMap::new();
        let mut chance = 7u32;
        for step in 0..40_000u32 {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let relation = chance >> 8 & 0x7F;
            let file = RelFile { tablespace: 1663, database: 5, relation };
            let (fork, block) = ((chance >> 16 & 1) as u8 * VISIBILITY, chance >> 20);
            changed.fork(file, fork).insert(block);
            expected.entry((file, fork)).or_default().insert(block);
            if step % 9000 == 8999 {
                changed.fork(file, fork).cut(block);
                expected.entry((file, fork)).or_default().split_off(&block);
            }
        }
        let found = changed.finish();
        assert!(changed.finish().is_empty());
        let runs_of = |set: &std::collections::BTreeSet<u32>| runs(&set.iter().copied().collect::<Vec<_>>());
        let expected: Vec<_> =
            expected.iter().map(|((file, fork), set)| (file.relation, *fork, runs_of(set))).collect();
        let found: Vec<_> = found.into_iter().map(|one| (one.relation[2], one.fork, one.runs)).collect();
        assert_eq!(found, expected);
    }
}
