//! The job that brings every zone to hold every object, and no zone what was deleted.
//!
//! lists of all zones -> what is garbage -> deleted everywhere; what a zone lacks -> copied from one
//! whose copy opens; what does not open -> replaced
//!
//! The zones themselves say what is to be done, so a crash loses nothing and a run can be repeated at
//! any time. A copy that was deleted on purpose while its zone was away must not come back: what is
//! garbage follows from what else exists (no manifest names this pack; the segment of this part is
//! complete; no backup needs this segment), judged by the same rules as retention's, and a deleted
//! backup leaves a tombstone until every zone has forgotten it. Nothing is deleted unless all zones
//! answer. Deep repair opens every copy of every object.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::class::{Class, Classified};
use crate::clock;
use crate::flow;
use crate::ids::{BackupId, NodeName, ZoneName};
use crate::manifest::backup::Pack;
use crate::retention::{self, Holdings};
use crate::vault::{self, Mended, NodeCatalog, ObjectName, Vault};
use crate::zones::{Listed, Listing, ZoneMask};

/// What a repair found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Objects of this cluster that any zone listed.
    pub objects: u64,
    pub copied: BTreeMap<ZoneName, u64>,
    /// Damaged copies that were replaced.
    pub replaced: BTreeMap<ZoneName, u64>,
    /// Objects deleted that nothing needs.
    pub deleted: u64,
    /// Temporary files of crashed writers deleted.
    pub leftovers: u64,
    /// Objects of which no zone has a copy that opens.
    pub unreadable: Vec<String>,
    /// Objects whose copies open and differ: two writers used one name.
    pub conflicts: Vec<String>,
    /// Zones that did not answer; they are repaired when they do.
    pub silent: BTreeMap<ZoneName, String>,
    /// What could not be done now, and why; the first hundred.
    pub left: Vec<String>,
}

impl RepairReport {
    /// Returns whether every zone now holds every object, as far as was looked.
    pub fn is_whole(&self) -> bool {
        self.unreadable.is_empty()
            && self.conflicts.is_empty()
            && self.silent.is_empty()
            && self.left.is_empty()
    }
}

/// Why a repair stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("see what the zones hold")]
    List { source: vault::Error },
    #[error("repair {object}")]
    Object { object: String, source: vault::Error },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::List { source } | Error::Object { source, .. } => source.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::List { source } | Error::Object { source, .. } => source.hint(),
        }
    }
}

const OBJECTS_AT_ONCE: usize = 8;
const LEFT_MAX: usize = 100;

/// Repairs all of a cluster. `deep`: every copy is read and opened.
pub async fn run(vault: &Vault, deep: bool) -> Result<RepairReport, Error> {
    let mut report = RepairReport::default();
    let listed = |source| Error::List { source };
    // Keys first: without them nothing else is worth copying.
    for folder in ["keys", "topology"] {
        let listing = vault.list(folder).await.map_err(listed)?;
        Pass { vault, deep, report: &mut report }.folder(&listing, &BTreeSet::new()).await?;
    }
    for node in vault.nodes().await.map_err(listed)? {
        repair_node(vault, &node, deep, &mut report).await?;
    }
    if deep {
        report.leftovers = vault.zones().sweep_leftovers().await;
    }
    Ok(report)
}

/// Repairs the objects of one node.
pub async fn run_node(vault: &Vault, node: &NodeName, deep: bool) -> Result<RepairReport, Error> {
    let mut report = RepairReport::default();
    repair_node(vault, node, deep, &mut report).await?;
    Ok(report)
}

/// Brings to the zones what they missed of this process's own writes, and replaces the damaged copies
/// that it met: quick, for every minute. What an earlier process knew, [`run`] finds.
pub async fn run_missed(vault: &Vault) -> Result<RepairReport, Error> {
    let mut report = RepairReport::default();
    let mut missed: BTreeMap<ObjectName, Vec<ZoneName>> = BTreeMap::new();
    for (zone, names) in vault.zones().missed() {
        for name in names.iter().filter_map(|name| ObjectName::parse(vault.cluster(), name)) {
            missed.entry(name).or_default().push(zone.clone());
        }
    }
    report.objects = missed.len() as u64;
    let work = missed.into_iter().map(|(name, zones)| Work { name, missing: zones, check: Vec::new() });
    let damaged = vault.damaged_objects().into_iter();
    let check = damaged.map(|name| Work { name, missing: Vec::new(), check: vault.zones().names() });
    Pass { vault, deep: false, report: &mut report }.work(work.chain(check).collect()).await?;
    Ok(report)
}

async fn repair_node(
    vault: &Vault,
    node: &NodeName,
    deep: bool,
    report: &mut RepairReport,
) -> Result<(), Error> {
    let listed = |source| Error::List { source };
    let listing = vault.list(&format!("nodes/{node}")).await.map_err(listed)?;
    let catalog = NodeCatalog::read(vault, node, &listing).await;
    let garbage = match catalog {
        Ok(Some(catalog)) => garbage(vault, node, &catalog, &listing),
        // What cannot be judged is kept.
        Ok(None) => BTreeSet::new(),
        Err(error) if error.class() == Class::Damage => BTreeSet::new(),
        Err(source) => return Err(Error::List { source }),
    };
    Pass { vault, deep, report }.folder(&listing, &garbage).await
}

/// Returns what of a node nothing needs: what retention would delete if it kept every backup, parts of segments
/// that a quorum holds whole, and what longer objects about its clock replace.
fn garbage(vault: &Vault, node: &NodeName, held: &NodeCatalog, listing: &Listing) -> BTreeSet<ObjectName> {
    let names: Vec<(ObjectName, ZoneMask)> = listing
        .objects
        .iter()
        .filter_map(|listed| Some((ObjectName::parse(vault.cluster(), &listed.name)?, listed.zones)))
        .collect();
    let all = || names.iter().map(|(name, _)| name);
    let quorum = vault.zones().write_quorum();
    let mut garbage: BTreeSet<ObjectName> = finished_parts(&names, quorum).collect();
    garbage.extend(vault::outgrown_clocks(&names, quorum));
    // A manifest that cannot be read may name any of the packs and need any of the WAL.
    if held.bad_backups.is_empty() && listing.complete {
        let holdings = vault::holdings(held, all());
        let doomed = retention::decide(clock::now(), u32::MAX, &holdings);
        garbage.extend(vault::doomed_names(node, held.segment_bytes(), &doomed, all()).into_iter().flatten());
        garbage.extend(packs_of_gone(&holdings, all()));
    }
    if listing.silent.is_empty() {
        garbage.extend(vault::spent_tombstones(all()));
    }
    garbage
}

/// Packs of deleted backups that no other backup names: retention would wait, for backups that still run.
fn packs_of_gone<'o>(
    holdings: &Holdings,
    all: impl Iterator<Item = &'o ObjectName> + Clone,
) -> Vec<ObjectName> {
    let gone: BTreeSet<&BackupId> = all
        .clone()
        .filter_map(|name| match name {
            ObjectName::Gone { backup, .. } => Some(backup),
            _ => None,
        })
        .collect();
    let named: BTreeSet<&Pack> = holdings.backups.iter().flat_map(|backup| &backup.packs).collect();
    let is_left = |name: &&ObjectName| match name {
        ObjectName::Pack { backup, number, .. } => {
            gone.contains(backup) && !named.contains(&Pack { backup: backup.clone(), number: *number })
        }
        _ => false,
    };
    all.filter(is_left).cloned().collect()
}

fn finished_parts(names: &[(ObjectName, ZoneMask)], quorum: usize) -> impl Iterator<Item = ObjectName> {
    let whole: BTreeSet<_> = names
        .iter()
        .filter_map(|(name, zones)| match name {
            ObjectName::Segment { wal, .. } if zones.count() >= quorum => Some(*wal),
            _ => None,
        })
        .collect();
    names.iter().filter_map(move |(name, _)| match name {
        ObjectName::Part { wal, .. } if whole.contains(wal) => Some(name.clone()),
        _ => None,
    })
}

/// What is to be done about one object.
struct Work {
    name: ObjectName,
    /// Zones that lack it.
    missing: Vec<ZoneName>,
    /// Zones whose copies are to be opened.
    check: Vec<ZoneName>,
}

/// One walk over some objects.
struct Pass<'a> {
    vault: &'a Vault,
    deep: bool,
    report: &'a mut RepairReport,
}

impl Pass<'_> {
    /// Repairs what one list tells.
    async fn folder(&mut self, listing: &Listing, garbage: &BTreeSet<ObjectName>) -> Result<(), Error> {
        for failure in &listing.silent {
            self.report.silent.insert(failure.zone.clone(), failure.to_string());
        }
        let (mut work, mut doomed) = (Vec::new(), Vec::new());
        for listed in &listing.objects {
            let Some(name) = ObjectName::parse(self.vault.cluster(), &listed.name) else { continue };
            self.report.objects += 1;
            if garbage.contains(&name) {
                doomed.push(name);
            } else {
                work.extend(self.needed(name, listed, listing.answered));
            }
        }
        self.work(work).await?;
        if listing.silent.is_empty() {
            self.delete(doomed).await?;
        }
        Ok(())
    }

    fn needed(&self, name: ObjectName, listed: &Listed, answered: ZoneMask) -> Option<Work> {
        let zones = self.vault.zones();
        let missing = zones.names_in(ZoneMask(answered.0 & !listed.zones.0));
        let check = if self.deep || listed.uneven { zones.names_in(listed.zones) } else { Vec::new() };
        (!missing.is_empty() || !check.is_empty()).then_some(Work { name, missing, check })
    }

    async fn work(&mut self, work: Vec<Work>) -> Result<(), Error> {
        let vault = self.vault;
        let done = flow::try_map(work, OBJECTS_AT_ONCE, |work| async move {
            let object = vault.path(&work.name);
            let failed = |source| Error::Object { object: object.clone(), source };
            let mut done = Vec::new();
            if !work.check.is_empty() {
                done.push(vault.mend_copies(&work.name, &work.check).await.map_err(failed)?);
            }
            if !work.missing.is_empty() && !done.iter().any(|mended: &Mended| mended.unreadable) {
                done.push(vault.copy_to(&work.name, &work.missing).await.map_err(failed)?);
            }
            Ok((object, done))
        });
        for (object, mended) in done.await? {
            mended.into_iter().for_each(|mended| self.note(&object, mended));
        }
        Ok(())
    }

    fn note(&mut self, object: &str, mended: Mended) {
        let report = &mut self.report;
        mended.copied.into_iter().for_each(|zone| *report.copied.entry(zone).or_default() += 1);
        mended.replaced.into_iter().for_each(|zone| *report.replaced.entry(zone).or_default() += 1);
        if mended.unreadable {
            report.unreadable.push(object.to_owned());
        }
        if !mended.conflict.is_empty() {
            report.conflicts.push(object.to_owned());
        }
        let room = LEFT_MAX.saturating_sub(report.left.len());
        report.left.extend(mended.left.into_iter().take(room).map(|problem| format!("{object}: {problem}")));
    }

    async fn delete(&mut self, doomed: Vec<ObjectName>) -> Result<(), Error> {
        let vault = self.vault;
        let deleted = flow::try_map(doomed, OBJECTS_AT_ONCE, |name| async move {
            let failed = |source| Error::Object { object: vault.path(&name), source };
            vault.delete(&name).await.map_err(failed)
        });
        for failures in deleted.await? {
            self.report.deleted += u64::from(failures.is_empty());
            let room = LEFT_MAX.saturating_sub(self.report.left.len());
            self.report.left.extend(failures.iter().take(room).map(ToString::to_string));
        }
        Ok(())
    }
}
