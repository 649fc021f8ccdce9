//! The configuration of one node: what was written in the TOML file ([`raw`]), and what it means
//! ([`settings`]).
//!
//! file → [`raw::read`] (every field known, every value of its kind, lines remembered) →
//! [`Settings`] (ranges, exactly one of …, defaults) → the options of the zones, the node and the jobs.
//! Secrets never stand in the file: it says where they are ([`secret::Source`]), and they are read
//! only when a command needs them.

pub mod draft;
pub mod fields;
mod judge;
mod nearest;
pub mod raw;
pub mod secret;
pub mod settings;

use std::path::PathBuf;

use crate::class::{Class, Classified};

pub use settings::Settings;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {problem}", place(path, *line))]
    Syntax { path: PathBuf, line: Option<usize>, problem: String },
    #[error("{}: unknown field `{field}`{}", place(path, *line), suggestion(nearest.as_deref()))]
    UnknownField { path: PathBuf, line: Option<usize>, field: String, nearest: Option<String> },
    #[error("{}: `{field}` is missing", path.display())]
    Missing { path: PathBuf, field: String, fix: String },
    #[error("{}: `{field}` {problem}", place(path, *line))]
    Value { path: PathBuf, line: Option<usize>, field: String, problem: String, fix: String },
    #[error("the secret of `{field}` cannot be read")]
    Secret { field: String, source: secret::Error },
    #[error("the secret of `{field}` is not a key")]
    Key { field: String, source: crate::seal::Error },
}

fn place(path: &std::path::Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}, line {line}", path.display()),
        None => path.display().to_string(),
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|n| format!("; the nearest known one is `{n}`")).unwrap_or_default()
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Error::Secret { source, .. } => source.class(),
            _ => Class::Operator,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Read { .. } => {
                Some("name another file with --config, or write one with `pitrus init`".into())
            }
            Error::Syntax { .. } | Error::UnknownField { .. } => {
                Some("docs/configuration.md lists every field".into())
            }
            Error::Missing { fix, .. } | Error::Value { fix, .. } => Some(fix.clone()),
            Error::Secret { source, .. } => source.hint(),
            Error::Key { source, .. } => source.hint(),
        }
    }
}
