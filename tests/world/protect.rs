//! pitrus as its user drives it: the built program, configuration files, agents as processes.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use rustix::process::Signal;

use super::cluster::{Cluster, DATABASE};
use super::folder::Folder;
use super::proof::eventually;
use super::server::{Server, free_port, send};

pub const CLUSTER: &str = "bank";
/// All that pitrus asks of a server: no superuser. Each node gets it by itself, so Citus is to pass nothing on.
const ROLE: &str = "
    set citus.enable_ddl_propagation = off;
    create role pitrus login replication;
    do $$ declare of_backups regprocedure; begin
        for of_backups in select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace
            and proname in ('pg_backup_start', 'pg_backup_stop', 'pg_start_backup', 'pg_stop_backup')
        loop execute format('grant execute on function %s to pitrus', of_backups); end loop;
    end $$;
    grant pg_read_all_settings to pitrus;";
/// For what a busy machine does late, and a fault never.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
pub const ZONES: [&str; 3] = ["a", "b", "c"];

/// A program of pitrus that was run to its end.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Fails with what the program said, unless it ended well.
    pub fn ok(self) -> anyhow::Result<Said> {
        if !self.status.success() {
            bail!("pitrus ended with {}:\n{}{}", self.status, self.out, self.err);
        }
        Ok(self)
    }
}

/// A running process of ours: told to end (SIGTERM) when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing a child")?;
        self.child.wait().context("waiting for a child")?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        send(&self.child, Signal::TERM)?;
        self.end(Duration::from_secs(90)).await
    }

    /// SIGINT, as a terminal sends it, and waits for the end.
    pub async fn interrupt(mut self) -> anyhow::Result<(ExitStatus, String)> {
        send(&self.child, Signal::INT)?;
        let status = self.end(Duration::from_secs(90)).await?;
        Ok((status, self.log_text()))
    }

    async fn end(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for a child")? {
                return Ok(status);
            }
            if began.elapsed() > within {
                bail!("not ended after {within:?}; its log:\n{}", self.log_text());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        let _ = send(&self.child, Signal::TERM);
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() > Duration::from_secs(60) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// pitrus installed where the servers' user may run it.
#[derive(Debug)]
pub struct Installed {
    pub binary: PathBuf,
    folder: Arc<Folder>,
    runs: AtomicU64,
}

impl Installed {
    pub fn new(folder: &Arc<Folder>, built: &Path) -> anyhow::Result<Installed> {
        let binary = folder.folder("bin")?.join("pitrus");
        // Not by this process: a child that another test has just forked holds it open for writing as well, until it
        // becomes another program, and so long nobody can run it (ETXTBSY).
        let copied = Command::new("cp").arg(built).arg(&binary).status().context("cp")?;
        ensure!(copied.success(), "{} is not copied", built.display());
        folder.own(&binary)?;
        folder.folder("log")?;
        Ok(Installed { binary, folder: Arc::clone(folder), runs: AtomicU64::new(0) })
    }

    /// Starts the program; what it says goes to files.
    pub fn start(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Running> {
        let log = self.folder.path().join("log").join(name);
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let child = self
            .folder
            .command(&self.binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(open(&log.with_extension("out"))?)
            .stderr(open(&log)?)
            .spawn()
            .context("pitrus")?;
        Ok(Running { child, log })
    }

    /// Runs the program to its end.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let mut running = self.start(&format!("run-{number}"), arguments)?;
        let status = running.end(Duration::from_secs(300)).await?;
        let out = std::fs::read(running.log.with_extension("out")).context("standard output")?;
        Ok(Said { status, out: String::from_utf8_lossy(&out).into_owned(), err: running.log_text() })
    }
}

/// A cluster under pitrus: a configuration and, when started, an agent for each node.
#[derive(Debug)]
pub struct Protected {
    pub pitrus: Arc<Installed>,
    pub folder: Arc<Folder>,
    pub nodes: Vec<String>,
    pub configs: Vec<PathBuf>,
    pub key: PathBuf,
    pub zones: [PathBuf; 3],
    pub agents: Vec<Option<Running>>,
    /// Ports of the source's servers.
    pub ports: Vec<u16>,
}

impl Protected {
    /// Writes the configurations with `pitrus init`; starts nothing.
    pub async fn set_up(cluster: &Cluster, built: &Path) -> anyhow::Result<Protected> {
        let folder = Arc::clone(&cluster.folder);
        let pitrus = Arc::new(Installed::new(&folder, built)?);
        let etc = folder.folder("etc")?;
        let zones = ZONES.map(|zone| folder.path().join("zones").join(zone));
        folder.folder("zones")?;
        let mut protected = Protected {
            pitrus,
            nodes: cluster.nodes.iter().map(|node| node.name.clone()).collect(),
            configs: Vec::new(),
            key: etc.join("key"),
            zones,
            agents: cluster.nodes.iter().map(|_| None).collect(),
            ports: cluster.nodes.iter().map(|node| node.port).collect(),
            folder,
        };
        for node in &cluster.nodes {
            protected.configure(node, &etc).await?;
        }
        Ok(protected)
    }

    /// Takes in a node that joined the cluster, and starts its agent.
    pub async fn add(&mut self, node: &Server) -> anyhow::Result<()> {
        self.configure(node, &self.folder.path().join("etc")).await?;
        self.nodes.push(node.name.clone());
        self.agents.push(None);
        self.ports.push(node.port);
        self.start_agent(self.nodes.len() - 1)
    }

    async fn configure(&mut self, node: &Server, etc: &Path) -> anyhow::Result<()> {
        node.run(DATABASE, ROLE).await?;
        let config = etc.join(format!("{}.toml", node.name));
        self.init(node, &config).await?;
        self.configs.push(config);
        Ok(())
    }

    async fn init(&self, node: &Server, config: &Path) -> anyhow::Result<Said> {
        let state = self.folder.folder(&format!("state/{}", node.name))?;
        let conninfo = node.conninfo(DATABASE).replace("user=postgres", "user=pitrus");
        let zones: Vec<String> =
            ZONES.iter().zip(&self.zones).map(|(name, path)| format!("{name}={}", path.display())).collect();
        let mut arguments = vec!["init", "--cluster", CLUSTER, "--node", &node.name, "--generate-key"];
        arguments.extend(["--config", text(config)?, "--key-file", text(&self.key)?]);
        arguments.extend(["--conninfo", &conninfo, "--state-dir", text(&state)?]);
        for zone in &zones {
            arguments.extend(["--zone", zone.as_str()]);
        }
        self.pitrus.run(&arguments).await?.ok()
    }

    /// Runs a command with the configuration of a node.
    pub async fn run_on(&self, node: usize, arguments: &[&str]) -> anyhow::Result<Said> {
        let config = text(&self.configs[node])?;
        self.pitrus.run(&[&["--config", config], arguments].concat()).await
    }

    pub fn start_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let config = text(&self.configs[node])?.to_owned();
        let name = format!("agent-{}", self.nodes[node]);
        self.agents[node] = Some(self.pitrus.start(&name, &["agent", "--config", &config])?);
        Ok(())
    }

    pub fn start_agents(&mut self) -> anyhow::Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.start_agent(node))
    }

    /// Fails with its log if an agent has ended.
    pub fn agents_live(&mut self) -> anyhow::Result<()> {
        for (agent, node) in self.agents.iter_mut().zip(&self.nodes) {
            if let Some(agent) = agent
                && !agent.is_running()
            {
                bail!("the agent of {node} has ended:\n{}", agent.log_text());
            }
        }
        Ok(())
    }

    pub async fn stop_agents(&mut self) -> anyhow::Result<()> {
        for agent in &mut self.agents {
            if let Some(agent) = agent.take() {
                agent.stop().await?;
            }
        }
        Ok(())
    }

    /// SIGKILL to every agent.
    pub fn kill_agents(&mut self) -> anyhow::Result<()> {
        self.agents.iter_mut().filter_map(Option::take).try_for_each(Running::kill)
    }

    /// Runs a command for somebody who has only the key and these zones: no configuration.
    pub async fn run_with(&self, zones: &[usize], arguments: &[&str]) -> anyhow::Result<Said> {
        let zones: Vec<String> = zones
            .iter()
            .map(|zone| Ok(format!("{}={}", ZONES[*zone], text(&self.zones[*zone])?)))
            .collect::<anyhow::Result<_>>()?;
        let mut arguments = arguments.to_vec();
        arguments.extend(["--cluster", CLUSTER, "--key-file", text(&self.key)?]);
        for zone in &zones {
            arguments.extend(["--zone", zone.as_str()]);
        }
        self.pitrus.run(&arguments).await
    }

    /// Waits until every node has a finished base backup.
    pub async fn wait_for_backups(&mut self, within: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.nodes.iter().all(|node| self.has_backup(node)) {
            self.agents_live()?;
            if began.elapsed() > within {
                let logs: Vec<String> = self.agents.iter().flatten().map(Running::log_text).collect();
                bail!("no backups after {within:?}; the agents say:\n{}", logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits until the zones hold what is committed now on these servers.
    pub async fn wait_for_wal(&mut self, servers: &[Server]) -> anyhow::Result<()> {
        let mut ends = Vec::new();
        for server in servers {
            ends.push((&server.name, WalEnd::flushed(server).await?));
        }
        eventually("archived WAL", LONGEST_WAIT, async || {
            self.agents_live()?;
            let said = self.run_with(&[0, 1, 2], &["info", "--output", "json"]).await?.ok()?;
            let info: serde_json::Value = serde_json::from_str(&said.out)?;
            let nodes = info["nodes"].as_array().context("nodes")?;
            let held = |name: &str| nodes.iter().find(|n| n["node"] == name).map(|n| &n["archived"]);
            Ok(ends.iter().all(|(name, end)| held(name).and_then(WalEnd::archived).as_ref() >= Some(end)))
        })
        .await
    }

    /// Waits until a shape of the cluster is recorded that was seen after this moment.
    pub async fn wait_for_shape(&self, moment: Moment) -> anyhow::Result<()> {
        let shapes = self.zones[0].join(CLUSTER).join("topology");
        let seen = |name: &OsStr| i64::from_str_radix(name.to_str()?, 16).ok();
        eventually("the cluster's shape", LONGEST_WAIT, async || {
            let names = std::fs::read_dir(&shapes)?.flatten().map(|entry| entry.file_name());
            Ok(names.filter_map(|name| seen(&name)).any(|seen| seen > moment.unix_micros()))
        })
        .await
    }

    fn has_backup(&self, node: &str) -> bool {
        let backups = self.zones[0].join(CLUSTER).join("nodes").join(node).join("backups");
        let Ok(backups) = std::fs::read_dir(backups) else { return false };
        backups.flatten().any(|backup| backup.path().join("manifest").is_file())
    }
}

/// Where a node's WAL ends: ordered as promotions order it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WalEnd {
    timeline: u64,
    lsn: Lsn,
}

impl WalEnd {
    /// What is on the server's own disk.
    async fn flushed(server: &Server) -> anyhow::Result<WalEnd> {
        let sql = "select pg_walfile_name(lsn) || ' ' || lsn from pg_current_wal_flush_lsn() as lsn";
        let said = server.value("postgres", sql).await?.context("the end of its WAL")?;
        let (file, lsn) = said.split_once(' ').context("a file and a place in it")?;
        let timeline = u64::from_str_radix(file.get(..8).context("a timeline")?, 16)?;
        Ok(WalEnd { timeline, lsn: lsn.parse()? })
    }

    /// What `pitrus info` says of a node.
    fn archived(said: &serde_json::Value) -> Option<WalEnd> {
        Some(WalEnd { timeline: said["timeline"].as_u64()?, lsn: said["to"].as_str()?.parse().ok()? })
    }
}

/// Where a restored cluster goes: free ports and folders of its own.
#[derive(Debug)]
pub struct Landing {
    pub targets: PathBuf,
    pub directory: PathBuf,
    names: Vec<String>,
    ports: Vec<u16>,
    sockets: Vec<PathBuf>,
}

impl Landing {
    /// Writes a targets file; `name` is a folder of the world that does not exist yet.
    pub fn choose(folder: &Folder, name: &str, nodes: &[String]) -> anyhow::Result<Landing> {
        let directory = folder.folder(name)?;
        let targets = directory.join("targets.toml");
        let mut landing = Landing {
            targets: targets.clone(),
            directory: directory.clone(),
            names: nodes.to_vec(),
            ports: Vec::new(),
            sockets: Vec::new(),
        };
        let mut written = String::new();
        for node in nodes {
            let port = free_port()?;
            let socket = folder.folder(&format!("{name}/s-{node}"))?;
            written += &format!(
                "[nodes.{node}]\nhost = '127.0.0.1'\nport = {port}\ndirectory = '{}'\nsocket_dir = '{}'\n",
                directory.join(node).display(),
                socket.display()
            );
            landing.ports.push(port);
            landing.sockets.push(socket);
        }
        folder.write(&targets, &written)?;
        Ok(landing)
    }

    /// Starts the restored servers, as the operator does after the restore.
    pub fn start(&self, folder: &Arc<Folder>) -> anyhow::Result<Vec<Server>> {
        let mut servers = Vec::new();
        for ((name, port), socket) in self.names.iter().zip(&self.ports).zip(&self.sockets) {
            let data = self.directory.join(name);
            let mut server = Server::adopt(folder, &format!("new-{name}"), &data, socket, *port);
            server.start()?;
            servers.push(server);
        }
        Ok(servers)
    }
}

/// Lets this machine in: what an operator does once the restored cluster is found good.
pub fn open_hba(folder: &Folder, servers: &[Server]) -> anyhow::Result<()> {
    for server in servers {
        let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        folder.write(&server.data.join("pg_hba.conf"), rules)?;
        server.reload()?;
    }
    Ok(())
}

/// Listens on ports and counts who comes.
#[derive(Debug)]
pub struct Ears {
    heard: Arc<AtomicU64>,
    listening: Vec<tokio::task::JoinHandle<()>>,
}

impl Ears {
    pub async fn on(ports: &[u16]) -> anyhow::Result<Ears> {
        let heard = Arc::new(AtomicU64::new(0));
        let mut listening = Vec::new();
        for port in ports {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", *port)).await?;
            let heard = Arc::clone(&heard);
            listening.push(tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Ok(Ears { heard, listening })
    }

    /// Returns how many connections were made so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.listening.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Returns a path as text: our temporary paths are plain.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
