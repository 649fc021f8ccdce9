//! Manifests of backups: sealed block by block, and read by their ends alone where that is enough.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

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
/// What is read of a manifest at once: more than any chunk takes, sealed.
const WINDOW_BYTES: u64 = 2 * CHUNK_BYTES as u64;

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
        opener: Arc<Opener>,
        head: u64,
        tail: u64,
    ) -> Result<EndChunks, Error> {
        let first = {
            let opener = opener.clone();
            let range = GetRange::Bounded(0..head.saturating_add(HEADER_BYTES as u64));
            self.first_good(path, Some(range), move |_, bytes| {
                let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
                let length = sealed_length(body);
                let Some(sealed) = body.get(..length) else { return Ok(Err(length as u64)) };
                let mut plain = Vec::new();
                opener.chunk(0, false, sealed, &mut plain)?;
                Ok(Ok(plain))
            })
            .await?
        };
        let last = self.last_chunk(path, opener, tail).await?;
        Ok(match (first, last) {
            (Ok(first), Ok((_, last))) => EndChunks::Read(first, last),
            (first, last) => {
                // No chunk is longer; a greater number is damage, and is found by reading it all.
                let bounded = |needed: u64| needed.min(WINDOW_BYTES);
                EndChunks::Need(first.err().map_or(head, bounded), last.err().map_or(tail, bounded))
            }
        })
    }

    /// Reads the last chunk, and says its index; or how many bytes from the end it takes.
    async fn last_chunk(
        &self,
        path: &str,
        opener: Arc<Opener>,
        tail: u64,
    ) -> Result<Result<(u32, Vec<u8>), u64>, Error> {
        self.first_good(path, Some(GetRange::Suffix(tail)), move |_, bytes| match seal::last_chunk(bytes) {
            Err(needed) => Ok(Err(needed as u64)),
            Ok((index, sealed)) => {
                let mut plain = Vec::new();
                opener.chunk(index, true, sealed, &mut plain)?;
                Ok(Ok((index, plain)))
            }
        })
        .await
    }

    /// Begins to read a manifest from its start, block by block.
    pub async fn manifest_blocks(&self, node: &NodeName, backup: &BackupId) -> Result<ManifestBlocks, Error> {
        let name = ObjectName::Manifest { node: node.clone(), backup: backup.clone() };
        let path = self.path(&name);
        let opener = self.opener(&path).await?;
        let mut last = self.last_chunk(&path, opener.clone(), ENDS_BYTES).await?;
        if last.is_err() {
            last = self.last_chunk(&path, opener.clone(), WINDOW_BYTES).await?;
        }
        let Ok((last, _)) = last else {
            let problem = "its last chunk is longer than a chunk may be";
            return Err(seal::Error::Damaged { name: path, problem }.into());
        };
        let (at, ready) = (HEADER_BYTES as u64, VecDeque::new());
        Ok(ManifestBlocks { vault: self.clone(), path, opener, at, next: 0, last, ready })
    }
}

/// The plain blocks of a manifest in their order; a few are in memory, however long it is.
pub struct ManifestBlocks {
    vault: Vault,
    path: String,
    opener: Arc<Opener>,
    /// Where the next chunk that was not read lies, and its index.
    at: u64,
    next: u32,
    /// Index of the last chunk.
    last: u32,
    ready: VecDeque<Bytes>,
}

impl ManifestBlocks {
    /// Returns the next block; `None` behind the last one, which is then known to be that.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ready.is_empty() && self.next <= self.last {
            self.read().await?;
        }
        Ok(self.ready.pop_front())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let (opener, first, last) = (self.opener.clone(), self.next, self.last);
        let range = GetRange::Bounded(self.at..self.at.saturating_add(WINDOW_BYTES));
        let read = self.vault.first_good(&self.path, Some(range), move |_, bytes| {
            let (mut rest, mut blocks) = (bytes.as_ref(), Vec::new());
            for index in first..=last {
                let Some((sealed, behind)) = rest.split_at_checked(sealed_length(rest)) else { break };
                let mut plain = Vec::new();
                opener.chunk(index, index == last, sealed, &mut plain)?;
                blocks.push(Bytes::from(plain));
                rest = behind;
            }
            if blocks.is_empty() {
                let problem = "it ends before its last chunk";
                return Err(seal::Error::Damaged { name: opener.name().to_owned(), problem });
            }
            Ok((blocks, bytes.len() - rest.len()))
        });
        let (blocks, length) = read.await?;
        self.at += length as u64;
        self.next = self.next.saturating_add(u32::try_from(blocks.len()).unwrap_or(u32::MAX));
        self.ready.extend(blocks);
        Ok(())
    }
}

/// Returns how long the chunk at the start of these bytes is, with its length prefix.
fn sealed_length(bytes: &[u8]) -> usize {
    const PREFIX_BYTES: usize = 4;
    let prefix = bytes.first_chunk::<PREFIX_BYTES>();
    prefix.map_or(PREFIX_BYTES, |prefix| PREFIX_BYTES.saturating_add(u32::from_le_bytes(*prefix) as usize))
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
