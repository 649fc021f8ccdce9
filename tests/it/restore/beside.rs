//! A restore beside its living source, while the source has a commit under way: the copy must not touch it.
//! (A copy with the old metadata and Citus loaded rolls such a transaction back within a second.)

use std::sync::Arc;
use std::time::Duration;

use pitrus::restore;

use super::{copied, options, silent};
use crate::world::bank::INITIAL;
use crate::world::{Bank, Cluster, DATABASE, Folder, Kind, Landing, NODES, Server, open_hba, proof};

/// Holds every PREPARE on the second worker that changed the account's shard, until the lock is free.
async fn hold(cluster: &Cluster, account: i64) -> tokio_postgres::Client {
    let query = format!("select get_shard_id_for_distribution_column('accounts', {account})");
    let shard = cluster.nodes[0].value(DATABASE, &query).await.unwrap().unwrap();
    let client = cluster.nodes[2].connect(DATABASE).await.unwrap();
    let trigger = format!(
        "set citus.enable_ddl_propagation = off;
         set citus.override_table_visibility = off;
         create function hold() returns trigger language plpgsql as
            'begin perform pg_advisory_lock(42); perform pg_advisory_unlock(42); return null; end';
         create constraint trigger hold after update on accounts_{shard} deferrable initially deferred
            for each row execute function hold();
         select pg_advisory_lock(42)"
    );
    client.batch_execute(&trigger).await.unwrap();
    client
}

/// What is prepared on a node by the transaction that is held.
async fn held(server: &Server) -> Option<String> {
    let query = "select string_agg(gid, ',') from pg_prepared_xacts where gid like 'citus%' and gid not like '%7777%'";
    server.value(DATABASE, query).await.unwrap()
}

/// How many connections came to the source over TCP, which is how nodes reach each other.
fn callers(cluster: &Cluster) -> usize {
    let came = |server: &Server| server.log_text().matches("connection received: host=127.0.0.1").count();
    cluster.nodes.iter().map(came).sum()
}

async fn balance(cluster: &Cluster, account: i64) -> String {
    let query = format!("select balance from accounts where id = {account}");
    cluster.nodes[0].value(DATABASE, &query).await.unwrap().unwrap()
}

fn ends(bank: &Bank) -> (i64, i64) {
    (*bank.sides[0].last().unwrap(), *bank.sides[1].last().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_under_way_on_the_source_is_left_alone() {
    let test = "a_commit_under_way_on_the_source_is_left_alone";
    if !Kind::Citus.can_run(test) {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let (cluster, gone) = copied(&folder, Kind::Citus).await;
    let (from, to) = ends(&gone.bank);
    let before: i64 = balance(&cluster, to).await.parse().unwrap();
    let lock = hold(&cluster, to).await;
    let client = cluster.nodes[0].connect(DATABASE).await.unwrap();
    let transfer = format!(
        "begin; update accounts set balance = balance - 7 where id = {from};
         update accounts set balance = balance + 7 where id = {to}; commit"
    );
    let commit = tokio::spawn(async move { client.batch_execute(&transfer).await });
    let worker = &cluster.nodes[1];
    let waited = async || Ok(held(worker).await.is_some());
    proof::eventually("a held commit", Duration::from_secs(90), waited).await.unwrap();
    let (under_way, calls) = (held(worker).await, callers(&cluster));

    let names: Vec<String> = NODES.map(str::to_owned).to_vec();
    let landing = Landing::choose(&folder, "new", &names).unwrap();
    let options = options(landing.targets.clone());
    restore::run(&options, gone.copies.clone(), gone.plan.clone(), Arc::new(silent)).await.unwrap();
    let servers = landing.start(&folder).unwrap();
    open_hba(&folder, &servers).unwrap();
    let total = gone.bank.accounts() * INITIAL;
    proof::citus_agrees(Kind::Citus, &servers, total).await.unwrap();
    // The copy's own daemons have started, with their defaults.
    tokio::time::sleep(Duration::from_secs(3)).await;

    assert_eq!(held(worker).await, under_way, "the source's transaction is as it was");
    assert_eq!(callers(&cluster), calls, "nobody called the source");
    lock.batch_execute("select pg_advisory_unlock(42)").await.unwrap();
    commit.await.unwrap().unwrap();
    assert_eq!(balance(&cluster, to).await, (before + 7).to_string());
}
