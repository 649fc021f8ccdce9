//! Why a backup failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::class::{Class, Classified};
use crate::ids::{BackupId, NodeName};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::{manifest, node, pgfile, seal, vault};

/// A backup that was not made. Whatever it had stored is no backup: no manifest names it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("node {node}")]
    Server { node: NodeName, source: node::Error },
    #[error("node {node} is a standby; base backups are taken from the primary")]
    Standby { node: NodeName },
    #[error("another backup of node {node} is running")]
    Busy { node: NodeName },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: its name is not UTF-8")]
    Name { path: PathBuf },
    #[error("{path} belongs to another server: system identifier {found}, not {expected}")]
    OtherServer { path: PathBuf, found: u64, expected: String },
    #[error("{path}")]
    Format { path: PathBuf, source: pgfile::Error },
    #[error("backup label of node {node}: {problem}")]
    Label { node: NodeName, problem: String },
    #[error("the manifest")]
    Manifest { source: manifest::Error },
    #[error("seal a pack")]
    Seal { source: seal::Error },
    #[error("store {what}")]
    Store { what: String, source: vault::Error },
    #[error("look for the WAL of node {node}")]
    Wal { node: NodeName, source: vault::Error },
    #[error(
        "no agent archives node {node}: its WAL is held to {held} of timeline {timeline}, {needed} is needed, and nothing came for {waited:?}"
    )]
    NotArchived { node: NodeName, timeline: TimelineId, held: Lsn, needed: Lsn, waited: Duration },
    #[error("pack {number} was deleted before its backup was finished")]
    PackGone { number: u32 },
    #[error("read pack {pack} of an older backup")]
    Older { pack: String, source: vault::Error },
    #[error("the older backup and what was read do not make {path} whole")]
    Uncovered { path: String },
    #[error(
        "backup {backup}, from which this one takes what has not changed, was deleted before it was finished"
    )]
    PriorGone { backup: BackupId },
    #[error("start a thread")]
    Thread { source: io::Error },
    #[error("a worker ended early")]
    Ended,
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Server { source, .. } => source.class(),
            Error::Store { source, .. } | Error::Wal { source, .. } | Error::Older { source, .. } => {
                source.class()
            }
            Error::Manifest { source } => source.class(),
            Error::Seal { source } => source.class(),
            Error::Format { source, .. } => source.class(),
            Error::Busy { .. }
            | Error::NotArchived { .. }
            | Error::PackGone { .. }
            | Error::PriorGone { .. } => Class::Transient,
            Error::Label { .. } | Error::Uncovered { .. } | Error::Ended => Class::Bug,
            _ => Class::Operator,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Server { source, .. } => return source.hint(),
            Error::Store { source, .. } | Error::Wal { source, .. } => return source.hint(),
            Error::Older { .. } => {
                "`pitrus repair --deep` finds damage; `pitrus backup --full` needs no older backup"
            }
            Error::PriorGone { .. } => "run it again",
            Error::Standby { .. } => "run the agent beside the primary",
            Error::Busy { .. } => "wait until it has finished",
            Error::Read { .. } => {
                "run pitrus on the server's machine as the operating system user that owns the data directory"
            }
            Error::Name { .. } => "rename or remove the file: PostgreSQL makes no such names",
            Error::OtherServer { .. } => "run pitrus on the machine of the server it connects to",
            Error::NotArchived { .. } => "start `pitrus agent` for this node, and see what it logs",
            Error::PackGone { .. } => {
                "the backup took days, and `pitrus expire` took it for a dead one: make it faster by more threads"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}
