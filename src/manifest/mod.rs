//! Our documents: what is written beside the data so that it can be found, judged and put back.
//!
//! All are JSON (one value, or one value a line where they grow), sealed like everything else. Each
//! carries `format` and `version`; an unknown version is refused, an unknown field is ignored, so an
//! older pitrus reads what a newer one of the same version wrote.
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))] // tests index what they made

pub mod backup;
pub mod clock;
pub mod clone_mark;
pub mod node;
pub mod topology;
pub mod wal_index;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{document}: not valid JSON of its kind")]
    Json { document: &'static str, source: serde_json::Error },
    #[error(
        "{document}: format version {found} is not known to this pitrus (it reads {known}); use a newer one"
    )]
    Version { document: &'static str, found: u32, known: u32 },
    #[error("{document}: {problem}")]
    Inconsistent { document: &'static str, problem: String },
}

impl crate::class::Classified for Error {
    fn class(&self) -> crate::class::Class {
        match self {
            Error::Version { .. } => crate::class::Class::Operator,
            _ => crate::class::Class::Damage,
        }
    }
}

/// Writes a document of one value.
pub fn to_bytes<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("our documents have only text keys")
}

/// Reads a document of one value, and refuses versions it does not know.
pub fn from_bytes<T: Document>(bytes: &[u8]) -> Result<T, Error> {
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    let json = |source| Error::Json { document: T::NAME, source };
    let head: Head = serde_json::from_slice(bytes).map_err(json)?;
    if head.version != T::VERSION {
        return Err(Error::Version { document: T::NAME, found: head.version, known: T::VERSION });
    }
    serde_json::from_slice(bytes).map_err(json)
}

/// A document of one value with a top-level `version`.
pub trait Document: serde::de::DeserializeOwned {
    const NAME: &'static str;
    const VERSION: u32;
}
