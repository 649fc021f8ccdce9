//! The plan as people read it: a table of nodes, then what is particular about this cut.

use std::fmt;

use super::document::{ClockSource, Landmark, LandmarkKind, NodePlan, Plan};
use crate::lsn::Lsn;

/// Lists longer than this are cut short; the JSON form has all of them.
const LIST_MAX: usize = 10;

impl fmt::Display for LandmarkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            LandmarkKind::Prepare => "prepare",
            LandmarkKind::Commit => "commit",
            LandmarkKind::Abort => "abort",
            LandmarkKind::CommitPrepared => "commit prepared",
            LandmarkKind::RollbackPrepared => "rollback prepared",
        })
    }
}

impl fmt::Display for Landmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14}  {}  xid {:<10} {}", self.lsn.to_string(), self.time, self.xid, self.kind)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "restore {} as {}, to {}", self.cluster, self.new_name, self.request)?;
        if let (Some(earliest), Some(latest)) = (self.window.earliest, self.window.latest) {
            writeln!(f, "restorable: {earliest} to {latest}")?;
        }
        writeln!(f)?;
        table(f, &self.rows())?;
        self.write_clocks(f)?;
        list(f, "moved to a consistent cut", &self.moves)?;
        list(f, "left out: inside at the positions asked for, outside the cut", &self.left_out_lines())?;
        list(f, "settled after recovery", &self.settle_lines())?;
        let foreign = self.foreign.iter().map(|p| format!("{}: {}", p.node, p.gid)).collect::<Vec<_>>();
        list(f, "prepared on one node only, and not by Citus: left as they are", &foreign)?;
        list(f, "broken in the source already", &self.orphans)?;
        list(f, "what stopping each node by its own clock would tear", &self.torn_lines())?;
        if let Some(explanation) = &self.explanation {
            write!(f, "{explanation}")?;
        }
        for node in &self.nodes {
            node.write_around(f)?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// Writes how far each clock was ahead, and what that leaves uncertain.
    fn write_clocks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.iter().all(|node| node.clock_source == ClockSource::NotNeeded) {
            return Ok(());
        }
        writeln!(f, "\nclocks at that moment, against the coordinator's:")?;
        let width = self.nodes.iter().map(|node| node.node.as_str().len()).max().unwrap_or(0);
        for node in &self.nodes {
            writeln!(f, "  {:width$}  {}", node.node.as_str(), node.clock_line())?;
        }
        if self.nodes.len() < 2 || self.request.time().is_none() {
            return Ok(());
        }
        match self.order_uncertain_micros {
            Some(micros) => writeln!(
                f,
                "one-node transactions of different nodes, which nothing in the WAL ties together, are ordered to within {}",
                millis(micros)
            ),
            None => writeln!(
                f,
                "one-node transactions of different nodes, which nothing in the WAL ties together, are ordered only as well \
                 as the clocks agreed, which was not measured on every node"
            ),
        }
    }

    fn rows(&self) -> Vec<[String; 6]> {
        let head = ["node", "backup", "WAL", "stop before", "last inside", "before the target"];
        std::iter::once(head.map(str::to_owned)).chain(self.nodes.iter().map(NodePlan::row)).collect()
    }

    fn left_out_lines(&self) -> Vec<String> {
        let line = |l: &crate::cut::LeftOut| {
            let by = l.initiator.as_ref().map_or("no initiator here", |n| n.as_str());
            let at = l.decision.map_or("decision not archived".to_owned(), |lsn| lsn.to_string());
            format!("{}  {} ({by}, {at})", l.time, l.gids.join(" "))
        };
        self.left_out.iter().map(line).collect()
    }

    fn settle_lines(&self) -> Vec<String> {
        self.settle.iter().map(|s| format!("{}: {} {}", s.node, s.gid, s.action)).collect()
    }

    fn torn_lines(&self) -> Vec<String> {
        let names =
            |nodes: &[crate::ids::NodeName]| nodes.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
        let line = |t: &crate::cut::Torn| {
            format!(
                "{}  {}: kept on {}, lost on {}",
                t.time,
                t.gids.join(" "),
                names(&t.kept_on),
                names(&t.lost_on)
            )
        };
        self.torn_by_time.iter().map(line).collect()
    }
}

impl NodePlan {
    fn row(&self) -> [String; 6] {
        let segments: u64 = self.wal.iter().map(super::WalRange::count).sum();
        [
            self.node.to_string(),
            self.backup.to_string(),
            format!("{segments} segments, timeline {}", self.timeline),
            self.stop_before.map_or(format!("end ({})", self.wal_end), |lsn| lsn.to_string()),
            self.last_included.as_ref().map_or("-".to_owned(), |l| l.time.to_string()),
            self.before_target_micros.map_or("-".to_owned(), millis),
        ]
    }

    fn clock_line(&self) -> String {
        let ahead = || {
            let side = if self.clock_ahead_micros < 0 { "behind" } else { "ahead" };
            format!("{:.3} ms {side}", self.clock_ahead_micros.unsigned_abs() as f64 / 1000.0)
        };
        match (self.clock_source, self.clock_uncertain_micros) {
            (ClockSource::NotNeeded, _) => "not needed".to_owned(),
            (ClockSource::Coordinator, _) => "the coordinator's own".to_owned(),
            (ClockSource::Given, _) => format!("{}, as given by --clock", ahead()),
            (ClockSource::Sampled, Some(micros)) => format!("{}, give or take {}", ahead(), millis(micros)),
            _ => "not measured: taken to be right".to_owned(),
        }
    }

    fn write_around(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.around.is_empty() {
            return Ok(());
        }
        writeln!(f, "\naround the cut on {}:", self.node)?;
        let stop = self.stop_before.unwrap_or(Lsn::MAX);
        for landmark in &self.around {
            let side = if landmark.lsn < stop { "in " } else { "out" };
            writeln!(f, "  {side} {landmark}")?;
        }
        Ok(())
    }
}

fn millis(micros: i64) -> String {
    format!("{:.3} ms", micros as f64 / 1000.0)
}

/// Writes rows in columns; the first row is the heading.
pub(crate) fn table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(f, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, title: &str, items: &[T]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title} ({}):", items.len())?;
    for item in items.iter().take(LIST_MAX) {
        writeln!(f, "  {item}")?;
    }
    match items.len().saturating_sub(LIST_MAX) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more (see --output json)"),
    }
}
