//! Makes a restored node's Citus metadata name the new cluster, and nothing of the old one.
//!
//! Done on every node, in every database with `pg_dist_node`, while Citus is not loaded: with the old
//! addresses in it, a server with Citus would settle the source's transactions within a second. Works
//! as well where the catalogue tables exist without the extension.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Error;
use super::server::{Instance, Server};
use crate::ids::{GroupId, NodeName};

/// Where a group of the new cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) group: GroupId,
    pub(super) host: String,
    pub(super) port: u16,
}

/// What was changed in one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readdressed {
    pub database: String,
    /// `old host:port -> new host:port`
    pub moved: Vec<String>,
    /// Rows of standbys, which the new cluster does not have: removed.
    pub removed: Vec<String>,
    /// Rows of `pg_dist_poolinfo`, which override addresses: removed.
    pub pools: u64,
    /// Roles with a row in `pg_dist_authinfo`: kept, to be checked by a person.
    pub logins: Vec<String>,
    /// Subscriptions that were switched off: they would fetch from their publisher.
    pub subscriptions: Vec<String>,
}

/// A table of Citus, as SQL names it; schema-qualified and quoted.
pub(super) type Table = String;

/// Readdresses every database of one node. `addresses` names every group of the new cluster.
pub(super) async fn readdress(server: &Server, addresses: &[Address]) -> Result<Vec<Readdressed>, Error> {
    let instance = server.instance();
    let mut done = Vec::new();
    for name in databases(server).await? {
        let database = Database { instance, client: server.connect(&name).await?, name };
        done.extend(database.readdress(addresses).await?);
    }
    Ok(done)
}

/// Returns the names of databases that can be entered.
pub(super) async fn databases(server: &Server) -> Result<Vec<String>, Error> {
    let client = server.connect("template1").await?;
    let query = "select datname::text from pg_database where datallowconn order by 1";
    let rows = client.query(query, &[]).await;
    let rows = rows.map_err(Error::sql(&server.instance().node, "list databases"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Finds a table of Citus: in `pg_catalog`, or wherever it is without the extension.
pub(super) async fn table(
    client: &Client,
    node: &NodeName,
    database: &str,
    name: &str,
) -> Result<Option<Table>, Error> {
    let query = "select quote_ident(nspname) || '.' || quote_ident(relname) from pg_class c
                 join pg_namespace n on n.oid = c.relnamespace where relname = $1::text and relkind = 'r'
                 order by nspname <> 'pg_catalog', nspname";
    let rows = client.query(query, &[&name]).await;
    let rows = rows.map_err(Error::sql(node, format!("look for {name} in database {database}")))?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    match names.as_slice() {
        [first, second, ..] if !first.starts_with("pg_catalog.") => {
            let problem = format!("database {database}: both {first} and {second} exist");
            Err(Error::Catalogue { node: node.clone(), problem })
        }
        other => Ok(other.first().cloned()),
    }
}

struct Database<'a> {
    instance: &'a Instance,
    client: Client,
    name: String,
}

impl Database<'_> {
    async fn readdress(&self, addresses: &[Address]) -> Result<Option<Readdressed>, Error> {
        // No trigger of Citus may run: its library is not there. Its tables count as system tables.
        self.run("set session_replication_role = replica; set allow_system_table_mods = on").await?;
        let subscriptions = self.switch_off_subscriptions().await?;
        let nodes = self.table("pg_dist_node").await?;
        if nodes.is_none() && subscriptions.is_empty() {
            return Ok(None);
        }
        let mut changed = Readdressed {
            database: self.name.clone(),
            moved: Vec::new(),
            removed: Vec::new(),
            pools: 0,
            logins: Vec::new(),
            subscriptions,
        };
        if let Some(nodes) = nodes {
            self.run("begin").await?;
            self.move_nodes(&nodes, addresses, &mut changed).await?;
            if let Some(pools) = self.table("pg_dist_poolinfo").await? {
                changed.pools = self.execute(&format!("delete from {pools}")).await?;
            }
            if let Some(logins) = self.table("pg_dist_authinfo").await? {
                let query = format!("select distinct rolename::text from {logins} order by 1");
                changed.logins = self.query(&query).await?.iter().map(|row| row.get(0)).collect();
            }
            self.refuse_strangers(&nodes, addresses).await?;
            self.run("commit").await?;
        }
        Ok(Some(changed))
    }

    /// Gives each primary its new address, and removes the rows of standbys.
    async fn move_nodes(
        &self,
        nodes: &Table,
        addresses: &[Address],
        changed: &mut Readdressed,
    ) -> Result<(), Error> {
        let standby = format!(
            "delete from {nodes} where noderole::text <> 'primary' returning nodename || ':' || nodeport"
        );
        changed.removed = self.query(&standby).await?.iter().map(|row| row.get(0)).collect();
        let query = format!("select nodeid, groupid, nodename::text, nodeport from {nodes} order by nodeid");
        let rows = self.query(&query).await?;
        // Old and new addresses may overlap, and no two rows may have one address even for a moment.
        self.execute(&format!("update {nodes} set nodename = 'pitrus-' || nodeid")).await?;
        for row in rows {
            let (id, group): (i32, i32) = (row.get(0), row.get(1));
            let old = format!("{}:{}", row.get::<_, String>(2), row.get::<_, i32>(3));
            let Some(new) = addresses.iter().find(|a| a.group == GroupId(group)) else {
                return Err(
                    self.wrong(format!("the metadata names group {group} at {old}, which was not restored"))
                );
            };
            let update = format!("update {nodes} set nodename = $1, nodeport = $2 where nodeid = $3");
            let updated = self.client.execute(&update, &[&new.host, &i32::from(new.port), &id]).await;
            updated.map_err(self.sql("rewrite pg_dist_node"))?;
            changed.moved.push(format!("{old} -> {}:{}", new.host, new.port));
        }
        Ok(())
    }

    /// Reads the rows back: none may name anything but the new cluster.
    async fn refuse_strangers(&self, nodes: &Table, addresses: &[Address]) -> Result<(), Error> {
        let query = format!("select groupid, nodename::text, nodeport from {nodes}");
        for row in self.query(&query).await? {
            let (group, host, port): (i32, String, i32) = (row.get(0), row.get(1), row.get(2));
            let known = addresses
                .iter()
                .any(|a| a.group == GroupId(group) && a.host == host && i32::from(a.port) == port);
            if !known {
                return Err(self.wrong(format!("pg_dist_node still names {host}:{port}")));
            }
        }
        Ok(())
    }

    async fn switch_off_subscriptions(&self) -> Result<Vec<String>, Error> {
        let query =
            "select quote_ident(subname) from pg_subscription s join pg_database d on d.oid = s.subdbid
                     where subenabled and datname = current_database() order by 1";
        let names: Vec<String> = self.query(query).await?.iter().map(|row| row.get(0)).collect();
        for name in &names {
            self.run(&format!("alter subscription {name} disable")).await?;
        }
        Ok(names)
    }

    async fn table(&self, name: &str) -> Result<Option<Table>, Error> {
        table(&self.client, &self.instance.node, &self.name, name).await
    }

    async fn run(&self, statements: &str) -> Result<(), Error> {
        self.client.batch_execute(statements).await.map_err(self.sql("rewrite its metadata"))
    }

    async fn execute(&self, statement: &str) -> Result<u64, Error> {
        self.client.execute(statement, &[]).await.map_err(self.sql("rewrite its metadata"))
    }

    async fn query(&self, query: &str) -> Result<Vec<tokio_postgres::Row>, Error> {
        self.client.query(query, &[]).await.map_err(self.sql("read its metadata"))
    }

    fn sql(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        Error::sql(&self.instance.node, format!("{doing} in database {}", self.name))
    }

    fn wrong(&self, problem: String) -> Error {
        let problem = format!("database {}: {problem}", self.name);
        Error::Catalogue { node: self.instance.node.clone(), problem }
    }
}
