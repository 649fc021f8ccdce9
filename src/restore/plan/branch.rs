//! Which timeline each node follows, and what that leaves aside.
//!
//! As with PostgreSQL's `recovery_target_timeline`, a node follows its newest timeline unless another is asked for.
//! A promotion may have lost WAL: then the timeline before it goes on past the point where the new one left it. What
//! is there was committed once, maybe with parts on other nodes that those still have; it is in no state that the
//! cluster had later. So it is left aside unless it is asked for, and said where the moment asked for lies in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Error;
use super::line::{Line, history_of, timelines};
use super::span::Span;
use crate::cut::look::Log;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::restore::window::Timelines;
use crate::timeline::{Ancestor, TimelineId};
use crate::vault::NodeCatalog;

/// The timelines asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Of all nodes that are not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<TimelineId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub of: BTreeMap<NodeName, TimelineId>,
}

impl Follow {
    pub fn is_newest(&self) -> bool {
        *self == Follow::default()
    }

    /// Returns what each node follows, where it is not simply its newest timeline.
    pub(super) fn resolve(&self, nodes: &[(&NodeName, &NodeCatalog)]) -> Result<Timelines, Error> {
        if let Some(stranger) = self.of.keys().find(|name| !nodes.iter().any(|(node, _)| node == name)) {
            let names: Vec<&str> = nodes.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::Ask {
                what: format!("a timeline is asked for of {stranger}, which is no node of this restore"),
                hint: format!("the nodes are {}", names.join(", ")),
            });
        }
        let mut resolved = Timelines::new();
        for (name, node) in nodes {
            let Some(asked) = self.of.get(*name).copied().or(self.all) else { continue };
            let known = timelines(node);
            if !known.contains(&asked) {
                let known: Vec<String> = known.iter().map(TimelineId::to_string).collect();
                return Err(Error::Ask {
                    what: format!("nothing is archived of timeline {asked} of {name}"),
                    hint: format!("{name} has WAL of timeline {}", known.join(", ")),
                });
            }
            resolved.insert((*name).clone(), asked);
        }
        Ok(resolved)
    }
}

/// Says that a node follows a timeline that is not its newest.
pub(super) fn not_newest(line: &Line<'_>) -> Option<String> {
    let (own, newest) = (line.history().timeline, *timelines(line.catalog).last()?);
    (own != newest).then(|| {
        format!(
            "{} follows timeline {own}, as asked: what it wrote on others, up to timeline {newest}, is not restored",
            line.node
        )
    })
}

/// WAL that a promotion left aside.
struct Aside {
    /// The timeline that goes on, and where the one that is followed left it.
    left: Ancestor,
    /// The newest time stamp on it.
    newest: Moment,
}

/// Says that a moment lies in WAL which the promotion at `start` left aside.
pub(super) async fn left_aside(
    span: &mut Span<'_>,
    start: Lsn,
    time: Moment,
) -> Result<Option<String>, Error> {
    let line = &span.line;
    let left = line.history().ancestors.iter().rev().find(|ancestor| ancestor.end <= start).copied();
    let (Some(left), true) = (left, start != Lsn::MAX) else { return Ok(None) };
    let number = line.number_of(start);
    let (events, _) = span.events(number).await?;
    let Some(promoted) = events.iter().find(|e| e.lsn == start).and_then(|e| e.what.promotion()) else {
        return Ok(None);
    };
    let line = &span.line;
    let aside = aside(line, left).await?.filter(|aside| aside.newest >= time);
    Ok(aside.map(|Aside { left, newest }| {
        let (node, old) = (line.node, left.timeline);
        format!(
            "{node} was promoted at {promoted} and lost WAL by that: timeline {old} goes on from {} to {newest}, but \
             the new one left it there. This plan follows the new one, so what {node} committed there, and every \
             distributed transaction with a part in it, is left out; --timeline {node}={old} takes it in",
            left.end
        )
    }))
}

async fn aside(line: &Line<'_>, left: Ancestor) -> Result<Option<Aside>, Error> {
    let Some(old) = Line::new(line.vault, line.node, line.catalog, Some(left.timeline)) else {
        return Ok(None);
    };
    // Only what lies beyond the place where it was left counts.
    if history_of(line.catalog, left.timeline).timeline_at(left.end) != left.timeline {
        return Ok(None);
    }
    let mut old = Span::new(old, 0);
    if old.end().await? <= left.end {
        return Ok(None);
    }
    Ok(old.newest_time().await?.map(|newest| Aside { left, newest }))
}
