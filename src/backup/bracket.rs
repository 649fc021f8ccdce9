//! The server's part in a backup: from `pg_backup_start` to `pg_backup_stop`, in one session. (14 calls them
//! `pg_start_backup` and `pg_stop_backup`, and must be asked not to do it the exclusive way.)
//!
//! When the session ends in any other way, the server forgets the backup by itself: nothing is left.

use super::{BackupOptions, Error};
use crate::lsn::Lsn;
use crate::manifest::backup::Setting;
use crate::node::{ConnectionOptions, NodeFacts, Session, pgdata, report};
use crate::timeline::TimelineId;
use crate::wal::Version;

/// An advisory lock of ours, held while a backup runs: "pitrusBK".
const LOCK: i64 = 0x7069_7472_7573_424B;

/// No time limit that an operator set for ordinary sessions may end this one.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;
    SET client_min_messages = error";

/// A session with the server that is to be backed up.
pub(super) struct Bracket<'a> {
    options: &'a BackupOptions,
    session: Session,
    pub(super) facts: NodeFacts,
    pub(super) version: Version,
}

/// What the server said at the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) stop: Lsn,
    pub(super) label: String,
    pub(super) tablespace_map: String,
}

impl<'a> Bracket<'a> {
    /// Connects, and refuses what cannot be backed up. The server does nothing yet.
    pub(super) async fn open(
        options: &'a BackupOptions,
        connection: &ConnectionOptions,
    ) -> Result<Bracket<'a>, Error> {
        let failed = |source| Error::Server { node: options.node.clone(), source };
        let session = Session::connect(connection, None).await.map_err(failed)?;
        let facts = session.facts().await.map_err(failed)?;
        let version = facts.supported().map_err(failed)?;
        if facts.in_recovery {
            return Err(Error::Standby { node: options.node.clone() });
        }
        pgdata::refuse_clone(&facts.data_directory, &options.cluster).map_err(failed)?;
        let set = session.client().batch_execute(SETTINGS).await;
        set.map_err(|error| failed(session.failed("prepare the session", error)))?;
        let bracket = Bracket { options, session, facts, version };
        let locked: bool = bracket.value("lock", "SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?;
        if locked { Ok(bracket) } else { Err(Error::Busy { node: options.node.clone() }) }
    }

    /// Returns how far the server's WAL is safely written.
    pub(super) async fn flushed(&self) -> Result<Lsn, Error> {
        let text: String =
            self.value("read the WAL position", "SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
        text.parse().map_err(|_| self.label(format!("WAL position {text:?}")))
    }

    /// Begins the backup; returns where recovery of it will begin. Waits for a checkpoint.
    pub(super) async fn start(&self) -> Result<Lsn, Error> {
        let BackupOptions { label, fast, .. } = self.options;
        let query = match self.version {
            Version::V14 => "SELECT pg_start_backup($1, fast => $2, exclusive => false)::text",
            _ => "SELECT pg_backup_start($1, fast => $2)::text",
        };
        let start: String = self.value("start the backup", query, &[label, fast]).await?;
        start.parse().map_err(|_| self.label(format!("start position {start:?}")))
    }

    /// Ends the backup, and checks that it is the one that began at `start`.
    pub(super) async fn stop(&self, start: Lsn) -> Result<Stopped, Error> {
        let function = match self.version {
            Version::V14 => "pg_stop_backup(exclusive => false, wait_for_archive => false)",
            _ => "pg_backup_stop(wait_for_archive => false)",
        };
        let query = format!("SELECT lsn::text, labelfile, spcmapfile FROM {function}");
        let row = self.session.row("stop the backup", &query, &[]).await;
        let row = row.map_err(|source| self.failed(source))?;
        let (stop, label, map): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let stop = stop.parse().map_err(|_| self.label(format!("stop position {stop:?}")))?;
        check_label(&label, start, self.facts.timeline).map_err(|problem| self.label(problem))?;
        Ok(Stopped { stop, label, tablespace_map: map.unwrap_or_default() })
    }

    /// Returns the settings that differ from their defaults, for the report of a restore.
    pub(super) async fn settings(&self) -> Result<Vec<Setting>, Error> {
        report::changed_settings(&self.session).await.map_err(|source| self.failed(source))
    }

    /// Returns the rules of `pg_hba.conf`; none where the file cannot be read from here.
    pub(super) async fn hba(&self) -> Vec<String> {
        match report::hba_rules(&self.facts).await {
            Ok(rules) => rules,
            Err(error) => {
                tracing::warn!(%error, "pg_hba.conf is left out of the backup's report");
                Vec::new()
            }
        }
    }

    /// Returns the bootstrap superuser's name.
    pub(super) async fn superuser(&self) -> Result<String, Error> {
        let query = "SELECT rolname::text FROM pg_roles WHERE oid = 10"; // BOOTSTRAP_SUPERUSERID
        self.value("read the superuser's name", query, &[]).await
    }

    async fn value<T: for<'r> tokio_postgres::types::FromSql<'r>>(
        &self,
        doing: &str,
        query: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<T, Error> {
        let row = self.session.row(doing, query, parameters).await.map_err(|source| self.failed(source))?;
        row.try_get(0).map_err(|error| self.failed(self.session.failed(doing, error)))
    }

    fn failed(&self, source: crate::node::Error) -> Error {
        Error::Server { node: self.options.node.clone(), source }
    }

    fn label(&self, problem: String) -> Error {
        Error::Label { node: self.options.node.clone(), problem }
    }
}

/// Checks a `backup_label` (`src/backend/access/transam/xlog.c`, `do_pg_backup_start`).
fn check_label(text: &str, start: Lsn, timeline: TimelineId) -> Result<(), String> {
    let field = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.ok_or_else(|| format!("it has no {name}"))
    };
    let location = field("START WAL LOCATION")?;
    let position = location.split(' ').next().and_then(|word| word.parse::<Lsn>().ok());
    if position != Some(start) {
        return Err(format!("it begins at {location}, the backup began at {start}"));
    }
    let found = field("START TIMELINE")?;
    if found.parse() != Ok(timeline.0) {
        return Err(format!("it is of timeline {found}, the server was on {timeline}"));
    }
    field("CHECKPOINT LOCATION").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_must_be_of_this_backup() {
        let text = "START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\n\
            CHECKPOINT LOCATION: 0/9000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
            START TIME: 2026-11-21 09:30:00 UTC\nLABEL: pitrus\nSTART TIMELINE: 1\n";
        let start = Lsn(0x900_0028);
        assert_eq!(check_label(text, start, TimelineId(1)), Ok(()));
        assert!(check_label(text, Lsn(1), TimelineId(1)).is_err());
        assert!(check_label(text, start, TimelineId(2)).is_err());
        assert!(check_label("", start, TimelineId(1)).is_err());
        assert!(check_label(&text.replace("CHECKPOINT", "X"), start, TimelineId(1)).is_err());
    }
}
