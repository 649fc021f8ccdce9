//! From directories and a moment asked for to what is shown.

use std::collections::BTreeMap;

use super::error::Error;
use super::node::{Node, name};
use super::shown::{NodeShown, Shown};
use crate::cli::args;
use crate::cut::look::{Aimed, Log, Unaimed, aim, find, settle};
use crate::cut::{self, Cut, Known, NodeHistory, Request, Torn};
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::restore::plan::Follow;
use crate::waldir::WalDir;

/// A node whose WAL ends this long before the time asked for may miss some.
const SILENT_MICROS: i64 = 60_000_000;
/// Ended transactions of unknown name are listed up to this many.
const STRANGERS_MAX: usize = 5;

pub(super) async fn make(args: &args::Cut) -> Result<Shown, Error> {
    let request = args.aim.request().ok_or_else(|| ask("no moment is named", "add --time or --latest"))?;
    let mut maker = Maker { nodes: nodes(args)?, request, notes: Vec::new() };
    let starts = maker.starts().await?;
    let is_onward = maker.request.is_onward();
    let (histories, found) = settle(&mut maker.nodes, &starts, is_onward).await?;
    let cut = match found {
        Ok(cut) => cut,
        Err(
            source @ (cut::Error::Before { .. } | cut::Error::TooEarly { .. } | cut::Error::TooLate { .. }),
        ) => {
            let why = source.to_string();
            return Err(maker.outside(why).await?);
        }
        Err(source) => return Err(Error::Cut(source)),
    };
    let known = Known::new(&histories).map_err(Error::Cut)?;
    let torn = maker.torn_by_time(&known, &histories).await?;
    let explained =
        args.explain.then(|| known.explain(&starts, is_onward)).transpose().map_err(Error::Cut)?;
    let mut shown = maker.shown(&starts, cut, torn).await?;
    shown.explanation = explained;
    Ok(shown)
}

fn ask(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Ask { what: what.into(), hint: hint.into() }
}

fn nodes(args: &args::Cut) -> Result<Vec<Node>, Error> {
    let mut clocks: BTreeMap<&str, i64> = BTreeMap::new();
    let mut pretended: BTreeMap<&str, i64> = BTreeMap::new();
    let is_node = |node: &NodeName| args.nodes.iter().any(|(group, _)| group.to_string() == node.as_str());
    for (list, given) in [(&mut clocks, &args.clocks.clocks), (&mut pretended, &args.clocks.pretended)] {
        for (node, micros) in given {
            if !is_node(node) {
                return Err(ask(
                    format!("--clock {node}: there is no node {node}"),
                    "name it with --node too",
                ));
            }
            if list.insert(node.as_str(), *micros).is_some() {
                return Err(ask(format!("--clock names node {node} twice"), "name each node once"));
            }
        }
    }
    let twice = |what| ask(what, "a node follows one timeline");
    let Follow { all, of } = args.branches.follow().map_err(twice)?;
    if let Some(stranger) = of.keys().find(|node| !is_node(node)) {
        return Err(ask(
            format!("--timeline {stranger}: there is no node {stranger}"),
            "name it with --node too",
        ));
    }
    let mut nodes: Vec<Node> = Vec::new();
    for (group, path) in &args.nodes {
        if nodes.iter().any(|node| node.group == *group) {
            return Err(ask(format!("--node names group {group} twice"), "give each node one directory"));
        }
        let named = group.to_string();
        let own = of.iter().find(|(node, _)| node.as_str() == named).map(|(_, timeline)| *timeline);
        let timeline = own.or(all);
        let dir =
            WalDir::open(path, timeline)?.pretending(pretended.get(named.as_str()).copied().unwrap_or(0));
        for other in &nodes {
            if !other.dir.is_of_one_server(&dir)? {
                continue;
            }
            let what = format!(
                "nodes {} and {group} have WAL of one server (system identifier {}), in {} and {}",
                other.group,
                dir.system(),
                other.dir.folder().display(),
                path.display()
            );
            return Err(ask(what, "give each node its own server's WAL"));
        }
        nodes.push(Node::new(*group, dir, clocks.get(named.as_str()).copied().unwrap_or(0)));
    }
    Ok(nodes)
}

struct Maker {
    nodes: Vec<Node>,
    request: Request,
    notes: Vec<String>,
}

impl Maker {
    async fn outside(&mut self, why: String) -> Result<Error, Error> {
        let mut window = Vec::new();
        for node in &mut self.nodes {
            let ends = node.times().await?;
            let ends =
                ends.map_or("has no time stamp".to_owned(), |(from, to)| format!("is of {from} to {to}"));
            let gap = if node.dir.is_before_gap() { ", then a gap" } else { "" };
            window.push(format!("the WAL of node {} {ends}{gap}", node.group));
        }
        Ok(Error::Outside { asked: self.request.to_string(), why, window: window.join(", ") })
    }

    async fn starts(&mut self) -> Result<Vec<Lsn>, Error> {
        if let Some(time) = self.request.time() {
            self.within(time).await?;
        }
        let mut request = self.request.clone();
        if let Request::Stop { node, .. } = &mut request {
            let own = self.nodes.iter().find(|one| one.group.to_string() == node.as_str());
            let Some(own) = own else {
                return Err(ask(
                    format!("--stop {node}: there is no node {node}"),
                    "name it with --node too",
                ));
            };
            *node = name(own.group);
        }
        match aim(&mut self.nodes, &request).await? {
            Ok(starts) => Ok(starts),
            Err(Unaimed::Outside(why)) => Err(self.outside(why).await?),
            Err(Unaimed::Ask(what, hint)) => Err(Error::Ask { what, hint }),
            Err(Unaimed::Cut(source)) => Err(Error::Cut(source)),
        }
    }

    /// Refuses a time after everything that is there, and tells of nodes whose WAL ends before it.
    async fn within(&mut self, time: Moment) -> Result<(), Error> {
        let mut newest = None;
        for node in &mut self.nodes {
            let Some((_, here)) = node.times().await? else { continue };
            if time.micros_since(here) > SILENT_MICROS {
                self.notes.push(format!(
                    "the WAL of node {} in {} ends at {here}: what was committed there since is missing",
                    node.group,
                    node.dir.folder().display()
                ));
            }
            newest = newest.max(Some(here));
        }
        if newest.is_none_or(|newest| time > newest) {
            let why = "it lies after the last transaction in these directories".to_owned();
            return Err(self.outside(why).await?);
        }
        Ok(())
    }

    /// Returns what `recovery_target_time` on every node would tear: each by its own clock.
    async fn torn_by_time(
        &mut self,
        known: &Known<'_>,
        histories: &[NodeHistory],
    ) -> Result<Vec<Torn>, Error> {
        let Some(time) = self.request.time() else { return Ok(Vec::new()) };
        let mut stops = Vec::new();
        for (node, history) in self.nodes.iter_mut().zip(histories) {
            stops.push(node.dir.naive_stop(time).await?.max(history.earliest));
        }
        known.torn(&stops).map_err(Error::Cut)
    }

    async fn shown(mut self, starts: &[Lsn], cut: Cut, torn: Vec<Torn>) -> Result<Shown, Error> {
        let mut shown = Vec::new();
        for ((node, start), stop) in self.nodes.iter_mut().zip(starts).zip(&cut.stop) {
            shown.push(node_shown(node, self.request.time(), *start, *stop).await?);
            self.notes.extend(node.dir.notes().iter().map(|note| format!("node {}: {note}", node.group)));
            if node.dir.is_before_gap() {
                self.notes
                    .push(format!("node {}: WAL is missing later on: this lies before the gap", node.group));
            }
            self.notes.append(&mut node.notes);
            self.notes.extend(node.dir.doubt(*stop)?.map(|doubt| format!("node {}: {doubt}", node.group)));
            self.notes.extend(strangers(node));
        }
        for want in &cut.wants {
            let side = if want.side == cut::Side::Earlier { "before" } else { "after" };
            self.notes.push(format!(
                "WAL of node {} {side} what is in its directory would tell more about transactions around the cut",
                want.node
            ));
        }
        Ok(Shown::new(&self.request, shown, cut, torn, self.notes))
    }
}

async fn node_shown(
    node: &mut Node,
    asked: Option<Moment>,
    start: Lsn,
    stop: Lsn,
) -> Result<NodeShown, Error> {
    let end = node.dir.end()?;
    // Without a stop recovery would go on into WAL that a promotion left aside.
    let runs_on = stop >= end && node.dir.is_left_at_end()?;
    let stop = if runs_on { end } else { stop };
    let goes_on = runs_on || goes_on(stop, end, node.dir.segment_bytes());
    let last_inside = find::time_before(node.log(), stop.min(end)).await?;
    let moved_back_ms = if stop == start {
        0.0
    } else {
        let from = match asked {
            Some(time) => Some(time.plus_micros(node.ahead())),
            None => find::time_before(node.log(), start.min(end)).await?,
        };
        let to = node.time_at(stop).await?.or(last_inside);
        let micros = from.zip(to).map_or(0, |(from, to)| from.micros_since(to));
        // A clock that steps back does not make a move a move on.
        let micros = if stop < start { micros.max(0) } else { micros.min(0) };
        micros as f64 / 1000.0
    };
    Ok(NodeShown {
        group: node.group,
        stop_before: goes_on.then_some(stop),
        timeline: node.dir.timeline_to(if goes_on { stop } else { end }),
        moved_back_ms,
        last_inside,
        known_to: end,
    })
}

/// Returns whether a record begins at or after `stop`: without one PostgreSQL refuses it as a target.
fn goes_on(stop: Lsn, end: Lsn, segment_bytes: u32) -> bool {
    const PAGE_BYTES: u64 = 8192;
    let header = match stop {
        _ if stop.segment_offset(segment_bytes) == 0 => 40,
        _ if stop.0.is_multiple_of(PAGE_BYTES) => 24,
        _ => 0,
    };
    end > stop.plus(header)
}

fn strangers(node: &Node) -> Vec<String> {
    let all: Vec<_> = node.dir.strangers().collect();
    let mut notes: Vec<String> = all
        .iter()
        .take(STRANGERS_MAX)
        .map(|one| {
            format!(
                "node {}: prepared transaction {} ended at {} ({}); it was prepared before the WAL in {} begins, so \
                 that nothing tells whether the cut tears it",
                node.group,
                one.xid,
                one.lsn,
                one.time,
                node.dir.folder().display()
            )
        })
        .collect();
    if let more @ 1.. = all.len().saturating_sub(STRANGERS_MAX) {
        notes.push(format!("node {}: and {more} more such", node.group));
    }
    notes
}
