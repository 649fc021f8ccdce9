//! The cut as people read it: one table, then what is particular about this cut, then what to do with it.

use std::collections::BTreeMap;
use std::fmt;

use super::shown::{LeftOutShown, MoveShown, NodeShown, PreparedShown, SettleShown, Shown, TornShown};
use crate::ids::GroupId;
use crate::restore::plan::table;

/// Lists longer than this are cut short; the JSON form has all of them.
const LIST_MAX: usize = 10;

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "consistent cut for {}\n", self.request)?;
        table(f, &self.rows())?;
        list(f, "moved to a consistent cut", self.moves.iter().map(moved))?;
        list(
            f,
            "left out: inside at the moment asked for, outside the cut",
            self.left_out.iter().map(left_out),
        )?;
        list(f, "to be settled after recovery", self.to_settle.iter().map(settled))?;
        list(
            f,
            "prepared on one node only, and not by Citus: left as they are",
            self.foreign.iter().map(foreign),
        )?;
        list(f, "broken in the source already", self.orphans.iter().map(|one| one.text.clone()))?;
        if let Some(time) = self.request.time() {
            writeln!(
                f,
                "\nrecovery_target_time = '{}' on every node would tear {}",
                time.for_postgres(),
                count(self.torn_by_time.len())
            )?;
            list(f, "torn by it", self.torn_by_time.iter().map(torn))?;
        }
        if let Some(explanation) = &self.explanation {
            write!(f, "{explanation}")?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        self.write_use(f)
    }
}

impl Shown {
    fn rows(&self) -> Vec<[String; 5]> {
        let head = ["node", "recovery_target_lsn", "timeline", "moved back", "last inside, by its clock"];
        std::iter::once(head.map(str::to_owned)).chain(self.nodes.iter().map(NodeShown::row)).collect()
    }

    /// Writes settings and statements ready to paste.
    fn write_use(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nto restore, give each node a base backup that was finished before its position, with"
        )?;
        for node in &self.nodes {
            writeln!(f, "\n  # node {}", node.group)?;
            if let Some(stop) = node.stop_before {
                writeln!(f, "  recovery_target_lsn = '{stop}'")?;
                writeln!(f, "  recovery_target_inclusive = off")?;
                writeln!(f, "  recovery_target_action = 'promote'")?;
            } else {
                writeln!(
                    f,
                    "  # no target: recover the WAL of this directory to its end, {}, and none that came later",
                    node.known_to
                )?;
            }
            writeln!(f, "  recovery_target_timeline = '{}'", node.timeline)?;
        }
        writeln!(
            f,
            "\nStart the nodes apart from the source, without citus in shared_preload_libraries: a restored node's"
        )?;
        writeln!(f, "metadata names the source's hosts.")?;
        self.write_statements(f)
    }

    fn write_statements(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places: BTreeMap<(GroupId, Option<u32>), Vec<&SettleShown>> = BTreeMap::new();
        for one in &self.to_settle {
            places.entry((one.prepared.group, one.prepared.database)).or_default().push(one);
        }
        if places.is_empty() {
            return writeln!(f, "Nothing is prepared at this cut that has to be settled.");
        }
        writeln!(f, "When all are promoted, and before anybody else connects, run")?;
        for ((group, database), statements) in places {
            let database = database.map_or("its database".to_owned(), |oid| {
                format!("the database with oid {oid} (SELECT datname FROM pg_database WHERE oid = {oid})")
            });
            writeln!(f, "\n  -- node {}, in {database}", group)?;
            for one in statements {
                match &one.statement {
                    Some(statement) => writeln!(f, "  {statement}")?,
                    None => writeln!(
                        f,
                        "  -- {}: COMMIT PREPARED where pg_dist_transaction of its initiator has this gid, else ROLLBACK PREPARED",
                        one.prepared.gid
                    )?,
                }
            }
        }
        Ok(())
    }
}

impl NodeShown {
    fn row(&self) -> [String; 5] {
        [
            self.group.to_string(),
            self.stop_before.map_or(format!("end ({})", self.known_to), |lsn| lsn.to_string()),
            self.timeline.to_string(),
            format!("{:.3} ms", self.moved_back_ms),
            self.last_inside.map_or("-".to_owned(), |time| time.to_string()),
        ]
    }
}

fn moved(one: &MoveShown) -> String {
    let from = one.from.map_or("end".to_owned(), |from| from.to_string());
    format!("node {}: {from} -> {}: {}", one.group, one.to, one.because)
}

fn left_out(one: &LeftOutShown) -> String {
    let by = one.initiator.map_or("no initiator here".to_owned(), |group| format!("decided by node {group}"));
    let at = one.decision.map_or(String::new(), |lsn| format!(" at {lsn}"));
    format!("{}  {} ({by}{at})", one.time, one.gids.join(" "))
}

fn settled(one: &SettleShown) -> String {
    format!("node {}: {} {}", one.prepared.group, one.prepared.gid, one.action)
}

fn foreign(one: &PreparedShown) -> String {
    format!("node {}: {}", one.group, one.gid)
}

fn torn(one: &TornShown) -> String {
    let names = |groups: &[GroupId]| groups.iter().map(GroupId::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "{}  {}: kept on node {}, lost on node {}",
        one.time,
        one.gids.join(" "),
        names(&one.kept_on),
        names(&one.lost_on)
    )
}

fn count(transactions: usize) -> String {
    match transactions {
        0 => "no transaction".to_owned(),
        1 => "1 transaction".to_owned(),
        more => format!("{more} transactions"),
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    items: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    let all = items.len();
    if all == 0 {
        return Ok(());
    }
    writeln!(f, "\n{title} ({all}):")?;
    for item in items.take(LIST_MAX) {
        writeln!(f, "  {item}")?;
    }
    match all.saturating_sub(LIST_MAX) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more (see --output json)"),
    }
}
