//! What `pitrus info` shows, for people and for programs. Filled by its parent; here it is only laid out.

use serde::Serialize;

use crate::ids::{BackupId, ClusterName, GroupId, NodeName, ZoneName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

#[derive(Debug, Serialize)]
pub(super) struct Info {
    /// Of this document.
    pub(super) version: u32,
    pub(super) cluster: ClusterName,
    pub(super) at: Moment,
    pub(super) window: Window,
    pub(super) nodes: Vec<Node>,
    pub(super) zones: Vec<Zone>,
    /// What the agent on this machine says, where one has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<Agent>,
}

/// The moments to which the whole cluster can be restored.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Window {
    Open { earliest: Moment, latest: Moment },
    Closed { because: String },
}

#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) node: NodeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<GroupId>,
    pub(super) backups: Vec<Backup>,
    /// Manifests that no zone holds in good order.
    pub(super) unreadable_backups: Vec<BackupId>,
    /// The end of what the zones hold of its WAL, and the last time stamp in it.
    pub(super) archived: Option<Archived>,
    pub(super) gaps: Vec<Gap>,
    /// What its agent last found its clock to be; `None` where it never compared it.
    pub(super) clock: Option<Clock>,
}

/// How far a node's clock was ahead of the coordinator's.
#[derive(Debug, Serialize)]
pub(super) struct Clock {
    pub(super) at: Moment,
    /// The node is the coordinator.
    pub(super) is_reference: bool,
    pub(super) ahead_micros: i64,
    pub(super) uncertain_micros: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Backup {
    pub(super) backup: BackupId,
    pub(super) started_at: Moment,
    pub(super) stopped_at: Moment,
    pub(super) bytes: u64,
    /// Read from the data directory, and stored: less than all where older backups gave the rest.
    pub(super) read_bytes: u64,
    pub(super) stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) goes_on: Option<BackupId>,
    pub(super) bad_pages: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Archived {
    pub(super) timeline: TimelineId,
    pub(super) to: Lsn,
    pub(super) at: Option<Moment>,
}

/// Segments that are not archived, both ends included, by their file names.
#[derive(Debug, Serialize)]
pub(super) struct Gap {
    pub(super) first: String,
    pub(super) last: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Zone {
    pub(super) zone: ZoneName,
    pub(super) reachable: bool,
    pub(super) objects: u64,
    /// Objects that another zone holds and this one does not.
    pub(super) missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Agent {
    pub(super) node: NodeName,
    pub(super) said_at: Moment,
    pub(super) connected: bool,
    pub(super) lag_bytes: u64,
    pub(super) waiting_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
    /// Why its clock cannot be compared, or what was found cannot be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clock_error: Option<String>,
}

/// Clocks that are off by more are worth a word.
pub(in crate::cli) const CLOCK_FINE_MICROS: i64 = 10_000;

impl Info {
    pub(super) fn text(&self) -> String {
        let mut text = format!("cluster {} at {}\n", self.cluster, self.at);
        text += &match &self.window {
            Window::Open { earliest, latest } => {
                format!(
                    "restorable from {earliest}\n             to {latest} ({} ago)\n",
                    self.since(*latest)
                )
            }
            Window::Closed { because } => format!("NOT restorable: {because}\n"),
        };
        for node in &self.nodes {
            text += &self.node(node);
        }
        text += "\nzones\n";
        let width = self.zones.iter().map(|z| z.zone.as_str().len()).max().unwrap_or(0);
        for zone in &self.zones {
            let state = match (&zone.problem, zone.reachable) {
                (Some(problem), false) => format!("DOES NOT ANSWER: {problem}"),
                (None, false) => "DOES NOT ANSWER".to_owned(),
                (_, true) if zone.missing > 0 => {
                    format!("{} objects, LACKS {}: run `pitrus repair`", zone.objects, zone.missing)
                }
                (_, true) => format!("{} objects, complete", zone.objects),
            };
            text += &format!("  {:width$}  {state}\n", zone.zone.as_str());
        }
        if let Some(agent) = &self.agent {
            text += &self.agent(agent);
        }
        text
    }

    fn node(&self, node: &Node) -> String {
        let group = node.group.map(|g| format!(" (group {g})")).unwrap_or_default();
        let mut text = format!("\nnode {}{group}\n", node.node);
        match &node.archived {
            Some(Archived { to, at: Some(at), .. }) => {
                text += &format!("  WAL to {to}, its last commit {} ago\n", self.since(*at));
            }
            Some(Archived { to, at: None, .. }) => text += &format!("  WAL to {to}\n"),
            None => text += "  NO WAL archived: is its agent running?\n",
        }
        for gap in &node.gaps {
            text += &format!("  GAP in the WAL: {} to {}\n", gap.first, gap.last);
        }
        text += &self.clock(node);
        if node.backups.is_empty() {
            text += "  NO backup\n";
        }
        for backup in &node.backups {
            let bad = match backup.bad_pages {
                0 => String::new(),
                pages => format!(", {pages} BAD PAGES"),
            };
            text += &format!(
                "  backup {} of {}, {}: {} read, {} stored{bad}\n",
                backup.backup,
                backup.stopped_at,
                bytes(backup.bytes),
                bytes(backup.read_bytes),
                bytes(backup.stored_bytes)
            );
        }
        for backup in &node.unreadable_backups {
            text += &format!("  backup {backup}: its manifest CANNOT BE READ in any zone\n");
        }
        text
    }

    fn clock(&self, node: &Node) -> String {
        let Some(clock) = &node.clock else {
            if self.nodes.len() < 2 {
                return String::new();
            }
            return "  clock NEVER COMPARED with the coordinator's: its agent must reach the coordinator\n"
                .to_owned();
        };
        if clock.is_reference {
            return String::new();
        }
        let is_off = clock.ahead_micros.abs() > CLOCK_FINE_MICROS.saturating_add(clock.uncertain_micros);
        let side = match (is_off, clock.ahead_micros < 0) {
            (true, true) => "BEHIND",
            (true, false) => "AHEAD OF",
            (false, true) => "behind",
            (false, false) => "ahead of",
        };
        let millis = |micros: i64| micros.unsigned_abs() as f64 / 1e3;
        let (ahead, uncertain) = (millis(clock.ahead_micros), millis(clock.uncertain_micros));
        let ago = self.since(clock.at);
        format!(
            "  clock {ahead:.1} ms {side} the coordinator's, give or take {uncertain:.1} ms ({ago} ago)\n"
        )
    }

    fn agent(&self, agent: &Agent) -> String {
        let mut text =
            format!("\nagent of {} on this machine, {} ago\n", agent.node, self.since(agent.said_at));
        text += match agent.connected {
            true => "  streaming",
            false => "  NOT CONNECTED to its server",
        };
        text += &format!(", {} behind, oldest waiting {} ms\n", bytes(agent.lag_bytes), agent.waiting_ms);
        if let Some(error) = &agent.last_error {
            text += &format!("  last error: {error}\n");
        }
        if let Some(error) = &agent.clock_error {
            text += &format!("  clock NOT COMPARED: {error}\n");
        }
        text
    }

    fn since(&self, moment: Moment) -> String {
        let seconds = self.at.micros_since(moment).max(0) / 1_000_000;
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            7200..172_800 => format!("{} h", seconds / 3600),
            _ => format!("{} days", seconds / 86_400),
        }
    }
}

/// Returns a size for people: three digits and a unit.
pub(in crate::cli) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let digits = match size {
        s if unit == 0 || s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        _ => 2,
    };
    format!("{size:.digits$} {}", UNITS.get(unit).unwrap_or(&"B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Moment {
        text.parse().unwrap()
    }

    #[test]
    fn people_read_what_matters() {
        let info = Info {
            version: 1,
            cluster: "prod".parse().unwrap(),
            at: at("2026-11-21T09:00:10Z"),
            window: Window::Open { earliest: at("2026-11-20T02:00:00Z"), latest: at("2026-11-21T09:00:08Z") },
            nodes: vec![Node {
                node: "worker-1".parse().unwrap(),
                group: Some(GroupId(1)),
                backups: vec![Backup {
                    backup: "20261121t020000z-00ff".parse().unwrap(),
                    started_at: at("2026-11-21T02:00:00Z"),
                    stopped_at: at("2026-11-21T02:10:00Z"),
                    bytes: 3 << 30,
                    read_bytes: 3 << 30,
                    stored_bytes: 700 << 20,
                    goes_on: None,
                    bad_pages: 2,
                }],
                unreadable_backups: Vec::new(),
                archived: Some(Archived {
                    timeline: TimelineId(1),
                    to: Lsn(0x300_0148),
                    at: Some(at("2026-11-21T09:00:08Z")),
                }),
                gaps: vec![Gap {
                    first: "000000010000000000000002".into(),
                    last: "000000010000000000000002".into(),
                }],
                clock: Some(Clock {
                    at: at("2026-11-21T09:00:01Z"),
                    is_reference: false,
                    ahead_micros: -12_345,
                    uncertain_micros: 210,
                }),
            }],
            zones: vec![
                Zone { zone: "a".parse().unwrap(), reachable: true, objects: 12, missing: 0, problem: None },
                Zone { zone: "bb".parse().unwrap(), reachable: true, objects: 10, missing: 2, problem: None },
                Zone {
                    zone: "c".parse().unwrap(),
                    reachable: false,
                    objects: 0,
                    missing: 0,
                    problem: Some("no such folder".into()),
                },
            ],
            agent: None,
        };
        assert_eq!(
            info.text(),
            "cluster prod at 2026-11-21T09:00:10.000000Z\n\
             restorable from 2026-11-20T02:00:00.000000Z\n             to 2026-11-21T09:00:08.000000Z (2 s ago)\n\
             \nnode worker-1 (group 1)\n  WAL to 0/3000148, its last commit 2 s ago\n\
             \x20 GAP in the WAL: 000000010000000000000002 to 000000010000000000000002\n\
             \x20 clock 12.3 ms BEHIND the coordinator's, give or take 0.2 ms (9 s ago)\n\
             \x20 backup 20261121t020000z-00ff of 2026-11-21T02:10:00.000000Z, 3.00 GiB: 3.00 GiB read, 700 MiB stored, 2 BAD PAGES\n\
             \nzones\n  a   12 objects, complete\n  bb  10 objects, LACKS 2: run `pitrus repair`\n\
             \x20 c   DOES NOT ANSWER: no such folder\n"
        );
        assert!(serde_json::to_string(&info).unwrap().contains("\"window\":{\"open\":{\"earliest\":"));
    }

    #[test]
    fn sizes_have_three_digits() {
        for (count, want) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (10 << 20, "10.0 MiB")] {
            assert_eq!(bytes(count), want);
        }
    }
}
