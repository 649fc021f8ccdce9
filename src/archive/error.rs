//! What can stop or delay archiving.

use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::lsn::Lsn;
use crate::timeline::{BadHistory, TimelineId};
use crate::{manifest, node, vault};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error(transparent)]
    Vault(#[from] vault::Error),
    #[error(transparent)]
    History(#[from] BadHistory),
    #[error("an archived index")]
    Document(#[from] manifest::Error),
    #[error("too few zones answer to tell what is archived: {}", silent.join("; "))]
    Unsure { silent: Vec<String> },
    #[error("the server's system identifier is {found}, that of this node is {expected}")]
    OtherServer { expected: String, found: String },
    #[error("the server no longer has the WAL from {at} of timeline {timeline}, which comes next")]
    Removed { timeline: TimelineId, at: Lsn, source: node::Error },
    #[error("the server sent WAL at {found} where {expected} comes next")]
    Disjoint { expected: Lsn, found: Lsn },
    #[error("no WAL is kept for the slot {slot}, though it was just created")]
    NoReserve { slot: String },
    #[error("stopped before a quorum of zones held everything received; the rest stays in the server's slot")]
    Stopped,
    #[error("{}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} is of the server with system identifier {found}, not of {expected}", path.display())]
    Foreign { path: PathBuf, found: u64, expected: u64 },
    #[error("{name} is not the file of that name in the pg_wal of this agent's server")]
    OtherFile { name: String },
    #[error("{name} is not the name of a file that PostgreSQL archives")]
    NoWalFile { name: String },
    #[error("{name}: no history in pg_wal says where its timeline was left")]
    NoBranch { name: String },
    #[error("pg_wal has no history of timeline {timeline}")]
    NoHistory { timeline: TimelineId },
    #[error("the archive lacks the middle of {name}")]
    Hole { name: String },
    #[error("a thread of ours ended before its work")]
    Thread,
}

impl Error {
    /// Returns whether trying again cannot help: going on would mix two servers' WAL.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Error::OtherServer { .. } | Error::Stopped | Error::Thread => true,
            Error::Vault(error) => error.is_clash(),
            _ => false,
        }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Node(error) => error.class(),
            Error::Vault(error) => error.class(),
            Error::OtherServer { .. }
            | Error::Removed { .. }
            | Error::File { .. }
            | Error::Foreign { .. }
            | Error::OtherFile { .. }
            | Error::NoWalFile { .. }
            | Error::NoBranch { .. }
            | Error::NoHistory { .. } => Class::Operator,
            Error::Hole { .. } => Class::Damage,
            Error::Document(error) => error.class(),
            Error::Unsure { .. }
            | Error::History(_)
            | Error::Disjoint { .. }
            | Error::NoReserve { .. }
            | Error::Stopped => Class::Transient,
            Error::Thread => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Node(error) => error.hint(),
            Error::Vault(error) if error.is_clash() => Some(
                "two servers archive under one name, or this one was set back to an older state: give it a name of its own"
                    .to_owned(),
            ),
            Error::Vault(error) => error.hint(),
            Error::Removed { source, .. } => source.hint(),
            Error::OtherFile { .. } | Error::Foreign { .. } => {
                Some("does the configuration that archive_command names belong to another server?".to_owned())
            }
            Error::OtherServer { .. } => Some("a new server needs a new node name, or a new cluster name".to_owned()),
            _ => None,
        }
    }
}

/// WAL that the server no longer had when it was asked for: between these positions nothing can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error(
    "WAL from {from} to {to} of timeline {timeline} is lost: the server removed it before it was archived; only a new base backup bridges this gap"
)]
pub struct Gap {
    pub timeline: TimelineId,
    pub from: Lsn,
    pub to: Lsn,
}
