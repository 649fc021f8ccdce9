//! Sealed objects by name: the only place that forms an object's name, and the only door between the
//! jobs and the zones.
//!
//! put: plain bytes -> sealed under the object's full name -> a quorum of zones
//! get: the healthiest zone -> opened -> or damage noted, and the next zone
//!
//! Nothing leaves here that did not authenticate. Nothing is overwritten: the same plain bytes under
//! one name are taken as done, others are refused. A vault opened with [`Access::Read`] writes nothing.

mod backups;
mod catalog;
mod clocks;
mod error;
mod holdings;
mod keys;
mod layout;
mod mend;
mod objects;
mod segment;
mod segments;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use backups::{ManifestBlocks, ManifestSealer};
pub use catalog::{Catalog, Near, NodeCatalog};
pub use error::Error;
pub use holdings::{doomed_names, holdings, outgrown_clocks, spent_tombstones};
pub use layout::{ObjectName, WalName, kept_segment_bytes};
pub use mend::Mended;
pub use objects::Stored;
pub use segment::SegmentBytes;
pub use segments::{PartRange, SegmentState, Segments, Stretch};

use tokio::sync::Semaphore;

use crate::ids::{ClusterName, ZoneName};
use crate::seal::{Form, KeyId, KeyRing, MasterKey, ObjectKey, Opener, Sealer};
use crate::zones::ZoneSet;

/// What the vault may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing is ever written.
    Read,
    Write,
}

/// The sealed objects of one cluster. A clone is the same vault.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    zones: ZoneSet,
    cluster: ClusterName,
    access: Access,
    master: MasterKey,
    ring: RwLock<Arc<KeyRing>>,
    damage: Mutex<BTreeMap<(String, ZoneName), String>>,
    openers: Mutex<HashMap<String, Arc<Opener>>>,
    /// Who may decrypt and decompress now.
    opening: Semaphore,
}

/// A copy that was not what had been stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    pub object: String,
    pub zone: ZoneName,
    pub problem: String,
}

/// More damaged copies than this need no list, but help.
const DAMAGE_MAX: usize = 10_000;

impl Vault {
    /// Opens the vault of `cluster`: reads its keys, and with [`Access::Write`] makes the first one.
    pub async fn open(
        zones: ZoneSet,
        master: MasterKey,
        cluster: ClusterName,
        access: Access,
    ) -> Result<Self, Error> {
        let vault = Vault(Arc::new(Inner {
            zones,
            cluster,
            access,
            master,
            ring: RwLock::default(),
            damage: Mutex::default(),
            openers: Mutex::default(),
            opening: Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from)),
        }));
        vault.open_keys().await?;
        Ok(vault)
    }

    pub fn cluster(&self) -> &ClusterName {
        &self.0.cluster
    }

    pub fn zones(&self) -> &ZoneSet {
        &self.0.zones
    }

    pub fn access(&self) -> Access {
        self.0.access
    }

    /// Returns which master key opened this vault.
    pub fn key_id(&self) -> KeyId {
        self.0.master.id()
    }

    /// Returns the damaged copies met so far, and not repaired.
    pub fn damage(&self) -> Vec<Damage> {
        let damage = self.0.damage.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = |((object, zone), problem): (&(String, ZoneName), &String)| Damage {
            object: object.clone(),
            zone: zone.clone(),
            problem: problem.clone(),
        };
        damage.iter().map(copy).collect()
    }

    fn note_damage(&self, object: &str, zone: &ZoneName, problem: &str) {
        tracing::warn!(%zone, object, problem, "damaged copy; another zone is read");
        let mut damage = self.0.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.len() < DAMAGE_MAX {
            damage.insert((object.to_owned(), zone.clone()), problem.to_owned());
        }
    }

    /// Begins an object that will be put with [`Vault::put_sealed`]; `level` is zstd's.
    pub fn sealer(&self, name: &ObjectName, level: i32) -> Result<Sealer, Error> {
        Ok(Sealer::new(self.ring().current().ok_or(Error::NoKey)?, &self.path(name), form(name), level))
    }

    /// Makes the key of an object whose chunks several threads seal; see [`crate::seal`].
    pub fn object_key(&self, name: &ObjectName, level: i32) -> Result<ObjectKey, Error> {
        Ok(ObjectKey::new(self.ring().current().ok_or(Error::NoKey)?, &self.path(name), form(name), level))
    }

    /// Returns the object's full name, as zones know it.
    pub fn path(&self, name: &ObjectName) -> String {
        name.path(&self.0.cluster)
    }

    fn must_write(&self, object: &str) -> Result<(), Error> {
        match self.0.access {
            Access::Write => Ok(()),
            Access::Read => Err(Error::ReadOnly { object: object.to_owned() }),
        }
    }
}

/// What an object's chunks hold: packs, files of a data directory.
fn form(name: &ObjectName) -> Form {
    if matches!(name, ObjectName::Pack { .. }) { Form::Pages } else { Form::Bytes }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({}, {:?}, {:?})", self.0.cluster, self.0.access, self.0.master)
    }
}

#[cfg(test)]
mod tests;
