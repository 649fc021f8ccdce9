//! A temporary folder that belongs to the user the servers run as.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// The user that servers run as, where that is not the user of this process.
#[derive(Clone, Debug)]
pub struct RunAs {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl RunAs {
    /// Returns `postgres` from the password file when this process is root, else `None`.
    pub fn find() -> anyhow::Result<Option<RunAs>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        let line = users
            .lines()
            .find(|line| line.starts_with("postgres:"))
            .context("running as root, and there is no user postgres to run servers as")?;
        let field: Vec<&str> = line.split(':').collect();
        let number = |at: usize| -> anyhow::Result<u32> {
            field.get(at).context("short line in /etc/passwd")?.parse().context("/etc/passwd")
        };
        let home = field.get(5).context("short line in /etc/passwd")?;
        Ok(Some(RunAs { uid: number(2)?, gid: number(3)?, home: PathBuf::from(home) }))
    }
}

/// A folder under the system's temporary folder, removed when dropped unless kept.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    run_as: Option<RunAs>,
    keep: bool,
}

impl Folder {
    /// Makes a folder with a short name: socket paths are limited to about a hundred bytes.
    pub fn new() -> anyhow::Result<Folder> {
        let chance = pitrus::clock::random::<4>().map(|byte| format!("{byte:02x}")).concat();
        let folder = Folder {
            path: std::env::temp_dir().join(format!("pitrus-{chance}")),
            run_as: RunAs::find()?,
            keep: false,
        };
        folder.make(&folder.path)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder in place when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Makes a folder inside that the servers may write.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        self.make(&path)?;
        Ok(path)
    }

    fn make(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        self.own(path)
    }

    /// Gives a file or folder to the servers' user.
    pub fn own(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(user) = &self.run_as {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Writes a file of the servers' user.
    pub fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
        self.own(path)
    }

    /// Returns a command that will run as the servers' user, in this folder, with no PG* variables.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Its own group: an interrupt typed at a terminal reaches us, and we end our children in order.
        command.current_dir(&self.path).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some(user) = &self.run_as {
            // libpq inside Citus reads certificates from HOME, and fails on root's.
            command.uid(user.uid).gid(user.gid).env("HOME", &user.home).env("USER", "postgres");
        }
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
