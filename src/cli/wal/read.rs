//! Files of WAL, told apart by what their first pages say, and read in order.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::wal::event::{Event, Open};
use crate::wal::scan::{EventScan, Found};
use crate::wal::segment::LongHeader;
use crate::waldir::{Pieces, header};

/// How packed files begin, and what they are.
const PACKED: [(&[u8], &str); 6] = [
    (b"\x28\xB5\x2F\xFD", "compressed with zstd"),
    (b"\x1F\x8B", "compressed with gzip"),
    (b"\x04\x22\x4D\x18", "compressed with lz4"),
    (b"\xFD7zXZ\0", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"PITRUS", "sealed by pitrus"),
];

/// Files of one server and timeline that follow each other.
#[derive(Debug)]
pub(super) struct Source {
    /// The server's number among those shown.
    pub(super) node: usize,
    pub(super) system: u64,
    pub(super) timeline: TimelineId,
    pub(super) start: Lsn,
    pub(super) files: Vec<PathBuf>,
    segment_bytes: u32,
}

/// Where the WAL of some files ends, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ended {
    pub(super) timeline: TimelineId,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    pub(super) why: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {}, {} to {}: {}", self.timeline, self.from, self.to, self.why)
    }
}

/// Sorts files into sources.
pub(super) fn sources(files: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut known: BTreeMap<(u64, TimelineId, Lsn), (PathBuf, u32)> = BTreeMap::new();
    let mut systems: Vec<u64> = Vec::new();
    for path in files {
        let LongHeader { address, system, segment_bytes, timeline } = match header(path)? {
            Some(header) => header,
            None => return Err(not_wal(path)),
        };
        if !systems.contains(&system) {
            systems.push(system);
        }
        if let Some((other, _)) = known.insert((system, timeline, address), (path.clone(), segment_bytes)) {
            return Err(Failure::operator(
                format!("{} and {} hold the same WAL, from {address}", other.display(), path.display()),
                "name each segment once; a file that waits for its next use holds an old segment under a new name",
            ));
        }
    }
    let mut sources: Vec<Source> = Vec::new();
    for ((system, timeline, address), (path, segment_bytes)) in known {
        let node = systems.iter().position(|other| *other == system).unwrap_or_default();
        let follows = |last: &&mut Source| {
            let length = last.files.len() as u64 * u64::from(segment_bytes);
            (last.system, last.timeline, last.start.plus(length)) == (system, timeline, address)
        };
        match sources.last_mut().filter(follows) {
            Some(last) => last.files.push(path),
            None => {
                let (start, files) = (address, vec![path]);
                sources.push(Source { node, system, timeline, start, files, segment_bytes });
            }
        }
    }
    sources.sort_by_key(|source| (source.node, source.timeline, source.start));
    Ok(sources)
}

fn not_wal(path: &Path) -> Failure {
    let mut begin = [0; 8];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut begin));
    let begin = begin.get(..read.unwrap_or(0)).unwrap_or_default();
    let packed = PACKED.iter().find(|(magic, _)| begin.starts_with(magic));
    match packed {
        Some((_, how)) => Failure::operator(
            format!("{}: is {how}, not plain WAL", path.display()),
            "unpack it first, with the tool that packed it",
        ),
        None if !begin.is_empty() && begin.iter().all(|byte| *byte == 0) => Failure::operator(
            format!("{}: begins with zeros: nothing was written to this segment yet", path.display()),
            "leave it out",
        ),
        None => Failure::operator(
            format!("{}: is no WAL segment", path.display()),
            "encrypted segments must be opened first, by the tool that archived them",
        ),
    }
}

impl Source {
    /// Reads events until `take` wants no more; else returns where the WAL ended.
    pub(super) fn read(
        &self,
        mut take: impl FnMut(Event) -> Result<bool, Failure>,
    ) -> Result<Option<Ended>, Failure> {
        let mut scan = EventScan::new(self.segment_bytes, self.start, Open::default());
        let mut why = "the end of the file".to_owned();
        'files: for path in &self.files {
            let mut pieces = Pieces::open(path.clone(), u64::MAX)?;
            loop {
                let bytes = pieces.next()?;
                if bytes.is_empty() {
                    break;
                }
                scan.feed(bytes);
                loop {
                    match scan.step() {
                        Ok(Found::Event(event)) => {
                            if !take(event)? {
                                return Ok(None);
                            }
                        }
                        Ok(Found::NeedMore) => break,
                        Ok(Found::End { why: because, .. }) => {
                            why = format!("what follows in {}: {because}", path.display());
                            break 'files;
                        }
                        Err(error @ crate::wal::Error::Version { .. }) => return Err(error.into()),
                        Err(error) => {
                            why = error.to_string();
                            break 'files;
                        }
                    }
                }
            }
        }
        Ok(Some(Ended { timeline: self.timeline, from: self.start, to: scan.position(), why }))
    }
}
