//! Which blocks records changed, and where relations were made anew, cut or dropped: what an
//! incremental backup has to read. Defined as PostgreSQL 17's summarizer does it
//! (`src/backend/postmaster/walsummarizer.c`, `src/common/blkreftable.c`).

use std::collections::{BTreeMap, BTreeSet};

use super::Version;
use super::bytes::Bytes;
use super::record::{Record, RelFile, rmgr};
use super::xact::{self, Xact};
use crate::manifest::wal_index::ChangedBlocks;

const MAIN: u8 = 0;
const FSM: u8 = 1;
const VISIBILITY: u8 = 2;
const FORKS: u8 = 4;

#[derive(Debug, Default)]
struct Fork {
    blocks: BTreeSet<u32>,
    limit: Option<u32>,
}

impl Fork {
    fn cut(&mut self, limit: u32) {
        self.blocks.split_off(&limit);
        self.limit = Some(self.limit.map_or(limit, |old| old.min(limit)));
    }
}

/// Collects what the records of one segment changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    forks: BTreeMap<(RelFile, u8), Fork>,
}

impl Changed {
    pub(super) fn take(&mut self, record: &Record<'_>) {
        for block in &record.blocks {
            // FSM changes are not logged: its fork is always copied whole.
            if block.fork != FSM {
                self.fork(block.file, block.fork).blocks.insert(block.number);
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
        self.forks.entry((file, fork)).or_default()
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
        let forks = std::mem::take(&mut self.forks);
        forks
            .into_iter()
            .map(|((file, fork), Fork { blocks, limit })| ChangedBlocks {
                relation: [file.tablespace, file.database, file.relation],
                fork,
                runs: runs(&blocks),
                limit,
            })
            .collect()
    }
}

fn rel_file(rest: &mut Bytes<'_>) -> Option<RelFile> {
    Some(RelFile { tablespace: rest.u32()?, database: rest.u32()?, relation: rest.u32()? })
}

fn runs(blocks: &BTreeSet<u32>) -> Vec<[u32; 2]> {
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
        let blocks = [0, 1, 2, 5, 7, 8, u32::MAX].into_iter().collect();
        assert_eq!(runs(&blocks), [[0, 2], [5, 5], [7, 8], [u32::MAX, u32::MAX]]);
    }
}
