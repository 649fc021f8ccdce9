//! What there is to copy: the folders and files of a data directory and its tablespaces.
//!
//! data directory -> [`Inventory`]: folders first, then files by path. Reads no file. What vanishes
//! meanwhile is left out: the WAL tells of it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::manifest::backup::Tablespace;
use crate::pgfile::kind::{self, Fork, RelationFile, Rule};
use crate::wal::Version;

/// All that a backup copies.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) folders: Vec<Folder>,
    pub(super) files: Vec<Found>,
    pub(super) tablespaces: Vec<Tablespace>,
    /// Links and special files, which a backup cannot keep, by path.
    pub(super) left_out: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) path: String,
    pub(super) mode: u32,
}

/// A file as the scan found it. There may be millions of them.
#[derive(Debug)]
pub(super) struct Found {
    /// Relative to the data directory.
    pub(super) path: Box<str>,
    pub(super) size: u64,
    /// Unix seconds.
    pub(super) modified: i64,
    pub(super) mode: u32,
}

impl Inventory {
    /// Lists everything below `data`, the data directory of a server of this version.
    pub(super) fn scan(data: &Path, version: Version) -> Result<Inventory, Error> {
        let mut scan = Scan { data, version, found: Inventory::default(), inside: Vec::new() };
        let links = tablespace_links(data)?;
        // A tablespace that lies in the data directory is copied as a tablespace, not twice.
        scan.inside = links.iter().map(|(_, location)| location.clone()).collect();
        scan.walk("")?;
        for (oid, location) in links {
            scan.tablespace(oid, &location)?;
        }
        let mut found = scan.found;
        found.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Returns the sum of all file sizes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

struct Scan<'a> {
    data: &'a Path,
    version: Version,
    found: Inventory,
    /// Where tablespaces are.
    inside: Vec<PathBuf>,
}

impl Scan<'_> {
    /// Takes in what a folder holds, and all below it.
    fn walk(&mut self, folder: &str) -> Result<(), Error> {
        let place = self.data.join(folder);
        let Some(names) = names(&place)? else { return Ok(()) };
        for name in &names {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if !is_unlogged(&path, &names) {
                self.take(path)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, path: String) -> Result<(), Error> {
        let rule = kind::rule(&path);
        if rule == Rule::LeaveOut {
            return Ok(());
        }
        let place = self.data.join(&path);
        let Some(metadata) = there(&place, fs::symlink_metadata(&place))? else { return Ok(()) };
        if metadata.is_file() {
            self.found.files.push(found(path, &metadata));
        } else if metadata.is_dir() {
            if self.inside.contains(&place) {
                return Ok(());
            }
            self.found.folders.push(Folder { path: path.clone(), mode: permissions(&metadata) });
            // Also below an empty folder there may be one to make.
            self.walk(&path)?;
        } else if metadata.is_symlink() && rule == Rule::Empty {
            // pg_wal on a disk of its own: restored as a folder.
            let target = fs::metadata(&place);
            let mode = there(&place, target)?.map_or(0o700, |metadata| permissions(&metadata));
            self.found.folders.push(Folder { path, mode });
        } else if !(metadata.is_symlink() && tablespace_oid(&path).is_some()) {
            self.found.left_out.push(path);
        }
        Ok(())
    }

    /// Takes in a tablespace: of what lies there only the folder of this server's version.
    fn tablespace(&mut self, oid: u32, location: &Path) -> Result<(), Error> {
        let root = format!("pg_tblspc/{oid}");
        let place = self.data.join(&root);
        let Some(metadata) = there(&place, fs::metadata(&place))? else { return Ok(()) };
        self.found.folders.push(Folder { path: root.clone(), mode: permissions(&metadata) });
        let location = location.to_str().ok_or_else(|| Error::Name { path: location.to_owned() })?;
        self.found.tablespaces.push(Tablespace { oid, location: location.to_owned() });
        // `TABLESPACE_VERSION_DIRECTORY`; the catalogue's version follows.
        let own = format!("PG_{}_", self.version);
        for name in names(&place)?.unwrap_or_default() {
            if name.starts_with(&own) {
                self.take(format!("{root}/{name}"))?;
            }
        }
        Ok(())
    }
}

/// Returns whether a file belongs to an unlogged relation, which recovery empties: of one only the init
/// fork is copied. `names` are those of its folder, in their order.
fn is_unlogged(path: &str, names: &[String]) -> bool {
    let Some(file) = RelationFile::parse(path).filter(|file| file.fork != Fork::Init) else { return false };
    names.binary_search(&format!("{}_init", file.number)).is_ok()
}

/// Returns the tablespaces that links in `pg_tblspc` name.
fn tablespace_links(data: &Path) -> Result<Vec<(u32, PathBuf)>, Error> {
    let folder = data.join("pg_tblspc");
    let mut links = Vec::new();
    for name in names(&folder)?.unwrap_or_default() {
        let place = folder.join(&name);
        if let (Ok(oid), Ok(location)) = (name.parse(), fs::read_link(&place)) {
            links.push((oid, location));
        }
    }
    Ok(links)
}

fn tablespace_oid(path: &str) -> Option<u32> {
    path.strip_prefix("pg_tblspc/")?.parse().ok()
}

/// Returns the names in a folder in their order, `None` where it is gone.
fn names(folder: &Path) -> Result<Option<Vec<String>>, Error> {
    let Some(listed) = there(folder, fs::read_dir(folder))? else { return Ok(None) };
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|source| Error::Read { path: folder.to_owned(), source })?;
        let name = entry.file_name().into_string();
        names.push(name.map_err(|name| Error::Name { path: folder.join(name) })?);
    }
    names.sort_unstable();
    Ok(Some(names))
}

/// Takes what is gone for `None`.
pub(super) fn there<T>(path: &Path, outcome: io::Result<T>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn found(path: String, metadata: &Metadata) -> Found {
    Found { path: path.into(), size: metadata.len(), modified: metadata.mtime(), mode: permissions(metadata) }
}

fn permissions(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let place = root.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, bytes).unwrap();
    }

    fn paths(found: &Inventory) -> Vec<&str> {
        found.files.iter().map(|f| &*f.path).collect()
    }

    #[test]
    fn takes_what_postgres_says_to_take() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        for path in [
            "PG_VERSION",
            "base/1/1259",
            "base/1/t3_16385",
            "base/1/16390",
            "base/1/16390.1",
            "base/1/16390_fsm",
            "base/1/16390_init",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/pgsql_job_cache/x/y.data",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.done",
            "postmaster.pid",
            "pg_stat_tmp/global.tmp",
            "pg_replslot/slot/state",
            "pg_twophase/000002E1",
            "global/pg_control",
            "postgresql.auto.conf.tmp",
        ] {
            write(&data, path, b"x");
        }
        fs::create_dir_all(data.join("pg_notify")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", data.join("linked.conf")).unwrap();
        let found = Inventory::scan(&data, Version::V17).unwrap();
        assert_eq!(
            paths(&found),
            ["PG_VERSION", "base/1/1259", "base/1/16390_init", "global/pg_control", "pg_twophase/000002E1"]
        );
        let folders: Vec<&str> = found.folders.iter().map(|f| f.path.as_str()).collect();
        for folder in ["base", "base/1", "pg_wal", "pg_wal/archive_status", "pg_notify", "pg_replslot"] {
            assert!(folders.contains(&folder), "{folder} in {folders:?}");
        }
        assert!(!folders.contains(&"pg_replslot/slot") && !folders.contains(&"base/pgsql_job_cache/x"));
        assert_eq!(found.left_out, ["linked.conf"]);
        assert_eq!(found.bytes(), 5);
    }

    #[test]
    fn follows_tablespaces_inside_and_outside() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let version = "PG_17_202406281".to_owned();
        write(&data, "inside/x/5/16400", b"12");
        fs::rename(data.join("inside/x"), data.join("inside").join(&version)).unwrap();
        let outside = place.path().join("outside");
        write(&outside, &format!("{version}/5/16401"), b"123");
        write(&outside, "PG_14_202107181/5/16401", b"123");
        fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(data.join("inside"), data.join("pg_tblspc/16390")).unwrap();
        std::os::unix::fs::symlink(&outside, data.join("pg_tblspc/16391")).unwrap();
        let found = Inventory::scan(&data, Version::V17).unwrap();
        let want =
            [format!("pg_tblspc/16390/{version}/5/16400"), format!("pg_tblspc/16391/{version}/5/16401")];
        assert_eq!(paths(&found), want);
        let locations: Vec<_> = found.tablespaces.iter().map(|t| (t.oid, t.location.as_str())).collect();
        let inside = data.join("inside");
        assert_eq!(locations, [(16390, inside.to_str().unwrap()), (16391, outside.to_str().unwrap())]);
        assert!(found.left_out.is_empty());
    }

    #[test]
    fn a_name_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStrExt;
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
        assert!(matches!(Inventory::scan(place.path(), Version::V17), Err(Error::Name { .. })));
    }
}
