//! Files of WAL: what their first page says, and their bytes in bounded pieces.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Error;
use crate::wal::segment::LongHeader;

/// How much is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Reads a file's first page header; `None` where it is not that of a segment.
pub(crate) fn header(path: &Path) -> Result<Option<LongHeader>, Error> {
    let mut bytes = [0; LongHeader::BYTES];
    let mut file = open(path)?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(LongHeader::read(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// A file that is read from its start to its end.
#[derive(Debug)]
pub(crate) struct Pieces {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// How much may still be read.
    left: u64,
}

impl Pieces {
    /// Opens a file of which up to `most` bytes count.
    pub(crate) fn open(path: PathBuf, most: u64) -> Result<Self, Error> {
        Ok(Pieces { file: open(&path)?, path, buffer: vec![0; PIECE_BYTES], left: most })
    }

    /// Returns the bytes that follow; none at the end.
    pub(crate) fn next(&mut self) -> Result<&[u8], Error> {
        let mut filled = 0;
        while let Some(room) = self.buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.file.read(room) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { path: self.path.clone(), source }),
            }
        }
        let own = usize::try_from(self.left).unwrap_or(usize::MAX).min(filled);
        self.left = self.left.saturating_sub(filled as u64);
        Ok(self.buffer.get(..own).unwrap_or_default())
    }
}
