//! Ends each distributed transaction that the cut left prepared, as the WAL of its initiator decided.
//!
//! Not by the restored catalogue, where the WAL tells: the initiator deletes a decision's row once its
//! participants have committed, and that DELETE may be inside while a COMMIT PREPARED is outside. Citus's
//! own recovery would then roll back a committed transaction.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Error;
use super::metadata;
use super::server::{Instance, Server};
use crate::citus::Gid;
use crate::cut::{Action, Settle};

/// What was done on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    pub committed: Vec<String>,
    pub rolled_back: Vec<String>,
    /// Settled by an earlier run of this restore.
    pub already: Vec<String>,
    /// Prepared by others than Citus: left as they are, holding their locks.
    pub foreign: Vec<Foreign>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    pub database: String,
    pub gid: String,
}

/// Decisions found in restored catalogues: database and gid.
pub(super) type Decisions = BTreeSet<(String, String)>;

/// Reads the rows of `pg_dist_transaction` on one node, before anything is settled.
pub(super) async fn decisions(server: &Server) -> Result<Decisions, Error> {
    let node = &server.instance().node;
    let mut found = Decisions::new();
    for database in metadata::databases(server).await? {
        let client = server.connect(&database).await?;
        let Some(table) = metadata::table(&client, node, &database, "pg_dist_transaction").await? else {
            continue;
        };
        let rows = client.query(&format!("select gid::text from {table}"), &[]).await;
        let rows = rows.map_err(Error::sql(node, format!("read pg_dist_transaction in {database}")))?;
        found.extend(rows.iter().map(|row| (database.clone(), row.get(0))));
    }
    Ok(found)
}

/// A prepared transaction, as the server lists it.
struct Prepared {
    xid: String,
    database: String,
}

/// Settles what the plan names on one promoted node, and sees that no transaction of Citus is left.
pub(super) async fn settle(
    server: &Server,
    orders: &[&Settle],
    decisions: &Decisions,
) -> Result<Settled, Error> {
    let instance = server.instance();
    let client = server.connect("template1").await?;
    let mut left = prepared(instance, &client).await?;
    let mut settled = Settled::default();
    for order in orders {
        let Some(found) = left.remove(&order.gid) else {
            settled.already.push(order.gid.clone());
            continue;
        };
        if found.xid != order.xid.to_string() {
            let problem = format!("{} is prepared as {}, not as {}", order.gid, found.xid, order.xid);
            return Err(Error::Catalogue { node: instance.node.clone(), problem });
        }
        let commit = match order.action {
            Action::Commit => true,
            Action::Rollback => false,
            Action::AsCatalogue => decisions.contains(&(found.database.clone(), order.gid.clone())),
        };
        finish(server, &found.database, &order.gid, commit).await?;
        let list = if commit { &mut settled.committed } else { &mut settled.rolled_back };
        list.push(order.gid.clone());
    }
    refuse_unknown(instance, left.keys())?;
    settled.foreign = left.into_iter().map(|(gid, p)| Foreign { database: p.database, gid }).collect();
    Ok(settled)
}

async fn finish(server: &Server, database: &str, gid: &str, commit: bool) -> Result<(), Error> {
    let session = server.connect(database).await?;
    let verb = if commit { "COMMIT" } else { "ROLLBACK" };
    let statement = format!("{verb} PREPARED {}", literal(gid));
    let doing = format!("settle {gid} in {database}");
    session.batch_execute(&statement).await.map_err(Error::sql(&server.instance().node, doing))
}

fn refuse_unknown<'a>(instance: &Instance, gids: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let unknown: Vec<&str> = gids.map(String::as_str).filter(|g| Gid::parse(g).is_some()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let problem = format!("the plan does not know these prepared transactions: {}", unknown.join(", "));
    Err(Error::Catalogue { node: instance.node.clone(), problem })
}

/// Returns what is prepared, by gid.
async fn prepared(instance: &Instance, client: &Client) -> Result<BTreeMap<String, Prepared>, Error> {
    let query = "select gid, transaction::text, database::text from pg_prepared_xacts";
    let rows = client.query(query, &[]).await;
    let rows = rows.map_err(Error::sql(&instance.node, "list prepared transactions"))?;
    let entry = |row: &tokio_postgres::Row| (row.get(0), Prepared { xid: row.get(1), database: row.get(2) });
    Ok(rows.iter().map(entry).collect())
}

/// Quotes text for SQL, in the form that means the same whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gid_cannot_leave_its_quotes() {
        assert_eq!(literal("citus_0_1_2_3"), "E'citus_0_1_2_3'");
        assert_eq!(literal(r"a'b\"), r"E'a''b\\'");
    }
}
