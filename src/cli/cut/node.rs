//! One node of `pitrus cut`: a directory of WAL, and how far its clock is ahead.

use crate::cut::look::{Aimed, Log, Seen, View};
use crate::cut::{NodeHistory, Side};
use crate::ids::{GroupId, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::wal::event::Event;
use crate::waldir::{Error, WalDir};

pub(super) struct Node {
    pub(super) group: GroupId,
    name: NodeName,
    pub(super) dir: WalDir,
    ahead: i64,
    view: View,
    /// What was found while the moment was looked for.
    pub(super) notes: Vec<String>,
}

impl Node {
    pub(super) fn new(group: GroupId, dir: WalDir, ahead: i64) -> Self {
        let name = name(group);
        Node { group, name, dir, ahead, view: View::new(), notes: Vec::new() }
    }

    /// Returns the time stamp of the record that begins there.
    pub(super) async fn time_at(&mut self, lsn: Lsn) -> Result<Option<Moment>, Error> {
        let (first, last) = self.dir.ends();
        let number = self.dir.number_of(lsn);
        let mut time = None;
        if (first..=last).contains(&number) {
            let mut see = |event: &Event| {
                if event.lsn == lsn {
                    time = event.what.time();
                }
            };
            self.dir.events_of(number, &mut see).await?;
        }
        Ok(time)
    }

    /// Says that a moment lies in WAL which the promotion at `start` left aside.
    async fn left_aside(&mut self, start: Lsn, time: Moment) -> Result<Option<String>, Error> {
        let mut promoted = None;
        if start != Lsn::MAX {
            let mut see = |event: &Event| {
                if event.lsn == start {
                    promoted = event.what.promotion();
                }
            };
            self.dir.events_of(self.dir.number_of(start), &mut see).await?;
        }
        let Some(promoted) = promoted else { return Ok(None) };
        let Some((mut old, left)) = self.dir.left_aside(start)? else { return Ok(None) };
        let newest = old.newest_time().await?.filter(|newest| *newest >= time);
        Ok(newest.map(|newest| {
            let (group, timeline) = (self.group, left.timeline);
            format!(
                "node {group} was promoted at {promoted} and lost WAL by that: timeline {timeline} goes on from {} to                  {newest}, but the new one left it there, and with it what was committed there and every distributed                  transaction with a part in it; --timeline {group}={timeline} takes it in",
                left.end
            )
        }))
    }

    /// Returns the first and last time stamp of the stretch looked at, in true time.
    pub(super) async fn times(&mut self) -> Result<Option<(Moment, Moment)>, Error> {
        let oldest = self.dir.oldest_time()?;
        let newest = self.dir.newest_time().await?;
        let true_time = |own: Moment| own.plus_micros(self.ahead.saturating_neg());
        Ok(oldest.map(true_time).zip(newest.map(true_time)))
    }
}

/// Returns what a node is called in sentences.
pub(super) fn name(group: GroupId) -> NodeName {
    format!("node-{group}").parse().expect("a number without a sign makes a good name")
}

impl Seen for Node {
    type Error = Error;

    fn name(&self) -> &NodeName {
        &self.name
    }

    async fn history(&mut self, start: Lsn) -> Result<NodeHistory, Error> {
        self.view.history(&mut self.dir, (self.name.clone(), Some(self.group)), start).await
    }

    fn grow(&mut self, side: Side) -> bool {
        self.view.grow(&self.dir, side)
    }
}

impl Aimed for Node {
    type Log = WalDir;

    fn log(&mut self) -> &mut WalDir {
        &mut self.dir
    }

    fn ahead(&self) -> i64 {
        self.ahead
    }

    fn step_back(&mut self) -> bool {
        self.dir.step_back()
    }

    async fn about(&mut self, _: Moment) -> Result<(), Error> {
        Ok(())
    }

    async fn start_at(&mut self, time: Moment) -> Result<Result<Lsn, String>, Error> {
        let own = time.plus_micros(self.ahead);
        loop {
            if self.dir.oldest_time()?.is_some_and(|oldest| oldest <= own) {
                let start = self.dir.position_after(own).await?;
                let in_gap = start == Lsn::MAX && self.dir.is_before_gap();
                return Ok(if in_gap {
                    Err(format!("WAL of node {} is missing there", self.group))
                } else {
                    let aside = self.left_aside(start, own).await?;
                    self.notes.extend(aside);
                    Ok(start)
                });
            }
            if !self.dir.step_back() {
                return Ok(Err(format!("the WAL of node {} begins after it", self.group)));
            }
        }
    }

    fn refuses(&mut self, _: Lsn) -> Option<String> {
        None
    }
}
