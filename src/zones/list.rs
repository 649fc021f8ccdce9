//! What is where: the union of what the zones list.

use std::collections::{BTreeMap, BTreeSet};

use super::ZoneSet;
use super::fault::{Error, Failure};
use crate::ids::ZoneName;
use crate::moment::Moment;

/// Some of the zones of a set, by their order in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneMask(pub u32);

impl ZoneMask {
    pub fn contains(self, zone: usize) -> bool {
        self.0 & (1 << zone) != 0
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    fn insert(&mut self, zone: usize) {
        self.0 |= 1 << zone;
    }
}

/// An object as the zones list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// Of its longest copy, in bytes.
    pub size: u64,
    /// When its youngest copy was written.
    pub modified: Moment,
    /// The zones that list it.
    pub zones: ZoneMask,
    /// Its copies have different lengths: at least one is not what was written.
    pub uneven: bool,
}

/// What zones list together.
#[derive(Debug)]
pub struct Listing {
    /// By rising name.
    pub objects: Vec<Listed>,
    /// The zones that answered.
    pub answered: ZoneMask,
    /// The zones that did not.
    pub silent: Vec<Failure>,
    /// So many zones answered that nothing a quorum ever held can be missing.
    pub complete: bool,
}

impl ZoneSet {
    /// Lists the objects in the folder `prefix` and below. Works with any one zone; see
    /// [`Listing::complete`].
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let asked = self.0.zones.iter().map(|zone| zone.list(prefix));
        let mut union: BTreeMap<String, Listed> = BTreeMap::new();
        let (mut answered, mut silent) = (ZoneMask::default(), Vec::new());
        for (number, found) in futures::future::join_all(asked).await.into_iter().enumerate() {
            let found = match found {
                Ok(found) => found,
                Err(fault) => {
                    silent.push(Failure { zone: self.zone_name(number), fault });
                    continue;
                }
            };
            answered.insert(number);
            for (name, meta) in found {
                let modified = Moment::from_unix_micros(meta.last_modified.timestamp_micros());
                let size = meta.size;
                let listed = union.entry(name).or_insert_with_key(|name| Listed {
                    name: name.clone(),
                    size,
                    modified,
                    zones: ZoneMask::default(),
                    uneven: false,
                });
                listed.uneven |= listed.size != size;
                listed.size = listed.size.max(size);
                listed.modified = listed.modified.max(modified);
                listed.zones.insert(number);
            }
        }
        if answered.count() == 0 {
            return Err(Error::Unlisted { prefix: prefix.to_owned(), failures: silent });
        }
        let complete = answered.count() >= self.absence_quorum();
        Ok(Listing { objects: union.into_values().collect(), answered, silent, complete })
    }

    /// Returns the names of the folders directly in the folder `prefix`, of all zones that answer.
    pub async fn folders(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let asked = self.0.zones.iter().map(|zone| zone.folders(prefix));
        let (mut union, mut failures) = (BTreeSet::new(), Vec::new());
        for (number, found) in futures::future::join_all(asked).await.into_iter().enumerate() {
            match found {
                Ok(found) => union.extend(found),
                Err(fault) => failures.push(Failure { zone: self.zone_name(number), fault }),
            }
        }
        if failures.len() == self.0.zones.len() {
            return Err(Error::Unlisted { prefix: prefix.to_owned(), failures });
        }
        Ok(union)
    }

    fn zone_name(&self, number: usize) -> ZoneName {
        self.0.zones.get(number).map(|zone| zone.name.clone()).expect("numbers come from the zones")
    }
}
