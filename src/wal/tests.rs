//! The decoder on WAL written here byte by byte, for what real servers write too seldom to record; and
//! on recorded WAL, however it is cut.

use proptest::prelude::*;

use super::decision;
use super::decoder::{Decoder, Step};
use super::event::{Event, Open};
use super::index::IndexBuilder;
use super::record::{Packing, rmgr};
use super::scan::{EventScan, Found};
use super::{Error, Version};
use crate::lsn::Lsn;
use crate::manifest::wal_index::WalIndex;
use crate::timeline::TimelineId;

const SEGMENT: u32 = 1 << 20;
const PAGE: u64 = 8192;
const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const OVERWRITE: u16 = 8;
const SWITCH: u8 = 0x40;
const NOOP: u8 = 0x20;

/// Writes WAL as a server does, from a page's start on.
struct Writer {
    segment_bytes: u32,
    start: Lsn,
    bytes: Vec<u8>,
    previous: Lsn,
}

impl Writer {
    fn new(start: Lsn) -> Self {
        Writer { segment_bytes: SEGMENT, start, bytes: Vec::new(), previous: Lsn(start.0.saturating_sub(64)) }
    }

    fn with_segments(self, segment_bytes: u32) -> Self {
        Writer { segment_bytes, ..self }
    }

    fn at(&self) -> u64 {
        self.start.0 + self.bytes.len() as u64
    }

    fn header(&mut self, info: u16, left: u32) {
        let at = self.at();
        let long = at.is_multiple_of(u64::from(self.segment_bytes));
        self.bytes.extend(0xD110u16.to_le_bytes());
        self.bytes.extend((info | if long { LONG } else { 0 }).to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend([left.to_le_bytes(), [0; 4]].concat());
        if long {
            self.bytes.extend(7u64.to_le_bytes());
            self.bytes.extend([self.segment_bytes.to_le_bytes(), (PAGE as u32).to_le_bytes()].concat());
        }
    }

    /// Writes a record with this much data of its own; returns where it begins.
    fn record(&mut self, operation: u8, data: usize) -> Lsn {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        if self.at().is_multiple_of(PAGE) {
            self.header(0, 0);
        }
        let lsn = Lsn(self.at());
        let mut body = Vec::new();
        if data > 0 {
            body.push(254);
            body.extend((data as u32).to_le_bytes());
            body.extend((0..data).map(|i| (i % 251) as u8));
        }
        let mut head = Vec::new();
        head.extend((24 + body.len() as u32).to_le_bytes());
        head.extend(0u32.to_le_bytes());
        head.extend(self.previous.0.to_le_bytes());
        head.extend([operation, rmgr::XLOG, 0, 0]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&body), &head);
        head.extend(sum.to_le_bytes());
        let mut rest = [head, body].concat();
        while !rest.is_empty() {
            if self.at().is_multiple_of(PAGE) {
                self.header(CONTRECORD, rest.len() as u32);
            }
            let room = (PAGE - self.at() % PAGE) as usize;
            self.bytes.extend(rest.drain(..room.min(rest.len())));
        }
        self.previous = lsn;
        lsn
    }

    /// Loses what was written from `lsn` on, as a crash does, and begins a page there that says so.
    fn crash(&mut self, lsn: Lsn, previous: Lsn) {
        assert!(lsn.0.is_multiple_of(PAGE) && lsn.0 < self.at());
        self.bytes.truncate((lsn.0 - self.start.0) as usize);
        self.header(OVERWRITE, 0);
        self.previous = previous;
    }
}

/// Decodes bytes cut into pieces; returns where records begin, and how it ended.
fn decode(start: Lsn, bytes: &[u8], piece: usize) -> (Vec<Lsn>, Option<(Lsn, &'static str)>) {
    decode_with(Decoder::new(SEGMENT, start), bytes, piece)
}

fn decode_with(mut decoder: Decoder, bytes: &[u8], piece: usize) -> (Vec<Lsn>, Option<(Lsn, &'static str)>) {
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        loop {
            match decoder.step().unwrap() {
                Step::Record(record) => found.push(record.lsn),
                Step::NeedMore => break,
                Step::End { at, why } => return (found, Some((at, why))),
            }
        }
    }
    (found, None)
}

#[test]
fn records_end_anywhere_and_cross_pages_and_segments() {
    // Around a page's end every length, so that records, paddings and headers meet in every way.
    let lengths = (8000..8200).chain([0, 1, 30_000, 70_000, 3 << 20, 5]);
    let mut writer = Writer::new(Lsn(u64::from(SEGMENT) * 3));
    let written: Vec<Lsn> = lengths.map(|data| writer.record(NOOP, data)).collect();
    for piece in [61, 8192, 100_000, usize::MAX >> 1] {
        assert_eq!(decode(writer.start, &writer.bytes, piece), (written.clone(), None), "pieces of {piece}");
    }
    // From the second segment on, the record that was begun before is skipped.
    for segment in 1..=4 {
        let from = Lsn(writer.start.0 + u64::from(SEGMENT) * segment);
        let later: Vec<Lsn> = written.iter().copied().filter(|&lsn| lsn >= from).collect();
        let bytes = &writer.bytes[(from.0 - writer.start.0) as usize..];
        assert_eq!(decode(from, bytes, 5000), (later, None), "from {from}");
    }
}

#[test]
fn a_record_never_finished_is_noticed_at_once() {
    let mut writer = Writer::new(Lsn(u64::from(SEGMENT)));
    let first = writer.record(NOOP, 100);
    let torn = writer.record(NOOP, 500_000);
    writer.crash(Lsn(writer.start.0 + 5 * PAGE), first);
    let after = [writer.record(0xD0, 16), writer.record(NOOP, 100)];
    assert!(torn < after[0]);
    let expected = vec![first, after[0], after[1]];
    for piece in [13, 8192, 8192 * 5, usize::MAX >> 1] {
        assert_eq!(decode(writer.start, &writer.bytes, piece), (expected.clone(), None), "pieces of {piece}");
    }
    // A reader that begins within the torn record finds the same.
    let bytes = &writer.bytes[2 * PAGE as usize..];
    assert_eq!(decode(Lsn(writer.start.0 + 2 * PAGE), bytes, 999).0, after);
}

#[test]
fn a_switch_ends_its_segment() {
    let mut writer = Writer::new(Lsn(u64::from(SEGMENT)));
    let mut written = vec![writer.record(NOOP, 100), writer.record(SWITCH, 0)];
    writer.bytes.resize(SEGMENT as usize, 0);
    written.push(writer.record(NOOP, 10));
    assert_eq!(decode(writer.start, &writer.bytes, 777), (written.clone(), None));
    // One that fills its segment to the last byte skips nothing.
    let mut full = Writer::new(Lsn(u64::from(SEGMENT)));
    let room = |w: &Writer| SEGMENT as usize - w.bytes.len();
    while room(&full) > 2 * PAGE as usize {
        full.record(NOOP, 1000);
    }
    while room(&full) > 24 {
        let rest = room(&full) % PAGE as usize;
        full.record(NOOP, if rest == 24 { PAGE as usize - 24 - 29 } else { 0 });
        full.bytes.resize(full.bytes.len().next_multiple_of(8), 0);
    }
    let switch = full.record(SWITCH, 0);
    let next = full.record(NOOP, 1);
    assert_eq!(next.0, u64::from(SEGMENT) * 2 + 40);
    assert!(decode(full.start, &full.bytes, 4096).0.ends_with(&[switch, next]));
}

#[test]
fn the_end_is_told_from_a_pause() {
    let mut writer = Writer::new(Lsn(u64::from(SEGMENT)));
    let first = writer.record(NOOP, 100);
    let second = writer.record(NOOP, 20_000);
    let end = |bytes: &[u8]| decode(writer.start, bytes, 4000);
    let from = (second.0 - writer.start.0) as usize;
    for cut in [from, from + 3, from + 24, 8192, 8200, 16_500] {
        assert_eq!(end(&writer.bytes[..cut]), (vec![first], None), "cut at {cut}");
    }
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = writer.bytes.clone();
        change(&mut bytes);
        bytes.resize(bytes.len() + 8192, 0);
        let (found, ended) = end(&bytes);
        assert_eq!(found, [first]);
        let (at, why) = ended.expect("an end");
        assert_eq!(at, second);
        why
    };
    assert_eq!(with(&|b| b[from..].fill(0)), "zeros");
    assert_eq!(with(&|b| b[16_384..].fill(0)), "zeros");
    assert_eq!(with(&|b| b[10_000] ^= 1), "a record whose checksum is wrong");
    assert_eq!(with(&|b| b[from..from + 4].fill(0xFF)), "a record of impossible length");
    assert_eq!(with(&|b| b[from + 8] ^= 1), "a record that does not follow the one before it");
    assert_eq!(with(&|b| b[8192 + 9] ^= 1), "a page of an older use of the file");
    assert_eq!(with(&|b| b[8192 + 16] ^= 1), "a page that does not go on with the record before it");
}

#[test]
fn segments_are_of_any_size_that_postgres_knows() {
    for bits in 20..=30 {
        let (segment, last) = (1u32 << bits, 2 * PAGE);
        let end = u64::from(segment) * 5;
        let mut writer = Writer::new(Lsn(end - last)).with_segments(segment);
        // Over the segment's end; and up to it by a switch.
        let mut written: Vec<Lsn> = [100, 20_000, 50].map(|data| writer.record(NOOP, data)).into();
        let decode = |writer: &Writer| decode_with(Decoder::new(segment, writer.start), &writer.bytes, 999);
        assert_eq!(decode(&writer), (written, None), "{segment}");
        let mut writer = Writer::new(Lsn(end - last)).with_segments(segment);
        written = vec![writer.record(NOOP, 100), writer.record(SWITCH, 0)];
        writer.bytes.resize(last as usize, 0);
        written.push(writer.record(NOOP, 10));
        assert_eq!(written[2], Lsn(end + 40));
        assert_eq!(decode(&writer), (written, None), "{segment}");
    }
}

/// A decoder that begins within a page waits for the next one: only page headers tell who wrote a record.
#[test]
fn reading_begins_with_a_page() {
    let mut writer = Writer::new(Lsn(u64::from(SEGMENT)));
    let written: Vec<Lsn> = (0..40).map(|_| writer.record(NOOP, 1000)).collect();
    let from = written[3];
    let later: Vec<Lsn> = written.iter().copied().filter(|lsn| lsn.0 > writer.start.0 + PAGE).collect();
    let bytes = &writer.bytes[(from.0 - writer.start.0) as usize..];
    for piece in [50, 10_000, usize::MAX >> 1] {
        assert_eq!(decode(from, bytes, piece), (later.clone(), None), "pieces of {piece}");
    }
}

const MAGICS: [u16; 5] = [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

/// Writes three pages of one record, with these magics; returns what its reading gives.
fn of_magics(magics: [u16; 3]) -> Result<Version, Error> {
    let mut writer = Writer::new(Lsn(0));
    writer.record(NOOP, 2 * PAGE as usize);
    for (page, magic) in writer.bytes.chunks_mut(PAGE as usize).zip(magics) {
        page[..2].copy_from_slice(&magic.to_le_bytes());
    }
    let mut decoder = Decoder::new(SEGMENT, Lsn(0));
    decoder.feed(&writer.bytes);
    match decoder.step()? {
        Step::Record(record) => Ok(record.version),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_tell_the_version_and_other_versions_are_refused() {
    for (magic, version) in MAGICS.into_iter().zip(Version::ALL) {
        assert_eq!(of_magics([magic; 3]), Ok(version));
        assert_eq!(Version::of_server(version.major() * 10_000 + 7), Some(version));
    }
    for (magic, named) in [(0xD106, "older than 14"), (0xD119, "newer than 18")] {
        let error = of_magics([magic; 3]).unwrap_err();
        assert_eq!(error, Error::Version { lsn: Lsn(0), version: named });
        assert!(error.to_string().contains(named));
    }
    assert_eq!(of_magics([0x1234; 3]), Err(Error::NotWal { lsn: Lsn(0), magic: 0x1234 }));
    let mixed = Error::Mixed { lsn: Lsn(2 * PAGE), before: Version::V15, found: Version::V16 };
    assert_eq!(of_magics([0xD110, 0xD110, 0xD113]), Err(mixed));
}

#[test]
fn no_position_is_too_great() {
    for start in [u64::MAX, u64::MAX - 7, u64::MAX - 8191, u64::MAX - (1 << 33)] {
        assert!(decode(Lsn(start), &[1; 20_000], 5000).1.is_some());
    }
}

/// A node's recorded WAL: its start and the bytes up to its end.
fn recorded(node: &str) -> (Lsn, Vec<u8>) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wal/citus");
    let file = |name: &str| zstd::decode_all(std::fs::read(folder.join(name)).unwrap().as_slice()).unwrap();
    let truth: serde_json::Value = serde_json::from_slice(&file("truth.json.zst")).unwrap();
    let nodes = truth["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|n| n["name"] == node).unwrap();
    let lsn = |field: &str| node[field].as_str().unwrap().parse::<Lsn>().unwrap();
    let mut bytes = Vec::new();
    for segment in node["segments"].as_array().unwrap() {
        let name = format!("{}/{}.zst", node["name"].as_str().unwrap(), segment.as_str().unwrap());
        bytes.extend(file(&name));
    }
    bytes.truncate((lsn("end").0 - lsn("start").0) as usize);
    (lsn("start"), bytes)
}

fn events(start: Lsn, bytes: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Event>, Open) {
    let mut scan = EventScan::new(SEGMENT, start, Open::default());
    let (mut events, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().min(rest.len()));
        rest = later;
        scan.feed(now);
        while let Found::Event(event) = scan.step().unwrap() {
            events.push(event);
        }
    }
    (events, scan.open())
}

/// The recorded load wrote decisions in every form there is, and each form is read.
#[test]
fn decisions_are_found_in_every_form() {
    let (mut plain, mut images) = (0, std::collections::BTreeMap::<Packing, usize>::new());
    for node in ["coordinator", "worker1", "worker2"] {
        let (start, bytes) = recorded(node);
        let mut decoder = Decoder::new(SEGMENT, start);
        decoder.feed(&bytes);
        while let Step::Record(record) = decoder.step().unwrap() {
            if record.rmgr != rmgr::HEAP || decision::inserted(&record).is_none() {
                continue;
            }
            match record.blocks.first().unwrap().image {
                Some(image) => *images.entry(image.packing).or_default() += 1,
                None => plain += 1,
            }
        }
    }
    assert!(plain > 500, "{plain} in plain inserts");
    let every = [Packing::Plain, Packing::Pglz, Packing::Lz4, Packing::Zstd];
    assert_eq!(images.keys().copied().collect::<Vec<_>>(), every, "{images:?}");
}

/// Any index is made again from its segment and what was open at its start: it is only a cache.
#[test]
fn an_index_is_made_again_from_its_segment() {
    for node in ["coordinator", "worker1", "worker2"] {
        let (start, bytes) = recorded(node);
        let build = |start: Lsn, bytes: &[u8], open: Open| {
            let mut builder = IndexBuilder::new(TimelineId(1), SEGMENT, start, open);
            let mut indexes = builder.feed(bytes).unwrap();
            indexes.push(builder.tail());
            indexes
        };
        let all = build(start, &bytes, Open::default());
        for (at, index) in all.iter().enumerate() {
            let from = (index.start.0 - start.0) as usize;
            let again = build(index.start, &bytes[from..], index.open_at_start.clone());
            assert_eq!(again[0], *index, "{node} from {}", index.start);
            let text = serde_json::to_vec(index).unwrap();
            assert_eq!(serde_json::from_slice::<WalIndex>(&text).unwrap(), *index);
            if let Some(next) = all.get(at + 1) {
                assert_eq!(index.open_at_end, next.open_at_start);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn cuts_between_pieces_change_nothing(sizes in prop::collection::vec(1usize..60_000, 1..40)) {
        let (start, bytes) = recorded("worker1");
        let mut sizes = sizes.into_iter().cycle();
        let whole = events(start, &bytes, || usize::MAX);
        prop_assert!(whole.0.len() > 500);
        prop_assert_eq!(events(start, &bytes, || sizes.next().unwrap_or(1)), whole);
    }

    #[test]
    fn written_records_are_read_back(lengths in prop::collection::vec(0usize..40_000, 1..60), piece in 1usize..50_000) {
        let mut writer = Writer::new(Lsn(u64::from(SEGMENT) * 7));
        let written: Vec<Lsn> = lengths.into_iter().map(|data| writer.record(NOOP, data)).collect();
        prop_assert_eq!(decode(writer.start, &writer.bytes, piece), (written, None));
    }
}
