//! A first configuration, as `pitrus init` writes it: what is known as fields, everything else as
//! comments with its default, each with its description.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::fields::{Absent, FIELDS, Field, key, tables};

/// Values to write, as TOML, by the path of their field; a list holds one entry for each `[[zone]]`.
#[derive(Debug, Default)]
pub struct Draft {
    pub values: BTreeMap<&'static str, Vec<String>>,
}

impl Draft {
    /// Sets a field to text. For fields of zones, call it once for each zone.
    pub fn text(&mut self, path: &'static str, value: &str) {
        self.values.entry(path).or_default().push(toml::Value::String(value.to_owned()).to_string());
    }

    /// Returns the file.
    pub fn render(&self) -> String {
        let mut out = String::from(
            "# Configuration of pitrus for one node. Fields that are commented out show their defaults.\n",
        );
        for table in tables() {
            let fields: Vec<&Field> = FIELDS.iter().filter(|f| table_of(f.path) == table).collect();
            let times = match table {
                "zone" => self.values.get("zone.name").map_or(1, Vec::len),
                _ => 1,
            };
            for number in 0..times {
                match table {
                    "" => {}
                    "zone" => out.push_str("\n[[zone]]\n"),
                    _ => writeln!(out, "\n[{table}]").expect("text grows"),
                }
                for field in &fields {
                    self.field(&mut out, field, number);
                }
            }
        }
        out
    }

    fn field(&self, out: &mut String, field: &Field, number: usize) {
        // Repeated tables are explained once.
        if number == 0 {
            for line in wrapped(field.text, 98) {
                writeln!(out, "# {line}").expect("text grows");
            }
        }
        let name = key(field.path);
        let written = self.values.get(field.path).and_then(|values| values.get(number));
        match (written, field.default) {
            (Some(value), _) => writeln!(out, "{name} = {value}"),
            (None, Absent::Value(value)) => writeln!(out, "#{name} = {value}"),
            (None, _) if number == 0 => writeln!(out, "#{name} ="),
            (None, _) => Ok(()),
        }
        .expect("text grows");
    }
}

fn table_of(path: &str) -> &str {
    path.split_once('.').map_or("", |(table, _)| table)
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use std::path::Path;

    #[test]
    fn a_draft_is_a_configuration_with_every_field_explained() {
        let mut draft = Draft::default();
        draft.text("cluster", "prod");
        draft.text("postgres.conninfo", "host=/run/postgresql application_name='a \"b\" \\ c'");
        draft.text("key.file", "/etc/pitrus/key");
        for (name, url) in [("a", "/zones/a"), ("b", "s3://b")] {
            draft.text("zone.name", name);
            draft.text("zone.url", url);
        }
        let text = draft.render();
        let settings = Settings::parse(Path::new("p"), &text).unwrap();
        assert_eq!(settings.zones.len(), 2);
        assert!(settings.postgres.unwrap().server.conninfo.contains("a \"b\" \\ c"));
        for field in FIELDS {
            let name = key(field.path);
            let shown = text.lines().any(|l| l.trim_start_matches('#').starts_with(&format!("{name} =")));
            assert!(shown, "{name} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100));
    }
}
