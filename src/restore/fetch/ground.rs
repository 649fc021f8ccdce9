//! Where files are laid: folders and empty files as the manifest has them, and at the end what makes the
//! server recover.
//!
//! `global/pg_control` bears another name until everything else is durable: no server starts before.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::conf;
use super::super::layout::FOLDERS;
use super::{Error, FetchOptions, OsUser};
use crate::manifest::backup::Foot;

/// The file without which no server starts.
pub(super) const CONTROL: &str = "global/pg_control";
/// Its name while files are coming.
pub(super) const CONTROL_HELD: &str = "global/pg_control.pitrus";

/// Returns whether an entry is not for this server: what we write ourselves, what tells a server how to
/// start, and what an earlier restore left in the source.
pub(super) fn is_left_out(path: &str) -> bool {
    const NAMES: [&str; 8] = [
        "",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "recovery.signal",
        "standby.signal",
        "postmaster.pid",
    ];
    NAMES.contains(&path) || path.starts_with("pitrus.")
}

/// Returns where an entry goes for now.
pub(super) fn place(options: &FetchOptions, path: &str) -> Result<PathBuf, String> {
    options.layout.place(if path == CONTROL { CONTROL_HELD } else { path })
}

/// Makes the folders that do not come from the manifest.
pub(super) fn make_folders(options: &FetchOptions) -> Result<(), Error> {
    for name in FOLDERS {
        make_folder(&options.directory.join(name), 0o700, &options.user)?;
    }
    for (_, folder, link) in options.layout.links() {
        std::fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        set_mode(&folder, 0o700)?;
        options.user.own(&folder)?;
        std::os::unix::fs::symlink(&folder, &link).map_err(Error::file("make", &link))?;
        options.user.own(&link)?;
    }
    Ok(())
}

pub(super) fn make_folder(path: &Path, mode: u32, user: &OsUser) -> Result<(), Error> {
    match DirBuilder::new().mode(mode & 0o777).create(path) {
        Ok(()) => user.own(path),
        // Made above, or a tablespace's.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::file("make", path)(error)),
    }
}

/// Makes a file that was not there, as long as it will be.
pub(super) fn make_file(path: &Path, mode: u32, size: u64, user: &OsUser) -> Result<(), Error> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(path);
    let sized = made.and_then(|file| if size > 0 { file.set_len(size) } else { Ok(()) });
    sized.map_err(Error::file("make", path))?;
    user.own(path)
}

pub(in super::super) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(Error::file("change the mode of", path))
}

/// Writes what makes the server recover, waits until all is on disk, and only then lets a server start.
pub(super) fn finish(options: &FetchOptions, foot: &Foot) -> Result<(), Error> {
    let write =
        |name: &str, text: &str| conf::replace(&options.directory.join(name), text.as_bytes(), &options.user);
    let map = options.layout.tablespace_map()?;
    if !map.is_empty() {
        write("tablespace_map", &map)?;
    }
    write("recovery.signal", "")?;
    conf::set_aside(&options.directory, &options.user)?;
    write("backup_label", &foot.backup_label)?;
    sync(&options.directory)?;
    options.layout.links().try_for_each(|(_, folder, _)| sync(&folder))?;
    let (held, control) = (options.directory.join(CONTROL_HELD), options.directory.join(CONTROL));
    std::fs::rename(&held, &control).map_err(Error::file("write", &control))?;
    conf::sync_folder(&options.directory.join("global"))
}

/// Waits until everything on the file system of this folder is durable: one call for any number of files.
fn sync(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|file| rustix::fs::syncfs(&file).map_err(Into::into));
    synced.map_err(Error::file("sync", folder))
}
