//! A stopped copy of a node, into which a restore goes when it is asked for by name (`--delta`).
//!
//! The one exception to writing only where nothing is. It must be the data directory of a stopped server with
//! the backup's system identifier and version, and not the source's own. Before anything in it is changed
//! it bears our ledger and has no `pg_control`: no server starts there until the restore has gone on.
//!
//! Whatever could lead a write elsewhere is removed first: symbolic links, and files with a second name
//! (`cp -al`, `pg_upgrade --link`) that may belong to a server which lives.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::conf;
use super::ledger::{self, Ledger};
use super::targets::Target;
use super::{Error, server};
use crate::ids::{ClusterName, NodeName};
use crate::pgfile::control::ControlFile;

const CONTROL: &str = "global/pg_control";

/// Whose copy it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) node: &'a NodeName,
    pub(super) system_identifier: &'a str,
    pub(super) major: u32,
}

/// Refuses what is no stopped copy of this node. Writes nothing.
pub(super) fn judge(target: &Target, expected: &Expected<'_>) -> Result<(), Error> {
    let directory = &target.directory;
    let refuse = |problem: String, hint: &str| {
        Err(Error::refused(format!("node {}: {} {problem}", target.node, directory.display()), hint))
    };
    if directory.join("postmaster.pid").exists() || server::is_worked_in(directory) {
        return refuse(
            "has a postmaster.pid, or a process that works in it".to_owned(),
            "stop the server there; where one has crashed, and only then, remove its postmaster.pid",
        );
    }
    let version = std::fs::read_to_string(directory.join("PG_VERSION")).unwrap_or_default();
    if version.trim() != expected.major.to_string() {
        let problem = format!("is not a data directory of PostgreSQL {}", expected.major);
        return refuse(problem, "--delta goes into a stopped copy of the same node, and nowhere else");
    }
    match std::fs::read(directory.join(CONTROL)).map(|bytes| ControlFile::parse(&bytes)) {
        Ok(Ok(control)) if control.system_identifier.to_string() == expected.system_identifier => {}
        Ok(Ok(control)) => {
            let problem = format!(
                "belongs to another cluster: its system identifier is {}, the backup's {}",
                control.system_identifier, expected.system_identifier
            );
            return refuse(problem, "choose another folder");
        }
        // A restore that came no further has taken it away.
        _ if is_unfinished(directory, expected)? => {}
        _ => return refuse("has no pg_control that can be read".to_owned(), "choose another folder"),
    }
    tablespaces(target)
}

fn is_unfinished(directory: &Path, expected: &Expected<'_>) -> Result<bool, Error> {
    let ours = |l: &Ledger| l.source_cluster == *expected.cluster && l.source_node == *expected.node;
    Ok(Ledger::read(directory)?.as_ref().is_some_and(ours))
}

/// What lies where the tablespaces go must be tablespaces of this very copy.
fn tablespaces(target: &Target) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(&target.tablespaces) else { return Ok(()) };
    let has_ledger = target.directory.join(ledger::FILE).exists();
    for entry in entries {
        let path = entry.map_err(Error::file("look into", &target.tablespaces))?.path();
        let link = target.directory.join("pg_tblspc").join(path.file_name().unwrap_or_default());
        let leads_here = std::fs::canonicalize(link)
            .is_ok_and(|to| Ok(to) == std::fs::canonicalize(&path).map_err(|_| ()));
        if !leads_here && !has_ledger {
            let problem = format!("node {}: {} is no tablespace of the copy", target.node, path.display());
            return Err(Error::refused(problem, "move it away, or choose another folder"));
        }
    }
    Ok(())
}

/// Returns how many bytes the files in a folder have.
pub(super) fn bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    // What cannot be looked at counts as nothing, and needs more room.
    let _ = walk(folder, &mut |_, found| {
        sum += if found.is_file() { found.len() } else { 0 };
        Ok(())
    });
    sum
}

/// Makes it impossible to start, and removes what leads elsewhere. The ledger is there already.
pub(super) fn disarm(target: &Target) -> Result<(), Error> {
    let control = target.directory.join(CONTROL);
    match std::fs::remove_file(&control) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &control)(error));
        }
        Err(_) => {}
        Ok(()) => conf::sync_folder(&target.directory.join("global"))?,
    }
    for folder in [&target.directory, &target.tablespaces] {
        if !folder.is_dir() {
            continue;
        }
        walk(folder, &mut |path, found| {
            let is_plain = found.is_dir() || (found.is_file() && found.nlink() == 1);
            if is_plain { Ok(()) } else { std::fs::remove_file(path).map_err(Error::file("remove", path)) }
        })?;
    }
    Ok(())
}

/// The paths that belong to the restored copy, by their hashes: eight bytes for each.
#[derive(Debug, Default)]
pub(super) struct Belonging(HashSet<u64>);

impl Belonging {
    pub(super) fn note(&mut self, path: &Path) {
        self.0.insert(hash(path));
    }

    /// Removes everything in a folder that does not belong, except the ledger.
    pub(super) fn sweep(&self, folder: &Path) -> Result<(), Error> {
        if !folder.is_dir() {
            return Ok(());
        }
        let mut folders = Vec::new();
        walk(folder, &mut |path, found| {
            if self.0.contains(&hash(path)) || path.file_name() == Some(ledger::FILE.as_ref()) {
                return Ok(());
            }
            if found.is_dir() {
                folders.push(path.to_owned());
                return Ok(());
            }
            std::fs::remove_file(path).map_err(Error::file("remove", path))
        })?;
        // Those inside others come after them.
        for path in folders.iter().rev() {
            match std::fs::remove_dir(path) {
                Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
                    return Err(Error::file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The same for the folders of tablespaces, each named by its oid; one that was dropped goes as a whole.
    pub(super) fn sweep_tablespaces(&self, folder: &Path) -> Result<(), Error> {
        if !folder.is_dir() {
            return Ok(());
        }
        for entry in std::fs::read_dir(folder).map_err(Error::file("look into", folder))? {
            let entry = entry.map_err(Error::file("look into", folder))?;
            let path = entry.path();
            let is_oid = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
            if !is_oid || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            self.sweep(&path)?;
            if !self.0.contains(&hash(&path)) {
                std::fs::remove_dir(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().as_bytes().hash(&mut hasher);
    hasher.finish()
}

/// Looks at everything below a folder, a folder before what is in it; follows no link.
fn walk(
    folder: &Path,
    look: &mut impl FnMut(&Path, &std::fs::Metadata) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut left: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::file("look into", &folder))? {
            let path = entry.map_err(Error::file("look into", &folder))?.path();
            let found = std::fs::symlink_metadata(&path).map_err(Error::file("look at", &path))?;
            look(&path, &found)?;
            if found.is_dir() {
                left.push(path);
            }
        }
    }
    Ok(())
}
