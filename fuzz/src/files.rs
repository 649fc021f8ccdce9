//! Files of a data directory and names: `pg_control`, two-phase state, pages, history files, gids.

use pitrus::citus::Gid;
use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use pitrus::pgfile::control::ControlFile;
use pitrus::pgfile::kind::{self, RelationFile};
use pitrus::pgfile::{page, twophase};
use pitrus::timeline::{History, TimelineId};
use pitrus::wal::Version;
use pitrus::wal::segment::{Segment, parse_history_file_name};

use super::orders::Orders;

/// Where `pg_control` has its checksum, by version.
const CONTROL_SUMS: [usize; 4] = [288, 284, 292, 296];

pub fn files(input: &[u8]) {
    let mut orders = Orders(input);
    match orders.u8() % 4 {
        0 => {
            let mut bytes = orders.0.to_vec();
            let _ = ControlFile::parse(&bytes);
            for at in CONTROL_SUMS {
                if bytes.len() >= at + 4 {
                    let sum = crc32c::crc32c(&bytes[..at]);
                    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
                    let _ = ControlFile::parse(&bytes);
                }
            }
        }
        1 => {
            let version = orders.one_of(&Version::ALL);
            let _ = twophase::parse(orders.0, version);
            let sum = crc32c::crc32c(orders.0).to_le_bytes();
            if let Ok(prepared) = twophase::parse(&[orders.0, &sum].concat(), version) {
                assert_eq!(prepared.lsn, Lsn::INVALID);
            }
        }
        2 => {
            let (number, start) = (orders.u32(), Lsn(orders.u64()));
            let mut bytes = [0; 8192];
            bytes[..orders.0.len().min(8192)].copy_from_slice(orders.bytes(8192));
            let _ = (page::verify(number, &bytes, start), page::lsn(&bytes));
        }
        _ => {
            let segment_bytes = orders.one_of(&[1 << 20, 16 << 20, 1 << 30]);
            text(&String::from_utf8_lossy(orders.0), segment_bytes);
        }
    }
}

/// Everything that is read from text; what has one way of writing is written back the same.
fn text(text: &str, segment_bytes: u32) {
    if let Some(gid) = Gid::parse(text) {
        let transaction = gid.transaction();
        let (group, pid) = (transaction.group, transaction.pid);
        let again = format!("citus_{group}_{pid}_{}_{}", transaction.number, gid.connection);
        assert_eq!(Gid::parse(&again), Some(gid));
    }
    if let Some(segment) = Segment::parse(text, segment_bytes) {
        assert_eq!(segment.file_name(segment_bytes), text);
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
    }
    if let Ok(moment) = text.parse::<Moment>() {
        assert_eq!(moment.to_string().parse::<Moment>().ok(), Some(moment));
    }
    if let Ok(history) = History::parse(TimelineId(9), text) {
        history.timeline_at(Lsn(0x100_0000));
    }
    let _ = (parse_history_file_name(text), kind::rule(text));
    if let Some(file) = RelationFile::parse(text) {
        let _ = (file.first_block(), file.init_of());
    }
}
