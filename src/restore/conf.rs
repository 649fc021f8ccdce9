//! The configuration of a restored server: defaults, except what recovery, Citus and the new address need.
//!
//! Three stages: *recovering* (replay to the stop, reachable by us only), *checking* (Citus loaded with
//! everything off that could act by itself, reachable by us only), *closed* (what is left behind: its own
//! address, but `pg_hba.conf` lets nobody in except the local superuser). The source's files are never
//! loaded: they name archives, certificates, primaries and libraries of the source.

use std::path::{Path, PathBuf};

use super::Error;
use super::install::OsUser;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::wal::event::Parameters;

/// The source's configuration, kept for reference in the data directory.
pub(super) const ORIGINAL: &str = "pitrus.original";
const FILES: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

/// PostgreSQL's own defaults (of 14 to 18) of the settings that recovery compares with the source's.
const DEFAULTS: Parameters = Parameters {
    max_connections: 100,
    max_worker_processes: 8,
    max_wal_senders: 10,
    max_prepared_transactions: 0,
    max_locks_per_transaction: 64,
};

/// Settings of Citus that let it act by itself, switched off until the first start was checked.
const CITUS_QUIET: [(&str, &str); 5] = [
    ("citus.recover_2pc_interval", "-1"),
    ("citus.defer_shard_delete_interval", "-1"),
    ("citus.distributed_deadlock_detection_factor", "-1"),
    ("citus.background_task_queue_interval", "-1"),
    ("citus.metadata_sync_interval", "7d"),
];

/// What the servers of one node need, at every stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// How long a segment of WAL is.
    pub(super) segment_bytes: u32,
    /// The least with which recovery runs.
    pub(super) parameters: Parameters,
    /// The private socket folder.
    pub(super) private: PathBuf,
    pub(super) port: u16,
    /// Citus's library is there and the source used it.
    pub(super) citus: bool,
    /// Settings of the source without which Citus does not find itself.
    pub(super) citus_settings: Vec<(String, String)>,
    /// Certificate and key came with the data directory: Citus's nodes speak TLS to each other.
    pub(super) ssl: bool,
    pub(super) listen: String,
    pub(super) socket_dir: Option<PathBuf>,
}

/// Where to replay to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) timeline: TimelineId,
    /// Stop before the record that begins here; `None` replays all there is.
    pub(super) stop: Option<Lsn>,
    pub(super) restore_command: String,
}

/// `postgresql.conf`, line by line.
struct Conf(String);

impl Conf {
    fn new(comment: &str) -> Self {
        Conf(format!("# {comment}\n# The source's configuration is in {ORIGINAL}/, for reference only.\n"))
    }

    fn set(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        let value = value.to_string().replace('\\', "\\\\").replace('\'', "''");
        self.0 += &format!("{name} = '{value}'\n");
        self
    }

    /// What the WAL of the source needs.
    fn parameters(&mut self, least: &Parameters) -> &mut Self {
        let d = &DEFAULTS;
        self.set("max_connections", least.max_connections.max(d.max_connections));
        self.set("max_worker_processes", least.max_worker_processes.max(d.max_worker_processes));
        self.set("max_wal_senders", least.max_wal_senders.max(d.max_wal_senders));
        self.set(
            "max_prepared_transactions",
            least.max_prepared_transactions.max(d.max_prepared_transactions),
        );
        self.set(
            "max_locks_per_transaction",
            least.max_locks_per_transaction.max(d.max_locks_per_transaction),
        )
    }

    /// The defaults are of segments of 16 MiB, and the server refuses less than two segments; longer ones get what
    /// initdb would write (`DEFAULT_MIN_WAL_SEGS`, `DEFAULT_MAX_WAL_SEGS`).
    fn wal_sizes(&mut self, segment_bytes: u32) -> &mut Self {
        let mib = u64::from(segment_bytes >> 20);
        if mib > 16 {
            self.set("min_wal_size", format!("{}MB", 5 * mib)).set("max_wal_size", format!("{}MB", 64 * mib));
        }
        self
    }

    /// Nobody but us reaches it, and it reaches nobody.
    fn private(&mut self, needs: &Needs) -> &mut Self {
        self.set("listen_addresses", "");
        self.set("unix_socket_directories", quoted_list(&needs.private));
        self.set("unix_socket_permissions", "0700");
        self.set("port", needs.port);
        self.set("archive_mode", "off");
        self.set("ssl", "off");
        // A restored subscription must not fetch from its publisher.
        self.set("max_logical_replication_workers", 0)
    }
}

/// An item of a list of folders: double-quoted, so that commas in it do not split it.
fn quoted_list(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

pub(super) fn recovering(needs: &Needs, goal: &Goal) -> String {
    let mut conf = Conf::new("Written by pitrus: replay to the cut.");
    conf.parameters(&needs.parameters).wal_sizes(needs.segment_bytes).private(needs);
    conf.set("shared_preload_libraries", "").set("hot_standby", "off");
    // All is synced once, when this server has stopped; where the machine crashes before, it is fetched again.
    conf.set("fsync", "off");
    // A segment that is removed soon is never written to disk.
    conf.set("wal_recycle", "off");
    conf.set("restore_command", &goal.restore_command);
    conf.set("recovery_target_timeline", goal.timeline);
    if let Some(stop) = goal.stop {
        conf.set("recovery_target_lsn", stop).set("recovery_target_inclusive", "off");
    }
    conf.set("recovery_target_action", "promote");
    conf.0
}

pub(super) fn checking(needs: &Needs) -> String {
    let mut conf = Conf::new("Written by pitrus: the first start with Citus, which may not act by itself.");
    conf.parameters(&needs.parameters).wal_sizes(needs.segment_bytes).private(needs);
    citus(&mut conf, needs);
    if needs.citus {
        for (name, value) in CITUS_QUIET {
            conf.set(name, value);
        }
    }
    conf.0
}

pub(super) fn closed(needs: &Needs) -> String {
    let mut conf =
        Conf::new("Written by pitrus: defaults, except what recovery, Citus and this address need.");
    conf.parameters(&needs.parameters).wal_sizes(needs.segment_bytes);
    conf.set("listen_addresses", &needs.listen).set("port", needs.port);
    if let Some(folder) = &needs.socket_dir {
        conf.set("unix_socket_directories", quoted_list(folder));
    }
    conf.set("archive_mode", "off").set("ssl", if needs.ssl { "on" } else { "off" });
    citus(&mut conf, needs);
    conf.0
}

fn citus(conf: &mut Conf, needs: &Needs) {
    conf.set("shared_preload_libraries", if needs.citus { "citus" } else { "" });
    if !needs.citus {
        return;
    }
    for (name, value) in &needs.citus_settings {
        conf.set(name, value);
    }
    if !needs.ssl {
        // Its default, sslmode=require, cannot work without a certificate.
        conf.set("citus.node_conninfo", "sslmode=prefer");
    }
}

/// `pg_hba.conf` while only we can enter the socket's folder.
pub(super) const HBA_PRIVATE: &str =
    "# Written by pitrus: the socket is in a folder that only this restore may enter.\nlocal all all trust\n";

/// `pg_hba.conf` of a closed server: whoever it does not name is rejected.
pub(super) fn hba_closed(superuser: &str, user: &OsUser) -> String {
    let map = if superuser == user.name { "" } else { " map=pitrus" };
    format!(
        "# Written by pitrus: closed. The source's rules are in {ORIGINAL}/pg_hba.conf.\n\
         local all \"{}\" peer{map}\n",
        superuser.replace('"', "\"\"")
    )
}

/// `pg_ident.conf`: lets the operating system's user be the superuser under another name.
pub(super) fn ident(superuser: &str, user: &OsUser) -> String {
    if superuser == user.name {
        return String::new();
    }
    format!("pitrus \"{}\" \"{}\"\n", user.name, superuser.replace('"', "\"\""))
}

/// Moves the source's files aside, once.
pub(super) fn set_aside(directory: &Path, user: &OsUser) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let aside = directory.join(ORIGINAL);
    if !aside.is_dir() {
        std::fs::DirBuilder::new().mode(0o700).create(&aside).map_err(Error::file("make", &aside))?;
        user.own(&aside)?;
    }
    for name in FILES {
        let (from, to) = (directory.join(name), aside.join(name));
        // The second time these are ours.
        if from.exists() && !to.exists() {
            std::fs::rename(&from, &to).map_err(Error::file("move aside", &from))?;
        }
    }
    Ok(())
}

/// Writes the three files of a stage, and an empty `postgresql.auto.conf`.
pub(super) fn write(
    directory: &Path,
    user: &OsUser,
    conf: &str,
    hba: &str,
    ident: &str,
) -> Result<(), Error> {
    for (name, text) in FILES.iter().zip([conf, "", hba, ident]) {
        replace(&directory.join(name), text.as_bytes(), user)?;
    }
    Ok(())
}

/// Writes a file of the servers' user so that a crash leaves the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8], user: &OsUser) -> Result<(), Error> {
    let temporary = beside(path);
    write_synced(&temporary, bytes).map_err(Error::file("write", &temporary))?;
    user.own(&temporary)?;
    place(&temporary, path)
}

/// The same for a file of our own.
pub(super) fn write_anew(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = beside(path);
    write_synced(&temporary, bytes).map_err(Error::file("write", &temporary))?;
    place(&temporary, path)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pitrus");
    name.into()
}

fn place(temporary: &Path, path: &Path) -> Result<(), Error> {
    std::fs::rename(temporary, path).map_err(Error::file("write", path))?;
    sync_folder(path.parent().unwrap_or(path))
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a folder and those above it; whatever our umask, the servers' user can pass through.
pub(super) fn make_way(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let missing: Vec<&Path> = folder.ancestors().take_while(|above| !above.exists()).collect();
    for path in missing.into_iter().rev() {
        let made = std::fs::create_dir(path)
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)));
        made.map_err(Error::file("make", path))?;
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Error> {
    let synced = std::fs::File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(Error::file("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        Needs {
            segment_bytes: 64 << 20,
            parameters: Parameters { max_connections: 300, max_worker_processes: 4, ..DEFAULTS },
            private: "/tmp/p".into(),
            port: 5440,
            citus: true,
            citus_settings: vec![("citus.cluster_name".into(), "it's".into())],
            ssl: false,
            listen: "localhost".into(),
            socket_dir: None,
        }
    }

    #[test]
    fn recovery_is_private_and_without_citus() {
        let goal =
            Goal { timeline: TimelineId(3), stop: Some(Lsn(0x1000)), restore_command: "get 'x' %f".into() };
        let text = recovering(&needs(), &goal);
        for line in [
            "listen_addresses = ''",
            "unix_socket_directories = '\"/tmp/p\"'",
            "shared_preload_libraries = ''",
            "archive_mode = 'off'",
            "fsync = 'off'",
            "wal_recycle = 'off'",
            "max_connections = '300'",
            "max_worker_processes = '8'",
            "min_wal_size = '320MB'",
            "restore_command = 'get ''x'' %f'",
            "recovery_target_lsn = '0/1000'",
            "recovery_target_inclusive = 'off'",
            "recovery_target_timeline = '3'",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        let all = recovering(&needs(), &Goal { stop: None, ..goal });
        assert!(!all.contains("recovery_target_lsn"));
    }

    #[test]
    fn citus_may_not_act_at_its_first_start() {
        let text = checking(&needs());
        assert!(text.contains("citus.recover_2pc_interval = '-1'"));
        assert!(text.contains("listen_addresses = ''"));
        assert!(text.contains("citus.cluster_name = 'it''s'"));
        let left = closed(&needs());
        assert!(!text.contains("fsync") && !left.contains("fsync"), "only recovery is synced by us");
        assert!(!left.contains("recover_2pc_interval"));
        assert!(left.contains("citus.node_conninfo = 'sslmode=prefer'"));
        let without = closed(&Needs { citus: false, ..needs() });
        assert!(!without.contains("citus."));
    }
}
