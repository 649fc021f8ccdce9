//! A folder that only the servers' user may enter: sockets are there while the restore works.
//!
//! In the system's temporary folder, since a socket's path may have only 107 bytes. Removed when dropped.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Error;
use super::install::OsUser;
use crate::clock;

#[derive(Debug)]
pub(super) struct PrivateFolder {
    path: PathBuf,
}

impl PrivateFolder {
    pub(super) fn create(user: &OsUser) -> Result<Self, Error> {
        let number = u32::from_le_bytes(clock::random());
        let path = std::env::temp_dir().join(format!("pitrus-{number:08x}"));
        // Fails where somebody else made it first.
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::file("make", &path))?;
        let folder = PrivateFolder { path };
        user.own(&folder.path)?;
        Ok(folder)
    }

    /// Makes a folder for one node's sockets.
    pub(super) fn node(&self, number: usize, user: &OsUser) -> Result<PathBuf, Error> {
        let path = self.path.join(number.to_string());
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::file("make", &path))?;
        user.own(&path)?;
        Ok(path)
    }

    /// Returns a path of our program that the servers' user can run: a copy where the original lies in a
    /// folder that it may not enter.
    pub(super) fn program(&self, program: &Path, user: &OsUser) -> Result<PathBuf, Error> {
        let runs = user.command("test").arg("-x").arg(program).status();
        if runs.is_ok_and(|status| status.success()) {
            return Ok(program.to_owned());
        }
        let copy = self.path.join("pitrus");
        std::fs::copy(program, &copy).map_err(Error::file("copy", program))?;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&copy, mode).map_err(Error::file("copy", program))?;
        user.own(&copy)?;
        Ok(copy)
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // We made it, and nothing that matters is in it.
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary folder stays behind");
        }
    }
}
