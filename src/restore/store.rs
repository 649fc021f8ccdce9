//! What a restore reads, and nothing more of the vault than that; so that each step can be tried alone.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::Error;
use super::plan::{NodePlan, WalRange};
use super::spool::{Supply, Wanted};
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
        match self.get(&ObjectName::History { node: node.clone(), timeline }).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The WAL of one node, as far as its plan goes.
pub(super) struct NodeWal<S> {
    store: S,
    plan: NodePlan,
}

impl<S: Store> NodeWal<S> {
    pub(super) fn new(store: S, plan: NodePlan) -> Self {
        NodeWal { store, plan }
    }

    /// Returns how many bytes of one of the vault's segments the plan counts on; `None` where it does not name it.
    fn planned(&self, Segment { timeline, number }: Segment) -> Option<u64> {
        let full = u64::from(kept_segment_bytes(self.plan.segment_bytes));
        let fits = |r: &&WalRange| r.timeline == timeline && (r.first..=r.last).contains(&number);
        let range = self.plan.wal.iter().find(fits)?;
        Some(match number.cmp(&range.last) {
            std::cmp::Ordering::Less => full,
            // The next timeline left this one in its last segment, which may never have been finished.
            _ if range.timeline != self.plan.timeline => 0,
            _ => self.plan.wal_end.0.saturating_sub(number.saturating_mul(full)).min(full),
        })
    }

    /// Returns one of the server's segments: where the vault keeps it in pieces, put together along the plan's
    /// timelines. Before the plan's beginning recovery looks at the first page alone.
    async fn segment(&self, segment: Segment) -> Result<Option<Bytes>, Error> {
        let (full, kept) = (self.plan.segment_bytes, kept_segment_bytes(self.plan.segment_bytes));
        if full == kept {
            return self.kept(segment).await;
        }
        let first = segment.start(full).segment(kept);
        let last = segment.end(full).segment(kept) - 1;
        let reaches = |r: &&WalRange| r.timeline == segment.timeline && r.first <= last && r.last >= first;
        let Some(range) = self.plan.wal.iter().find(reaches) else {
            let begun = self.kept(Segment { number: first, ..segment }).await?;
            return Ok(begun.map(|bytes| padded(&bytes, full as usize)));
        };
        let mut whole = Vec::with_capacity(full as usize);
        for number in first..=last {
            let holds = |r: &&WalRange| r.timeline <= range.timeline && (r.first..=r.last).contains(&number);
            let piece = match self.plan.wal.iter().rev().find(holds) {
                Some(r) => self.kept(Segment { timeline: r.timeline, number }).await?,
                None if number == first => self.before(segment.timeline, number).await?,
                None => self.kept(Segment { number, ..segment }).await?,
            };
            whole.extend_from_slice(&piece.unwrap_or_default());
            whole.resize((number - first + 1) as usize * kept as usize, 0);
        }
        Ok(Some(whole.into()))
    }

    /// Returns a segment of the vault that lies before the plan's WAL, of this timeline or an ancestor.
    async fn before(&self, timeline: TimelineId, number: u64) -> Result<Option<Bytes>, Error> {
        for timeline in (1..=timeline.0).rev().map(TimelineId) {
            let kept = kept_segment_bytes(self.plan.segment_bytes);
            let found = self.store.segment(&self.plan.node, Segment { timeline, number }, kept).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Returns one of the vault's segments, whole.
    async fn kept(&self, segment: Segment) -> Result<Option<Bytes>, Error> {
        let (plan, kept) = (&self.plan, kept_segment_bytes(self.plan.segment_bytes));
        let Some(needed) = self.planned(segment) else { return self.beyond(segment).await };
        let found = self.store.segment(&plan.node, segment, kept).await?;
        match found.filter(|bytes| bytes.len() as u64 >= needed) {
            Some(bytes) => Ok(Some(whole(bytes, segment, plan))),
            None => Err(Error::MissingWal { node: plan.node.clone(), segment: segment.file_name(kept) }),
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
        match self.store.segment(&plan.node, segment, kept_segment_bytes(plan.segment_bytes)).await {
            Ok(found) => Ok(found.map(|bytes| whole(bytes, segment, plan))),
            Err(error) => {
                tracing::debug!(node = %plan.node, %error, "the segment after the planned ones is not read");
                Ok(None)
            }
        }
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

/// Fills a segment of the vault up with zeros: at the end of what is archived, or where the plan's WAL ends.
fn whole(bytes: Bytes, segment: Segment, plan: &NodePlan) -> Bytes {
    let kept = kept_segment_bytes(plan.segment_bytes);
    let (full, start) = (kept as usize, segment.start(kept).0);
    let mut valid = bytes.len().min(full);
    if plan.stop_before.is_none() {
        valid = valid.min(usize::try_from(plan.wal_end.0.saturating_sub(start)).unwrap_or(usize::MAX));
    }
    if valid == full && bytes.len() == full {
        return bytes;
    }
    padded(bytes.get(..valid).unwrap_or_default(), full)
}

fn padded(bytes: &[u8], length: usize) -> Bytes {
    let mut padded = Vec::with_capacity(length);
    padded.extend_from_slice(bytes);
    padded.resize(length, 0);
    padded.into()
}

impl<S: Store> Supply for NodeWal<S> {
    async fn file(&self, wanted: Wanted) -> Result<Option<Bytes>, Error> {
        match wanted {
            Wanted::Segment(segment) => self.segment(segment).await,
            Wanted::History(timeline) => self.history(timeline).await,
        }
    }
}
