//! Brings every zone to hold everything: what this process knows to be missing every minute, what the
//! lists of this node show every hour, and once a day the whole cluster, for nodes whose agent is gone.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::Post;
use super::status::RepairLine;
use crate::archive::Mishap;
use crate::clock;
use crate::repair::{self, RepairReport};
use crate::retry::Backoff;

const MISSED_EVERY: Duration = Duration::from_secs(60);
/// In rounds of the one before: an hour, a day.
const NODE_EVERY: u32 = 60;
const CLUSTER_EVERY: u32 = 24 * NODE_EVERY;

/// Repairs until dropped.
pub(super) async fn keep(post: Post, tell: watch::Sender<RepairLine>) {
    // Shaken, so that the agents of a cluster that was started at once do not list all at once.
    let mut wait = Backoff::new(MISSED_EVERY, MISSED_EVERY);
    let mut round: u32 = 0;
    loop {
        sleep(wait.wait()).await;
        let repaired = if round.is_multiple_of(CLUSTER_EVERY) && round > 0 {
            repair::run(&post.vault, false).await
        } else if round.is_multiple_of(NODE_EVERY) {
            repair::run_node(&post.vault, &post.node, false).await
        } else {
            repair::run_missed(&post.vault).await
        };
        round = round.wrapping_add(1);
        match repaired {
            Ok(report) => take(&report, &tell),
            Err(error) => {
                let why = Mishap::now(&error);
                tracing::warn!(error = why.text, "the zones could not be repaired");
                tell.send_modify(|line| line.last_error = Some(why));
            }
        }
    }
}

fn take(report: &RepairReport, tell: &watch::Sender<RepairLine>) {
    let sum = |counts: &std::collections::BTreeMap<_, u64>| counts.values().sum::<u64>();
    let (copied, replaced) = (sum(&report.copied), sum(&report.replaced));
    if copied + replaced > 0 {
        tracing::info!(copied, replaced, "repaired zones");
    }
    for object in report.unreadable.iter().chain(&report.conflicts) {
        tracing::error!(object, "no zone has a copy that can be used, or copies differ: see `pitrus repair`");
    }
    tell.send_modify(|line| {
        line.last_at = Some(clock::now());
        line.copied += copied;
        line.replaced += replaced;
        line.last_error = None;
    });
}
