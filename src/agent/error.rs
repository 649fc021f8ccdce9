//! What ends an agent.

use std::io;
use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::ids::NodeName;
use crate::{archive, backup, config, manifest, node, vault};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error(transparent)]
    Vault(#[from] vault::Error),
    #[error(transparent)]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Backup(Box<backup::Error>),
    #[error("what the vault says of this node")]
    Document(#[from] manifest::Error),
    #[error("state folder {}", path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("another agent is running with the state folder {}", path.display())]
    Running { path: PathBuf },
    #[error("the vault knows node {node} with system identifier {known}; this server's is {found}")]
    OtherServer { node: NodeName, known: String, found: String },
    #[error("the server's wal_level is {found}")]
    WalLevel { found: String },
    #[error("no answer within {seconds} s")]
    SlowClock { seconds: u64 },
    #[error("a part of the agent ended before its work")]
    Thread,
}

impl From<backup::Error> for Error {
    fn from(error: backup::Error) -> Self {
        Error::Backup(Box::new(error))
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Config(error) => error.class(),
            Error::Node(error) => error.class(),
            Error::Vault(error) => error.class(),
            Error::Archive(error) => error.class(),
            Error::Backup(error) => error.class(),
            Error::Document(error) => error.class(),
            Error::SlowClock { .. } => Class::Transient,
            Error::Thread => Class::Bug,
            _ => Class::Operator,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Config(error) => return error.hint(),
            Error::Node(error) => return error.hint(),
            Error::Vault(error) => return error.hint(),
            Error::Archive(error) => return error.hint(),
            Error::Backup(error) => return error.hint(),
            Error::StateDir { .. } => {
                "the agent's user must be able to write there; `state_dir` names another folder"
            }
            Error::Running { .. } => "one agent a node: give each its own state_dir",
            Error::OtherServer { .. } => {
                "a new server needs a new node name: its WAL does not continue the old one's"
            }
            Error::WalLevel { .. } => "set wal_level = replica and restart the server",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
