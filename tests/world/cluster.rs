//! A sharded cluster of three servers: a coordinator and two workers, every one with the metadata.
//!
//! `Citus` is the real thing. `Plain` is three plain servers with the same catalogue tables, on which
//! a client drives the same two-phase protocol (see `bank`): what a restore reads is the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::folder::Folder;
use super::server::{Server, ServerOptions, Stop};

/// The database that holds the bank.
pub const DATABASE: &str = "bank";
pub const NODES: [&str; 3] = ["coordinator", "worker1", "worker2"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Citus,
    Plain,
}

impl Kind {
    /// Returns `Citus` where the extension is installed.
    pub fn here() -> Kind {
        if citus_control().is_ok() { Kind::Citus } else { Kind::Plain }
    }

    /// Returns whether such a cluster can run here, and prints why where it cannot.
    pub fn can_run(self, test: &str) -> bool {
        if !super::can_run(test) {
            return false;
        }
        match citus_control() {
            Err(why) if self == Kind::Citus => {
                super::say!("skipped: {test}: {why}");
                false
            }
            _ => true,
        }
    }
}

/// Returns the extension's control file, or why there is none.
fn citus_control() -> Result<PathBuf, String> {
    let config = super::bin_dir()?.join("pg_config");
    let said = Command::new(&config).arg("--sharedir").output().map_err(|e| format!("pg_config: {e}"))?;
    let share = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    let control = share.join("extension/citus.control");
    if control.is_file() { Ok(control) } else { Err(format!("no Citus: {} is not there", control.display())) }
}

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub kind: Kind,
    /// MiB.
    pub wal_segment_mib: u32,
    pub durable: bool,
    /// How far the first worker's clock is ahead, in milliseconds; needs libfaketime where not 0.
    pub skew_ms: i32,
    /// The same of the second worker.
    pub second_skew_ms: i32,
    /// Of every node.
    pub settings: Vec<(String, String)>,
}

impl ClusterOptions {
    pub fn of(kind: Kind) -> Self {
        ClusterOptions {
            kind,
            wal_segment_mib: 16,
            durable: false,
            skew_ms: 0,
            second_skew_ms: 0,
            settings: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub struct Cluster {
    pub kind: Kind,
    /// In the order of [`NODES`]; the position is the Citus group.
    pub nodes: Vec<Server>,
    pub folder: Arc<Folder>,
}

impl Cluster {
    pub async fn start(folder: &Arc<Folder>, options: &ClusterOptions) -> anyhow::Result<Cluster> {
        let mut nodes = Vec::new();
        // Side by side: initdb is most of the time.
        let making: Vec<_> = NODES
            .iter()
            .map(|name| {
                let folder = Arc::clone(folder);
                let options = node_options(name, options);
                tokio::task::spawn_blocking(move || Server::start_new(&folder, &options))
            })
            .collect();
        for node in making {
            nodes.push(node.await??);
        }
        let cluster = Cluster { kind: options.kind, nodes, folder: Arc::clone(folder) };
        for node in &cluster.nodes {
            node.run("postgres", &format!("create database {DATABASE}")).await?;
        }
        match options.kind {
            Kind::Citus => cluster.join_citus().await?,
            Kind::Plain => cluster.join_plain().await?,
        }
        Ok(cluster)
    }

    pub fn coordinator(&self) -> anyhow::Result<&Server> {
        self.nodes.first().context("a cluster has a coordinator")
    }

    /// Stops every node.
    pub fn stop(&mut self, how: Stop) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.stop(how))
    }

    /// Ends every node at once, and removes its data directory.
    pub fn destroy(&mut self) -> anyhow::Result<()> {
        self.stop(Stop::Kill)?;
        self.nodes.iter().try_for_each(|node| remove(&node.data))
    }

    async fn join_citus(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.run(DATABASE, "create extension citus").await?;
        }
        let [coordinator, workers @ ..] = self.nodes.as_slice() else { return Ok(()) };
        let client = coordinator.connect(DATABASE).await?;
        let host = format!("select citus_set_coordinator_host('127.0.0.1', {})", coordinator.port);
        client.batch_execute(&host).await.context("citus_set_coordinator_host")?;
        for worker in workers {
            // Since Citus 11 this also copies the metadata, so that any node can initiate.
            let add = format!("select citus_add_node('127.0.0.1', {})", worker.port);
            client.batch_execute(&add).await.context("citus_add_node")?;
        }
        Ok(())
    }

    async fn join_plain(&self) -> anyhow::Result<()> {
        let rows: Vec<String> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(group, node)| format!("({}, {group}, '127.0.0.1', {})", group + 1, node.port))
            .collect();
        let rows = rows.join(", ");
        for (group, node) in self.nodes.iter().enumerate() {
            let client = node.connect(DATABASE).await?;
            client.batch_execute(CATALOGUE).await.context("catalogue tables")?;
            let fill = format!(
                "insert into pg_catalog.pg_dist_node (nodeid, groupid, nodename, nodeport) values {rows};
                 insert into pg_catalog.pg_dist_local_group values ({group})"
            );
            client.batch_execute(&fill).await.context("pg_dist_node")?;
        }
        Ok(())
    }
}

/// Removes a folder, also when a killed server's children are still on their way out.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    for _ in 0..50 {
        match std::fs::remove_dir_all(path) {
            Err(_) if path.exists() => std::thread::sleep(Duration::from_millis(100)),
            _ => return Ok(()),
        }
    }
    std::fs::remove_dir_all(path).with_context(|| path.display().to_string())
}

fn node_options(name: &str, cluster: &ClusterOptions) -> ServerOptions {
    let mut settings = Vec::new();
    if cluster.kind == Kind::Citus {
        settings.push(("shared_preload_libraries".to_owned(), "citus".to_owned()));
    }
    settings.extend(cluster.settings.clone());
    ServerOptions {
        name: name.to_owned(),
        wal_segment_mib: cluster.wal_segment_mib,
        durable: cluster.durable,
        bin: None,
        clock_ahead_ms: match name {
            "worker1" => cluster.skew_ms,
            "worker2" => cluster.second_skew_ms,
            _ => 0,
        },
        settings,
    }
}

/// The tables of Citus 13.2 that a restore reads and writes, with their columns in Citus's order.
const CATALOGUE: &str = "
    set allow_system_table_mods = on;
    create type pg_catalog.noderole as enum ('primary', 'secondary', 'unavailable');
    create table pg_catalog.pg_dist_node (
        nodeid int not null primary key,
        groupid int not null,
        nodename text not null default 'localhost',
        nodeport int not null default 5432,
        noderack text not null default 'default',
        hasmetadata bool not null default true,
        isactive bool not null default true,
        noderole noderole not null default 'primary',
        nodecluster name not null default 'default',
        metadatasynced bool not null default true,
        shouldhaveshards bool not null default true,
        unique (nodename, nodeport));
    create table pg_catalog.pg_dist_local_group (groupid int not null primary key);
    create table pg_catalog.pg_dist_transaction (
        groupid int not null,
        gid text not null,
        outer_xid xid8,
        constraint pg_dist_transaction_unique_constraint unique (groupid, gid));
    create table pg_catalog.pg_dist_poolinfo (nodeid int not null primary key, poolinfo text not null);
    create table pg_catalog.pg_dist_authinfo (
        nodeid int not null,
        rolename name not null,
        authinfo text not null,
        primary key (rolename, nodeid));
    grant select on pg_catalog.pg_dist_node, pg_catalog.pg_dist_local_group, pg_catalog.pg_dist_transaction to public;
    reset allow_system_table_mods;";
