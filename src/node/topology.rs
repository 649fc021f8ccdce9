//! Citus's own view of its cluster: `pg_dist_node` and `pg_dist_local_group`, read by plain SQL in
//! every database that has them. Works also where the tables stand without the extension.

use super::{ConnectionOptions, Error, Session};
use crate::ids::GroupId;
use crate::manifest::topology::{CitusDatabase, CitusNode};

struct Database {
    name: String,
    oid: u32,
}

/// Returns the databases that have Citus's catalogue, with this server's group in each.
pub async fn local_groups(options: &ConnectionOptions) -> Result<Vec<(String, GroupId)>, Error> {
    let mut groups = Vec::new();
    for (database, session) in with_catalogue(options).await? {
        let query = "SELECT groupid FROM pg_catalog.pg_dist_local_group LIMIT 1";
        if let Some(row) = session.rows("read pg_dist_local_group", query, &[]).await?.first() {
            groups.push((database.name, GroupId(row.get(0))));
        }
    }
    Ok(groups)
}

/// Reads every database's view of the cluster, databases by name, nodes by id.
pub async fn read(options: &ConnectionOptions) -> Result<Vec<CitusDatabase>, Error> {
    let mut found = Vec::new();
    for (database, session) in with_catalogue(options).await? {
        let query = "SELECT extversion FROM pg_extension WHERE extname = 'citus'";
        let citus_version =
            session.rows("read pg_extension", query, &[]).await?.first().map(|row| row.get(0));
        let query = "SELECT nodeid, groupid, nodename::text, nodeport, noderole::text, isactive
                     FROM pg_catalog.pg_dist_node ORDER BY nodeid";
        let rows = session.rows("read pg_dist_node", query, &[]).await?;
        let nodes = rows.iter().map(|row| CitusNode {
            node_id: row.get(0),
            group: GroupId(row.get(1)),
            host: row.get(2),
            port: row.get(3),
            role: row.get(4),
            is_active: row.get(5),
        });
        let nodes = nodes.collect();
        found.push(CitusDatabase { name: database.name, oid: database.oid, citus_version, nodes });
    }
    Ok(found)
}

/// Where the coordinator is, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// This server is it.
    Here,
    At {
        host: String,
        port: u16,
        database: String,
    },
    /// No database has Citus's catalogue, or none names the coordinator.
    Unknown,
}

const COORDINATOR: GroupId = GroupId(0);

/// Returns where the coordinator is.
pub async fn coordinator(options: &ConnectionOptions) -> Result<Seat, Error> {
    for (database, session) in with_catalogue(options).await? {
        let query = "SELECT nodename::text, nodeport,
                            (SELECT groupid FROM pg_catalog.pg_dist_local_group LIMIT 1)
                       FROM (SELECT 1) AS once LEFT JOIN pg_catalog.pg_dist_node
                         ON groupid = $1 AND noderole::text = 'primary' LIMIT 1";
        let row = session.row("look for the coordinator", query, &[&COORDINATOR.0]).await?;
        if row.get::<_, Option<i32>>(2) == Some(COORDINATOR.0) {
            return Ok(Seat::Here);
        }
        let port = row.get::<_, Option<i32>>(1).and_then(|port| u16::try_from(port).ok());
        if let Some((host, port)) = row.get::<_, Option<String>>(0).zip(port) {
            return Ok(Seat::At { host, port, database: database.name });
        }
    }
    Ok(Seat::Unknown)
}

/// Opens a session to each database that has the catalogue.
async fn with_catalogue(options: &ConnectionOptions) -> Result<Vec<(Database, Session)>, Error> {
    let query = "SELECT datname::text, oid FROM pg_database WHERE datallowconn AND NOT datistemplate
                  AND has_database_privilege(oid, 'CONNECT') ORDER BY 1";
    let rows = Session::connect(options, None).await?.rows("list databases", query, &[]).await?;
    let mut found = Vec::new();
    for row in rows {
        let database = Database { name: row.get(0), oid: row.get(1) };
        let session = Session::connect(options, Some(&database.name)).await?;
        let query = "SELECT to_regclass('pg_catalog.pg_dist_node') IS NOT NULL
                        AND to_regclass('pg_catalog.pg_dist_local_group') IS NOT NULL";
        if session.row("look for Citus's catalogue", query, &[]).await?.get(0) {
            found.push((database, session));
        }
    }
    Ok(found)
}
