//! Writes WAL as a server does: pages with right headers, records with right checksums and chains.

use pitrus::lsn::Lsn;

const PAGE: u64 = 8192;
const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const OVERWRITE: u16 = 8;

/// Page magics of PostgreSQL 14 to 18.
pub const MAGICS: [u16; 5] = [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

pub struct Writer {
    pub magic: u16,
    pub segment: u32,
    pub start: Lsn,
    pub bytes: Vec<u8>,
    previous: Lsn,
}

impl Writer {
    /// Begins at a segment's start.
    pub fn new(magic: u16, segment: u32, start: Lsn) -> Self {
        Writer { magic, segment, start, bytes: Vec::new(), previous: Lsn(start.0 - 64) }
    }

    pub fn at(&self) -> u64 {
        self.start.0 + self.bytes.len() as u64
    }

    /// Writes a page header where the last page is full.
    pub fn header(&mut self, info: u16, left: u32) {
        let at = self.at();
        let long = at.is_multiple_of(u64::from(self.segment));
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend((info | if long { LONG } else { 0 }).to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(u64::from(left).to_le_bytes());
        if long {
            self.bytes.extend(7u64.to_le_bytes());
            self.bytes.extend([self.segment.to_le_bytes(), (PAGE as u32).to_le_bytes()].concat());
        }
    }

    /// Writes a record; returns where it begins.
    pub fn record(&mut self, xid: u32, info: u8, rmgr: u8, body: &[u8]) -> Lsn {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        if self.at().is_multiple_of(PAGE) {
            self.header(0, 0);
        }
        let lsn = Lsn(self.at());
        let mut rest = Vec::with_capacity(24 + body.len());
        rest.extend((24 + body.len() as u32).to_le_bytes());
        rest.extend(xid.to_le_bytes());
        rest.extend(self.previous.0.to_le_bytes());
        rest.extend([info, rmgr, 0, 0]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(body), &rest);
        rest.extend(sum.to_le_bytes());
        rest.extend_from_slice(body);
        let mut rest = rest.as_slice();
        while !rest.is_empty() {
            if self.at().is_multiple_of(PAGE) {
                self.header(CONTRECORD, rest.len() as u32);
            }
            let room = (PAGE - self.at() % PAGE) as usize;
            let (piece, more) = rest.split_at(room.min(rest.len()));
            self.bytes.extend_from_slice(piece);
            rest = more;
        }
        self.previous = lsn;
        lsn
    }

    /// Loses the last record from the last page's start on, as a crash does, and says so in a new header there.
    /// Returns whether it lay over more than one page.
    pub fn crash(&mut self, last: Lsn, before: Lsn) -> bool {
        let page = (self.at().saturating_sub(1) / PAGE) * PAGE;
        if page <= last.0 {
            return false;
        }
        self.bytes.truncate((page - self.start.0) as usize);
        self.header(OVERWRITE, 0);
        self.previous = before;
        true
    }
}

/// A record's body: its own data, behind the heads of nothing else.
pub fn main_only(main: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(main.len() + 5);
    data_head(&mut body, main.len());
    body.extend_from_slice(main);
    body
}

/// Writes the head of a record's own data.
pub fn data_head(body: &mut Vec<u8>, length: usize) {
    if length == 0 {
        return;
    }
    match u8::try_from(length) {
        Ok(length) => body.extend([255, length]),
        Err(_) => {
            body.push(254);
            body.extend((length as u32).to_le_bytes());
        }
    }
}
