//! What can go wrong with a live server.

use std::io;
use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::ids::ClusterName;
use crate::wal::Version;

/// SQLSTATE codes that are handled by name.
pub mod sqlstate {
    /// The server's answer where a WAL segment has already been removed.
    pub const UNDEFINED_FILE: &str = "58P01";
    /// The answer of a physical replication connection to what it takes for SQL.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const DUPLICATE_OBJECT: &str = "42710";
    /// A slot that another connection holds, perhaps our own of a moment ago.
    pub const OBJECT_IN_USE: &str = "55006";
}

/// A failure of the connection to a server, or of what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connection settings: {problem}")]
    Options { problem: String },
    #[error("certificate file {path}")]
    Certificate { path: PathBuf, source: io::Error },
    #[error("cannot connect to {server}")]
    Connect { server: String, source: io::Error },
    #[error("TLS with {server}")]
    Tls { server: String, source: io::Error },
    #[error("{server}: the server asks for a password and none is configured")]
    NoPassword { server: String },
    #[error("{server}: the server asks for a password in clear over an unencrypted connection")]
    ClearPassword { server: String },
    #[error("{server}: {doing}: {message} (SQLSTATE {code})")]
    Server { server: String, doing: String, code: String, message: String },
    #[error("{server}: {doing}")]
    Sql { server: String, doing: String, source: Box<tokio_postgres::Error> },
    #[error("{server}: broken connection")]
    Broken { server: String, source: io::Error },
    #[error("{server}: no answer within {seconds} s")]
    Silent { server: String, seconds: u64 },
    #[error("{server}: unexpected answer: {problem}")]
    Protocol { server: String, problem: String },
    #[error("PostgreSQL {found} is not supported: this pitrus knows PostgreSQL {}", Version::NAMES)]
    Version { found: String },
    #[error("{path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}")]
    Mark { path: PathBuf, source: crate::manifest::Error },
    #[error(
        "this server was restored from cluster {source_cluster} to be cluster {cluster}; it cannot be protected as {asked}"
    )]
    Clone { source_cluster: ClusterName, cluster: ClusterName, asked: ClusterName },
}

impl Error {
    /// Returns the server's SQLSTATE, where the server answered with an error.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Server { code, .. } => Some(code),
            Error::Sql { source, .. } => source.code().map(|c| c.code()),
            _ => None,
        }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        if let Some(code) = self.sqlstate() {
            return class_of(code);
        }
        match self {
            Error::Connect { .. } | Error::Broken { .. } | Error::Silent { .. } => Class::Transient,
            // Without a SQLSTATE the connection broke, or our own conversion failed.
            Error::Sql { source, .. } => match std::error::Error::source(source.as_ref()) {
                Some(inner) if inner.is::<io::Error>() => Class::Transient,
                _ if source.is_closed() => Class::Transient,
                _ => Class::Operator,
            },
            Error::Mark { source, .. } => source.class(),
            Error::Protocol { .. } => Class::Bug,
            _ => Class::Operator,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Tls { .. } => {
                "certificates are checked unless sslmode is prefer or disable: set tls_root_cert to the certificate that signed the server's"
            }
            Error::NoPassword { .. } => {
                "configure the password, or let pg_hba.conf use peer on the local socket"
            }
            Error::ClearPassword { .. } => "use sslmode=require, or scram-sha-256 in pg_hba.conf",
            Error::Connect { .. } => "is the server running, and are host and port those it listens on?",
            Error::Version { .. } => "use a pitrus that supports this version",
            Error::Clone { .. } => "set the cluster's name to the one it was restored as",
            _ => match self.sqlstate()? {
                "28000" => {
                    "pg_hba.conf must allow this user, also for `replication`; the role needs REPLICATION"
                }
                "28P01" => "the password is wrong for this user",
                "42501" => {
                    "the role lacks a privilege: pg_read_all_settings, pg_monitor and REPLICATION are needed"
                }
                "53300" | "53400" => "raise max_wal_senders or max_replication_slots, or free one",
                "55000" => "wal_level must be replica or logical, and max_replication_slots above 0",
                sqlstate::UNDEFINED_FILE => {
                    "that WAL is gone from the server: only a new base backup bridges the gap"
                }
                _ => return None,
            },
        };
        Some(text.to_owned())
    }
}

/// Classes of SQLSTATEs: connection, resources, operator intervention and a slot in use pass by
/// themselves; all else needs a person.
fn class_of(code: &str) -> Class {
    match code.get(..2) {
        Some("08" | "53" | "57") => Class::Transient,
        _ if code == sqlstate::OBJECT_IN_USE => Class::Transient,
        _ => Class::Operator,
    }
}
