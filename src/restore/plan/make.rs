//! From a catalogue and a moment asked for to a plan.
//!
//! nodes of that moment -> a backup each -> positions asked for -> what is known around them -> the cut ->
//! an older backup, or more of the WAL, where the cut needs it -> what each node does
//!
//! Reads the vault; writes nothing. Opens indexes around the moment only, and few segments.

use std::collections::BTreeMap;

use super::choose::{self, Choice};
use super::document::{NodePlan, Plan, Request};
use super::line::Line;
use super::span::{Around, Span};
use super::{Error, VERSION};
use crate::clock;
use crate::cut::{self, Cut, Known, NodeHistory, Side, Torn};
use crate::ids::{ClusterName, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::restore::window::{self, Window};
use crate::vault::{Catalog, Vault};
use crate::wal::event::What;

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    pub request: Request,
    pub new_name: ClusterName,
    /// How far each node's clock was ahead of the true time, in microseconds; 0 where it is not named.
    pub clocks: BTreeMap<NodeName, i64>,
    /// What to add to the time stamps in a node's WAL, in microseconds: shows what a wrong clock would have done.
    pub pretended: BTreeMap<NodeName, i64>,
}

/// How much WAL before the positions asked for is looked at first: distributed transactions last milliseconds.
const LOOK_BACK_MICROS: i64 = 120_000_000;
/// The look back grows by so much each time it was not enough.
const GROW: i64 = 30;
/// Transaction records shown on each side of a stop.
const SHOWN: usize = 3;
/// A node whose archive ends this long before the time asked for may have lost its agent.
const SILENT_MICROS: i64 = 60_000_000;

/// Makes the plan.
pub async fn make(vault: &Vault, catalog: &Catalog, options: &PlanOptions) -> Result<Plan, Error> {
    if catalog.nodes.is_empty() {
        return Err(Error::Empty(vault.cluster().to_string()));
    }
    let window = window::of(vault, catalog).await?;
    let mut maker = Maker { options, window, nodes: Vec::new(), notes: Vec::new() };
    let (chosen, topology) = choose::nodes(catalog, &options.request, &mut maker.notes)?;
    for (name, node) in chosen {
        let line = Line::new(vault, name, node)
            .ok_or_else(|| maker.outside(format!("node {name} has no WAL archived")))?;
        let pretended = options.pretended.get(name).copied().unwrap_or(0);
        let ahead = options.clocks.get(name).copied().unwrap_or(0);
        maker.nodes.push(Node { span: Span::new(line, pretended), ahead, choice: None });
    }
    let starts = maker.starts().await?;
    let (histories, cut) = maker.settle_on(&starts).await?;
    let torn = maker.torn_by_time(&histories).await?;
    maker.plan(vault.cluster(), topology.cloned(), cut, torn).await
}

struct Maker<'a> {
    options: &'a PlanOptions,
    window: Window,
    nodes: Vec<Node<'a>>,
    notes: Vec<String>,
}

struct Node<'a> {
    span: Span<'a>,
    /// Microseconds.
    ahead: i64,
    choice: Option<Choice<'a>>,
}

impl<'a> Maker<'a> {
    fn outside(&self, why: String) -> Error {
        let end = |moment: Option<Moment>| moment.map_or_else(|| "unknown".to_owned(), |m| m.to_string());
        let (earliest, latest) = (end(self.window.earliest), end(self.window.latest));
        let window = match self.window.earliest {
            Some(_) => format!("the cluster can be restored from {earliest} to {latest}"),
            None => "no moment can be restored yet: not every node has a backup".to_owned(),
        };
        Error::Outside { asked: self.options.request.to_string(), why, window }
    }

    /// Chooses each node's first backup and the position that the request names on it.
    async fn starts(&mut self) -> Result<Vec<Lsn>, Error> {
        match &self.options.request {
            Request::Time(time) => self.starts_at(*time).await,
            Request::Latest => {
                self.choose(|_| Some(Lsn::MAX))?;
                Ok(vec![Lsn::MAX; self.nodes.len()])
            }
            Request::Earliest => {
                for at in 0..self.nodes.len() {
                    let first = choose::oldest(&self.node(at).span.line);
                    self.node_mut(at).choice = Some(first.ok_or_else(|| self.no_backup(at))?);
                }
                Ok(self.nodes.iter().map(Node::floor).collect())
            }
            Request::RestorePoint(name) => {
                let starts = self.starts_at_point(name).await?;
                let by_node = starts.clone();
                self.choose(|at| by_node.get(at).copied())?;
                Ok(starts)
            }
        }
    }

    async fn starts_at(&mut self, time: Moment) -> Result<Vec<Lsn>, Error> {
        let mut newest = None;
        for node in &mut self.nodes {
            let here = node.span.newest_time().await?.map(|t| t.plus_micros(-node.ahead));
            if let Some(here) = here.filter(|here| time.micros_since(*here) > SILENT_MICROS) {
                self.notes.push(format!(
                    "the archive of {} ends at {here}: if its agent did not run after that, what was committed there since is missing",
                    node.span.line.node
                ));
            }
            newest = newest.max(here);
        }
        if newest.is_none_or(|newest| time > newest) {
            return Err(self.outside("it lies after the last archived transaction".to_owned()));
        }
        let mut starts = Vec::new();
        for at in 0..self.nodes.len() {
            let node = self.node_mut(at);
            let own = time.plus_micros(node.ahead);
            let choice = choose::newest_before(&node.span.line, own);
            let Some(choice) = choice else {
                return Err(self.outside(format!(
                    "node {} has no backup that was finished by then",
                    self.node(at).span.line.node
                )));
            };
            let node = self.node_mut(at);
            let first = node.span.line.number_of(choice.stop());
            node.choice = Some(choice);
            let boundary = node.span.first_after(first, own).await?;
            let start = node.span.position_after(boundary, own).await?;
            starts.push(start.max(node.floor()));
        }
        Ok(starts)
    }

    /// Finds where each node's named restore point ends; the newest of that name.
    async fn starts_at_point(&mut self, name: &str) -> Result<Vec<Lsn>, Error> {
        let mut starts = Vec::new();
        for at in 0..self.nodes.len() {
            let node = self.node_mut(at);
            let (first, last) = (node.span.line.first, node.span.line.last);
            let mut found = None;
            for number in (first..=last).rev() {
                let index = node.span.index(number).await?;
                found = index.events.iter().rev().find_map(|event| match &event.what {
                    What::RestorePoint { name: its, .. } if its == name => Some(event.end),
                    _ => None,
                });
                if found.is_some() {
                    break;
                }
            }
            let missing = format!("node {} has no restore point of that name archived", node.span.line.node);
            starts.push(found.ok_or_else(|| self.outside(missing))?);
        }
        Ok(starts)
    }

    fn choose(&mut self, start: impl Fn(usize) -> Option<Lsn>) -> Result<(), Error> {
        for at in 0..self.nodes.len() {
            let before = start(at).unwrap_or(Lsn::MAX);
            let choice = choose::newest_at(&self.node(at).span.line, before);
            self.node_mut(at).choice = Some(choice.ok_or_else(|| self.no_backup(at))?);
        }
        Ok(())
    }

    fn no_backup(&self, at: usize) -> Error {
        self.outside(format!("node {} has no backup before it", self.node(at).span.line.node))
    }

    /// Finds the cut, with older backups and more of the WAL until both are enough.
    async fn settle_on(&mut self, starts: &[Lsn]) -> Result<(Vec<NodeHistory>, Cut), Error> {
        let mut back = LOOK_BACK_MICROS;
        loop {
            let mut histories = Vec::new();
            let mut all = true;
            for (node, start) in self.nodes.iter_mut().zip(starts) {
                let (history, whole) = node.history(*start, back).await?;
                all &= whole;
                histories.push(history);
            }
            let found = match self.options.request {
                Request::Earliest => cut::first_consistent_at_or_after(&histories, starts),
                _ => cut::greatest_consistent(&histories, starts),
            };
            match found {
                Ok(cut) if all || !cut.wants.iter().any(|want| want.side == Side::Earlier) => {
                    return Ok((histories, cut));
                }
                Ok(_) => {}
                Err(cut::Error::Before { .. } | cut::Error::TooEarly { .. }) if !all => {}
                Err(cut::Error::Before { .. } | cut::Error::TooEarly { .. }) if self.older_backups() => {}
                Err(
                    source @ (cut::Error::Before { .. }
                    | cut::Error::TooEarly { .. }
                    | cut::Error::TooLate { .. }),
                ) => {
                    return Err(self.outside(source.to_string()));
                }
                Err(source) => return Err(Error::Cut(source)),
            }
            back = back.saturating_mul(GROW);
        }
    }

    /// Takes the next older backup of every node that has one; says whether any had.
    fn older_backups(&mut self) -> bool {
        let mut any = false;
        for node in &mut self.nodes {
            if let Some(older) = node.choice.as_ref().and_then(|c| choose::older(&node.span.line, c)) {
                node.choice = Some(older);
                any = true;
            }
        }
        any
    }

    /// Returns what `recovery_target_time` on every node would have torn: each by its own clock.
    async fn torn_by_time(&mut self, histories: &[NodeHistory]) -> Result<Vec<Torn>, Error> {
        let Request::Time(time) = self.options.request else { return Ok(Vec::new()) };
        let mut stops = Vec::new();
        for (node, history) in self.nodes.iter_mut().zip(histories) {
            let first = node.span.line.number_of(history.earliest);
            let boundary = node.span.first_after(first, time).await?;
            stops.push(node.span.position_after(boundary, time).await?.max(history.earliest));
        }
        Known::new(histories).and_then(|known| known.torn(&stops)).map_err(Error::Cut)
    }

    async fn plan(
        mut self,
        cluster: &ClusterName,
        topology: Option<crate::manifest::topology::TopologyDoc>,
        cut: Cut,
        torn_by_time: Vec<Torn>,
    ) -> Result<Plan, Error> {
        let asked = match self.options.request {
            Request::Time(time) => Some(time),
            _ => None,
        };
        let mut nodes = Vec::new();
        for (node, stop) in self.nodes.iter_mut().zip(&cut.stop) {
            nodes.push(node.plan(*stop, asked).await?);
        }
        let newest = nodes.iter().filter_map(|node| Some(node.last_included.as_ref()?.time)).max();
        for want in &cut.wants {
            let side = if want.side == Side::Earlier { "before" } else { "after" };
            self.notes.push(format!(
                "WAL of {} {side} what is archived would tell more about transactions around the cut",
                want.node
            ));
        }
        Ok(Plan {
            version: VERSION,
            cluster: cluster.clone(),
            new_name: self.options.new_name.clone(),
            made_at: clock::now(),
            request: self.options.request.clone(),
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
            notes: self.notes,
        })
    }

    fn node(&self, at: usize) -> &Node<'a> {
        self.nodes.get(at).expect("nodes are numbered by their places")
    }

    fn node_mut(&mut self, at: usize) -> &mut Node<'a> {
        self.nodes.get_mut(at).expect("nodes are numbered by their places")
    }
}

impl Node<'_> {
    /// Returns where its backup is consistent: no cut lies before it.
    fn floor(&self) -> Lsn {
        self.choice.as_ref().map_or(Lsn::INVALID, Choice::stop)
    }

    /// Returns what is known from `back` microseconds before `start` on; and whether that is all since its backup.
    async fn history(&mut self, start: Lsn, back: i64) -> Result<(NodeHistory, bool), Error> {
        let floor = self.floor();
        let line = &self.span.line;
        let lowest = line.number_of(floor);
        if lowest < line.first {
            return Err(line.gap(line.first.saturating_sub(1)));
        }
        let at = line.number_of(start).clamp(lowest, line.last);
        let group = line.catalog.doc.group;
        let last = line.last;
        let older = self.choice.as_ref().map_or(&[][..], |choice| &choice.ends.foot.prepared);
        let known = self.span.index(at).await?.times.map(|times| times.min);
        // Transactions that only the backup saw prepared may have ended anywhere since.
        let mut first = if older.is_empty() { at } else { lowest };
        while first > lowest {
            first -= 1;
            let times = self.span.index(first).await?.times;
            if times.zip(known).is_some_and(|(times, known)| known.micros_since(times.max) > back) {
                break;
            }
        }
        let whole = first == lowest;
        let earliest = if whole {
            floor
        } else {
            self.span.index(first).await?.first_record.unwrap_or(self.span.line.start_of(first))
        };
        // Forward: enough to see how what straddles the position ended.
        let mut end = at;
        while end < last {
            end += 1;
            let times = self.span.index(end).await?.times;
            if times.zip(known).is_some_and(|(times, known)| times.min.micros_since(known) > back) {
                break;
            }
        }
        let older = self.choice.as_ref().map_or(&[][..], |choice| &choice.ends.foot.prepared);
        Ok((self.span.history(group, earliest, end, older).await?, whole))
    }

    async fn plan(&mut self, stop: Lsn, asked: Option<Moment>) -> Result<NodePlan, Error> {
        let choice = self.choice.clone().ok_or_else(|| self.span.line.gap(self.span.line.first))?;
        let (head, foot) = (&choice.ends.head, &choice.ends.foot);
        let wal_end = self.span.end().await?;
        let stop_before = (stop < wal_end && self.span.goes_on(stop).await?).then_some(stop);
        let reached = stop_before.unwrap_or(wal_end);
        let Around { before, after } = self.span.around(reached, foot.stop_lsn, SHOWN).await?;
        let line = &self.span.line;
        let first = line.number_of(head.start_lsn);
        if first < line.first {
            return Err(line.gap(line.first.saturating_sub(1)));
        }
        // The record after the stop is read too: recovery must see it to stop before it.
        let read_to =
            after.first().filter(|_| stop_before.is_some()).map_or(reached, |next| next.lsn.max(reached));
        let last = line.number_of(read_to).saturating_add(1).min(line.last);
        let doc = &line.catalog.doc;
        let last_included = before.last().cloned();
        let before_target_micros = asked
            .zip(last_included.as_ref())
            .map(|(t, mark)| t.plus_micros(self.ahead).micros_since(mark.time));
        Ok(NodePlan {
            node: line.node.clone(),
            group: doc.group,
            system_identifier: doc.system_identifier.clone(),
            postgres_version: doc.postgres_version,
            segment_bytes: doc.segment_bytes,
            backup: head.backup.clone(),
            backup_start: head.start_lsn,
            backup_stop: foot.stop_lsn,
            backup_stopped_at: foot.stopped_at,
            timeline: line.timeline_before(reached),
            wal: line.ranges(first, last)?,
            wal_end,
            stop_before,
            first_excluded: after.first().filter(|_| stop_before.is_some()).cloned(),
            last_included,
            before_target_micros,
            clock_ahead_micros: self.ahead,
            parameters: self.span.parameters(foot.parameters),
            around: before.into_iter().chain(after).collect(),
        })
    }
}
