//! Clients that transfer money until told to stop, half of them connected to a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use pitrus::clock;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::bank::{Bank, Transfer, Truth, plain_side, row_counts};
use super::cluster::{Cluster, DATABASE, Kind};

#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Clients of each of the two initiators (the coordinator and the first worker).
    pub clients: usize,
    /// What a client waits after each transfer.
    pub pause: Duration,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Truth>>,
}

impl Load {
    pub async fn start(cluster: &Cluster, bank: &Bank, options: LoadOptions) -> anyhow::Result<Load> {
        Load::start_after(cluster, bank, options, 0).await
    }

    /// Starts a load whose transfers' ids do not meet those of an earlier one: another `run` number.
    pub async fn start_after(
        cluster: &Cluster,
        bank: &Bank,
        options: LoadOptions,
        run: i64,
    ) -> anyhow::Result<Load> {
        let mut load = Load { stop: Arc::default(), done: Arc::default(), clients: Vec::new() };
        let all = options.clients * 2;
        for number in 0..all {
            let initiator = number % 2;
            let client = LoadClient {
                // Each has accounts of its own: plain servers have nobody who finds a distributed deadlock.
                sides: bank.sides.clone().map(|side| side.into_iter().skip(number).step_by(all).collect()),
                teller: Teller::connect(cluster, initiator).await?,
                initiator,
                next_id: (run * 1000 + number as i64 + 1) * 10_000_000,
            };
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            load.clients.push(tokio::spawn(client.run(options.pause, stop, done)));
        }
        Ok(load)
    }

    /// Returns how many transfers were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Lets every client finish its transfer, and returns what they saw.
    pub async fn stop(self) -> anyhow::Result<Truth> {
        self.stop.store(true, Ordering::Relaxed);
        let mut truth = Truth::default();
        for client in self.clients {
            let seen = client.await.context("a load client")?;
            truth.transfers.extend(seen.transfers);
            truth.failures.extend(seen.failures);
        }
        truth.transfers.sort_by_key(|transfer| transfer.began);
        Ok(truth)
    }
}

struct LoadClient {
    teller: Teller,
    sides: [Vec<i64>; 2],
    initiator: usize,
    next_id: i64,
}

impl LoadClient {
    async fn run(mut self, pause: Duration, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Truth {
        let mut truth = Truth::default();
        while !stop.load(Ordering::Relaxed) {
            let mut transfer = self.next();
            let result = self.teller.transfer(&transfer).await;
            if result.is_ok() {
                transfer.acknowledged = Some(clock::now());
                done.fetch_add(1, Ordering::Relaxed);
            }
            truth.transfers.push(transfer);
            if let Err(error) = result {
                truth.failures.push(format!("{error:#}"));
                break;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        truth
    }

    fn next(&mut self) -> Transfer {
        self.next_id += 1;
        let [a, b, amount, turn] = clock::random::<4>().map(usize::from);
        let [left, right] = &self.sides;
        let (left, right) = (left[a % left.len()], right[b % right.len()]);
        let (source, target) = if turn % 2 == 0 { (left, right) } else { (right, left) };
        Transfer {
            id: self.next_id,
            source,
            target,
            amount: amount as i64 + 1,
            initiator: self.initiator,
            began: clock::now(),
            acknowledged: None,
        }
    }
}

/// Does transfers on one kind of cluster.
enum Teller {
    Citus(Client),
    Plain(Box<PlainTeller>),
}

/// Does by hand what Citus does: a connection to every node, and the two-phase protocol over them.
struct PlainTeller {
    nodes: Vec<Client>,
    initiator: usize,
    /// Of the initiator's backend, as in Citus's gids.
    pid: i32,
    /// Of the next distributed transaction of this backend.
    number: u64,
}

impl Teller {
    async fn connect(cluster: &Cluster, initiator: usize) -> anyhow::Result<Teller> {
        let mut nodes = Vec::new();
        for node in &cluster.nodes {
            nodes.push(node.connect(DATABASE).await?);
        }
        match cluster.kind {
            Kind::Citus => Ok(Teller::Citus(nodes.swap_remove(initiator))),
            Kind::Plain => {
                let pid = nodes[initiator].query_one("select pg_backend_pid()", &[]).await?.get(0);
                Ok(Teller::Plain(Box::new(PlainTeller { nodes, initiator, pid, number: 0 })))
            }
        }
    }

    /// Returns once the transfer is committed everywhere.
    async fn transfer(&mut self, transfer: &Transfer) -> anyhow::Result<()> {
        match self {
            Teller::Citus(client) => {
                let parts = statements(transfer).map(|(_, sql)| sql);
                let said = client.simple_query(&format!("begin; {}; commit", parts.join("; "))).await?;
                expect_rows(&row_counts(&said), &[0, 1, 1, 1, 0])
            }
            Teller::Plain(teller) => teller.transfer(transfer).await,
        }
    }
}

impl PlainTeller {
    async fn transfer(&mut self, transfer: &Transfer) -> anyhow::Result<()> {
        self.number += 1;
        let mut work = vec![Vec::new(); self.nodes.len()];
        for (id, sql) in statements(transfer) {
            work[plain_side(id) + 1].push(sql);
        }
        let initiator = &self.nodes[self.initiator];
        let own = std::mem::take(&mut work[self.initiator]);
        let mut begin = vec!["begin".to_owned()];
        begin.extend(own.iter().cloned());
        let said = initiator.simple_query(&begin.join("; ")).await.context("on the initiator")?;
        expect_rows(&row_counts(&said), &[&[0], vec![1; own.len()].as_slice()].concat())?;

        let mut decide = Vec::new();
        let mut participants = Vec::new();
        for (node, parts) in work.iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
            let connection = participants.len() + 1;
            let gid = format!("citus_{}_{}_{}_{connection}", self.initiator, self.pid, self.number);
            decide.push(format!("insert into pg_dist_transaction values ({node}, '{gid}')"));
            participants.push((&self.nodes[node], parts, gid));
        }
        let prepared = participants.iter().map(|(client, parts, gid)| async move {
            let sql = format!("begin; {}; prepare transaction '{gid}'", parts.join("; "));
            let said = client.simple_query(&sql).await.context("prepare")?;
            expect_rows(&row_counts(&said), &[&[0], vec![1; parts.len()].as_slice(), &[0]].concat())
        });
        futures::future::try_join_all(prepared).await?;

        if self.number.is_multiple_of(20) {
            // As Citus's recovery does once a minute: rows of finished transactions go.
            let mine = format!("citus\\_{}\\_{}\\_%", self.initiator, self.pid);
            decide.insert(0, format!("delete from pg_dist_transaction where gid like '{mine}'"));
        }
        decide.push("commit".to_owned());
        initiator.simple_query(&decide.join("; ")).await.context("decision")?;
        let committed = participants.iter().map(|(client, _, gid)| async move {
            client.simple_query(&format!("commit prepared '{gid}'")).await
        });
        futures::future::try_join_all(committed).await.context("commit prepared")?;
        Ok(())
    }
}

/// Returns a transfer's three statements, each with the id that says where its row is kept.
fn statements(t: &Transfer) -> [(i64, String); 3] {
    [
        (t.source, format!("update accounts set balance = balance - ({}) where id = {}", t.amount, t.source)),
        (t.target, format!("update accounts set balance = balance + ({}) where id = {}", t.amount, t.target)),
        (
            t.id,
            format!(
                "insert into ledger values ({}, {}, {}, {}, {})",
                t.id,
                t.source,
                t.target,
                t.amount,
                t.began.unix_micros()
            ),
        ),
    ]
}

/// A statement that touches no row is no error to the server, and would be blamed on the restore.
fn expect_rows(found: &[u64], expected: &[u64]) -> anyhow::Result<()> {
    if found != expected {
        bail!("statements touched {found:?} rows and not {expected:?}");
    }
    Ok(())
}
