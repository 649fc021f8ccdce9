//! Restores on real servers: to the record, settled, readdressed, closed, and able to go on after a crash.

mod beside;
mod branch;
mod copies;
mod delta;
mod unsynced;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitrus::clock;
use pitrus::cut::{Action, Settle};
use pitrus::ids::{GroupId, NodeName};
use pitrus::lsn::Lsn;
use pitrus::manifest::topology::{CitusDatabase, TopologyDoc};
use pitrus::moment::Moment;
use pitrus::restore::plan::{ClockSource, Follow, Landmark, LandmarkKind, NodePlan, Plan, Request, WalRange};
use pitrus::restore::{self, Report, RestoreOptions, Settled, Stage, Step, Targets};
use pitrus::timeline::TimelineId;
use pitrus::wal::event::Parameters;

use crate::world::{
    self, Bank, Cluster, ClusterOptions, DATABASE, Ears, Folder, Kind, Landing, Load, LoadOptions, NODES,
    Server, Stop, Truth, open_hba, proof, say,
};
use copies::{Copies, Copy, archive};

const SEGMENT: u32 = 1 << 24;
const GID: &str = "citus_0_7777_8_1";
const LOST: &str = "citus_0_7777_9_1";

/// A cluster's copies, the plan to come back, and what has to be there.
struct Gone {
    copies: Copies,
    plan: Plan,
    bank: Bank,
    truth: Truth,
    at: Moment,
    ports: Vec<u16>,
}

async fn gone(folder: &Arc<Folder>, kind: Kind) -> Gone {
    let (mut cluster, gone) = copied(folder, kind).await;
    cluster.destroy().unwrap();
    gone
}

/// Makes a cluster, copies it, does transfers, notes where it stands, and does more.
async fn copied(folder: &Arc<Folder>, kind: Kind) -> (Cluster, Gone) {
    let mut options = ClusterOptions::of(kind);
    let to = folder.folder("archive").unwrap();
    NODES.iter().for_each(|name| drop(archive(folder, name)));
    // Every server knows its folder by its own data directory's parent.
    let command = format!("cp %p {}/$(basename $(dirname $(pwd)))/%f", to.display());
    for (name, value) in [("archive_mode", "on"), ("archive_command", &command), ("work_mem", "5MB")] {
        options.settings.push((name.to_owned(), value.to_owned()));
    }
    if kind == Kind::Citus {
        // So that nothing but its clients makes its nodes talk.
        for name in
            ["recover_2pc_interval", "distributed_deadlock_detection_factor", "defer_shard_delete_interval"]
        {
            options.settings.push((format!("citus.{name}"), "-1".to_owned()));
        }
    }
    let cluster = Cluster::start(folder, &options).await.unwrap();
    let bank = Bank::open(&cluster, 200).await.unwrap();
    let worker = &cluster.nodes[1];
    let side = folder.folder("worker1/side").unwrap();
    worker.run("postgres", &format!("create tablespace side location '{}'", side.display())).await.unwrap();
    worker.run("postgres", "create table far (v int) tablespace side").await.unwrap();
    let mut copies = Vec::new();
    for node in &cluster.nodes {
        copies.push(Copy::take(folder, node).await);
    }
    let truth = transfers(&cluster, &bank, 0).await;
    worker.run("postgres", "insert into far values (42)").await.unwrap();
    prepare(worker, GID).await;
    prepare(worker, LOST).await;
    prepare(worker, "somebody's").await;
    let mut inside = Vec::new();
    for node in &cluster.nodes {
        inside.push(commit(node).await);
    }
    let lost = prepared(worker, LOST).await;
    let at = clock::now();
    let mut stops = Vec::new();
    for node in &cluster.nodes {
        stops.push(lsn(node).await);
    }
    let outside =
        [commit(&cluster.nodes[0]).await, finish(worker, GID).await, commit(&cluster.nodes[2]).await];
    transfers(&cluster, &bank, 1).await;
    for node in &cluster.nodes {
        node.run("postgres", "select pg_switch_wal(); checkpoint").await.unwrap();
        archived(node, folder, stops.iter().max().unwrap()).await;
    }
    let ports = cluster.nodes.iter().map(|node| node.port).collect();
    let mut nodes: Vec<NodePlan> =
        (0..3).map(|n| node_plan(n, stops[n], inside[n], Some(outside[n]))).collect();
    for (plan, node) in nodes.iter_mut().zip(&cluster.nodes) {
        let query = "select system_identifier::text from pg_control_system()";
        plan.system_identifier = node.value("postgres", query).await.unwrap().unwrap();
    }
    let settle = vec![order(outside[1].0, GID, Action::Commit), order(lost, LOST, Action::AsCatalogue)];
    let plan = plan(kind, nodes, settle);
    (cluster, Gone { copies: Copies(Arc::new(copies)), plan, bank, truth, at, ports })
}

async fn transfers(cluster: &Cluster, bank: &Bank, run: i64) -> Truth {
    let options = LoadOptions { clients: 2, pause: Duration::ZERO };
    let load = Load::start_after(cluster, bank, options, run).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    load.stop().await.unwrap()
}

/// Leaves a transaction prepared that changes a table of its own.
async fn prepare(server: &Server, gid: &str) {
    let table = format!("t{}", gid.len() + gid.bytes().map(usize::from).sum::<usize>());
    let gid = gid.replace('\'', "''");
    server
        .run(DATABASE, &format!("begin; create table {table} (); prepare transaction '{gid}'"))
        .await
        .unwrap();
}

async fn commit(server: &Server) -> (u32, LandmarkKind) {
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("begin; create table if not exists seen (v int); insert into seen values (1)")
        .await
        .unwrap();
    let xid = world::server::value(&client, "select pg_current_xact_id()").await.unwrap().unwrap();
    client.batch_execute("commit").await.unwrap();
    (xid.parse().unwrap(), LandmarkKind::Commit)
}

async fn prepared(server: &Server, gid: &str) -> u32 {
    let query = format!("select transaction from pg_prepared_xacts where gid = '{gid}'");
    server.value(DATABASE, &query).await.unwrap().unwrap().parse().unwrap()
}

async fn finish(server: &Server, gid: &str) -> (u32, LandmarkKind) {
    let xid = prepared(server, gid).await;
    server.run(DATABASE, &format!("commit prepared '{gid}'")).await.unwrap();
    (xid, LandmarkKind::CommitPrepared)
}

async fn lsn(server: &Server) -> Lsn {
    let lsn = server.value("postgres", "select pg_current_wal_insert_lsn()").await.unwrap();
    lsn.unwrap().parse().unwrap()
}

async fn archived(server: &Server, folder: &Folder, least: &Lsn) {
    let name = pitrus::wal::segment::Segment::of(TimelineId(1), *least, SEGMENT).file_name(SEGMENT);
    let last = archive(folder, &server.name).join(name);
    proof::eventually("archived WAL", Duration::from_secs(90), async || Ok(last.exists())).await.unwrap();
}

fn node_plan(
    n: usize,
    stop: Lsn,
    inside: (u32, LandmarkKind),
    outside: Option<(u32, LandmarkKind)>,
) -> NodePlan {
    let landmark = |(xid, kind)| Landmark { lsn: Lsn(0), xid, time: Moment(0), kind };
    NodePlan {
        node: NODES[n].parse().unwrap(),
        group: Some(GroupId(n as i32)),
        system_identifier: "1".into(),
        postgres_version: world::version_num().unwrap(),
        segment_bytes: SEGMENT,
        backup: "b1".parse().unwrap(),
        backup_start: Lsn(0),
        backup_stop: Lsn(0),
        backup_stopped_at: Moment(0),
        timeline: TimelineId(1),
        wal: vec![WalRange { timeline: TimelineId(1), first: 2, last: stop.segment(SEGMENT) }],
        wal_end: stop,
        stop_before: outside.is_some().then_some(stop),
        last_included: Some(landmark(inside)),
        first_excluded: outside.map(landmark),
        before_target_micros: None,
        clock_ahead_micros: 0,
        clock_uncertain_micros: None,
        clock_source: ClockSource::NotNeeded,
        parameters: Parameters {
            max_connections: 200,
            max_wal_senders: 8,
            max_prepared_transactions: 200,
            ..Parameters::default()
        },
        around: Vec::new(),
    }
}

fn order(xid: u32, gid: &str, action: Action) -> Settle {
    Settle { node: NODES[1].parse().unwrap(), database: None, xid, gid: gid.into(), action }
}

fn plan(kind: Kind, nodes: Vec<NodePlan>, settle: Vec<Settle>) -> Plan {
    let database = CitusDatabase {
        name: DATABASE.into(),
        oid: 0,
        citus_version: (kind == Kind::Citus).then(|| "13.2-1".into()),
        nodes: Vec::new(),
    };
    Plan {
        version: 1,
        cluster: "old".parse().unwrap(),
        new_name: "new".parse().unwrap(),
        made_at: clock::now(),
        request: Request::Latest,
        follow: Follow::default(),
        target: None,
        window: Default::default(),
        topology: Some(TopologyDoc {
            version: 1,
            cluster: "old".parse().unwrap(),
            recorded_by: NODES[0].parse().unwrap(),
            recorded_at: Moment(0),
            databases: vec![database],
        }),
        nodes,
        moves: Vec::new(),
        settle,
        left_out: Vec::new(),
        foreign: Vec::new(),
        orphans: Vec::new(),
        torn_by_time: Vec::new(),
        order_uncertain_micros: None,
        explanation: None,
        notes: Vec::new(),
    }
}

fn options(targets: PathBuf) -> RestoreOptions {
    RestoreOptions {
        targets: Targets::File(targets),
        bin_dir: Some(world::bin_dir().unwrap()),
        os_user: "postgres".into(),
        program: env!("CARGO_BIN_EXE_pitrus").into(),
        start: false,
        delta: false,
    }
}

fn silent(_: &NodeName, _: Step) {}

/// The server must be able to write everywhere in its data directory.
fn belongs_to_one(folder: &Path, owner: u32) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.uid(), owner, "{}", path.display());
        if found.is_dir() {
            belongs_to_one(&path, owner);
        }
    }
}

async fn prove(kind: Kind, folder: &Arc<Folder>, gone: &Gone, landing: &Landing, report: &Report) {
    let worker = &report.nodes[1];
    assert_eq!(worker.settled.committed, [GID]);
    assert_eq!(worker.settled.rolled_back, [LOST]);
    assert_eq!(worker.settled.foreign[0].gid, "somebody's");
    for data in NODES.map(|node| landing.directory.join(node)) {
        belongs_to_one(&data, std::fs::metadata(&data).unwrap().uid());
    }
    let mut servers = landing.start(folder).unwrap();
    proof::closed(&servers).await.unwrap();
    open_hba(folder, &servers).unwrap();
    proof::parameters_reset(&servers).await.unwrap();
    proof::metadata_is_new(&servers).await.unwrap();
    let far = servers[1].value("postgres", "select v from far").await.unwrap();
    assert_eq!(far.as_deref(), Some("42"), "the tablespace came along");
    servers[1].run(DATABASE, "rollback prepared 'somebody''s'").await.unwrap();
    let verdict = gone.bank.read(&servers).await.unwrap().judge(&gone.bank, &gone.truth, gone.at, 0);
    assert_eq!(verdict.problems(), Vec::<String>::new());
    assert_eq!(verdict.transfers, gone.truth.transfers.len());
    proof::citus_agrees(kind, &servers, verdict.total).await.unwrap();
    servers.iter_mut().for_each(|server| server.stop(Stop::Fast).unwrap());
}

async fn restores_whole(kind: Kind, test: &str) {
    if !kind.can_run(test) {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let gone = gone(&folder, kind).await;
    let ears = Ears::on(&gone.ports).await.unwrap();
    let names: Vec<String> = NODES.map(str::to_owned).to_vec();
    let landing = Landing::choose(&folder, "new", &names).unwrap();
    let began = Instant::now();
    let (options, store) = (options(landing.targets.clone()), gone.copies.clone());
    let report = restore::run(&options, store, gone.plan.clone(), Arc::new(silent)).await.unwrap();
    say!("{test}: restored in {:?}", began.elapsed());
    prove(kind, &folder, &gone, &landing, &report).await;
    assert_eq!(ears.heard(), 0, "something called the source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_cluster_is_restored_whole() {
    restores_whole(Kind::Plain, "a_plain_cluster_is_restored_whole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_citus_cluster_is_restored_whole() {
    restores_whole(Kind::Citus, "a_citus_cluster_is_restored_whole").await;
}

/// Ends a restore when a node has reached a stage, as a crash would, in the middle of whatever the other nodes are
/// doing; returns what came of it where all of it was faster.
async fn end_at(
    stage: Stage,
    options: &RestoreOptions,
    gone: &Gone,
) -> Option<Result<Report, restore::Error>> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let progress = move |_: &NodeName, step: Step| {
        if step == Step::Reached(stage) {
            let _ = tell.send(());
        }
    };
    let run = restore::run(options, gone.copies.clone(), gone.plan.clone(), Arc::new(progress));
    tokio::select! {
        _ = told.recv() => None,
        result = run => Some(result),
    }
}

/// Ends the restore when a node has reached each stage, as a crash would, and runs it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_after_any_stage() {
    let test = "a_restore_goes_on_after_any_stage";
    let kind = Kind::Plain;
    if !kind.can_run(test) {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let mut gone = gone(&folder, kind).await;
    // Two nodes replay all that the plan knows; more has been archived since.
    for node in [0, 2] {
        gone.plan.nodes[node].stop_before = None;
    }
    let names: Vec<String> = NODES.map(str::to_owned).to_vec();
    let landing = Landing::choose(&folder, "new", &names).unwrap();
    let options = options(landing.targets.clone());
    let Plan { cluster, new_name, request, .. } = &gone.plan;
    let unfinished =
        || restore::unfinished(&options.targets, cluster, new_name, request, &Follow::default()).unwrap();
    assert_eq!(unfinished(), None);
    for stage in [Stage::Fetched, Stage::Landed, Stage::Settled, Stage::Addressed, Stage::Done] {
        // The nodes may have come to the end together.
        if let Some(result) = end_at(stage, &options, &gone).await {
            assert!(stage == Stage::Done && result.is_ok(), "{stage:?}: {:?}", result.err());
        }
        if stage < Stage::Done {
            assert_eq!(unfinished().as_ref(), Some(&gone.plan));
        }
    }
    let report =
        restore::run(&options, gone.copies.clone(), gone.plan.clone(), Arc::new(silent)).await.unwrap();
    let Settled { committed, rolled_back, already, foreign } = &report.nodes[1].settled;
    assert_eq!((committed.len() + rolled_back.len() + already.len(), foreign.len()), (2, 1));
    assert_eq!(unfinished(), None);
    // Running it once more changes nothing; another plan may not have the place.
    restore::run(&options, gone.copies.clone(), gone.plan.clone(), Arc::new(silent)).await.unwrap();
    let mut other = gone.plan.clone();
    other.nodes[1].stop_before = None;
    let error = restore::run(&options, gone.copies.clone(), other, Arc::new(silent)).await.unwrap_err();
    assert!(error.to_string().contains("holds a finished restore as new by another plan"), "{error}");
    let servers = landing.start(&folder).unwrap();
    open_hba(&folder, &servers).unwrap();
    servers[1].run(DATABASE, "rollback prepared 'somebody''s'").await.unwrap();
    let verdict = gone.bank.read(&servers).await.unwrap().judge(&gone.bank, &gone.truth, gone.at, 0);
    assert_eq!(verdict.problems(), Vec::<String>::new());
}
