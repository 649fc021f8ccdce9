//! From a request to a position on each node, from which the cut is searched.

use super::find::{self, Wanted};
use super::log::Log;
use super::request::Request;
use super::settle::{NODES_AT_ONCE, Seen, settle};
use crate::cut::{self, Ended, Known, Side};
use crate::flow;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// How often more of the WAL is looked at for the end of a transaction.
const GROWN_MAX: usize = 3;

/// A node whose WAL can be searched for a moment.
pub(crate) trait Aimed: Seen {
    type Log: Log<Error = Self::Error>;

    fn log(&mut self) -> &mut Self::Log;

    /// Returns how far its clock is ahead, in microseconds.
    fn ahead(&self) -> i64;

    /// Goes to the WAL before the last gap; returns whether there is any.
    fn step_back(&mut self) -> bool;

    /// Notes about which time the cut will be, where the request did not say one.
    async fn about(&mut self, time: Moment) -> Result<(), Self::Error>;

    /// Returns the position of the first record after a time; the text says why there is none.
    async fn start_at(&mut self, time: Moment) -> Result<Result<Lsn, String>, Self::Error>;

    /// Says why the node cannot stop there, where it cannot.
    fn refuses(&mut self, stop: Lsn) -> Option<String>;
}

/// Why a request names no position.
#[derive(Debug)]
pub(crate) enum Unaimed {
    /// What is asked for lies outside what is known.
    Outside(String),
    /// It has to be asked for in another way: why, and how.
    Ask(String, String),
    Cut(cut::Error),
}

type Starts = Result<Vec<Lsn>, Unaimed>;

/// Returns where each node stands at a moment that is said as a time, a restore point, a transaction or a
/// position. Not for the ends of what is known: those the caller knows.
pub(crate) async fn aim<N: Aimed>(nodes: &mut [N], request: &Request) -> Result<Starts, N::Error> {
    match request {
        Request::Time(time) | Request::AtOrAfter(time) => starts_at(nodes, *time).await,
        Request::RestorePoint(name) => at_point(nodes, name).await,
        Request::BeforeTransaction { gid, near } => before(nodes, &Wanted::new(gid), *near).await,
        Request::Stop { node, lsn } => {
            let Some(at) = nodes.iter().position(|one| one.name() == node) else {
                let names: Vec<&str> = nodes.iter().map(|node| node.name().as_str()).collect();
                let hint = format!("the nodes are {}", names.join(", "));
                return Ok(Err(Unaimed::Ask(format!("there is no node {node}"), hint)));
            };
            at_position(nodes, at, *lsn).await
        }
        Request::Latest | Request::Earliest => Ok(Ok(vec![Lsn::MAX; nodes.len()])),
    }
}

async fn starts_at<N: Aimed>(nodes: &mut [N], time: Moment) -> Result<Starts, N::Error> {
    let nodes = nodes.iter_mut().collect();
    let starts = flow::try_map(nodes, NODES_AT_ONCE, |node: &mut N| node.start_at(time)).await?;
    Ok(starts.into_iter().collect::<Result<_, _>>().map_err(Unaimed::Outside))
}

async fn at_point<N: Aimed>(nodes: &mut [N], name: &str) -> Result<Starts, N::Error> {
    let mut starts = Vec::new();
    for node in nodes {
        let found = loop {
            let found = find::point(node.log(), name).await?;
            if found.is_some() || !node.step_back() {
                break found;
            }
        };
        let why = match found {
            None => Some(format!("the WAL of {} has no restore point of that name", node.name())),
            Some(end) => node.refuses(end),
        };
        match why {
            Some(why) => return Ok(Err(Unaimed::Outside(why))),
            None => starts.extend(found),
        }
    }
    Ok(Ok(starts))
}

async fn at_position<N: Aimed>(nodes: &mut [N], at: usize, lsn: Lsn) -> Result<Starts, N::Error> {
    let Some(node) = nodes.get_mut(at) else { return Ok(Ok(Vec::new())) };
    let name = node.name().clone();
    while node.log().number_of(lsn) < node.log().ends().0 && node.step_back() {}
    let (first, last) = node.log().ends();
    let end = node.log().told(last).await?.end;
    if lsn < node.log().start_of(first) || lsn > end {
        let from = node.log().start_of(first);
        return Ok(Err(Unaimed::Outside(format!("the WAL of {name} goes from {from} to {end}"))));
    }
    let Some(own) = find::time_before(node.log(), lsn).await? else {
        let why = format!("no transaction ended on {name} before {lsn} in the known WAL");
        return Ok(Err(Unaimed::Outside(why)));
    };
    let time = own.plus_micros(node.ahead().saturating_neg());
    if let Some(why) = node.refuses(lsn) {
        return Ok(Err(Unaimed::Outside(why)));
    }
    let starts = all_about(nodes, time).await?;
    Ok(starts.map(|mut starts| {
        starts.iter_mut().skip(at).take(1).for_each(|start| *start = lsn);
        starts
    }))
}

async fn all_about<N: Aimed>(nodes: &mut [N], time: Moment) -> Result<Starts, N::Error> {
    let each = nodes.iter_mut().collect();
    flow::try_map(each, NODES_AT_ONCE, |node: &mut N| node.about(time)).await?;
    starts_at(nodes, time).await
}

async fn before<N: Aimed>(
    nodes: &mut [N],
    wanted: &Wanted<'_>,
    near: Option<Moment>,
) -> Result<Starts, N::Error> {
    let mut prepared = Vec::new();
    for node in nodes.iter_mut() {
        let found = loop {
            let own = near.map(|near| near.plus_micros(node.ahead()));
            let found = find::prepared(node.log(), wanted, own).await?;
            if !found.is_empty() || !node.step_back() {
                break found;
            }
        };
        let ahead = node.ahead();
        prepared.extend(found.into_iter().map(|time| time.plus_micros(ahead.saturating_neg())));
    }
    let time = match (find::uses(prepared).as_slice(), near) {
        ([], _) => {
            let within = near.map(|near| format!(" within an hour of {near}")).unwrap_or_default();
            let why = format!("no transaction {} was prepared{within} in the known WAL", wanted.text());
            return Ok(Err(Unaimed::Outside(why)));
        }
        ([time], _) => *time,
        (times, Some(near)) => {
            let nearest = times.iter().min_by_key(|time| time.micros_since(near).abs());
            *nearest.expect("there are several")
        }
        (times, None) => {
            let list: Vec<String> = times.iter().map(Moment::to_string).collect();
            let what =
                format!("{} names {} transactions: of {}", wanted.text(), times.len(), list.join(", "));
            return Ok(Err(Unaimed::Ask(what, "add --time with one of these times".to_owned())));
        }
    };
    let starts = match all_about(nodes, time).await? {
        Ok(starts) => starts,
        Err(why) => return Ok(Err(why)),
    };
    let ends = match ends(nodes, &starts, wanted, time).await? {
        Ok(ends) => ends,
        Err(why) => return Ok(Err(why)),
    };
    let in_true_time = |end: &Ended| {
        let ahead = nodes.get(end.node).map_or(0, N::ahead);
        end.time.plus_micros(ahead.saturating_neg())
    };
    let Some(first) = ends.iter().map(in_true_time).min() else {
        let what =
            format!("transaction {} was never committed, as far as the known WAL tells", wanted.text());
        return Ok(Err(Unaimed::Ask(what, "it is in no state; ask for a time".to_owned())));
    };
    let starts = starts_at(nodes, first.plus_micros(-1)).await?;
    Ok(starts.map(|starts| {
        let limit = |at| ends.iter().filter(|end| end.node == at).map(|end| end.lsn).min();
        let limited = |(at, start): (usize, Lsn)| limit(at).map_or(start, |lsn| start.min(lsn));
        starts.into_iter().enumerate().map(limited).collect()
    }))
}

/// Returns the records that made a transaction final which was prepared at about `time`.
async fn ends<N: Aimed>(
    nodes: &mut [N],
    starts: &[Lsn],
    wanted: &Wanted<'_>,
    time: Moment,
) -> Result<Result<Vec<Ended>, Unaimed>, N::Error> {
    for _ in 0..=GROWN_MAX {
        let (histories, _) = settle(nodes, starts, false).await?;
        let ends = match Known::new(&histories) {
            Ok(known) => known.ends_of(wanted, time),
            Err(error) => return Ok(Err(Unaimed::Cut(error))),
        };
        let mut grown = false;
        for node in nodes.iter_mut().filter(|_| ends.is_empty()) {
            grown |= node.grow(Side::Later);
        }
        if !grown {
            return Ok(Ok(ends));
        }
    }
    Ok(Ok(Vec::new()))
}
