//! Where each entry of a backup's manifest goes: below the data directory, or below the new tablespaces.
//!
//! A manifest is authenticated, and still no path of it may lead out of the folders that are ours.

use std::path::{Component, Path, PathBuf};

use super::Error;
use super::targets::Target;
use crate::manifest::backup::{Head, Tablespace};

/// Folders that a server needs and a backup may have left out with their contents.
pub(super) const FOLDERS: [&str; 17] = [
    "pg_wal",
    "pg_wal/archive_status",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "base",
];

/// Maps paths of one backup to paths of one target.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    directory: PathBuf,
    tablespaces: PathBuf,
    /// Oids of tablespaces that lay outside the source's data directory.
    oids: Vec<u32>,
}

impl Layout {
    pub(super) fn new(head: &Head, target: &Target) -> Self {
        // One made with `allow_in_place_tablespaces` is a plain folder inside.
        let outside = |t: &&Tablespace| t.location.starts_with('/');
        Layout {
            directory: target.directory.clone(),
            tablespaces: target.tablespaces.clone(),
            oids: head.tablespaces.iter().filter(outside).map(|t| t.oid).collect(),
        }
    }

    /// Returns where an entry goes, or what is wrong with its path.
    pub(super) fn place(&self, path: &str) -> Result<PathBuf, String> {
        let plain = |part| matches!(part, Component::Normal(_));
        let relative = Path::new(path);
        if path.is_empty() || path.contains('\0') || !relative.components().all(plain) {
            return Err(format!("the path {path:?} leads out of the data directory"));
        }
        let mut parts = relative.components();
        if parts.next() == Some(Component::Normal("pg_tblspc".as_ref())) {
            let oid = parts.next().and_then(|part| part.as_os_str().to_str()?.parse::<u32>().ok());
            if let Some(oid) = oid.filter(|oid| self.oids.contains(oid)) {
                return Ok(self.tablespaces.join(oid.to_string()).join(parts.as_path()));
            }
        }
        Ok(self.directory.join(relative))
    }

    /// Returns the folder in which each tablespace has one named by its oid.
    pub(super) fn tablespaces(&self) -> &Path {
        &self.tablespaces
    }

    /// Returns each tablespace's oid, its new folder, and the link to it in the data directory.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, PathBuf, PathBuf)> + '_ {
        self.oids.iter().map(|oid| {
            let name = oid.to_string();
            (*oid, self.tablespaces.join(&name), self.directory.join("pg_tblspc").join(&name))
        })
    }

    /// Returns the contents of `tablespace_map`, from which recovery makes the links again; a backslash and
    /// line ends are escaped as `pg_backup_start` does it.
    pub(super) fn tablespace_map(&self) -> Result<String, Error> {
        let mut map = String::new();
        for (oid, folder, _) in self.links() {
            let Some(folder) = folder.to_str() else {
                let problem = format!("{} is not UTF-8", folder.display());
                return Err(Error::refused(problem, "choose another folder for the tablespaces"));
            };
            let escaped = folder.replace('\\', "\\\\").replace('\n', "\\\n").replace('\r', "\\\r");
            map += &format!("{oid} {escaped}\n");
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { directory: "/d".into(), tablespaces: "/t".into(), oids: vec![16400] }
    }

    #[test]
    fn tablespaces_are_moved_and_nothing_leads_out() {
        let place = |path: &str| layout().place(path);
        assert_eq!(place("base/1/1259").unwrap(), Path::new("/d/base/1/1259"));
        assert_eq!(place("pg_tblspc/16400/PG_15/1/2").unwrap(), Path::new("/t/16400/PG_15/1/2"));
        assert_eq!(place("pg_tblspc/16400").unwrap(), Path::new("/t/16400"));
        assert_eq!(place("pg_tblspc/5/x").unwrap(), Path::new("/d/pg_tblspc/5/x"));
        for bad in ["", "/etc/passwd", "../x", "base/../../x", "a\0b"] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
        assert_eq!(layout().tablespace_map().unwrap(), "16400 /t/16400\n");
    }
}
