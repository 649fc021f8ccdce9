//! One file of a node's WAL out of the vault, for a server whose `restore_command` asks for it.
//!
//! vault -> opened and checked -> a file beside the target -> synced -> renamed
//!
//! A segment that was not finished is filled up with zeros, as the server itself does. In memory is one
//! of the vault's segments, however long the server's are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use crate::clock;
use crate::folio;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::manifest;
use crate::manifest::node::NodeDoc;
use crate::timeline::{History, TimelineId};
use crate::vault::{ObjectName, SegmentBytes, Vault, kept_segment_bytes};
use crate::wal::segment::{Segment, parse_history_file_name};

/// Writes the file that the server calls `name` to `target`; returns whether there is one.
pub async fn get(vault: &Vault, node: &NodeName, name: &str, target: &Path) -> Result<bool, Error> {
    if let Some(timeline) = parse_history_file_name(name) {
        let Some(text) = vault.find(&ObjectName::History { node: node.clone(), timeline }).await? else {
            return Ok(false);
        };
        let mut file = Target::create(target)?;
        file.add(text).await?;
        return file.finish().await.map(|()| true);
    }
    let doc = vault.get(&ObjectName::Node { node: node.clone() }).await?;
    let doc: NodeDoc = manifest::from_bytes(&doc)?;
    // Other files we never have.
    let Some(segment) = Segment::parse(name, doc.segment_bytes) else { return Ok(false) };
    Source { vault, node, own: doc.segment_bytes }.segment(segment, target).await
}

struct Source<'a> {
    vault: &'a Vault,
    node: &'a NodeName,
    /// How long the server's segments are.
    own: u32,
}

impl Source<'_> {
    async fn segment(&self, segment: Segment, target: &Path) -> Result<bool, Error> {
        let kept = kept_segment_bytes(self.own);
        let first = segment.start(self.own).segment(kept);
        let pieces = first..segment.end(self.own).segment(kept);
        let (mut file, mut ended) = (None, false);
        let mut own = false;
        for number in pieces {
            let piece = self.piece(segment.timeline, number).await?;
            let Some((timeline, piece)) = piece else {
                ended = true;
                continue;
            };
            if ended {
                return Err(Error::Hole { name: segment.file_name(self.own) });
            }
            own |= timeline == segment.timeline;
            ended = !piece.complete;
            let file = match &mut file {
                Some(file) => file,
                None => file.insert(Target::create(target)?),
            };
            let padding = u64::from(kept) - piece.bytes.len() as u64;
            file.add(piece.bytes).await?;
            file.skip(padding);
        }
        // What is wholly an ancestor's is asked for under the ancestor's name.
        let Some(file) = file.filter(|_| own) else { return Ok(false) };
        file.lengthen(self.own).await?;
        file.finish().await.map(|()| true)
    }

    /// Returns one of the vault's segments of a timeline, or of the ancestor that wrote it within the same file.
    async fn piece(
        &self,
        timeline: TimelineId,
        number: u64,
    ) -> Result<Option<(TimelineId, SegmentBytes)>, Error> {
        let kept = kept_segment_bytes(self.own);
        if let Some(bytes) = self.vault.segment_bytes(self.node, timeline, number, kept).await? {
            return Ok(Some((timeline, bytes)));
        }
        if kept == self.own || timeline.0 <= 1 {
            return Ok(None);
        }
        let name = ObjectName::History { node: self.node.clone(), timeline };
        let Some(text) = self.vault.find(&name).await? else { return Ok(None) };
        let history = History::parse(timeline, &String::from_utf8_lossy(&text))?;
        let at = Lsn(number.saturating_mul(kept.into()));
        let ancestor = history.timeline_at(at);
        if ancestor == timeline {
            return Ok(None);
        }
        let bytes = self.vault.segment_bytes(self.node, ancestor, number, kept).await?;
        Ok(bytes.map(|bytes| (ancestor, bytes)))
    }
}

/// A file that gets its name when it is whole; until then it is gone when dropped.
struct Target {
    file: Arc<File>,
    /// Where the next bytes go.
    at: u64,
    temporary: PathBuf,
    path: PathBuf,
}

impl Target {
    fn create(path: &Path) -> Result<Self, Error> {
        let chance = u64::from_le_bytes(clock::random());
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".pitrus-{chance:016x}"));
        let temporary = PathBuf::from(temporary);
        let file =
            File::create_new(&temporary).map_err(|source| Error::File { path: temporary.clone(), source })?;
        Ok(Target { file: Arc::new(file), at: 0, temporary, path: path.to_owned() })
    }

    async fn with(
        &self,
        work: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let (file, path) = (Arc::clone(&self.file), self.temporary.clone());
        let done = tokio::task::spawn_blocking(move || work(&file));
        done.await.map_err(|_| Error::Thread)?.map_err(|source| Error::File { path, source })
    }

    async fn add(&mut self, bytes: Bytes) -> Result<(), Error> {
        let at = self.at;
        self.at += bytes.len() as u64;
        self.with(move |file| folio::write_all_at(file, &bytes, at)).await
    }

    fn skip(&mut self, bytes: u64) {
        self.at += bytes;
    }

    /// What was skipped reads as zeros.
    async fn lengthen(&self, to: u32) -> Result<(), Error> {
        self.with(move |file| file.set_len(to.into())).await
    }

    async fn finish(self) -> Result<(), Error> {
        self.with(|file| file.sync_all()).await?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|source| Error::File { path: self.path.clone(), source })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Gone already where it has its name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
