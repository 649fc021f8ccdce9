//! A failure as the operator sees it: what, because of what, what to do; and its exit code.

use std::error::Error;
use std::process::ExitCode;

use crate::class::{Class, Classified};

/// Exit codes; the README and `--help` state them.
pub(super) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const OPERATOR: u8 = 2;
    pub(crate) const TRANSIENT: u8 = 3;
    pub(crate) const DAMAGE: u8 = 4;
    pub(crate) const OUTSIDE: u8 = 5;
}

/// Any failure of a command. Every classified error becomes one with `?`.
#[derive(Debug)]
pub(super) struct Failure {
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
    code: u8,
}

impl<E: Classified + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let code = match error.class() {
            Class::Bug => exit::FAILED,
            Class::Operator => exit::OPERATOR,
            Class::Transient => exit::TRANSIENT,
            Class::Damage => exit::DAMAGE,
            Class::Outside => exit::OUTSIDE,
        };
        Failure { hint: error.hint(), error: Box::new(error), code }
    }
}

/// A failure told in words of the command line.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Told {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// The operator must do something else.
    pub(super) fn operator(message: impl Into<String>, hint: impl Into<String>) -> Self {
        let error = Told { message: message.into(), source: None };
        Failure { error: Box::new(error), hint: Some(hint.into()), code: exit::OPERATOR }
    }

    /// A file or folder named by the operator could not be used.
    pub(super) fn file(message: impl Into<String>, source: std::io::Error, hint: &str) -> Self {
        let error = Told { message: message.into(), source: Some(Box::new(source)) };
        Failure { error: Box::new(error), hint: Some(hint.to_owned()), code: exit::OPERATOR }
    }

    /// Something that should not fail did.
    pub(super) fn bug(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        let error = Told { message: message.into(), source: Some(Box::new(source)) };
        Failure { error: Box::new(error), hint: None, code: exit::FAILED }
    }

    /// Prints the failure on standard error and returns its exit code.
    pub(super) fn report(&self) -> ExitCode {
        eprint!("{}", self.text());
        ExitCode::from(self.code)
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.error);
        let mut above = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let said = error.to_string();
            // Some libraries print their source too; saying it twice helps nobody.
            if !above.contains(&said) {
                text += &format!("  because: {said}\n");
            }
            above = said;
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            text += &format!("  hint: {hint}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failure = Failure::from(crate::config::Error::Read { path: "/p.toml".into(), source: missing });
        assert_eq!(
            failure.text(),
            "error: /p.toml: cannot be read\n  because: entity not found\n  \
             hint: name another file with --config, or write one with `pitrus init`\n"
        );
        assert_eq!(failure.code, exit::OPERATOR);
    }
}
