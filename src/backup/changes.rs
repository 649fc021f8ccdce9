//! What the WAL changed since the backup that this one goes on from, file by file.
//!
//! indexes of WAL segments -> [`Changes`] -> for each relation file, the blocks that an older copy has no right to
//!
//! Much as PostgreSQL 17's summaries are used (`src/backend/backup/basebackup_incremental.c`,
//! `GetFileBackupMethod`), but for the visibility map. Invariant: what is not known to be unchanged is changed. Memory: about a bit
//! for each changed block.

use std::collections::{HashMap, HashSet};

use roaring::RoaringBitmap;

use crate::manifest::wal_index::ChangedBlocks;
use crate::pgfile::kind::{BLOCKS_PER_FILE, Fork, RelationFile};

/// `DEFAULTTABLESPACE_OID` and `GLOBALTABLESPACE_OID` (`src/include/catalog/pg_tablespace.dat`).
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;
/// `MAIN_FORKNUM`
const MAIN: u8 = 0;

/// Everything that a stretch of WAL changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Of main forks.
    relations: HashMap<Relation, Touched>,
    /// Tablespace and database of those that were made, copied or dropped as a whole.
    databases: HashSet<(u32, u32)>,
}

/// Tablespace, database, relfilenode.
type Relation = [u32; 3];

#[derive(Debug, Default)]
struct Touched {
    blocks: RoaringBitmap,
    /// The fork was made anew, or cut, to this many blocks at some time.
    limit: Option<u32>,
}

/// What of one file an older copy cannot give, in blocks of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Nothing is known of such files.
    Unknown,
    Blocks {
        /// Inclusive runs, rising, below `limit`.
        runs: Vec<[u32; 2]>,
        /// From here on everything.
        limit: u32,
    },
}

impl Changes {
    /// Adds what one index says. The order does not matter.
    pub(super) fn add(&mut self, changed: &ChangedBlocks) {
        let [tablespace, database, number] = changed.relation;
        if number == 0 {
            self.databases.insert((tablespace, database));
            return;
        }
        if changed.fork != MAIN {
            return;
        }
        let touched = self.relations.entry(changed.relation).or_default();
        for &[first, last] in &changed.runs {
            touched.blocks.insert_range(first..=last);
        }
        touched.limit = touched.limit.into_iter().chain(changed.limit).min();
    }

    /// Returns what of the file at `path` may have changed.
    pub(super) fn of(&self, path: &str) -> Stale {
        let Some((file, relation)) =
            RelationFile::parse(path).and_then(|file| Some((file, relation(&file)?)))
        else {
            return Stale::Unknown;
        };
        // Changes of the free space map are not logged. Bits of the visibility map are cleared by records that
        // do not name its blocks (`heap_xlog_update`, `visibilitymap_clear`). Init forks are small.
        if file.fork != Fork::Main {
            return Stale::Unknown;
        }
        let [tablespace, database, _] = relation;
        if self.databases.contains(&(tablespace, database)) {
            return Stale::Unknown;
        }
        let Some(touched) = self.relations.get(&relation) else {
            return Stale::Blocks { runs: Vec::new(), limit: BLOCKS_PER_FILE };
        };
        let first = file.first_block();
        let limit = touched.limit.map_or(BLOCKS_PER_FILE, |limit| limit.saturating_sub(first));
        let limit = limit.min(BLOCKS_PER_FILE);
        let mut runs: Vec<[u32; 2]> = Vec::new();
        for block in touched.blocks.range(first..first.saturating_add(limit)) {
            let block = block - first;
            match runs.last_mut() {
                Some([_, last]) if *last + 1 == block => *last = block,
                _ => runs.push([block, block]),
            }
        }
        Stale::Blocks { runs, limit }
    }
}

/// Names the relation of a file as WAL does; `None` where the path is of another shape than a server makes.
fn relation(file: &RelationFile<'_>) -> Option<Relation> {
    let mut words = file.folder.split('/');
    let (tablespace, database) = match words.next()? {
        "global" => (GLOBAL_TABLESPACE, 0),
        "base" => (DEFAULT_TABLESPACE, words.next()?.parse().ok()?),
        _ => {
            let tablespace = words.next()?.parse().ok()?;
            (tablespace, words.nth(1)?.parse().ok()?)
        }
    };
    Some([tablespace, database, file.number])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn changed(relation: [u32; 3], fork: u8, runs: &[[u32; 2]], limit: Option<u32>) -> ChangedBlocks {
        ChangedBlocks { relation, fork, runs: runs.to_vec(), limit }
    }

    fn blocks(runs: &[[u32; 2]], limit: u32) -> Stale {
        Stale::Blocks { runs: runs.to_vec(), limit }
    }

    #[test]
    fn each_file_has_its_own_blocks() {
        let mut changes = Changes::default();
        changes.add(&changed([1663, 5, 16384], 0, &[[3, 4], [131_071, 131_073]], None));
        changes.add(&changed([1663, 5, 16384], 2, &[[0, 0]], None));
        changes.add(&changed([1664, 0, 1262], 0, &[[7, 7]], None));
        changes.add(&changed([16400, 5, 9], 0, &[[1, 1]], Some(8)));
        let all = BLOCKS_PER_FILE;
        assert_eq!(changes.of("base/5/16384"), blocks(&[[3, 4], [131_071, 131_071]], all));
        assert_eq!(changes.of("base/5/16384.1"), blocks(&[[0, 1]], all));
        assert_eq!(changes.of("base/5/16384.2"), blocks(&[], all));
        assert_eq!(changes.of("base/6/16384"), blocks(&[], all));
        assert_eq!(changes.of("global/1262"), blocks(&[[7, 7]], all));
        assert_eq!(changes.of("pg_tblspc/16400/PG_15_202209061/5/9"), blocks(&[[1, 1]], 8));
        assert_eq!(changes.of("pg_tblspc/16400/PG_15_202209061/5/9.1"), blocks(&[], 0));
        for unknown in [
            "base/5/16384_fsm",
            "base/5/16384_vm",
            "base/5/16384_init",
            "pg_xact/0000",
            "base/5/pg_filenode.map",
        ] {
            assert_eq!(changes.of(unknown), Stale::Unknown, "{unknown}");
        }
    }

    #[test]
    fn a_database_made_anew_is_all_unknown() {
        let mut changes = Changes::default();
        changes.add(&changed([1663, 5, 0], 0, &[], Some(0)));
        assert_eq!(changes.of("base/5/1259"), Stale::Unknown);
        assert_eq!(changes.of("base/6/1259"), blocks(&[], BLOCKS_PER_FILE));
    }

    proptest! {
        #[test]
        fn like_a_set_of_blocks(
            indexes in prop::collection::vec(
                (prop::collection::vec((131_060_u32..131_090, 0_u32..5), 0..6), prop::option::of(131_060_u32..131_090)),
                0..6,
            ),
        ) {
            let mut changes = Changes::default();
            let (mut set, mut limit) = (BTreeSet::new(), u32::MAX);
            for (runs, cut) in &indexes {
                let runs: Vec<[u32; 2]> = runs.iter().map(|(first, more)| [*first, first + more]).collect();
                changes.add(&changed([1663, 5, 7], 0, &runs, *cut));
                set.extend(runs.iter().flat_map(|[first, last]| *first..=*last));
                limit = limit.min(cut.unwrap_or(u32::MAX));
            }
            for (path, first) in [("base/5/7", 0), ("base/5/7.1", BLOCKS_PER_FILE)] {
                let Stale::Blocks { runs, limit: cut } = changes.of(path) else { panic!() };
                let stale = |block: u32| block >= cut || runs.iter().any(|[a, b]| (*a..=*b).contains(&block));
                for block in (0..40).chain(BLOCKS_PER_FILE - 40..BLOCKS_PER_FILE) {
                    let number = first + block;
                    prop_assert_eq!(stale(block), set.contains(&number) || number >= limit, "{}", number);
                }
            }
        }
    }
}
