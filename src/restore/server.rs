//! One restored server while we work on it: a child of ours that listens only on a Unix socket in a
//! folder that nobody else may enter.
//!
//! Invariants: it is started with exactly the configuration that `conf` wrote; it is stopped by a
//! signal to that one process; what it says goes to a log in its data directory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::Error;
use super::install::{OsUser, Programs};
use crate::ids::NodeName;

/// The server's log, in its data directory.
pub(super) const LOG: &str = "pitrus.log";
/// How long a fast shutdown may take, its checkpoint included.
const STOP_MAX: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(50);
const TAIL_LINES: usize = 15;

/// A restored node's server, running or not.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) node: NodeName,
    pub(super) directory: PathBuf,
    /// The private folder of its socket.
    pub(super) private: PathBuf,
    pub(super) port: u16,
    /// As whom we connect.
    pub(super) superuser: String,
    pub(super) programs: Programs,
    pub(super) user: OsUser,
}

/// A running server; one that is dropped is told to stop.
pub(super) struct Server {
    instance: Instance,
    child: Option<Child>,
}

impl Instance {
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join(LOG)
    }

    /// Starts the server, and returns without waiting for it.
    pub(super) async fn start(&self) -> Result<Server, Error> {
        use std::os::unix::process::CommandExt;
        self.quiet().await?;
        let path = self.log();
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let log = log.map_err(Error::file("open", &path))?;
        self.user.own(&path)?;
        let again = log.try_clone().map_err(Error::file("open", &path))?;
        let postgres = self.programs.path("postgres");
        let mut command = self.user.command(&postgres);
        command.arg("-D").arg(&self.directory);
        command.stdin(Stdio::null()).stdout(Stdio::from(again)).stderr(Stdio::from(log));
        // Its own group: an interrupt typed at us reaches it through us, in order.
        let child = command.process_group(0).spawn().map_err(Error::file("start", &postgres))?;
        Ok(Server { instance: self.clone(), child: Some(child) })
    }

    /// Stops the server that a crashed run of ours left in this directory, which carries our ledger: no other
    /// server has been in it. The process must still be one that works in that very directory.
    pub(super) async fn quiet(&self) -> Result<(), Error> {
        let file = self.directory.join("postmaster.pid");
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
        let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
            return Ok(());
        };
        let begun = Instant::now();
        while works_in(pid, &self.directory) {
            if begun.elapsed() > STOP_MAX {
                return Err(self.fault(format!("process {pid}, left by an earlier run, does not stop")));
            }
            interrupt(pid);
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Returns whether the server says that it takes connections, as `pg_ctl` sees it (`LOCK_FILE_LINE_PM_STATUS`):
    /// to ask by connecting costs a process each time.
    fn is_ready(&self) -> bool {
        const STATUS_LINE: usize = 7;
        let text = std::fs::read_to_string(self.directory.join("postmaster.pid")).unwrap_or_default();
        text.lines().nth(STATUS_LINE).is_some_and(|status| status.trim() == "ready")
    }

    /// An error about this server, with the end of its log.
    pub(super) fn fault(&self, problem: impl Into<String>) -> Error {
        let log = self.log();
        let tail = tail(&log);
        Error::Server { node: self.node.clone(), problem: problem.into(), log, tail }
    }
}

impl Server {
    pub(super) fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Fails if the server has ended by itself.
    pub(super) fn alive(&mut self) -> Result<(), Error> {
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                self.child = None;
                Err(self.instance.fault(format!("the server ended by itself ({status})")))
            }
            Err(source) => {
                Err(Error::File { action: "wait for", path: self.instance.directory.clone(), source })
            }
        }
    }

    /// Waits until the server accepts connections; `looks_alive` is asked often and may give up.
    pub(super) async fn accepts(
        &mut self,
        mut looks_alive: impl FnMut() -> Result<(), Error>,
    ) -> Result<Client, Error> {
        loop {
            self.alive()?;
            looks_alive()?;
            if self.instance.is_ready() {
                match connect(&self.instance, "template1").await {
                    Ok(client) => return Ok(client),
                    Err(error) if is_starting(&error) => {}
                    Err(error) => {
                        return Err(Error::sql(&self.instance.node, "connect to its socket")(error));
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Connects to a database.
    pub(super) async fn connect(&self, database: &str) -> Result<Client, Error> {
        let connected = connect(&self.instance, database).await;
        connected.map_err(Error::sql(&self.instance.node, format!("connect to database {database}")))
    }

    /// Stops the server: all sessions end, a checkpoint is written.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        self.signal();
        let begun = Instant::now();
        while let Some(child) = self.child.as_mut() {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => self.child = None,
                Ok(Some(status)) => {
                    self.child = None;
                    return Err(self.instance.fault(format!("the server did not stop in order ({status})")));
                }
                Ok(None) if begun.elapsed() > STOP_MAX => {
                    return Err(self.instance.fault("the server does not stop"));
                }
                Ok(None) => tokio::time::sleep(POLL).await,
                Err(source) => {
                    return Err(Error::File {
                        action: "wait for",
                        path: self.instance.directory.clone(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Asks for a fast shutdown (SIGINT, see PostgreSQL's `pg_ctl`).
    fn signal(&mut self) {
        if let Some(child) = &self.child {
            interrupt(child.id());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal();
    }
}

fn interrupt(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
}

/// Returns whether any process that we can see works in this directory, as servers do.
pub(super) fn is_worked_in(directory: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let mut pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.any(|pid| works_in(pid, directory))
}

fn works_in(pid: u32, directory: &Path) -> bool {
    let same = |link: PathBuf| std::fs::canonicalize(directory).is_ok_and(|real| real == link);
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(same)
}

async fn connect(instance: &Instance, database: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(&instance.private).port(instance.port);
    config.user(&instance.superuser).dbname(database).application_name("pitrus restore");
    config.connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // Its error reaches the client's next query.
        let _ = connection.await;
    });
    Ok(client)
}

/// Not there yet: no socket, or the server says that it is starting up or recovering (57P03).
fn is_starting(error: &tokio_postgres::Error) -> bool {
    use tokio_postgres::error::SqlState;
    error.code().is_none_or(|code| *code == SqlState::CANNOT_CONNECT_NOW)
}

/// Returns the last lines of a log.
pub(super) fn tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |m| m.len());
        let read = file.seek(SeekFrom::Start(length.saturating_sub(8192)));
        if read.and_then(|_| file.take(8192).read_to_end(&mut bytes)).is_err() {
            bytes.clear();
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(TAIL_LINES);
    lines.iter().skip(skip).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
