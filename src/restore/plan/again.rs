//! Looking again. Retention and repair delete what nothing needs any more at any time, also between a list and the
//! reading of what it names: then the list is old, and nothing is lost.

use super::Error;

/// How often a list may be outrun before it is an error. Each needs a deletion within a second or so.
const LOOKS_MAX: usize = 5;

impl Error {
    /// Returns whether an object is not there that was to be read because a list names it.
    fn is_gone(&self) -> bool {
        matches!(self, Error::Vault(error) if error.is_not_found())
    }
}

/// Reads what there is with `look`, which begins with a new list; looks again where an object of the list is gone.
pub async fn while_gone<T>(mut look: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..LOOKS_MAX {
        match look().await {
            Err(error) if error.is_gone() => {
                tracing::debug!(%error, "deleted since it was listed: looking again");
            }
            done => return done,
        }
    }
    look().await
}
