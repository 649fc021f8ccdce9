//! What the header of a data page tells (PostgreSQL `src/include/storage/bufpage.h`).

use crate::lsn::Lsn;
use crate::wal::bytes::{u16_at, u32_at};

pub use crate::loops::{PAGE_BYTES, checksum};

/// What the header of a page tells about its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never written (`PageIsNew`): no checksum to hold.
    New,
    Right,
    /// Written at or after the position asked about: the log holds its whole image, the copy need not be whole.
    Recent,
    Wrong,
}

/// Returns the position after the last record that changed the page (`pd_lsn`: two words, the upper first).
pub fn lsn(page: &[u8; PAGE_BYTES]) -> Lsn {
    let words = u32_at(page, 0).zip(u32_at(page, 4));
    words.map_or(Lsn::INVALID, |(high, low)| Lsn(u64::from(high) << 32 | u64::from(low)))
}

/// Judges the page of a running server as `basebackup.c` does: pages changed at or after `start` are
/// restored from their images in the WAL.
pub fn verify(number: u32, page: &[u8; PAGE_BYTES], start: Lsn) -> Verdict {
    let stored = u16_at(page, 8);
    if u16_at(page, 14) == Some(0) {
        return Verdict::New; // pd_upper
    }
    if lsn(page) >= start {
        return Verdict::Recent;
    }
    if stored == Some(checksum(number, page)) { Verdict::Right } else { Verdict::Wrong }
}
