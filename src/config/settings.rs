//! What the configuration means: checked, with defaults filled in, secrets still where they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use croner::Cron;
use zeroize::Zeroizing;

use super::Error;
use super::judge::Judge;
use super::raw;
use super::secret::Source;
use crate::backup::Pace;
use crate::ids::{ClusterName, NodeName, ZoneName};
use crate::moment::Moment;
use crate::node::{ConnectionOptions, Secret};
use crate::seal::MasterKey;
use crate::zones::ZoneOptions;

/// The meaning of one configuration file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it was read.
    pub path: PathBuf,
    pub cluster: ClusterName,
    pub node: Option<NodeName>,
    pub state_dir: PathBuf,
    pub zones: Vec<Zone>,
    pub write_quorum: usize,
    pub key: Source,
    pub postgres: Option<Postgres>,
    pub backup: Backup,
    pub archive: Archive,
    /// Every moment of so many days back stays restorable.
    pub retention_days: u32,
    /// The server with whose clock this node's is compared, where it is not Citus's coordinator.
    pub coordinator: Option<Server>,
}

/// This node's own server.
#[derive(Clone, Debug)]
pub struct Postgres {
    pub server: Server,
    pub slot: String,
}

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Server {
    /// The table of the configuration that says so.
    pub(super) table: &'static str,
    pub conninfo: String,
    pub password: Option<Source>,
    pub tls_root_cert: Option<PathBuf>,
}

impl Server {
    /// Reads the password, if there is one. May block.
    pub fn options(&self) -> Result<ConnectionOptions, Error> {
        let password = match &self.password {
            None => None,
            Some(source) => Some(read_secret(&format!("{}.password", self.table), source)?),
        };
        Ok(ConnectionOptions {
            conninfo: self.conninfo.clone(),
            password: password.map(|text| Secret::new(text.as_str().to_owned())),
            tls_root_cert: self.tls_root_cert.clone(),
        })
    }
}

/// Reads a master key from where it is. May block.
pub fn master_key(source: &Source) -> Result<MasterKey, Error> {
    let text = read_secret("key", source)?;
    MasterKey::from_text(&text).map_err(|source| Error::Key { field: "key".to_owned(), source })
}

impl Zone {
    fn options(&self) -> Result<ZoneOptions, Error> {
        let read = |(key, value): &(String, Value)| {
            let value = match value {
                Value::Plain(text) => text.clone(),
                Value::Secret(source) => {
                    read_secret(&format!("zone {} options.{key}", self.name), source)?.as_str().to_owned()
                }
            };
            Ok((key.clone(), value))
        };
        let options = self.options.iter().map(read).collect::<Result<_, _>>()?;
        Ok(ZoneOptions { name: self.name.clone(), url: self.url.clone(), options })
    }
}

fn read_secret(field: &str, source: &Source) -> Result<Zeroizing<String>, Error> {
    source.read().map_err(|source| Error::Secret { field: field.to_owned(), source })
}

#[derive(Clone, Debug)]
pub struct Zone {
    pub name: ZoneName,
    pub url: String,
    pub options: Vec<(String, Value)>,
}

/// The value of a store's option.
#[derive(Clone, Debug)]
pub enum Value {
    Plain(String),
    Secret(Source),
}

#[derive(Clone, Debug)]
pub struct Backup {
    pub schedule: Schedule,
    pub level: i32,
    pub threads: usize,
    /// How many per cent of a node's bytes a backup may write anew where packs are sparse.
    pub rewrite_percent: u8,
    pub pace: Pace,
}

/// How the WAL comes to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// From the replication slot.
    Stream,
    /// From `pg_wal`; the server's `archive_command` waits for it.
    Push,
}

#[derive(Clone, Debug)]
pub struct Archive {
    pub method: Method,
    pub part_interval: Duration,
    pub level: i32,
}

/// When base backups are due, in UTC; without a pattern, never.
#[derive(Clone, Debug)]
pub struct Schedule(pub(super) Option<Box<Cron>>);

impl Schedule {
    /// Returns the first moment after `after` at which a backup is due.
    pub fn next(&self, after: Moment) -> Option<Moment> {
        let utc = jiff::tz::TimeZone::UTC;
        let from = jiff::Timestamp::from_microsecond(after.unix_micros()).ok()?.to_zoned(utc);
        let due = self.0.as_ref()?.find_next_occurrence(&from, false).ok()?;
        Some(Moment::from_unix_micros(due.timestamp().as_microsecond()))
    }
}

impl Settings {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Settings, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Settings::parse(path, &text)
    }

    /// Returns the node's name and server; a machine that only restores has none.
    pub fn own_node(&self) -> Result<(&NodeName, &Postgres), Error> {
        let missing = |field: &str, fix: &str| Error::Missing {
            path: self.path.clone(),
            field: field.to_owned(),
            fix: fix.to_owned(),
        };
        let node =
            self.node.as_ref().ok_or_else(|| missing("node", "this command needs the name of this node"))?;
        let postgres = self.postgres.as_ref().ok_or_else(|| {
            missing("postgres", "this command needs [postgres] with conninfo: this node's server")
        })?;
        Ok((node, postgres))
    }

    /// Returns where the zones are, their secrets read. May block.
    pub fn zone_options(&self) -> Result<Vec<ZoneOptions>, Error> {
        self.zones.iter().map(Zone::options).collect()
    }

    /// Reads the master key. May block.
    pub fn master_key(&self) -> Result<MasterKey, Error> {
        master_key(&self.key)
    }

    /// Checks the text of a file; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Settings, Error> {
        let (raw, lines) = raw::read(path, text)?;
        Judge { path, lines }.settings(raw)
    }
}

#[cfg(test)]
mod tests;
