//! Manifests of backups: sealed block by block, and read by their ends alone where that is enough.

use std::collections::BTreeSet;

use bytes::Bytes;
use object_store::GetRange;

use super::objects::{Stored, off_thread};
use super::{Error, ObjectName, Vault};
use crate::ids::{BackupId, NodeName};
use crate::manifest;
use crate::manifest::backup::{Ends, Entry, Foot, Head, Line, ManifestReader, ManifestWriter, read_line};
use crate::seal::{self, CHUNK_BYTES, HEADER_BYTES, Opener, Sealer};

/// The head of a manifest is in its first bytes, the foot in its last: most are far shorter.
const ENDS_BYTES: u64 = 64 << 10;

impl Vault {
    /// Begins a manifest: the backup exists when it is finished. `level` is zstd's.
    pub fn manifest(&self, head: &Head, level: i32) -> Result<ManifestSealer, Error> {
        let name = ObjectName::Manifest { node: head.node.clone(), backup: head.backup.clone() };
        self.must_write(&self.path(&name))?;
        let sealer = self.sealer(&name, level)?;
        let mut manifest = ManifestSealer {
            vault: self.clone(),
            name,
            writer: ManifestWriter::new(head, CHUNK_BYTES),
            sealer,
        };
        manifest.seal_full()?;
        Ok(manifest)
    }

    /// Returns the newest finished backup of a node, by the names of objects alone.
    pub async fn newest_backup(&self, node: &NodeName) -> Result<Option<BackupId>, Error> {
        let listing = self.list(&format!("nodes/{node}/backups")).await?;
        let (mut finished, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for name in listing.objects.iter().filter_map(|o| ObjectName::parse(self.cluster(), &o.name)) {
            match name {
                ObjectName::Manifest { backup, .. } => finished.insert(backup),
                ObjectName::Gone { backup, .. } => gone.insert(backup),
                _ => false,
            };
        }
        Ok(finished.into_iter().rev().find(|backup| !gone.contains(backup)))
    }

    /// Reads a manifest's head and foot, without its list of files.
    pub async fn backup_ends(&self, node: &NodeName, backup: &BackupId) -> Result<Ends, Error> {
        let name = ObjectName::Manifest { node: node.clone(), backup: backup.clone() };
        let path = self.path(&name);
        let opener = self.opener(&path).await?;
        let mut chunks = self.end_chunks(&path, opener.clone(), ENDS_BYTES, ENDS_BYTES).await?;
        if let EndChunks::Need(head, tail) = chunks {
            chunks = self.end_chunks(&path, opener, head, tail).await?;
        }
        if let EndChunks::Read(head, foot) = chunks
            && let (Ok(Line::Head(head)), Ok(Line::Foot(foot))) = (line(&head), line(&foot))
        {
            return Ok(Ends { head, foot });
        }
        // A foot that does not fit one chunk, or something new: the reader of the whole says what.
        let bytes = self.get(&name).await?;
        off_thread(move || {
            ManifestReader::ends(&bytes).map_err(|source| Error::Document { object: path, source })
        })
        .await
    }

    /// Reads the first and the last chunk, where they lie within so many bytes of the ends.
    async fn end_chunks(
        &self,
        path: &str,
        opener: std::sync::Arc<Opener>,
        head: u64,
        tail: u64,
    ) -> Result<EndChunks, Error> {
        let first = {
            let opener = opener.clone();
            let range = GetRange::Bounded(0..head.saturating_add(HEADER_BYTES as u64));
            self.first_good(path, Some(range), move |_, bytes| {
                let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
                let length =
                    body.split_first_chunk::<4>().map_or(4, |(p, _)| 4 + u32::from_le_bytes(*p) as usize);
                let Some(sealed) = body.get(..length) else { return Ok(Err(length as u64)) };
                let mut plain = Vec::new();
                opener.chunk(0, false, sealed, &mut plain)?;
                Ok(Ok(plain))
            })
            .await?
        };
        let last = self
            .first_good(path, Some(GetRange::Suffix(tail)), move |_, bytes| match seal::last_chunk(bytes) {
                Err(needed) => Ok(Err(needed as u64)),
                Ok((index, sealed)) => {
                    let mut plain = Vec::new();
                    opener.chunk(index, true, sealed, &mut plain)?;
                    Ok(Ok(plain))
                }
            })
            .await?;
        Ok(match (first, last) {
            (Ok(first), Ok(last)) => EndChunks::Read(first, last),
            (first, last) => {
                // No chunk is longer; a greater number is damage, and is found by reading it all.
                let bounded = |needed: u64| needed.min(2 * CHUNK_BYTES as u64);
                EndChunks::Need(first.err().map_or(head, bounded), last.err().map_or(tail, bounded))
            }
        })
    }
}

fn line(block: &[u8]) -> Result<Line, manifest::Error> {
    read_line(block.strip_suffix(b"\n").unwrap_or(block))
}

enum EndChunks {
    Read(Vec<u8>, Vec<u8>),
    /// So many bytes from each end would do.
    Need(u64, u64),
}

/// A manifest that is being written.
pub struct ManifestSealer {
    vault: Vault,
    name: ObjectName,
    writer: ManifestWriter,
    sealer: Sealer,
}

impl ManifestSealer {
    /// Adds an entry. Compresses now and then: not for an async thread.
    pub fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let object = || self.vault.path(&self.name);
        self.writer.entry(entry).map_err(|source| Error::Document { object: object(), source })?;
        self.seal_full()
    }

    fn seal_full(&mut self) -> Result<(), Error> {
        while let Some(block) = self.writer.next_block() {
            self.sealer.chunk(&block, false)?;
        }
        Ok(())
    }

    /// Returns how many files have been entered, and their bytes.
    pub fn counted(&self) -> (u64, u64) {
        self.writer.counted()
    }

    /// Ends the manifest and stores it: from now on the backup exists.
    pub async fn finish(self, foot: &Foot) -> Result<Stored, Error> {
        let (vault, name) = (self.vault.clone(), self.name.clone());
        vault.put_sealed(&name, self.seal(foot)?).await
    }

    /// Ends the manifest; the backup exists once these bytes are stored under its name.
    pub fn seal(mut self, foot: &Foot) -> Result<Bytes, Error> {
        let mut blocks = self.writer.finish(foot).into_iter().peekable();
        while let Some(block) = blocks.next() {
            self.sealer.chunk(&block, blocks.peek().is_none())?;
        }
        Ok(self.sealer.finish()?)
    }
}
