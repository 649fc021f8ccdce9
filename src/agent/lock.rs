//! One agent a state folder: held until the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::Error;

/// Held while this value lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

pub(super) fn take(state_dir: &Path) -> Result<Lock, Error> {
    let failed = |source| Error::StateDir { path: state_dir.to_owned(), source };
    std::fs::create_dir_all(state_dir).map_err(failed)?;
    let path = state_dir.join("agent.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Running { path: state_dir.to_owned() }),
        Err(error) => Err(failed(io::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path()).unwrap();
        assert!(matches!(take(folder.path()), Err(Error::Running { .. })));
        drop(first);
        take(folder.path()).unwrap();
    }
}
