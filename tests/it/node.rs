//! One live server: facts, logins of every kind, and the stream against the server's own files.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pitrus::class::{Class, Classified};
use pitrus::ids::GroupId;
use pitrus::lsn::Lsn;
use pitrus::node::{
    ConnectionOptions, Error, NodeFacts, Replication, Secret, Session, Start, Streamed, report, topology,
};
use pitrus::timeline::TimelineId;

use crate::world::{self, Folder, Server, ServerOptions};

fn options(conninfo: String) -> ConnectionOptions {
    ConnectionOptions { conninfo, ..Default::default() }
}

/// The tables by which we know a Citus node, without the extension.
const CATALOGUE: &str = "
    SET allow_system_table_mods = on;
    CREATE TABLE pg_catalog.pg_dist_local_group (groupid int PRIMARY KEY);
    INSERT INTO pg_catalog.pg_dist_local_group VALUES (7);
    CREATE TABLE pg_catalog.pg_dist_node (nodeid int PRIMARY KEY, groupid int, nodename text, nodeport int,
        noderole text, isactive bool);
    INSERT INTO pg_catalog.pg_dist_node VALUES (1, 0, 'c.example', 5432, 'primary', true);
    INSERT INTO pg_catalog.pg_dist_node VALUES (3, 7, 'w.example', 5433, 'primary', true);";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_what_it_is() {
    if !world::can_run("a_server_tells_what_it_is") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let settings =
        ServerOptions::named("one").set("work_mem", "5MB").set("primary_conninfo", "password=hunter2");
    let server = Server::start_new(&folder, &settings).unwrap();
    let connection = options(server.conninfo("postgres"));

    let session = Session::connect(&connection, None).await.unwrap();
    let facts = session.facts().await.unwrap();
    facts.supported().unwrap();
    assert_eq!((facts.group, facts.segment_bytes, facts.timeline), (None, 16 << 20, TimelineId(1)));
    assert_eq!(facts.data_directory, server.data);
    assert!(facts.can_replicate && facts.data_checksums && !facts.in_recovery);
    assert!(topology::read(&connection).await.unwrap().is_empty());

    let settings = report::changed_settings(&session).await.unwrap();
    assert!(settings.iter().any(|s| s.name == "work_mem" && s.value == "5MB"));
    assert!(!settings.iter().any(|s| s.value.contains("hunter2")));
    assert!(report::hba_rules(&facts).await.unwrap().iter().any(|rule| rule.starts_with("local")));

    server.run("postgres", "create database app").await.unwrap();
    server.run("app", CATALOGUE).await.unwrap();
    let facts = NodeFacts::read(&connection).await.unwrap();
    assert_eq!((facts.group, facts.citus_databases), (Some(GroupId(7)), vec!["app".to_owned()]));
    let databases = topology::read(&connection).await.unwrap();
    assert_eq!((databases.len(), databases[0].nodes.len()), (1, 2));
    assert_eq!((databases[0].nodes[1].port, databases[0].nodes[1].group), (5433, GroupId(7)));
    assert_eq!(databases[0].citus_version, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_login_works_and_refusals_are_told_apart() {
    if !world::can_run("every_login_works_and_refusals_are_told_apart") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let server = Server::start_new(&folder, &ServerOptions::named("one")).unwrap();
    server
        .run(
            "postgres",
            "create role s replication login password 'hunter2'; grant pg_read_all_settings to s;
             create role c replication login password 'hunter2';
             set password_encryption = md5; create role m replication login password 'hunter2'",
        )
        .await
        .unwrap();
    certificate(&server.data, &folder);
    let rules = "local all postgres trust\n\
                 hostssl all,replication s 127.0.0.1/32 scram-sha-256\n\
                 host all,replication m 127.0.0.1/32 md5\n\
                 host all,replication c 127.0.0.1/32 password\n";
    folder.write(&server.data.join("pg_hba.conf"), rules).unwrap();
    server.append_settings("ssl = on\n").unwrap();
    server.reload().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let try_login = async |user: &str, mode: &str, password: Option<&str>, root: bool| {
        let conninfo =
            format!("host=localhost hostaddr=127.0.0.1 port={} user={user} sslmode={mode}", server.port);
        let connection = ConnectionOptions {
            conninfo,
            password: password.map(|p| Secret::new(p.to_owned())),
            tls_root_cert: root.then(|| server.data.join("server.crt")),
        };
        Replication::connect(&connection).await?.identify_system().await?;
        let session = Session::connect(&connection, Some("postgres")).await?;
        session.row("ask", "select 1", &[]).await.map(drop)
    };
    let good = Some("hunter2");
    try_login("s", "prefer", good, false).await.unwrap();
    try_login("s", "require", good, true).await.unwrap();
    try_login("s", "verify-full", good, true).await.unwrap();
    try_login("m", "prefer", good, false).await.unwrap();
    try_login("m", "disable", good, false).await.unwrap();
    try_login("c", "require", good, true).await.unwrap();

    let error = try_login("s", "require", good, false).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }) && error.hint().is_some(), "{error:?}");
    let error = try_login("s", "require", Some("wrong"), true).await.unwrap_err();
    assert_eq!((error.sqlstate(), error.class()), (Some("28P01"), Class::Operator));
    let error = try_login("s", "disable", good, false).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("28000"));
    let error = try_login("s", "prefer", None, false).await.unwrap_err();
    assert!(matches!(error, Error::NoPassword { .. }), "{error:?}");
    let error = try_login("c", "disable", good, false).await.unwrap_err();
    assert!(matches!(error, Error::ClearPassword { .. }), "{error:?}");

    let error = Replication::connect(&options("host=127.0.0.1 port=1".to_owned())).await.err().unwrap();
    assert_eq!(error.class(), Class::Transient);
    let conninfo = format!(
        "host=127.0.0.1 port={} user=s dbname=postgres channel_binding=require sslmode=require",
        server.port
    );
    let bound = ConnectionOptions {
        conninfo,
        password: Some(Secret::new("hunter2".to_owned())),
        tls_root_cert: Some(server.data.join("server.crt")),
    };
    Session::connect(&bound, None).await.unwrap();

    // As Citus makes them for itself.
    first_version(&server.data, &folder);
    server.reload().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    try_login("s", "prefer", good, false).await.unwrap();
    try_login("s", "verify-full", good, true).await.unwrap();
    let error = try_login("s", "require", good, false).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}

/// Puts a certificate of X.509's first version in place of the one with the same key.
fn first_version(data: &Path, folder: &Folder) {
    let (key, request, certificate) =
        (data.join("server.key"), data.join("server.csr"), data.join("server.crt"));
    let openssl = |words: &[&str], files: &[(&str, &Path)]| {
        let mut command = Command::new("openssl");
        command.args(words);
        for (option, path) in files {
            command.arg(option).arg(path);
        }
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(&["req", "-new", "-subj", "/CN=db.example"], &[("-key", &key), ("-out", &request)]);
    openssl(
        &["x509", "-req", "-days", "2"],
        &[("-in", &request), ("-signkey", &key), ("-out", &certificate)],
    );
    folder.own(&certificate).unwrap();
}

/// Makes a certificate that signs itself, as PostgreSQL's documentation shows it.
fn certificate(data: &Path, folder: &Folder) {
    let made = Command::new("openssl")
        .args(["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=db.example", "-text"])
        .arg("-out")
        .arg(data.join("server.crt"))
        .arg("-keyout")
        .arg(data.join("server.key"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for file in ["server.crt", "server.key"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(data.join(file), std::fs::Permissions::from_mode(0o600)).unwrap();
        folder.own(&data.join(file)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_the_servers_own_wal() {
    if !world::can_run("the_stream_is_the_servers_own_wal") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let mut settings = ServerOptions::named("one").set("wal_keep_size", "1GB");
    settings.wal_segment_mib = 1;
    let server = Server::start_new(&folder, &settings).unwrap();
    let mut replication = Replication::connect(&options(server.conninfo("postgres"))).await.unwrap();
    assert_eq!(replication.read_slot("p").await.unwrap(), None);
    replication.create_physical_slot("p").await.unwrap();
    let again = replication.create_physical_slot("p").await.unwrap_err();
    assert_eq!(again.sqlstate(), Some(pitrus::node::sqlstate::DUPLICATE_OBJECT));
    let begin = replication.read_slot("p").await.unwrap().unwrap().restart.unwrap().segment_start(1 << 20);

    server
        .run("postgres", "create table t as select md5(n::text) from generate_series(1, 50000) n")
        .await
        .unwrap();
    let end: Lsn =
        server.value("postgres", "select pg_switch_wal()").await.unwrap().unwrap().parse().unwrap();
    assert_eq!(replication.start_physical("p", begin, TimelineId(1)).await.unwrap(), Start::Streaming);
    let mut at = begin;
    let mut bytes = Vec::new();
    while at < end {
        if let Streamed::Wal { start, data, .. } = replication.next().await.unwrap() {
            assert_eq!(start, at);
            at = at.plus(data.len() as u64);
            bytes.extend_from_slice(&data);
        }
    }
    replication.status(at, at, true).await.unwrap();
    for (number, segment) in bytes.chunks_exact(1 << 20).enumerate() {
        let name = format!("{:08X}{:016X}", 1, begin.segment(1 << 20) + number as u64);
        let name =
            name.replace(&name[8..], &format!("{:08X}{:08X}", 0, begin.segment(1 << 20) + number as u64));
        assert!(std::fs::read(server.data.join("pg_wal").join(&name)).unwrap() == segment, "{name} differs");
    }
    replication.close().await.unwrap();
    let slot = "select active::text || restart_lsn from pg_replication_slots";
    assert_eq!(server.value("postgres", slot).await.unwrap().unwrap(), format!("false{at}"));

    let mut again = Replication::connect(&options(server.conninfo("postgres"))).await.unwrap();
    let unknown = again.start_physical("none", begin, TimelineId(1)).await.unwrap_err();
    assert_eq!(unknown.class(), Class::Operator);
    assert_eq!(again.identify_system().await.unwrap().timeline, TimelineId(1));
}
