//! A whole restore of two plain servers with two-phase transactions between them, from a store made of
//! their files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::plan::{Landmark, LandmarkKind, NodePlan, Request, WalRange};
use super::*;
use crate::cut::{Action, Settle};
use crate::ids::{BackupId, GroupId};
use crate::lsn::Lsn;
use crate::manifest::backup::{Entry, Extent, Foot, Head, Kind, Line, Pack, Setting};
use crate::moment::Moment;
use crate::restore::install::OsUser;
use crate::timeline::TimelineId;
use crate::wal::event::Parameters;
use crate::wal::segment::Segment;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const CHUNK: usize = 1 << 20;

struct Source {
    node: NodeName,
    data: PathBuf,
    copy: PathBuf,
    wal: PathBuf,
    sockets: PathBuf,
    user: OsUser,
    files: std::sync::OnceLock<Vec<(String, PathBuf)>>,
}

impl Source {
    fn run(&self, program: &str, args: &[&str]) -> String {
        let out = self.user.command(format!("{BIN}/{program}")).args(args).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn sql(&self, sql: &str) -> String {
        self.run("psql", &["-XqAt", "-h", self.sockets.to_str().unwrap(), "-d", "postgres", "-c", sql])
    }

    fn make(root: &Path, name: &str) -> Source {
        let user = OsUser::find("postgres").unwrap();
        let base = root.join(name);
        let source = Source {
            node: name.parse().unwrap(),
            data: base.join("data"),
            copy: base.join("copy"),
            wal: base.join("wal"),
            sockets: base.join("s"),
            user,
            files: Default::default(),
        };
        for folder in [&base, &source.wal, &source.sockets] {
            std::fs::create_dir(folder).unwrap();
            source.user.own(folder).unwrap();
        }
        let data = source.data.to_str().unwrap();
        source.run("initdb", &["-D", data, "-U", "postgres", "--no-sync"]);
        let conf = format!(
            "listen_addresses=''\nunix_socket_directories='{}'\nmax_prepared_transactions=20\nfsync=off\n\
             archive_mode=on\narchive_command='cp %p {}/%f'\nmax_connections=30\nwork_mem='5MB'\n",
            source.sockets.display(),
            source.wal.display()
        );
        let path = source.data.join("postgresql.conf");
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, old + &conf).unwrap();
        let log = base.join("log");
        source.run("pg_ctl", &["start", "-w", "-s", "-D", data, "-l", log.to_str().unwrap()]);
        source.sql(
            "set allow_system_table_mods=on;
             create table pg_catalog.pg_dist_node (nodeid int, groupid int, nodename text, nodeport int,
                noderole text default 'primary', unique (nodename, nodeport));
             insert into pg_catalog.pg_dist_node values (1, 0, 'localhost', 5440, 'primary'),
                (2, 1, 'localhost', 5441, 'primary'), (3, 1, 'standby', 5432, 'secondary');
             create table pg_catalog.pg_dist_poolinfo (nodeid int, poolinfo text);
             insert into pg_catalog.pg_dist_poolinfo values (1, 'host=old');",
        );
        source.sql("create table t (v text)");
        source.run(
            "pg_basebackup",
            &[
                "-h",
                source.sockets.to_str().unwrap(),
                "-D",
                source.copy.to_str().unwrap(),
                "-X",
                "none",
                "-c",
                "fast",
            ],
        );
        source
    }

    fn lsn(&self) -> Lsn {
        self.sql("select pg_current_wal_insert_lsn()").parse().unwrap()
    }

    fn xid(&self) -> u32 {
        self.sql("begin; insert into t values ('xid'); select pg_current_xact_id(); commit").parse().unwrap()
    }

    /// Files of the copy, folders before what is in them.
    fn files(&self) -> &[(String, PathBuf)] {
        fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) {
            let mut entries: Vec<PathBuf> =
                std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
            entries.sort();
            for path in entries {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, path.clone()));
                if path.is_dir() {
                    walk(root, &path, found);
                }
            }
        }
        self.files.get_or_init(|| {
            let mut found = Vec::new();
            walk(&self.copy, &self.copy, &mut found);
            found
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut stop = self.user.command(format!("{BIN}/pg_ctl"));
        let _ = stop.args(["stop", "-m", "immediate", "-s", "-D"]).arg(&self.data).output();
    }
}

#[derive(Clone)]
struct Folders(Arc<Vec<Source>>);

impl Folders {
    fn of(&self, node: &NodeName) -> &Source {
        self.0.iter().find(|s| s.node == *node).unwrap()
    }
}

impl Store for Folders {
    async fn manifest(&self, node: &NodeName, backup: &BackupId) -> Result<Bytes, Error> {
        let source = self.of(node);
        let mut lines = vec![Line::Head(Head {
            version: 1,
            backup: backup.clone(),
            cluster: "old".parse().unwrap(),
            node: node.clone(),
            group: None,
            system_identifier: "1".into(),
            postgres_version: 150_000,
            segment_bytes: 1 << 24,
            timeline: TimelineId(1),
            start_lsn: Lsn(0),
            started_at: Moment(0),
            data_checksums: false,
            tablespaces: Vec::new(),
        })];
        let (mut files, mut total, mut packs) = (0, 0, Vec::new());
        for (number, (name, path)) in source.files().iter().enumerate() {
            let (kind, mode) = if path.is_dir() {
                (Kind::Folder, 0o700)
            } else {
                let bytes = std::fs::read(path).unwrap();
                files += 1;
                total += bytes.len() as u64;
                if !bytes.is_empty() {
                    packs.push(number.to_string());
                }
                let extent = |(chunk, bytes): (usize, &[u8])| Extent {
                    pack: number.to_string(),
                    chunk: chunk as u32,
                    at: 0,
                    sealed: 0,
                    offset: 0,
                    len: bytes.len() as u32,
                    crc: crc32fast::hash(bytes),
                };
                let extents = bytes.chunks(CHUNK).enumerate().map(extent).collect();
                (Kind::File { size: bytes.len() as u64, modified: 0, extents }, 0o600)
            };
            lines.push(Line::Entry(Entry { path: name.clone(), kind, mode }));
        }
        packs.sort();
        lines.push(Line::Foot(Foot {
            stop_lsn: Lsn(0),
            stopped_at: Moment(0),
            backup_label: std::fs::read_to_string(source.copy.join("backup_label")).unwrap(),
            tablespace_map: String::new(),
            files,
            bytes: total,
            stored: 0,
            packs,
            bad_pages: Vec::new(),
            bad_pages_more: 0,
            prepared: Vec::new(),
            parameters: Parameters::default(),
            settings: vec![Setting { name: "work_mem".into(), value: "5MB".into() }],
            hba: vec!["local all all trust".into()],
            superuser: "postgres".into(),
        }));
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).unwrap();
            text.push(b'\n');
        }
        Ok(text.into())
    }

    async fn chunk(&self, node: &NodeName, chunk: &ChunkRef) -> Result<Bytes, Error> {
        let files = self.of(node).files();
        let Pack { number, .. } = chunk.pack;
        let bytes = std::fs::read(&files[number as usize].1).unwrap();
        let piece = bytes.chunks(CHUNK).nth(chunk.chunk as usize).unwrap();
        Ok(Bytes::copy_from_slice(piece))
    }

    async fn segment(&self, node: &NodeName, segment: Segment) -> Result<Option<Bytes>, Error> {
        let name = segment.file_name(1 << 24);
        Ok(std::fs::read(self.of(node).wal.join(name)).ok().map(Bytes::from))
    }

    async fn history(&self, _: &NodeName, _: TimelineId) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }
}

fn node_plan(
    source: &Source,
    group: i32,
    stop: Lsn,
    inside: Landmark,
    outside: Option<Landmark>,
) -> NodePlan {
    NodePlan {
        node: source.node.clone(),
        group: Some(GroupId(group)),
        system_identifier: "1".into(),
        postgres_version: 150_000,
        segment_bytes: 1 << 24,
        backup: "b1".parse().unwrap(),
        backup_start: Lsn(0),
        backup_stop: Lsn(0),
        backup_stopped_at: Moment(0),
        timeline: TimelineId(1),
        wal: vec![WalRange { timeline: TimelineId(1), first: 2, last: stop.segment(1 << 24) }],
        wal_end: stop,
        stop_before: outside.as_ref().map(|_| stop),
        last_included: Some(inside),
        first_excluded: outside,
        before_target_micros: None,
        clock_ahead_micros: 0,
        parameters: Parameters {
            max_connections: 130,
            max_prepared_transactions: 20,
            ..Parameters::default()
        },
        around: Vec::new(),
    }
}

fn landmark(xid: u32, kind: LandmarkKind) -> Landmark {
    Landmark { lsn: Lsn(0), xid, time: Moment(0), kind }
}

fn plan(nodes: Vec<NodePlan>, settle: Vec<Settle>) -> Plan {
    Plan {
        version: 1,
        cluster: "old".parse().unwrap(),
        new_name: "new".parse().unwrap(),
        made_at: clock::now(),
        request: Request::Latest,
        target: None,
        window: Default::default(),
        topology: None,
        nodes,
        moves: Vec::new(),
        settle,
        left_out: Vec::new(),
        foreign: Vec::new(),
        orphans: Vec::new(),
        torn_by_time: Vec::new(),
        notes: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_restored_whole() {
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("pitrus");
    // The program may not have been built, or be older than this test.
    let mut speaks = std::process::Command::new(&program);
    let speaks = speaks.args(["restore", "wal-from-spool", "/nowhere", "f", "p"]).status();
    let speaks = speaks.is_ok_and(|status| status.code() == Some(255));
    if !Path::new(BIN).join("postgres").exists() || !speaks {
        eprintln!("skipped: needs PostgreSQL 15 in {BIN} and {}", program.display());
        return;
    }
    let root = tempfile::tempdir_in("/tmp").unwrap();
    fetch::set_mode(root.path(), 0o755).unwrap();
    let a = Source::make(root.path(), "a");
    let b = Source::make(root.path(), "b");
    a.xid();
    let xid_a = a.xid();
    let prepared: u32 = b
        .sql("begin; insert into t values ('two'); select pg_current_xact_id(); prepare transaction 'citus_0_7_8_1'")
        .parse()
        .unwrap();
    b.sql("begin; insert into t values ('lost'); prepare transaction 'citus_0_7_9_1'");
    b.sql("begin; insert into t values ('other'); prepare transaction 'mine'");
    let lost: u32 =
        b.sql("select transaction from pg_prepared_xacts where gid = 'citus_0_7_9_1'").parse().unwrap();
    let xid_b = b.xid();
    let (stop_a, stop_b) = (a.lsn(), b.lsn());
    let after_a = a.xid();
    b.sql("commit prepared 'citus_0_7_8_1'");
    for source in [&a, &b] {
        source.sql("insert into t values ('after'); select pg_switch_wal()");
        source.sql("insert into t values ('after'); select pg_switch_wal(); checkpoint");
        let data = source.data.to_str().unwrap();
        source.run("pg_ctl", &["stop", "-m", "fast", "-w", "-s", "-D", data]);
        std::fs::remove_dir_all(&source.data).unwrap();
    }
    let nodes = vec![
        node_plan(
            &a,
            0,
            stop_a,
            landmark(xid_a, LandmarkKind::Commit),
            Some(landmark(after_a, LandmarkKind::Commit)),
        ),
        node_plan(
            &b,
            1,
            stop_b,
            landmark(xid_b, LandmarkKind::Commit),
            Some(landmark(prepared, LandmarkKind::CommitPrepared)),
        ),
    ];
    let order = |xid, gid: &str, action| Settle {
        node: b.node.clone(),
        database: None,
        xid,
        gid: gid.into(),
        action,
    };
    let settle = vec![
        order(prepared, "citus_0_7_8_1", Action::Commit),
        order(lost, "citus_0_7_9_1", Action::AsCatalogue),
    ];
    let plan = plan(nodes, settle);
    let options = RestoreOptions {
        targets: Targets::Into(root.path().join("new")),
        bin_dir: None,
        os_user: "postgres".into(),
        program,
        start: true,
    };
    let store = Folders(Arc::new(vec![a, b]));
    let began = std::time::Instant::now();
    let report = run(&options, store.clone(), plan.clone(), Arc::new(|_, _| {})).await.unwrap();
    eprintln!("{}\n{:?}", report.text(), began.elapsed());
    let [a, b] = &report.nodes[..] else { panic!() };
    assert_eq!(b.settled.committed, ["citus_0_7_8_1"]);
    assert_eq!(b.settled.rolled_back, ["citus_0_7_9_1"]);
    assert_eq!(b.settled.foreign[0].gid, "mine");
    assert_eq!(a.metadata[0].pools, 1);
    assert_eq!(a.metadata[0].removed, ["standby:5432"]);
    let user = OsUser::find("postgres").unwrap();
    for node in [a, b] {
        let port = node.target.port.to_string();
        let sql = |sql: &str| {
            let mut psql = user.command(format!("{BIN}/psql"));
            let out = psql.args(["-XqAt", "-p", &port, "-d", "postgres", "-c", sql]).output().unwrap();
            String::from_utf8(out.stdout).unwrap().trim().to_owned() + &String::from_utf8_lossy(&out.stderr)
        };
        let expected = if node.node.as_str() == "a" { "xid,xid" } else { "two,xid" };
        assert_eq!(sql("select string_agg(v, ',' order by v) from t"), expected);
        assert_eq!(sql("show work_mem"), "4MB");
        assert_eq!(sql("select count(*) from pg_dist_node where nodename = 'localhost'"), "2");
        let pg_ctl = user
            .command(format!("{BIN}/pg_ctl"))
            .args(["stop", "-w", "-s", "-D"])
            .arg(&node.target.directory)
            .status();
        assert!(pg_ctl.unwrap().success());
    }
    // Again: nothing is to be done.
    let again = RestoreOptions { start: false, ..options };
    run(&again, store.clone(), plan.clone(), Arc::new(|_, _| {})).await.unwrap();
    // Another plan may not have the place.
    let mut other = plan.clone();
    other.nodes[0].stop_before = None;
    let error = run(&again, store, other, Arc::new(|_, _| {})).await.unwrap_err();
    assert!(error.to_string().contains("holds a finished restore as new by another plan"), "{error}");
}
