//! Judges what was written: ranges, absolute paths, exactly one of several; fills in what is left out.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use croner::Cron;

use super::Error;
use super::raw::{self, Lines, OptionValue, Raw};
use super::secret::Source;
use super::settings::{Archive, Backup, Method, Postgres, Schedule, Server, Settings, Value, Zone};
use crate::backup::Pace;
use crate::ids::ZoneName;

/// A secret's file, environment variable and command, as written.
type Written = (Option<PathBuf>, Option<String>, Option<Vec<String>>);

/// Judges the fields of one file.
pub(super) struct Judge<'a> {
    pub(super) path: &'a Path,
    pub(super) lines: Lines,
}

impl Judge<'_> {
    pub(super) fn settings(&self, raw: Raw) -> Result<Settings, Error> {
        let cluster = self.name("cluster", raw.cluster)?;
        let node = raw.node.map(|text| self.name("node", Some(text))).transpose()?;
        let zones = self.zones(raw.zone)?;
        let majority = zones.len() / 2 + 1;
        let write_quorum =
            self.number("write_quorum", raw.write_quorum, majority as i64, 1, zones.len() as i64)?;
        let state_dir = raw.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/pitrus"));
        self.absolute("state_dir", &state_dir)?;
        let key = self
            .source("key.", (raw.key.file, "file"), (raw.key.env, "env"), (raw.key.command, "command"))?
            .ok_or_else(|| self.missing("key", "write exactly one of file, env and command in [key]"))?;
        let tls_root_cert = raw.postgres.as_ref().and_then(|p| p.tls_root_cert.clone());
        Ok(Settings {
            path: self.path.to_owned(),
            cluster,
            node,
            state_dir,
            write_quorum: write_quorum as usize,
            zones,
            key,
            coordinator: self.clock(raw.clock, tls_root_cert)?,
            postgres: raw.postgres.map(|p| self.postgres(p)).transpose()?,
            backup: self.backup(raw.backup)?,
            archive: Archive {
                method: self.method(raw.archive.method.as_deref())?,
                part_interval: Duration::from_millis(
                    self.number("archive.part_interval_ms", raw.archive.part_interval_ms, 1000, 100, 60_000)?
                        .unsigned_abs(),
                ),
                level: self.number("archive.level", raw.archive.level, 1, 1, 19)? as i32,
            },
            retention_days: self.number("retention.days", raw.retention.days, 35, 1, 36_500)? as u32,
        })
    }

    fn method(&self, written: Option<&str>) -> Result<Method, Error> {
        match written.unwrap_or("stream") {
            "stream" => Ok(Method::Stream),
            "push" => Ok(Method::Push),
            other => Err(self.value(
                "archive.method",
                &format!("cannot be {other:?}"),
                "write \"stream\", or \"push\" where archive_command is `pitrus archive-push %p`",
            )),
        }
    }

    fn postgres(&self, raw: raw::Postgres) -> Result<Postgres, Error> {
        let slot = raw.slot.unwrap_or_else(|| "pitrus".to_owned());
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !(1..=63).contains(&slot.len()) || !slot.bytes().all(fits) {
            return Err(self.value(
                "postgres.slot",
                &format!("cannot be {slot:?}"),
                "use 1 to 63 of a-z, 0-9 and '_'",
            ));
        }
        if let Some(path) = &raw.tls_root_cert {
            self.absolute("postgres.tls_root_cert", path)?;
        }
        let conninfo = self.conninfo("postgres.conninfo", raw.conninfo)?;
        let secret = (raw.password_file, raw.password_env, raw.password_command);
        let password = self.password("postgres", secret)?;
        Ok(Postgres {
            server: Server { table: "postgres", conninfo, password, tls_root_cert: raw.tls_root_cert },
            slot,
        })
    }

    fn clock(&self, raw: raw::Clock, tls_root_cert: Option<PathBuf>) -> Result<Option<Server>, Error> {
        let secret = (raw.password_file, raw.password_env, raw.password_command);
        let password = self.password("clock", secret)?;
        if raw.coordinator.is_none() && password.is_none() {
            return Ok(None);
        }
        let conninfo = self.conninfo("clock.coordinator", raw.coordinator)?;
        Ok(Some(Server { table: "clock", conninfo, password, tls_root_cert }))
    }

    fn conninfo(&self, field: &str, text: Option<String>) -> Result<String, Error> {
        let text = text.ok_or_else(|| {
            self.missing(field, "write how to reach the server, such as \"host=/run/postgresql user=pitrus\"")
        })?;
        if holds_password(&text) {
            return Err(self.value(
                field,
                "holds a password",
                "take it out, and name password_file, password_env or password_command",
            ));
        }
        Ok(text)
    }

    fn password(&self, table: &str, written: Written) -> Result<Option<Source>, Error> {
        let (file, env, command) = written;
        let table = format!("{table}.");
        self.source(&table, (file, "password_file"), (env, "password_env"), (command, "password_command"))
    }

    fn zones(&self, raw: Vec<raw::Zone>) -> Result<Vec<Zone>, Error> {
        if raw.is_empty() {
            return Err(self.missing(
                "zone",
                "write a [[zone]] with name and url for each place that keeps objects; three are best",
            ));
        }
        let mut zones: Vec<Zone> = Vec::new();
        for (number, zone) in raw.into_iter().enumerate() {
            let at = format!("zone[{}]", number + 1);
            let name: ZoneName = self.name(&format!("{at}.name"), zone.name)?;
            let field = format!("{at}.url");
            let url = zone
                .url
                .ok_or_else(|| self.missing(&field, "write where the zone is, such as an absolute path"))?;
            if let Some(other) = zones.iter().find(|other| other.name == name || other.url == url) {
                return Err(self.value(
                    &field,
                    &format!("repeats the name or the place of zone {}", other.name),
                    "a zone named twice keeps one copy, not two: write another place",
                ));
            }
            self.zone_url(&field, &url)?;
            let options = zone.options.into_iter().map(|(key, value)| self.option(&at, key, value));
            zones.push(Zone { name, url, options: options.collect::<Result<_, _>>()? });
        }
        Ok(zones)
    }

    fn zone_url(&self, field: &str, url: &str) -> Result<(), Error> {
        const SCHEMES: [&str; 8] = ["file", "s3", "s3a", "az", "azure", "abfs", "abfss", "gs"];
        let problem = match url.split_once("://") {
            _ if url.starts_with('/') => return Ok(()),
            Some(("file", path)) if !path.starts_with('/') => "must be file:///absolute/path".to_owned(),
            Some((scheme, rest)) if SCHEMES.contains(&scheme) && !rest.is_empty() => return Ok(()),
            Some((scheme, _)) if !SCHEMES.contains(&scheme) => format!("has an unknown scheme {scheme:?}"),
            Some(_) => "names no place".to_owned(),
            None => format!("is neither an absolute path nor a URL: {url:?}"),
        };
        Err(self.value(
            field,
            &problem,
            "write /path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix",
        ))
    }

    fn option(&self, at: &str, key: String, value: OptionValue) -> Result<(String, Value), Error> {
        let value = match value {
            OptionValue::Plain(text) => {
                let lower = key.to_ascii_lowercase();
                // An access key's id is no secret; everything else with these words is.
                if ["secret", "password", "token", "sas", "account_key", "access_key"]
                    .iter()
                    .any(|word| lower.ends_with(word) || lower.contains("secret"))
                {
                    return Err(self.value(
                        &format!("{at}.options"),
                        &format!("holds the secret `{key}` in plain text"),
                        "write { file = \"...\" } or { env = \"...\" } instead",
                    ));
                }
                Value::Plain(text)
            }
            OptionValue::File(f) => {
                self.absolute(&format!("{at}.options"), &f.file)?;
                Value::Secret(Source::File(f.file))
            }
            OptionValue::Env(e) => Value::Secret(Source::Env(e.env)),
        };
        Ok((key, value))
    }

    fn backup(&self, raw: raw::Backup) -> Result<Backup, Error> {
        let text = raw.schedule.as_deref().unwrap_or("0 2 * * *");
        let schedule = match text {
            "never" => None,
            pattern => Some(Box::new(pattern.parse::<Cron>().map_err(|error| {
                self.value(
                    "backup.schedule",
                    &format!("is not a schedule: {error}"),
                    "write it as cron does, such as \"0 2 * * *\" for 02:00 UTC every day, or \"never\"",
                )
            })?)),
        };
        Ok(Backup {
            schedule: Schedule(schedule),
            level: self.number("backup.level", raw.level, 1, 1, 19)? as i32,
            threads: self.number("backup.threads", raw.threads, 2, 1, 64)? as usize,
            rewrite_percent: self.number("backup.rewrite_percent", raw.rewrite_percent, 5, 0, 100)? as u8,
            pace: self.pace(raw.max_rate, raw.nice, raw.ionice)?,
        })
    }

    fn pace(&self, rate: Option<i64>, nice: Option<i64>, ionice: Option<String>) -> Result<Pace, Error> {
        let written = rate.is_some();
        let rate = self.number("backup.max_rate", rate, 100_000, 100_000, 1_000_000_000_000)?;
        let disk = ionice.map(|text| {
            text.parse().map_err(|()| {
                let fix = "write \"idle\", or \"best-effort:0\" (first) to \"best-effort:7\" (last)";
                self.value("backup.ionice", &format!("cannot be {text:?}"), fix)
            })
        });
        Ok(Pace {
            max_rate: NonZeroU64::new(rate.unsigned_abs()).filter(|_| written),
            nice: self.number("backup.nice", nice, 0, 0, 19)? as u8,
            disk: disk.transpose()?,
        })
    }

    /// Returns where a secret is, of three ways to say it; `None` when none was written.
    fn source(
        &self,
        table: &str,
        file: (Option<PathBuf>, &str),
        env: (Option<String>, &str),
        command: (Option<Vec<String>>, &str),
    ) -> Result<Option<Source>, Error> {
        let field = |key: &str| format!("{table}{key}");
        let mut found: Vec<(String, Source)> = Vec::new();
        if let (Some(path), key) = file {
            self.absolute(&field(key), &path)?;
            found.push((field(key), Source::File(path)));
        }
        if let (Some(name), key) = env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(self.value(
                    &field(key),
                    "is not the name of a variable",
                    "write its name without '$'",
                ));
            }
            found.push((field(key), Source::Env(name)));
        }
        if let (Some(words), key) = command {
            if words.first().is_none_or(String::is_empty) {
                return Err(self.value(
                    &field(key),
                    "is empty",
                    "write [\"/path/to/program\", \"argument\"]",
                ));
            }
            found.push((field(key), Source::Command(words)));
        }
        if let [_, (second, _), ..] = found.as_slice() {
            return Err(self.value(
                second,
                "is written beside another source of the same secret",
                "keep one of them",
            ));
        }
        Ok(found.pop().map(|(_, source)| source))
    }

    fn name<T>(&self, field: &str, text: Option<String>) -> Result<T, Error>
    where
        T: std::str::FromStr<Err = crate::ids::BadName>,
    {
        let text = text.ok_or_else(|| self.missing(field, "write a name"))?;
        text.parse().map_err(|_| {
            self.value(
                field,
                &format!("cannot be {text:?}"),
                "use 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or a digit",
            )
        })
    }

    fn number(
        &self,
        field: &str,
        value: Option<i64>,
        default: i64,
        least: i64,
        most: i64,
    ) -> Result<i64, Error> {
        match value.unwrap_or(default) {
            fits if (least..=most).contains(&fits) => Ok(fits),
            other => Err(self.value(
                field,
                &format!("cannot be {other}"),
                &format!("write a number from {least} to {most}"),
            )),
        }
    }

    fn absolute(&self, field: &str, path: &Path) -> Result<(), Error> {
        if path.is_absolute() {
            return Ok(());
        }
        Err(self.value(
            field,
            &format!("is not an absolute path: {:?}", path.display().to_string()),
            "begin it with /",
        ))
    }

    fn missing(&self, field: &str, fix: &str) -> Error {
        Error::Missing { path: self.path.to_owned(), field: field.to_owned(), fix: fix.to_owned() }
    }

    fn value(&self, field: &str, problem: &str, fix: &str) -> Error {
        Error::Value {
            path: self.path.to_owned(),
            line: self.lines.of(field),
            field: field.to_owned(),
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        }
    }
}

/// Returns whether a conninfo string or URL carries a password.
fn holds_password(conninfo: &str) -> bool {
    let lower = conninfo.to_ascii_lowercase();
    if let Some((_, rest)) = lower.split_once("://") {
        let authority = rest.split(['/', '?']).next().unwrap_or(rest);
        let in_user = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        return in_user || rest.contains("password=");
    }
    lower.replace(' ', "").contains("password=")
}
