//! From a plan to the work on each node: reads the manifests, judges targets and machine, and decides
//! what each server needs. Writes nothing but the plan itself, when all is judged.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::conf::{self, Needs};
use super::former::{self, Expected};
use super::install::{OsUser, Programs};
use super::ledger::{Ledger, Stage};
use super::plan::{Follow, NodePlan, Plan, Request};
use super::preflight::{self, Found};
use super::private::PrivateFolder;
use super::server::Instance;
use super::store::Store;
use super::targets::{Target, Targets};
use super::work::Work;
use super::{Error, Progress, RestoreOptions};
use crate::flow;
use crate::ids::{ClusterName, NodeName};
use crate::manifest;
use crate::manifest::Document;
use crate::manifest::backup::{Ends, Foot};

/// The plan that is carried out, beside the data directories.
const PLAN_FILE: &str = "pitrus-plan.json";
/// Room for WAL and temporary files besides the backup's own bytes.
const ROOM_MORE: u64 = 256 << 20;
/// Settings of Citus without which a copy does not find itself.
const CITUS_CARRIED: [&str; 1] = ["citus.cluster_name"];

/// All that is ready to be worked on.
pub(super) struct Begun {
    pub(super) works: Vec<Work>,
    /// Where the plan and the report go.
    pub(super) folder: PathBuf,
    /// To be kept as long as servers run.
    pub(super) private: PrivateFolder,
}

/// Returns the plan of a restore into the same place that has not ended, where there is one that asked
/// for the same.
pub fn unfinished(
    targets: &Targets,
    cluster: &ClusterName,
    new_name: &ClusterName,
    request: &Request,
    follow: &Follow,
) -> Result<Option<Plan>, Error> {
    let path = targets.folder()?.join(PLAN_FILE);
    let plan: Plan = match std::fs::read(&path) {
        Ok(bytes) => manifest::from_bytes(&bytes).map_err(|source| Error::Document { path, source })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", &path)(error)),
    };
    let is_other = plan.cluster != *cluster || plan.new_name != *new_name;
    if is_other || plan.request != *request || plan.follow != *follow {
        return Ok(None);
    }
    let id = identity(&plan);
    for directory in targets.directories(&names(&plan))? {
        let ledger = Ledger::read(&directory)?;
        if ledger.is_some_and(|ledger| ledger.plan == id && ledger.stage < Stage::Done) {
            return Ok(Some(plan));
        }
    }
    Ok(None)
}

/// Judges where a plan's nodes shall go, as far as that can be seen from here; writes nothing.
pub fn check(targets: Option<&Targets>, plan: &Plan, delta: bool) -> Result<(), Error> {
    check_name(plan)?;
    let Some(targets) = targets else { return Ok(()) };
    let (targets, _) = targets.resolve(&names(plan))?;
    preflight::apart(&targets)?;
    let found = |(target, node): (&Target, &NodePlan)| find(plan, node, target, None, delta).map(drop);
    targets.iter().zip(&plan.nodes).try_for_each(found)
}

/// Judges one target.
fn find(
    plan: &Plan,
    node: &NodePlan,
    target: &Target,
    source: Option<&Path>,
    delta: bool,
) -> Result<Found, Error> {
    if !delta {
        return preflight::target(target, &identity(plan), source);
    }
    let expected = Expected {
        cluster: &plan.cluster,
        node: &node.node,
        system_identifier: &node.system_identifier,
        major: node.postgres_version / 10_000,
    };
    preflight::delta_target(target, &identity(plan), source, &expected)
}

fn check_name(plan: &Plan) -> Result<(), Error> {
    if plan.new_name == plan.cluster {
        return Err(Error::refused(
            format!("the new cluster may not have the source's name, {}", plan.cluster),
            "choose another name with --as",
        ));
    }
    Ok(())
}

/// Judges everything, and returns the work.
pub(super) async fn begin<S: Store>(
    options: &RestoreOptions,
    store: &S,
    plan: &Plan,
    progress: Progress,
) -> Result<Begun, Error> {
    check_name(plan)?;
    let user = OsUser::find(&options.os_user)?;
    let (targets, folder) = options.targets.resolve(&names(plan))?;
    preflight::apart(&targets)?;
    let sources = read_manifests(store, plan).await?;
    let judge = Judge { options, plan, user: &user, id: identity(plan) };
    let mut drafts = Vec::new();
    for ((node, target), ends) in plan.nodes.iter().zip(targets).zip(sources) {
        drafts.push(judge.node(node, target, ends)?);
    }
    let room: Vec<(&Target, u64)> = drafts.iter().filter_map(Draft::room).collect();
    preflight::room(&room)?;
    // All is judged: writing begins.
    conf::make_way(&folder)?;
    conf::write_anew(&folder.join(PLAN_FILE), &manifest::to_bytes(plan))?;
    let private = PrivateFolder::create(&user)?;
    let program = private.program(&options.program, &user)?;
    let mut works = Vec::new();
    for (number, draft) in drafts.into_iter().enumerate() {
        let sockets = private.node(number, &user)?;
        works.push(judge.work(draft, sockets, &program, &progress));
    }
    Ok(Begun { works, folder, private })
}

fn names(plan: &Plan) -> Vec<NodeName> {
    plan.nodes.iter().map(|node| node.node.clone()).collect()
}

/// Reads every node's manifest.
async fn read_manifests<S: Store>(store: &S, plan: &Plan) -> Result<Vec<Ends>, Error> {
    flow::try_map(plan.nodes.iter().collect(), 8, |node: &NodePlan| async move {
        store.ends(&node.node, &node.backup).await
    })
    .await
}

/// Identifies what a plan does: two plans of one identity lead to the same cluster.
fn identity(plan: &Plan) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: String| hash.update([text.as_bytes(), b"\n"].concat());
    add(format!("{} {}", plan.cluster, plan.new_name));
    for node in &plan.nodes {
        let stop = node.stop_before.map_or(format!("end {}", node.wal_end), |lsn| lsn.to_string());
        add(format!("{} {} {} {stop}", node.node, node.backup, node.timeline));
    }
    for order in &plan.settle {
        add(format!("{} {} {:?}", order.node, order.gid, order.action));
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

struct Judge<'a> {
    options: &'a RestoreOptions,
    plan: &'a Plan,
    user: &'a OsUser,
    id: String,
}

/// One node, judged.
struct Draft {
    node: NodePlan,
    ends: Ends,
    programs: Programs,
    ledger: Ledger,
    is_new: bool,
    /// Bytes of a stopped copy that are there already.
    there: u64,
}

impl Draft {
    /// Returns how much room it will take, where it takes any.
    fn room(&self) -> Option<(&Target, u64)> {
        let need = self.ends.foot.bytes.saturating_sub(self.there).saturating_add(ROOM_MORE);
        self.is_new.then_some((&self.ledger.target, need))
    }
}

impl Judge<'_> {
    fn node(&self, node: &NodePlan, target: Target, ends: Ends) -> Result<Draft, Error> {
        let source = setting(&ends.foot, "data_directory").map(Path::new);
        let found = find(self.plan, node, &target, source, self.options.delta)?;
        preflight::reachable(&target.directory, self.user)?;
        let programs = Programs::find(self.options.bin_dir.as_deref(), node.postgres_version / 10_000)?;
        if self.uses_citus(&ends.foot) && !programs.has_library("citus") {
            return Err(Error::refused(
                format!("node {} uses Citus, which this machine's PostgreSQL does not have", node.node),
                "install the source's version of Citus here; the servers are started with it only at the end",
            ));
        }
        let (ledger, is_new, there) = match found {
            Found::Ours(ledger) => (*ledger, false, 0),
            Found::Free => (self.ledger(node, target), true, 0),
            Found::Former => {
                let there =
                    former::bytes(&target.directory).saturating_add(former::bytes(&target.tablespaces));
                tracing::info!(node = %node.node, directory = %target.directory.display(), "goes into a stopped copy");
                (self.ledger(node, target), true, there)
            }
        };
        Ok(Draft { node: node.clone(), ends, programs, ledger, is_new, there })
    }

    fn ledger(&self, node: &NodePlan, target: Target) -> Ledger {
        Ledger {
            version: Ledger::VERSION,
            unsynced_in: None,
            plan: self.id.clone(),
            cluster: self.plan.new_name.clone(),
            source_cluster: self.plan.cluster.clone(),
            source_node: node.node.clone(),
            target,
            stage: Stage::Begun,
            proof: None,
            settled: Default::default(),
            metadata: Vec::new(),
            checked: Default::default(),
            figures: Default::default(),
        }
    }

    fn uses_citus(&self, foot: &Foot) -> bool {
        let mut databases = self.plan.topology.iter().flat_map(|t| &t.databases);
        databases.any(|d| d.citus_version.is_some())
            || setting(foot, "shared_preload_libraries").is_some_and(|list| list.contains("citus"))
    }

    fn work(&self, draft: Draft, sockets: PathBuf, program: &Path, progress: &Progress) -> Work {
        let Draft { node, ends, programs, ledger, .. } = draft;
        let target = &ledger.target;
        let needs = Needs {
            segment_bytes: node.segment_bytes,
            parameters: node.parameters,
            private: sockets.clone(),
            port: target.port,
            citus: self.uses_citus(&ends.foot),
            citus_settings: carried(&ends.foot),
            ssl: setting(&ends.foot, "ssl") == Some("on"),
            listen: target.listen.clone().unwrap_or_else(|| target.host.clone()),
            socket_dir: target.socket_dir.clone(),
        };
        let instance = Instance {
            node: node.node.clone(),
            directory: target.directory.clone(),
            private: sockets,
            port: target.port,
            superuser: ends.foot.superuser.clone(),
            programs,
            user: self.user.clone(),
        };
        Work {
            settle: self.plan.settle.iter().filter(|s| s.node == node.node).cloned().collect(),
            plan: node,
            head: ends.head,
            foot: ends.foot,
            instance,
            needs,
            ledger,
            progress: progress.clone(),
            program: program.to_owned(),
            delta: self.options.delta,
            server: None,
        }
    }
}

/// Returns a setting of the source that differs from its default.
fn setting<'a>(foot: &'a Foot, name: &str) -> Option<&'a str> {
    foot.settings.iter().find(|s| s.name == name).map(|s| s.value.as_str())
}

fn carried(foot: &Foot) -> Vec<(String, String)> {
    let carried = |name: &&str| setting(foot, name).map(|value| ((*name).to_owned(), value.to_owned()));
    CITUS_CARRIED.iter().filter_map(carried).collect()
}
