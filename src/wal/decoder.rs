//! Bytes of WAL in, records out, with no I/O: feed what came, then take records until more is needed.
//!
//! A record lies in pieces between page headers; a record within one page is read where it lies, one
//! that crosses pages is put together first. Memory is the longest record plus what was fed at once.
//! (PostgreSQL `src/backend/access/transam/xlogreader.c`.)

use super::bytes::{u16_at, u32_at, u64_at};
use super::record::{self, HEADER_BYTES, Record, rmgr};
use super::{Error, Version};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

const PAGE: u64 = 8192;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
const IS_CONTRECORD: u16 = 1;
const IS_LONG: u16 = 2;
const IS_OVERWRITE: u16 = 8;
/// `XLogRecordMaxSize` of PostgreSQL 16, the longest that allocation allowed before.
const RECORD_BYTES_MAX: u32 = 1020 << 20;
const XLOG_SWITCH: u8 = 0x40;
/// No server comes here; up to here the sums below cannot overflow.
const LAST: Lsn = Lsn(u64::MAX - (1 << 34));

/// What [`Decoder::step`] found.
#[derive(Debug)]
pub enum Step<'a> {
    Record(Record<'a>),
    /// Feed more bytes.
    NeedMore,
    /// The WAL ends before this position: what lies there was never written, or belongs to an older use of the file.
    End {
        at: Lsn,
        why: &'static str,
    },
}

/// Decodes one timeline's WAL from a position on.
#[derive(Debug)]
pub struct Decoder {
    segment_bytes: u64,
    buffer: Vec<u8>,
    /// Position of the buffer's first byte.
    base: Lsn,
    /// Where the next record may begin.
    at: Lsn,
    /// Nothing can be decoded before the buffer reaches this position.
    wanted: Lsn,
    /// A first, headless piece of a record may lie at `at`.
    seeking: bool,
    previous: Option<Lsn>,
    /// Of all pages so far.
    version: Option<Version>,
    timeline: Option<TimelineId>,
    ended: Option<(Lsn, &'static str)>,
    /// The record at `at`, where it crosses pages that did not all come yet.
    pieces: Option<Pieces>,
    /// The record put together from its pieces.
    whole: Vec<u8>,
}

/// How far the pages over which a record goes on were looked at: each once, as it comes, so that a
/// record never finished is noticed at once and a long one costs no more than its length.
#[derive(Clone, Copy, Debug)]
struct Pieces {
    record: Lsn,
    raw_end: Lsn,
    /// The first page not looked at.
    page: Lsn,
    /// Bytes of the record from there on.
    left: u64,
}

enum Found {
    /// A record in `buffer[from..from + len]`.
    Here {
        from: usize,
        len: usize,
        end: Lsn,
    },
    /// A record in `whole`.
    Whole {
        end: Lsn,
    },
    NeedMore,
    End(&'static str),
    /// Look again at `at`.
    Again,
}

impl Decoder {
    /// Begins at `start`, the position of the first byte to be fed. The first record is the first that
    /// begins after a page header: only that tells who wrote it.
    pub fn new(segment_bytes: u32, start: Lsn) -> Self {
        let page = Lsn(start.0.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX));
        Decoder {
            segment_bytes: u64::from(segment_bytes.max(1 << 20)),
            buffer: Vec::new(),
            base: start,
            at: page,
            wanted: page,
            seeking: true,
            previous: None,
            version: None,
            timeline: None,
            ended: None,
            pieces: None,
            whole: Vec::new(),
        }
    }

    /// Adds the bytes that follow those fed before.
    pub fn feed(&mut self, bytes: &[u8]) {
        let used = usize::try_from(self.at.0.saturating_sub(self.base.0)).unwrap_or(usize::MAX);
        // What was read is dropped when it is most of the buffer: each byte is moved about once.
        if used >= self.buffer.len() {
            self.base = self.base.plus(self.buffer.len() as u64);
            self.buffer.clear();
        } else if used > self.buffer.len() / 2 {
            self.buffer.drain(..used);
            self.base = self.at;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns where the next record begins or will begin: all before was decoded.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Returns the position after the last byte fed.
    pub fn fed_to(&self) -> Lsn {
        self.base.plus(self.buffer.len() as u64)
    }

    /// Returns the timeline that the last page header names.
    pub fn timeline(&self) -> Option<TimelineId> {
        self.timeline
    }

    /// Returns the next record, or why there is none.
    ///
    /// # Errors
    /// WAL of another version of PostgreSQL, or a record whose checksum is right and whose parts do not add up.
    pub fn step(&mut self) -> Result<Step<'_>, Error> {
        let (lsn, found) = loop {
            if let Some((at, why)) = self.ended {
                return Ok(Step::End { at, why });
            }
            if self.fed_to() < self.wanted {
                return Ok(Step::NeedMore);
            }
            match self.find()? {
                Found::Again => {}
                Found::NeedMore => return Ok(Step::NeedMore),
                Found::End(why) => self.ended = Some((self.at, why)),
                found => break (self.at, found),
            }
        };
        let (bytes, end) = match found {
            Found::Here { from, len, end } => (self.buffer.get(from..from + len).unwrap_or_default(), end),
            Found::Whole { end } => (self.whole.as_slice(), end),
            _ => return Ok(Step::NeedMore),
        };
        if !record::checksum_is_right(bytes) {
            let why = "a record whose checksum is wrong";
            self.ended = Some((lsn, why));
            return Ok(Step::End { at: lsn, why });
        }
        let parsed = self.version.and_then(|version| record::parse(bytes, lsn, end, version));
        let mut record = parsed.ok_or(Error::Malformed { lsn })?;
        if record.rmgr == rmgr::XLOG && record.operation() == XLOG_SWITCH {
            // The rest of the segment is zeros.
            record.end = Lsn(end.0.next_multiple_of(self.segment_bytes));
        }
        self.previous = Some(lsn);
        self.at = record.end;
        self.wanted = record.end;
        Ok(Step::Record(record))
    }

    /// Looks at `at`: steps over a page header, or finds a record's bytes.
    fn find(&mut self) -> Result<Found, Error> {
        if self.at > LAST {
            return Ok(Found::End("no position that a server reaches"));
        }
        if self.at.0.is_multiple_of(PAGE) {
            return self.open_page();
        }
        let Some(from) = self.index(self.at) else { return Ok(Found::NeedMore) };
        let Some(length) = u32_at(self.buffer.get(from..).unwrap_or_default(), 0) else {
            return Ok(Found::NeedMore);
        };
        if length == 0 {
            return Ok(Found::End("zeros"));
        }
        if (length as usize) < HEADER_BYTES || length > RECORD_BYTES_MAX {
            return Ok(Found::End("a record of impossible length"));
        }
        if u64::from(length) > PAGE - self.at.0 % PAGE {
            return self.find_across_pages(length);
        }
        let end = self.at.plus(u64::from(length));
        if self.fed_to() < end {
            self.wanted = end;
            return Ok(Found::NeedMore);
        }
        let end = Lsn(end.0.next_multiple_of(8));
        Ok(self.check_chain(from).unwrap_or(Found::Here { from, len: length as usize, end }))
    }

    /// Finds the record at `at`, which goes on over page headers.
    fn find_across_pages(&mut self, length: u32) -> Result<Found, Error> {
        let mut pieces = match self.pieces {
            Some(pieces) if pieces.record == self.at => pieces,
            _ => self.pieces(u64::from(length)),
        };
        if let Some(found) = self.check_pieces(&mut pieces)? {
            return Ok(found);
        }
        self.pieces = Some(pieces);
        if self.fed_to() < pieces.raw_end {
            let next_header = pieces.page.plus(self.header_bytes(pieces.page.0));
            self.wanted = pieces.raw_end.min(next_header);
            return Ok(Found::NeedMore);
        }
        self.gather(length as usize);
        let end = Lsn(pieces.raw_end.0.next_multiple_of(8));
        Ok(self.check_whole_chain().unwrap_or(Found::Whole { end }))
    }

    fn pieces(&self, length: u64) -> Pieces {
        let page = Lsn((self.at.0 + 1).next_multiple_of(PAGE));
        let left = length - (page.0 - self.at.0).min(length);
        Pieces { record: self.at, raw_end: self.raw_end(self.at, length), page, left }
    }

    fn index(&self, lsn: Lsn) -> Option<usize> {
        usize::try_from(lsn.0.checked_sub(self.base.0)?).ok().filter(|&i| i < self.buffer.len())
    }

    fn header_bytes(&self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment_bytes) { LONG_HEADER } else { SHORT_HEADER }
    }

    /// Reads the page header at `at`, a page's start.
    fn open_page(&mut self) -> Result<Found, Error> {
        let header = self.header_bytes(self.at.0);
        let Some(page) = self.page(self.at) else {
            self.wanted = self.at.plus(header);
            return Ok(Found::NeedMore);
        };
        let PageInfo { version, timeline, info, rest } =
            match check_page(page, self.at, header == LONG_HEADER, self.version)? {
                Ok(read) => read,
                Err(why) => return Ok(Found::End(why)),
            };
        (self.version, self.timeline) = (Some(version), Some(timeline));
        let body = PAGE - header;
        let next = match u64::from(rest) {
            // Page by page, because a later page may tell that the record was never finished.
            rest if self.seeking && info & IS_CONTRECORD != 0 && rest >= body => self.at.plus(PAGE),
            rest if self.seeking && info & IS_CONTRECORD != 0 => {
                self.seeking = false;
                Lsn((self.at.0 + header + rest).next_multiple_of(8))
            }
            _ => {
                self.seeking = false;
                self.at.plus(header)
            }
        };
        self.at = next;
        self.wanted = next;
        Ok(Found::Again)
    }

    /// Returns the bytes from a page's start, where its whole header is there.
    fn page(&self, start: Lsn) -> Option<&[u8]> {
        let from = self.index(start)?;
        self.buffer.get(from..).filter(|b| b.len() as u64 >= self.header_bytes(start.0))
    }

    /// Returns where `length` bytes of record that begin at `from` end, page headers between them counted.
    fn raw_end(&self, from: Lsn, length: u64) -> Lsn {
        let room = PAGE - from.0 % PAGE;
        if length <= room {
            return from.plus(length);
        }
        let mut left = length - room;
        let mut page = from.0 + room;
        loop {
            let body = PAGE - self.header_bytes(page);
            if left <= body {
                return Lsn(page + (PAGE - body) + left);
            }
            left -= body;
            page += PAGE;
        }
    }

    /// Checks the headers of the pages that came and were not looked at yet. `None`: all is well so far.
    fn check_pieces(&mut self, pieces: &mut Pieces) -> Result<Option<Found>, Error> {
        while pieces.left > 0 {
            let start = pieces.page;
            let Some(page) = self.page(start) else { return Ok(None) };
            let PageInfo { info, rest, .. } =
                match check_page(page, start, self.header_bytes(start.0) == LONG_HEADER, self.version)? {
                    Ok(read) => read,
                    Err(why) => return Ok(Some(Found::End(why))),
                };
            if info & IS_OVERWRITE != 0 {
                // The server crashed before it finished this record, and began anew here.
                (self.at, self.wanted, self.previous) = (start, start, None);
                return Ok(Some(Found::Again));
            }
            if info & IS_CONTRECORD == 0 || u64::from(rest) != pieces.left {
                return Ok(Some(Found::End("a page that does not go on with the record before it")));
            }
            pieces.left -= pieces.left.min(PAGE - self.header_bytes(start.0));
            pieces.page = start.plus(PAGE);
        }
        Ok(None)
    }

    /// Puts the pieces of the record at `at` together; all of them are in the buffer.
    fn gather(&mut self, length: usize) {
        self.whole.clear();
        let mut lsn = self.at;
        while self.whole.len() < length {
            if lsn.0.is_multiple_of(PAGE) {
                lsn = lsn.plus(self.header_bytes(lsn.0));
            }
            let room = (PAGE - lsn.0 % PAGE) as usize;
            let take = room.min(length - self.whole.len());
            let Some(piece) = self.index(lsn).and_then(|i| self.buffer.get(i..i + take)) else { return };
            self.whole.extend_from_slice(piece);
            lsn = lsn.plus(take as u64);
        }
    }

    fn check_chain(&self, from: usize) -> Option<Found> {
        self.chain_broken(self.buffer.get(from..)?)
    }

    fn check_whole_chain(&self) -> Option<Found> {
        self.chain_broken(&self.whole)
    }

    /// Each record names the one before it: a record left over from an older use of the file does not fit.
    fn chain_broken(&self, record: &[u8]) -> Option<Found> {
        let previous = u64_at(record, 8).map(Lsn);
        let fits = match self.previous {
            Some(known) => previous == Some(known),
            None => previous.is_some_and(|p| p < self.at),
        };
        (!fits).then_some(Found::End("a record that does not follow the one before it"))
    }
}

/// `XLogPageHeaderData`
struct PageInfo {
    version: Version,
    timeline: TimelineId,
    info: u16,
    /// Bytes of an earlier record that follow.
    rest: u32,
}

/// Reads a page header; all pages must be of one version. The inner error says why the WAL ends here.
fn check_page(
    page: &[u8],
    at: Lsn,
    begins_segment: bool,
    before: Option<Version>,
) -> Result<Result<PageInfo, &'static str>, Error> {
    let (Some(magic), Some(info), Some(timeline), Some(address), Some(rest)) =
        (u16_at(page, 0), u16_at(page, 2), u32_at(page, 4), u64_at(page, 8), u32_at(page, 16))
    else {
        return Ok(Err("a page header that is cut off"));
    };
    if magic == 0 {
        return Ok(Err("zeros"));
    }
    let version = Version::of_magic(magic, at)?;
    if address != at.0 {
        return Ok(Err("a page of an older use of the file"));
    }
    if let Some(before) = before.filter(|&before| before != version) {
        return Err(Error::Mixed { lsn: at, before, found: version });
    }
    if (info & IS_LONG != 0) != begins_segment {
        return Ok(Err("a page header of segments of another size"));
    }
    if begins_segment && u32_at(page, 36).is_some_and(|block| u64::from(block) != PAGE) {
        return Err(Error::BlockSize { lsn: at });
    }
    Ok(Ok(PageInfo { version, timeline: TimelineId(timeline), info, rest }))
}
