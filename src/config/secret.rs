//! Secrets: the configuration says where they are; here they are read.
//!
//! A file must belong to this user or root and be closed to others, as libpq asks of a client key:
//! mode 0600 at most, or 0640 when root owns it. A command runs without a shell, has 30 seconds, and
//! its output is the secret. One line end at the end is not part of a secret. Nothing here prints one.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::class::{Class, Classified};

/// More than any key or password; a wrong path is noticed before it fills memory.
const BYTES_MAX: u64 = 64 * 1024;
const COMMAND_WAIT: Duration = Duration::from_secs(30);

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Env(String),
    /// The program and its arguments.
    Command(Vec<String>),
}

/// A secret that cannot be read. Never holds a part of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: others may read it (mode {mode:04o}, owner {owner})", path.display())]
    Open { path: PathBuf, mode: u32, owner: u32 },
    #[error("{}: belongs to user {owner}, who is neither this user nor root", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{}: is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("environment variable {name} is not set")]
    Unset { name: String },
    #[error("{place}: is empty")]
    Empty { place: String },
    #[error("{place}: is longer than {BYTES_MAX} bytes")]
    Long { place: String },
    #[error("{place}: is not text")]
    NotText { place: String },
    #[error("command {program} cannot be started")]
    Start { program: String, source: std::io::Error },
    #[error("command {program} ended with {status}")]
    Failed { program: String, status: std::process::ExitStatus },
    #[error("command {program} did not end within {} seconds", COMMAND_WAIT.as_secs())]
    Slow { program: String },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            // A key service may be away for a while.
            Error::Failed { .. } | Error::Slow { .. } => Class::Transient,
            _ => Class::Operator,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Read { .. } => "check that the path is right and that this user may read it".into(),
            Error::Open { path, .. } | Error::Owner { path, .. } => {
                format!("make it yours alone: chown $(id -u) {p} && chmod 600 {p}", p = path.display())
            }
            Error::NotAFile { .. } => "name a file".into(),
            Error::Unset { name } => format!("set {name} in the environment of this process"),
            Error::Empty { .. } | Error::Long { .. } | Error::NotText { .. } => {
                "it must hold the secret as text and nothing else".into()
            }
            Error::Start { .. } => "check that the program exists and may be run".into(),
            Error::Failed { .. } | Error::Slow { .. } => {
                "run the command by hand as this user to see why".into()
            }
        })
    }
}

impl Source {
    /// Reads the secret. Blocks: on a file, or up to 30 seconds on a command.
    pub fn read(&self) -> Result<Zeroizing<String>, Error> {
        match self {
            Source::File(path) => file(path),
            Source::Env(name) => {
                let text = std::env::var(name).map_err(|_| Error::Unset { name: name.clone() })?;
                text_of(Zeroizing::new(text.into_bytes()), &format!("environment variable {name}"))
            }
            Source::Command(words) => command(words),
        }
    }
}

fn file(path: &Path) -> Result<Zeroizing<String>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let (mode, owner) = (about.mode() & 0o7777, about.uid());
    let own = owner == rustix::process::geteuid().as_raw();
    if !own && owner != 0 {
        return Err(Error::Owner { path: path.to_owned(), owner });
    }
    let closed = (own && mode & 0o077 == 0) || (owner == 0 && mode & 0o037 == 0);
    if !closed {
        return Err(Error::Open { path: path.to_owned(), mode, owner });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    text_of(bytes, &path.display().to_string())
}

fn command(words: &[String]) -> Result<Zeroizing<String>, Error> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::Empty { place: "command".into() });
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    let output = child.stdout.take().expect("stdout was asked for");
    // Reading ends when the program does, or never: the wait must not depend on it.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = output.take(BYTES_MAX + 1).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    });
    let read = receiver.recv_timeout(COMMAND_WAIT);
    if !matches!(read, Ok(Ok(_))) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|source| Error::Start { program: program.clone(), source })?;
    match read {
        Ok(Ok(_)) if !status.success() => Err(Error::Failed { program: program.clone(), status }),
        Ok(Ok(bytes)) => text_of(bytes, &format!("output of command {program}")),
        Ok(Err(source)) => Err(Error::Start { program: program.clone(), source }),
        Err(_) => Err(Error::Slow { program: program.clone() }),
    }
}

fn text_of(bytes: Zeroizing<Vec<u8>>, place: &str) -> Result<Zeroizing<String>, Error> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Error::Long { place: place.to_owned() });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::NotText { place: place.to_owned() })?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(Error::Empty { place: place.to_owned() });
    }
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn words(words: &[&str]) -> Source {
        Source::Command(words.iter().map(|w| (*w).to_owned()).collect())
    }

    #[test]
    fn a_file_must_be_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "s3cret \r\n").unwrap();
        let read = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Source::File(path.clone()).read()
        };
        assert_eq!(read(0o600).unwrap().as_str(), "s3cret ");
        for mode in [0o604, 0o660, 0o777] {
            assert!(matches!(read(mode), Err(Error::Open { .. })), "{mode:o}");
        }
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(matches!(read(0o600), Err(Error::Owner { owner: 65534, .. })));
        }
        assert!(matches!(Source::File(folder.path().to_owned()).read(), Err(Error::NotAFile { .. })));
        assert!(matches!(Source::File(folder.path().join("none")).read(), Err(Error::Read { .. })));
    }

    #[test]
    fn commands_run_without_a_shell() {
        assert_eq!(words(&["/bin/echo", "$HOME a"]).read().unwrap().as_str(), "$HOME a");
        assert!(matches!(words(&["/bin/false"]).read(), Err(Error::Failed { .. })));
        assert!(matches!(words(&["/bin/true"]).read(), Err(Error::Empty { .. })));
        assert!(matches!(words(&["/no/such/program"]).read(), Err(Error::Start { .. })));
        assert!(matches!(words(&[]).read(), Err(Error::Empty { .. })));
        assert!(matches!(
            words(&["/bin/cat", "/dev/zero"]).read(),
            Err(Error::Failed { .. } | Error::Long { .. })
        ));
    }
}
