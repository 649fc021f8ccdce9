//! zstd, one independent frame a chunk; of pages, their columns. Contexts are costly to make (megabytes at higher
//! levels), so each thread keeps its own.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;
use zstd::zstd_safe::CParameter;

use crate::loops::columns;

/// What the chunks of an object hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Bytes,
    /// Pages of relations, laid by column where that can be.
    Pages,
}

/// The levels that use zstd's fast search. They look for matches of 6 or 7 bytes, which miss most of what entries
/// of an index have in common; from 5 on these become a quarter smaller, rows stay as they are, in the same time.
/// Columns have long runs: 6 finds as much, faster.
const FAST_LEVELS: std::ops::RangeInclusive<i32> = 1..=2;
const SHORTEST_MATCH: u32 = 5;
const SHORTEST_MATCH_IN_COLUMNS: u32 = 6;

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    /// Pages laid by column.
    static LAID: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compresses `plain` behind what `out` holds.
pub(super) fn compress(plain: &[u8], form: Form, level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    match form {
        Form::Bytes => frame(plain, level, SHORTEST_MATCH, out),
        Form::Pages => LAID.with_borrow_mut(|laid| {
            let mostly = columns::lay(plain, laid) > plain.len() / 2;
            frame(laid, level, if mostly { SHORTEST_MATCH_IN_COLUMNS } else { SHORTEST_MATCH }, out)
        }),
    }
}

fn frame(plain: &[u8], level: i32, shortest_match: u32, out: &mut Vec<u8>) -> io::Result<()> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some((its, compressor)) if *its == level => compressor,
            _ => &mut kept.insert((level, Compressor::new(level)?)).1,
        };
        if FAST_LEVELS.contains(&level) {
            compressor.set_parameter(CParameter::MinMatch(shortest_match))?;
        }
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

/// Decompresses what [`compress`] made into `out`, replacing what it holds; never to more than `most` bytes.
pub(super) fn decompress(
    squeezed: &[u8],
    form: Form,
    most: usize,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    unframe(squeezed, most, out)?;
    if form == Form::Pages {
        columns::restore(out);
    }
    Ok(())
}

fn unframe(frame: &[u8], most: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
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
