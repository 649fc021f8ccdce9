//! What can go wrong in one zone, and with the set of them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::class::{Class, Classified};
use crate::ids::ZoneName;

/// Why one zone did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it has no such object")]
    NotFound,
    #[error("its folder {} is not there", .0.display())]
    NoFolder(PathBuf),
    #[error("the folder {} is not marked as a zone", .0.display())]
    NoZone(PathBuf),
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    #[error("it has too much under way")]
    Busy,
    #[error("it rests after failures")]
    Resting,
    #[error("its copy is damaged: {0}")]
    Damaged(String),
    #[error("its copy has {0} bytes, more than are read at once")]
    Huge(u64),
    #[error("the store refused or failed")]
    Store(#[source] object_store::Error),
    #[error("a folder could not be read or made durable")]
    Folder(#[source] std::io::Error),
    #[error("an object could not be written")]
    Write(#[source] std::io::Error),
    #[error("the work on it was stopped")]
    Stopped,
}

impl Fault {
    pub(super) fn store(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Fault::NotFound,
            other => Fault::Store(other),
        }
    }

    pub fn class(&self) -> Class {
        use object_store::Error as Store;
        match self {
            Fault::NoFolder(_) | Fault::NoZone(_) => Class::Operator,
            Fault::Damaged(_) | Fault::Huge(_) => Class::Damage,
            Fault::Store(
                Store::PermissionDenied { .. }
                | Store::Unauthenticated { .. }
                | Store::NotSupported { .. }
                | Store::NotImplemented { .. }
                | Store::InvalidPath { .. },
            ) => Class::Operator,
            Fault::Folder(error) | Fault::Write(error)
                if error.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Class::Operator
            }
            _ => Class::Transient,
        }
    }
}

impl Fault {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Fault::NoFolder(path) => Some(format!(
                "mount or make the folder {}; it is not made anew, since a disk that is not mounted looks the same",
                path.display()
            )),
            Fault::NoZone(path) => Some(format!(
                "is its disk mounted? To begin a zone there, or to accept what was copied there: touch {}",
                path.join(super::folder::MARK).display()
            )),
            _ => None,
        }
    }
}

/// One zone's fault.
#[derive(Debug)]
pub struct Failure {
    pub zone: ZoneName,
    pub fault: Fault,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone {}: {}", self.zone, chain(&self.fault))
    }
}

/// Returns an error with its causes, one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("zone {zone}: {url:?} cannot be a zone: {problem}")]
    Url { zone: ZoneName, url: String, problem: String },
    #[error("zone {zone}: its store does not know the option {option:?}")]
    Option { zone: ZoneName, option: String },
    #[error("zone {zone}: its store cannot be used as configured")]
    Store { zone: ZoneName, source: object_store::Error },
    #[error("a write quorum of {write_quorum} does not fit {zones} zones")]
    Quorum { zones: usize, write_quorum: usize },
    #[error("its folder cannot be marked as a zone: {failure}")]
    Unmarked { failure: Box<Failure> },
    #[error("{name}: zone {zone} already holds other bytes under this name")]
    Clash { name: String, zone: ZoneName },
    #[error("{name}: no zone has it")]
    NotFound { name: String },
    #[error("{name}: held by {held} zones, {wanted} are needed; {}", list(failures))]
    TooFew { name: String, held: usize, wanted: usize, failures: Vec<Failure> },
    #[error("{name}: no good copy could be read; {}", list(failures))]
    Unreadable { name: String, failures: Vec<Failure> },
    #[error("{prefix}: no zone could be listed; {}", list(failures))]
    Unlisted { prefix: String, failures: Vec<Failure> },
}

fn list(failures: &[Failure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    fn failures(&self) -> &[Failure] {
        match self {
            Error::TooFew { failures, .. }
            | Error::Unreadable { failures, .. }
            | Error::Unlisted { failures, .. } => failures,
            _ => &[],
        }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Url { .. } | Error::Option { .. } | Error::Store { .. } | Error::Quorum { .. } => {
                Class::Operator
            }
            Error::Clash { .. } => Class::Operator,
            Error::Unmarked { failure } => failure.fault.class(),
            Error::NotFound { .. } => Class::Damage,
            _ => {
                let any = |class| self.failures().iter().any(|f| f.fault.class() == class);
                [Class::Transient, Class::Operator].into_iter().find(|c| any(*c)).unwrap_or(Class::Damage)
            }
        }
    }

    fn hint(&self) -> Option<String> {
        if let Some(hint) = self.failures().iter().find_map(|failure| failure.fault.hint()) {
            return Some(hint);
        }
        match self {
            Error::Url { .. } => {
                Some("write /path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix".into())
            }
            Error::Option { .. } => Some("options are named as the crate object_store names them".into()),
            Error::Quorum { .. } => Some("two of three zones is the usual".into()),
            Error::Clash { .. } => Some(
                "nothing is overwritten: do two servers use one name, or was this one set back to an older state?"
                    .into(),
            ),
            Error::TooFew { .. } | Error::Unlisted { .. } => {
                Some("see which zones fail with `pitrus info`; the work goes on when enough answer".into())
            }
            _ => None,
        }
    }
}
