//! Pages: the decoder on bytes that never were WAL, or pages with right headers and anything between them.
//! However they are cut into pieces, it finds the same.

use pitrus::lsn::Lsn;
use pitrus::wal::Error;
use pitrus::wal::decoder::{Decoder, Step};

use super::orders::Orders;
use super::writer::MAGICS;

const PAGE: usize = 8192;
const PAGES_MAX: usize = 12;

/// How a reading ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Fed(Lsn),
    End(Lsn, &'static str),
    Refused(Error),
}

/// Reads bytes cut into pieces of these sizes, over and over; returns where records begin and end.
pub(crate) fn decode(segment: u32, start: Lsn, bytes: &[u8], pieces: &[usize]) -> (Vec<(Lsn, Lsn)>, Ended) {
    let mut decoder = Decoder::new(segment, start);
    let (mut found, mut rest, mut sizes) = (Vec::new(), bytes, pieces.iter().cycle());
    loop {
        match decoder.step() {
            Ok(Step::Record(record)) => {
                assert!(record.lsn < record.end);
                assert!(found.last().is_none_or(|(_, end)| *end <= record.lsn));
                found.push((record.lsn, record.end));
            }
            Ok(Step::NeedMore) if rest.is_empty() => return (found, Ended::Fed(decoder.position())),
            Ok(Step::NeedMore) => {
                let size = sizes.next().copied().unwrap_or(PAGE).max(1);
                let (piece, more) = rest.split_at(size.min(rest.len()));
                decoder.feed(piece);
                rest = more;
            }
            Ok(Step::End { at, why }) => return (found, Ended::End(at, why)),
            Err(error) => return (found, Ended::Refused(error)),
        }
    }
}

pub fn pages(input: &[u8]) {
    let mut orders = Orders(input);
    let magic = orders.one_of(&[MAGICS.as_slice(), &[0xD10C, 0xD119, 0]].concat());
    let segment = orders.one_of(&[1 << 20, 2 << 20, 16 << 20, 1 << 30]);
    let mode = orders.u8();
    let pieces = [usize::from(orders.u16()), usize::from(orders.u8()), usize::from(orders.u16())];
    let (start, bytes) = match mode % 4 {
        0 => (Lsn(orders.u64()), orders.0.to_vec()),
        1 => (Lsn(u64::from(orders.u32()) * 8), orders.0.to_vec()),
        _ => {
            let start = u64::from(orders.u16()) * u64::from(segment) + u64::from(orders.u8()) * PAGE as u64;
            (Lsn(start), written(&mut orders, magic, u64::from(segment), start))
        }
    };
    let whole = decode(segment, start, &bytes, &[bytes.len()]);
    assert_eq!(decode(segment, start, &bytes, &pieces), whole);
}

/// Makes pages: each order gives a header's flags and what it says of the record before, and what follows.
fn written(orders: &mut Orders<'_>, magic: u16, segment: u64, start: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What a record that crosses pages has left, so that the next header may fit it.
    let mut left = 0u32;
    for at in (start..).step_by(PAGE).take(PAGES_MAX) {
        if orders.is_empty() {
            break;
        }
        let mut page = Vec::with_capacity(PAGE);
        let long = at.is_multiple_of(segment);
        let info = u16::from(orders.u8() % 16);
        let (rest, length) = (orders.u8(), orders.u16());
        let rest = if rest < 200 { left } else { u32::from(rest) * 97 };
        page.extend(magic.to_le_bytes());
        page.extend((if long { info | 2 } else { info }).to_le_bytes());
        page.extend(
            [1u32.to_le_bytes(), (at as u32).to_le_bytes(), ((at >> 32) as u32).to_le_bytes()].concat(),
        );
        page.extend(u64::from(rest).to_le_bytes());
        if long {
            page.extend([7, segment << 32 >> 32 | (PAGE as u64) << 32].map(u64::to_le_bytes).concat());
        }
        page.extend_from_slice(orders.bytes(usize::from(length) % (PAGE - page.len())));
        let header = if long { 40 } else { 24 };
        let said = page.get(header..header + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let body = (PAGE - header) as u32;
        left = if rest > body { rest - body } else { said.saturating_sub(body) };
        page.resize(PAGE, 0);
        bytes.extend(page);
    }
    bytes
}
