//! The index of one WAL segment: what planning needs, so that it opens few segments.
//!
//! It covers every record that *begins* in the segment, and is a cache: decoding the segment again
//! (from `open_at_start`) gives the same index.

use serde::{Deserialize, Serialize};

use super::Document;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;
use crate::wal::event::{Event, Open};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalIndex {
    pub version: u32,
    pub timeline: TimelineId,
    /// The segment's first byte.
    pub start: Lsn,
    /// The end of the last record that begins here, or the end of what was decodable.
    pub end: Lsn,
    /// Where the first record that begins here begins; `None` when none does.
    pub first_record: Option<Lsn>,
    pub records: u64,
    /// Least and greatest time stamp of transaction records, ordinary commits included.
    pub times: Option<Times>,
    /// Only those for which [`crate::wal::event::What::is_indexed`].
    pub events: Vec<Event>,
    pub open_at_start: Open,
    pub open_at_end: Open,
    /// What the records that begin here changed, for incremental backups; runs of block numbers.
    pub blocks: Vec<ChangedBlocks>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub min: Moment,
    pub max: Moment,
}

/// Blocks of one fork of one relation that records name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChangedBlocks {
    /// tablespace / database / relfilenode
    pub relation: [u32; 3],
    /// 0 main, 1 FSM, 2 visibility map, 3 init
    pub fork: u8,
    /// Inclusive runs, rising, not touching.
    pub runs: Vec<[u32; 2]>,
    /// The fork was made anew, or cut, to this many blocks: blocks at and past it may not be taken from an older backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Document for WalIndex {
    const NAME: &'static str = "WAL index";
    const VERSION: u32 = 1;
}
