//! A bank whose books show what a restore kept: every transfer moves money between accounts on two
//! workers and writes a ledger row, all in one distributed transaction.
//!
//! In any whole state of the cluster an account's balance is what it began with plus what the ledger
//! says; one transfer that is held on one node only breaks that for an account.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use pitrus::moment::Moment;
use tokio_postgres::SimpleQueryMessage;

use super::cluster::{Cluster, DATABASE, Kind};
use super::server::Server;

/// What each account begins with.
pub const INITIAL: i64 = 10_000;

/// A transfer, and what its client saw of it.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub id: i64,
    pub source: i64,
    pub target: i64,
    pub amount: i64,
    /// Group of the node that the client was connected to.
    pub initiator: usize,
    pub began: Moment,
    /// When the client was told that it is committed; `None` when it never was.
    pub acknowledged: Option<Moment>,
}

/// The bank's tables on a cluster.
#[derive(Clone, Debug)]
pub struct Bank {
    pub kind: Kind,
    /// The accounts on each of the two workers, for clients to choose from.
    pub sides: [Vec<i64>; 2],
}

impl Bank {
    /// Makes the tables, and `accounts` accounts.
    pub async fn open(cluster: &Cluster, accounts: i64) -> anyhow::Result<Bank> {
        let accounts_sql = "create table accounts (id bigint primary key, balance bigint not null)";
        let ledger_sql = "create table ledger (id bigint primary key, source bigint not null, \
                          target bigint not null, amount bigint not null, began_us bigint not null)";
        let sides = match cluster.kind {
            Kind::Citus => {
                let client = cluster.coordinator()?.connect(DATABASE).await?;
                for sql in [
                    accounts_sql,
                    ledger_sql,
                    "select create_distributed_table('accounts', 'id', shard_count := 4)",
                    "select create_distributed_table('ledger', 'id', shard_count := 4)",
                    &format!(
                        "insert into accounts select n, {INITIAL} from generate_series(1, {accounts}) n"
                    ),
                ] {
                    client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
                }
                let placed = client
                    .query(
                        "select n, p.groupid from generate_series(1::bigint, $1) n join pg_dist_placement p
                         on p.shardid = get_shard_id_for_distribution_column('accounts', n)",
                        &[&accounts],
                    )
                    .await
                    .context("placements")?;
                let on = |group: i32| {
                    placed.iter().filter(|r| r.get::<_, i32>(1) == group).map(|r| r.get(0)).collect()
                };
                [on(1), on(2)]
            }
            Kind::Plain => {
                for node in cluster.nodes.iter().skip(1) {
                    node.run(DATABASE, &format!("{accounts_sql}; {ledger_sql}")).await?;
                }
                let ids = |side: i64| (1..=accounts).filter(move |id| plain_side(*id) as i64 == side);
                for side in 0..2 {
                    let rows: Vec<String> = ids(side).map(|id| format!("({id}, {INITIAL})")).collect();
                    let sql = format!("insert into accounts values {}", rows.join(", "));
                    let worker = cluster.nodes.get(side as usize + 1).context("two workers")?;
                    worker.run(DATABASE, &sql).await?;
                }
                [ids(0).collect(), ids(1).collect()]
            }
        };
        if sides.iter().any(Vec::is_empty) {
            bail!("all accounts are on one worker");
        }
        Ok(Bank { kind: cluster.kind, sides })
    }

    pub fn accounts(&self) -> i64 {
        self.sides.iter().map(|side| side.len() as i64).sum()
    }

    /// Reads the books from the workers' own tables, whether or not Citus is loaded.
    pub async fn read(&self, nodes: &[Server]) -> anyhow::Result<Books> {
        let mut books = Books::default();
        for node in nodes {
            let client = node.connect(DATABASE).await?;
            // Shards are ordinary tables, which Citus hides from pg_class.
            client.batch_execute("set citus.override_table_visibility = off").await?;
            let shards = client
                .query(
                    "select relname::text from pg_class where relkind = 'r' and relname ~ $1 order by 1",
                    &[&match self.kind {
                        Kind::Citus => "^(accounts|ledger)_[0-9]+$",
                        Kind::Plain => "^(accounts|ledger)$",
                    }],
                )
                .await?;
            for shard in shards {
                let table: String = shard.get(0);
                if table.starts_with("accounts") {
                    for row in client.query(&format!("select id, balance from {table}"), &[]).await? {
                        books.balances.insert(row.get(0), row.get(1));
                    }
                } else {
                    let sql = format!("select id, source, target, amount from {table}");
                    for row in client.query(&sql, &[]).await? {
                        books.ledger.insert(row.get(0), (row.get(1), row.get(2), row.get(3)));
                    }
                }
            }
            for row in client.query("select gid from pg_prepared_xacts", &[]).await? {
                books.prepared.push(format!("{} on {}", row.get::<_, String>(0), node.name));
            }
        }
        Ok(books)
    }
}

/// Returns which worker (0 or 1) keeps a row of this id on a plain cluster.
pub fn plain_side(id: i64) -> usize {
    usize::from(id % 2 != 0)
}

/// The contents of the bank's tables on all nodes.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub balances: BTreeMap<i64, i64>,
    /// id -> source, target, amount
    pub ledger: BTreeMap<i64, (i64, i64, i64)>,
    pub prepared: Vec<String>,
}

/// Everything that clients did and saw.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub transfers: Vec<Transfer>,
    /// What ended a client before it was told to end.
    pub failures: Vec<String>,
}

/// What the books say about themselves and about the truth.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub total: i64,
    pub expected_total: i64,
    /// Accounts whose balance is not what they began with plus their ledger rows.
    pub torn_accounts: Vec<i64>,
    /// What the first of them holds more than it should.
    pub torn_by: i64,
    pub transfers: usize,
    /// Of the truth's transfers: those that had to be in, and that had to be out.
    pub must_in: usize,
    pub must_out: usize,
    pub missing: Vec<i64>,
    pub too_many: Vec<i64>,
    pub prepared: Vec<String>,
}

impl Verdict {
    /// Returns what is wrong; empty when the state is whole and is the one asked for.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.total != self.expected_total {
            problems.push(format!("the accounts hold {} and not {}", self.total, self.expected_total));
        }
        if let Some(first) = self.torn_accounts.first() {
            let all = self.torn_accounts.len();
            problems
                .push(format!("{all} accounts disagree with the ledger, first {first} by {}", self.torn_by));
        }
        if let Some(first) = self.missing.first() {
            problems.push(format!(
                "{} transfers acknowledged before are missing, first {first}",
                self.missing.len()
            ));
        }
        if let Some(first) = self.too_many.first() {
            problems.push(format!("{} transfers begun after are in, first {first}", self.too_many.len()));
        }
        if let Some(first) = self.prepared.first() {
            problems.push(format!("{} prepared transactions are left, first {first}", self.prepared.len()));
        }
        problems
    }
}

impl Books {
    /// Judges a state that was restored to `target`. Within `margin_us` of it nothing is known.
    pub fn judge(&self, bank: &Bank, truth: &Truth, target: Moment, margin_us: i64) -> Verdict {
        let mut expected: BTreeMap<i64, i64> = bank.sides.iter().flatten().map(|id| (*id, INITIAL)).collect();
        for (source, target, amount) in self.ledger.values() {
            *expected.entry(*source).or_default() -= amount;
            *expected.entry(*target).or_default() += amount;
        }
        let ids: BTreeSet<i64> = expected.keys().chain(self.balances.keys()).copied().collect();
        let torn: Vec<i64> = ids.into_iter().filter(|id| expected.get(id) != self.balances.get(id)).collect();
        let of = |books: &BTreeMap<i64, i64>| torn.first().and_then(|id| books.get(id)).copied().unwrap_or(0);
        let mut verdict = Verdict {
            total: self.balances.values().sum(),
            expected_total: bank.accounts() * INITIAL,
            torn_by: of(&self.balances) - of(&expected),
            torn_accounts: torn,
            transfers: self.ledger.len(),
            prepared: self.prepared.clone(),
            ..Verdict::default()
        };
        for transfer in &truth.transfers {
            let is_in = self.ledger.contains_key(&transfer.id);
            if transfer.acknowledged.is_some_and(|at| at <= target.plus_micros(-margin_us)) {
                verdict.must_in += 1;
                if !is_in {
                    verdict.missing.push(transfer.id);
                }
            } else if transfer.began > target.plus_micros(margin_us) {
                verdict.must_out += 1;
                if is_in {
                    verdict.too_many.push(transfer.id);
                }
            }
        }
        verdict
    }
}

/// Returns the rows that each statement of a simple query touched.
pub fn row_counts(messages: &[SimpleQueryMessage]) -> Vec<u64> {
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        })
        .collect()
}
