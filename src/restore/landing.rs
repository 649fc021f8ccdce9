//! Proof that a node stopped exactly where the plan says, taken after its promotion and before anything
//! is settled: the last transaction inside is committed, the first one outside is not, and the new
//! timeline's history file says that the old one ended at the stop.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::Error;
use super::plan::{Landmark, LandmarkKind, NodePlan};
use super::server::Instance;
use crate::lsn::Lsn;
use crate::timeline::{History, TimelineId};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The timeline that the promotion began, and where it left the old one.
    pub timeline: TimelineId,
    pub ended: Lsn,
    /// Each transaction looked at, and what the server says of it.
    pub transactions: Vec<Looked>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub xid: u32,
    pub kind: LandmarkKind,
    pub inside: bool,
    /// As `pg_xact_status` says; `in the future` where the server never gave out this number, `forgotten`
    /// where it is so old that its status is gone.
    pub status: String,
}

/// So old that its status is gone.
const FORGOTTEN: &str = "forgotten";
/// The size of a page of WAL.
const PAGE_BYTES: u64 = 8192;

/// Returns where the next record begins: a record that ends at a page's end is followed by a page header
/// (`SizeOfXLogLongPHD` 40 at a segment's start, else `SizeOfXLogShortPHD` 24).
fn after_header(lsn: Lsn, segment_bytes: u32) -> Lsn {
    match (lsn.segment_offset(segment_bytes), lsn.0 % PAGE_BYTES) {
        (0, _) => lsn.plus(40),
        (_, 0) => lsn.plus(24),
        _ => lsn,
    }
}

/// Proves a promoted node's landing.
pub(super) async fn prove(instance: &Instance, client: &Client, plan: &NodePlan) -> Result<Proof, Error> {
    let (timeline, ended) = old_end(instance, client).await?;
    let wrong = |problem| Error::Landing { node: instance.node.clone(), problem };
    let stop = plan.stop_before.unwrap_or(plan.wal_end);
    if after_header(ended, plan.segment_bytes) != after_header(stop, plan.segment_bytes) {
        return Err(wrong(format!("replay ended at {ended}, not at {stop}")));
    }
    let mut transactions = Vec::new();
    for (landmark, inside) in [(&plan.last_included, true), (&plan.first_excluded, false)] {
        let Some(Landmark { xid, kind, .. }) = *landmark else { continue };
        let status = status(instance, client, xid).await?;
        if !fits(kind, inside, &status) {
            let place = if inside { "inside" } else { "outside" };
            return Err(wrong(format!(
                "the {kind} of transaction {xid} belongs {place}, but it is {status}"
            )));
        }
        transactions.push(Looked { xid, kind, inside, status });
    }
    Ok(Proof { timeline, ended, transactions })
}

/// Returns whether a transaction's status agrees with the place of its record. Nothing is settled yet.
fn fits(kind: LandmarkKind, inside: bool, status: &str) -> bool {
    match (kind, inside) {
        (LandmarkKind::Commit | LandmarkKind::CommitPrepared, true) => {
            ["committed", FORGOTTEN].contains(&status)
        }
        (LandmarkKind::Abort | LandmarkKind::RollbackPrepared, true) => {
            ["aborted", FORGOTTEN].contains(&status)
        }
        (LandmarkKind::Prepare, true) => status == "in progress",
        (LandmarkKind::Prepare, false) => status != "in progress" && status != "committed",
        (_, false) => status != "committed",
    }
}

/// Reads where the promotion left the old timeline.
async fn old_end(instance: &Instance, client: &Client) -> Result<(TimelineId, Lsn), Error> {
    let query = "select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
    let row =
        client.query_one(query, &[]).await.map_err(Error::sql(&instance.node, "ask for its timeline"))?;
    let wrong = |problem| Error::Landing { node: instance.node.clone(), problem };
    let digits: &str = row.get(0);
    let timeline = u32::from_str_radix(digits, 16).map(TimelineId);
    let timeline = timeline.map_err(|_| wrong(format!("its timeline reads {digits:?}")))?;
    let ended = history_end(&instance.directory, timeline).map_err(wrong)?;
    Ok((timeline, ended))
}

fn history_end(directory: &Path, timeline: TimelineId) -> Result<Lsn, String> {
    let name = format!("{:08X}.history", timeline.0);
    let text = std::fs::read_to_string(directory.join("pg_wal").join(&name));
    let text = text.map_err(|error| format!("{name}: {error}"))?;
    let history = History::parse(timeline, &text).map_err(|error| error.to_string())?;
    history.ancestors.last().map(|last| last.end).ok_or_else(|| format!("{name} names no older timeline"))
}

/// Asks for the status of a transaction known by the low half of its number.
async fn status(instance: &Instance, client: &Client, xid: u32) -> Result<String, Error> {
    let doing = || format!("ask for the status of transaction {xid}");
    let query = "select pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = client.query_one(query, &[]).await.map_err(Error::sql(&instance.node, doing()))?;
    let next: &str = row.get(0);
    let next = next.parse().map_err(|_| Error::Landing {
        node: instance.node.clone(),
        problem: format!("its next transaction reads {next:?}"),
    })?;
    let query = format!("select pg_xact_status('{}'::xid8)", nearest(xid, next));
    match client.query_one(&query, &[]).await {
        Ok(row) => Ok(row.get::<_, Option<String>>(0).unwrap_or_else(|| FORGOTTEN.to_owned())),
        // "transaction ID … is in the future"
        Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => {
            Ok("in the future".to_owned())
        }
        Err(error) => Err(Error::sql(&instance.node, doing())(error)),
    }
}

/// Returns the full number with this low half that is nearest to `next`: no two transactions whose status
/// is kept are further apart than 2^31.
fn nearest(xid: u32, next: u64) -> u64 {
    let ahead = xid.wrapping_sub(next as u32).cast_signed();
    next.saturating_add_signed(i64::from(ahead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_completed_to_the_nearest() {
        assert_eq!(nearest(700, 1000), 700);
        assert_eq!(nearest(1005, 1000), 1005);
        assert_eq!(nearest(u32::MAX, (3 << 32) + 5), (3 << 32) - 1);
        assert_eq!(nearest(2, (3 << 32) - 1), (3 << 32) + 2);
    }

    #[test]
    fn a_status_must_agree_with_the_place() {
        use LandmarkKind::{Abort, Commit, CommitPrepared, Prepare};
        assert!(fits(Commit, true, "committed") && !fits(Commit, true, "aborted"));
        assert!(fits(CommitPrepared, false, "in progress") && !fits(CommitPrepared, false, "committed"));
        assert!(fits(Prepare, true, "in progress") && !fits(Prepare, false, "in progress"));
        assert!(fits(Commit, false, "in the future") && fits(Abort, false, "aborted"));
    }

    #[test]
    fn positions_around_a_page_header_are_the_same() {
        let at = |n| after_header(Lsn(n), 1 << 24);
        assert_eq!(at(0x100_0000), at(0x100_0028));
        assert_eq!(at(0x100_2000), at(0x100_2018));
        assert_ne!(at(0x100_2020), at(0x100_2018));
    }

    #[test]
    fn the_history_file_names_the_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        let text = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000148\tbefore LSN 0/5000148\n";
        std::fs::write(folder.path().join("pg_wal/00000003.history"), text).unwrap();
        assert_eq!(history_end(folder.path(), TimelineId(3)), Ok(Lsn(0x500_0148)));
        assert!(history_end(folder.path(), TimelineId(4)).unwrap_err().starts_with("00000004.history"));
    }
}
