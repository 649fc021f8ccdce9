//! What this machine offers: the operating system user that will own the servers, and PostgreSQL's
//! programs of the right major version.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// Where distributions put PostgreSQL's programs; `{}` is the major version.
const BIN_DIRS: [&str; 4] =
    ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin", "/usr/local/pgsql/bin"];

/// The user that owns the data directories and runs the servers.
#[derive(Clone, Debug)]
pub(super) struct OsUser {
    pub(super) name: String,
    uid: u32,
    gid: u32,
    home: String,
    /// We are root, and give up root for what we start and what we own.
    pub(super) switch: bool,
}

impl OsUser {
    /// Finds `wanted` where we are root; else we can only be ourselves.
    pub(super) fn find(wanted: &str) -> Result<Self, Error> {
        let own = rustix::process::geteuid();
        let whom = if own.is_root() { wanted.to_owned() } else { own.as_raw().to_string() };
        let user = lookup(&whom, own.is_root())?;
        if user.uid == 0 {
            return Err(Error::refused(
                "PostgreSQL does not run as root",
                "name another user with --os-user; Debian's packages make `postgres`",
            ));
        }
        Ok(user)
    }

    /// Returns a command that runs as this user, with nothing of our environment that could lead it elsewhere
    /// (PGHOST, PGDATA, …), and says what it says in English.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.env_clear().env("HOME", &self.home).env("LC_ALL", "C").env("USER", &self.name);
        // Where we are it may not be allowed to be.
        command.current_dir("/");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives a file or folder to this user. A symbolic link itself is given, not what it points to.
    pub(super) fn own(&self, path: &Path) -> Result<(), Error> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .map_err(Error::file("give away", path))
    }
}

fn lookup(whom: &str, switch: bool) -> Result<OsUser, Error> {
    let unknown = || {
        Error::refused(
            format!("the operating system has no user {whom}"),
            "name the user of the servers with --os-user",
        )
    };
    let found = Command::new("getent")
        .args(["passwd", whom])
        .output()
        .map_err(Error::file("run", Path::new("getent")))?;
    let line = String::from_utf8_lossy(&found.stdout).into_owned();
    let fields: Vec<&str> = line.trim_end().split(':').collect();
    match fields.as_slice() {
        [name, _, uid, gid, _, home, ..] => Ok(OsUser {
            name: (*name).to_owned(),
            uid: uid.parse().map_err(|_| unknown())?,
            gid: gid.parse().map_err(|_| unknown())?,
            home: (*home).to_owned(),
            switch,
        }),
        _ => Err(unknown()),
    }
}

/// PostgreSQL's programs.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// Finds programs of this major version: in `bin_dir` where given, else where distributions put them.
    pub(super) fn find(bin_dir: Option<&Path>, major: u32) -> Result<Self, Error> {
        let usual = || BIN_DIRS.iter().map(|dir| PathBuf::from(dir.replace("{}", &major.to_string())));
        let candidates: Vec<PathBuf> = match bin_dir {
            Some(dir) => vec![dir.to_owned()],
            None => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                usual().chain(std::env::split_paths(&path)).collect()
            }
        };
        let mut seen = Vec::new();
        for bin in candidates {
            match version_of(&bin.join("postgres")) {
                Some(version) if is_major(&version, major) => return Ok(Programs { bin }),
                Some(version) => seen.push(format!("{} has {version}", bin.display())),
                None => {}
            }
        }
        let seen = if seen.is_empty() { "none was found".to_owned() } else { seen.join(", ") };
        Err(Error::refused(
            format!("the restore needs the server programs of PostgreSQL {major}: {seen}"),
            format!("install them (Debian: postgresql-{major}), or name their folder with --bin-dir"),
        ))
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// Returns whether the server has this loadable library.
    pub(super) fn has_library(&self, name: &str) -> bool {
        let told = Command::new(self.path("pg_config")).arg("--pkglibdir").output().ok();
        let told = told.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
        let beside = self.bin.parent().map(|parent| parent.join("lib"));
        let file = format!("{name}.so");
        told.into_iter().chain(beside).any(|dir| dir.join(&file).is_file())
    }
}

/// Returns what `postgres --version` says, `15.18` of `postgres (PostgreSQL) 15.18 (Debian …)`.
fn version_of(postgres: &Path) -> Option<String> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(2).map(str::to_owned)
}

fn is_major(version: &str, major: u32) -> bool {
    version.split(|c: char| !c.is_ascii_digit()).next() == Some(major.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_major() {
        assert!(is_major("15.18", 15));
        assert!(is_major("15beta1", 15));
        assert!(!is_major("150.1", 15));
        assert!(!is_major("14.9", 15));
    }

    #[test]
    fn a_missing_version_is_named() {
        let said = Programs::find(Some(Path::new("/nowhere")), 15).unwrap_err().to_string();
        assert_eq!(said, "the restore needs the server programs of PostgreSQL 15: none was found");
    }
}
