//! One PostgreSQL server that this process started.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use super::folder::Folder;

const START_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Folder name inside the world's folder.
    pub name: String,
    /// MiB, as initdb takes it.
    pub wal_segment_mib: u32,
    /// fsync on. Off is faster, and no test that kills only our own processes can tell.
    pub durable: bool,
    /// Another server's programs than [`super::bin_dir`].
    pub bin: Option<PathBuf>,
    /// How far its clock is ahead, in milliseconds; needs libfaketime where not 0.
    pub clock_ahead_ms: i32,
    /// Lines of postgresql.conf, after (so stronger than) the world's own.
    pub settings: Vec<(String, String)>,
}

impl ServerOptions {
    pub fn named(name: &str) -> Self {
        ServerOptions {
            name: name.to_owned(),
            wal_segment_mib: 16,
            durable: false,
            bin: None,
            clock_ahead_ms: 0,
            settings: Vec::new(),
        }
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a server is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: ends sessions, writes a checkpoint.
    Fast,
    /// SIGQUIT: no checkpoint; the next start recovers.
    Immediate,
    /// SIGKILL to the postmaster: as if the machine died.
    Kill,
}

#[derive(Debug)]
pub struct Server {
    pub name: String,
    pub data: PathBuf,
    pub socket: PathBuf,
    pub port: u16,
    pub log: PathBuf,
    folder: Arc<Folder>,
    bin: Option<PathBuf>,
    /// From its next start on.
    pub clock_ahead_ms: i32,
    child: Option<Child>,
}

impl Server {
    /// Runs initdb and writes the configuration; does not start.
    pub fn create(folder: &Arc<Folder>, options: &ServerOptions) -> anyhow::Result<Server> {
        let bin = programs(options.bin.as_deref())?;
        let home = folder.folder(&options.name)?;
        let data = home.join("data");
        let made = folder
            .command(&bin.join("initdb"))
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .args(["--no-instructions", "--data-checksums"])
            .arg(format!("--wal-segsize={}", options.wal_segment_mib))
            .output()
            .context("initdb")?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        let server = Server {
            name: options.name.clone(),
            data,
            socket: folder.folder(&format!("{}/s", options.name))?,
            port: free_port()?,
            log: home.join("log"),
            folder: Arc::clone(folder),
            bin: options.bin.clone(),
            clock_ahead_ms: options.clock_ahead_ms,
            child: None,
        };
        server.configure(options)?;
        Ok(server)
    }

    /// Takes over a data directory that something else made, as an operator would who starts it.
    /// Its own configuration must name `port` and `socket`.
    pub fn adopt(folder: &Arc<Folder>, name: &str, data: &Path, socket: &Path, port: u16) -> Server {
        Server {
            name: name.to_owned(),
            data: data.to_owned(),
            socket: socket.to_owned(),
            port,
            log: folder.path().join(format!("{name}.log")),
            folder: Arc::clone(folder),
            bin: None,
            clock_ahead_ms: 0,
            child: None,
        }
    }

    /// Runs initdb and starts.
    pub fn start_new(folder: &Arc<Folder>, options: &ServerOptions) -> anyhow::Result<Server> {
        let mut server = Server::create(folder, options)?;
        server.start()?;
        Ok(server)
    }

    fn configure(&self, options: &ServerOptions) -> anyhow::Result<()> {
        let socket = self.socket.display().to_string();
        let port = self.port.to_string();
        let durable = if options.durable { "on" } else { "off" };
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("port", port.as_str()),
            ("unix_socket_directories", socket.as_str()),
            ("fsync", durable),
            ("wal_level", "replica"),
            ("max_wal_senders", "8"),
            ("max_replication_slots", "8"),
            ("max_prepared_transactions", "200"),
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("max_wal_size", "1GB"),
            // In the data directory: what a killed server leaves goes with it.
            ("dynamic_shared_memory_type", "mmap"),
            ("log_connections", "on"),
            ("log_line_prefix", "%m [%p] %r %a "),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let mut text = String::from("\n# the test world's own\n");
        for (name, value) in own {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        for (name, value) in &options.settings {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        self.append_settings(&text)
    }

    /// Appends lines to postgresql.conf.
    pub fn append_settings(&self, text: &str) -> anyhow::Result<()> {
        let path = self.data.join("postgresql.conf");
        let old = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        self.folder.write(&path, &(old + text))
    }

    /// Starts and waits until it takes connections. As `pg_ctl` does it: by the status line of
    /// postmaster.pid, so without a connection of our own in its log.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let bin = programs(self.bin.as_deref())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| self.log.display().to_string())?;
        let mut command = self.folder.command(&bin.join("postgres"));
        if self.clock_ahead_ms != 0 {
            let library = faketime().map_err(anyhow::Error::msg)?;
            command.env("LD_PRELOAD", library).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("FAKETIME", format!("{:+}", f64::from(self.clock_ahead_ms) / 1000.0));
            command.env("FAKETIME_DISABLE_SHM", "1");
        }
        let child = command
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("postgres")?;
        let pid = child.id().to_string();
        self.child = Some(child);
        let began = Instant::now();
        loop {
            let status = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = status.lines();
            if lines.next() == Some(pid.as_str()) && lines.nth(6).is_some_and(|s| s.trim() == "ready") {
                return Ok(());
            }
            if !self.is_running() {
                bail!("{} did not start:\n{}", self.name, self.log_tail());
            }
            if began.elapsed() > START_WITHIN {
                bail!("{} was not ready after {START_WITHIN:?}:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns whether the postmaster lives.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends the server and waits until it is gone.
    pub fn stop(&mut self, how: Stop) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        };
        send(&child, signal)?;
        child.wait().context("waiting for postgres")?;
        Ok(())
    }

    /// Makes the server read its configuration again.
    pub fn reload(&self) -> anyhow::Result<()> {
        match &self.child {
            Some(child) => send(child, Signal::HUP),
            None => bail!("{} is not running", self.name),
        }
    }

    /// Returns connection parameters for libpq: by the socket, as the superuser.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.socket.display(), self.port)
    }

    /// Connects by the socket.
    pub async fn connect(&self, database: &str) -> anyhow::Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.conninfo(database), NoTls)
            .await
            .with_context(|| format!("connecting to {}", self.name))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements on a connection of their own.
    pub async fn run(&self, database: &str, sql: &str) -> anyhow::Result<()> {
        self.connect(database)
            .await?
            .batch_execute(sql)
            .await
            .with_context(|| format!("{}: {sql}", self.name))
    }

    /// Returns the first column of the first row, as text.
    pub async fn value(&self, database: &str, sql: &str) -> anyhow::Result<Option<String>> {
        value(&self.connect(database).await?, sql).await.with_context(|| format!("{}: {sql}", self.name))
    }

    /// Returns everything the server wrote to its log so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let from = text.lines().count().saturating_sub(20);
        text.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = self.child.as_mut() else { return };
        let _ = send(child, Signal::QUIT);
        let began = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if began.elapsed() > Duration::from_secs(10) {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn programs(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(bin) => Ok(bin.to_owned()),
        None => super::bin_dir().map_err(anyhow::Error::msg),
    }
}

/// Returns the first column of the first row, as text.
pub async fn value(client: &Client, sql: &str) -> anyhow::Result<Option<String>> {
    for message in client.simple_query(sql).await? {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).map(str::to_owned));
        }
    }
    Ok(None)
}

/// Returns the library that moves a server's clock, or why there is none.
pub fn faketime() -> Result<PathBuf, String> {
    for machine in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let library = PathBuf::from(format!("/usr/lib/{machine}/faketime/libfaketime.so.1"));
        if library.is_file() {
            return Ok(library);
        }
    }
    Err("no libfaketime (Debian: libfaketime): all clocks are one".to_owned())
}

/// Signals a child of this process.
pub fn send(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid is positive")?;
    kill_process(pid, signal).context("signalling a child")
}

/// Returns a TCP port that nothing listens on, outside the range that the system hands out by itself:
/// no outgoing connection can take it before the server does.
pub fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = 15_000 + u16::from_le_bytes(pitrus::clock::random::<2>()) % 17_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port found between 15000 and 32000")
}
