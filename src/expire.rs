//! The job that deletes what retention no longer keeps.
//!
//! catalogue -> [`retention::decide`], node by node -> tombstones -> manifests -> packs -> WAL
//!
//! Invariants: without its manifest a backup does not exist, so a crash leaves garbage that the next
//! run finds, never half a backup that looks whole. Nothing is deleted while so few zones answer that
//! something a quorum holds may not be seen.

use std::collections::BTreeMap;

use crate::class::{Class, Classified};
use crate::clock;
use crate::flow;
use crate::ids::{NodeName, ZoneName};
use crate::moment::Moment;
use crate::retention;
use crate::vault::{self, Catalog, NodeCatalog, ObjectName, Vault};

/// What may be deleted.
#[derive(Clone, Copy, Debug)]
pub struct ExpireOptions {
    /// Every moment of so many days back stays restorable.
    pub window_days: u32,
    /// Only say what would be deleted.
    pub dry_run: bool,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ExpireReport {
    pub dry_run: bool,
    pub nodes: BTreeMap<NodeName, NodeReport>,
    /// Objects that a zone did not delete; the next run tries again.
    pub left: BTreeMap<ZoneName, u64>,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct NodeReport {
    pub backups: Vec<String>,
    pub packs: u64,
    pub segments: u64,
    /// Of one zone.
    pub bytes: u64,
    /// Why nothing of this node was deleted.
    pub skipped: Option<String>,
}

/// Why nothing more was deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("see what is stored")]
    Catalog { source: vault::Error },
    #[error("too few zones answer to see all that is stored of node {node}; nothing of it was deleted")]
    Incomplete { node: NodeName },
    #[error("delete {object}")]
    Delete { object: String, source: vault::Error },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Catalog { source } | Error::Delete { source, .. } => source.class(),
            Error::Incomplete { .. } => Class::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Catalog { source } | Error::Delete { source, .. } => source.hint(),
            Error::Incomplete { .. } => Some("run it again when the zones are back".to_owned()),
        }
    }
}

const AT_ONCE: usize = 16;

/// Deletes what no moment of the window needs. Can be run again after a crash, and at any time.
pub async fn run(options: ExpireOptions, vault: &Vault) -> Result<ExpireReport, Error> {
    let catalog = Catalog::load(vault).await.map_err(|source| Error::Catalog { source })?;
    let mut report = ExpireReport { dry_run: options.dry_run, nodes: BTreeMap::new(), left: BTreeMap::new() };
    for (node, held) in &catalog.nodes {
        let of_node = expire(&options, vault, node, held, &mut report.left).await?;
        report.nodes.insert(node.clone(), of_node);
    }
    Ok(report)
}

async fn expire(
    options: &ExpireOptions,
    vault: &Vault,
    node: &NodeName,
    held: &NodeCatalog,
    left: &mut BTreeMap<ZoneName, u64>,
) -> Result<NodeReport, Error> {
    if let Some((backup, problem)) = held.bad_backups.first() {
        // What it names, and so what must stay, is not known.
        let skipped = Some(format!("the manifest of backup {backup} cannot be read: {problem}"));
        return Ok(NodeReport { skipped, ..NodeReport::default() });
    }
    let listing = vault.list(&format!("nodes/{node}")).await.map_err(|source| Error::Catalog { source })?;
    if !listing.complete || !held.complete {
        return Err(Error::Incomplete { node: node.clone() });
    }
    let named = listing.objects.iter();
    let named = named.filter_map(|o| Some((ObjectName::parse(vault.cluster(), &o.name)?, o.size)));
    let objects: BTreeMap<ObjectName, u64> = named.collect();
    let doomed = retention::decide(clock::now(), options.window_days, &vault::holdings(held, objects.keys()));
    let steps = vault::doomed_names(node, held.segment_bytes(), &doomed, objects.keys());
    let report = NodeReport {
        backups: doomed.backups.iter().map(ToString::to_string).collect(),
        packs: doomed.packs.len() as u64,
        segments: doomed.segments.len() as u64,
        bytes: steps.iter().flatten().filter_map(|name| objects.get(name)).sum(),
        skipped: None,
    };
    if options.dry_run {
        return Ok(report);
    }
    for backup in doomed.backups {
        let tombstone = ObjectName::Gone { node: node.clone(), backup };
        let text = Moment::to_string(&clock::now());
        let put = vault.put(&tombstone, text.into(), 1).await;
        match put {
            Ok(_) => {}
            Err(error) if error.is_clash() => {} // an earlier run's
            Err(source) => return Err(Error::Delete { object: vault.path(&tombstone), source }),
        }
    }
    for step in steps {
        delete(vault, step, left).await?;
    }
    Ok(report)
}

async fn delete(
    vault: &Vault,
    objects: Vec<ObjectName>,
    left: &mut BTreeMap<ZoneName, u64>,
) -> Result<(), Error> {
    let deleted = flow::try_map(objects, AT_ONCE, |name: ObjectName| async move {
        let deleted = vault.delete(&name).await;
        deleted.map_err(|source| Error::Delete { object: vault.path(&name), source })
    });
    for failure in deleted.await?.into_iter().flatten() {
        *left.entry(failure.zone).or_default() += 1;
    }
    Ok(())
}
