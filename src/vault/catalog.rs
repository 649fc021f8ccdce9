//! What the vault holds, from lists of names: few objects are opened, and no file list of a backup.
//!
//! [`Catalog::near`] opens only what matters around one moment: a number of objects that does not grow with the
//! archive.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use super::layout::{folder, kept_segment_bytes};
use super::segments::{PartRange, Piece, Segments};
use super::{Error, ObjectName, Vault, WalName};
use crate::flow;
use crate::ids::{BackupId, NodeName, ZoneName};
use crate::manifest::backup::Ends;
use crate::manifest::node::NodeDoc;
use crate::manifest::topology::TopologyDoc;
use crate::manifest::{self, Document};
use crate::moment::Moment;
use crate::timeline::{History, TimelineId};
use crate::zones::Listing;

/// Everything that is stored of a cluster.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub nodes: BTreeMap<NodeName, NodeCatalog>,
    /// Oldest first.
    pub topologies: Vec<TopologyDoc>,
    /// Shapes of other moments than that of [`Catalog::near`].
    pub unopened_topologies: usize,
    /// Zones that did not answer; the others were enough to read from, and may not have all.
    pub silent: BTreeSet<ZoneName>,
}

/// Everything that is stored of a node.
#[derive(Clone, Debug)]
pub struct NodeCatalog {
    pub doc: NodeDoc,
    /// What their manifests begin and end with; oldest first.
    pub backups: Vec<Ends>,
    /// Backups far from the moment of [`Catalog::near`], whose manifests were not opened.
    pub unopened: usize,
    /// Manifests that cannot be read in any zone, and why.
    pub bad_backups: Vec<(BackupId, String)>,
    pub segments: Segments,
    pub histories: BTreeMap<TimelineId, History>,
    /// Between which moments how far the node's clock was ahead is told, by rising beginning.
    pub clocks: BTreeMap<Moment, Moment>,
    /// Zones that did not answer.
    pub silent: BTreeSet<ZoneName>,
    /// Enough zones answered that nothing a quorum held can be missing here.
    pub complete: bool,
}

/// The moment around which a catalogue is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    Earliest,
    At(Moment),
    Latest,
}

const NODES_AT_ONCE: usize = 4;
/// Backups that are opened together around a moment.
const BACKUPS_NEAR: usize = 3;
const OBJECTS_AT_ONCE: usize = 16;

impl Catalog {
    /// Reads what there is: one list a node, its document, its histories and the ends of its manifests.
    pub async fn load(vault: &Vault) -> Result<Self, Error> {
        Catalog::read(vault, None).await
    }

    /// Like [`Catalog::load`], but opens of each node only its oldest backups and those around `moment`, and
    /// the shape of the cluster then.
    pub async fn near(vault: &Vault, moment: Near) -> Result<Self, Error> {
        Catalog::read(vault, Some(moment)).await
    }

    /// Returns whether there are backups or shapes that were not opened.
    pub fn is_partial(&self) -> bool {
        self.unopened_topologies > 0 || self.nodes.values().any(|node| node.unopened > 0)
    }

    async fn read(vault: &Vault, near: Option<Near>) -> Result<Self, Error> {
        let loaded = flow::try_map(vault.nodes().await?, NODES_AT_ONCE, |node| async move {
            let listing = vault.zones().list(&folder::node(vault.cluster(), &node)).await?;
            let catalog = NodeCatalog::open(vault, &node, &listing, near).await?;
            Ok::<_, Error>(catalog.map(|catalog| (node, catalog)))
        });
        let nodes: BTreeMap<_, _> = loaded.await?.into_iter().flatten().collect();
        let (topologies, unopened_topologies) = topologies(vault, near).await?;
        let silent = nodes.values().flat_map(|node| node.silent.iter().cloned()).collect();
        Ok(Catalog { nodes, topologies, unopened_topologies, silent })
    }
}

impl Vault {
    /// Returns the nodes of which anything is stored.
    pub async fn nodes(&self) -> Result<Vec<NodeName>, Error> {
        let names = self.zones().folders(&folder::nodes(self.cluster())).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// Reads the recorded shapes of the cluster, oldest first, and returns how many were not opened; near a moment, only
/// the one of then is.
async fn topologies(vault: &Vault, near: Option<Near>) -> Result<(Vec<TopologyDoc>, usize), Error> {
    let listing = vault.zones().list(&folder::topologies(vault.cluster())).await?;
    let mut names: Vec<ObjectName> =
        listing.objects.iter().filter_map(|o| ObjectName::parse(vault.cluster(), &o.name)).collect();
    let all = names.len();
    if let Some(near) = near {
        let is_by_then = |name: &ObjectName| match (near, name) {
            (Near::At(moment), ObjectName::Topology { at }) => *at <= moment,
            (Near::Latest, _) => true,
            _ => false,
        };
        let by_then = names.partition_point(is_by_then);
        names = names.get(by_then.saturating_sub(1)..).unwrap_or_default().iter().take(1).cloned().collect();
    }
    let unopened = all - names.len();
    let read = |name: ObjectName| async move { document(vault, &name).await };
    Ok((flow::try_map(names, OBJECTS_AT_ONCE, read).await?, unopened))
}

impl NodeCatalog {
    /// Reads what there is of one node; `None` where it has no document yet.
    pub async fn load(vault: &Vault, node: &NodeName) -> Result<Option<Self>, Error> {
        let listing = vault.zones().list(&folder::node(vault.cluster(), node)).await?;
        Self::open(vault, node, &listing, None).await
    }

    /// Reads what a list of all objects of the node names.
    pub async fn read(vault: &Vault, node: &NodeName, listing: &Listing) -> Result<Option<Self>, Error> {
        Self::open(vault, node, listing, None).await
    }

    async fn open(
        vault: &Vault,
        node: &NodeName,
        listing: &Listing,
        near: Option<Near>,
    ) -> Result<Option<Self>, Error> {
        let name = ObjectName::Node { node: node.clone() };
        let doc: NodeDoc = match document(vault, &name).await {
            Ok(doc) => doc,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        if doc.segment_bytes == 0 {
            return Err(Error::Inconsistent {
                object: vault.path(&name),
                problem: "segments of no size".into(),
            });
        }
        let mut found = Found::default();
        for listed in &listing.objects {
            if let Some(name) = ObjectName::parse(vault.cluster(), &listed.name) {
                found.take(name, kept_segment_bytes(doc.segment_bytes));
            }
        }
        let backups = found.backups(vault, node, near).await;
        let unopened = backups.unopened();
        let (backups, bad_backups) = backups.divide();
        Ok(Some(NodeCatalog {
            doc,
            backups,
            bad_backups,
            unopened,
            histories: found.histories(vault, node).await?,
            segments: found.segments,
            clocks: found.clocks,
            silent: listing.silent.iter().map(|failure| failure.zone.clone()).collect(),
            complete: listing.complete,
        }))
    }

    /// Returns how long the vault's segments of this node are; the server's own may be longer.
    pub fn segment_bytes(&self) -> u32 {
        kept_segment_bytes(self.doc.segment_bytes)
    }

    /// Returns the name of a segment.
    pub fn wal_name(&self, timeline: TimelineId, number: u64) -> WalName {
        WalName::new(timeline, number, self.segment_bytes())
    }

    /// Returns the runs of complete segments of a timeline, oldest first: between two runs is a gap.
    pub fn runs(&self, timeline: TimelineId) -> Vec<RangeInclusive<u64>> {
        let stretches = self.segments.stretches(timeline).into_iter();
        let complete = stretches.filter(|stretch| stretch.state.complete).map(|stretch| stretch.numbers);
        complete.fold(Vec::new(), |mut runs: Vec<RangeInclusive<u64>>, numbers| {
            match runs.last_mut() {
                Some(run) if *run.end() + 1 == *numbers.start() => *run = *run.start()..=*numbers.end(),
                _ => runs.push(numbers),
            }
            runs
        })
    }
}

/// What the list of one node names.
#[derive(Default)]
struct Found {
    segments: Segments,
    histories: BTreeSet<TimelineId>,
    clocks: BTreeMap<Moment, Moment>,
    manifests: BTreeSet<BackupId>,
    gone: BTreeSet<BackupId>,
}

impl Found {
    fn take(&mut self, name: ObjectName, segment_bytes: u32) {
        let place = |wal: WalName| (wal.timeline, wal.number(segment_bytes));
        match name {
            ObjectName::Segment { wal, .. } => self.segments.note(place(wal), Piece::Whole),
            ObjectName::Index { wal, .. } => self.segments.note(place(wal), Piece::Index),
            // Names come sorted, and so do the parts of a segment.
            ObjectName::Part { wal, start, end, .. } => {
                self.segments.note(place(wal), Piece::Part(PartRange { start, end }));
            }
            ObjectName::History { timeline, .. } => {
                self.histories.insert(timeline);
            }
            ObjectName::Clock { first, last, .. } => {
                let known = self.clocks.entry(first).or_insert(last);
                *known = last.max(*known);
            }
            ObjectName::Manifest { backup, .. } => {
                self.manifests.insert(backup);
            }
            ObjectName::Gone { backup, .. } => {
                self.gone.insert(backup);
            }
            _ => {}
        }
    }

    async fn backups(&self, vault: &Vault, node: &NodeName, near: Option<Near>) -> Backups {
        let mut ids: Vec<BackupId> = self.manifests.difference(&self.gone).cloned().collect();
        ids.sort_by_key(|id| id.start().map_or(i64::MIN, |start| start.0));
        let count = ids.len();
        let mut backups = Backups { ids, opened: BTreeMap::new() };
        let moment = match near {
            None => {
                backups.open(vault, node, 0..count).await;
                return backups;
            }
            Some(Near::At(moment)) => moment,
            Some(Near::Latest) => Moment(i64::MAX),
            Some(Near::Earliest) => Moment(i64::MIN),
        };
        let begun = backups.ids.partition_point(|id| id.start().is_none_or(|start| start <= moment));
        // The next one tells of settings that were changed since.
        backups.open(vault, node, begun..count.min(begun + 1)).await;
        // Back from the moment, and on from the oldest, each until one has no damage.
        let (mut from, mut is_found) = (begun, false);
        while from > 0 && !is_found {
            let to = from;
            from = to.saturating_sub(BACKUPS_NEAR);
            is_found = backups.open(vault, node, from..to).await;
        }
        let (mut to, mut is_found) = (0, false);
        while to < count && !is_found {
            let from = to;
            to = count.min(from + BACKUPS_NEAR);
            is_found = backups.open(vault, node, from..to).await;
        }
        backups
    }

    async fn histories(
        &self,
        vault: &Vault,
        node: &NodeName,
    ) -> Result<BTreeMap<TimelineId, History>, Error> {
        let ids = self.histories.iter().copied().collect();
        let read = flow::try_map(ids, OBJECTS_AT_ONCE, |timeline: TimelineId| async move {
            let name = ObjectName::History { node: node.clone(), timeline };
            let bytes = vault.get(&name).await?;
            let bad = |problem: String| Error::Inconsistent { object: vault.path(&name), problem };
            let text = std::str::from_utf8(&bytes).map_err(|error| bad(error.to_string()))?;
            let history = History::parse(timeline, text).map_err(|error| bad(error.to_string()))?;
            Ok::<_, Error>((timeline, history))
        });
        Ok(read.await?.into_iter().collect())
    }
}

/// Backups of a node, of which some are opened.
struct Backups {
    /// Oldest first.
    ids: Vec<BackupId>,
    /// By their place among them; `None`: deleted since they were listed.
    opened: BTreeMap<usize, Option<Result<Ends, String>>>,
}

impl Backups {
    /// Opens some that may be open already; returns whether one of them is without damage.
    async fn open(&mut self, vault: &Vault, node: &NodeName, places: Range<usize>) -> bool {
        let new: Vec<(usize, BackupId)> = places
            .clone()
            .filter(|place| !self.opened.contains_key(place))
            .filter_map(|place| Some((place, self.ids.get(place)?.clone())))
            .collect();
        let read = flow::map(new, OBJECTS_AT_ONCE, |(place, id)| async move {
            match vault.backup_ends(node, &id).await {
                Ok(ends) => (place, Some(Ok(ends))),
                Err(error) if error.is_not_found() => (place, None),
                // One bad backup must not hide the others.
                Err(error) => (place, Some(Err(error.to_string()))),
            }
        });
        self.opened.extend(read.await);
        let is_sound =
            |ends: &Option<Result<Ends, String>>| matches!(ends, Some(Ok(ends)) if !ends.foot.is_damaged());
        self.opened.range(places).any(|(_, ends)| is_sound(ends))
    }

    fn unopened(&self) -> usize {
        self.ids.len() - self.opened.len()
    }

    /// Returns those that were read, and those that cannot be.
    fn divide(self) -> (Vec<Ends>, Vec<(BackupId, String)>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (place, ends) in self.opened {
            match ends {
                Some(Ok(ends)) => good.push(ends),
                Some(Err(problem)) => bad.extend(self.ids.get(place).map(|id| (id.clone(), problem))),
                None => {}
            }
        }
        (good, bad)
    }
}

/// Reads a document of one value.
pub(super) async fn document<T: Document>(vault: &Vault, name: &ObjectName) -> Result<T, Error> {
    let bytes = vault.get(name).await?;
    manifest::from_bytes(&bytes).map_err(|source| Error::Document { object: vault.path(name), source })
}
