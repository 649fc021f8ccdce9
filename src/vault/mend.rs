//! Copies of one object, compared and made good. Nothing is copied that does not open first.

use std::sync::PoisonError;

use bytes::Bytes;

use super::objects::off_thread;
use super::{Damage, Error, ObjectName, Vault};
use crate::ids::ZoneName;
use crate::seal::{self, EpochKey, KeyRing};
use crate::zones::{Added, Failure, Fault};

/// What was done for the copies of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Zones that hold it now and did not before.
    pub copied: Vec<ZoneName>,
    /// Zones whose damaged copy was replaced.
    pub replaced: Vec<ZoneName>,
    /// No zone has a copy that opens.
    pub unreadable: bool,
    /// Zones whose copies open, and say different things.
    pub conflict: Vec<ZoneName>,
    /// What could not be done now.
    pub left: Vec<String>,
}

impl Vault {
    /// Brings an object to zones that lack it. One that holds another object of that name is checked
    /// like [`Vault::mend_copies`] does.
    pub async fn copy_to(&self, name: &ObjectName, missing: &[ZoneName]) -> Result<Mended, Error> {
        let path = self.path(name);
        self.must_write(&path)?;
        let mut mended = Mended::default();
        let good = match self.first_authentic(name, &path).await {
            Ok(good) => good,
            Err(error) if error.is_not_found() => return Ok(mended),
            Err(Error::Zones(error)) => {
                mended.left.push(error.to_string());
                mended.unreadable = true;
                return Ok(mended);
            }
            Err(error) => return Err(error),
        };
        for zone in missing {
            match self.zones().add_to(zone, &path, good.clone()).await {
                Ok(Added::New) => mended.copied.push(zone.clone()),
                Ok(Added::Same) => {}
                Ok(Added::Other) => return self.mend_copies(name, &self.zones().names()).await,
                Err(fault) => mended.left.push(Failure { zone: zone.clone(), fault }.to_string()),
            }
        }
        Ok(mended)
    }

    async fn first_authentic(&self, name: &ObjectName, path: &str) -> Result<Bytes, Error> {
        let name = name.clone();
        let own = path.to_owned();
        let master = self.0.master.clone();
        self.first_good(path, None, move |ring, sealed| {
            contents(&name, &own, ring, &master, sealed).map(|_| sealed.clone())
        })
        .await
    }

    /// Opens the copies that `zones` hold of an object, and puts a good one in place of those that do
    /// not open.
    pub async fn mend_copies(&self, name: &ObjectName, zones: &[ZoneName]) -> Result<Mended, Error> {
        let path = self.path(name);
        self.must_write(&path)?;
        let mut mended = Mended::default();
        let mut good: Option<Good> = None;
        let mut bad: Vec<ZoneName> = Vec::new();
        for zone in zones {
            let sealed = match self.zones().get_from(zone, &path).await {
                Ok(sealed) => sealed,
                Err(Fault::NotFound) => continue,
                Err(Fault::Huge(_)) => {
                    bad.push(zone.clone());
                    continue;
                }
                Err(fault) => {
                    mended.left.push(Failure { zone: zone.clone(), fault }.to_string());
                    continue;
                }
            };
            if good.as_ref().is_some_and(|good| good.sealed == sealed) {
                self.forget_damage(&path, zone);
                continue;
            }
            match self.contents(name, &path, sealed.clone()).await? {
                Ok(plain) => match &good {
                    None => {
                        good = Some(Good { zone: zone.clone(), sealed, plain });
                        self.forget_damage(&path, zone);
                    }
                    // Sealed twice, as after a crash between zones: one of them serves.
                    Some(good) if good.plain == plain => {
                        if good.sealed.len() != sealed.len() {
                            bad.push(zone.clone());
                        }
                    }
                    Some(good) => mended.conflict.extend([good.zone.clone(), zone.clone()]),
                },
                Err(error) => {
                    self.note_damage(&path, zone, &error.to_string());
                    bad.push(zone.clone());
                }
            }
        }
        let Some(good) = good else {
            mended.unreadable = !bad.is_empty();
            return Ok(mended);
        };
        for zone in bad {
            match self.zones().replace_in(&zone, &path, good.sealed.clone()).await {
                Ok(()) => {
                    self.forget_damage(&path, &zone);
                    mended.replaced.push(zone);
                }
                Err(fault) => mended.left.push(Failure { zone, fault }.to_string()),
            }
        }
        Ok(mended)
    }

    /// Opens one copy; the outer error is ours, the inner one the copy's.
    async fn contents(
        &self,
        name: &ObjectName,
        path: &str,
        sealed: Bytes,
    ) -> Result<Result<Vec<u8>, seal::Error>, Error> {
        let mut refreshed = false;
        loop {
            let (name, path, sealed) = (name.clone(), path.to_owned(), sealed.clone());
            let (ring, master) = (self.ring(), self.0.master.clone());
            match off_thread(move || Ok(contents(&name, &path, &ring, &master, &sealed))).await? {
                Err(seal::Error::UnknownEpoch { .. }) if !refreshed => {
                    refreshed = true;
                    self.refresh_keys().await?;
                }
                other => return Ok(other),
            }
        }
    }

    fn forget_damage(&self, object: &str, zone: &ZoneName) {
        let mut damage = self.0.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.remove(&(object.to_owned(), zone.clone()));
    }

    /// Returns the objects of which damaged copies were met, by name.
    pub fn damaged_objects(&self) -> Vec<ObjectName> {
        let mut names: Vec<ObjectName> = self
            .damage()
            .iter()
            .filter_map(|Damage { object, .. }| ObjectName::parse(self.cluster(), object))
            .collect();
        names.dedup();
        names
    }
}

/// The first copy that opened.
struct Good {
    zone: ZoneName,
    sealed: Bytes,
    plain: Vec<u8>,
}

/// Opens an object of any kind. A key that is wrapped for another master key cannot be opened here: it
/// stands for itself.
fn contents(
    name: &ObjectName,
    path: &str,
    ring: &KeyRing,
    master: &seal::MasterKey,
    sealed: &[u8],
) -> Result<Vec<u8>, seal::Error> {
    match name {
        ObjectName::Key { master: its, .. } if *its != master.id() => Ok(sealed.to_vec()),
        ObjectName::Key { .. } => EpochKey::unwrap(master, path, sealed).map(|_| sealed.to_vec()),
        _ => seal::open(ring, path, sealed),
    }
}
