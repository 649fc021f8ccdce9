//! Page images within records: whole 8 KiB pages, with their hole put back and decompressed
//! (PostgreSQL `RestoreBlockImage` in `xlogreader.c`, `pglz_decompress` in `src/common/pg_lzcompress.c`).

use super::record::{Packing, PageImage};

const PAGE: usize = 8192;

/// Returns the page; `None` when the image is damaged.
pub(crate) fn restore(image: &PageImage<'_>) -> Option<Vec<u8>> {
    let (offset, hole) = (usize::from(image.hole_offset), usize::from(image.hole_length));
    let stored = PAGE.checked_sub(hole)?;
    let plain;
    let bytes = match image.packing {
        Packing::Plain => image.bytes,
        Packing::Pglz => {
            plain = pglz(image.bytes, stored)?;
            &plain
        }
        Packing::Lz4 => {
            plain = lz4_flex::block::decompress(image.bytes, stored).ok()?;
            &plain
        }
        Packing::Zstd => {
            plain = zstd::bulk::decompress(image.bytes, stored).ok()?;
            &plain
        }
    };
    if bytes.len() != stored {
        return None;
    }
    let (before, after) = bytes.split_at_checked(offset)?;
    let mut page = Vec::with_capacity(PAGE);
    page.extend_from_slice(before);
    page.resize(offset + hole, 0);
    page.extend_from_slice(after);
    Some(page)
}

/// Decompresses PostgreSQL's own LZ: a control byte, then eight items, each a literal or a copy of 3 to
/// 273 bytes from at most 4095 bytes back.
fn pglz(source: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::with_capacity(size);
    let mut input = source.iter().copied();
    while out.len() < size {
        let Some(control) = input.next() else { break };
        for bit in 0..8 {
            if out.len() >= size {
                break;
            }
            let Some(first) = input.next() else { break };
            if control >> bit & 1 == 0 {
                out.push(first);
                continue;
            }
            let second = input.next()?;
            let mut length = usize::from(first & 0x0F) + 3;
            let back = usize::from(first & 0xF0) << 4 | usize::from(second);
            if length == 18 {
                length += usize::from(input.next()?);
            }
            let from = out.len().checked_sub(back).filter(|_| back > 0)?;
            for at in from..from + length.min(size - out.len()) {
                out.push(*out.get(at)?);
            }
        }
    }
    (out.len() == size && input.next().is_none()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pglz_copies_overlap() {
        // one literal 'a', then a copy of 15 + 3 + 2 bytes from one back
        assert_eq!(pglz(&[0b10, b'a', 0x0F, 1, 2], 21).unwrap(), vec![b'a'; 21]);
        assert_eq!(pglz(&[0b01, 0x00, 1], 3), None);
        assert_eq!(pglz(&[0b10, b'a', 0x00, 0], 4), None);
    }

    #[test]
    fn a_hole_is_put_back() {
        let image =
            PageImage { bytes: &[1; PAGE - 100], hole_offset: 50, hole_length: 100, packing: Packing::Plain };
        let page = restore(&image).unwrap();
        assert_eq!((page.len(), page.iter().filter(|&&b| b == 0).count()), (PAGE, 100));
        assert!(page[50..150].iter().all(|&b| b == 0));
    }
}
