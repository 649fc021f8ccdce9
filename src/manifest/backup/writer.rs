//! Writes a manifest line by line: entries leave memory as soon as their files are done.

use std::collections::VecDeque;

use super::{Entry, Foot, Head, Kind, LINE_BYTES_MAX, Line, Named, inconsistent};
use crate::ids::BackupId;
use crate::manifest::Error;

/// Takes entries in any order, gives blocks of at most `block_bytes`. The head is a block alone, and so
/// is the foot where it fits one, so that both can be read without the entries between them.
#[derive(Debug)]
pub struct ManifestWriter {
    own: BackupId,
    block: Vec<u8>,
    block_bytes: usize,
    full: VecDeque<Vec<u8>>,
    named: Named,
    files: u64,
    file_bytes: u64,
}

impl ManifestWriter {
    pub fn new(head: &Head, block_bytes: usize) -> Self {
        let mut writer = ManifestWriter {
            own: head.backup.clone(),
            block: Vec::new(),
            block_bytes: block_bytes.max(1),
            full: VecDeque::new(),
            named: Named::default(),
            files: 0,
            file_bytes: 0,
        };
        writer.line(&text(&Line::Head(head.clone())));
        writer.close_block();
        writer
    }

    /// Adds a file or a folder.
    pub fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        entry.check()?;
        if let Kind::File { size, extents, .. } = &entry.kind {
            self.files += 1;
            self.file_bytes += size;
            self.named.add(extents, &self.own)?;
        }
        let path = entry.path.clone();
        let line = text(&Line::Entry(entry));
        if line.len() > LINE_BYTES_MAX {
            return Err(inconsistent(format!("{path} is too large for one entry")));
        }
        self.line(&line);
        Ok(())
    }

    /// Returns the next block that is full.
    pub fn next_block(&mut self) -> Option<Vec<u8>> {
        self.full.pop_front()
    }

    /// Returns how many files have been entered, and their bytes.
    pub fn counted(&self) -> (u64, u64) {
        (self.files, self.file_bytes)
    }

    /// Ends the manifest; what the writer has counted (files, bytes, packs) is filled in. Returns the
    /// blocks that are left.
    pub fn finish(mut self, foot: &Foot) -> Vec<Vec<u8>> {
        self.close_block();
        let packs = self.named.packs.iter().map(|pack| pack.name(&self.own)).collect();
        let foot = Foot { files: self.files, bytes: self.file_bytes, packs, ..foot.clone() };
        self.line(&text(&Line::Foot(foot)));
        self.close_block();
        self.full.into()
    }

    fn line(&mut self, line: &[u8]) {
        let mut rest = line;
        while !rest.is_empty() {
            let room = self.block_bytes - self.block.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.block.extend_from_slice(now);
            rest = later;
            if self.block.len() == self.block_bytes {
                self.close_block();
            }
        }
    }

    fn close_block(&mut self) {
        if !self.block.is_empty() {
            self.full.push_back(std::mem::take(&mut self.block));
        }
    }
}

fn text(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("our documents have only text keys");
    text.push(b'\n');
    text
}
