//! One WAL record: its header, the blocks it names, and its own data.
//!
//! Layout: PostgreSQL `src/include/access/xlogrecord.h`; read as `DecodeXLogRecord` does.

use super::Version;
use super::bytes::{Bytes, u32_at, u64_at};
use crate::lsn::Lsn;

/// Length of `XLogRecord`.
pub(crate) const HEADER_BYTES: usize = 24;
/// No more blocks fit a record (`XLR_MAX_BLOCK_ID` is 32).
const BLOCKS_MAX: usize = 33;

/// Resource managers whose records we read (`src/include/access/rmgrlist.h`).
pub mod rmgr {
    pub const XLOG: u8 = 0;
    pub const TRANSACTION: u8 = 1;
    pub const STORAGE: u8 = 2;
    pub const DATABASE: u8 = 4;
    pub const STANDBY: u8 = 8;
    pub const HEAP: u8 = 10;
}

/// A relation's place on disk (`RelFileNode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelFile {
    pub tablespace: u32,
    pub database: u32,
    pub relation: u32,
}

/// A page image within a record.
#[derive(Clone, Copy, Debug)]
pub struct PageImage<'a> {
    pub bytes: &'a [u8],
    pub hole_offset: u16,
    pub hole_length: u16,
    pub packing: Packing,
}

/// How a page image was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    Plain,
    Pglz,
    Lz4,
    Zstd,
}

/// A block that a record changed.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub id: u8,
    pub file: RelFile,
    pub fork: u8,
    pub number: u32,
    pub image: Option<PageImage<'a>>,
    pub data: &'a [u8],
}

/// A record whose checksum was right.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Of the server that wrote it.
    pub version: Version,
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next record may begin.
    pub end: Lsn,
    pub previous: Lsn,
    pub xid: u32,
    pub info: u8,
    pub rmgr: u8,
    /// Whole length, header included, in bytes.
    pub length: u32,
    pub blocks: Blocks<'a>,
    pub main: &'a [u8],
}

/// The blocks that a record names, read where they lie each time they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    version: Version,
    /// All headers but that of the record's own data.
    heads: &'a [u8],
    /// Images and data of all blocks.
    payload: &'a [u8],
}

impl<'a> Blocks<'a> {
    pub fn iter(&self) -> BlockIter<'a> {
        let Blocks { version, heads, payload } = *self;
        BlockIter { version, heads: Bytes(heads), payload: Bytes(payload), last: None }
    }

    /// Returns relation, fork and number of each, without looking at what is in the record of it.
    pub(crate) fn names(&self) -> impl Iterator<Item = (RelFile, u8, u32)> + 'a {
        let mut all = self.iter();
        std::iter::from_fn(move || all.head().map(|head| (head.file, head.fork, head.number)))
    }

    pub fn first(&self) -> Option<Block<'a>> {
        self.iter().next()
    }
}

impl<'a> IntoIterator for &Blocks<'a> {
    type Item = Block<'a>;
    type IntoIter = BlockIter<'a>;

    fn into_iter(self) -> BlockIter<'a> {
        self.iter()
    }
}

#[derive(Clone, Debug)]
pub struct BlockIter<'a> {
    version: Version,
    heads: Bytes<'a>,
    payload: Bytes<'a>,
    last: Option<RelFile>,
}

impl BlockIter<'_> {
    #[inline(always)]
    fn head(&mut self) -> Option<Head> {
        loop {
            match next_head(&mut self.heads, self.last, self.version)? {
                Header::Block(head) => {
                    self.last = Some(head.file);
                    return Some(head);
                }
                Header::Skipped => {}
                Header::Main(_) => return None,
            }
        }
    }
}

impl<'a> Iterator for BlockIter<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        let Head { id, file, fork, number, image, data } = self.head()?;
        let image = match image {
            Some((len, hole_offset, hole_length, packing)) => {
                Some(PageImage { bytes: self.payload.take(len)?, hole_offset, hole_length, packing })
            }
            None => None,
        };
        Some(Block { id, file, fork, number, image, data: self.payload.take(data)? })
    }
}

impl Record<'_> {
    /// Returns the resource manager's own bits of `info`.
    pub fn operation(&self) -> u8 {
        self.info & 0xF0
    }
}

/// Returns whether the record's CRC-32C is right: over all after the header, then the header up to the sum.
pub(crate) fn checksum_is_right(record: &[u8]) -> bool {
    let (Some(body), Some(head), Some(stored)) =
        (record.get(HEADER_BYTES..), record.get(..20), u32_at(record, 20))
    else {
        return false;
    };
    crc32c::crc32c_append(crc32c::crc32c(body), head) == stored
}

/// One of the headers with which a record's body begins.
enum Header {
    Block(Head),
    /// The length of the record's own data; always the last header.
    Main(usize),
    /// The origin of a replicated change, the top transaction.
    Skipped,
}

struct Head {
    id: u8,
    file: RelFile,
    fork: u8,
    number: u32,
    image: Option<(usize, u16, u16, Packing)>,
    data: usize,
}

/// Reads a whole record, checksum already verified. `None` when its parts do not add up.
pub(crate) fn parse(record: &[u8], lsn: Lsn, end: Lsn, version: Version) -> Option<Record<'_>> {
    let body = record.get(HEADER_BYTES..)?;
    let mut rest = Bytes(body);
    let (mut of_blocks, mut main, mut heads) = (0usize, 0usize, body.len());
    let mut last: Option<RelFile> = None;
    while rest.0.len() > of_blocks {
        heads = body.len() - rest.0.len();
        match next_head(&mut rest, last, version)? {
            Header::Main(len) => {
                main = len;
                break;
            }
            Header::Skipped => {}
            Header::Block(head) => {
                last = Some(head.file);
                of_blocks += head.data + head.image.map_or(0, |(len, ..)| len);
            }
        }
        heads = body.len() - rest.0.len();
    }
    let payload = rest.take(of_blocks)?;
    if rest.0.len() != main {
        return None;
    }
    Some(Record {
        version,
        lsn,
        end,
        previous: Lsn(u64_at(record, 8)?),
        xid: u32_at(record, 4)?,
        info: *record.get(16)?,
        rmgr: *record.get(17)?,
        length: u32_at(record, 0)?,
        blocks: Blocks { version, heads: body.get(..heads)?, payload },
        main: rest.0,
    })
}

#[inline(always)]
fn next_head(rest: &mut Bytes<'_>, last: Option<RelFile>, version: Version) -> Option<Header> {
    Some(match rest.u8()? {
        255 => Header::Main(usize::from(rest.u8()?)),
        254 => Header::Main(rest.u32()? as usize),
        253 => {
            rest.u16()?;
            Header::Skipped
        }
        252 => {
            rest.u32()?;
            Header::Skipped
        }
        id if usize::from(id) < BLOCKS_MAX => Header::Block(block_head(rest, id, last, version)?),
        _ => return None,
    })
}

#[inline(always)]
fn block_head(rest: &mut Bytes<'_>, id: u8, last: Option<RelFile>, version: Version) -> Option<Head> {
    const HAS_IMAGE: u8 = 0x10;
    const SAME_RELATION: u8 = 0x80;
    const IMAGE_HAS_HOLE: u8 = 0x01;
    const PAGE: u16 = 8192;
    let flags = rest.u8()?;
    let data = usize::from(rest.u16()?);
    let mut image = None;
    if flags & HAS_IMAGE != 0 {
        let (len, hole_offset, info) = (rest.u16()?, rest.u16()?, rest.u8()?);
        let packing = packing(info, version)?;
        let hole_length = match (info & IMAGE_HAS_HOLE != 0, packing != Packing::Plain) {
            (true, true) => rest.u16()?,
            (true, false) => PAGE.checked_sub(len)?,
            (false, _) => 0,
        };
        image = Some((usize::from(len), hole_offset, hole_length, packing));
    }
    let file = if flags & SAME_RELATION == 0 {
        RelFile { tablespace: rest.u32()?, database: rest.u32()?, relation: rest.u32()? }
    } else {
        last?
    };
    Some(Head { id, file, fork: flags & 0x0F, number: rest.u32()?, image, data })
}

/// Reads `BKPIMAGE_*`: 14 knows pglz only, and has its flag where later versions have "apply".
fn packing(info: u8, version: Version) -> Option<Packing> {
    const COMPRESSED_14: u8 = 0x02;
    const PGLZ: u8 = 0x04;
    const LZ4: u8 = 0x08;
    const ZSTD: u8 = 0x10;
    Some(match version {
        Version::V14 if info & COMPRESSED_14 != 0 => Packing::Pglz,
        Version::V14 => Packing::Plain,
        _ => match info & (PGLZ | LZ4 | ZSTD) {
            0 => Packing::Plain,
            PGLZ => Packing::Pglz,
            LZ4 => Packing::Lz4,
            ZSTD => Packing::Zstd,
            _ => return None,
        },
    })
}
