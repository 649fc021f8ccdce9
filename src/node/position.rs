//! Where a server's WAL has got to.

use super::{Error, Session};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// What is flushed, and so never changes on its timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub timeline: TimelineId,
    pub flushed: Lsn,
}

const QUERY: &str = "
    SELECT ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int,
           pg_current_wal_flush_lsn()::text
     WHERE NOT pg_is_in_recovery()";

impl Session {
    /// Returns how far the server has flushed its WAL; `None` of one in recovery.
    pub async fn wal_position(&self) -> Result<Option<Position>, Error> {
        let rows = self.rows("see how far the WAL is", QUERY, &[]).await?;
        Ok(rows.first().and_then(|row| {
            let timeline = TimelineId(row.get::<_, i32>(0).cast_unsigned());
            Some(Position { timeline, flushed: row.get::<_, &str>(1).parse().ok()? })
        }))
    }
}
