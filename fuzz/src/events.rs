//! Events: transaction, checkpoint and heap records made from orders, decisions in tuples and in page images,
//! plain and compressed. A scan, indexes and their documents agree.

use pitrus::lsn::Lsn;
use pitrus::manifest::{self, wal_index::WalIndex};
use pitrus::timeline::TimelineId;
use pitrus::wal::event::{Event, Open};
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::scan::{EventScan, Found};

use super::orders::Orders;
use super::writer::{MAGICS, Writer, data_head, main_only};

const RECORDS_MAX: usize = 60;
const SEGMENT: u32 = 1 << 20;
const PAGE: usize = 8192;
/// Resource managers.
const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;
const STANDBY: u8 = 8;
const HEAP: u8 = 10;

pub fn events(input: &[u8]) {
    let mut orders = Orders(input);
    let magic = orders.one_of(&MAGICS);
    let piece = usize::from(orders.u16()).max(16);
    let mut writer = Writer::new(magic, SEGMENT, Lsn(5 * u64::from(SEGMENT)));
    for _ in 0..RECORDS_MAX {
        if orders.is_empty() {
            break;
        }
        let xid = u32::from(orders.u8() % 16);
        let (info, rmgr, body) = record(&mut orders);
        writer.record(xid, info, rmgr, &body);
    }
    agree(&writer, piece);
}

fn agree(writer: &Writer, piece: usize) {
    let mut scan = EventScan::new(SEGMENT, writer.start, Open::default());
    let mut events: Vec<Event> = Vec::new();
    let mut pieces = writer.bytes.chunks(piece);
    let is_read = loop {
        match scan.step() {
            Ok(Found::Event(event)) => events.push(event),
            Ok(Found::NeedMore) => match pieces.next() {
                Some(piece) => scan.feed(piece),
                None => break true,
            },
            Ok(Found::End { .. }) | Err(_) => break false,
        }
    };
    let mut builder = IndexBuilder::new(TimelineId(1), SEGMENT, writer.start, Open::default());
    let built = builder.feed(&writer.bytes);
    assert_eq!(built.is_ok(), is_read);
    let mut indexes = built.unwrap_or_default();
    indexes.push(builder.tail());
    for index in &indexes {
        let read: WalIndex = manifest::from_bytes(&manifest::to_bytes(index)).expect("we wrote it");
        assert_eq!(read, *index);
    }
    let Some(last) = indexes.last().filter(|_| is_read) else { return };
    assert_eq!(last.open_at_end, scan.open());
    for pair in indexes.windows(2) {
        assert_eq!(pair[0].open_at_end, pair[1].open_at_start);
    }
    let indexed: Vec<&Event> = indexes.iter().flat_map(|index| &index.events).collect();
    let kept: Vec<&Event> = events.iter().filter(|event| event.what.is_indexed()).collect();
    assert_eq!(indexed, kept);
}

/// Makes one record: its flags, its resource manager and its body.
fn record(orders: &mut Orders<'_>) -> (u8, u8, Vec<u8>) {
    match orders.u8() % 8 {
        0 => {
            let gid = gid(orders);
            (0x10, TRANSACTION, main_only(&prepare(orders, &gid)))
        }
        1 => {
            // A commit or rollback whose parts follow its own flags, or do not.
            let operation = orders.one_of(&[0x00, 0x20, 0x30, 0x40, 0x50, 0x60]);
            (operation | (orders.u8() & 0x80), TRANSACTION, main_only(&end(orders)))
        }
        2 => {
            let operation = orders.one_of(&[0x00, 0x10, 0x60, 0x70, 0x90, 0xB0, 0xA0, 0xD0, 0xE0]);
            let count = usize::from(orders.u8());
            (operation, XLOG, main_only(orders.bytes(count)))
        }
        3 => (0x10, STANDBY, main_only(orders.bytes(24))),
        4 => (0x00, HEAP, tuple_in_data(orders)),
        5 | 6 => (0x00, HEAP, tuple_in_image(orders)),
        _ => {
            let (info, rmgr) = (orders.u8(), orders.u8() % 24);
            let count = usize::from(orders.u8());
            (info, rmgr, orders.bytes(count).to_vec())
        }
    }
}

fn gid(orders: &mut Orders<'_>) -> Vec<u8> {
    let (mode, number) = (orders.u8(), orders.u8() % 8);
    if mode % 4 == 0 {
        return orders.bytes(usize::from(mode)).to_vec();
    }
    format!("citus_{}_{}_{number}_{}", mode % 3, 50 + mode / 64, mode % 5).into_bytes()
}

/// `xl_xact_prepare` of 15 and later, or what an order says.
fn prepare(orders: &mut Orders<'_>, gid: &[u8]) -> Vec<u8> {
    let mut main = vec![0; 72];
    main[8..12].copy_from_slice(&u32::from(orders.u8() % 16).to_le_bytes());
    main[16..24].copy_from_slice(&orders.u64().to_le_bytes());
    let (at, length) = (orders.one_of(&[46, 54]), orders.one_of(&[gid.len() as u16, 0xFFFF]));
    main[at..at + 2].copy_from_slice(&length.to_le_bytes());
    if at == 46 {
        main.truncate(64);
    }
    [&main, gid, &[0]].concat()
}

fn end(orders: &mut Orders<'_>) -> Vec<u8> {
    let mut main = orders.u64().to_le_bytes().to_vec();
    let has = u32::from(orders.u16() & 0x1FF);
    main.extend(has.to_le_bytes());
    let flags = [(0, 8, false), (1, 4, true), (2, 12, true), (8, 12, true), (3, 16, true), (4, 4, false)];
    for (bit, size, counted) in flags {
        if has & (1 << bit) == 0 {
            continue;
        }
        let count = if counted { orders.u8() } else { 1 };
        if counted {
            main.extend((if count == 255 { -1 } else { i32::from(count % 4) }).to_le_bytes());
        }
        for _ in 0..if counted { count % 4 } else { 1 } {
            main.extend(u32::from(orders.u8() % 16).to_le_bytes());
            main.resize(main.len() + size - 4, 0);
        }
    }
    if has & 0x80 != 0 {
        main.extend(gid(orders));
        main.push(0);
    }
    main
}

/// The values of a `pg_dist_transaction` row.
fn values(orders: &mut Orders<'_>) -> Vec<u8> {
    let gid = gid(orders);
    let mut values = i32::from(orders.u8()).to_le_bytes().to_vec();
    let length = gid.len() as u32;
    match orders.u8() % 3 {
        0 => values.extend((((length + 4) << 2) + u32::from(orders.u8() == 9)).to_le_bytes()),
        1 => values.push(orders.u8()),
        _ => values.push((((length as u8).wrapping_add(1)) << 1) | 1),
    }
    values.extend(gid);
    values
}

fn block_head(flags: u8, data: usize) -> Vec<u8> {
    let mut head = vec![0, flags];
    head.extend((data as u16).to_le_bytes());
    head
}

fn file() -> Vec<u8> {
    [1663u32, 5, 16_485, 0].map(u32::to_le_bytes).concat()
}

fn tuple_in_data(orders: &mut Orders<'_>) -> Vec<u8> {
    let mut data = orders.one_of(&[3u16, 2, 4, 255]).to_le_bytes().to_vec();
    data.extend([0, 0, orders.one_of(&[24, 23, 32, 0, 255]), 0]);
    data.extend(values(orders));
    let mut body = block_head(0x20, data.len());
    body.extend(file());
    data_head(&mut body, 3);
    [body, data, vec![1, 0, 0]].concat()
}

/// An insert whose tuple lies only in the image of its page.
fn tuple_in_image(orders: &mut Orders<'_>) -> Vec<u8> {
    let mut tuple = vec![0; 18];
    tuple.extend([orders.one_of(&[3, 2, 4]), 0, 0, 0, orders.one_of(&[24, 23, 200]), 0]);
    tuple.extend(values(orders));
    let at = orders.one_of(&[PAGE - tuple.len(), 100, 8190]);
    let offset = orders.one_of(&[1u16, 2, 0, 300, 0xFFFF]);
    let mut page = vec![0; PAGE];
    let pointer = at as u32 & 0x7FFF | 1 << 15 | (tuple.len() as u32) << 17;
    page[24..28].copy_from_slice(&pointer.to_le_bytes());
    let room = tuple.len().min(PAGE - at);
    page[at..at + room].copy_from_slice(&tuple[..room]);
    let (hole_at, hole) = orders.one_of(&[(28u16, 60u16), (0, 0), (28, 4000), (9000, 100), (1, 0xFFFF)]);
    let kept: Vec<u8> = match page.get(usize::from(hole_at)..usize::from(hole_at) + usize::from(hole)) {
        Some(_) => {
            [&page[..usize::from(hole_at)], &page[usize::from(hole_at) + usize::from(hole)..]].concat()
        }
        None => page,
    };
    let packing = orders.u8();
    let (flag, mut image) = match packing % 5 {
        0 => (0x00, kept),
        1 => (0x04, pglz_literals(&kept)),
        2 => (0x08, lz4_flex::block::compress(&kept)),
        3 => (0x10, zstd::bulk::compress(&kept, 1).expect("a page compresses")),
        _ => {
            (orders.one_of(&[0x02, 0x04, 0x08, 0x10, 0x0C]), orders.bytes(usize::from(packing) * 2).to_vec())
        }
    };
    if orders.u8() == 5 && !image.is_empty() {
        let at = usize::from(orders.u16()) % image.len();
        image[at] ^= orders.u8();
    }
    let mut body = block_head(0x10, 0);
    body.extend([(image.len() as u16).to_le_bytes(), hole_at.to_le_bytes()].concat());
    body.push(flag | u8::from(hole > 0));
    if hole > 0 && flag != 0 {
        body.extend(hole.to_le_bytes());
    }
    body.extend(file());
    data_head(&mut body, 3);
    [body, image, [&offset.to_le_bytes()[..], &[0]].concat()].concat()
}

/// PostgreSQL's own format, with nothing but literals and, where bytes repeat, copies.
fn pglz_literals(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut at = 0;
    while at < plain.len() {
        let control = packed.len();
        packed.push(0);
        for bit in 0..8 {
            let Some(&byte) = plain.get(at) else { break };
            let before = at.checked_sub(1).and_then(|before| plain.get(before));
            let run = plain[at..].iter().take(273).take_while(|b| Some(*b) == before).count();
            if run >= 18 {
                packed[control] |= 1 << bit;
                packed.extend([0x0F, 1, (run - 18) as u8]);
                at += run;
            } else {
                packed.push(byte);
                at += 1;
            }
        }
    }
    packed
}
