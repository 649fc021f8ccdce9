//! The manifest of a base backup: every file, and where its bytes are.
//!
//! JSON lines: one [`Head`], then an [`Entry`] a line, then one [`Foot`]; a manifest without its foot
//! is cut off and refused. A reader holds one line at a time, so a manifest may list millions of files.
//! A backup exists when its manifest does: the manifest is written last.

mod extents;
mod reader;
mod writer;

pub use reader::{Ends, ManifestReader, read_line};
pub use writer::ManifestWriter;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::ids::{BackupId, ClusterName, GroupId, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::wal::event::{Parameters, Prepared};

pub const VERSION: u32 = 3;
const NAME: &str = "backup manifest";
/// The longest line: one file of about 1 TB.
const LINE_BYTES_MAX: usize = 64 << 20;
/// The most extents that one file may have: as many whole chunks make 1 TB.
const EXTENTS_MAX: usize = 1 << 20;
/// The most bytes that one chunk of a pack holds when opened.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

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
    /// The backup that this one went on from: what the WAL did not change since was taken from it. Nothing
    /// but packs is shared, so it may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_on: Option<BackupId>,
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
        #[serde(serialize_with = "extents::write", deserialize_with = "extents::read")]
        extents: Vec<Extent>,
    },
}

/// Bytes of a file: a part of one sealed chunk of a pack, never the pack's last (which is empty).
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    /// The pack: `<backup>/<number>`; only the number where the backup is this manifest's own.
    pub pack: Arc<str>,
    /// Number of the chunk in its pack, from 0.
    pub chunk: u32,
    /// Where the sealed chunk lies in the pack object, in bytes.
    pub at: u64,
    /// Length of the sealed chunk with its length prefix, in bytes.
    pub sealed: u32,
    /// Where these bytes begin in the opened chunk.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
    /// How many bytes the whole chunk has when opened.
    pub plain: u32,
    /// CRC-32 (IEEE) of the whole chunk: tells a mistake of ours from damage that GCM would have found. Of
    /// the chunk, not of these bytes, so that an extent can be divided without reading it.
    pub crc: u32,
}

/// The packs that extents name; each name is parsed once.
#[derive(Debug, Default)]
struct Named {
    packs: BTreeSet<Pack>,
    names: HashSet<Arc<str>>,
}

impl Named {
    /// Adds those that the extents of a file name, in the manifest of `own`.
    fn add(&mut self, extents: &[Extent], own: &BackupId) -> Result<(), Error> {
        for Extent { pack, .. } in extents {
            if !self.names.contains(pack) {
                self.packs.insert(Pack::named(pack, own)?);
                self.names.insert(Arc::clone(pack));
            }
        }
        Ok(())
    }
}

/// A pack: an object that holds sealed chunks, written by one backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pack {
    pub backup: BackupId,
    pub number: u32,
}

impl Pack {
    /// Reads a name as extents and feet have it, in the manifest of `own`.
    pub fn named(name: &str, own: &BackupId) -> Result<Pack, Error> {
        let bad = || inconsistent(format!("{name:?} does not name a pack"));
        let (backup, number) = match name.split_once('/') {
            Some((backup, number)) => (backup.parse().map_err(|_| bad())?, number),
            None => (own.clone(), name),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| number.parse().ok()).flatten().ok_or_else(bad)?;
        Ok(Pack { backup, number })
    }

    /// Returns its name in the manifest of `own`.
    pub fn name(&self, own: &BackupId) -> String {
        if self.backup == *own { self.number.to_string() } else { format!("{}/{}", self.backup, self.number) }
    }
}

impl Foot {
    /// Returns whether pages were found that are damaged on the source: restorable, yet no substitute
    /// for a good backup.
    pub fn is_damaged(&self) -> bool {
        !self.bad_pages.is_empty() || self.bad_pages_more > 0
    }
}

impl Entry {
    /// Refuses what would be written outside the data directory, and extents that do not make the file.
    fn check(&self) -> Result<(), Error> {
        let safe = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !self.path.split('/').all(safe) {
            return Err(inconsistent(format!("{:?} is not a path below the data directory", self.path)));
        }
        if let Kind::File { size, extents, .. } = &self.kind {
            let fits = |e: &Extent| {
                e.offset.checked_add(e.len).is_some_and(|end| end <= e.plain && e.plain <= CHUNK_BYTES_MAX)
            };
            let sum: u64 = extents.iter().map(|e| u64::from(e.len)).sum();
            if extents.len() > EXTENTS_MAX {
                return Err(inconsistent(format!("{} has more than {EXTENTS_MAX} extents", self.path)));
            }
            if !extents.iter().all(fits) || sum != *size {
                return Err(inconsistent(format!(
                    "the extents of {} do not make its {size} bytes",
                    self.path
                )));
            }
        }
        Ok(())
    }
}

fn inconsistent(problem: String) -> Error {
    Error::Inconsistent { document: NAME, problem }
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
    /// Bytes that this backup read from the data directory.
    pub read: u64,
    /// Bytes of packs that this backup wrote to one zone.
    pub stored: u64,
    /// Every pack that an extent names, as extents name them; rising. Filled by [`ManifestWriter`], so that
    /// what may be deleted is known from feet alone.
    pub packs: Vec<String>,
    /// Pages whose checksum was wrong, also when read again; the first thousand.
    pub bad_pages: Vec<BadPage>,
    /// How many more there were.
    pub bad_pages_more: u64,
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
