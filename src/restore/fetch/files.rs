//! The files that are being filled: a bounded number of them open, zeros left out.
//!
//! A page of zeros is never written to a new file: it is as long as it will be from the start, and what
//! was not written reads as zeros and takes no room.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

use super::ground::no_link;
use super::window::{Chunk, FLUSH_BYTES, File, Piece};
use crate::folio;

/// Open files, at most. A chunk is written through few of them, and big files come one after the other.
const OPEN_MAX: usize = 64;
/// What is left out where it is all zeros: PostgreSQL's usual page.
const HOLE_BYTES: usize = 8192;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// Open files by number, and when each was last used.
#[derive(Default)]
struct Open {
    files: HashMap<u64, (Arc<fs::File>, u64)>,
    uses: u64,
}

#[derive(Default)]
pub(super) struct Files(Mutex<Open>);

impl Files {
    /// Opens a file, or finds it among those used lately.
    pub(super) fn open(&self, file: &File) -> std::io::Result<Arc<fs::File>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.uses += 1;
        let now = open.uses;
        if let Some((found, used)) = open.files.get_mut(&file.number) {
            *used = now;
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(reopen(&file.path)?);
        if open.files.len() >= OPEN_MAX
            && let Some(oldest) = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(n, _)| *n)
        {
            open.files.remove(&oldest);
        }
        open.files.insert(file.number, (Arc::clone(&found), now));
        Ok(found)
    }

    /// Writes the pieces of an opened chunk to their places; fails with the file that it could not write.
    pub(super) fn write<'a>(
        &self,
        files: &'a [File],
        chunk: &Chunk,
        plain: &[u8],
    ) -> Result<(), (&'a Path, std::io::Error)> {
        for piece in &chunk.pieces {
            let Some(file) = files.get(piece.file as usize) else { continue };
            let from = piece.offset as usize;
            // The manifest's reader has seen that pieces lie within their chunks.
            let bytes = plain.get(from..from + piece.len as usize).unwrap_or_default();
            let written = self.open(file).and_then(|open| match file.is_new {
                true => write_sparsely(&open, bytes, piece.file_at),
                false => folio::write_all_at(&open, bytes, piece.file_at),
            });
            written.map_err(|error| (file.path.as_path(), error))?;
            self.begin_to_flush(file, piece);
        }
        Ok(())
    }

    /// Returns whether the files hold just what a chunk would bring: its CRC-32 over all of it. A file that
    /// this fetch made holds nothing, and a chunk of which only a part is wanted cannot be told by its sum.
    pub(super) fn hold(&self, files: &[File], chunk: &Chunk, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(chunk.plain as usize, 0);
        let mut end = 0;
        for piece in &chunk.pieces {
            let Some(file) = files.get(piece.file as usize).filter(|file| !file.is_new) else { return false };
            let from = piece.offset as usize;
            let part = buffer.get_mut(from..from + piece.len as usize).filter(|_| from == end);
            let Some(part) = part else { return false };
            end += part.len();
            let read = self.open(file).and_then(|open| open.read_exact_at(part, piece.file_at));
            if let Err(error) = read {
                tracing::debug!(path = %file.path.display(), %error, "not compared; it is fetched");
                return false;
            }
        }
        end == buffer.len() && crc32fast::hash(buffer) == chunk.crc
    }

    /// Sees that a stretch which is whole goes to disk while the rest is still coming, so that there is little to
    /// wait for at the end. The kernel begins to write what it is told will not be needed (`generic_fadvise`).
    fn begin_to_flush(&self, file: &File, piece: &Piece) {
        for from in file.came(piece.file_at, piece.len.into()) {
            // Only advice: durability is waited for at the end.
            if let Ok(open) = self.open(file) {
                let _ = fadvise(&*open, from, NonZeroU64::new(FLUSH_BYTES), Advice::DontNeed);
            }
        }
    }
}

/// Never makes a file, and never follows a link at its end.
fn reopen(path: &Path) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).write(true).custom_flags(no_link()).open(path)
}

/// Writes all but pages of zeros, stretch by stretch.
fn write_sparsely(file: &fs::File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let (mut begin, mut end) = (0, 0);
    for page in bytes.chunks(HOLE_BYTES) {
        if ZEROS.starts_with(page) {
            folio::write_all_at(file, bytes.get(begin..end).unwrap_or_default(), at + begin as u64)?;
            begin = end + page.len();
        }
        end += page.len();
    }
    folio::write_all_at(file, bytes.get(begin..end).unwrap_or_default(), at + begin as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn pages_of_zeros_take_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut bytes = vec![0_u8; 1 << 20];
        bytes[9000] = 1;
        bytes[(1 << 20) - 1] = 2;
        bytes.truncate((1 << 20) - 100);
        bytes[500_000..700_000].fill(3);
        let file = fs::File::create_new(&path).unwrap();
        file.set_len(bytes.len() as u64 + 8192).unwrap();
        write_sparsely(&file, &bytes, 8192).unwrap();
        let read = fs::read(&path).unwrap();
        assert_eq!(read[..8192], [0; 8192]);
        assert_eq!(read[8192..], bytes);
        let taken = file.metadata().unwrap().blocks() * 512;
        assert!((200_000..300_000).contains(&taken), "{taken} bytes");
    }

    #[test]
    fn few_files_are_open_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::default();
        let of = |number: u64| File::new(number, folder.path().join(number.to_string()), 1, true);
        for number in 0..200 {
            fs::File::create_new(of(number).path).unwrap();
            files.open(&of(number)).unwrap().write_all_at(&[1], 0).unwrap();
            files.open(&of(0)).unwrap();
        }
        let open = files.0.lock().unwrap();
        assert_eq!(open.files.len(), OPEN_MAX);
        assert!(open.files.contains_key(&0) && open.files.contains_key(&199));
    }
}
