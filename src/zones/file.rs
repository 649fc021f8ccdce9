//! Writes the file of an object in a zone that is a folder.
//!
//! temporary file (`name#1`) -> sync -> link or rename -> sync the folder
//!
//! No folder is ever made here: where a disk was unmounted a moment ago, the write fails rather than fill the disk below.
//! Large files go past the page cache, where their copies would push out what the server on the same machine reads all the
//! time; a file system that takes no direct writes gets ordinary ones.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::store::Created;
use crate::folio;

/// Shorter files are not worth a direct write.
const DIRECT_BYTES_MIN: usize = 1 << 20;
/// What direct writes must be multiples of, in memory and in the file; no disk asks for more.
const ALIGNMENT: usize = 4096;
const PIECE_BYTES: usize = 1 << 20;

/// Creates the file, durably; one that exists is left as it is. Its folder is there, and durable. Blocks.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<Created> {
    let staged = stage(path, bytes)?;
    let linked = fs::hard_link(&staged, path);
    let removed = fs::remove_file(&staged);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Created::Exists),
        Err(error) => return Err(error),
    }
    removed?;
    sync_parent(path)?;
    Ok(Created::New)
}

/// Puts a file in place of what is there, durably. Blocks.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = stage(path, bytes)?;
    if let Err(error) = fs::rename(&staged, path) {
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    sync_parent(path)
}

/// Makes the name of a file durable. Blocks.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes the names in a folder durable. Blocks.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a temporary file beside `path`, and waits until it is on disk.
fn stage(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let (staged, file) = temporary(path)?;
    match write(&file, bytes).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(staged),
        Err(error) => {
            let _ = fs::remove_file(&staged);
            Err(error)
        }
    }
}

/// Makes a temporary file beside `path`, of a name that is no object's.
fn temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    for number in 1_u32.. {
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!("#{number}"));
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((staged.into(), file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    let flags = fcntl_getfl(file)?;
    let mut done = 0;
    if bytes.len() >= DIRECT_BYTES_MIN && fcntl_setfl(file, flags | OFlags::DIRECT).is_ok() {
        done = write_direct(file, bytes)?;
        fcntl_setfl(file, flags)?;
    }
    folio::write_all_at(file, bytes.get(done..).unwrap_or_default(), done as u64)
}

/// Writes whole pieces as far as the file system takes them so; returns how many bytes.
fn write_direct(file: &File, bytes: &[u8]) -> io::Result<usize> {
    let mut buffer = vec![0; PIECE_BYTES + ALIGNMENT];
    let skip = buffer.as_ptr().align_offset(ALIGNMENT);
    let buffer = buffer.get_mut(skip..).unwrap_or_default();
    let mut done = 0;
    for piece in bytes.chunks(PIECE_BYTES) {
        let whole = piece.len() / ALIGNMENT * ALIGNMENT;
        let (Some(place), Some(piece)) = (buffer.get_mut(..whole), piece.get(..whole)) else { break };
        place.copy_from_slice(piece);
        match file.write_all_at(place, done as u64) {
            Ok(()) => done += whole,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_written_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<u8> = (0..3 * PIECE_BYTES).map(|at| (at / 7) as u8).collect();
        for length in
            [0, 1, 4095, 4096, 4097, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 5000, all.len()]
        {
            let path = folder.path().join(format!("object-{length}"));
            fs::write(folder.path().join(format!("object-{length}#1")), b"of another writer").unwrap();
            assert_eq!(create(&path, &all[..length]).unwrap(), Created::New);
            assert!(fs::read(&path).unwrap() == all[..length], "{length}");
            assert_eq!(create(&path, b"other").unwrap(), Created::Exists);
            assert!(fs::read(&path).unwrap() == all[..length], "{length}");
            replace(&path, &all[..length / 2]).unwrap();
            assert!(fs::read(&path).unwrap() == all[..length / 2], "{length}");
        }
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 18, "each object, and the other writer's file");
        let nowhere = folder.path().join("nowhere/object");
        assert_eq!(create(&nowhere, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(replace(&nowhere, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!nowhere.parent().unwrap().exists());
    }
}
