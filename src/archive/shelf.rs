//! One node's WAL in the vault: all that the archiver asks of it.
//!
//! Writing waits for the zones as long as it takes: until a quorum answers, or until asked to give up.
//! Only other bytes under the same name are an error at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::branch::Place;
use super::decode::Indexer;
use super::intake::Part;
use super::sealers::{Sealers, Sealing};
use super::status::{Mishap, Status};
use super::{Error, Gap};
use crate::class::Classified;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::manifest;
use crate::manifest::wal_index::WalIndex;
use crate::retry::Backoff;
use crate::timeline::TimelineId;
use crate::vault::{ObjectName, Vault, WalName};
use crate::wal::event::Open;
use crate::wal::index::IndexBuilder;

#[derive(Clone)]
pub(super) struct Shelf {
    pub(super) vault: Vault,
    pub(super) node: NodeName,
    pub(super) segment_bytes: u32,
    pub(super) server_segment_bytes: u32,
    /// zstd level.
    pub(super) level: i32,
    pub(super) sealers: Sealers,
    pub(super) status: watch::Sender<Status>,
    /// Ends waiting for zones that do not answer.
    pub(super) give_up: CancellationToken,
}

/// What is kept of one timeline, by segment number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whole segments that a quorum holds.
    pub(super) complete: BTreeSet<u64>,
    pub(super) indexed: BTreeSet<u64>,
    pub(super) parts: BTreeMap<u64, Vec<ObjectName>>,
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Shelf {
    fn builder(&self, timeline: TimelineId, start: Lsn, open: Open) -> IndexBuilder {
        IndexBuilder::new(timeline, self.server_segment_bytes, start, open).every(self.segment_bytes)
    }

    /// Begins to decode at a segment's first byte with what was open there. `reached` is where the last record before
    /// ends: segments before that have none, and their indexes come along.
    pub(super) fn indexer(
        &self,
        timeline: TimelineId,
        start: Lsn,
        open: Open,
        reached: Lsn,
    ) -> (Indexer, Vec<WalIndex>) {
        let (mut from, mut empty) = (start, Vec::new());
        while from.plus(self.segment_bytes.into()) <= reached {
            let index = self.builder(timeline, from, open.clone()).tail();
            empty.push(WalIndex { end: reached, ..index });
            from = from.plus(self.segment_bytes.into());
        }
        (Indexer::new(self.builder(timeline, from, open), start, from), empty)
    }

    fn wal(&self, timeline: TimelineId, start: Lsn) -> WalName {
        WalName::new(timeline, start.segment(self.segment_bytes), self.segment_bytes)
    }

    /// Lists what is kept. `released` is where the server was told that it may forget what is before:
    /// that was on a quorum, even if too few zones list it now.
    pub(super) async fn kept(&self, released: Lsn) -> Result<BTreeMap<TimelineId, Kept>, Error> {
        let listing = self.vault.list(&format!("nodes/{}/wal", self.node)).await?;
        if !listing.complete {
            return Err(Error::Unsure { silent: listing.silent.iter().map(ToString::to_string).collect() });
        }
        let quorum = self.vault.zones().write_quorum();
        let mut all: BTreeMap<TimelineId, Kept> = BTreeMap::new();
        for object in listing.objects {
            let Some(name) = ObjectName::parse(self.vault.cluster(), &object.name) else { continue };
            match &name {
                ObjectName::Segment { wal, .. } => {
                    let number = wal.number(self.segment_bytes);
                    let end = (number + 1).saturating_mul(u64::from(self.segment_bytes));
                    if object.zones.count() >= quorum || Lsn(end) <= released {
                        all.entry(wal.timeline).or_default().complete.insert(number);
                    }
                }
                ObjectName::Index { wal, .. } => {
                    all.entry(wal.timeline).or_default().indexed.insert(wal.number(self.segment_bytes));
                }
                ObjectName::Part { wal, .. } => {
                    let parts = &mut all.entry(wal.timeline).or_default().parts;
                    parts.entry(wal.number(self.segment_bytes)).or_default().push(name);
                }
                _ => {}
            }
        }
        Ok(all)
    }

    pub(super) async fn index(&self, timeline: TimelineId, start: Lsn) -> Result<WalIndex, Error> {
        let wal = self.wal(timeline, start);
        let bytes = self.vault.get(&ObjectName::Index { node: self.node.clone(), wal }).await?;
        Ok(manifest::from_bytes(&bytes)?)
    }

    pub(super) async fn segment(&self, timeline: TimelineId, start: Lsn) -> Result<Bytes, Error> {
        Ok(self.vault.get(&self.segment_name(timeline, start)).await?)
    }

    pub(super) fn segment_name(&self, timeline: TimelineId, start: Lsn) -> ObjectName {
        ObjectName::Segment { node: self.node.clone(), wal: self.wal(timeline, start) }
    }

    /// Begins to seal an object chunk by chunk.
    pub(super) fn sealing(&self, name: &ObjectName) -> Result<Sealing, Error> {
        Ok(Sealing::new(self.vault.object_key(name, self.level)?))
    }

    /// Returns the name that [`Shelf::put_part`] gives.
    pub(super) fn part(&self, timeline: TimelineId, part: &Part) -> ObjectName {
        let start = part.start.segment_offset(self.segment_bytes);
        let end = start + part.bytes.len() as u32;
        ObjectName::Part { node: self.node.clone(), wal: self.wal(timeline, part.segment), start, end }
    }

    pub(super) async fn put_part(&self, name: &ObjectName, bytes: Bytes) -> Result<(), Error> {
        self.put(name, bytes).await
    }

    /// Keeps an index. One that differs from an older one of the same segment gives way: both are made
    /// from the same bytes, the older one perhaps with better knowledge of what came before.
    pub(super) async fn put_index(&self, index: WalIndex) -> Result<(), Error> {
        let wal = self.wal(index.timeline, index.start);
        let name = ObjectName::Index { node: self.node.clone(), wal };
        match self.put(&name, manifest::to_bytes(&index).into()).await {
            Err(Error::Vault(error)) if error.is_clash() => {
                tracing::warn!(%error, "kept the older index");
                Ok(())
            }
            done => done,
        }
    }

    pub(super) async fn put_history(&self, timeline: TimelineId, text: String) -> Result<(), Error> {
        self.put(&ObjectName::History { node: self.node.clone(), timeline }, text.into()).await
    }

    async fn put(&self, name: &ObjectName, plain: Bytes) -> Result<(), Error> {
        let key = self.vault.object_key(name, self.level)?;
        self.put_sealed(name, self.sealers.whole(key, &plain).await?).await
    }

    /// Keeps what was sealed for this name. Each try sends the same bytes.
    pub(super) async fn put_sealed(&self, name: &ObjectName, sealed: Bytes) -> Result<(), Error> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let error = match self.vault.put_contents(name, sealed.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_clash() => return Err(error.into()),
                Err(error) => error,
            };
            let why = Mishap::now(&error);
            tracing::warn!(
                object = self.vault.path(name),
                error = why.text,
                hint = error.hint(),
                "not held yet"
            );
            self.status.send_modify(|status| status.last_error = Some(why));
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                () = self.give_up.cancelled() => return Err(Error::Stopped),
            }
        }
    }

    /// Tells of WAL from `from` to `to` that was lost.
    pub(super) fn report_gap(&self, from: Place, to: Lsn) {
        let gap = Gap { timeline: from.timeline, from: from.at, to };
        tracing::error!("{gap}");
        self.status.send_modify(|status| {
            status.last_error = Some(Mishap::now(&gap));
            status.gaps.push(gap);
        });
    }

    /// Deletes parts that a whole segment or a longer part makes needless. What fails is tried again
    /// by the next start.
    pub(super) async fn sweep(&self, parts: Vec<ObjectName>) {
        for name in parts {
            if let Err(error) = self.vault.delete(&name).await {
                tracing::debug!(%error, object = self.vault.path(&name), "a needless part is left for later");
            }
        }
    }
}
