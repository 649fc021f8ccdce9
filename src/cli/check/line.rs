//! What a check found: each line says ok, or what to do.

use serde::Serialize;

use crate::cli::args::Output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    /// Works, but should be better.
    Advice,
    /// This node cannot be protected so.
    NotOk,
    /// Something did not answer; it may later.
    Unreachable,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) verdict: Verdict,
    pub(super) subject: String,
    pub(super) found: String,
    #[serde(rename = "to_do", skip_serializing_if = "Option::is_none")]
    pub(super) todo: Option<String>,
}

/// The lines of one check, in order.
#[derive(Debug, Default)]
pub(super) struct Lines(pub(super) Vec<Line>);

impl Lines {
    pub(super) fn ok(&mut self, subject: &str, found: impl Into<String>) {
        self.push(Verdict::Ok, subject, found.into(), None);
    }

    pub(super) fn advice(&mut self, subject: &str, found: impl Into<String>, todo: impl Into<String>) {
        self.push(Verdict::Advice, subject, found.into(), Some(todo.into()));
    }

    pub(super) fn not_ok(&mut self, subject: &str, found: impl Into<String>, todo: impl Into<String>) {
        self.push(Verdict::NotOk, subject, found.into(), Some(todo.into()));
    }

    /// Says ok when `holds`, and else what to do.
    pub(super) fn must(
        &mut self,
        holds: bool,
        subject: &str,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) {
        if holds { self.ok(subject, found) } else { self.not_ok(subject, found, todo) }
    }

    /// Notes a failure of the library, by its class.
    pub(super) fn failed<E: crate::class::Classified>(&mut self, subject: &str, error: &E) {
        let verdict = match error.class() {
            crate::class::Class::Transient => Verdict::Unreachable,
            _ => Verdict::NotOk,
        };
        self.push(verdict, subject, chain(error), error.hint());
    }

    fn push(&mut self, verdict: Verdict, subject: &str, found: String, todo: Option<String>) {
        self.0.push(Line { verdict, subject: subject.to_owned(), found, todo });
    }

    /// Returns the worst verdict.
    pub(super) fn worst(&self) -> Verdict {
        let has = |verdict| self.0.iter().any(|line| line.verdict == verdict);
        [Verdict::NotOk, Verdict::Unreachable, Verdict::Advice]
            .into_iter()
            .find(|verdict| has(*verdict))
            .unwrap_or(Verdict::Ok)
    }

    /// Returns what is printed.
    pub(super) fn text(&self, output: Output) -> String {
        if output == Output::Json {
            let ok = matches!(self.worst(), Verdict::Ok | Verdict::Advice);
            let value = serde_json::json!({ "version": 1, "ok": ok, "lines": self.0 });
            return format!("{value:#}\n");
        }
        let mut text = String::new();
        for line in &self.0 {
            let mark = match line.verdict {
                Verdict::Ok => "ok",
                Verdict::Advice => "advice",
                Verdict::NotOk => "NOT OK",
                Verdict::Unreachable => "NO ANSWER",
            };
            text += &format!("{mark:9}  {}: {}\n", line.subject, line.found);
            for todo in line.todo.iter().flat_map(|todo| todo.lines()) {
                text += &format!("           {todo}\n");
            }
        }
        text
    }
}

/// Returns an error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_line_decides_and_each_says_what_to_do() {
        let mut lines = Lines::default();
        lines.ok("wal_level", "replica");
        lines.advice("data checksums", "off", "pg_checksums --enable");
        assert_eq!(lines.worst(), Verdict::Advice);
        lines.must(false, "role", "lacks grants", "GRANT a;\nGRANT b;");
        assert_eq!(lines.worst(), Verdict::NotOk);
        assert_eq!(
            lines.text(Output::Text),
            "ok         wal_level: replica\nadvice     data checksums: off\n           pg_checksums --enable\n\
             NOT OK     role: lacks grants\n           GRANT a;\n           GRANT b;\n"
        );
        let json: serde_json::Value = serde_json::from_str(&lines.text(Output::Json)).unwrap();
        assert_eq!((&json["ok"], &json["lines"][2]["verdict"]), (&false.into(), &"not_ok".into()));
    }
}
