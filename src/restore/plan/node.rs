//! One node while a plan is made: the position asked for, the stretch of WAL that is looked at, the backup.

use super::Error;
use super::branch;
use super::choose::{self, Choice};
use super::clock::NodeClock;
use super::document::{ClockSource, NodePlan};
use super::line::Line;
use super::span::{Around, Span};
use crate::cut::look::{Aimed, Log, Seen, Unaimed, View};
use crate::cut::{NodeHistory, Side};
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

/// Transaction records shown on each side of a stop.
const SHOWN: usize = 3;

pub(super) struct Node<'a> {
    span: Span<'a>,
    clock: NodeClock,
    choice: Option<Choice<'a>>,
    view: View,
    /// What the operator should know of it.
    pub(super) notes: Vec<String>,
}

impl Seen for Node<'_> {
    type Error = Error;

    fn name(&self) -> &NodeName {
        self.span.line.node
    }

    async fn history(&mut self, start: Lsn) -> Result<NodeHistory, Error> {
        let named = (self.span.line.node.clone(), self.span.line.catalog.doc.group);
        self.view.history(&mut self.span, named, start).await
    }

    fn grow(&mut self, side: Side) -> bool {
        self.view.grow(&self.span, side)
    }
}

impl<'a> Aimed for Node<'a> {
    type Log = Span<'a>;

    fn log(&mut self) -> &mut Span<'a> {
        &mut self.span
    }

    fn ahead(&self) -> i64 {
        self.clock.ahead
    }

    fn step_back(&mut self) -> bool {
        self.span.step_back()
    }

    async fn about(&mut self, time: Moment) -> Result<(), Error> {
        if self.clock.source == ClockSource::NotNeeded {
            let line = &self.span.line;
            self.clock = NodeClock::sampled(line.vault, line.node, line.catalog, time, &mut self.notes).await;
            self.span.mark(self.clock.marks());
        }
        Ok(())
    }

    /// Returns the position of the first record after `time`, where a backup lies before it.
    async fn start_at(&mut self, time: Moment) -> Result<Result<Lsn, String>, Error> {
        let own = time.plus_micros(self.clock.ahead);
        loop {
            let start = self.span.position_after(own).await?;
            if start == Lsn::MAX && self.is_before_gap() {
                return Ok(Err(format!("WAL of node {} is missing there", self.name())));
            }
            if self.choose(start) && self.knows_back_to(own).await? {
                self.notes.extend(branch::left_aside(&mut self.span, start, own).await?);
                return Ok(Ok(start));
            }
            if !self.step_back() {
                return Ok(Err(format!("node {} has no backup that was finished by then", self.name())));
            }
        }
    }

    fn refuses(&mut self, stop: Lsn) -> Option<String> {
        (!self.choose(stop)).then(|| format!("node {} has no backup before it", self.name()))
    }
}

impl<'a> Node<'a> {
    /// Returns whether all that was committed after `own` is in the known WAL. What was committed before a node's first
    /// backup is in that backup, and nothing tells when.
    async fn knows_back_to(&mut self, own: Moment) -> Result<bool, Error> {
        if self.choice.as_ref().is_some_and(|choice| choice.ends.head.started_at <= own) {
            return Ok(true);
        }
        let first = self.span.ends().0;
        Ok(self.span.times(first).await?.is_some_and(|times| times.min <= own))
    }

    pub(super) fn new(line: Line<'a>, pretended: i64, clock: NodeClock) -> Self {
        let mut span = Span::new(line, pretended);
        span.mark(clock.marks());
        Node { span, clock, choice: None, view: View::new(), notes: Vec::new() }
    }

    pub(super) fn name(&self) -> &'a NodeName {
        self.span.line.node
    }

    /// Returns whether WAL is missing after what is looked at.
    pub(super) fn is_before_gap(&self) -> bool {
        self.span.line.is_before_gap
    }

    /// Returns the newest archived time stamp, in true time.
    pub(super) async fn newest_time(&mut self) -> Result<Option<Moment>, Error> {
        Ok(self.span.newest_time().await?.map(|time| time.plus_micros(self.clock.ahead.saturating_neg())))
    }

    /// Chooses the best backup that is consistent at or before `stop`; returns whether there is one.
    pub(super) fn choose(&mut self, stop: Lsn) -> bool {
        self.choice = choose::newest_at(&self.span.line, stop);
        self.span.backup = self.choice.as_ref().map(|choice| choice.ends);
        self.choice.is_some()
    }

    /// Returns where `recovery_target_time` would stop: by the node's own clock.
    pub(super) async fn naive_stop(&mut self, time: Moment) -> Result<Lsn, Error> {
        self.span.naive_stop(time).await
    }

    pub(super) fn start_latest(&mut self) -> Result<Lsn, Unaimed> {
        while !self.choose(Lsn::MAX) {
            if !self.step_back() {
                return Err(Unaimed::Outside(format!("node {} has no backup", self.name())));
            }
        }
        Ok(Lsn::MAX)
    }

    pub(super) fn start_earliest(&mut self) -> Result<Lsn, Unaimed> {
        while self.step_back() {}
        loop {
            self.choice = choose::oldest(&self.span.line);
            self.span.backup = self.choice.as_ref().map(|choice| choice.ends);
            match &self.choice {
                Some(choice) => return Ok(choice.stop()),
                None if self.span.step_on() => {}
                None => return Err(Unaimed::Outside(format!("node {} has no backup", self.name()))),
            }
        }
    }

    pub(super) async fn plan(&mut self, stop: Lsn, asked: Option<Moment>) -> Result<NodePlan, Error> {
        let choice = self.choice.clone().ok_or_else(|| self.span.line.gap(self.span.line.first))?;
        let (head, foot) = (&choice.ends.head, &choice.ends.foot);
        let wal_end = self.span.end().await?;
        let stop_before = self.span.goes_on(stop).await?.then_some(stop);
        let reached = stop_before.unwrap_or(wal_end);
        let Around { before, after } = self.span.around(reached, foot.stop_lsn, SHOWN).await?;
        let line = &self.span.line;
        let first = line.number_of(head.start_lsn);
        // The record after the stop is read too: recovery must see it to stop before it.
        let read_to =
            after.first().filter(|_| stop_before.is_some()).map_or(reached, |next| next.lsn.max(reached));
        let last = line.number_of(read_to).saturating_add(1).min(line.last);
        let doc = &line.catalog.doc;
        let wal = line.ranges(first, last)?;
        let read = wal.last().map_or(TimelineId(0), |range| range.timeline);
        let last_included = before.last().cloned();
        let before_target_micros = asked
            .zip(last_included.as_ref())
            .map(|(t, mark)| t.plus_micros(self.clock.ahead).micros_since(mark.time));
        Ok(NodePlan {
            node: line.node.clone(),
            group: doc.group,
            system_identifier: doc.system_identifier.clone(),
            postgres_version: doc.postgres_version,
            segment_bytes: doc.segment_bytes,
            backup: head.backup.clone(),
            backup_start: head.start_lsn,
            backup_stop: foot.stop_lsn,
            backup_stopped_at: foot.stopped_at,
            timeline: line.timeline_before(reached).max(read),
            wal,
            wal_end,
            stop_before,
            first_excluded: after.first().filter(|_| stop_before.is_some()).cloned(),
            last_included,
            before_target_micros,
            clock_ahead_micros: self.clock.ahead,
            clock_uncertain_micros: self.clock.uncertain,
            clock_source: self.clock.source,
            parameters: self.span.parameters(),
            around: before.into_iter().chain(after).collect(),
        })
    }
}
