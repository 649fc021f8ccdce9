//! Several object stores as one: every object is on a quorum of zones before a write is done, and is
//! read from whichever zone has it.
//!
//! put: the same bytes -> all zones at once -> done when a quorum holds them; the rest goes on behind
//! get: the zone in best health -> the next, until the caller likes the bytes
//! delete: in each zone, once no write of this process is under way there under that name
//!
//! Objects are created, never overwritten; a zone that already holds other bytes refuses
//! ([`Error::Clash`]). A zone that fails or hangs rests and is probed now and then; what it missed is
//! remembered here and found again by comparing lists, so nothing but the zones need survive a crash.
//! Bytes in flight to one zone are bounded. This module knows nothing of keys: it moves sealed bytes.

mod fault;
mod file;
mod folder;
mod list;
mod mend;
mod options;
mod read;
mod store;
mod write;
mod writing;
mod zone;

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use tokio_util::task::TaskTracker;

pub use fault::{Error, Failure, Fault};
pub use folder::create_folder;
pub use list::{Listed, Listing, ZoneMask};
pub use mend::Added;
pub use options::ZoneOptions;
pub use read::Copies;
pub use write::{Judge, PutOutcome, Verdict};
pub use zone::ZoneStatus;

use crate::ids::ZoneName;
use folder::State;
use store::Store;
use zone::Zone;

/// The zones of one vault. A clone is the same set.
#[derive(Clone, Debug)]
pub struct ZoneSet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    zones: Vec<Arc<Zone>>,
    write_quorum: usize,
    /// Writes that go on after their quorum was reached.
    behind: TaskTracker,
}

/// As many as a [`ZoneMask`] holds.
const ZONES_MAX: usize = 32;

impl ZoneSet {
    /// Opens zones. No zone is asked anything yet: one that is away shows when it is used.
    pub fn open(zones: Vec<ZoneOptions>, write_quorum: usize) -> Result<Self, Error> {
        let stores = zones.iter().map(|options| Ok((options.name.clone(), Store::open(options)?)));
        Self::assemble(stores.collect::<Result<_, Error>>()?, write_quorum)
    }

    /// Makes a set of stores that were made elsewhere; names of objects are paths from their roots.
    pub fn of_stores(
        stores: Vec<(ZoneName, Arc<dyn ObjectStore>)>,
        write_quorum: usize,
    ) -> Result<Self, Error> {
        let stores = stores.into_iter().map(|(name, store)| (name, Store::remote(store, "")));
        Self::assemble(stores.collect(), write_quorum)
    }

    fn assemble(stores: Vec<(ZoneName, Store)>, write_quorum: usize) -> Result<Self, Error> {
        let zones = stores.len();
        if write_quorum == 0 || write_quorum > zones || zones > ZONES_MAX {
            return Err(Error::Quorum { zones, write_quorum });
        }
        let zones = stores.into_iter().map(|(name, store)| Arc::new(Zone::new(name, store))).collect();
        Ok(ZoneSet(Arc::new(Inner { zones, write_quorum, behind: TaskTracker::new() })))
    }

    pub fn write_quorum(&self) -> usize {
        self.0.write_quorum
    }

    /// Returns how many zones must say that they do not have an object before it is sure that no
    /// quorum ever held it.
    pub fn absence_quorum(&self) -> usize {
        self.0.zones.len() - self.0.write_quorum + 1
    }

    pub fn names(&self) -> Vec<ZoneName> {
        self.0.zones.iter().map(|zone| zone.name.clone()).collect()
    }

    /// Returns how each zone did when it was last used.
    pub fn status(&self) -> Vec<ZoneStatus> {
        self.0.zones.iter().map(|zone| zone.status()).collect()
    }

    /// Waits until no write is under way behind its quorum, or until `most` has passed; returns
    /// whether all ended. For the end of a process: what is cut off is repaired later.
    pub async fn settle(&self, most: Duration) -> bool {
        self.0.behind.close();
        let settled = tokio::time::timeout(most, self.0.behind.wait()).await.is_ok();
        self.0.behind.reopen();
        settled
    }

    /// Marks the folders among these zones as zones, where all of the set is new: no zone that answers
    /// holds anything. Later a folder without the mark is taken for a disk that is not mounted.
    pub async fn begin(&self) -> Result<(), Error> {
        let states = self.0.zones.iter().map(|zone| async move { (zone, zone.state().await) });
        let states = futures::future::join_all(states).await;
        let new: Vec<_> = states.iter().filter(|(_, s)| matches!(s, Ok(State::Empty))).collect();
        if new.is_empty() || states.iter().any(|(_, s)| matches!(s, Ok(State::Used | State::Unmarked))) {
            return Ok(());
        }
        for (zone, _) in new {
            let failed = |fault| Failure { zone: zone.name.clone(), fault };
            zone.mark().await.map_err(|fault| Error::Unmarked { failure: Box::new(failed(fault)) })?;
        }
        Ok(())
    }

    /// Asks each zone whether it answers.
    pub async fn probe(&self) -> Vec<(ZoneName, Result<(), Fault>)> {
        let asked =
            self.0.zones.iter().map(|zone| async { (zone.name.clone(), zone.folders("").await.map(drop)) });
        futures::future::join_all(asked).await
    }
}
