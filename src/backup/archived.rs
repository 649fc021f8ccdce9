//! Waits until the vault holds the WAL that a backup needs: only then can the backup be restored.

use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::class::{Class, Classified};
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::retry::Backoff;
use crate::timeline::TimelineId;
use crate::vault::{ObjectName, Vault, WalName};

/// Between looks: soon at first, since WAL is mostly just on its way.
const FIRST_POLL: Duration = Duration::from_millis(10);
const LONGEST_POLL: Duration = Duration::from_millis(250);

/// A range of one node's WAL.
#[derive(Clone, Debug)]
pub(super) struct Needed {
    pub(super) node: NodeName,
    pub(super) timeline: TimelineId,
    pub(super) segment_bytes: u32,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
}

impl Needed {
    /// Waits until all of it is held; no longer than `patience` while nothing comes.
    pub(super) async fn wait(&self, vault: &Vault, patience: Duration) -> Result<(), Error> {
        let mut held = self.from;
        let mut moved = Instant::now();
        let mut poll = Backoff::new(FIRST_POLL, LONGEST_POLL);
        loop {
            let now = match self.held(vault, held).await {
                // Zones that do not answer now are waited for as an agent is.
                Err(error) if error.class() == Class::Transient && moved.elapsed() < patience => {
                    tracing::warn!(%error, "the zones do not tell how far WAL is held");
                    held
                }
                asked => asked?,
            };
            if now >= self.to {
                return Ok(());
            }
            if now > held {
                (held, moved) = (now, Instant::now());
                poll.reset();
            }
            if moved.elapsed() >= patience {
                return Err(Error::NotArchived {
                    node: self.node.clone(),
                    timeline: self.timeline,
                    held,
                    needed: self.to,
                    waited: patience,
                });
            }
            tokio::time::sleep(poll.wait()).await;
        }
    }

    /// Returns how far the WAL is held without a gap, where all before `from` is.
    async fn held(&self, vault: &Vault, from: Lsn) -> Result<Lsn, Error> {
        let failed = |source| Error::Wal { node: self.node.clone(), source };
        let mut held = from;
        while held < self.to {
            let number = held.segment(self.segment_bytes);
            let wal = WalName::new(self.timeline, number, self.segment_bytes);
            let start = held.segment_start(self.segment_bytes);
            let name = ObjectName::Segment { node: self.node.clone(), wal };
            if vault.exists(&name).await.map_err(failed)? {
                held = start.plus(self.segment_bytes.into());
                continue;
            }
            // Begun: what its parts give.
            let bytes = self.segment_bytes;
            let begun =
                vault.segment_bytes(&self.node, self.timeline, number, bytes).await.map_err(failed)?;
            return Ok(begun.map_or(held, |begun| held.max(start.plus(begun.valid.into()))));
        }
        Ok(held)
    }
}
