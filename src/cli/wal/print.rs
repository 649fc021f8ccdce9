//! WAL as people read it.

use std::fmt;

use super::shown::{Did, Distributed, Node, Shown, Step};
use crate::wal::event::{Event, What};

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(f, "{node}")?;
        }
        for transaction in &self.transactions {
            writeln!(f, "{transaction}")?;
        }
        writeln!(f, "{} distributed transactions", self.transactions.len())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group.map_or(String::new(), |group| format!(", group {group}"));
        writeln!(
            f,
            "node {}: server {}{group}, {} files",
            self.node,
            self.system_identifier,
            self.files.len()
        )?;
        for read in &self.read {
            writeln!(f, "  {read}")?;
        }
        writeln!(f, "  {} other commits, {} rollbacks", self.commits, self.aborts)?;
        for mark in &self.marks {
            let time = mark.time.map_or(String::new(), |time| format!("  {time}"));
            writeln!(f, "  {:>14}{time}  {}", mark.lsn.to_string(), mark.what)?;
        }
        Ok(())
    }
}

impl fmt::Display for Distributed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.initiator, self.pid, self.number) {
            (Some(group), Some(pid), Some(number)) => {
                writeln!(f, "{}: group {group}, pid {pid}, number {number}", self.name)?;
            }
            _ => writeln!(f, "{}", self.name)?,
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let did = match self.did {
            Did::Prepare => "prepare",
            Did::Decide => "decide",
            Did::CommitPrepared => "commit prepared",
            Did::RollbackPrepared => "rollback prepared",
        };
        let place = format!("{:>14}  {}  node {}", self.lsn.to_string(), self.time, self.node);
        write!(f, "  {place}  {did:<17}  xid {:<10}  {}", self.xid, self.gids.join(" "))?;
        if self.groups.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        write!(f, " on groups {}", groups.join(", "))
    }
}

/// One event on a line.
pub(super) struct Line<'a> {
    pub(super) node: usize,
    pub(super) event: &'a Event,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { lsn, what, .. } = self.event;
        let time = what.time().map_or(String::new(), |time| time.to_string());
        write!(f, "node {}  {:>14}  {time:<27}  ", self.node, lsn.to_string())?;
        let gid = |gid: &Option<String>| gid.clone().unwrap_or_else(|| "prepared before".to_owned());
        match what {
            What::Prepare { xid, database, gid, .. } => {
                writeln!(f, "prepare            xid {xid}, database {database}, {gid}")
            }
            What::Commit { xid, decides, .. } if decides.is_empty() => {
                writeln!(f, "commit             xid {xid}")
            }
            What::Commit { xid, decides, .. } => {
                let rows: Vec<String> =
                    decides.iter().map(|row| format!("{} on group {}", row.gid, row.group)).collect();
                writeln!(f, "commit             xid {xid}, decides {}", rows.join(", "))
            }
            What::Abort { xid, .. } => writeln!(f, "rollback           xid {xid}"),
            What::CommitPrepared { xid, gid: its, .. } => {
                writeln!(f, "commit prepared    xid {xid}, {}", gid(its))
            }
            What::RollbackPrepared { xid, gid: its, .. } => {
                writeln!(f, "rollback prepared  xid {xid}, {}", gid(its))
            }
            What::RestorePoint { name, .. } => writeln!(f, "restore point      {name:?}"),
            What::Checkpoint { redo, timeline, next_xid, shutdown, time, .. } => {
                let kind = if *shutdown { "shutdown" } else { "online" };
                writeln!(
                    f,
                    "checkpoint         {kind}, of {time}, redo {redo}, timeline {timeline}, next xid {next_xid}"
                )
            }
            What::EndOfRecovery { timeline, previous, time } => {
                writeln!(f, "end of recovery    of {time}, timeline {timeline} after {previous}")
            }
            What::Parameters(parameters) => writeln!(f, "parameters         {parameters:?}"),
            What::Running { oldest, next } => {
                writeln!(f, "running            oldest xid {oldest}, next {next}")
            }
        }
    }
}
