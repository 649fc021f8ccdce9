//! From a catalogue and a moment asked for to a plan.
//!
//! nodes of that moment -> positions asked for -> what is known around them -> the cut -> more of the WAL,
//! where the cut needs it -> a backup before the cut on each node -> what each node does
//!
//! The cut does not depend on backups, only on WAL; a backup is any that is consistent before it.
//! Reads the vault; writes nothing. Opens indexes around the moment only, and few segments.

use std::collections::BTreeMap;

use super::again::while_gone;
use super::branch::{self, Follow};
use super::clock::{NodeClock, order_uncertain};
use super::document::{ClockSource, Plan};
use super::line::Line;
use super::node::Node;
use super::shape::{self, Joined};
use super::{Error, VERSION};
use crate::clock;
use crate::cut::look::{NODES_AT_ONCE, Unaimed, aim, settle};
use crate::cut::{self, Cut, Explanation, Known, NodeHistory, Request, Side, Torn};
use crate::flow;
use crate::ids::{ClusterName, NodeName};
use crate::lsn::Lsn;
use crate::manifest::topology::TopologyDoc;
use crate::moment::Moment;
use crate::restore::window::{self, Window};
use crate::vault::{Catalog, Near, NodeCatalog, Vault};

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    pub request: Request,
    /// Which timelines nodes follow, where not their newest.
    pub follow: Follow,
    pub new_name: ClusterName,
    /// How far each node's clock was ahead of the true time, in microseconds; where it is not named, what was
    /// sampled counts.
    pub clocks: BTreeMap<NodeName, i64>,
    /// What to add to the time stamps in a node's WAL, in microseconds: shows what a wrong clock would have done.
    pub pretended: BTreeMap<NodeName, i64>,
    /// The plan also says why the cut is where it is.
    pub explain: bool,
}

/// A node whose archive ends this long before the time asked for may have lost its agent.
const SILENT_MICROS: i64 = 60_000_000;

/// Finds out what is stored around the moment asked for, and makes the plan. Where a better one may follow from
/// what is stored elsewhere, all of it is looked at.
pub async fn find(vault: &Vault, options: &PlanOptions) -> Result<Plan, Error> {
    while_gone(async || look(vault, options).await).await
}

async fn look(vault: &Vault, options: &PlanOptions) -> Result<Plan, Error> {
    let near = match &options.request {
        Request::Time(time) | Request::AtOrAfter(time) => Some(Near::At(*time)),
        Request::Latest => Some(Near::Latest),
        Request::Earliest => Some(Near::Earliest),
        // When it was is not known yet.
        _ => None,
    };
    if let Some(near) = near {
        let catalog = Catalog::near(vault, near).await?;
        match make(vault, &catalog, options).await {
            Ok(plan) if !catalog.is_partial() || !is_damaged(&plan, &catalog) => return Ok(plan),
            Err(error) if !catalog.is_partial() || !matches!(error, Error::Outside { .. }) => {
                return Err(error);
            }
            _ => {}
        }
    }
    make(vault, &Catalog::load(vault).await?, options).await
}

/// Returns whether a plan uses a backup with damaged pages.
fn is_damaged(plan: &Plan, catalog: &Catalog) -> bool {
    plan.nodes.iter().any(|node| {
        let backups = catalog.nodes.get(&node.node).map(|node| node.backups.as_slice()).unwrap_or_default();
        backups.iter().any(|ends| ends.head.backup == node.backup && ends.foot.is_damaged())
    })
}

/// Makes the plan.
pub async fn make(vault: &Vault, catalog: &Catalog, options: &PlanOptions) -> Result<Plan, Error> {
    if catalog.nodes.is_empty() {
        return Err(Error::Empty(vault.cluster().to_string()));
    }
    let (mut at, mut joined) = (shape::recorded(catalog, &options.request), None);
    loop {
        match attempt(vault, catalog, options, at, joined).await? {
            Attempt::Plan(plan) => return Ok(*plan),
            // Each has a node more.
            Attempt::Joined(one, next) => (at, joined) = (Some(next), Some(one)),
        }
    }
}

enum Attempt {
    Plan(Box<Plan>),
    /// The cut holds a transaction with a part on a node that joined before the shape was recorded, at this place.
    Joined(Joined, usize),
}

/// Makes the plan with the nodes of the recorded shape at a place, which is a later one after a node `joined`.
async fn attempt(
    vault: &Vault,
    catalog: &Catalog,
    options: &PlanOptions,
    at: Option<usize>,
    joined: Option<Joined>,
) -> Result<Attempt, Error> {
    let topology = at.and_then(|at| catalog.topologies.get(at));
    let mut notes = Vec::new();
    let chosen = shape::nodes(catalog, topology, &mut notes)?;
    let timelines = options.follow.resolve(&chosen)?;
    let window = window::of(vault, catalog, &timelines).await?;
    let mut maker = Maker { options, window, nodes: Vec::new(), notes };
    let clocks =
        flow::map(chosen.clone(), NODES_AT_ONCE, |(name, node)| clock_of(vault, options, name, node));
    for ((name, node), (clock, notes)) in chosen.clone().into_iter().zip(clocks.await) {
        let line = Line::new(vault, name, node, timelines.get(name).copied())
            .ok_or_else(|| maker.outside(format!("node {name} has no WAL archived")))?;
        maker.notes.extend(branch::not_newest(&line));
        let pretended = options.pretended.get(name).copied().unwrap_or(0);
        maker.nodes.push(Node::new(line, pretended, clock));
        maker.notes.extend(notes);
    }
    let starts = maker.starts().await.map_err(|error| match (error, joined) {
        (Error::Outside { asked, why, window }, Some(joined)) => {
            Error::Outside { asked, why: shape::too_new(&chosen, joined, &why), window }
        }
        (error, _) => error,
    })?;
    let (histories, cut) = maker.settle_on(&starts).await?;
    if let Some(at) = at
        && let Some(joined) = shape::joined(catalog, at, &histories, &cut.stop)
    {
        let next = shape::with(catalog, at, joined).map_err(|why| maker.outside(why))?;
        return Ok(Attempt::Joined(joined, next));
    }
    maker.choose_backups(&cut.stop)?;
    let torn = maker.torn_by_time(&histories).await?;
    let explanation = maker.explained(&histories, &starts)?;
    let plan = maker.plan(vault.cluster(), topology.cloned(), cut, torn).await?;
    Ok(Attempt::Plan(Box::new(Plan { explanation, ..plan })))
}

/// Finds out how far a node's clock was ahead at the time asked for, and what should be known of that.
async fn clock_of(
    vault: &Vault,
    options: &PlanOptions,
    name: &NodeName,
    node: &NodeCatalog,
) -> (NodeClock, Vec<String>) {
    let mut notes = Vec::new();
    let near = match &options.request {
        Request::BeforeTransaction { near, .. } => *near,
        request => request.time(),
    };
    let clock = match (options.clocks.get(name), near) {
        (Some(ahead), _) => NodeClock::given(*ahead),
        (None, Some(time)) => NodeClock::sampled(vault, name, node, time, &mut notes).await,
        (None, None) => NodeClock::taken_as_right(ClockSource::NotNeeded),
    };
    (clock, notes)
}

struct Maker<'a> {
    options: &'a PlanOptions,
    window: Window,
    nodes: Vec<Node<'a>>,
    notes: Vec<String>,
}

impl<'a> Maker<'a> {
    fn outside(&self, why: String) -> Error {
        let end = |moment: Option<Moment>| moment.map_or_else(|| "unknown".to_owned(), |m| m.to_string());
        let (earliest, latest) = (end(self.window.earliest), end(self.window.latest));
        let mut window = match self.window.earliest {
            Some(_) => format!("the cluster can be restored from {earliest} to {latest}"),
            None => "no moment can be restored yet: not every node has a backup".to_owned(),
        };
        let broken = self.window.nodes.iter().filter(|node| !node.gaps.is_empty());
        let broken: Vec<&str> = broken.map(|node| node.node.as_str()).collect();
        if !broken.is_empty() {
            window.push_str(&format!(", but for gaps in the WAL of {}", broken.join(", ")));
        }
        Error::Outside { asked: self.options.request.to_string(), why, window }
    }

    /// Finds the position that the request names on each node.
    async fn starts(&mut self) -> Result<Vec<Lsn>, Error> {
        if let Some(time) = self.options.request.time() {
            self.within_archive(time).await?;
        }
        let starts = match &self.options.request {
            Request::Latest => self.nodes.iter_mut().map(Node::start_latest).collect(),
            Request::Earliest => self.nodes.iter_mut().map(Node::start_earliest).collect(),
            request => aim(&mut self.nodes, request).await?,
        };
        let starts = starts.map_err(|why| match why {
            Unaimed::Outside(why) => self.outside(why),
            Unaimed::Ask(what, hint) => Error::Ask { what, hint },
            Unaimed::Cut(source) => Error::Cut(source),
        })?;
        for node in &mut self.nodes {
            self.notes.append(&mut node.notes);
        }
        for node in self.nodes.iter().filter(|node| node.is_before_gap()) {
            let name = node.name();
            self.notes.push(format!("WAL of {name} is missing later on: this lies before the gap"));
        }
        Ok(starts)
    }

    /// Refuses a time after everything that is archived, and tells of nodes whose archive ends before it.
    async fn within_archive(&mut self, time: Moment) -> Result<(), Error> {
        let nodes = self.nodes.iter_mut().collect();
        let ends = flow::try_map(nodes, NODES_AT_ONCE, |node: &mut Node| node.newest_time()).await?;
        let mut newest = None;
        for (node, here) in self.nodes.iter().zip(ends) {
            if let Some(here) = here.filter(|here| time.micros_since(*here) > SILENT_MICROS) {
                self.notes.push(format!(
                    "the archive of {} ends at {here}: if its agent did not run after that, what was committed there since is missing",
                    node.name()
                ));
            }
            newest = newest.max(here);
        }
        if newest.is_none_or(|newest| time > newest) {
            return Err(self.outside("it lies after the last archived transaction".to_owned()));
        }
        Ok(())
    }

    /// Finds the cut, with more of the WAL around the positions until what is known is enough.
    async fn settle_on(&mut self, starts: &[Lsn]) -> Result<(Vec<NodeHistory>, Cut), Error> {
        let is_onward = self.options.request.is_onward();
        let (histories, found) = settle(&mut self.nodes, starts, is_onward).await?;
        match found {
            Ok(cut) => Ok((histories, cut)),
            Err(
                source @ (cut::Error::Before { .. }
                | cut::Error::TooEarly { .. }
                | cut::Error::TooLate { .. }),
            ) => Err(self.outside(source.to_string())),
            Err(source) => Err(Error::Cut(source)),
        }
    }

    /// Chooses a backup before the cut on each node.
    fn choose_backups(&mut self, stops: &[Lsn]) -> Result<(), Error> {
        let without = self.nodes.iter_mut().zip(stops).find_map(|(node, stop)| {
            let found = node.choose(*stop);
            (!found).then(|| node.name().clone())
        });
        match without {
            None => Ok(()),
            Some(node) => Err(self.outside(format!("node {node} has no backup before it"))),
        }
    }

    /// Returns what `recovery_target_time` on every node would have torn: each by its own clock.
    async fn torn_by_time(&mut self, histories: &[NodeHistory]) -> Result<Vec<Torn>, Error> {
        let Some(time) = self.options.request.time() else { return Ok(Vec::new()) };
        let nodes = self.nodes.iter_mut().collect();
        let stops = flow::try_map(nodes, NODES_AT_ONCE, |node: &mut Node| node.naive_stop(time));
        let stops: Vec<Lsn> =
            stops.await?.into_iter().zip(histories).map(|(stop, known)| stop.max(known.earliest)).collect();
        Known::new(histories).and_then(|known| known.torn(&stops)).map_err(Error::Cut)
    }

    fn explained(&self, histories: &[NodeHistory], starts: &[Lsn]) -> Result<Option<Explanation>, Error> {
        let explain = || Known::new(histories)?.explain(starts, self.options.request.is_onward());
        self.options.explain.then(explain).transpose().map_err(Error::Cut)
    }

    async fn plan(
        mut self,
        cluster: &ClusterName,
        topology: Option<TopologyDoc>,
        cut: Cut,
        torn_by_time: Vec<Torn>,
    ) -> Result<Plan, Error> {
        let asked = self.options.request.time();
        let nodes = self.nodes.iter_mut().zip(&cut.stop).collect();
        let nodes =
            flow::try_map(nodes, NODES_AT_ONCE, |(node, stop): (&mut Node, &Lsn)| node.plan(*stop, asked));
        let nodes = nodes.await?;
        let newest = nodes.iter().filter_map(|node| Some(node.last_included.as_ref()?.time)).max();
        for want in &cut.wants {
            let side = if want.side == Side::Earlier { "before" } else { "after" };
            self.notes.push(format!(
                "WAL of {} {side} what is archived would tell more about transactions around the cut",
                want.node
            ));
        }
        let order_uncertain_micros = asked.and_then(|_| order_uncertain(&nodes));
        Ok(Plan {
            version: VERSION,
            cluster: cluster.clone(),
            new_name: self.options.new_name.clone(),
            made_at: clock::now(),
            request: self.options.request.clone(),
            follow: self.options.follow.clone(),
            target: asked.or(newest),
            window: self.window,
            topology,
            nodes,
            moves: cut.moves,
            settle: cut.settle,
            left_out: cut.left_out,
            foreign: cut.foreign,
            orphans: cut.orphans,
            torn_by_time,
            order_uncertain_micros,
            explanation: None,
            notes: self.notes,
        })
    }
}
