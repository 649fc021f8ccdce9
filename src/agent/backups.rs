//! Base backups: the first as soon as the WAL is archived, then by the schedule.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::status::BackupLine;
use super::{Error, Post};
use crate::archive::{self, Mishap};
use crate::backup::{self, BackupOptions, Silent};
use crate::class::Classified;
use crate::clock;
use crate::ids::BackupId;
use crate::moment::Moment;
use crate::retry::Backoff;

const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);
/// The longest sleep, so that a clock that is set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Takes backups until `shutdown`, or until dropped: a backup that is cut off leaves nothing that counts.
pub(super) async fn take(
    post: Post,
    mut archive: watch::Receiver<archive::Status>,
    tell: watch::Sender<BackupLine>,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut last: Option<(BackupId, Moment)> = None;
    loop {
        // A backup without its WAL is none: the slot keeps it from before the backup begins.
        let _ = archive.wait_for(|status| status.connected).await;
        let taken = tokio::select! {
            taken = next(&post, &tell, &mut last) => taken,
            // The archiver needs the zones for itself while it puts away its last bytes.
            () = shutdown.cancelled() => std::future::pending().await,
        };
        tell.send_modify(|line| line.running_since = None);
        match taken {
            Ok(()) => backoff.reset(),
            Err(error) => {
                let why = Mishap::now(&error);
                tracing::error!(error = why.text, hint = error.hint(), "the backup failed");
                tell.send_modify(|line| line.last_error = Some(why));
                sleep(backoff.wait()).await;
            }
        }
    }
}

/// Waits until a backup is due and takes it.
async fn next(
    post: &Post,
    tell: &watch::Sender<BackupLine>,
    last: &mut Option<(BackupId, Moment)>,
) -> Result<(), Error> {
    if last.is_none() {
        *last = newest(post).await?;
    }
    let schedule = &post.settings.backup.schedule;
    let due = match last {
        None => Some(clock::now()),
        Some((_, at)) => schedule.next(*at),
    };
    tell.send_modify(|line| {
        line.next_at = due;
        line.last = last.as_ref().map(|(backup, _)| backup.clone());
    });
    wait_until(due).await;

    tell.send_modify(|line| line.running_since = Some(clock::now()));
    let options = BackupOptions {
        level: post.settings.backup.level,
        threads: post.settings.backup.threads,
        rewrite_percent: post.settings.backup.rewrite_percent,
        pace: post.settings.backup.pace,
        fast: last.is_none(),
        ..BackupOptions::new(post.cluster.clone(), post.node.clone())
    };
    let began = clock::now();
    let report = backup::run(&options, &post.vault, &post.connection, Arc::new(Silent)).await?;
    tracing::info!(backup = %report.backup, files = report.files, bytes = report.bytes, read = report.read, stored = report.stored, "backup finished");
    if report.is_damaged() {
        tracing::error!(backup = %report.backup, pages = report.bad_pages.len(), "the server has damaged pages: their checksums are wrong");
    }
    tell.send_modify(|line| line.last_error = None);
    *last = Some((report.backup, began));
    Ok(())
}

async fn wait_until(due: Option<Moment>) {
    loop {
        let left = match due.map(|due| due.micros_since(clock::now())) {
            Some(left) if left <= 0 => return,
            Some(left) => Duration::from_micros(left.unsigned_abs()),
            None => LONGEST_SLEEP,
        };
        sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Returns the newest finished backup of this node, and when it began.
async fn newest(post: &Post) -> Result<Option<(BackupId, Moment)>, Error> {
    let Some(newest) = post.vault.newest_backup(&post.node).await? else { return Ok(None) };
    let ends = post.vault.backup_ends(&post.node, &newest).await?;
    Ok(Some((newest, ends.head.started_at)))
}
