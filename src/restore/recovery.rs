//! Replays one node's WAL to its stop, and promotes it.
//!
//! configuration -> server (without Citus, reachable by us only) -> WAL from the spool -> promoted
//!
//! Goes on where a crashed run stopped: `recovery.signal` is there until the server is promoted. The server syncs
//! nothing: its whole directory is synced when it has stopped, and until then the ledger bears the machine's boot.

use std::time::{Duration, Instant};

use super::Error;
use super::conf::{self, Goal, Needs};
use super::plan::NodePlan;
use super::server::{Instance, Server};
use super::spool::{Spool, SpoolOptions, Supply, restore_command};

/// Segments fetched ahead: at 16 MiB each, bounded on disk and in memory.
const AHEAD: u64 = 8;
/// And how many at a time, each in memory: opening one keeps a core busy, and recovery needs one too.
const AT_ONCE: usize = 3;
/// And how many bytes, at most.
const AHEAD_BYTES: u64 = 128 << 20;
/// Recovery says in its log every ten seconds that it goes on (`log_startup_progress_interval`); a
/// server that is silent for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(900);

/// What a replay is given.
pub(super) struct Replay<'a> {
    pub(super) instance: &'a Instance,
    pub(super) needs: &'a Needs,
    pub(super) plan: &'a NodePlan,
    /// Our program, as the server's user can run it.
    pub(super) program: &'a std::path::Path,
}

/// Lays out what makes a data directory recover when it is started.
pub(super) fn prepare(replay: &Replay<'_>) -> Result<(), Error> {
    let Replay { instance, needs, plan, program, .. } = replay;
    let goal = Goal {
        timeline: plan.timeline,
        stop: plan.stop_before,
        restore_command: restore_command(program, &instance.private),
    };
    let text = conf::recovering(needs, &goal);
    conf::write(&instance.directory, &instance.user, &text, conf::HBA_PRIVATE, "")
}

/// Replays, and returns the running server, promoted.
pub(super) async fn replay<S: Supply>(replay: &Replay<'_>, supply: S) -> Result<Server, Error> {
    let instance = replay.instance;
    prepare(replay)?;
    let options = SpoolOptions {
        pg_wal: instance.directory.join("pg_wal"),
        private: instance.private.clone(),
        user: instance.user.clone(),
        segment_bytes: replay.plan.segment_bytes,
        ahead: (AHEAD_BYTES / u64::from(replay.plan.segment_bytes).max(1)).min(AHEAD),
        at_once: AT_ONCE,
    };
    let spool = Spool::open(options, supply)?;
    let mut server = instance.start().await?;
    let mut pulse = Pulse::new();
    let accepted = server.accepts(|| pulse.look(instance, &spool)).await;
    let client = match (accepted, spool.fault().await) {
        (Ok(client), _) => client,
        // The server ended because of us.
        (Err(_), Some(fault)) => return Err(fault),
        (Err(error), None) => return Err(error),
    };
    let query = "select pg_is_in_recovery()";
    let row = client.query_one(query, &[]).await.map_err(Error::sql(&instance.node, "ask for its state"))?;
    if row.get(0) {
        return Err(instance.fault("it accepts connections, but was not promoted"));
    }
    spool.close().await?;
    Ok(server)
}

/// Notices when nothing moves any more.
struct Pulse {
    seen: (u64, u64),
    since: Instant,
}

impl Pulse {
    fn new() -> Self {
        Pulse { seen: (0, 0), since: Instant::now() }
    }

    fn look(&mut self, instance: &Instance, spool: &Spool) -> Result<(), Error> {
        let log = std::fs::metadata(instance.log()).map_or(0, |m| m.len());
        let seen = (spool.asked(), log);
        if seen != self.seen {
            *self = Pulse { seen, since: Instant::now() };
        }
        if self.since.elapsed() > SILENCE_MAX {
            return Err(instance.fault(format!("recovery has not moved for {} s", SILENCE_MAX.as_secs())));
        }
        Ok(())
    }
}
