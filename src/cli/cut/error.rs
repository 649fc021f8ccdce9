//! Why there is no cut of the directories.

use crate::class::{Class, Classified};
use crate::{cut, waldir};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{asked} cannot be cut: {why}; {window}")]
    Outside { asked: String, why: String, window: String },
    #[error("{what}")]
    Ask { what: String, hint: String },
    #[error(transparent)]
    Wal(#[from] waldir::Error),
    #[error("the WAL of these nodes does not fit together")]
    Cut(#[source] cut::Error),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Outside { .. } => Class::Outside,
            Error::Ask { .. } => Class::Operator,
            Error::Wal(source) => source.class(),
            Error::Cut(source) => source.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Outside { .. } => {
                Some("give every node the WAL from before that moment to a little after it".to_owned())
            }
            Error::Ask { hint, .. } => Some(hint.clone()),
            Error::Wal(source) => source.hint(),
            Error::Cut(_) => None,
        }
    }
}
