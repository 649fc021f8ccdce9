//! What a file in the data directory is, by its path, and whether a backup copies it
//! (PostgreSQL `src/backend/backup/basebackup.c`; documentation, "Backing Up The Data Directory").
//!
//! Paths are relative to the data directory, with `/`; a tablespace's begin with `pg_tblspc/<oid>/`.

/// What a backup does with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Copy,
    /// A folder that the restored server needs, whose contents it does not.
    Empty,
    LeaveOut,
}

/// Folders whose contents are made anew by a starting server, or belong to the running one.
const EMPTY: [&str; 9] = [
    "pg_wal",
    "pg_stat_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    // Results of Citus's running queries; they vanish and change while they are read.
    "base/pgsql_job_cache",
];

/// Files of the running server, and what `pg_backup_stop` gives in its own words.
const LEFT_OUT: [&str; 10] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "pg_internal.init",
];

/// Returns what a backup does with a path. Unlogged relations are not known by their names alone: see
/// [`RelationFile::init_of`].
pub fn rule(path: &str) -> Rule {
    let name = path.rsplit('/').next().unwrap_or(path);
    if EMPTY.contains(&path) {
        return Rule::Empty;
    }
    let inside = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if EMPTY.iter().any(|folder| inside(folder)) {
        // Recovery makes it itself, but an empty one spares the question.
        return if path == "pg_wal/archive_status" { Rule::Empty } else { Rule::LeaveOut };
    }
    let temporary = name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init");
    if temporary || LEFT_OUT.contains(&path) || RelationFile::parse(path).is_some_and(|file| file.temporary) {
        return Rule::LeaveOut;
    }
    Rule::Copy
}

/// `ForkNumber`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    Main,
    FreeSpace,
    Visibility,
    Init,
}

/// A file of a relation: 1 GiB of one of its forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// Its folder: `base/<database>`, `global`, or the like in a tablespace.
    pub folder: &'a str,
    /// Relfilenode.
    pub number: u32,
    pub fork: Fork,
    /// Which GiB of the fork, from 0.
    pub segment: u32,
    /// Of a session's temporary table.
    pub temporary: bool,
}

/// Blocks in a full file of a relation (`RELSEG_SIZE`).
pub const BLOCKS_PER_FILE: u32 = 131_072;

impl<'a> RelationFile<'a> {
    /// Reads a path; `None` for a file that is no relation's.
    pub fn parse(path: &'a str) -> Option<Self> {
        let (folder, name) = path.rsplit_once('/')?;
        if !is_database_folder(folder) {
            return None;
        }
        let (temporary, name) = match name.strip_prefix('t').and_then(|rest| rest.split_once('_')) {
            Some((backend, rest)) => (number(backend).map(|_| true)?, rest),
            None => (false, name),
        };
        let (name, segment) = match name.split_once('.') {
            Some((name, segment)) => (name, number(segment)?),
            None => (name, 0),
        };
        let (name, fork) = match name.split_once('_') {
            None => (name, Fork::Main),
            Some((name, "fsm")) => (name, Fork::FreeSpace),
            Some((name, "vm")) => (name, Fork::Visibility),
            Some((name, "init")) => (name, Fork::Init),
            Some(_) => return None,
        };
        Some(RelationFile { folder, number: number(name)?, fork, segment, temporary })
    }

    /// Returns the number of the file's first block within its fork.
    pub fn first_block(&self) -> u32 {
        self.segment.saturating_mul(BLOCKS_PER_FILE)
    }

    /// Returns the path of the init fork that would make this relation an unlogged one: where that file
    /// exists, a backup copies nothing of the relation but it.
    pub fn init_of(&self) -> String {
        format!("{}/{}_init", self.folder, self.number)
    }
}

/// `global`, `base/<oid>`, `pg_tblspc/<oid>/PG_…/<oid>`
fn is_database_folder(folder: &str) -> bool {
    let mut words = folder.split('/');
    match (words.next(), words.next(), words.next(), words.next(), words.next()) {
        (Some("global"), None, ..) => true,
        (Some("base"), Some(database), None, ..) => number(database).is_some(),
        (Some("pg_tblspc"), Some(space), Some(version), Some(database), None) => {
            number(space).is_some() && version.starts_with("PG_") && number(database).is_some()
        }
        _ => false,
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_base_backup() {
        for path in ["global/pg_control", "base/5/1259", "PG_VERSION", "pg_wal_x", "base/5/pg_filenode.map"] {
            assert_eq!(rule(path), Rule::Copy, "{path}");
        }
        for path in ["pg_wal", "pg_replslot", "base/pgsql_job_cache", "pg_wal/archive_status"] {
            assert_eq!(rule(path), Rule::Empty, "{path}");
        }
        let out = [
            "pg_wal/000000010000000000000001",
            "postmaster.pid",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.77",
            "global/pg_internal.init",
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp12.0",
            "base/5/t3_16384",
            "base/5/t3_16384_fsm.1",
            "base/pgsql_job_cache/1_2_3/x.data",
            "pg_replslot/pitrus/state",
        ];
        for path in out {
            assert_eq!(rule(path), Rule::LeaveOut, "{path}");
        }
    }

    #[test]
    fn relation_files() {
        let file = RelationFile::parse("base/5/16384_vm.2").unwrap();
        assert_eq!((file.number, file.fork, file.segment), (16384, Fork::Visibility, 2));
        assert_eq!(file.init_of(), "base/5/16384_init");
        assert_eq!(file.first_block(), 262_144);
        let spaced = RelationFile::parse("pg_tblspc/16400/PG_15_202209061/5/99_init").unwrap();
        assert_eq!((spaced.fork, spaced.temporary), (Fork::Init, false));
        for other in ["base/5/PG_VERSION", "base/5/12_old", "pg_xact/0000", "base/5/12.x", "16384", "base/5/"]
        {
            assert_eq!(RelationFile::parse(other), None, "{other}");
        }
    }
}
