//! The bytes of a WAL segment: the complete one, or what its parts give.

use bytes::Bytes;

use super::segments::{PartRange, SegmentState};
use super::{Error, ObjectName, Vault, WalName};
use crate::ids::NodeName;
use crate::timeline::TimelineId;

/// A WAL segment as far as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentBytes {
    /// From the segment's first byte; not longer than `valid`.
    pub bytes: Bytes,
    /// How many of its bytes are known. The whole segment, where it was finished.
    pub valid: u32,
    /// The segment was finished.
    pub complete: bool,
}

impl Vault {
    /// Reads a segment by its number: the complete one, else its parts as far as they join. `None`
    /// where nothing of it is stored. With too few zones to be sure that there is no complete one, the parts
    /// that can be read are given: whoever needs more than they hold sees it by `valid`.
    pub async fn segment_bytes(
        &self,
        node: &NodeName,
        timeline: TimelineId,
        number: u64,
        segment_bytes: u32,
    ) -> Result<Option<SegmentBytes>, Error> {
        let wal = WalName::new(timeline, number, segment_bytes);
        let whole = ObjectName::Segment { node: node.clone(), wal };
        match self.get(&whole).await {
            Ok(bytes) => self.whole(&whole, bytes, segment_bytes).map(Some),
            Err(error) if error.is_not_found() => {
                let parts = self.parts_of(node, wal).await?;
                self.join(node, wal, &parts, segment_bytes).await
            }
            Err(error @ Error::Zones(_)) => {
                let parts = self.parts_of(node, wal).await?;
                self.join(node, wal, &parts, segment_bytes).await?.map(Some).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Like [`Vault::segment_bytes`], where the catalogue already says what there is.
    pub async fn listed_segment_bytes(
        &self,
        node: &NodeName,
        wal: WalName,
        state: &SegmentState,
        segment_bytes: u32,
    ) -> Result<Option<SegmentBytes>, Error> {
        if state.complete {
            let whole = ObjectName::Segment { node: node.clone(), wal };
            let bytes = self.get(&whole).await?;
            return self.whole(&whole, bytes, segment_bytes).map(Some);
        }
        let joined = self.join(node, wal, &state.parts, segment_bytes).await?;
        if joined.as_ref().map_or(0, |joined| joined.valid) >= state.joined() {
            return Ok(joined);
        }
        // Finished since it was listed, and its parts deleted.
        self.segment_bytes(node, wal.timeline, wal.number(segment_bytes), segment_bytes).await
    }

    fn whole(&self, name: &ObjectName, bytes: Bytes, segment_bytes: u32) -> Result<SegmentBytes, Error> {
        if bytes.len() != segment_bytes as usize {
            return Err(Error::Inconsistent {
                object: self.path(name),
                problem: format!("a segment of {} bytes where segments have {segment_bytes}", bytes.len()),
            });
        }
        Ok(SegmentBytes { bytes, valid: segment_bytes, complete: true })
    }

    async fn parts_of(&self, node: &NodeName, wal: WalName) -> Result<Vec<PartRange>, Error> {
        let folder = super::layout::folder::wal(self.cluster(), node, wal.timeline);
        let listing = self.zones().list(&folder).await?;
        let parts = listing.objects.iter().filter_map(|listed| {
            match ObjectName::parse(self.cluster(), &listed.name)? {
                ObjectName::Part { wal: its, start, end, .. } if its == wal => Some(PartRange { start, end }),
                _ => None,
            }
        });
        Ok(parts.collect())
    }

    /// Joins parts from the segment's beginning. Where parts overlap their bytes must agree: they are
    /// of one server's log, which never changes what it wrote.
    async fn join(
        &self,
        node: &NodeName,
        wal: WalName,
        parts: &[PartRange],
        segment_bytes: u32,
    ) -> Result<Option<SegmentBytes>, Error> {
        let mut parts = parts.to_vec();
        parts.sort_by_key(|part| (part.start, std::cmp::Reverse(part.end)));
        let mut joined: Vec<u8> = Vec::new();
        for part in parts {
            let name = ObjectName::Part { node: node.clone(), wal, start: part.start, end: part.end };
            let wrong =
                |problem: &str| Error::Inconsistent { object: self.path(&name), problem: problem.to_owned() };
            if part.start as usize > joined.len() {
                break;
            }
            let bytes = match self.get(&name).await {
                Ok(bytes) => bytes,
                // Deleted since it was listed: then the complete segment exists, or a longer part.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            if part.end > segment_bytes || part.end.checked_sub(part.start) != u32::try_from(bytes.len()).ok()
            {
                return Err(wrong("a part whose length is not what its name says"));
            }
            let known = joined.len() - part.start as usize;
            let overlap = known.min(bytes.len());
            if joined.get(part.start as usize..part.start as usize + overlap) != bytes.get(..overlap) {
                return Err(wrong("a part that disagrees with an earlier one"));
            }
            joined.extend_from_slice(bytes.get(overlap..).unwrap_or_default());
        }
        if joined.is_empty() {
            return Ok(None);
        }
        let valid = u32::try_from(joined.len()).unwrap_or(segment_bytes);
        Ok(Some(SegmentBytes { bytes: joined.into(), valid, complete: valid == segment_bytes }))
    }
}
