//! Records: bodies of any bytes, with right headers, chains and checksums. Each is found where it was written,
//! or refused by name; its parts lie within it.

use pitrus::lsn::Lsn;
use pitrus::timeline::TimelineId;
use pitrus::wal::Error;
use pitrus::wal::decoder::{Decoder, Step};
use pitrus::wal::event::Open;
use pitrus::wal::index::IndexBuilder;

use super::orders::Orders;
use super::pages::{Ended, decode};
use super::writer::{MAGICS, Writer, data_head, main_only};

const RECORDS_MAX: usize = 60;
const BYTES_MAX: usize = 3 << 20;
const SWITCH: (u8, u8) = (0x40, 0);

pub fn records(input: &[u8]) {
    let mut orders = Orders(input);
    let magic = orders.one_of(&MAGICS);
    let segment = orders.one_of(&[1 << 20, 2 << 20]);
    let pieces = [usize::from(orders.u16()), usize::from(orders.u8()) * 64];
    let mut writer = Writer::new(magic, segment, Lsn(5 * u64::from(segment)));
    let mut written = vec![];
    while !orders.is_empty() && written.len() < RECORDS_MAX && writer.bytes.len() < BYTES_MAX {
        let (rmgr, info) = (orders.u8() % 32, orders.u8());
        let xid = u32::from(orders.u8());
        let body = body(&mut orders);
        let lsn = writer.record(xid, info, rmgr, &body);
        let before = written.last().copied().unwrap_or(Lsn(writer.start.0 - 64));
        if orders.u8() == 7 && writer.crash(lsn, before) {
            continue;
        }
        written.push(lsn);
        if (info & 0xF0, rmgr) == SWITCH {
            break;
        }
    }
    let (found, ended) = decode(segment, writer.start, &writer.bytes, &pieces);
    let found: Vec<Lsn> = found.into_iter().map(|(lsn, _)| lsn).collect();
    match ended {
        Ended::Fed(_) => assert_eq!(found, written),
        Ended::Refused(Error::Malformed { lsn }) => {
            assert_eq!(found, written[..found.len()]);
            assert_eq!(written[found.len()], lsn);
        }
        other => panic!("{other:?}"),
    }
    read_parts(&writer);
    let mut builder = IndexBuilder::new(TimelineId(1), segment, writer.start, Open::default());
    let _ = builder.feed(&writer.bytes);
    builder.tail();
}

/// A body: anything, or with heads that add up.
fn body(orders: &mut Orders<'_>) -> Vec<u8> {
    let mode = orders.u8();
    let length = usize::from(orders.u16());
    match mode % 5 {
        0 => orders.bytes(length).to_vec(),
        1 => main_only(orders.bytes(length)),
        2 => {
            // A long one: over pages, and now and then over a whole segment.
            let mut main = orders.bytes(16).to_vec();
            main.resize(length * (1 + usize::from(mode / 64) * 8), mode);
            main_only(&main)
        }
        _ => {
            let (mut heads, mut data) = (Vec::new(), Vec::new());
            for id in 0..mode % 4 {
                let (flags, length) = (orders.u8(), orders.u8());
                let part = orders.bytes(usize::from(length));
                heads.extend([id, flags & 0x8F]);
                heads.extend((part.len() as u16).to_le_bytes());
                if flags & 0x80 == 0 {
                    heads.extend_from_slice(&[orders.u32(), 5, orders.u32()].map(u32::to_le_bytes).concat());
                }
                heads.extend(orders.u32().to_le_bytes());
                data.extend_from_slice(part);
            }
            let main = orders.bytes(length);
            data_head(&mut heads, main.len());
            [heads, data, main.to_vec()].concat()
        }
    }
}

fn read_parts(writer: &Writer) {
    let mut decoder = Decoder::new(writer.segment, writer.start);
    decoder.feed(&writer.bytes);
    while let Ok(Step::Record(record)) = decoder.step() {
        let images = record.blocks.iter().filter_map(|block| block.image.map(|image| image.bytes.len()));
        let parts: usize = images.chain(record.blocks.iter().map(|block| block.data.len())).sum();
        assert!(parts + record.main.len() <= record.length as usize);
    }
}
