//! The server's `archive_command`: asks the agent whether a file is held, and waits for it.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::SOCKET;
use crate::class::{Class, Classified};

/// Why the server must keep a file, and ask again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{}: cannot be read", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{name}: no agent answers at {}", socket.display())]
    NoAgent { name: String, socket: PathBuf, source: io::Error },
    #[error("{name}: not held by a quorum of zones after {seconds} s; it stays with the server")]
    Slow { name: String, seconds: u64 },
    #[error("{name}: {problem}")]
    Refused { name: String, problem: String },
}

impl Classified for PushError {
    fn class(&self) -> Class {
        match self {
            PushError::Slow { .. } | PushError::NoAgent { .. } => Class::Transient,
            PushError::File { .. } | PushError::Refused { .. } => Class::Operator,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PushError::NoAgent { .. } => {
                Some("start `pitrus agent` with this configuration, as the server's user".into())
            }
            PushError::Slow { .. } => Some("see `pitrus info`, and the agent's log".into()),
            _ => None,
        }
    }
}

/// How often an agent that is not there is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Returns when a quorum of zones holds the file at `path`, which must lie in the `pg_wal` of the agent's server.
pub fn ask(state_dir: &Path, path: &Path, patience: Duration) -> Result<(), PushError> {
    let unreadable = |source| PushError::File { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    }
    let socket = state_dir.join(SOCKET);
    let began = Instant::now();
    loop {
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(PushError::Slow { name, seconds: patience.as_secs() });
        }
        let error = match question(&socket, &format!("{name} {} {}\n", meta.dev(), meta.ino()), left) {
            Ok(answer) => match answer.split_first() {
                Some((b'K', _)) => return Ok(()),
                Some((b'F', why)) => {
                    return Err(PushError::Refused {
                        name,
                        problem: String::from_utf8_lossy(why).into_owned(),
                    });
                }
                // It ended while we waited: the next one goes on.
                _ => io::ErrorKind::UnexpectedEof.into(),
            },
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
            _ if began.elapsed() + LOOK_EVERY < patience => std::thread::sleep(LOOK_EVERY),
            _ => return Err(PushError::NoAgent { name, socket, source: error }),
        }
    }
}

fn question(socket: &Path, line: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
