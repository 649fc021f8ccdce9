//! The test world itself: its servers start, answer, stop and recover.

use std::sync::Arc;

use crate::world::{
    self, Bank, Cluster, ClusterOptions, DATABASE, Folder, Kind, Load, LoadOptions, Server, ServerOptions,
    Stop, say,
};
use pitrus::clock;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_survives_an_immediate_stop() {
    if !world::can_run("a_server_survives_an_immediate_stop") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let mut server = Server::start_new(&folder, &ServerOptions::named("one").set("work_mem", "5MB")).unwrap();
    server.run("postgres", "create table t as select generate_series(1, 1000) as n").await.unwrap();
    server.stop(Stop::Immediate).unwrap();
    server.start().unwrap();
    let count = server.value("postgres", "select count(*) from t").await.unwrap();
    assert_eq!(count.as_deref(), Some("1000"));
    assert!(server.log_text().contains("connection received"), "the connection log is on");
    let path = folder.path().to_owned();
    drop((server, folder));
    assert!(!path.exists(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_cluster_has_the_catalogue() {
    cluster_knows_its_nodes(Kind::Plain, "a_plain_cluster_has_the_catalogue").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_citus_cluster_has_the_catalogue() {
    cluster_knows_its_nodes(Kind::Citus, "a_citus_cluster_has_the_catalogue").await;
}

async fn cluster_knows_its_nodes(kind: Kind, test: &str) {
    if !kind.can_run(test) {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let cluster = Cluster::start(&folder, &ClusterOptions::of(kind)).await.unwrap();
    for (group, node) in cluster.nodes.iter().enumerate() {
        let nodes = node.value(DATABASE, "select count(*) from pg_dist_node where isactive").await.unwrap();
        assert_eq!(nodes.as_deref(), Some("3"));
        let own = node.value(DATABASE, "select groupid from pg_dist_local_group").await.unwrap();
        assert_eq!(own, Some(group.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_bank_keeps_its_books() {
    books_balance(Kind::Plain, "the_plain_bank_keeps_its_books").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_citus_bank_keeps_its_books() {
    books_balance(Kind::Citus, "the_citus_bank_keeps_its_books").await;
}

async fn books_balance(kind: Kind, test: &str) {
    if !kind.can_run(test) {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let cluster = Cluster::start(&folder, &ClusterOptions::of(kind)).await.unwrap();
    let bank = Bank::open(&cluster, 400).await.unwrap();
    let began = clock::now();
    let options = LoadOptions { clients: 3, pause: Duration::ZERO };
    let load = Load::start(&cluster, &bank, options).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let truth = load.stop().await.unwrap();
    assert_eq!(truth.failures, Vec::<String>::new());
    let now = clock::now();
    let rate = truth.transfers.len() as f64 / now.micros_since(began) as f64 * 1e6;
    say!("{test}: {} transfers, {rate:.0} a second", truth.transfers.len());
    let books = bank.read(&cluster.nodes).await.unwrap();
    let verdict = books.judge(&bank, &truth, now, 0);
    assert_eq!(verdict.problems(), Vec::<String>::new());
    assert_eq!(verdict.must_in, truth.transfers.len());
    // One money more on one account, and the books show it.
    let mut books = books;
    *books.balances.values_mut().next().unwrap() += 1;
    assert_eq!(books.judge(&bank, &truth, now, 0).problems().len(), 2);
}
