//! A server, a vault of three zones, and an archiver: what a backup needs around it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pitrus::archive;
use pitrus::backup::{self, BackupOptions, BackupReport, Silent};
use pitrus::ids::NodeName;
use pitrus::lsn::Lsn;
use pitrus::node::{ConnectionOptions, NodeFacts};
use pitrus::seal::MasterKey;
use pitrus::vault::{Access, Vault};
use pitrus::zones::{self, ZoneOptions, ZoneSet};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{self, Folder, Server, ServerOptions, say};

/// What `docs/least-privilege.md` asks for, and nothing more.
const ROLE: &str = "create role pitrus login replication;
    do $$ declare of_backups regprocedure; begin
        for of_backups in select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace
            and proname in ('pg_backup_start', 'pg_backup_stop', 'pg_start_backup', 'pg_stop_backup')
        loop execute format('grant execute on function %s to pitrus', of_backups); end loop;
    end $$;
    grant pg_read_all_settings to pitrus;";

pub(super) struct Site {
    pub(super) server: Server,
    pub(super) vault: Vault,
    pub(super) node: NodeName,
    pub(super) connection: ConnectionOptions,
    pub(super) folder: Arc<Folder>,
    archiver: Option<Archiver>,
}

struct Archiver {
    task: JoinHandle<Result<(), archive::Error>>,
    shutdown: CancellationToken,
    status: watch::Receiver<archive::Status>,
}

impl Site {
    pub(super) async fn start(options: ServerOptions) -> Site {
        let folder = Arc::new(Folder::new().unwrap());
        let server = Server::start_new(&folder, &options).unwrap();
        server.run("postgres", ROLE).await.unwrap();
        let conninfo = server.conninfo("postgres").replace("user=postgres", "user=pitrus");
        let mut site = Site {
            vault: vault(&folder).await,
            server,
            node: "one".parse().unwrap(),
            connection: ConnectionOptions { conninfo, ..Default::default() },
            folder,
            archiver: None,
        };
        site.restart_archiver().await;
        site
    }

    pub(super) async fn restart_archiver(&mut self) {
        self.stop_archiver().await;
        let facts = NodeFacts::read(&self.connection).await.unwrap();
        let (node, connection) = (self.node.clone(), self.connection.clone());
        let options = archive::Options::of(node, connection, "pitrus_one".to_owned(), &facts);
        let shutdown = CancellationToken::new();
        let (tell, status) = watch::channel(archive::Status::default());
        let task = tokio::spawn(archive::run(options, self.vault.clone(), shutdown.clone(), tell));
        self.archiver = Some(Archiver { task, shutdown, status });
    }

    pub(super) async fn stop_archiver(&mut self) {
        if let Some(Archiver { task, shutdown, .. }) = self.archiver.take() {
            shutdown.cancel();
            let _ = task.await;
        }
    }

    pub(super) fn options(&self) -> BackupOptions {
        BackupOptions::new("test".parse().unwrap(), self.node.clone())
    }

    pub(super) async fn backup(&self) -> Result<BackupReport, backup::Error> {
        self.backup_with(&self.options()).await
    }

    pub(super) async fn backup_with(&self, options: &BackupOptions) -> Result<BackupReport, backup::Error> {
        backup::run(options, &self.vault, &self.connection, Arc::new(Silent)).await
    }

    /// Switches to a new segment, waits until all before it is archived, and returns where that was.
    pub(super) async fn archive_all(&mut self) -> Lsn {
        let end = self.value("postgres", "select pg_switch_wal()").await.unwrap().parse::<Lsn>().unwrap();
        let archiver = self.archiver.as_mut().unwrap();
        let reached = archiver.status.wait_for(|status| status.archived >= end);
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
        end
    }

    pub(super) async fn value(&self, database: &str, sql: &str) -> Option<String> {
        self.server.value(database, sql).await.unwrap()
    }

    /// Returns the statements that look into every table and index; none where the server was built without amcheck.
    pub(super) async fn amcheck(&self, database: &str) -> &'static str {
        let there = "select 1 from pg_available_extensions where name = 'amcheck'";
        if self.value(database, there).await.is_none() {
            say!("skipped: looking into tables and indexes, because this server has no amcheck");
            return "";
        }
        self.server.run(database, "create extension amcheck").await.unwrap();
        "select bt_index_check(oid, true) from pg_class where relkind = 'i' and relam = 403;
         select verify_heapam(oid) from pg_class where relkind in ('r', 't') and relpersistence = 'p'"
    }

    /// Reads every page of a stopped server.
    pub(super) fn checksums_are_right(&self, stopped: &Server) {
        let checksums = world::bin_dir().unwrap().join("pg_checksums");
        let checked = self.folder.command(&checksums).arg("--check").arg("-D").arg(&stopped.data).output();
        let checked = checked.unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }

    /// A pgbench against the server.
    pub(super) fn pgbench(&self, arguments: &[&str]) -> Command {
        let mut command = self.folder.command(&world::bin_dir().unwrap().join("pgbench"));
        command.args(["-h", self.server.socket.to_str().unwrap(), "-p", &self.server.port.to_string()]);
        command.args(["-U", "postgres"]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(super) async fn end(mut self) {
        self.stop_archiver().await;
    }
}

async fn vault(folder: &Folder) -> Vault {
    let zones = ["a", "b", "c"].map(|name| {
        let path = folder.path().join("zones").join(name);
        zones::create_folder(&path).unwrap();
        let url = path.to_str().unwrap().to_owned();
        ZoneOptions { name: name.parse().unwrap(), url, options: Vec::new() }
    });
    let zones = ZoneSet::open(zones.into(), 2).unwrap();
    let key = MasterKey::from_text(&"5a".repeat(32)).unwrap();
    Vault::open(zones, key, "test".parse().unwrap(), Access::Write).await.unwrap()
}

/// Returns the path of a table's file in the database `postgres`.
pub(super) async fn file_of(server: &Server, table: &str) -> String {
    server.value("postgres", &format!("select pg_relation_filepath('{table}')")).await.unwrap().unwrap()
}
