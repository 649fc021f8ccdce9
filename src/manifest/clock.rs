//! How far a node's clock was ahead: sampled by its agent all the time, a document for each hour or so.
//!
//! Beside the index of the WAL and not in it: an index is a cache that the segment alone gives again.

use serde::{Deserialize, Serialize};

use super::Document;
use crate::ids::{ClusterName, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockDoc {
    pub version: u32,
    pub cluster: ClusterName,
    pub node: NodeName,
    pub reference: Reference,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
}

/// Whose clock a node's was compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// Its own: the node is the coordinator, whose clock is the cluster's.
    Own,
    /// That of the server at this address.
    Server(String),
}

/// One comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// By the reference's clock.
    pub at: Moment,
    /// How far the node's clock was ahead; negative when it was behind.
    #[serde(rename = "ahead")]
    pub ahead_micros: i64,
    /// It was so up to so much more or less: half of the round trips.
    #[serde(rename = "uncertain")]
    pub uncertain_micros: i64,
    /// Where the node's WAL ended then; `None` where it was a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
}

impl ClockDoc {
    /// Returns the first and the last moment of which it tells; `None` without a sample.
    pub fn ends(&self) -> Option<(Moment, Moment)> {
        let all = || self.samples.iter().map(|sample| sample.at);
        Some((all().min()?, all().max()?))
    }
}

impl Document for ClockDoc {
    const NAME: &'static str = "clock document";
    const VERSION: u32 = 1;
}
