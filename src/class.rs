//! What a failure asks of its reader. Retries, exit codes and log levels follow the class, never
//! the text of an error.

/// The kinds of failure that are handled differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// May pass by itself: try again later.
    Transient,
    /// A person must change something first.
    Operator,
    /// The moment asked for is not among those that can be restored.
    Outside,
    /// Stored bytes are not what was written.
    Damage,
    /// Our own mistake.
    Bug,
}

/// Every error of the library says its class, and where it can, the next step.
pub trait Classified: std::error::Error {
    fn class(&self) -> Class;

    /// What the operator can do about it, one sentence.
    fn hint(&self) -> Option<String> {
        None
    }
}
