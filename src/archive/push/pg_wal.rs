//! The server's own files of WAL, where it keeps them. Everything here blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::archive::Error;
use crate::lsn::Lsn;
use crate::timeline::{History, TimelineId};
use crate::wal::segment::{LongHeader, Segment, history_file_name, parse_history_file_name};

/// History files are a line for each timeline.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// `pg_wal` of one server.
#[derive(Clone, Debug)]
pub(super) struct PgWal {
    folder: PathBuf,
    system: u64,
    pub(super) segment_bytes: u32,
}

/// Which file this is, and in which state: of one that was read, whether it is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    modified: (i64, i64),
    length: u64,
}

impl Identity {
    fn of(meta: &fs::Metadata) -> Self {
        let modified = (meta.mtime(), meta.mtime_nsec());
        Identity { device: meta.dev(), inode: meta.ino(), modified, length: meta.len() }
    }

    #[cfg(test)]
    pub(super) fn test(inode: u64) -> Self {
        Identity { device: 0, inode, modified: (0, 0), length: 0 }
    }
}

impl PgWal {
    pub(super) fn new(data_directory: &Path, system_identifier: &str, segment_bytes: u32) -> Self {
        // Text that is no number is no server's: then no file is its either.
        let system = system_identifier.parse().unwrap_or_default();
        PgWal { folder: data_directory.join("pg_wal"), system, segment_bytes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the segments that the server wants archived.
    pub(super) fn ready(&self) -> Result<BTreeSet<Segment>, Error> {
        let folder = self.path("archive_status");
        let failed = |source| Error::File { path: folder.clone(), source };
        let mut ready = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let segment = name.to_str().and_then(|name| name.strip_suffix(".ready"));
            ready.extend(segment.and_then(|name| Segment::parse(name, self.segment_bytes)));
        }
        Ok(ready)
    }

    /// Returns which file bears this name now.
    pub(super) fn identity(&self, name: &str) -> Result<Identity, Error> {
        let path = self.path(name);
        let meta = fs::metadata(&path).map_err(|source| Error::File { path, source })?;
        Ok(Identity::of(&meta))
    }

    /// Opens a segment's file; `None` where there is none, or one that still holds what it did under
    /// another name: the server keeps files to use again.
    pub(super) fn open(&self, segment: Segment) -> Result<Option<OpenSegment>, Error> {
        let path = self.path(&segment.file_name(self.segment_bytes));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { path, source }),
        };
        let opened = OpenSegment { file, path };
        let Some(header) = LongHeader::read(&opened.read(0, LongHeader::BYTES)?) else { return Ok(None) };
        if header.address != segment.start(self.segment_bytes) {
            return Ok(None);
        }
        if header.system != self.system || header.segment_bytes != self.segment_bytes {
            return Err(Error::Foreign { path: opened.path, found: header.system, expected: self.system });
        }
        Ok(Some(opened))
    }

    /// Returns the text of a timeline's history; `None` where the server has none.
    pub(super) fn history_text(&self, timeline: TimelineId) -> Result<Option<String>, Error> {
        let path = self.path(&history_file_name(timeline));
        match fs::metadata(&path).map(|meta| meta.len()) {
            Ok(length) if length <= HISTORY_BYTES_MAX => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(_) => return Err(Error::File { path, source: ErrorKind::FileTooLarge.into() }),
            Err(source) => return Err(Error::File { path, source }),
        }
        fs::read_to_string(&path).map(Some).map_err(|source| Error::File { path, source })
    }

    /// Returns where a timeline was left within a segment, by whichever history says so.
    pub(super) fn left_within(&self, segment: Segment) -> Result<Option<Lsn>, Error> {
        let failed = |source| Error::File { path: self.folder.clone(), source };
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(timeline) = name.to_str().and_then(parse_history_file_name) else { continue };
            let Some(text) = self.history_text(timeline)? else { continue };
            let history = History::parse(timeline, &text)?;
            let left = history.ancestors.iter().find(|ancestor| ancestor.timeline == segment.timeline);
            let within = left.map(|left| left.end).filter(|end| {
                segment.start(self.segment_bytes) < *end && *end <= segment.end(self.segment_bytes)
            });
            if within.is_some() {
                return Ok(within);
            }
        }
        Ok(None)
    }
}

/// An open file of a segment.
#[derive(Debug)]
pub(super) struct OpenSegment {
    file: File,
    path: PathBuf,
}

impl OpenSegment {
    /// Opens a file of the length of a segment under any name.
    pub(super) fn named(pg_wal: &PgWal, name: &str) -> Result<Self, Error> {
        let path = pg_wal.path(name);
        let file = File::open(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(OpenSegment { file, path })
    }

    /// Reads `length` bytes.
    pub(super) fn read(&self, at: u64, length: usize) -> Result<Bytes, Error> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|source| Error::File { path: self.path.clone(), source })?;
        Ok(bytes.into())
    }

    pub(super) fn identity(&self) -> Result<Identity, Error> {
        let failed = |source: io::Error| Error::File { path: self.path.clone(), source };
        Ok(Identity::of(&self.file.metadata().map_err(failed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u32 = 1 << 20;

    fn write(folder: &Path, name: &str, address: u64, system: u64) {
        let mut file = vec![0_u8; SEGMENT as usize];
        file[2] = 2;
        file[4] = 1;
        file[8..16].copy_from_slice(&address.to_le_bytes());
        file[24..32].copy_from_slice(&system.to_le_bytes());
        file[32..36].copy_from_slice(&SEGMENT.to_le_bytes());
        file[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        fs::write(folder.join("pg_wal").join(name), file).unwrap();
    }

    #[test]
    fn only_its_own_segments_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("pg_wal/archive_status")).unwrap();
        let pg_wal = PgWal::new(folder.path(), "77", SEGMENT);
        let segment = |number| Segment { timeline: TimelineId(1), number };
        for (number, address, system) in [(3, 3, 77), (4, 1, 77), (5, 5, 78)] {
            let name = segment(number).file_name(SEGMENT);
            write(folder.path(), &name, address * u64::from(SEGMENT), system);
            fs::write(folder.path().join("pg_wal/archive_status").join(name + ".ready"), "").unwrap();
        }
        fs::write(folder.path().join("pg_wal/archive_status/00000002.history.ready"), "").unwrap();
        assert!(pg_wal.open(segment(3)).unwrap().is_some());
        assert!(pg_wal.open(segment(4)).unwrap().is_none(), "a file kept to be used again");
        assert!(matches!(pg_wal.open(segment(5)), Err(Error::Foreign { found: 78, .. })));
        assert!(pg_wal.open(segment(6)).unwrap().is_none());
        assert!(pg_wal.ready().unwrap().into_iter().eq([3, 4, 5].map(segment)));
        fs::write(folder.path().join("pg_wal/00000002.history"), "1\t0/380000\tno recovery target\n")
            .unwrap();
        assert_eq!(pg_wal.left_within(segment(3)).unwrap(), Some(Lsn(0x38_0000)));
        assert_eq!(pg_wal.left_within(segment(4)).unwrap(), None);
    }
}
