//! `pitrus info`: what is stored of the cluster, and to which moments it can be restored. Reads the zones
//! only; what the agent on this machine says is added where there is one.

mod shown;

use std::collections::BTreeMap;
use std::path::Path;

use super::args::{self, Output};
use super::failure::Failure;
use super::open::Place;
use super::out;
use crate::agent;
use crate::archive::Mishap;
use crate::clock;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::manifest::backup::Ends;
use crate::manifest::clock::Reference;
use crate::restore::plan;
use crate::restore::window::{self, NodeWindow};
use crate::vault::{Access, Catalog, NodeCatalog, Vault};
use shown::{Agent, Archived, Backup, Clock, Gap, Info, Node, Window, Zone};

pub(super) use shown::{CLOCK_FINE_MICROS, bytes};

pub(super) async fn run(args: &args::Info, config: &Path) -> Result<(), Failure> {
    let place = Place::find(&args.vault, config)?;
    let vault = place.vault(Access::Read).await?;
    let (catalog, window) = plan::while_gone(async || {
        let catalog = Catalog::load(&vault).await?;
        let window = window::of(&vault, &catalog, &window::Timelines::new()).await?;
        Ok((catalog, window))
    })
    .await?;
    let mut nodes = Vec::new();
    for (name, held) in &catalog.nodes {
        let of_node = window.nodes.iter().find(|node| node.node == *name);
        nodes.push(Node { clock: clock_of(&vault, name, held).await, ..node(name, held, of_node) });
    }
    let info = Info {
        version: 1,
        cluster: place.cluster.clone(),
        at: clock::now(),
        window: window_of(&window, &nodes),
        nodes,
        zones: zones(&vault).await?,
        agent: place.state_dir.as_deref().and_then(local_agent),
    };
    match args.shown.output {
        Output::Text => out::text(&info.text()).map(drop),
        Output::Json => out::json(&info),
    }
}

fn window_of(window: &window::Window, nodes: &[Node]) -> Window {
    let closed = |because: String| Window::Closed { because };
    if nodes.is_empty() {
        return closed("no node has an agent yet".to_owned());
    }
    if let Some(node) = nodes.iter().find(|node| node.backups.is_empty()) {
        return closed(format!("node {} has no backup", node.node));
    }
    match (window.earliest, window.latest) {
        (Some(earliest), Some(latest)) if earliest <= latest => Window::Open { earliest, latest },
        _ => closed("the nodes have no moment in common yet".to_owned()),
    }
}

fn node(name: &NodeName, held: &NodeCatalog, window: Option<&NodeWindow>) -> Node {
    let gaps = window.map(|w| w.gaps.as_slice()).unwrap_or_default();
    let file = |timeline, number| held.wal_name(timeline, number).to_string();
    Node {
        node: name.clone(),
        group: held.doc.group,
        backups: held.backups.iter().map(backup).collect(),
        unreadable_backups: held.bad_backups.iter().map(|(id, _)| id.clone()).collect(),
        archived: archived(held, window),
        gaps: gaps
            .iter()
            .map(|gap| Gap { first: file(gap.timeline, gap.first), last: file(gap.timeline, gap.last) })
            .collect(),
        clock: None,
    }
}

/// Returns what the newest sample of a node's clock says; one that cannot be read is as good as none.
async fn clock_of(vault: &Vault, node: &NodeName, held: &NodeCatalog) -> Option<Clock> {
    let doc = match vault.clock(&held.newest_clock(node)?).await {
        Ok(doc) => doc,
        Err(error) => {
            tracing::warn!(%node, %error, "what was sampled of the clock cannot be read");
            return None;
        }
    };
    let last = doc.samples.iter().max_by_key(|sample| sample.at)?;
    Some(Clock {
        at: last.at,
        is_reference: doc.reference == Reference::Own,
        ahead_micros: last.ahead_micros,
        uncertain_micros: last.uncertain_micros,
    })
}

fn backup(summary: &Ends) -> Backup {
    let Ends { head, foot } = summary;
    Backup {
        backup: head.backup.clone(),
        started_at: head.started_at,
        stopped_at: foot.stopped_at,
        bytes: foot.bytes,
        read_bytes: foot.read,
        stored_bytes: foot.stored,
        goes_on: head.goes_on.clone(),
        bad_pages: foot.bad_pages.len() as u64,
    }
}

/// The end of the newest timeline's WAL.
fn archived(held: &NodeCatalog, window: Option<&NodeWindow>) -> Option<Archived> {
    let ((timeline, number), state) = held.segments.last()?;
    let length = if state.complete { held.segment_bytes() } else { state.joined() };
    let to = Lsn(number.saturating_mul(u64::from(held.segment_bytes()))).plus(u64::from(length));
    Some(Archived { timeline, to, at: window.and_then(|w| w.latest) })
}

/// Counts, zone by zone, what it has and what it lacks of what the others have.
async fn zones(vault: &Vault) -> Result<Vec<Zone>, Failure> {
    let listing = vault.list("").await?;
    let silent: BTreeMap<_, _> =
        listing.silent.iter().map(|failure| (&failure.zone, failure.fault.to_string())).collect();
    let zone = |(number, zone): (usize, crate::ids::ZoneName)| {
        let objects = listing.objects.iter().filter(|object| object.zones.contains(number)).count() as u64;
        let reachable = !silent.contains_key(&zone);
        Zone {
            reachable,
            objects,
            missing: if reachable { listing.objects.len() as u64 - objects } else { 0 },
            problem: silent.get(&zone).cloned(),
            zone,
        }
    };
    Ok(vault.zones().names().into_iter().enumerate().map(zone).collect())
}

fn local_agent(state_dir: &Path) -> Option<Agent> {
    let said = match agent::status::read(state_dir) {
        Ok(said) => said?,
        Err(error) => {
            tracing::debug!(%error, "the agent's status");
            return None;
        }
    };
    let told = |mishap: Mishap| format!("{} (at {})", mishap.text, mishap.at);
    Some(Agent {
        node: said.node,
        said_at: said.updated_at,
        connected: said.archive.connected,
        lag_bytes: said.lag_bytes,
        waiting_ms: said.archive.waiting_ms,
        last_error: said.archive.last_error.map(told),
        clock_error: said.clock.last_error.or(said.clock.store_error).map(told),
    })
}
