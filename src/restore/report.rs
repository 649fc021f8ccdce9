//! What a restore leaves for people and programs: what was asked, what was done, what to do next.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::landing::Proof;
use super::metadata::{Address, Readdressed};
use super::open::{self, Checked};
use super::plan::Plan;
use super::settle::Settled;
use super::targets::Target;
use super::work::Work;
use super::{Error, RestoreOptions, conf};
use crate::clock;
use crate::ids::{BackupId, ClusterName, GroupId, NodeName};
use crate::lsn::Lsn;
use crate::manifest::backup::Setting;
use crate::moment::Moment;

const VERSION: u32 = 1;

/// The report of a whole restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub cluster: ClusterName,
    pub source_cluster: ClusterName,
    /// Identifies the plan.
    pub plan: String,
    /// The plan in full, as it was shown before the restore.
    pub plan_text: String,
    pub began: Moment,
    pub ended: Moment,
    pub nodes: Vec<NodeReport>,
    pub running: bool,
    pub checklist: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeName,
    pub group: Option<GroupId>,
    pub target: Target,
    pub backup: BackupId,
    pub replayed_from: Lsn,
    /// `None` where all WAL there is was replayed.
    pub stopped_before: Option<Lsn>,
    pub figures: Figures,
    pub proof: Option<Proof>,
    pub settled: Settled,
    pub metadata: Vec<Readdressed>,
    pub checked: Checked,
    pub start_command: String,
    /// The source's settings that differ from defaults: for re-applying.
    pub source_settings: Vec<Setting>,
    /// The source's rules of `pg_hba.conf`: for re-applying.
    pub source_hba: Vec<String>,
    /// The rules with which the new cluster's nodes reach each other; nothing uses them yet.
    pub hba_between_nodes: Vec<String>,
    /// Nodes reach each other with TLS, by the certificate that came with the data.
    pub ssl: bool,
}

/// Sizes and durations; a stage that an earlier run had done has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub files: u64,
    pub bytes: u64,
    /// Bytes that were there already, in a stopped copy.
    #[serde(default)]
    pub kept: u64,
    pub fetch_ms: u64,
    pub replay_ms: u64,
    pub settle_ms: u64,
    pub open_ms: u64,
}

impl Report {
    /// Writes both forms into a folder, and returns the paths.
    pub(super) fn write(&self, folder: &Path) -> Result<[PathBuf; 2], Error> {
        let json = serde_json::to_vec_pretty(self).expect("a report has only text keys");
        let files = [folder.join("pitrus-report.json"), folder.join("pitrus-report.txt")];
        for (path, bytes) in files.iter().zip([json, self.text().into_bytes()]) {
            conf::write_anew(path, &bytes)?;
        }
        Ok(files)
    }

    /// Returns the report as people read it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.tell(&mut text).expect("text grows without failing");
        text
    }

    fn tell(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{} was restored as {}.", self.source_cluster, self.cluster)?;
        let seconds = self.ended.micros_since(self.began) as f64 / 1e6;
        writeln!(out, "{} to {} ({seconds:.1} s), plan {}\n", self.began, self.ended, self.plan)?;
        writeln!(out, "{}\n", self.plan_text.trim_end())?;
        for node in &self.nodes {
            node.tell(out)?;
        }
        writeln!(out, "To do before clients come back")?;
        for (number, item) in (1..).zip(&self.checklist) {
            writeln!(out, "{number:3}. {}", item.replace('\n', "\n     "))?;
        }
        Ok(())
    }
}

impl NodeReport {
    fn of(work: &Work, addresses: &[Address]) -> Self {
        let Work { plan, ledger, foot, needs, instance, .. } = work;
        NodeReport {
            node: plan.node.clone(),
            group: plan.group,
            target: ledger.target.clone(),
            backup: plan.backup.clone(),
            replayed_from: plan.backup_start,
            stopped_before: plan.stop_before,
            figures: ledger.figures,
            proof: ledger.proof.clone(),
            settled: ledger.settled.clone(),
            metadata: ledger.metadata.clone(),
            checked: ledger.checked.clone(),
            start_command: open::start_command(instance),
            source_settings: foot.settings.clone(),
            source_hba: foot.hba.clone(),
            hba_between_nodes: if needs.citus { rules_between(addresses) } else { Vec::new() },
            ssl: needs.ssl,
        }
    }

    fn tell(&self, out: &mut String) -> std::fmt::Result {
        let Target { host, port, directory, .. } = &self.target;
        let group = self.group.map(|g| format!(" (group {g})")).unwrap_or_default();
        writeln!(out, "Node {}{group}: {host}:{port}, {}", self.node, directory.display())?;
        let f = &self.figures;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let kept = if f.kept > 0 { format!(" ({:.1} MiB kept)", mib(f.kept)) } else { String::new() };
        writeln!(
            out,
            "  backup {}, {} files, {:.1} MiB{kept}; fetch {:.1} s, replay {:.1} s, settle {:.1} s, check {:.1} s",
            self.backup,
            f.files,
            mib(f.bytes),
            f.fetch_ms as f64 / 1e3,
            f.replay_ms as f64 / 1e3,
            f.settle_ms as f64 / 1e3,
            f.open_ms as f64 / 1e3,
        )?;
        match self.stopped_before {
            Some(stop) => writeln!(out, "  replayed from {} to before {stop}", self.replayed_from)?,
            None => writeln!(out, "  replayed from {} to the end of its WAL", self.replayed_from)?,
        }
        if let Some(proof) = &self.proof {
            writeln!(
                out,
                "  proved: the old timeline ended at {}, now on timeline {}",
                proof.ended, proof.timeline
            )?;
            for seen in &proof.transactions {
                let place = if seen.inside { "last inside" } else { "first outside" };
                writeln!(
                    out,
                    "  proved: transaction {} ({}), {place}, is {}",
                    seen.xid, seen.kind, seen.status
                )?;
            }
        }
        self.tell_settled(out)?;
        for database in &self.metadata {
            for moved in &database.moved {
                writeln!(out, "  {}: {moved}", database.database)?;
            }
            for removed in &database.removed {
                writeln!(out, "  {}: the row of standby {removed} was removed", database.database)?;
            }
            for name in &database.subscriptions {
                writeln!(out, "  {}: subscription {name} was switched off", database.database)?;
            }
        }
        for found in &self.checked.citus {
            writeln!(out, "  Citus works in {found}")?;
        }
        writeln!(out, "  start it: {}\n", self.start_command)
    }

    fn tell_settled(&self, out: &mut String) -> std::fmt::Result {
        let Settled { committed, rolled_back, already, foreign } = &self.settled;
        for (what, gids) in
            [("committed", committed), ("rolled back", rolled_back), ("settled earlier", already)]
        {
            if !gids.is_empty() {
                writeln!(out, "  {what}: {}", gids.join(", "))?;
            }
        }
        for other in foreign {
            writeln!(out, "  left prepared, not Citus's: {} in {}", other.gid, other.database)?;
        }
        Ok(())
    }
}

/// Makes the report of a restore that has ended.
pub(super) fn of(options: &RestoreOptions, plan: &Plan, began: Moment, works: &[Work]) -> Report {
    let addresses: Vec<Address> = works.iter().filter_map(Work::address).collect();
    let nodes: Vec<NodeReport> = works.iter().map(|work| NodeReport::of(work, &addresses)).collect();
    Report {
        version: VERSION,
        cluster: plan.new_name.clone(),
        source_cluster: plan.cluster.clone(),
        plan: works.first().map(|w| w.ledger.plan.clone()).unwrap_or_default(),
        plan_text: plan.to_string(),
        began,
        ended: clock::now(),
        running: options.start,
        checklist: checklist(&plan.new_name, &nodes, options.start),
        nodes,
    }
}

/// Returns the rules that let the nodes of the new cluster in.
fn rules_between(addresses: &[Address]) -> Vec<String> {
    let mut hosts: Vec<String> = addresses.iter().flat_map(|a| hba_addresses(&a.host)).collect();
    hosts.sort();
    hosts.dedup();
    hosts.iter().map(|host| format!("host all all {host} scram-sha-256")).collect()
}

/// Returns a host as `pg_hba.conf` names it.
fn hba_addresses(host: &str) -> Vec<String> {
    match (host, host.parse::<IpAddr>()) {
        ("localhost", _) => vec!["127.0.0.1/32".to_owned(), "::1/128".to_owned()],
        (_, Ok(IpAddr::V4(_))) => vec![format!("{host}/32")],
        (_, Ok(IpAddr::V6(_))) => vec![format!("{host}/128")],
        (_, Err(_)) => vec![host.to_owned()],
    }
}

/// Returns what a person still has to do, filled in for this restore.
pub(super) fn checklist(cluster: &ClusterName, nodes: &[NodeReport], running: bool) -> Vec<String> {
    let mut list = Vec::new();
    if !running {
        list.push("Start the servers, with the commands above.".to_owned());
    }
    let rules: Vec<String> = nodes
        .iter()
        .filter(|n| !n.hba_between_nodes.is_empty())
        .map(|n| {
            format!("{}/pg_hba.conf:\n  {}", n.target.directory.display(), n.hba_between_nodes.join("\n  "))
        })
        .collect();
    if !rules.is_empty() {
        list.push(format!(
            "Let the nodes reach each other: distributed queries need these rules, then \
             SELECT pg_reload_conf(). Their passwords come from pg_dist_authinfo or the servers' user's .pgpass:\n{}",
            rules.join("\n")
        ));
    }
    if nodes.iter().any(|n| !n.ssl && !n.hba_between_nodes.is_empty()) {
        list.push(
            "Traffic between the nodes is not encrypted (citus.node_conninfo = 'sslmode=prefer', ssl = off): \
             install certificates and set both back."
                .to_owned(),
        );
    }
    list.push(
        "Firewall: pg_hba.conf lets in only the local superuser. Add rules for your clients; the source's \
         are in pitrus.original/pg_hba.conf and in the JSON report."
            .to_owned(),
    );
    list.push(
        "Server parameters are at their defaults, except what recovery and Citus need. Apply again what you \
         want of the source's: pitrus.original/ and the JSON report have them."
            .to_owned(),
    );
    list.push("Logins: roles and passwords are those of the source at that moment; check them.".to_owned());
    extend_findings(&mut list, nodes);
    list.push("Redirect clients to the new addresses, if this cluster replaces the source.".to_owned());
    list.push("Set up monitoring and alerts for the new cluster.".to_owned());
    list.push(format!(
        "Protect it: archiving is off. Configure an agent on each node with cluster = \"{cluster}\" (the old \
         name is refused), which takes a new base backup at once."
    ));
    list
}

/// Adds what was found in this restore and needs a person.
fn extend_findings(list: &mut Vec<String>, nodes: &[NodeReport]) {
    for node in nodes {
        for other in &node.settled.foreign {
            list.push(format!(
                "{}: prepared transaction {} in {} is not Citus's and holds its locks: commit or roll it back.",
                node.node, other.gid, other.database
            ));
        }
        for database in &node.metadata {
            if !database.logins.is_empty() {
                list.push(format!(
                    "{}: pg_dist_authinfo in {} has rows for {}: check that they fit the new nodes.",
                    node.node,
                    database.database,
                    database.logins.join(", ")
                ));
            }
            if !database.subscriptions.is_empty() {
                list.push(format!(
                    "{}: subscriptions in {} are switched off: {}.",
                    node.node,
                    database.database,
                    database.subscriptions.join(", ")
                ));
            }
        }
        if !node.checked.collations.is_empty() {
            list.push(format!(
                "{}: this machine sorts text differently from the source's: REINDEX, then ALTER DATABASE … \
                 REFRESH COLLATION VERSION, in {}.",
                node.node,
                node.checked.collations.join(", ")
            ));
        }
    }
}
