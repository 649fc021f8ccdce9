//! Everything that can be refused is refused here, before the first byte is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Error;
use super::former::{self, Expected};
use super::install::OsUser;
use super::ledger::{self, Ledger};
use super::targets::Target;

/// PostgreSQL's own limit is 1024 bytes (`MAXPGPATH`), file names included.
const PATH_BYTES_MAX: usize = 800;

/// What is found where a node shall go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// Nothing, or an empty folder.
    Free,
    /// An unfinished run of this very restore.
    Ours(Box<Ledger>),
    /// A stopped copy, which the restore was told by name to go into.
    Former,
}

/// Judges one target of a restore that may go into a stopped copy of the node.
pub(super) fn delta_target(
    target: &Target,
    plan: &str,
    source_directory: Option<&Path>,
    expected: &Expected<'_>,
) -> Result<Found, Error> {
    place(target, source_directory)?;
    if let Some(found) = Ledger::read(&target.directory)?
        && found.stage < ledger::Stage::Done
        && found.plan == plan
    {
        return resume(target, found, plan);
    }
    if occupied(&target.directory)?.is_none() {
        return self::target(target, plan, source_directory);
    }
    former::judge(target, expected)?;
    Ok(Found::Former)
}

/// Judges one target.
pub(super) fn target(target: &Target, plan: &str, source_directory: Option<&Path>) -> Result<Found, Error> {
    place(target, source_directory)?;
    if let Some(found) = Ledger::read(&target.directory)? {
        return resume(target, found, plan);
    }
    for folder in [&target.directory, &target.tablespaces] {
        if let Some(what) = occupied(folder)? {
            return Err(Error::refused(format!("node {}: {} {what}", target.node, folder.display()), CHOOSE));
        }
    }
    Ok(Found::Free)
}

/// Refuses places that are wrong whatever is there.
fn place(target: &Target, source_directory: Option<&Path>) -> Result<(), Error> {
    let directory = &target.directory;
    let long = directory.as_os_str().len().max(target.tablespaces.as_os_str().len());
    if long > PATH_BYTES_MAX {
        return Err(refuse(
            target,
            format!("is longer than {PATH_BYTES_MAX} bytes"),
            "choose a shorter path",
        ));
    }
    let is_in =
        |source: &Path| directory.starts_with(real(source)) || real(directory).starts_with(real(source));
    if source_directory.is_some_and(is_in) {
        return Err(refuse(target, "is the source's own data directory", CHOOSE));
    }
    for folder in [directory, &target.tablespaces] {
        let inside = folder.ancestors().skip(1).find(|above| above.join("PG_VERSION").exists());
        if let Some(above) = inside {
            let problem = format!("lies inside the data directory {}", above.display());
            return Err(refuse(target, problem, CHOOSE));
        }
    }
    Ok(())
}

const CHOOSE: &str = "a restore never writes where something exists: choose an empty or a new folder, or say \
                      --delta for a stopped copy of the same node";

fn refuse(target: &Target, problem: impl std::fmt::Display, hint: &str) -> Error {
    Error::refused(format!("node {}: {} {problem}", target.node, target.directory.display()), hint)
}

fn resume(target: &Target, found: Ledger, plan: &str) -> Result<Found, Error> {
    if found.plan == plan && found.target.node == target.node {
        return Ok(Found::Ours(Box::new(found)));
    }
    let state = if found.stage == ledger::Stage::Done { "a finished" } else { "an unfinished" };
    let problem = format!("holds {state} restore as {} by another plan ({})", found.cluster, found.plan);
    Err(refuse(
        target,
        problem,
        "choose another folder; to go on with an unfinished restore ask for exactly the same one again",
    ))
}

/// Returns what stands in the way in this folder.
fn occupied(folder: &Path) -> Result<Option<String>, Error> {
    let mut entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("look into", folder)(error)),
    };
    if folder.join("postmaster.pid").exists() {
        return Ok(Some("is the data directory of a server that runs, or crashed".to_owned()));
    }
    if folder.join("PG_VERSION").exists() {
        return Ok(Some("is a data directory already".to_owned()));
    }
    Ok(entries.next().map(|_| "is not empty".to_owned()))
}

/// Targets may not overlap.
pub(super) fn apart(targets: &[Target]) -> Result<(), Error> {
    let folders: Vec<(&Target, &PathBuf)> =
        targets.iter().flat_map(|t| [(t, &t.directory), (t, &t.tablespaces)]).collect();
    for (i, (target, one)) in folders.iter().enumerate() {
        for (other, two) in folders.iter().skip(i + 1) {
            if one.starts_with(two) || two.starts_with(one) {
                return Err(Error::refused(
                    format!(
                        "nodes {} and {}: {} and {} overlap",
                        target.node,
                        other.node,
                        one.display(),
                        two.display()
                    ),
                    "give each node folders of its own",
                ));
            }
        }
    }
    let mut addresses = BTreeMap::new();
    for target in targets {
        if let Some(other) = addresses.insert((&target.host, target.port), &target.node) {
            return Err(Error::refused(
                format!("nodes {other} and {} are both at {}:{}", target.node, target.host, target.port),
                "give each node a port of its own",
            ));
        }
    }
    Ok(())
}

/// The servers' user must be able to reach the folder: `/root/…` usually bars it.
pub(super) fn reachable(folder: &Path, user: &OsUser) -> Result<(), Error> {
    let there = existing(folder);
    let entered = user.command("test").arg("-x").arg(there).status();
    match entered {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::refused(
            format!("user {} may not enter {}", user.name, there.display()),
            "choose a folder that the servers' user can reach, or open the way with chmod o+x",
        )),
        Err(source) => Err(Error::file("look into", there)(source)),
    }
}

/// Returns the nearest folder above that exists.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"))
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Each file system must have room for the nodes that go there: the files, and some WAL.
pub(super) fn room(wanted: &[(&Target, u64)]) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    let mut by_device: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
    for (target, bytes) in wanted {
        let there = existing(&target.directory);
        let device = std::fs::metadata(there).map_err(Error::file("look at", there))?.dev();
        by_device.entry(device).or_insert((0, there)).0 += bytes;
    }
    for (need, there) in by_device.into_values() {
        let stat = rustix::fs::statvfs(there).map_err(|e| Error::file("look at", there)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < need {
            return Err(Error::refused(
                format!(
                    "{}: the restore needs {} MiB, {} MiB are free",
                    there.display(),
                    need >> 20,
                    free >> 20
                ),
                "make room, or choose folders on another file system",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(directory: &Path) -> Target {
        Target {
            node: "a".parse().unwrap(),
            host: "localhost".into(),
            port: 1,
            directory: directory.to_owned(),
            tablespaces: directory.with_extension("spaces"),
            socket_dir: None,
            listen: None,
        }
    }

    #[test]
    fn only_an_empty_place_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert_eq!(target(&at(&data), "p", None).unwrap(), Found::Free);
        std::fs::create_dir(&data).unwrap();
        assert_eq!(target(&at(&data), "p", None).unwrap(), Found::Free);
        std::fs::write(data.join("PG_VERSION"), "15").unwrap();
        let said = target(&at(&data), "p", None).unwrap_err().to_string();
        assert!(said.ends_with("is a data directory already"), "{said}");
        let said = target(&at(&data.join("new")), "p", None).unwrap_err().to_string();
        assert!(said.contains("lies inside the data directory"), "{said}");
        let gone = folder.path().join("gone");
        let said = target(&at(&gone), "p", Some(&gone)).unwrap_err().to_string();
        assert!(said.ends_with("is the source's own data directory"), "{said}");
    }

    #[test]
    fn targets_may_not_overlap() {
        let (one, mut two) = (at(Path::new("/x/a")), at(Path::new("/x/a/b")));
        two.port = 2;
        assert!(apart(&[one.clone(), two.clone()]).is_err());
        two.directory = "/x/b".into();
        two.tablespaces = "/x/c".into();
        assert!(apart(&[one.clone(), two.clone()]).is_ok());
        two.port = 1;
        assert!(apart(&[one, two]).is_err());
    }
}
