//! Decisions: rows of `pg_dist_transaction (groupid int4, gid text, outer_xid xid8 null)`, found by the
//! shape of the tuple in any heap INSERT, because the table's file differs by database and changes with
//! VACUUM FULL, TRUNCATE and upgrades.
//!
//! Citus inserts each row by itself (`LogTransactionRecord` calls `CatalogTupleInsert`), so a decision is
//! never in a MULTI_INSERT: those are copies of old rows, such as COPY makes, and decide nothing.
//!
//! Layout: PostgreSQL `src/include/access/heapam_xlog.h` (`xl_heap_insert`, `xl_heap_header`),
//! `src/include/access/htup_details.h`, `src/include/storage/bufpage.h`.

use super::bytes::{Bytes, u16_at, u32_at};
use super::image;
use super::record::Record;
use crate::citus::Gid;
use crate::ids::GroupId;
use crate::wal::event::Decided;

const OPERATION: u8 = 0x70;
const INSERT: u8 = 0x00;
/// `SizeofHeapTupleHeader`: where a tuple's null bitmap or padding begins.
const TUPLE_HEADER: usize = 23;
const ATTRIBUTES: u16 = 0x07FF;
/// Bits of a gid: longer ones are not Citus's (`GIDSIZE` is 200).
const GID_BYTES_MAX: usize = 199;

/// Returns the row that a heap record inserts, if it is one of `pg_dist_transaction`.
pub(crate) fn inserted(record: &Record<'_>) -> Option<Decided> {
    if record.info & OPERATION != INSERT {
        return None;
    }
    let block = record.blocks.first()?;
    if block.data.is_empty() {
        let offset = u16_at(record.main, 0)?;
        return in_page(&image::restore(block.image.as_ref()?)?, offset);
    }
    // xl_heap_header: t_infomask2, t_infomask, t_hoff; then the tuple from its byte 23 on.
    let attributes = u16_at(block.data, 0)? & ATTRIBUTES;
    let values = usize::from(*block.data.get(4)?).checked_sub(TUPLE_HEADER)?;
    row(attributes, block.data.get(5..)?.get(values..)?)
}

/// Reads the tuple behind a line pointer.
fn in_page(page: &[u8], offset: u16) -> Option<Decided> {
    const PAGE_HEADER: usize = 24;
    let pointer = u32_at(page, PAGE_HEADER + 4 * (usize::from(offset).checked_sub(1)?))?;
    let (at, length) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
    let tuple = page.get(at..at + length)?;
    let attributes = u16_at(tuple, 18)? & ATTRIBUTES;
    row(attributes, tuple.get(usize::from(*tuple.get(22)?)..)?)
}

/// Reads groupid and gid; `None` when the values are not of that shape.
fn row(attributes: u16, values: &[u8]) -> Option<Decided> {
    if !(2..=3).contains(&attributes) {
        return None;
    }
    let mut rest = Bytes(values);
    let group = GroupId(rest.i32()?);
    let first = *rest.0.first()?;
    // A short varlena has its length with header in the upper seven bits (`VARSIZE_1B`); a long one four bytes.
    let (header, length) = if first & 1 == 1 {
        (1, usize::from(first >> 1).checked_sub(1)?)
    } else {
        (4, (u32_at(rest.0, 0)? >> 2).checked_sub(4)? as usize)
    };
    if length > GID_BYTES_MAX {
        return None;
    }
    rest.take(header)?;
    let gid = std::str::from_utf8(rest.take(length)?).ok()?;
    Gid::parse(gid).is_some().then(|| Decided { group, gid: gid.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_shape() {
        let gid = b"citus_0_123_4_1";
        let mut values = 2i32.to_le_bytes().to_vec();
        values.push(((gid.len() as u8 + 1) << 1) | 1);
        values.extend_from_slice(gid);
        let found = row(3, &values).unwrap();
        assert_eq!((found.group, found.gid.as_str()), (GroupId(2), "citus_0_123_4_1"));
        assert_eq!(row(4, &values), None);
        for cut in 0..values.len() {
            assert_eq!(row(3, &values[..cut]), None);
        }
    }
}
