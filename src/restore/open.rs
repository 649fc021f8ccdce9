//! The first start with Citus loaded, and the closed state in which the new cluster is left.
//!
//! Citus starts with everything off that acts by itself, reachable by us only. What is checked: its
//! library fits the restored catalogue, it knows its own nodes, and nothing of it is prepared anywhere.
//! `recover_prepared_transactions()` itself is not called: it connects to the other nodes over TCP, which
//! nobody may do yet; with no prepared transaction of Citus on any node it has nothing to do.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::conf::{self, Needs};
use super::server::{Instance, LOG, Server};

/// What the first start showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// `database: version` of Citus, where it is.
    pub citus: Vec<String>,
    /// Databases whose sort order may differ on this machine: their indexes on text need a REINDEX.
    pub collations: Vec<String>,
}

/// Starts a readdressed node with Citus, checks it, stops it, and closes it.
pub(super) async fn open(instance: &Instance, needs: &Needs) -> Result<Checked, Error> {
    let (directory, user) = (&instance.directory, &instance.user);
    conf::write(directory, user, &conf::checking(needs), conf::HBA_PRIVATE, "")?;
    let mut server = instance.start().await?;
    let client = server.accepts(|| Ok(())).await?;
    drop(client);
    let checked = check(&server, needs).await?;
    server.stop().await?;
    close(instance, needs)?;
    Ok(checked)
}

/// Writes the configuration that is left behind.
fn close(instance: &Instance, needs: &Needs) -> Result<(), Error> {
    let (superuser, user) = (&instance.superuser, &instance.user);
    let hba = conf::hba_closed(superuser, user);
    let ident = conf::ident(superuser, user);
    conf::write(&instance.directory, user, &conf::closed(needs), &hba, &ident)
}

async fn check(server: &Server, needs: &Needs) -> Result<Checked, Error> {
    let instance = server.instance();
    let client = server.connect("template1").await?;
    let failed = |error| Error::sql(&instance.node, "list databases")(error);
    let version = "select current_setting('server_version_num')::int4";
    let version: i32 = client.query_one(version, &[]).await.map_err(failed)?.get(0);
    // Before 15 the versions of databases' collations are not known.
    let is_stale = match version {
        150_000.. => {
            "datcollversion is distinct from pg_database_collation_actual_version(oid) and datcollversion is not null"
        }
        _ => "false",
    };
    let query = format!("select datname::text, {is_stale} from pg_database where datallowconn order by 1");
    let rows = client.query(&query, &[]).await.map_err(failed)?;
    let mut checked = Checked::default();
    for row in &rows {
        let database: String = row.get(0);
        if row.get(1) {
            checked.collations.push(database.clone());
        }
        if needs.citus {
            checked.citus.extend(citus(server, &database).await?);
        }
    }
    Ok(checked)
}

/// Lets Citus read its own catalogue, which it refuses when library and extension differ.
async fn citus(server: &Server, database: &str) -> Result<Option<String>, Error> {
    let node = &server.instance().node;
    let client = server.connect(database).await?;
    let query = "select extversion from pg_extension where extname = 'citus'";
    let found = client.query_opt(query, &[]).await.map_err(Error::sql(node, "look for Citus"))?;
    let Some(row) = found else { return Ok(None) };
    let version: String = row.get(0);
    let query = "select count(*) from citus_get_active_worker_nodes()";
    client.query_one(query, &[]).await.map_err(Error::sql(
        node,
        format!("use Citus in database {database}, whose extension has version {version}, with this machine's library"),
    ))?;
    Ok(Some(format!("{database}: {version}")))
}

/// Starts a closed node to stay: as the servers' user, not as a child of ours.
pub(super) async fn start(instance: &Instance) -> Result<(), Error> {
    let mut command = tokio::process::Command::from(instance.user.command(instance.programs.path("pg_ctl")));
    command.args(["start", "--wait", "--silent", "--pgdata"]).arg(&instance.directory);
    command.arg("--log").arg(instance.log());
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let status = command.status().await.map_err(Error::file("start", &instance.directory))?;
    if status.success() { Ok(()) } else { Err(instance.fault("the new server did not start")) }
}

/// Returns the command with which a person starts a node.
pub(super) fn start_command(instance: &Instance) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let start = format!(
        "{} start -w -D {} -l {}",
        quoted(&instance.programs.path("pg_ctl")),
        quoted(&instance.directory),
        quoted(&instance.directory.join(LOG)),
    );
    // With the user's own HOME: libpq inside Citus looks for certificates there.
    match instance.user.switch {
        true => {
            format!("setpriv --reuid={0} --regid={0} --init-groups --reset-env {start}", instance.user.name)
        }
        false => start,
    }
}
