//! The names of objects: made here, read back here, and nowhere else.
//!
//! ```text
//! <cluster>/keys/<epoch>-<master>                      an epoch key, wrapped for a master key
//! <cluster>/topology/<unix microseconds, 16 hex>       the shape of the cluster since then
//! <cluster>/nodes/<node>/node                          who the node is
//! <cluster>/nodes/<node>/clock/<first>-<last>          how far its clock was ahead between these moments
//! <cluster>/nodes/<node>/wal/<timeline>/<segment>      a complete WAL segment
//! <cluster>/nodes/<node>/wal/<timeline>/<segment>.index
//! <cluster>/nodes/<node>/wal/<timeline>/<segment>.part-<start>-<end>   bytes [start, end) of an unfinished one
//! <cluster>/nodes/<node>/wal/<timeline>.history
//! <cluster>/nodes/<node>/backups/<backup>/manifest     a backup exists when this does
//! <cluster>/nodes/<node>/backups/<backup>/gone         and does not when this does
//! <cluster>/nodes/<node>/packs/<backup>/<number, 6 digits>
//! ```
//! A server's segment of more than 16 MiB is kept as segments of that size, named as a server with such segments
//! would name them ([`kept_segment_bytes`]): no object, and nobody who reads or writes one, is larger for it.
//!
//! Timelines (8 digits) and segments (24) are written as PostgreSQL writes them, start and end as 8
//! hexadecimal digits, moments as 16: microseconds of Unix time.

use std::fmt;
use std::str::FromStr;

use crate::ids::{BackupId, ClusterName, NodeName};
use crate::moment::Moment;
use crate::seal::{EpochId, KeyId};
use crate::timeline::TimelineId;

/// Longer segments of a server are kept in pieces of this length.
const KEPT_SEGMENT_BYTES_MAX: u32 = 16 << 20;

/// Returns how long the vault's segments are of a server whose own are `server_segment_bytes` long. Powers of two both.
pub fn kept_segment_bytes(server_segment_bytes: u32) -> u32 {
    server_segment_bytes.min(KEPT_SEGMENT_BYTES_MAX)
}

/// A WAL segment's file name. Its number takes the cluster's segment size to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalName {
    pub timeline: TimelineId,
    high: u32,
    low: u32,
}

impl WalName {
    /// Names a segment by its number (position / size), as PostgreSQL's `XLogFileName` does.
    pub fn new(timeline: TimelineId, number: u64, segment_bytes: u32) -> Self {
        let each = Self::in_each(segment_bytes);
        WalName { timeline, high: (number / each) as u32, low: (number % each) as u32 }
    }

    /// Returns the segment's number.
    pub fn number(self, segment_bytes: u32) -> u64 {
        u64::from(self.high) * Self::in_each(segment_bytes) + u64::from(self.low)
    }

    /// How many segments share the upper 32 bits of their positions.
    fn in_each(segment_bytes: u32) -> u64 {
        (1 << 32) / u64::from(segment_bytes.max(1))
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.high, self.low)
    }
}

impl FromStr for WalName {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (timeline, rest) = s.split_at_checked(8).ok_or(())?;
        let (high, low) = rest.split_at_checked(8).ok_or(())?;
        let word = |text| hex(text, 8, false).and_then(|word| u32::try_from(word).ok()).ok_or(());
        Ok(WalName { timeline: TimelineId(word(timeline)?), high: word(high)?, low: word(low)? })
    }
}

/// The name of an object in a cluster's vault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    Key {
        epoch: EpochId,
        master: KeyId,
    },
    Topology {
        at: Moment,
    },
    Node {
        node: NodeName,
    },
    /// A longer one that begins at the same moment has all that this has.
    Clock {
        node: NodeName,
        first: Moment,
        last: Moment,
    },
    Segment {
        node: NodeName,
        wal: WalName,
    },
    Index {
        node: NodeName,
        wal: WalName,
    },
    /// Bytes [start, end) of a segment that was not finished.
    Part {
        node: NodeName,
        wal: WalName,
        start: u32,
        end: u32,
    },
    History {
        node: NodeName,
        timeline: TimelineId,
    },
    Manifest {
        node: NodeName,
        backup: BackupId,
    },
    /// The backup is being deleted, or was.
    Gone {
        node: NodeName,
        backup: BackupId,
    },
    Pack {
        node: NodeName,
        backup: BackupId,
        number: u32,
    },
}

impl ObjectName {
    /// Returns the full name.
    pub fn path(&self, cluster: &ClusterName) -> String {
        match self {
            ObjectName::Key { epoch, master } => format!("{}/{epoch}-{master}", folder::keys(cluster)),
            ObjectName::Topology { at } => {
                format!("{}/{}", folder::topologies(cluster), moment(*at))
            }
            ObjectName::Node { node } => format!("{}/node", folder::node(cluster, node)),
            ObjectName::Clock { node, first, last } => {
                format!("{}/clock/{}-{}", folder::node(cluster, node), moment(*first), moment(*last))
            }
            ObjectName::Segment { node, wal } => {
                format!("{}/{wal}", folder::wal(cluster, node, wal.timeline))
            }
            ObjectName::Index { node, wal } => {
                format!("{}/{wal}.index", folder::wal(cluster, node, wal.timeline))
            }
            ObjectName::Part { node, wal, start, end } => {
                format!("{}/{wal}.part-{start:08x}-{end:08x}", folder::wal(cluster, node, wal.timeline))
            }
            ObjectName::History { node, timeline } => {
                format!("{}/wal/{:08X}.history", folder::node(cluster, node), timeline.0)
            }
            ObjectName::Manifest { node, backup } => {
                format!("{}/backups/{backup}/manifest", folder::node(cluster, node))
            }
            ObjectName::Gone { node, backup } => {
                format!("{}/backups/{backup}/gone", folder::node(cluster, node))
            }
            ObjectName::Pack { node, backup, number } => {
                format!("{}/{number:06}", folder::packs(cluster, node, backup))
            }
        }
    }

    /// Reads a full name; `None` for what is not an object of this cluster.
    pub fn parse(cluster: &ClusterName, path: &str) -> Option<Self> {
        let inner = path.strip_prefix(cluster.as_str())?.strip_prefix('/')?;
        let words: Vec<&str> = inner.split('/').collect();
        let name = match words.as_slice() {
            ["keys", name] => {
                let (epoch, master) = name.split_once('-')?;
                ObjectName::Key { epoch: epoch.parse().ok()?, master: master.parse().ok()? }
            }
            ["topology", at] => ObjectName::Topology { at: read_moment(at)? },
            ["nodes", node, rest @ ..] => Self::parse_of_node(node.parse().ok()?, rest)?,
            _ => return None,
        };
        // Only what we would write ourselves: no second spelling of one name.
        (name.path(cluster) == path).then_some(name)
    }

    fn parse_of_node(node: NodeName, words: &[&str]) -> Option<Self> {
        Some(match words {
            ["node"] => ObjectName::Node { node },
            ["clock", span] => {
                let (first, last) = span.split_once('-')?;
                let (first, last) = (read_moment(first)?, read_moment(last)?);
                (first <= last).then_some(ObjectName::Clock { node, first, last })?
            }
            ["wal", file] => {
                let timeline = u32::try_from(hex(file.strip_suffix(".history")?, 8, false)?).ok()?;
                ObjectName::History { node, timeline: TimelineId(timeline) }
            }
            ["wal", _timeline, file] => {
                let (wal, kind) = file.split_at_checked(24)?;
                let wal = wal.parse().ok()?;
                match kind {
                    "" => ObjectName::Segment { node, wal },
                    ".index" => ObjectName::Index { node, wal },
                    part => {
                        let (start, end) = part.strip_prefix(".part-")?.split_once('-')?;
                        let word = |text| u32::try_from(hex(text, 8, true)?).ok();
                        ObjectName::Part { node, wal, start: word(start)?, end: word(end)? }
                    }
                }
            }
            ["backups", backup, "manifest"] => ObjectName::Manifest { node, backup: backup.parse().ok()? },
            ["backups", backup, "gone"] => ObjectName::Gone { node, backup: backup.parse().ok()? },
            ["packs", backup, number] => {
                ObjectName::Pack { node, backup: backup.parse().ok()?, number: number.parse().ok()? }
            }
            _ => return None,
        })
    }

    /// Returns the node whose object this is.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            ObjectName::Key { .. } | ObjectName::Topology { .. } => None,
            ObjectName::Node { node }
            | ObjectName::Clock { node, .. }
            | ObjectName::Segment { node, .. }
            | ObjectName::Index { node, .. }
            | ObjectName::Part { node, .. }
            | ObjectName::History { node, .. }
            | ObjectName::Manifest { node, .. }
            | ObjectName::Gone { node, .. }
            | ObjectName::Pack { node, .. } => Some(node),
        }
    }
}

/// The folders in which objects are.
pub(super) mod folder {
    use crate::ids::{BackupId, ClusterName, NodeName};
    use crate::timeline::TimelineId;

    pub(in crate::vault) fn keys(cluster: &ClusterName) -> String {
        format!("{cluster}/keys")
    }

    pub(in crate::vault) fn topologies(cluster: &ClusterName) -> String {
        format!("{cluster}/topology")
    }

    pub(in crate::vault) fn nodes(cluster: &ClusterName) -> String {
        format!("{cluster}/nodes")
    }

    pub(in crate::vault) fn node(cluster: &ClusterName, node: &NodeName) -> String {
        format!("{cluster}/nodes/{node}")
    }

    pub(in crate::vault) fn wal(cluster: &ClusterName, node: &NodeName, timeline: TimelineId) -> String {
        format!("{cluster}/nodes/{node}/wal/{:08X}", timeline.0)
    }

    pub(in crate::vault) fn packs(cluster: &ClusterName, node: &NodeName, backup: &BackupId) -> String {
        format!("{cluster}/nodes/{node}/packs/{backup}")
    }
}

/// Writes a moment so that names sort as moments do.
fn moment(at: Moment) -> String {
    format!("{:016x}", at.unix_micros().max(0))
}

fn read_moment(text: &str) -> Option<Moment> {
    Some(Moment::from_unix_micros(i64::try_from(hex(text, 16, true)?).ok()?))
}

/// Reads exactly so many hexadecimal digits of one case.
fn hex(text: &str, digits: usize, lower: bool) -> Option<u64> {
    let fits = |b: u8| {
        b.is_ascii_digit() || if lower { (b'a'..=b'f').contains(&b) } else { (b'A'..=b'F').contains(&b) }
    };
    let plain = text.len() == digits && text.bytes().all(fits);
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let cluster: ClusterName = "shop".parse().unwrap();
        let node: NodeName = "w1".parse().unwrap();
        let backup: BackupId = "20261121t083000z-ab01".parse().unwrap();
        let wal = WalName::new(TimelineId(3), 0x1_0000_0001, 16 << 20);
        assert_eq!(wal.to_string(), "000000030100000000000001");
        assert_eq!(wal.number(16 << 20), 0x1_0000_0001);
        assert_eq!(WalName::new(TimelineId(1), 5, 1 << 30).to_string(), "000000010000000100000001");
        let at = Moment::from_unix_micros(1_763_711_400_000_000);
        let cases = [
            (ObjectName::Node { node: node.clone() }, "shop/nodes/w1/node"),
            (ObjectName::Topology { at }, "shop/topology/000644160f7bba00"),
            (
                ObjectName::Clock { node: node.clone(), first: at, last: at.plus_micros(1) },
                "shop/nodes/w1/clock/000644160f7bba00-000644160f7bba01",
            ),
            (
                ObjectName::Segment { node: node.clone(), wal },
                "shop/nodes/w1/wal/00000003/000000030100000000000001",
            ),
            (
                ObjectName::Index { node: node.clone(), wal },
                "shop/nodes/w1/wal/00000003/000000030100000000000001.index",
            ),
            (
                ObjectName::Part { node: node.clone(), wal, start: 0, end: 0xab_cdef },
                "shop/nodes/w1/wal/00000003/000000030100000000000001.part-00000000-00abcdef",
            ),
            (
                ObjectName::History { node: node.clone(), timeline: TimelineId(3) },
                "shop/nodes/w1/wal/00000003.history",
            ),
            (
                ObjectName::Manifest { node: node.clone(), backup: backup.clone() },
                "shop/nodes/w1/backups/20261121t083000z-ab01/manifest",
            ),
            (
                ObjectName::Gone { node: node.clone(), backup: backup.clone() },
                "shop/nodes/w1/backups/20261121t083000z-ab01/gone",
            ),
            (
                ObjectName::Pack { node, backup, number: 7 },
                "shop/nodes/w1/packs/20261121t083000z-ab01/000007",
            ),
            (
                ObjectName::Key { epoch: EpochId([0xab; 16]), master: KeyId([1; 8]) },
                "shop/keys/abababababababababababababababab-0101010101010101",
            ),
        ];
        for (name, path) in cases {
            assert_eq!(name.path(&cluster), path);
            assert_eq!(ObjectName::parse(&cluster, path), Some(name));
            assert_eq!(ObjectName::parse(&"other".parse().unwrap(), path), None);
        }
    }

    #[test]
    fn other_names_are_refused() {
        let cluster: ClusterName = "shop".parse().unwrap();
        for path in [
            "shop",
            "shop/",
            "shop/nodes/w1",
            "shop/nodes/W1/node",
            "shop/nodes/w1/wal/00000003/000000020100000000000001",
            "shop/nodes/w1/wal/00000003/00000003010000000000000g",
            "shop/nodes/w1/wal/00000003/0000000301000000000000aa",
            "shop/nodes/w1/wal/00000003/000000030100000000000001.part-0-1",
            "shop/nodes/w1/wal/3.history",
            "shop/nodes/w1/clock/000644160f7bba01-000644160f7bba00",
            "shop/nodes/w1/clock/000644160f7bba01",
            "shop/nodes/w1/packs/b/7",
            "shop/nodes/w1/packs/b/+00007",
            "shop/nodes/../node",
            "shop/nodes/w1/wal/00000003/0000000301000000000000é",
        ] {
            assert_eq!(ObjectName::parse(&cluster, path), None, "{path}");
        }
    }
}
