//! Every field of the configuration, once: the reader refuses what is not here, `pitrus init` writes
//! its comments from here, and a test holds `docs/configuration.md` to it.

/// What an absent field means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It must be written.
    Required,
    /// Nothing; its text says what that means.
    Nothing,
    /// This value, as TOML.
    Value(&'static str),
}

/// One field. Tables are named with dots; `zone` is a list of tables.
#[derive(Debug)]
pub struct Field {
    pub path: &'static str,
    pub default: Absent,
    /// What it is, its unit and its range. One paragraph.
    pub text: &'static str,
}

const fn field(path: &'static str, default: Absent, text: &'static str) -> Field {
    Field { path, default, text }
}

use Absent::{Nothing, Required, Value};

pub const FIELDS: &[Field] = &[
    field(
        "cluster",
        Required,
        "Name of the cluster: all nodes that are restored together bear the same one. 1 to 63 of a-z, 0-9, '-' and '_'.",
    ),
    field(
        "node",
        Nothing,
        "Name of this PostgreSQL server in the cluster, unlike that of any other. Needed by agent, backup and check.",
    ),
    field(
        "state_dir",
        Value("\"/var/lib/pitrus\""),
        "Folder for what the agent keeps between starts and for its status. An absolute path; one for each node.",
    ),
    field(
        "write_quorum",
        Nothing,
        "How many zones must hold an object before it counts as written: 1 to the number of zones. Left out, more than half of them (2 of 3).",
    ),
    field(
        "postgres.conninfo",
        Required,
        "How to reach this server, as libpq writes it (key=value or a URL), without a password. The server must run on this machine.",
    ),
    field(
        "postgres.password_file",
        Nothing,
        "File with the password. At most one of the three may be written.",
    ),
    field("postgres.password_env", Nothing, "Environment variable with the password."),
    field(
        "postgres.password_command",
        Nothing,
        "Program and arguments, as a list, that print the password; no shell is used.",
    ),
    field(
        "postgres.tls_root_cert",
        Nothing,
        "File of PEM certificates to trust with sslmode=verify-ca or verify-full. Left out, those of the system.",
    ),
    field(
        "postgres.slot",
        Value("\"pitrus\""),
        "Name of the physical replication slot, which the agent makes. 1 to 63 of a-z, 0-9 and '_'.",
    ),
    field(
        "key.file",
        Nothing,
        "File with the master key. Exactly one of file, env and command must be written. Not readable by others.",
    ),
    field("key.env", Nothing, "Environment variable with the master key."),
    field(
        "key.command",
        Nothing,
        "Program and arguments, as a list, that print the master key; no shell is used.",
    ),
    field("zone.name", Required, "Name of the zone in messages, unlike that of any other zone."),
    field(
        "zone.url",
        Required,
        "Where the zone is: an absolute path, file:///path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix.",
    ),
    field(
        "zone.options",
        Nothing,
        "Options of the store, by object_store's names (aws_region, aws_access_key_id, ...), as text. A secret is { file = \"...\" } or { env = \"...\" }.",
    ),
    field(
        "backup.schedule",
        Value("\"0 2 * * *\""),
        "When the agent takes a base backup, as cron writes it (minute hour day month weekday), in UTC; or \"never\". The agent takes the first one at once.",
    ),
    field("backup.level", Value("1"), "zstd level of base backups, 1 to 19. Higher is smaller and slower."),
    field(
        "backup.threads",
        Value("2"),
        "How many files are read, compressed and encrypted at a time, 1 to 64.",
    ),
    field(
        "backup.rewrite_percent",
        Value("5"),
        "Packs of which backups need less than half are written anew by the next backup, as far as so many per cent of the node's bytes go, 0 to 100.",
    ),
    field(
        "backup.max_rate",
        Nothing,
        "How many bytes a second a backup reads of the data directory, by all threads together, 100000 or more. Left out, as many as it can.",
    ),
    field(
        "backup.nice",
        Value("0"),
        "How far a backup's threads stand back for others who want the processor, as nice(1) has it, 0 to 19. Archiving does not stand back.",
    ),
    field(
        "backup.ionice",
        Nothing,
        "How far they stand back for others who want the disk, as ionice(1) has it: \"idle\", or \"best-effort:0\" (first) to \"best-effort:7\" (last). Left out, as `nice` says. It matters only to disks with the scheduler BFQ.",
    ),
    field(
        "archive.method",
        Value("\"stream\""),
        "How the WAL comes: \"stream\" from the replication slot, or \"push\" from pg_wal, where archive_command is `pitrus archive-push %p`. With \"push\" the slot is not used.",
    ),
    field(
        "archive.part_interval_ms",
        Value("1000"),
        "How often the unfinished WAL segment is sent, in milliseconds, 100 to 60000: about what the sudden death of a node can lose.",
    ),
    field(
        "archive.level",
        Value("1"),
        "zstd level of WAL, 1 to 19. On WAL, level 3 is 2 per cent smaller than 1 and takes half as much time again.",
    ),
    field(
        "retention.days",
        Value("35"),
        "Every moment of so many days back stays restorable, 1 to 36500; `pitrus expire` deletes what is older.",
    ),
    field(
        "clock.coordinator",
        Nothing,
        "How to reach the server whose clock is the cluster's, as in postgres.conninfo. Left out, the agent asks Citus where the coordinator is, and visits it with the role and password of [postgres]. Without Citus, name the same server on every node.",
    ),
    field(
        "clock.password_file",
        Nothing,
        "File with the password there. At most one of the three may be written.",
    ),
    field("clock.password_env", Nothing, "Environment variable with the password there."),
    field(
        "clock.password_command",
        Nothing,
        "Program and arguments, as a list, that print the password there.",
    ),
];

/// Returns the tables of the file, in order; the first, without a name, holds the top-level fields.
pub fn tables() -> Vec<&'static str> {
    let mut tables = vec![""];
    for field in FIELDS {
        let table = field.path.split_once('.').map_or("", |(table, _)| table);
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables
}

/// Returns the last word of a field's path: how it is written inside its table.
pub fn key(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the row of the table in `docs/configuration.md`.
    fn row(field: &Field) -> String {
        let default = match field.default {
            Required => "required".to_owned(),
            Nothing => "–".to_owned(),
            Value(value) => format!("`{value}`"),
        };
        format!("| `{}` | {default} | {} |", field.path, field.text)
    }

    #[test]
    fn the_document_lists_every_field() {
        let text = include_str!("../../docs/configuration.md");
        let missing: Vec<String> =
            FIELDS.iter().map(row).filter(|row| !text.lines().any(|line| line == row)).collect();
        assert!(missing.is_empty(), "docs/configuration.md lacks these rows:\n{}", missing.join("\n"));
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            assert!(FIELDS.iter().any(|f| row(f) == line), "no such field: {line}");
        }
    }
}
