//! Reading from whichever zone has a good copy.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::GetRange;

use super::ZoneSet;
use super::fault::{Error, Failure, Fault};
use super::zone::Zone;
use crate::ids::ZoneName;

impl ZoneSet {
    /// Reads an object from the first zone that has it.
    pub async fn get(&self, name: &str) -> Result<Bytes, Error> {
        self.copies(name).next(None).await.map(|(_, bytes)| bytes)
    }

    /// Reads bytes of an object from the first zone that has them.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, Error> {
        self.copies(name).next(Some(GetRange::Bounded(range))).await.map(|(_, bytes)| bytes)
    }

    /// Returns the object's copies one after the other, for a caller who may not like the first.
    pub fn copies(&self, name: &str) -> Copies {
        let (well, ill): (Vec<_>, Vec<_>) = self.0.zones.iter().cloned().partition(|zone| zone.is_well());
        Copies {
            name: name.to_owned(),
            left: well.into_iter().chain(ill).collect(),
            failures: Vec::new(),
            absent: 0,
            absence_quorum: self.absence_quorum(),
        }
    }

    /// Returns whether the object exists: an error where too few zones answer to be sure that not.
    pub async fn exists(&self, name: &str) -> Result<bool, Error> {
        let mut copies = self.copies(name);
        while let Some(zone) = copies.left.pop_front() {
            match zone.size(name).await {
                Ok(_) => return Ok(true),
                Err(fault) => copies.refuse(&zone.name, fault),
            }
        }
        match copies.none_left() {
            Error::NotFound { .. } => Ok(false),
            error => Err(error),
        }
    }
}

/// The copies of one object, in the order in which zones are best asked.
#[derive(Debug)]
pub struct Copies {
    name: String,
    left: VecDeque<Arc<Zone>>,
    failures: Vec<Failure>,
    absent: usize,
    absence_quorum: usize,
}

impl Copies {
    /// Reads the next copy (or a range of it). When none is left: the error that tells why each zone
    /// before it did not serve.
    pub async fn next(&mut self, range: Option<GetRange>) -> Result<(ZoneName, Bytes), Error> {
        while let Some(zone) = self.left.pop_front() {
            match zone.get(&self.name, range.clone()).await {
                Ok(bytes) => return Ok((zone.name.clone(), bytes)),
                Err(fault) => self.refuse(&zone.name, fault),
            }
        }
        Err(self.none_left())
    }

    /// Says that a zone's copy did not serve.
    pub fn refuse(&mut self, zone: &ZoneName, fault: Fault) {
        self.absent += usize::from(matches!(fault, Fault::NotFound));
        self.failures.push(Failure { zone: zone.clone(), fault });
    }

    fn none_left(&mut self) -> Error {
        let name = self.name.clone();
        let failures = std::mem::take(&mut self.failures);
        if self.absent >= self.absence_quorum
            && failures.iter().all(|f| !matches!(f.fault, Fault::Damaged(_)))
        {
            Error::NotFound { name }
        } else {
            Error::Unreadable { name, failures }
        }
    }
}
