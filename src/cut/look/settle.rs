//! The cut of several nodes, with more of their WAL until it is certain.

use crate::cut::{self, Cut, NodeHistory, Side, Want};
use crate::flow;
use crate::ids::NodeName;
use crate::lsn::Lsn;

/// Nodes whose WAL is read side by side.
pub(crate) const NODES_AT_ONCE: usize = 8;

/// A node whose WAL is looked at.
pub(crate) trait Seen {
    type Error;

    fn name(&self) -> &NodeName;

    /// Returns what is known around `start`.
    async fn history(&mut self, start: Lsn) -> Result<NodeHistory, Self::Error>;

    /// Looks farther to one side next time; returns whether there is anything more.
    fn grow(&mut self, side: Side) -> bool;
}

/// Histories, and the cut that they give or why there is none.
pub(crate) type Settled = (Vec<NodeHistory>, Result<Cut, cut::Error>);

/// Finds the greatest consistent cut at or before `starts`, or with `is_onward` the least at or after them.
pub(crate) async fn settle<N: Seen>(
    nodes: &mut [N],
    starts: &[Lsn],
    is_onward: bool,
) -> Result<Settled, N::Error> {
    loop {
        let looked = nodes.iter_mut().zip(starts).collect();
        let looked =
            flow::try_map(looked, NODES_AT_ONCE, |(node, start): (&mut N, &Lsn)| node.history(*start));
        let histories = looked.await?;
        let found = if is_onward {
            cut::first_consistent_at_or_after(&histories, starts)
        } else {
            cut::greatest_consistent(&histories, starts)
        };
        let mut grown = false;
        for want in wants(&found) {
            let node = nodes.iter_mut().find(|node| *node.name() == want.node);
            grown |= node.is_some_and(|node| node.grow(want.side));
        }
        if !grown {
            return Ok((histories, found));
        }
    }
}

fn wants(found: &Result<Cut, cut::Error>) -> Vec<Want> {
    match found {
        Ok(cut) => cut.wants.clone(),
        Err(cut::Error::Before { node, .. } | cut::Error::TooEarly { other: node, .. }) => {
            vec![Want { node: node.clone(), side: Side::Earlier }]
        }
        Err(cut::Error::TooLate { other: node, .. }) => {
            vec![Want { node: node.clone(), side: Side::Later }]
        }
        Err(_) => Vec::new(),
    }
}
