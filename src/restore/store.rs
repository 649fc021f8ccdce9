//! What a restore reads, and nothing more of the vault than that; so that each step can be tried alone.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::Error;
use super::plan::{NodePlan, WalRange};
use super::spool::{Pieces, Supply, Wanted};
use crate::ids::{BackupId, NodeName};
use crate::manifest::backup::{Ends, Pack};
use crate::seal::ChunkPlace;
use crate::timeline::TimelineId;
use crate::vault::{ObjectName, Vault, kept_segment_bytes};
use crate::wal::segment::Segment;

/// Where everything comes from. Whatever it returns is authenticated.
pub trait Store: Clone + Send + Sync + 'static {
    /// Returns what both ends of a manifest say.
    fn ends(&self, node: &NodeName, backup: &BackupId) -> impl Future<Output = Result<Ends, Error>> + Send;

    /// Returns a manifest, in blocks of any length.
    fn manifest(
        &self,
        node: &NodeName,
        backup: &BackupId,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes, Error>>, Error>> + Send;

    /// Gives `take` the plain bytes of some chunks of a pack, with their numbers in `places`, on a thread
    /// that may block; some may come twice. None of them is the pack's last; they rise.
    fn chunks(
        &self,
        node: &NodeName,
        pack: &Pack,
        places: Arc<[ChunkPlace]>,
        take: impl Fn(usize, &[u8]) -> Result<(), Error> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the bytes of a segment that are archived, from its start; `None` where none are.
    fn segment(
        &self,
        node: &NodeName,
        segment: Segment,
        segment_bytes: u32,
    ) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;

    /// Returns a history file; `None` where there is none.
    fn history(
        &self,
        node: &NodeName,
        timeline: TimelineId,
    ) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
}

impl Store for Vault {
    async fn ends(&self, node: &NodeName, backup: &BackupId) -> Result<Ends, Error> {
        Ok(self.backup_ends(node, backup).await?)
    }

    async fn manifest(
        &self,
        node: &NodeName,
        backup: &BackupId,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let blocks = self.manifest_blocks(node, backup).await?;
        let blocks = futures::stream::try_unfold(blocks, |mut blocks| async move {
            Ok(blocks.next().await?.map(|block| (block, blocks)))
        });
        Ok(blocks.boxed())
    }

    async fn chunks(
        &self,
        node: &NodeName,
        pack: &Pack,
        places: Arc<[ChunkPlace]>,
        take: impl Fn(usize, &[u8]) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let Pack { backup, number } = pack.clone();
        let name = ObjectName::Pack { node: node.clone(), backup, number };
        match self.each_chunk(&name, places, take).await {
            Ok(taken) => taken,
            Err(error) if error.is_not_found() => Err(Error::Backup {
                node: node.clone(),
                backup: pack.backup.to_string(),
                problem: format!("pack {number} is in no zone any more; was it expired meanwhile?"),
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn segment(
        &self,
        node: &NodeName,
        segment: Segment,
        segment_bytes: u32,
    ) -> Result<Option<Bytes>, Error> {
        let Segment { timeline, number } = segment;
        let found = self.segment_bytes(node, timeline, number, segment_bytes).await?;
        Ok(found.map(|found| found.bytes))
    }

    async fn history(&self, node: &NodeName, timeline: TimelineId) -> Result<Option<Bytes>, Error> {
        Ok(self.find(&ObjectName::History { node: node.clone(), timeline }).await?)
    }
}

/// The WAL of one node, as far as its plan goes.
#[derive(Clone)]
pub(super) struct NodeWal<S> {
    store: S,
    plan: Arc<NodePlan>,
    /// Bytes in the vault's segments.
    kept: u32,
}

impl<S: Store> NodeWal<S> {
    pub(super) fn new(store: S, plan: NodePlan) -> Self {
        NodeWal { store, kept: kept_segment_bytes(plan.segment_bytes), plan: Arc::new(plan) }
    }

    /// Returns how many bytes of one of the vault's segments the plan counts on; `None` where it does not name it.
    fn planned(&self, Segment { timeline, number }: Segment) -> Option<u64> {
        let full = u64::from(self.kept);
        let fits = |r: &&WalRange| r.timeline == timeline && (r.first..=r.last).contains(&number);
        let range = self.plan.wal.iter().find(fits)?;
        Some(match number.cmp(&range.last) {
            std::cmp::Ordering::Less => full,
            // The next timeline left this one in its last segment, which may never have been finished.
            _ if range.timeline != self.plan.timeline => 0,
            _ => self.plan.wal_end.0.saturating_sub(number.saturating_mul(full)).min(full),
        })
    }

    /// Returns one of the server's segments: where the vault keeps it in pieces, those of the plan's timelines.
    /// Before the plan's beginning recovery looks at the first page alone.
    async fn segment(&self, segment: Segment) -> Result<Option<Pieces>, Error> {
        let full = self.plan.segment_bytes;
        if full == self.kept {
            return Ok(self.kept(segment).await?.map(one));
        }
        let first = segment.start(full).segment(self.kept);
        let last = segment.end(full).segment(self.kept) - 1;
        let reaches = |r: &WalRange| r.timeline == segment.timeline && r.first <= last && r.last >= first;
        if !self.plan.wal.iter().any(reaches) {
            return Ok(self.kept(Segment { number: first, ..segment }).await?.map(one));
        }
        let wal = self.clone();
        let pieces = futures::stream::iter(first..=last).then(move |number| {
            let wal = wal.clone();
            async move {
                let bytes = wal.piece(segment.timeline, number, number == first).await?;
                Ok(((number - first) * u64::from(wal.kept), bytes.unwrap_or_default()))
            }
        });
        Ok(Some(pieces.boxed()))
    }

    /// Returns the vault's segment that holds a part of a longer one on this timeline.
    async fn piece(&self, timeline: TimelineId, number: u64, is_first: bool) -> Result<Option<Bytes>, Error> {
        let holds = |r: &&WalRange| r.timeline <= timeline && (r.first..=r.last).contains(&number);
        match self.plan.wal.iter().rev().find(holds) {
            Some(range) => self.kept(Segment { timeline: range.timeline, number }).await,
            None if is_first => self.before(timeline, number).await,
            None => self.kept(Segment { timeline, number }).await,
        }
    }

    /// Returns a segment of the vault that lies before the plan's WAL, of this timeline or an ancestor.
    async fn before(&self, timeline: TimelineId, number: u64) -> Result<Option<Bytes>, Error> {
        for timeline in (1..=timeline.0).rev().map(TimelineId) {
            let found = self.store.segment(&self.plan.node, Segment { timeline, number }, self.kept).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Returns one of the vault's segments, up to where the plan's WAL ends.
    async fn kept(&self, segment: Segment) -> Result<Option<Bytes>, Error> {
        let Some(needed) = self.planned(segment) else { return self.beyond(segment).await };
        let found = self.store.segment(&self.plan.node, segment, self.kept).await?;
        match found.filter(|bytes| bytes.len() as u64 >= needed) {
            Some(bytes) => Ok(Some(self.ended(bytes, segment))),
            None => {
                let (node, segment) = (self.plan.node.clone(), segment.file_name(self.kept));
                Err(Error::MissingWal { node, segment })
            }
        }
    }

    /// Returns a segment that the plan does not name: the one behind its last, where the record at the stop
    /// may end. Without a stop recovery takes all it gets, and what was archived since is not for it.
    async fn beyond(&self, segment: Segment) -> Result<Option<Bytes>, Error> {
        let plan = &self.plan;
        let last = plan.wal.last().map(|r| (r.timeline, r.last.saturating_add(1)));
        if plan.stop_before.is_none() || last != Some((segment.timeline, segment.number)) {
            return Ok(None);
        }
        match self.store.segment(&plan.node, segment, self.kept).await {
            Ok(found) => Ok(found.map(|bytes| self.ended(bytes, segment))),
            Err(error) => {
                tracing::debug!(node = %plan.node, %error, "the segment after the planned ones is not read");
                Ok(None)
            }
        }
    }

    /// Leaves out what was archived behind the end of the plan's WAL, where that is its end.
    fn ended(&self, mut bytes: Bytes, segment: Segment) -> Bytes {
        if self.plan.stop_before.is_none() {
            let left = self.plan.wal_end.0.saturating_sub(segment.start(self.kept).0);
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        bytes
    }

    /// Returns a history file of the plan's timeline or its ancestors. Newer ones are of no concern: the
    /// new cluster numbers its timelines from here.
    async fn history(&self, timeline: TimelineId) -> Result<Option<Bytes>, Error> {
        if timeline > self.plan.timeline {
            return Ok(None);
        }
        self.store.history(&self.plan.node, timeline).await
    }
}

/// A file that is one piece.
fn one(bytes: Bytes) -> Pieces {
    futures::stream::once(async { Ok((0, bytes)) }).boxed()
}

impl<S: Store> Supply for NodeWal<S> {
    async fn file(&self, wanted: Wanted) -> Result<Option<Pieces>, Error> {
        match wanted {
            Wanted::Segment(segment) => self.segment(segment).await,
            Wanted::History(timeline) => Ok(self.history(timeline).await?.map(one)),
        }
    }
}
