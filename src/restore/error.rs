//! What can go wrong in a restore. Every variant names the node, path or object.

use std::path::{Path, PathBuf};

use crate::class::{Class, Classified};
use crate::ids::{BackupId, NodeName};

/// A failure of a restore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Found before anything was written.
    #[error("{problem}")]
    Refused { problem: String, hint: String },
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path}: not a targets file")]
    Targets { path: PathBuf, source: toml::de::Error },
    #[error("{path} cannot be read")]
    Document { path: PathBuf, source: crate::manifest::Error },
    #[error("node {node}: cannot {doing}")]
    Sql { node: NodeName, doing: String, source: tokio_postgres::Error },
    #[error("node {node}: {problem}; the last lines of {log}:\n{tail}", log = log.display())]
    Server { node: NodeName, problem: String, log: PathBuf, tail: String },
    /// A node did not stop where the plan says.
    #[error("node {node} did not land where the plan says: {problem}; it is left stopped")]
    Landing { node: NodeName, problem: String },
    /// The restored catalogue is not what it should be.
    #[error("node {node}: {problem}; it is left stopped")]
    Catalogue { node: NodeName, problem: String },
    #[error("node {node}: the manifest of backup {backup} cannot be used")]
    Manifest { node: NodeName, backup: BackupId, source: crate::manifest::Error },
    /// A segment that the plan counts on.
    #[error("node {node}: WAL segment {segment} is not in the vault any more")]
    MissingWal { node: NodeName, segment: String },
    #[error("node {node}, backup {backup}: {problem}")]
    Backup { node: NodeName, backup: String, problem: String },
    #[error(transparent)]
    Vault(#[from] crate::vault::Error),
    #[error("a part of the restore ended without a result: {0}")]
    Lost(&'static str),
}

impl Error {
    pub(super) fn refused(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Refused { problem: problem.into(), hint: hint.into() }
    }

    /// For `map_err` on file operations.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    }

    /// For `map_err` on queries.
    pub(super) fn sql<T: Into<String>>(
        node: &NodeName,
        doing: T,
    ) -> impl FnOnce(tokio_postgres::Error) -> Self + use<T> {
        let (node, doing) = (node.clone(), doing.into());
        move |source| Error::Sql { node, doing, source }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Refused { .. } | Error::Targets { .. } | Error::Server { .. } | Error::File { .. } => {
                Class::Operator
            }
            Error::Document { source, .. } | Error::Manifest { source, .. } => source.class(),
            Error::Vault(error) => error.class(),
            Error::Backup { .. } | Error::MissingWal { .. } => Class::Damage,
            Error::Sql { .. } => Class::Transient,
            Error::Landing { .. } | Error::Catalogue { .. } | Error::Lost(_) => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            Error::Refused { hint, .. } => Some(hint.clone()),
            Error::Targets { .. } => {
                Some("for each node: [nodes.NAME] with host, port and directory".to_owned())
            }
            Error::Server { .. } | Error::Sql { .. } | Error::File { .. } => Some(
                "remove the cause and run the same restore again: it goes on from where it stopped"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
