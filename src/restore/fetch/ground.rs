//! Where files are laid: folders and empty files as the manifest has them, and at the end what makes the
//! server recover.
//!
//! `global/pg_control` bears another name until everything else is durable: no server starts before.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::conf;
use super::super::layout::{FOLDERS, Layout};
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

/// Makes the folders and links that do not come from the manifest, and tells of each.
pub(super) fn make_folders(options: &FetchOptions, mut note: impl FnMut(&Path)) -> Result<(), Error> {
    for name in FOLDERS {
        let path = options.directory.join(name);
        make_folder(&path, 0o700, options)?;
        note(&path);
    }
    for (_, folder, link) in options.layout.links() {
        std::fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        set_mode(&folder, 0o700)?;
        options.user.own(&folder)?;
        std::os::unix::fs::symlink(&folder, &link).map_err(Error::file("make", &link))?;
        options.user.own(&link)?;
        note(&folder);
        note(&link);
    }
    Ok(())
}

pub(super) fn make_folder(path: &Path, mode: u32, options: &FetchOptions) -> Result<(), Error> {
    let found = if options.delta { std::fs::symlink_metadata(path).ok() } else { None };
    if found.is_some_and(|found| !found.is_dir()) {
        std::fs::remove_file(path).map_err(Error::file("remove", path))?;
    }
    match DirBuilder::new().mode(mode & 0o777).create(path) {
        Ok(()) => options.user.own(path),
        // Made above, or a tablespace's, or a stopped copy's.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::file("make", path)(error)),
    }
}

/// Gives a file of a stopped copy its length, mode and owner, or makes it where there is none; returns
/// whether it was made.
pub(super) fn take_file(path: &Path, mode: u32, size: u64, user: &OsUser) -> Result<bool, Error> {
    let found = std::fs::symlink_metadata(path).ok();
    if found.as_ref().is_some_and(|found| found.is_file()) {
        let opened = OpenOptions::new().write(true).custom_flags(no_link()).open(path);
        opened.and_then(|file| file.set_len(size)).map_err(Error::file("change", path))?;
        set_mode(path, mode & 0o777)?;
        user.own(path)?;
        return Ok(false);
    }
    if found.is_some_and(|found| found.is_dir()) {
        std::fs::remove_dir_all(path).map_err(Error::file("remove", path))?;
    }
    make_file(path, mode, size, user)?;
    Ok(true)
}

/// A flag with which a link at the end of a path is not followed.
pub(super) fn no_link() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
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
    sync_all(&options.directory, &options.layout)?;
    let (held, control) = (options.directory.join(CONTROL_HELD), options.directory.join(CONTROL));
    std::fs::rename(&held, &control).map_err(Error::file("write", &control))?;
    conf::sync_folder(&options.directory.join("global"))
}

/// Waits until a node's files are durable. Blocks.
pub(in super::super) fn sync_all(directory: &Path, layout: &Layout) -> Result<(), Error> {
    sync(directory)?;
    layout.links().try_for_each(|(_, folder, _)| sync(&folder))
}

/// Waits until everything on the file system of this folder is durable: one call for any number of files.
fn sync(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|file| rustix::fs::syncfs(&file).map_err(Into::into));
    synced.map_err(Error::file("sync", folder))
}
