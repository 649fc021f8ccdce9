//! What can stop a vault.

use crate::class::{Class, Classified};
use crate::ids::{ClusterName, NodeName};
use crate::seal::KeyId;
use crate::{manifest, seal, zones};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Zones(#[from] zones::Error),
    #[error(transparent)]
    Seal(#[from] seal::Error),
    #[error("{object}")]
    Document { object: String, source: manifest::Error },
    #[error(
        "the key at hand ({given}) opens none of cluster {cluster}'s keys; they were made for {}",
        ids(known)
    )]
    WrongKey { cluster: ClusterName, given: KeyId, known: Vec<KeyId> },
    #[error("the zones that answer hold nothing of a cluster {cluster}")]
    NoVault { cluster: ClusterName },
    #[error("too few zones answer to be sure that cluster {cluster} has no keys yet")]
    Unsure { cluster: ClusterName },
    #[error("{object} is already stored with other contents, and nothing is overwritten")]
    Clash { object: String },
    #[error("{object}: this vault was opened for reading only")]
    ReadOnly { object: String },
    #[error("no key is at hand to seal with")]
    NoKey,
    #[error("{object}: {problem}")]
    Inconsistent { object: String, problem: String },
    #[error("node {node} is not in the vault")]
    NoNode { node: NodeName },
    #[error("a thread of ours ended before its work")]
    Thread,
}

fn ids(known: &[KeyId]) -> String {
    known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// Returns whether other contents are already stored under the name.
    pub fn is_clash(&self) -> bool {
        matches!(self, Error::Clash { .. } | Error::Zones(zones::Error::Clash { .. }))
    }

    /// Returns whether the object is not there: a quorum of zones answered so.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Zones(zones::Error::NotFound { .. }))
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Zones(error) => error.class(),
            Error::Seal(error) => error.class(),
            Error::Document { source, .. } => source.class(),
            Error::WrongKey { .. } | Error::NoVault { .. } | Error::Clash { .. } | Error::NoNode { .. } => {
                Class::Operator
            }
            Error::Unsure { .. } => Class::Transient,
            Error::Inconsistent { .. } => Class::Damage,
            Error::ReadOnly { .. } | Error::NoKey | Error::Thread => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Zones(error) => error.hint(),
            Error::Seal(error) => error.hint(),
            Error::Document { source, .. } => source.hint(),
            Error::WrongKey { .. } => Some("give the master key with one of those ids in [key]".into()),
            Error::NoVault { cluster } => Some(format!(
                "check that the zones are the right ones and that the cluster's name is {cluster}; an agent makes the first objects"
            )),
            Error::Unsure { .. } => Some("bring more zones back; see `pitrus check`".into()),
            Error::Clash { .. } => {
                Some("do two servers use one name, or was this one set back to an older state?".into())
            }
            _ => None,
        }
    }
}
