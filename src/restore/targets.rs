//! Where the new cluster goes: a data directory, a host and a port for each node.
//!
//! Values only; whether they can be used is judged in `preflight`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::ids::NodeName;

/// The first port tried for nodes that were given none.
const FIRST_PORT: u16 = 5440;

/// What the operator says about targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// One data directory a node in this folder, on this machine, with free ports.
    Into(PathBuf),
    /// A file that names each node's.
    File(PathBuf),
}

/// Where one node goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub node: NodeName,
    /// What the other nodes and clients call it: written to `pg_dist_node`, and listened on.
    pub host: String,
    pub port: u16,
    pub directory: PathBuf,
    /// Where its tablespaces go, each under its oid.
    pub tablespaces: PathBuf,
    /// Folder of its Unix socket once opened; the server's own default where `None`.
    pub socket_dir: Option<PathBuf>,
    /// What it listens on once opened, where not on `host`.
    pub listen: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    nodes: BTreeMap<NodeName, WrittenNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    host: String,
    port: u16,
    directory: PathBuf,
    tablespaces: Option<PathBuf>,
    socket_dir: Option<PathBuf>,
    listen: Option<String>,
}

impl Targets {
    /// Returns the folder for the plan and the report.
    pub(super) fn folder(&self) -> Result<PathBuf, Error> {
        match self {
            Targets::Into(folder) => absolute(folder),
            Targets::File(path) => Ok(absolute(path)?.parent().map(Path::to_owned).unwrap_or_default()),
        }
    }

    /// Returns the nodes' data directories.
    pub(super) fn directories(&self, nodes: &[NodeName]) -> Result<Vec<PathBuf>, Error> {
        match self {
            Targets::Into(_) => {
                let folder = self.folder()?;
                Ok(nodes.iter().map(|node| folder.join(node.as_str())).collect())
            }
            Targets::File(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
                Ok(from_text(path, &text, nodes)?.into_iter().map(|target| target.directory).collect())
            }
        }
    }

    /// Returns a target for each node, and the folder for the report.
    pub(super) fn resolve(&self, nodes: &[NodeName]) -> Result<(Vec<Target>, PathBuf), Error> {
        match self {
            Targets::Into(_) => {
                let folder = self.folder()?;
                let ports = free_ports(nodes.len())?;
                let target = |(node, port): (&NodeName, u16)| local(&folder, node, port);
                Ok((nodes.iter().zip(ports).map(target).collect(), folder))
            }
            Targets::File(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
                let targets = from_text(path, &text, nodes)?;
                Ok((targets, self.folder()?))
            }
        }
    }
}

fn local(folder: &Path, node: &NodeName, port: u16) -> Target {
    Target {
        node: node.clone(),
        host: "localhost".to_owned(),
        port,
        directory: folder.join(node.as_str()),
        tablespaces: folder.join(format!("{node}-tablespaces")),
        socket_dir: None,
        listen: None,
    }
}

fn from_text(path: &Path, text: &str, nodes: &[NodeName]) -> Result<Vec<Target>, Error> {
    let mut written: Written =
        toml::from_str(text).map_err(|source| Error::Targets { path: path.to_owned(), source })?;
    let mut targets = Vec::new();
    for node in nodes {
        let Some(wanted) = written.nodes.remove(node) else {
            return Err(Error::refused(
                format!("{}: no target for node {node}", path.display()),
                format!("add [nodes.{node}] with host, port and directory"),
            ));
        };
        let directory = absolute(&wanted.directory)?;
        let beside = || PathBuf::from(format!("{}-tablespaces", directory.display()));
        let tablespaces = wanted.tablespaces.as_deref().map(absolute).transpose()?.unwrap_or_else(beside);
        targets.push(Target {
            node: node.clone(),
            host: wanted.host,
            port: wanted.port,
            tablespaces,
            socket_dir: wanted.socket_dir.as_deref().map(absolute).transpose()?,
            listen: wanted.listen,
            directory,
        });
    }
    match written.nodes.keys().next() {
        None => Ok(targets),
        Some(other) => Err(Error::refused(
            format!("{}: the cluster has no node {other}", path.display()),
            format!("its nodes are {}", list(nodes)),
        )),
    }
}

fn list(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(Error::file("resolve", path))
}

/// Finds ports on which nobody listens here.
fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports: Vec<u16> = (FIRST_PORT..FIRST_PORT + 10_000).filter(free).take(count).collect();
    if ports.len() < count {
        return Err(Error::refused("no free port", "name the ports in a targets file"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn a_folder_gives_each_node_a_directory_and_a_port() {
        let folder = PathBuf::from("/srv/new");
        let (targets, report) = Targets::Into(folder.clone()).resolve(&names(&["a", "b"])).unwrap();
        assert_eq!(report, folder);
        assert_eq!(targets[0].directory, folder.join("a"));
        assert_eq!(targets[1].tablespaces, folder.join("b-tablespaces"));
        assert_ne!(targets[0].port, targets[1].port);
    }

    #[test]
    fn a_targets_file_names_exactly_the_nodes() {
        let text = "[nodes.a]\nhost = 'h'\nport = 5\ndirectory = '/d/a'\n";
        let read = |text: &str, nodes: &[&str]| from_text(Path::new("/t.toml"), text, &names(nodes));
        let targets = read(text, &["a"]).unwrap();
        assert_eq!(targets[0].tablespaces, Path::new("/d/a-tablespaces"));
        let said = |text: &str, nodes: &[&str]| read(text, nodes).unwrap_err().to_string();
        assert_eq!(said(text, &["a", "b"]), "/t.toml: no target for node b");
        assert_eq!(said(text, &[]), "/t.toml: the cluster has no node a");
        assert_eq!(said(&text.replace("port", "prot"), &["a"]), "/t.toml: not a targets file");
    }
}
