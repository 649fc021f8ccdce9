//! How far each node's clock was ahead at the moment asked for: as the operator says, else as its agent sampled it.

use super::document::{ClockSource, NodePlan};
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::manifest::clock::{ClockDoc, Reference};
use crate::moment::Moment;
use crate::skew::{Neighbours, Skew};
use crate::vault::{NodeCatalog, Vault};

/// One node's clock at the moment asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    /// In microseconds.
    pub(super) ahead: i64,
    /// Up to so much more or less; `None` where nobody measured.
    pub(super) uncertain: Option<i64>,
    pub(super) source: ClockSource,
    /// The samples that were found around the moment.
    near: Neighbours,
}

impl NodeClock {
    /// Taken to be right, where no moment is asked for or nothing is known.
    pub(super) fn taken_as_right(source: ClockSource) -> Self {
        NodeClock { ahead: 0, uncertain: None, source, near: Neighbours::default() }
    }

    pub(super) fn given(ahead: i64) -> Self {
        NodeClock { ahead, uncertain: Some(0), source: ClockSource::Given, near: Neighbours::default() }
    }

    /// Reads what was sampled around `moment`, at most two objects, and says in `notes` what cannot be read.
    pub(super) async fn sampled(
        vault: &Vault,
        node: &NodeName,
        catalog: &NodeCatalog,
        moment: Moment,
        notes: &mut Vec<String>,
    ) -> Self {
        let mut docs = Vec::new();
        for name in catalog.clocks_around(node, moment) {
            match vault.clock(&name).await {
                Ok(doc) => docs.push(doc),
                Err(error) => {
                    notes.push(format!("what was sampled of {node}'s clock cannot be read: {error}"))
                }
            }
        }
        NodeClock::of(&docs, moment)
    }

    /// Returns where the node's WAL ended when, by its own clock.
    pub(super) fn marks(&self) -> Vec<(Moment, Lsn)> {
        let samples = self.near.before.into_iter().chain(self.near.after);
        samples.filter_map(|s| Some((s.at.plus_micros(s.ahead_micros), s.lsn?))).collect()
    }

    fn of(docs: &[ClockDoc], moment: Moment) -> Self {
        let near = Neighbours::of(docs.iter().flat_map(|doc| &doc.samples), moment);
        if !docs.is_empty() && docs.iter().all(|doc| doc.reference == Reference::Own) {
            return NodeClock { ahead: 0, uncertain: Some(0), source: ClockSource::Coordinator, near };
        }
        match near.skew(moment) {
            None => NodeClock::taken_as_right(ClockSource::NotMeasured),
            Some(Skew { ahead_micros, uncertain_micros }) => NodeClock {
                ahead: ahead_micros,
                uncertain: Some(uncertain_micros),
                source: ClockSource::Sampled,
                near,
            },
        }
    }
}

/// Returns how well transactions of different nodes that nothing ties together are ordered, in microseconds: the
/// worst over pairs of nodes. `None` where a clock was not measured.
pub(super) fn order_uncertain(nodes: &[NodePlan]) -> Option<i64> {
    let known: Option<Vec<i64>> = nodes.iter().map(|node| node.clock_uncertain_micros).collect();
    let mut known = known?;
    known.sort_unstable();
    Some(known.iter().rev().take(2).fold(0, |sum, one| sum.saturating_add(*one)))
}
