//! Clients that go on whatever happens to the servers: they connect again, and know of each transfer whether it
//! was acknowledged, refused, or neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use pitrus::clock;
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::world::bank::{Transfer, row_counts};
use crate::world::{Bank, Cluster, DATABASE, Truth};

const PAUSE: Duration = Duration::from_millis(5);
const CONNECT_AGAIN: Duration = Duration::from_millis(100);

/// Running clients.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    /// Each transfer holds it shared.
    gate: Arc<RwLock<()>>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What clients saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) truth: Truth,
    /// Ids that were written and rolled back.
    pub(super) aborted: Vec<i64>,
    /// Transfers after which their client does not know how they ended.
    pub(super) unknown: usize,
}

struct Caller {
    conninfo: String,
    initiator: usize,
    accounts: Vec<i64>,
    next_id: i64,
    client: Option<Client>,
    seen: Seen,
}

impl Traffic {
    /// Starts so many clients on each of the coordinator and the first worker.
    pub(super) fn start(cluster: &Cluster, bank: &Bank, clients: usize) -> Traffic {
        let (stop, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(RwLock::new(())));
        let accounts: Vec<i64> = (1..=bank.accounts()).collect();
        let all = clients * 2;
        let callers = (0..all).map(|number| Caller {
            conninfo: cluster.nodes[number % 2].conninfo(DATABASE),
            initiator: number % 2,
            // Each has accounts of its own, so that none waits for another.
            accounts: accounts.iter().copied().skip(number).step_by(all).collect(),
            next_id: (number as i64 + 1) * 10_000_000,
            client: None,
            seen: Seen::default(),
        });
        let clients = callers.map(|caller| tokio::spawn(caller.run(Arc::clone(&stop), Arc::clone(&gate))));
        let clients = clients.collect();
        Traffic { stop, gate, clients }
    }

    /// Waits for the transfers under way, and lets none begin while what it returns is held.
    pub(super) async fn held(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Lets every client finish its transfer.
    pub(super) async fn stop(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.await.context("a client")?;
            all.truth.transfers.extend(seen.truth.transfers);
            all.aborted.extend(seen.aborted);
            all.unknown += seen.unknown;
        }
        Ok(all)
    }
}

impl Caller {
    async fn run(mut self, stop: Arc<AtomicBool>, gate: Arc<RwLock<()>>) -> Seen {
        while !stop.load(Ordering::Relaxed) {
            let open = gate.read().await;
            let pause = self.turn().await;
            drop(open);
            tokio::time::sleep(pause).await;
        }
        self.seen
    }

    /// Does one transfer, where it can connect; returns how long to wait before the next.
    async fn turn(&mut self) -> Duration {
        if self.client.is_none() {
            self.client = connect(&self.conninfo).await.ok();
        }
        let Some(client) = &self.client else { return CONNECT_AGAIN };
        self.next_id += 1;
        let dice = clock::random::<4>();
        let transfer = transfer(self.next_id, self.initiator, &self.accounts, dice);
        match work(client, &transfer, dice[3]).await {
            Ok(true) => self.commit(transfer).await,
            Ok(false) => self.seen.aborted.push(transfer.id),
            // It was not told to commit, so it cannot have.
            Err(_) => {
                self.seen.aborted.push(transfer.id);
                self.client = None;
            }
        }
        PAUSE
    }

    async fn commit(&mut self, mut transfer: Transfer) {
        let Some(client) = &self.client else { return };
        match client.simple_query("commit").await {
            Ok(_) => transfer.acknowledged = Some(clock::now()),
            Err(_) => {
                self.seen.unknown += 1;
                self.client = None;
            }
        }
        self.seen.truth.transfers.push(transfer);
    }
}

async fn connect(conninfo: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("set lock_timeout = '10s'; set statement_timeout = '15s'").await?;
    Ok(client)
}

fn transfer(id: i64, initiator: usize, accounts: &[i64], dice: [u8; 4]) -> Transfer {
    let source = usize::from(dice[0]) % accounts.len();
    let target = (source + 1 + usize::from(dice[1]) % (accounts.len() - 1)) % accounts.len();
    Transfer {
        id,
        source: accounts[source],
        target: accounts[target],
        amount: i64::from(dice[2]) + 1,
        initiator,
        began: clock::now(),
        acknowledged: None,
    }
}

/// Does all but the commit; `false` where it rolled back.
async fn work(client: &Client, t: &Transfer, kind: u8) -> anyhow::Result<bool> {
    let wrong = format!(
        "savepoint a; update accounts set balance = balance - 1000000 where id = {}; rollback to a; ",
        t.source
    );
    let takes = format!("update accounts set balance = balance - ({}) where id = {}; ", t.amount, t.source);
    let gives = format!("update accounts set balance = balance + ({}) where id = {}; ", t.amount, t.target);
    let writes = format!(
        "insert into ledger (id, source, target, amount, began_us) values ({}, {}, {}, {}, {})",
        t.id,
        t.source,
        t.target,
        t.amount,
        t.began.unix_micros()
    );
    let (sql, rows): (String, &[u64]) = match kind % 8 {
        0 | 1 => (format!("begin; {wrong}{takes}{gives}{writes}"), &[0, 0, 1, 0, 1, 1, 1]),
        2 => (format!("begin; {takes}savepoint b; {gives}release b; {writes}"), &[0, 1, 0, 1, 0, 1]),
        _ => (format!("begin; {takes}{gives}{writes}"), &[0, 1, 1, 1]),
    };
    let found = row_counts(&client.simple_query(&sql).await?);
    // Citus itself may find no row where a shard was just moved: that is not for a restore to answer.
    if found != rows || kind % 8 == 3 {
        client.simple_query("rollback").await?;
        if found.len() != rows.len() {
            bail!("{found:?}");
        }
        return Ok(false);
    }
    Ok(true)
}
