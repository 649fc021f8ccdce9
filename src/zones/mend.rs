//! Single zones, for repair: everything else treats the zones as one.

use bytes::Bytes;

use super::ZoneSet;
use super::fault::Fault;
use super::list::ZoneMask;
use super::store::Created;
use super::zone::{Begun, Zone};
use crate::ids::ZoneName;

/// How adding an object to one zone went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// It was there already.
    Same,
    /// Other bytes are there.
    Other,
}

impl ZoneSet {
    /// Returns the zones of a mask.
    pub fn names_in(&self, mask: ZoneMask) -> Vec<ZoneName> {
        let zones = self.0.zones.iter().enumerate();
        zones.filter(|(number, _)| mask.contains(*number)).map(|(_, zone)| zone.name.clone()).collect()
    }

    fn zone(&self, name: &ZoneName) -> Result<&Zone, Fault> {
        self.0.zones.iter().find(|zone| zone.name == *name).map(|zone| &**zone).ok_or(Fault::Stopped)
    }

    /// Reads the copy of one zone.
    pub async fn get_from(&self, zone: &ZoneName, name: &str) -> Result<Bytes, Fault> {
        self.zone(zone)?.get(name, None, Begun::default()).await
    }

    /// Creates an object in one zone.
    pub async fn add_to(&self, zone: &ZoneName, name: &str, bytes: Bytes) -> Result<Added, Fault> {
        let zone = self.zone(zone)?;
        let writing = zone.begin_write(&name.into());
        let permit = zone.write_permit(bytes.len()).await?;
        let added = match zone.create(permit, writing, bytes.clone()).await? {
            Created::New => Added::New,
            Created::Exists if zone.get(name, None, Begun::default()).await? == bytes => {
                zone.confirm(name).await?;
                Added::Same
            }
            Created::Exists => Added::Other,
        };
        zone.forget_miss(name);
        Ok(added)
    }

    /// Puts good bytes in place of one zone's damaged copy: the only write that does not create.
    pub async fn replace_in(&self, zone: &ZoneName, name: &str, bytes: Bytes) -> Result<(), Fault> {
        let zone = self.zone(zone)?;
        let writing = zone.begin_write(&name.into());
        let permit = zone.write_permit(bytes.len()).await?;
        zone.replace(permit, writing, bytes).await
    }

    /// Deletes one zone's copy.
    pub async fn delete_from(&self, zone: &ZoneName, name: &str) -> Result<(), Fault> {
        self.zone(zone)?.delete(name).await
    }

    /// Returns what zones missed of this process's writes.
    pub fn missed(&self) -> Vec<(ZoneName, Vec<String>)> {
        self.0.zones.iter().map(|zone| (zone.name.clone(), zone.misses())).collect()
    }

    /// Deletes temporary files that crashed writers left in zones that are folders, a day old or more;
    /// returns how many.
    pub async fn sweep_leftovers(&self) -> u64 {
        let swept = self.0.zones.iter().map(|zone| zone.sweep_leftovers());
        futures::future::join_all(swept).await.into_iter().sum()
    }
}
