//! Reading from whichever zone has a good copy.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use object_store::GetRange;

use super::ZoneSet;
use super::fault::{Error, Failure, Fault};
use super::zone::{Begun, Zone};
use crate::ids::ZoneName;

/// A zone that has not begun to answer after so long is not waited for alone.
const PATIENCE: Duration = Duration::from_secs(2);

impl ZoneSet {
    /// Reads an object from the first zone that has it.
    pub async fn get(&self, name: &str) -> Result<Bytes, Error> {
        self.copies(name, None).next().await.map(|(_, bytes)| bytes)
    }

    /// Reads bytes of an object from the first zone that has them.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, Error> {
        self.copies(name, Some(GetRange::Bounded(range))).next().await.map(|(_, bytes)| bytes)
    }

    /// Returns the object's copies (or a range of each) one after the other, for a caller who may not
    /// like the first.
    pub fn copies(&self, name: &str, range: Option<GetRange>) -> Copies {
        let mut left: Vec<Arc<Zone>> = self.0.zones.clone();
        left.sort_by_key(|zone| zone.reluctance());
        Copies {
            name: name.to_owned(),
            range,
            left: left.into(),
            asked: FuturesUnordered::new(),
            failures: Vec::new(),
            absent: 0,
            absence_quorum: self.absence_quorum(),
        }
    }

    /// Returns whether the object exists: an error where too few zones answer to be sure that not.
    pub async fn exists(&self, name: &str) -> Result<bool, Error> {
        let mut copies = self.copies(name, None);
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
pub struct Copies {
    name: String,
    range: Option<GetRange>,
    left: VecDeque<Arc<Zone>>,
    /// Reads under way; more than one only where a zone was slow to begin.
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
    failures: Vec<Failure>,
    absent: usize,
    absence_quorum: usize,
}

type Answer = (ZoneName, Result<Bytes, Fault>);

impl Copies {
    /// Reads the next copy. When none is left: the error that tells why each zone before it did not
    /// serve.
    pub async fn next(&mut self) -> Result<(ZoneName, Bytes), Error> {
        // The zone asked last, while it may still be waited for alone.
        let mut newest = if self.asked.is_empty() { self.ask() } else { None };
        while !self.asked.is_empty() {
            tokio::select! {
                biased;
                Some((zone, result)) = self.asked.next() => match result {
                    Ok(bytes) => return Ok((zone, bytes)),
                    Err(fault) => {
                        self.refuse(&zone, fault);
                        if self.asked.is_empty() {
                            newest = self.ask();
                        }
                    }
                },
                () = tokio::time::sleep(PATIENCE), if newest.is_some() => {
                    if let Some((zone, begun)) = newest.take()
                        && !begun.has_begun()
                    {
                        zone.note_slow();
                        newest = self.ask();
                    }
                }
            }
        }
        Err(self.none_left())
    }

    /// Begins to read from the next zone.
    fn ask(&mut self) -> Option<(Arc<Zone>, Begun)> {
        let zone = self.left.pop_front()?;
        let begun = Begun::default();
        let (asked, tell) = (zone.clone(), begun.clone());
        let (name, range) = (self.name.clone(), self.range.clone());
        self.asked.push(Box::pin(async move {
            let result = asked.get(&name, range, tell).await;
            (asked.name.clone(), result)
        }));
        Some((zone, begun))
    }

    /// Says that a zone's copy did not serve.
    pub fn refuse(&mut self, zone: &ZoneName, fault: Fault) {
        self.absent += usize::from(matches!(fault, Fault::NotFound));
        self.failures.push(Failure { zone: zone.clone(), fault });
    }

    pub(super) fn none_left(&mut self) -> Error {
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
