//! Reads a manifest line by line, from bytes as they come.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Entry, Foot, Head, Kind, LINE_BYTES_MAX, Line, NAME, Named, Pack, VERSION, inconsistent};
use crate::ids::BackupId;
use crate::manifest::Error;

/// Feed it bytes; it gives lines. Whoever reads to the end calls [`ManifestReader::finish`]: only then
/// is the manifest known to be whole.
#[derive(Debug, Default)]
pub struct ManifestReader {
    bytes: Vec<u8>,
    /// What of `bytes` has been read.
    read: usize,
    /// What of `bytes` is known to hold no end of a line.
    searched: usize,
    own: Option<BackupId>,
    named: Named,
    files: u64,
    file_bytes: u64,
    ended: bool,
}

/// What both of a manifest's ends say.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    pub head: Head,
    pub foot: Foot,
}

impl ManifestReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a whole manifest and keeps its ends only.
    pub fn ends(bytes: &[u8]) -> Result<Ends, Error> {
        let mut reader = ManifestReader::new();
        let (mut head, mut foot) = (None, None);
        for piece in bytes.chunks(1 << 20) {
            reader.feed(piece);
            while let Some(line) = reader.next()? {
                match line {
                    Line::Head(found) => head = Some(found),
                    Line::Entry(_) => {}
                    Line::Foot(found) => foot = Some(found),
                }
            }
        }
        reader.finish()?;
        let ends = head.zip(foot).map(|(head, foot)| Ends { head, foot });
        ends.ok_or_else(|| inconsistent("it lacks its head or its foot".to_owned()))
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.searched -= self.read;
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next line, `None` where more bytes are needed.
    // Not an iterator: `None` is no end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Line>, Error> {
        let rest = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(length) = rest.iter().position(|b| *b == b'\n') else {
            self.searched = self.bytes.len();
            if self.searched - self.read > LINE_BYTES_MAX {
                return Err(inconsistent(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
            }
            return Ok(None);
        };
        let end = self.searched + length;
        let line = self.bytes.get(self.read..end).unwrap_or_default();
        let line = match self.own {
            None => read_line(line)?,
            Some(_) => quickly(line).map_err(|source| Error::Json { document: NAME, source })?,
        };
        (self.read, self.searched) = (end + 1, end + 1);
        self.check(&line)?;
        Ok(Some(line))
    }

    /// Says whether the manifest was whole: with a foot, and nothing after it.
    pub fn finish(self) -> Result<(), Error> {
        if !self.ended {
            return Err(inconsistent("it is cut off: it has no foot".to_owned()));
        }
        if self.read < self.bytes.len() {
            return Err(inconsistent("bytes follow its foot".to_owned()));
        }
        Ok(())
    }

    fn check(&mut self, line: &Line) -> Result<(), Error> {
        if self.ended {
            return Err(inconsistent("a line follows its foot".to_owned()));
        }
        match (line, &self.own) {
            (Line::Head(head), None) => self.own = Some(head.backup.clone()),
            (Line::Head(_), Some(_)) => return Err(inconsistent("it has two heads".to_owned())),
            (_, None) => return Err(inconsistent("it does not begin with its head".to_owned())),
            (Line::Entry(entry), Some(own)) => {
                let own = own.clone();
                self.count(entry, &own)?;
            }
            (Line::Foot(foot), Some(own)) => {
                let named: Result<BTreeSet<Pack>, Error> =
                    foot.packs.iter().map(|name| Pack::named(name, own)).collect();
                if (foot.files, foot.bytes) != (self.files, self.file_bytes) || named? != self.named.packs {
                    return Err(inconsistent("its foot does not agree with its entries".to_owned()));
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry, own: &BackupId) -> Result<(), Error> {
        entry.check()?;
        if let Kind::File { size, extents, .. } = &entry.kind {
            self.files += 1;
            self.file_bytes = self.file_bytes.saturating_add(*size);
            self.named.add(extents, own)?;
        }
        Ok(())
    }
}

/// How the line of an entry begins. What has its tag inside itself serde would keep aside whole before reading it.
const ENTRY: &[u8] = br#"{"line":"entry","#;

fn quickly(line: &[u8]) -> serde_json::Result<Line> {
    if line.starts_with(ENTRY) {
        return serde_json::from_slice(line).map(Line::Entry);
    }
    serde_json::from_slice(line)
}

/// Reads one line, and refuses a head of a version that is not known.
pub fn read_line(line: &[u8]) -> Result<Line, Error> {
    /// A foot may have no version, an entry has none.
    #[derive(Deserialize)]
    struct Peek {
        version: Option<u32>,
    }
    let json = |source| Error::Json { document: NAME, source };
    match serde_json::from_slice::<Peek>(line).map_err(json)?.version {
        Some(found) if found != VERSION => Err(Error::Version { document: NAME, found, known: VERSION }),
        _ => serde_json::from_slice(line).map_err(json),
    }
}

#[cfg(test)]
mod tests;
