//! What was written: the TOML file as it stands, every field known and of its kind, and the line of
//! each for messages. Nothing is judged here.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::Error;
use super::fields::FIELDS;
use super::nearest::nearest;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub cluster: Option<String>,
    pub node: Option<String>,
    pub state_dir: Option<PathBuf>,
    pub write_quorum: Option<i64>,
    pub postgres: Option<Postgres>,
    #[serde(default)]
    pub key: Key,
    #[serde(default)]
    pub zone: Vec<Zone>,
    #[serde(default)]
    pub backup: Backup,
    #[serde(default)]
    pub archive: Archive,
    #[serde(default)]
    pub retention: Retention,
    #[serde(default)]
    pub clock: Clock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    pub conninfo: Option<String>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    pub password_command: Option<Vec<String>>,
    pub tls_root_cert: Option<PathBuf>,
    pub slot: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    pub file: Option<PathBuf>,
    pub env: Option<String>,
    pub command: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    pub name: Option<String>,
    pub url: Option<String>,
    #[serde(default)]
    pub options: BTreeMap<String, OptionValue>,
}

/// An option of a store: plain text, or where its secret is.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an option is text, { file = \"...\" } or { env = \"...\" }")]
pub enum OptionValue {
    Plain(String),
    File(OptionFile),
    Env(OptionEnv),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionFile {
    pub file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionEnv {
    pub env: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    pub schedule: Option<String>,
    pub level: Option<i64>,
    pub threads: Option<i64>,
    pub rewrite_percent: Option<i64>,
    pub max_rate: Option<i64>,
    pub nice: Option<i64>,
    pub ionice: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    pub method: Option<String>,
    pub part_interval_ms: Option<i64>,
    pub level: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    pub days: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    pub coordinator: Option<String>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    pub password_command: Option<Vec<String>>,
}

/// Where each field stands. A zone's fields are named `zone[1].url`, counted from 1.
#[derive(Debug, Default)]
pub struct Lines(HashMap<String, usize>);

impl Lines {
    pub fn of(&self, field: &str) -> Option<usize> {
        self.0.get(field).copied()
    }
}

/// Reads the text of the file at `path`.
pub fn read(path: &Path, text: &str) -> Result<(Raw, Lines), Error> {
    let syntax = |error: toml::de::Error| Error::Syntax {
        path: path.to_owned(),
        line: error.span().map(|span| line_at(text, span.start)),
        problem: error.message().trim().replace('\n', "; "),
    };
    let table = DeTable::parse(text).map_err(syntax)?;
    let mut walk = Walk { path, text, lines: Lines::default() };
    walk.table(table.get_ref(), "", "")?;
    let raw = toml::from_str(text).map_err(syntax)?;
    Ok((raw, walk.lines))
}

fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// Goes through the file, notes lines, and refuses the first field that is not known.
struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    lines: Lines,
}

impl Walk<'_> {
    /// `pattern` is the table's name in [`FIELDS`], `shown` its name in messages.
    fn table(&mut self, table: &DeTable<'_>, pattern: &str, shown: &str) -> Result<(), Error> {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let (field, shown) = (joined(pattern, name), joined(shown, name));
            let line = line_at(self.text, key.span().start);
            if !is_known(&field) {
                return Err(Error::UnknownField {
                    path: self.path.to_owned(),
                    line: Some(line),
                    nearest: nearest(name, siblings(pattern)).map(str::to_owned),
                    field: shown,
                });
            }
            self.lines.0.insert(shown.clone(), line);
            match value.get_ref() {
                DeValue::Table(inner) if is_table(&field) => self.table(inner, &field, &shown)?,
                DeValue::Array(items) if is_table(&field) => {
                    for (number, item) in items.iter().enumerate() {
                        let shown = format!("{shown}[{}]", number + 1);
                        self.lines.0.insert(shown.clone(), line_at(self.text, item.span().start));
                        if let DeValue::Table(inner) = item.get_ref() {
                            self.table(inner, &field, &shown)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn joined(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

fn is_table(field: &str) -> bool {
    FIELDS.iter().any(|f| f.path.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')))
}

fn is_known(field: &str) -> bool {
    FIELDS.iter().any(|f| f.path == field) || is_table(field)
}

/// Returns the words that may stand in a table.
fn siblings(table: &str) -> impl Iterator<Item = &'static str> {
    let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
    FIELDS.iter().filter_map(move |f| f.path.strip_prefix(prefix.as_str())?.split('.').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read(Path::new("/p.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn unknown_fields_are_refused_with_the_nearest() {
        assert_eq!(
            refused("cluster = \"a\"\nnoed = \"b\"\n"),
            "/p.toml, line 2: unknown field `noed`; the nearest known one is `node`"
        );
        assert_eq!(
            refused("[postgres]\n\nconinfo = \"\"\n"),
            "/p.toml, line 3: unknown field `postgres.coninfo`; the nearest known one is `conninfo`"
        );
        assert_eq!(
            refused("[[zone]]\nname = \"a\"\n[[zone]]\nlink = \"\"\n"),
            "/p.toml, line 4: unknown field `zone[2].link`"
        );
        assert_eq!(
            refused("[zones]\n"),
            "/p.toml, line 1: unknown field `zones`; the nearest known one is `zone`"
        );
    }

    #[test]
    fn wrong_kinds_name_the_line() {
        assert!(refused("cluster = \"a\"\nnode = 3\n").starts_with("/p.toml, line 2: "));
        assert!(refused("cluster = \n").starts_with("/p.toml, line 1: "));
        let options = refused("[[zone]]\noptions = { a = { fiel = \"x\" } }\n");
        assert!(options.contains("line 2") && options.contains("an option is text"), "{options}");
        assert!(refused("zone = 3\n").starts_with("/p.toml, line 1: "));
    }

    /// The reader of kinds and the list of fields are two; here they are held together.
    #[test]
    fn every_listed_field_can_be_read() {
        for field in FIELDS {
            let values = ["\"x\"", "3", "[\"x\"]", "{ a = \"x\" }"];
            let text = |value: &str| match field.path.split_once('.') {
                Some(("zone", key)) => format!("[[zone]]\n{key} = {value}\n"),
                Some((table, key)) => format!("[{table}]\n{key} = {value}\n"),
                None => format!("{} = {value}\n", field.path),
            };
            assert!(values.iter().any(|v| read(Path::new("p"), &text(v)).is_ok()), "{}", field.path);
        }
    }

    #[test]
    fn lines_are_remembered() {
        let (_, lines) = read(Path::new("p"), "cluster = \"a\"\n[[zone]]\n\nurl = \"x\"\n").unwrap();
        assert_eq!(
            (lines.of("zone[1].url"), lines.of("cluster"), lines.of("node")),
            (Some(4), Some(1), None)
        );
    }
}
