//! zstd, one independent frame a chunk. Contexts are costly to make (megabytes at higher levels), so
//! each thread keeps its own.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;
use zstd::zstd_safe::CParameter;

/// The levels that use zstd's fast search. They look for matches of 6 or 7 bytes, which miss most of what entries
/// of an index have in common; from 5 on these become a quarter smaller, rows stay as they are, in the same time.
const FAST_LEVELS: std::ops::RangeInclusive<i32> = 1..=2;
const SHORTEST_MATCH: u32 = 5;

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `plain` behind what `out` holds.
pub(super) fn compress(plain: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some((its, compressor)) if *its == level => compressor,
            _ => &mut kept.insert((level, compressor(level)?)).1,
        };
        let begin = out.len();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        let mut target = io::Cursor::new(std::mem::take(out));
        target.set_position(begin as u64);
        let result = compressor.compress_to_buffer(plain, &mut target);
        *out = target.into_inner();
        let len = result?;
        out.truncate(begin + len);
        Ok(())
    })
}

fn compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    if FAST_LEVELS.contains(&level) {
        compressor.set_parameter(CParameter::MinMatch(SHORTEST_MATCH))?;
    }
    Ok(compressor)
}

/// Decompresses one frame into `out`, replacing what it holds; never to more than `most` bytes.
pub(super) fn decompress(frame: &[u8], most: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    // Our frames say their size. Only authenticated bytes come here, and still nothing is believed.
    let size = zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= most)
        .ok_or("a compressed chunk does not say a size that fits")?;
    out.clear();
    out.reserve_exact(size);
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = kept.get_or_insert_with(Decompressor::default);
        match decompressor.decompress_to_buffer(frame, out) {
            Ok(len) if len == size => Ok(()),
            _ => Err("a chunk does not decompress"),
        }
    })
}
