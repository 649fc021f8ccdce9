//! How fast WAL is read, in memory and on one core, beside what bounds it:
//!
//!     cargo bench --bench decoder
//!
//! The WAL is that of `fixtures/`, or of PITRUS_BENCH_WAL, a folder of consecutive segments of one timeline.
//! `pg_waldump --stats` reads the same files where PITRUS_PG_BIN (or Debian's folder for 15) has it and the
//! WAL is its version's. Figures are medians of the time on
//! the processor; of that process, the shortest of all runs by the clock.
#![allow(clippy::unwrap_used)] // a bench that cannot read its input ends

mod timing;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pitrus::lsn::Lsn;
use pitrus::timeline::TimelineId;
use pitrus::wal::decoder::{Decoder, Step};
use pitrus::wal::event::Open;
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::scan::{EventScan, Found};
use pitrus::wal::segment::Segment;
use timing::{RUNS, median};

/// What the archiver's stream gives at once, at most.
const PIECE: usize = 128 << 10;

/// Consecutive segments in memory.
struct Wal {
    name: String,
    segment_bytes: u32,
    first: Segment,
    bytes: Vec<u8>,
    /// Where they lie as plain files.
    folder: PathBuf,
    count: u64,
}

fn main() {
    let scratch = tempfile::tempdir().unwrap();
    let all = match std::env::var_os("PITRUS_BENCH_WAL") {
        Some(folder) => vec![read(&PathBuf::from(folder))],
        None => recorded(scratch.path()),
    };
    for wal in all {
        measure(&wal);
    }
}

/// Unpacks the recorded WAL into folders of plain segments.
fn recorded(scratch: &Path) -> Vec<Wal> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wal");
    ["citus/coordinator", "pg18"]
        .into_iter()
        .map(|name| {
            let target = scratch.join(name);
            std::fs::create_dir_all(&target).unwrap();
            for entry in std::fs::read_dir(fixtures.join(name)).unwrap() {
                let path = entry.unwrap().path();
                let segment = path.file_stem().unwrap().to_str().unwrap();
                if Segment::parse(segment, 1 << 20).is_some() {
                    let bytes = zstd::decode_all(std::fs::read(&path).unwrap().as_slice()).unwrap();
                    std::fs::write(target.join(segment), bytes).unwrap();
                }
            }
            read(&target)
        })
        .collect()
}

fn read(folder: &Path) -> Wal {
    let files = || std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let size = files().map(|file| file.metadata().unwrap().len()).max().unwrap();
    let segment_bytes = u32::try_from(size).unwrap();
    let mut segments: Vec<Segment> = files()
        .filter_map(|file| Segment::parse(file.file_name().to_str().unwrap(), segment_bytes))
        .collect();
    segments.sort();
    let name = |segment: &Segment| folder.join(segment.file_name(segment_bytes));
    let bytes = segments.iter().flat_map(|segment| std::fs::read(name(segment)).unwrap()).collect();
    Wal {
        name: folder.display().to_string(),
        segment_bytes,
        first: segments[0],
        bytes,
        folder: folder.to_owned(),
        count: segments.len() as u64,
    }
}

fn measure(wal: &Wal) {
    let (records, valid) = decode(wal);
    let bytes = &wal.bytes[..valid];
    println!("\n{}: {:.1} MB, {records} records, {} B each", wal.name, valid as f64 / 1e6, valid / records);
    let row = |what: &str, times: Duration| {
        let seconds = times.as_secs_f64();
        let (rate, each) = (valid as f64 / seconds / 1e9, seconds / records as f64 * 1e9);
        println!("  {what:<28} {rate:>7.2} GB/s {each:>8.1} ns a record");
    };
    row("crc32c alone", median(|| _ = std::hint::black_box(crc32c::crc32c(bytes))));
    let packed = zstd::encode_all(bytes, 3).unwrap();
    let mut unpacked = Vec::with_capacity(valid);
    let mut unpack = zstd::bulk::Decompressor::new().unwrap();
    row(
        "zstd -3 decompression",
        median(|| {
            unpacked.clear();
            unpack.decompress_to_buffer(&packed, &mut unpacked).unwrap();
        }),
    );
    row("records", median(|| assert_eq!(decode(wal).0, records)));
    row("events", median(|| _ = std::hint::black_box(events(wal, bytes))));
    row("indexes", median(|| _ = std::hint::black_box(indexes(wal, bytes))));
    match waldump(wal) {
        Some(time) => row("pg_waldump --stats", time),
        None => println!("  no pg_waldump that reads it"),
    }
}

/// Returns the number of records, and of bytes up to the end of the last.
fn decode(wal: &Wal) -> (usize, usize) {
    let start = wal.first.start(wal.segment_bytes);
    let mut decoder = Decoder::new(wal.segment_bytes, start);
    let mut records = 0;
    for piece in wal.bytes.chunks(PIECE) {
        decoder.feed(piece);
        while let Step::Record(record) = decoder.step().unwrap() {
            std::hint::black_box(record.main);
            records += 1;
        }
    }
    (records, valid(start, decoder.position()))
}

fn valid(start: Lsn, end: Lsn) -> usize {
    usize::try_from(end.0 - start.0).unwrap()
}

fn events(wal: &Wal, bytes: &[u8]) -> usize {
    let mut scan = EventScan::new(wal.segment_bytes, wal.first.start(wal.segment_bytes), Open::default());
    let mut events = 0;
    for piece in bytes.chunks(PIECE) {
        scan.feed(piece);
        while let Found::Event(_) = scan.step().unwrap() {
            events += 1;
        }
    }
    events
}

fn indexes(wal: &Wal, bytes: &[u8]) -> usize {
    let start = wal.first.start(wal.segment_bytes);
    let mut builder = IndexBuilder::new(TimelineId(1), wal.segment_bytes, start, Open::default());
    let made: usize = bytes.chunks(PIECE).map(|piece| builder.feed(piece).unwrap().len()).sum();
    made + builder.tail().blocks.len()
}

/// Runs PostgreSQL's own reader over the same files, its start included.
fn waldump(wal: &Wal) -> Option<Duration> {
    let bin = std::env::var_os("PITRUS_PG_BIN").map_or("/usr/lib/postgresql/15/bin".into(), PathBuf::from);
    let last = Segment { number: wal.first.number + wal.count - 1, ..wal.first };
    let run = || {
        let mut command = Command::new(bin.join("pg_waldump"));
        command.arg("--stats").arg("--path").arg(&wal.folder).stderr(Stdio::null());
        command.args([wal.first.file_name(wal.segment_bytes), last.file_name(wal.segment_bytes)]).output()
    };
    // It ends with an error where the WAL does; one of another version gives no table.
    run().ok().filter(|said| said.stdout.len() > 500)?;
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            drop(run());
            began.elapsed()
        })
        .collect();
    times.sort();
    Some(times[0])
}
