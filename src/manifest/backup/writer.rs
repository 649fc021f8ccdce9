//! Writes a manifest line by line: entries leave memory as soon as their files are done.

use std::collections::BTreeSet;

use super::{Entry, Foot, Head, Kind, LINE_BYTES_MAX, Line, Pack, inconsistent};
use crate::ids::BackupId;
use crate::manifest::Error;

/// Takes entries in any order; the owner moves the bytes on by [`ManifestWriter::take`].
#[derive(Debug)]
pub struct ManifestWriter {
    own: BackupId,
    bytes: Vec<u8>,
    packs: BTreeSet<Pack>,
    files: u64,
    file_bytes: u64,
}

impl ManifestWriter {
    pub fn new(head: Head) -> Self {
        let own = head.backup.clone();
        let mut writer =
            ManifestWriter { own, bytes: Vec::new(), packs: BTreeSet::new(), files: 0, file_bytes: 0 };
        writer.line(&Line::Head(head));
        writer
    }

    /// Adds a file or a folder.
    pub fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        entry.check()?;
        if let Kind::File { size, extents, .. } = &entry.kind {
            self.files += 1;
            self.file_bytes += size;
            for extent in extents {
                self.packs.insert(Pack::named(&extent.pack, &self.own)?);
            }
        }
        let before = self.bytes.len();
        let path = entry.path.clone();
        self.line(&Line::Entry(entry));
        if self.bytes.len() - before > LINE_BYTES_MAX {
            self.bytes.truncate(before);
            return Err(inconsistent(format!("{path} is too large for one entry")));
        }
        Ok(())
    }

    /// Returns how many bytes wait to be taken.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the next `most` bytes, or as many as there are.
    pub fn take(&mut self, most: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(most.min(self.bytes.len()));
        std::mem::replace(&mut self.bytes, rest)
    }

    /// Writes the foot. What the writer has counted (files, bytes, packs) is filled in; the rest
    /// remains to be taken.
    pub fn finish(&mut self, foot: Foot) {
        let packs = self.packs.iter().map(|pack| pack.name(&self.own)).collect();
        self.line(&Line::Foot(Foot { files: self.files, bytes: self.file_bytes, packs, ..foot }));
    }

    fn line(&mut self, line: &Line) {
        serde_json::to_writer(&mut self.bytes, line).expect("our documents have only text keys");
        self.bytes.push(b'\n');
    }
}
