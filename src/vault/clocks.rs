//! What is stored of a node's clock, found by name: at most two objects tell of a moment.

use super::catalog::document;
use super::{Error, NodeCatalog, ObjectName, Vault};
use crate::ids::NodeName;
use crate::manifest::clock::ClockDoc;
use crate::moment::Moment;

impl NodeCatalog {
    /// Names the objects that tell of the clock last before `moment` and first after it.
    pub fn clocks_around(&self, node: &NodeName, moment: Moment) -> Vec<ObjectName> {
        let before = self.clocks.range(..=moment).next_back();
        let after = self.clocks.range(moment..).find(|(first, _)| **first > moment);
        let after = after.filter(|_| before.is_none_or(|(_, last)| *last <= moment));
        let name = |(first, last): (&Moment, &Moment)| ObjectName::Clock {
            node: node.clone(),
            first: *first,
            last: *last,
        };
        before.into_iter().chain(after).map(name).collect()
    }

    /// Names the object with the newest sample.
    pub fn newest_clock(&self, node: &NodeName) -> Option<ObjectName> {
        let (first, last) = self.clocks.last_key_value()?;
        Some(ObjectName::Clock { node: node.clone(), first: *first, last: *last })
    }
}

impl Vault {
    /// Reads what a clock was found to be. An agent replaces the newest of these objects every minute: where it
    /// is gone since it was listed, the one that replaced it is read.
    pub async fn clock(&self, name: &ObjectName) -> Result<ClockDoc, Error> {
        match document(self, name).await {
            Err(error) if error.is_not_found() => match self.longer_clock(name).await? {
                Some(longer) => document(self, &longer).await,
                None => Err(error),
            },
            read => read,
        }
    }

    async fn longer_clock(&self, name: &ObjectName) -> Result<Option<ObjectName>, Error> {
        let ObjectName::Clock { node, first, .. } = name else { return Ok(None) };
        let listing = self.list(&format!("nodes/{node}/clock")).await?;
        let mut names = listing.objects.iter().filter_map(|o| ObjectName::parse(self.cluster(), &o.name));
        let same = |name: &ObjectName| matches!(name, ObjectName::Clock { first: its, .. } if its == first);
        // By rising end, as names sort.
        Ok(names.rfind(same))
    }
}
