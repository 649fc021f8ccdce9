//! Why there is no plan. Nothing has been written when one of these is returned.

use crate::class::{Class, Classified};
use crate::cut;
use crate::ids::{GroupId, NodeName};
use crate::vault;
use crate::wal;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{asked} cannot be restored: {why}; {window}")]
    Outside { asked: String, why: String, window: String },
    #[error("{what}")]
    Ask { what: String, hint: String },
    #[error("nothing is stored of cluster {0}")]
    Empty(String),
    #[error(
        "group {group} ({host}:{port}) was in the cluster then, but no node of that group is in the vault"
    )]
    NoNode { group: GroupId, host: String, port: i32 },
    #[error("node {node}: WAL segment {segment} is not archived, which recovery would need")]
    Gap { node: NodeName, segment: String },
    #[error("node {node}: WAL segment {segment} cannot be decoded")]
    Wal { node: NodeName, segment: String, source: wal::Error },
    #[error("node {node}: WAL segment {segment} ends early at {at}: {why}")]
    EndsEarly { node: NodeName, segment: String, at: crate::lsn::Lsn, why: &'static str },
    #[error(transparent)]
    Document(#[from] crate::manifest::Error),
    #[error(transparent)]
    Vault(#[from] vault::Error),
    #[error("the WAL of these nodes does not fit together")]
    Cut(#[source] cut::Error),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Outside { .. } => Class::Outside,
            Error::Empty(_) | Error::NoNode { .. } | Error::Ask { .. } => Class::Operator,
            Error::Gap { .. } | Error::EndsEarly { .. } => Class::Damage,
            Error::Wal { source, .. } => source.class(),
            Error::Document(source) => source.class(),
            Error::Vault(source) => source.class(),
            Error::Cut(source) => source.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Outside { .. } => Some("`pitrus info` shows what can be restored".to_owned()),
            Error::Ask { hint, .. } => Some(hint.clone()),
            Error::Empty(_) => Some("look at the cluster's name and at the zones' addresses".to_owned()),
            Error::NoNode { .. } => Some("every node of the cluster needs its agent".to_owned()),
            Error::Gap { .. } => {
                Some("`pitrus info` lists the gaps; a moment before it, or one after a later backup, can be restored".to_owned())
            }
            Error::Vault(source) => source.hint(),
            Error::Wal { source, .. } => source.hint(),
            _ => None,
        }
    }
}
