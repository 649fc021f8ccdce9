//! The manifest of a base backup: every file, and where its bytes are.
//!
//! JSON lines: one [`Head`], then an [`Entry`] a line, then one [`Foot`]; a manifest without its foot
//! is cut off and refused. A reader holds one line at a time, so a manifest may list millions of files.
//! A backup exists when its manifest does: the manifest is written last.

use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, ClusterName, GroupId, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::wal::event::{Parameters, Prepared};

pub const VERSION: u32 = 1;

/// A line of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    Head(Head),
    Entry(Entry),
    Foot(Foot),
}

/// What was known when the backup began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub version: u32,
    pub backup: BackupId,
    pub cluster: ClusterName,
    pub node: NodeName,
    pub group: Option<GroupId>,
    pub system_identifier: String,
    pub postgres_version: u32,
    pub segment_bytes: u32,
    pub timeline: TimelineId,
    /// The redo position: recovery begins here.
    pub start_lsn: Lsn,
    pub started_at: Moment,
    pub data_checksums: bool,
    pub tablespaces: Vec<Tablespace>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    /// Where it was on the source.
    pub location: String,
}

/// A file or a folder, relative to the data directory (`pg_tblspc/<oid>/…` for tablespaces).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Folder,
    File {
        size: u64,
        /// Unix seconds.
        modified: i64,
        /// In file order; they cover the file without gap or overlap.
        extents: Vec<Extent>,
    },
}

/// Bytes of a file: a part of one sealed chunk of a pack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    /// The pack: `<backup>/<number>`; only the number where the backup is this manifest's own.
    #[serde(rename = "p")]
    pub pack: String,
    /// Number of the chunk in its pack, from 0.
    #[serde(rename = "c")]
    pub chunk: u32,
    /// Where the sealed chunk lies in the pack object, in bytes.
    #[serde(rename = "a")]
    pub at: u64,
    /// Length of the sealed chunk with its length prefix, in bytes.
    #[serde(rename = "s")]
    pub sealed: u32,
    /// Where these bytes begin in the opened chunk.
    #[serde(rename = "o")]
    pub offset: u32,
    /// How many bytes.
    #[serde(rename = "n")]
    pub len: u32,
    /// CRC-32 (IEEE) of these bytes: tells a mistake of ours from damage that GCM would have found.
    #[serde(rename = "x")]
    pub crc: u32,
}

/// What was known when the backup ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Foot {
    /// Recovery must reach this position before the copy is consistent.
    pub stop_lsn: Lsn,
    pub stopped_at: Moment,
    /// The contents of `backup_label`, as `pg_backup_stop` gave them.
    pub backup_label: String,
    /// The contents of `tablespace_map`; empty without tablespaces.
    pub tablespace_map: String,
    pub files: u64,
    pub bytes: u64,
    /// Bytes of packs that this backup wrote to one zone.
    pub stored: u64,
    /// Pages whose checksum was wrong, also when read again.
    pub bad_pages: Vec<BadPage>,
    /// Transactions found in `pg_twophase`: prepared before the backup began.
    pub prepared: Vec<Prepared>,
    /// From `pg_control`: what a restored server must not set lower.
    pub parameters: Parameters,
    /// Settings that differ from PostgreSQL's defaults, for the report of a restore. No secrets: see `node`.
    pub settings: Vec<Setting>,
    /// The lines of `pg_hba.conf` that are not comments, for the report of a restore.
    pub hba: Vec<String>,
    /// The name of the bootstrap superuser (role 10): as whom a restore connects.
    pub superuser: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BadPage {
    pub path: String,
    pub block: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
}
