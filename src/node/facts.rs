//! What a server says of itself.

use std::path::PathBuf;

use super::{ConnectionOptions, Error, Session, topology};
use crate::ids::GroupId;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::wal::Version;

/// What a server says of itself at one moment.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// As `server_version_num`: 150018.
    pub server_version_num: u32,
    pub version: String,
    pub system_identifier: String,
    pub timeline: TimelineId,
    pub data_directory: PathBuf,
    pub hba_file: PathBuf,
    pub segment_bytes: u32,
    pub data_checksums: bool,
    pub in_recovery: bool,
    pub wal_level: String,
    pub full_page_writes: bool,
    pub max_wal_senders: i32,
    pub max_replication_slots: i32,
    pub max_prepared_transactions: i32,
    pub max_connections: i32,
    /// May it open a replication connection?
    pub can_replicate: bool,
    pub superuser: bool,
    /// The server's clock when it answered.
    pub clock: Moment,
    /// Its Citus group; `None` where no database has Citus's catalogue.
    pub group: Option<GroupId>,
    /// Databases that have Citus's catalogue.
    pub citus_databases: Vec<String>,
}

const QUERY: &str = "
    SELECT current_setting('server_version_num')::int,
           version(),
           (SELECT system_identifier::text FROM pg_control_system()),
           CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
                ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END,
           current_setting('data_directory'),
           current_setting('hba_file'),
           pg_size_bytes(current_setting('wal_segment_size')),
           current_setting('data_checksums') = 'on',
           pg_is_in_recovery(),
           current_setting('wal_level'),
           current_setting('full_page_writes') = 'on',
           current_setting('max_wal_senders')::int,
           current_setting('max_replication_slots')::int,
           current_setting('max_prepared_transactions')::int,
           current_setting('max_connections')::int,
           (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
           (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

impl Session {
    /// Asks the server what it is. Opens a session to each database, to look for Citus's catalogue.
    pub async fn facts(&self) -> Result<NodeFacts, Error> {
        let row = self.row("read the server's facts", QUERY, &[]).await?;
        let citus = topology::local_groups(self.options()).await?;
        Ok(NodeFacts {
            server_version_num: row.get::<_, i32>(0).cast_unsigned(),
            version: row.get(1),
            system_identifier: row.get(2),
            timeline: TimelineId(row.get::<_, i32>(3).cast_unsigned()),
            data_directory: PathBuf::from(row.get::<_, String>(4)),
            hba_file: PathBuf::from(row.get::<_, String>(5)),
            segment_bytes: u32::try_from(row.get::<_, i64>(6)).unwrap_or(0),
            data_checksums: row.get(7),
            in_recovery: row.get(8),
            wal_level: row.get(9),
            full_page_writes: row.get(10),
            max_wal_senders: row.get(11),
            max_replication_slots: row.get(12),
            max_prepared_transactions: row.get(13),
            max_connections: row.get(14),
            can_replicate: row.get(15),
            superuser: row.get(16),
            clock: Moment::from_unix_micros(row.get(17)),
            group: citus.first().map(|(_, group)| *group),
            citus_databases: citus.into_iter().map(|(database, _)| database).collect(),
        })
    }
}

impl NodeFacts {
    /// Connects and asks.
    pub async fn read(options: &ConnectionOptions) -> Result<NodeFacts, Error> {
        Session::connect(options, None).await?.facts().await
    }

    /// Refuses versions whose formats this pitrus does not know.
    pub fn supported(&self) -> Result<Version, Error> {
        supported(self.server_version_num)
    }
}

/// Refuses a server, by its `server_version_num`, whose formats this pitrus does not know.
pub fn supported(version_num: u32) -> Result<Version, Error> {
    let (major, minor) = (version_num / 10_000, version_num % 10_000);
    Version::of_server(version_num).ok_or_else(|| Error::Version { found: format!("{major}.{minor}") })
}
