//! Results on standard output. A reader that has seen enough (`| head`) is no failure.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stdout};

use serde::Serialize;

use super::failure::Failure;

/// Writes text; returns whether anybody still reads.
pub(super) fn text(shown: &impl Display) -> Result<bool, Failure> {
    let mut out = stdout().lock();
    match write!(out, "{shown}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::file("standard output cannot be written", error, "is the disk full?")),
    }
}

/// Writes a document as JSON.
pub(super) fn json(shown: &impl Serialize) -> Result<(), Failure> {
    let document = serde_json::to_string_pretty(shown).expect("a document has only text keys");
    text(&format_args!("{document}\n")).map(drop)
}
