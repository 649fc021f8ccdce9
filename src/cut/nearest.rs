//! Pairs of two lists of moments of which each is the nearest to the other.

use std::collections::HashSet;

use crate::moment::Moment;

/// What is paired: a span of time, or a moment, and a name for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) from: Moment,
    pub(super) to: Moment,
    pub(super) is: (usize, usize),
}

/// Names of a span and of a moment.
pub(super) type Pair = ((usize, usize), (usize, usize));

/// Takes out and returns the pairs (span, moment) of which each is the nearest to the other and that `judge` takes;
/// it is told how far outside the span the moment lies, in microseconds.
///
/// Spans must not overlap, but at their edges: so the nearest is a neighbour in order of time.
pub(super) fn nearest(
    spans: &mut Vec<Candidate>,
    moments: &mut Vec<Candidate>,
    judge: impl Fn(i64, (usize, usize), (usize, usize)) -> bool,
) -> Vec<Pair> {
    spans.sort_by_key(|span| (span.from, span.is));
    moments.sort_by_key(|moment| (moment.from, moment.is));
    let nearest_span = |moment: &Candidate| {
        let after = spans.partition_point(|span| span.from <= moment.from);
        let near = [after.checked_sub(1), Some(after)].into_iter().flatten();
        near.filter_map(|at| Some((distance(spans.get(at)?, moment.from), at))).min()
    };
    let nearest_moment = |span: &Candidate| {
        let after = moments.partition_point(|moment| moment.from < span.from);
        let near = [after.checked_sub(1), Some(after)].into_iter().flatten();
        near.filter_map(|at| Some((distance(span, moments.get(at)?.from), at))).min()
    };
    let mut pairs = Vec::new();
    for (at, moment) in moments.iter().enumerate() {
        let Some(((outside, _), span_at)) = nearest_span(moment) else { continue };
        let Some(span) = spans.get(span_at) else { continue };
        let is_mutual = nearest_moment(span).is_some_and(|(_, back)| back == at);
        if is_mutual && judge(outside, span.is, moment.is) {
            pairs.push((span.is, moment.is));
        }
    }
    let (taken, gone): (HashSet<_>, HashSet<_>) = pairs.iter().copied().unzip();
    spans.retain(|span| !taken.contains(&span.is));
    moments.retain(|moment| !gone.contains(&moment.is));
    pairs
}

/// Returns how far `at` lies outside the span, and then how far from its beginning.
fn distance(span: &Candidate, at: Moment) -> (i64, u64) {
    let outside = span.from.micros_since(at).max(at.micros_since(span.to)).max(0);
    (outside, at.micros_since(span.from).unsigned_abs())
}
