//! Why a directory of WAL cannot be used.

use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::{timeline, wal};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: holds no WAL segment", path.display())]
    NoWal { path: PathBuf, instead: Option<String> },
    #[error("{}: is no WAL segment, though it is named as one", path.display())]
    NotWal { path: PathBuf },
    #[error("{}: is of another server (system identifier {found}) than its neighbours ({expected})", path.display())]
    Mixed { path: PathBuf, found: u64, expected: u64 },
    #[error("{}", path.display())]
    History { path: PathBuf, source: timeline::BadHistory },
    #[error("{}: cannot be decoded", path.display())]
    Wal { path: PathBuf, source: wal::Error },
    #[error("{}: the WAL breaks off at {at} ({why}), though segments follow", path.display())]
    EndsEarly { path: PathBuf, at: Lsn, why: &'static str },
    #[error("{}: holds nothing of timeline {asked}", path.display())]
    NoTimeline { path: PathBuf, asked: TimelineId, known: String },
    #[error("{}: holds no segment {number}", path.display())]
    Missing { path: PathBuf, number: u64 },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Read { .. }
            | Error::NoWal { .. }
            | Error::NoTimeline { .. }
            | Error::NotWal { .. }
            | Error::Mixed { .. } => Class::Operator,
            Error::History { .. } | Error::EndsEarly { .. } => Class::Damage,
            Error::Wal { source, .. } => source.class(),
            Error::Missing { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Read { .. } => Some("name a directory of WAL segments that this user may read".to_owned()),
            Error::NoWal { instead, .. } => Some(instead.clone().unwrap_or_else(|| {
                "segments have names of 24 digits, such as 000000010000000000000001".to_owned()
            })),
            Error::NoTimeline { known, .. } => Some(format!("it holds WAL of timeline {known}")),
            Error::NotWal { .. } => {
                Some("compressed or encrypted segments must be unpacked first, by the tool that packed them".to_owned())
            }
            Error::Mixed { .. } => Some("give each server's WAL a directory of its own".to_owned()),
            Error::EndsEarly { .. } | Error::Wal { source: wal::Error::NotWal { .. }, .. } => {
                Some("fetch this segment from the archive again; without it, move it and all later ones away: moments before it can be cut".to_owned())
            }
            Error::Wal { source, .. } => source.hint(),
            _ => None,
        }
    }
}
