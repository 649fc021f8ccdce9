//! Which segments a directory holds, by their names and first pages, and which of them lead to its newest
//! timeline, or to the one that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Error, file};
use crate::lsn::Lsn;
use crate::timeline::{History, TimelineId};
use crate::wal::segment::{Segment, history_file_name, parse_history_file_name, stretches};

/// Names of 24 digits whose first pages are looked at to find the segment size.
const TRIED_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Listing {
    folder: PathBuf,
    pub(super) segment_bytes: u32,
    /// The server's system identifier.
    pub(super) system: u64,
    pub(super) history: History,
    /// For each segment the timeline whose file is read.
    held: BTreeMap<u64, TimelineId>,
    /// Stretches without a gap, oldest first, by their first and last segment.
    pub(super) stretches: Vec<(u64, u64)>,
    pub(super) notes: Vec<String>,
}

/// What the names in a directory are.
#[derive(Debug, Default)]
struct Names {
    segments: BTreeSet<String>,
    histories: BTreeSet<TimelineId>,
    /// Unfinished segments of other tools, which are not read.
    partial: Option<String>,
    /// A name that a packed segment has.
    packed: Option<String>,
    /// A folder as pgBackRest makes them.
    folder: Option<String>,
}

impl Names {
    fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let mut names = Names::default();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.take(name);
            }
        }
        Ok(names)
    }

    fn take(&mut self, name: String) {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        let digits = name.bytes().take_while(|b| is_digit(*b)).count();
        match name.get(digits..).unwrap_or_default() {
            "" if digits == 24 => drop(self.segments.insert(name)),
            "" if digits == 16 => self.folder = Some(name),
            ".history" => self.histories.extend(parse_history_file_name(&name)),
            ".partial" if digits == 24 => self.partial = self.partial.take().max(Some(name)),
            rest if digits == 24 && !rest.ends_with(".backup") => self.packed = Some(name),
            _ => {}
        }
    }

    /// Says what to do where there is no segment.
    fn instead(&self) -> Option<String> {
        let packed = self.packed.as_ref().map(|name| format!("{name} is packed"));
        let folder = self.folder.as_ref().map(|name| format!("{name} is a folder of another tool's archive"));
        let why = packed.or(folder)?;
        Some(format!(
            "{why}: fetch plain segments with the tool that archived them, such as `pgbackrest archive-get` or `wal-g wal-fetch`"
        ))
    }
}

impl Listing {
    pub(super) fn read(folder: &Path, timeline: Option<TimelineId>) -> Result<Self, Error> {
        let names = Names::read(folder)?;
        let Some(newest) = names.segments.last() else {
            return Err(Error::NoWal { path: folder.to_owned(), instead: names.instead() });
        };
        let mut headers = names.segments.iter().rev().take(TRIED_MAX).chain(names.segments.first());
        let header = loop {
            let Some(name) = headers.next() else {
                return Err(Error::NotWal { path: folder.join(newest) });
            };
            if let Some(header) = file::header(&folder.join(name))? {
                break header;
            }
        };
        let bytes = header.segment_bytes;
        let named = names.segments.iter().filter_map(|name| Segment::parse(name, bytes));
        let mut listing = Listing {
            folder: folder.to_owned(),
            segment_bytes: bytes,
            system: header.system,
            history: History::root(TimelineId(1)),
            held: BTreeMap::new(),
            stretches: Vec::new(),
            notes: Vec::new(),
        };
        let written = listing.written(named.collect())?;
        // A timeline that has begun may have no segment yet.
        let mut known: BTreeSet<TimelineId> = written.iter().map(|segment| segment.timeline).collect();
        let newest = known.last().copied();
        for timeline in
            names.histories.iter().filter(|timeline| newest.is_some_and(|newest| **timeline > newest))
        {
            if listing.history_of(*timeline)?.ancestors.is_empty() {
                let name = history_file_name(*timeline);
                listing.notes.push(format!("{name} names no older timeline, and is not read"));
            } else {
                known.insert(*timeline);
            }
        }
        let Some(newest) = known.last().copied() else {
            return Err(Error::NoWal { path: folder.to_owned(), instead: None });
        };
        let followed = timeline.unwrap_or(newest);
        if !known.contains(&followed) {
            let known = known.iter().map(TimelineId::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::NoTimeline { path: folder.to_owned(), asked: followed, known });
        }
        listing.follow(followed, &names)?;
        listing.hold(&written, newest);
        if let Some(partial) = &names.partial {
            listing.notes.push(format!(
                "{partial} is not read: give it its name without `.partial` if it is the newest"
            ));
        }
        Ok(listing)
    }

    /// Leaves out, from the newest on, files that a server keeps for later use: their first page is another
    /// segment's, or zeros.
    fn written(&self, mut named: BTreeSet<Segment>) -> Result<BTreeSet<Segment>, Error> {
        let timelines: BTreeSet<TimelineId> = named.iter().map(|segment| segment.timeline).collect();
        for timeline in timelines.into_iter().rev() {
            let of_it = named.iter().rev().filter(|segment| segment.timeline == timeline);
            let mut unused = Vec::new();
            for segment in of_it {
                let header = file::header(&self.path(*segment))?;
                if header.is_some_and(|header| header.address == segment.start(self.segment_bytes)) {
                    break;
                }
                unused.push(*segment);
            }
            named.retain(|segment| !unused.contains(segment));
        }
        Ok(named)
    }

    fn history_of(&self, timeline: TimelineId) -> Result<History, Error> {
        let path = self.folder.join(history_file_name(timeline));
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        History::parse(timeline, &text).map_err(|source| Error::History { path, source })
    }

    /// Reads how the timeline that is followed came to be.
    fn follow(&mut self, followed: TimelineId, names: &Names) -> Result<(), Error> {
        self.history = History::root(followed);
        if names.histories.contains(&followed) {
            self.history = self.history_of(followed)?;
        } else if followed != TimelineId(1) {
            self.notes.push(format!(
                "{} is not there: only segments of timeline {followed} are read",
                history_file_name(followed)
            ));
        }
        Ok(())
    }

    fn hold(&mut self, written: &BTreeSet<Segment>, newest: TimelineId) {
        let numbers: BTreeSet<u64> = written.iter().map(|segment| segment.number).collect();
        for number in numbers {
            let at = |timeline| Segment { timeline, number };
            let (start, end) =
                (at(TimelineId(1)).start(self.segment_bytes), at(TimelineId(1)).end(self.segment_bytes));
            let holder = self.history.holder(start, end, |timeline| written.contains(&at(timeline)));
            self.held.extend(holder.map(|timeline| (number, timeline)));
        }
        self.stretches = stretches(self.held.keys().copied(), |number| self.is_whole(number));
        let aside = written.len().saturating_sub(self.held.len());
        if aside > 0 {
            let followed = self.history.timeline;
            let why = if followed == newest { "the newest" } else { "which is asked for" };
            self.notes.push(format!(
                "{aside} segments are not read: they do not lead to timeline {followed}, {why}"
            ));
        }
    }

    fn is_whole(&self, number: u64) -> bool {
        let length =
            self.path_of(number).and_then(|path| std::fs::metadata(path).ok()).map(|meta| meta.len());
        let full = u64::from(self.segment_bytes);
        length == Some(full) && self.own_bytes(number) >= full
    }

    /// Returns how many bytes of a segment's file belong to the branch that is followed: it may have left the file's
    /// timeline within it.
    pub(super) fn own_bytes(&self, number: u64) -> u64 {
        let end = self.held.get(&number).map_or(Lsn::MAX, |timeline| self.history.end_of(*timeline));
        end.0.saturating_sub(self.start_of(number).0)
    }

    /// Returns the timeline whose file is read for a segment.
    pub(super) fn timeline_of(&self, number: u64) -> Option<TimelineId> {
        self.held.get(&number).copied()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the file to read for a segment.
    pub(super) fn path_of(&self, number: u64) -> Option<PathBuf> {
        self.held.get(&number).map(|timeline| self.path(Segment { timeline: *timeline, number }))
    }

    /// Returns whether the newest segment that both hold, of one timeline, has the same bytes in both.
    pub(super) fn ends_like(&self, other: &Listing) -> Result<bool, Error> {
        let mut both =
            self.held.iter().rev().filter(|(number, timeline)| other.held.get(number) == Some(timeline));
        let Some((number, _)) = both.next() else { return Ok(false) };
        let read = |listing: &Listing| {
            let Some(path) = listing.path_of(*number) else { return Ok(Vec::new()) };
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        Ok(read(self)? == read(other)?)
    }

    fn path(&self, segment: Segment) -> PathBuf {
        self.folder.join(segment.file_name(self.segment_bytes))
    }

    pub(super) fn start_of(&self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(u64::from(self.segment_bytes)))
    }
}
