//! The vault's epoch keys: read when it opens, and again when an object names one that is new.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::layout::folder;
use super::{Access, Error, ObjectName, Vault};
use crate::seal::{EpochKey, KeyId, KeyRing};
use crate::zones::Fault;

impl Vault {
    pub(super) fn ring(&self) -> Arc<KeyRing> {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_ring(&self, ring: KeyRing) {
        *self.0.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    pub(super) async fn open_keys(&self) -> Result<(), Error> {
        if self.0.access == Access::Write {
            self.0.zones.begin().await?;
        }
        let found = self.read_keys().await?;
        if found.newest.is_none() && !found.others.is_empty() {
            return Err(Error::WrongKey {
                cluster: self.0.cluster.clone(),
                given: self.0.master.id(),
                known: found.others.into_iter().collect(),
            });
        }
        let (name, sealed) = match (found.newest, self.0.access) {
            (Some(newest), _) => newest,
            (None, Access::Read) => return Err(Error::NoVault { cluster: self.0.cluster.clone() }),
            (None, Access::Write) if !found.complete => {
                return Err(Error::Unsure { cluster: self.0.cluster.clone() });
            }
            (None, Access::Write) => self.first_key(),
        };
        if self.0.access == Access::Write {
            for key in self.damaged_objects() {
                self.mend_copies(&key, &self.0.zones.names()).await?;
            }
            // Nothing may be sealed under a key that only one zone holds, as after a crash of its maker.
            self.0.zones.put(&name, sealed).await?;
        }
        Ok(())
    }

    fn first_key(&self) -> (String, Bytes) {
        let key = EpochKey::generate();
        let name = self.path(&ObjectName::Key { epoch: key.id(), master: self.0.master.id() });
        let sealed = key.wrap(&self.0.master, &name);
        let mut ring = KeyRing::new();
        ring.insert(key);
        self.set_ring(ring);
        (name, sealed.into())
    }

    /// Reads all keys anew: another writer may have begun an epoch.
    pub(super) async fn refresh_keys(&self) -> Result<(), Error> {
        self.read_keys().await.map(drop)
    }

    async fn read_keys(&self) -> Result<Found, Error> {
        let listing = self.0.zones.list(&folder::keys(&self.0.cluster)).await?;
        let mut found = Found { newest: None, others: BTreeSet::new(), complete: listing.complete };
        let mut ring = KeyRing::new();
        for listed in listing.objects {
            let Some(ObjectName::Key { master, .. }) = ObjectName::parse(&self.0.cluster, &listed.name)
            else {
                continue;
            };
            if master != self.0.master.id() {
                found.others.insert(master);
                continue;
            }
            let (key, sealed) = self.read_key(&listed.name).await?;
            ring.insert(key);
            found.newest = Some((listed.name, sealed));
        }
        self.set_ring(ring);
        Ok(found)
    }

    async fn read_key(&self, name: &str) -> Result<(EpochKey, Bytes), Error> {
        let mut copies = self.0.zones.copies(name, None);
        loop {
            let (zone, sealed) = copies.next().await?;
            match EpochKey::unwrap(&self.0.master, name, &sealed) {
                Ok(key) if ends_in(name, &key) => return Ok((key, sealed)),
                Ok(_) => copies.refuse(&zone, Fault::Damaged("it holds another epoch's key".into())),
                Err(error) => {
                    self.note_damage(name, &zone, &error.to_string());
                    copies.refuse(&zone, Fault::Damaged(error.to_string()));
                }
            }
        }
    }
}

fn ends_in(name: &str, key: &EpochKey) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.starts_with(&key.id().to_string()))
}

/// The keys that zones hold.
struct Found {
    /// The youngest of ours, as stored.
    newest: Option<(String, Bytes)>,
    /// Master keys for which others were wrapped.
    others: BTreeSet<KeyId>,
    complete: bool,
}
