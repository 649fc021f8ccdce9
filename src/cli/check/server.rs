//! What the server must be set to: one query reads its state, [`judge`] says what to do.

use tokio_postgres::Client;

use super::line::Lines;
use crate::wal::Version;

/// The server's state, as far as protection depends on it.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) version: Version,
    pub(super) role: String,
    pub(super) database: String,
    pub(super) in_recovery: bool,
    pub(super) wal_level: String,
    pub(super) max_wal_senders: i64,
    pub(super) wal_senders: i64,
    pub(super) max_replication_slots: i64,
    pub(super) slots: i64,
    pub(super) own_slot: bool,
    pub(super) own_slot_active: bool,
    pub(super) max_prepared_transactions: i64,
    pub(super) fsync: String,
    pub(super) full_page_writes: String,
    pub(super) synchronous_commit: String,
    pub(super) data_checksums: String,
    pub(super) segment_bytes: i64,
    pub(super) may_replicate: bool,
    pub(super) may_start_backup: bool,
    pub(super) may_stop_backup: bool,
    pub(super) may_read_settings: bool,
    /// Databases that accept connections, but not this role's.
    pub(super) closed_databases: Vec<String>,
    /// Citus's catalogue in the connected database: exists, may be read.
    pub(super) citus: Option<bool>,
}

const QUERY: &str = "
select current_user::text, current_database()::text, pg_is_in_recovery(),
       current_setting('wal_level'), current_setting('max_wal_senders')::int8,
       (select count(*) from pg_stat_get_wal_senders()),
       current_setting('max_replication_slots')::int8,
       (select count(*) from pg_replication_slots),
       exists (select from pg_replication_slots where slot_name = $1),
       exists (select from pg_replication_slots where slot_name = $1 and active),
       current_setting('max_prepared_transactions')::int8,
       current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
       current_setting('data_checksums'),
       (select setting::int8 from pg_settings where name = 'wal_segment_size'),
       (select rolreplication or rolsuper from pg_roles where rolname = current_user),
       has_function_privilege('pg_catalog.' || $2::text, 'execute'),
       has_function_privilege('pg_catalog.' || $3::text, 'execute'),
       pg_has_role('pg_read_all_settings', 'usage'),
       array(select datname::text from pg_database
              where datallowconn and not has_database_privilege(oid, 'connect') order by 1),
       has_table_privilege(to_regclass('pg_catalog.pg_dist_node'), 'select')";

/// Reads the server's version as a number such as 150018.
pub(super) async fn version(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let row = client.query_one("select current_setting('server_version_num')::int4", &[]).await?;
    row.try_get(0)
}

/// Returns the functions that begin and end a backup; 15 renamed them.
fn backup_functions(version: Version) -> [&'static str; 2] {
    match version {
        Version::V14 => ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"],
        _ => ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"],
    }
}

/// Reads the state of a server of this version; `slot` is the configured one.
pub(super) async fn read(
    client: &Client,
    version: Version,
    slot: &str,
) -> Result<State, tokio_postgres::Error> {
    let [start, stop] = backup_functions(version);
    let row = client.query_one(QUERY, &[&slot, &start, &stop]).await?;
    Ok(State {
        version,
        role: row.try_get(0)?,
        database: row.try_get(1)?,
        in_recovery: row.try_get(2)?,
        wal_level: row.try_get(3)?,
        max_wal_senders: row.try_get(4)?,
        wal_senders: row.try_get(5)?,
        max_replication_slots: row.try_get(6)?,
        slots: row.try_get(7)?,
        own_slot: row.try_get(8)?,
        own_slot_active: row.try_get(9)?,
        max_prepared_transactions: row.try_get(10)?,
        fsync: row.try_get(11)?,
        full_page_writes: row.try_get(12)?,
        synchronous_commit: row.try_get(13)?,
        data_checksums: row.try_get(14)?,
        segment_bytes: row.try_get(15)?,
        may_replicate: row.try_get(16)?,
        may_start_backup: row.try_get(17)?,
        may_stop_backup: row.try_get(18)?,
        may_read_settings: row.try_get(19)?,
        closed_databases: row.try_get(20)?,
        citus: row.try_get(21)?,
    })
}

/// Judges the version; returns it where the rest can be judged.
pub(super) fn judge_version(lines: &mut Lines, number: i32) -> Option<Version> {
    let (major, version) = (number / 10_000, Version::of_server(number.cast_unsigned()));
    let names = Version::NAMES;
    lines.must(
        version.is_some(),
        "server version",
        format!("PostgreSQL {major}.{}", number % 10_000),
        format!("PostgreSQL {names} are supported; {major} is not, and its WAL would be misread"),
    );
    version
}

pub(super) fn judge(lines: &mut Lines, state: &State, slot: &str) {
    lines.must(
        !state.in_recovery,
        "primary",
        if state.in_recovery { "this server is a standby" } else { "yes" },
        "run the agent beside the primary",
    );
    lines.must(
        matches!(state.wal_level.as_str(), "replica" | "logical"),
        "wal_level",
        &state.wal_level,
        "ALTER SYSTEM SET wal_level = replica;  -- then restart the server",
    );
    room(lines, state, slot);
    let needs_prepared = state.citus.is_some() && state.max_prepared_transactions == 0;
    lines.must(
        !needs_prepared,
        "max_prepared_transactions",
        state.max_prepared_transactions.to_string(),
        "Citus commits in two phases: set it to at least max_connections, then restart the server",
    );
    durability(lines, state);
    privileges(lines, state);
}

fn room(lines: &mut Lines, state: &State, slot: &str) {
    let senders = state.max_wal_senders - state.wal_senders;
    lines.must(
        state.own_slot_active || senders > 0,
        "max_wal_senders",
        format!("{}, {} in use", state.max_wal_senders, state.wal_senders),
        format!("ALTER SYSTEM SET max_wal_senders = {};  -- then restart", state.max_wal_senders + 2),
    );
    lines.must(
        state.own_slot || state.slots < state.max_replication_slots,
        "max_replication_slots",
        format!("{}, {} in use", state.max_replication_slots, state.slots),
        format!(
            "ALTER SYSTEM SET max_replication_slots = {};  -- then restart",
            state.max_replication_slots + 2
        ),
    );
    let found = match (state.own_slot, state.own_slot_active) {
        (true, true) => "in use: an agent is running",
        (true, false) => "exists, no agent is connected",
        _ => "does not exist yet: the agent makes it",
    };
    lines.ok(&format!("slot {slot}"), found);
}

fn durability(lines: &mut Lines, state: &State) {
    let better = [
        (
            "fsync",
            &state.fsync,
            "a crash of the machine loses or breaks what the archive already holds: turn it on",
        ),
        (
            "full_page_writes",
            &state.full_page_writes,
            "a crash leaves torn pages, which later backups copy: turn it on",
        ),
    ];
    for (name, value, why) in better {
        match value.as_str() {
            "on" => lines.ok(name, "on"),
            other => lines.advice(name, other, why),
        }
    }
    match state.synchronous_commit.as_str() {
        "off" => lines.advice(
            "synchronous_commit",
            "off",
            "a crash can lose a decision whose participants committed: leave it on for distributed transactions",
        ),
        other => lines.ok("synchronous_commit", other),
    }
    match state.data_checksums.as_str() {
        "on" => lines.ok("data checksums", "on"),
        other => lines.advice(
            "data checksums",
            other,
            "without them a backup cannot see damaged pages: pg_checksums --enable while the server is down",
        ),
    }
    lines.ok("wal_segment_size", format!("{} MiB", state.segment_bytes >> 20));
}

fn privileges(lines: &mut Lines, state: &State) {
    let script = grants(state);
    match script.as_slice() {
        [] => lines.ok(&format!("role {}", state.role), "has what is needed"),
        _ => lines.not_ok(
            &format!("role {}", state.role),
            "lacks privileges",
            format!("run as a superuser in database {}:\n{}", state.database, script.join("\n")),
        ),
    }
}

/// Returns the statements that give the role what it lacks.
fn grants(state: &State) -> Vec<String> {
    let role = quoted(&state.role);
    let mut script = Vec::new();
    if !state.may_replicate {
        script.push(format!("ALTER ROLE {role} REPLICATION;"));
    }
    let may = [state.may_start_backup, state.may_stop_backup];
    for (function, _) in backup_functions(state.version).iter().zip(may).filter(|(_, may)| !may) {
        script.push(format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};"));
    }
    if !state.may_read_settings {
        script.push(format!("GRANT pg_read_all_settings TO {role};"));
    }
    for database in &state.closed_databases {
        script.push(format!("GRANT CONNECT ON DATABASE {} TO {role};", quoted(database)));
    }
    if state.citus == Some(false) {
        script.push(format!("GRANT SELECT ON pg_catalog.pg_dist_node TO {role};"));
    }
    script
}

/// Returns an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::super::line::Verdict;
    use super::*;

    fn good() -> State {
        State {
            version: Version::V16,
            role: "pitrus".into(),
            database: "postgres".into(),
            in_recovery: false,
            wal_level: "replica".into(),
            max_wal_senders: 10,
            wal_senders: 0,
            max_replication_slots: 10,
            slots: 0,
            own_slot: false,
            own_slot_active: false,
            max_prepared_transactions: 200,
            fsync: "on".into(),
            full_page_writes: "on".into(),
            synchronous_commit: "on".into(),
            data_checksums: "on".into(),
            segment_bytes: 16 << 20,
            may_replicate: true,
            may_start_backup: true,
            may_stop_backup: true,
            may_read_settings: true,
            closed_databases: Vec::new(),
            citus: Some(true),
        }
    }

    fn subjects(state: &State) -> Vec<(Verdict, String)> {
        let mut lines = Lines::default();
        judge(&mut lines, state, "pitrus");
        lines.0.into_iter().filter(|l| l.verdict != Verdict::Ok).map(|l| (l.verdict, l.subject)).collect()
    }

    #[test]
    fn each_fault_has_its_line() {
        assert_eq!(subjects(&good()), []);
        type Case = (&'static str, Verdict, fn(&mut State));
        let cases: [Case; 11] = [
            ("primary", Verdict::NotOk, |s| s.in_recovery = true),
            ("wal_level", Verdict::NotOk, |s| s.wal_level = "minimal".into()),
            ("max_wal_senders", Verdict::NotOk, |s| s.wal_senders = 10),
            ("max_replication_slots", Verdict::NotOk, |s| s.slots = 10),
            ("max_prepared_transactions", Verdict::NotOk, |s| s.max_prepared_transactions = 0),
            ("fsync", Verdict::Advice, |s| s.fsync = "off".into()),
            ("full_page_writes", Verdict::Advice, |s| s.full_page_writes = "off".into()),
            ("synchronous_commit", Verdict::Advice, |s| s.synchronous_commit = "off".into()),
            ("data checksums", Verdict::Advice, |s| s.data_checksums = "off".into()),
            ("role pitrus", Verdict::NotOk, |s| s.may_replicate = false),
            ("role pitrus", Verdict::NotOk, |s| s.citus = Some(false)),
        ];
        for (subject, verdict, fault) in cases {
            let mut state = good();
            fault(&mut state);
            assert_eq!(subjects(&state), [(verdict, subject.to_owned())]);
        }
        let running = State { slots: 10, wal_senders: 10, own_slot: true, own_slot_active: true, ..good() };
        assert_eq!(subjects(&running), []);
        let plain = State { citus: None, max_prepared_transactions: 0, ..good() };
        assert_eq!(subjects(&plain), []);
    }

    #[test]
    fn the_grants_name_functions_of_the_version() {
        let state =
            State { version: Version::V14, may_start_backup: false, may_stop_backup: false, ..good() };
        assert_eq!(
            grants(&state).join("\n"),
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_start_backup(text, boolean, boolean) TO \"pitrus\";\n\
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_stop_backup(boolean, boolean) TO \"pitrus\";"
        );
    }

    #[test]
    fn the_grants_are_exact() {
        let state = State {
            role: "pit\"rus".into(),
            may_replicate: false,
            may_start_backup: false,
            may_stop_backup: false,
            may_read_settings: false,
            closed_databases: vec!["app".into()],
            citus: Some(false),
            ..good()
        };
        assert_eq!(
            grants(&state).join("\n"),
            "ALTER ROLE \"pit\"\"rus\" REPLICATION;\n\
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO \"pit\"\"rus\";\n\
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean) TO \"pit\"\"rus\";\n\
             GRANT pg_read_all_settings TO \"pit\"\"rus\";\n\
             GRANT CONNECT ON DATABASE \"app\" TO \"pit\"\"rus\";\n\
             GRANT SELECT ON pg_catalog.pg_dist_node TO \"pit\"\"rus\";"
        );
    }

    #[test]
    fn other_versions_are_refused_by_name() {
        for (number, fits) in
            [(130_020, false), (140_020, true), (150_018, true), (180_000, true), (190_000, false)]
        {
            let mut lines = Lines::default();
            assert_eq!(judge_version(&mut lines, number).is_some(), fits);
            assert_eq!(lines.worst() == Verdict::Ok, fits);
            assert!(lines.0[0].found.contains(&(number / 10_000).to_string()));
        }
    }
}
