//! What must hold of a restored cluster beyond its books.

use std::time::Duration;

use anyhow::{bail, ensure};
use tokio_postgres::NoTls;

use super::cluster::{DATABASE, Kind};
use super::server::Server;

/// Settings that the source changes, only so that a restored server can be seen not to have them.
pub const CHANGED: [(&str, &str, &str); 2] =
    [("work_mem", "7MB", "4MB"), ("deadlock_timeout", "1234ms", "1s")];

/// Checks that a TCP connection is refused by pg_hba.conf on every node.
pub async fn closed(servers: &[Server]) -> anyhow::Result<()> {
    for server in servers {
        let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname={DATABASE}", server.port);
        match tokio_postgres::connect(&conninfo, NoTls).await {
            Ok(_) => bail!("{}: lets a TCP connection in", server.name),
            Err(error) => {
                let said = error.as_db_error().map(|e| e.message().to_owned()).unwrap_or_default();
                ensure!(said.contains("pg_hba.conf"), "{}: refused otherwise: {error} {said}", server.name);
            }
        }
    }
    Ok(())
}

/// Checks that the source's own settings did not come along.
pub async fn parameters_reset(servers: &[Server]) -> anyhow::Result<()> {
    for server in servers {
        for (name, _, default) in CHANGED {
            let value = server.value(DATABASE, &format!("show {name}")).await?;
            ensure!(value.as_deref() == Some(default), "{}: {name} is {value:?}", server.name);
        }
        let archive = server.value(DATABASE, "show archive_mode").await?;
        ensure!(archive.as_deref() == Some("off"), "{}: archive_mode is {archive:?}", server.name);
    }
    Ok(())
}

/// Checks that the metadata names only the new cluster.
pub async fn metadata_is_new(servers: &[Server]) -> anyhow::Result<()> {
    let mut ports: Vec<String> = servers.iter().map(|server| server.port.to_string()).collect();
    ports.sort();
    let wanted = ports.join(",");
    for server in servers {
        let sql = "select string_agg(nodeport::text, ',' order by nodeport::text) from pg_dist_node";
        let found = server.value(DATABASE, sql).await?;
        ensure!(found.as_deref() == Some(&wanted), "{}: pg_dist_node names {found:?}", server.name);
    }
    Ok(())
}

/// Asks the restored cluster through Citus itself, on the coordinator and on a worker, and lets its own
/// recovery of prepared transactions run: it must find nothing to do.
pub async fn citus_agrees(kind: Kind, servers: &[Server], total: i64) -> anyhow::Result<()> {
    if kind == Kind::Plain {
        return Ok(());
    }
    for server in servers {
        let sum = server.value(DATABASE, "select sum(balance) from accounts").await?;
        ensure!(sum == Some(total.to_string()), "{}: the accounts hold {sum:?}", server.name);
        let recovered = server.value(DATABASE, "select recover_prepared_transactions()").await?;
        ensure!(recovered.as_deref() == Some("0"), "{}: Citus recovered {recovered:?}", server.name);
    }
    Ok(())
}

/// Waits for something that becomes true by itself.
pub async fn eventually(
    what: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = std::time::Instant::now();
    while !check().await? {
        if began.elapsed() > within {
            bail!("{what}: not within {within:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
