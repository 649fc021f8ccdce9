//! How fast each stage of a backup and of a restore is, in memory and on one core, beside what bounds it:
//!
//!     cargo bench --bench stages
//!
//! The bytes are pages as PostgreSQL lays them out, of rows that compress about as business data does, and of an index
//! to be laid by column; or those of PITRUS_BENCH_DATA, a file. Figures are medians of the time on the processor.
#![allow(clippy::unwrap_used)] // a bench that cannot read its input ends

mod timing;

use std::hint::black_box;
use std::time::Duration;

use pitrus::loops::Cipher;
use pitrus::manifest::backup::{Entry, Extent, Kind, read_line};
use pitrus::pgfile::page::{PAGE_BYTES, checksum};
use pitrus::seal::{CHUNK_BYTES, EpochKey, Form, KeyRing, Sealer, Walk};
use timing::median;

const BYTES: usize = 64 << 20;

fn main() {
    let (plain, tables) = match std::env::var_os("PITRUS_BENCH_DATA").map(|path| std::fs::read(path).unwrap())
    {
        Some(data) => (data.clone(), data),
        None => (pages(BYTES), index(BYTES)),
    };
    let chunks = || plain.chunks(CHUNK_BYTES);
    println!(
        "{:.0} MB in chunks of {} KiB; GB/s of plain bytes",
        plain.len() as f64 / 1e6,
        CHUNK_BYTES >> 10
    );
    let row = |what: &str, time: Duration, note: String| {
        println!("  {what:<34} {:>7.2} GB/s  {note}", plain.len() as f64 / time.as_secs_f64() / 1e9);
    };
    let none = String::new;

    let mut copy = vec![0; CHUNK_BYTES];
    let copied = median(|| {
        chunks().for_each(|chunk| black_box(&mut copy)[..chunk.len()].copy_from_slice(black_box(chunk)));
    });
    row("memcpy", copied, none());
    row(
        "crc32 (ours, of each chunk)",
        median(|| chunks().for_each(|c| _ = black_box(crc32fast::hash(c)))),
        none(),
    );
    let sums = median(|| {
        let (pages, _) = plain.as_chunks::<PAGE_BYTES>();
        pages.iter().zip(0..).for_each(|(page, number)| _ = black_box(checksum(number, page)));
    });
    row("page checksum", sums, none());

    for level in [1, 3] {
        let mut squeeze = zstd::bulk::Compressor::new(level).unwrap();
        let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(CHUNK_BYTES));
        let mut stored = 0;
        let alone = median(|| {
            stored = 0;
            for chunk in chunks() {
                packed.clear();
                stored += squeeze.compress_to_buffer(chunk, &mut packed).unwrap();
            }
        });
        let share = format!("{:.3} of the bytes", stored as f64 / plain.len() as f64);
        row(&format!("zstd {level} alone"), alone, share);
        let epoch = EpochKey::generate();
        let sealed = median(|| drop(black_box(Sealer::whole(&epoch, "bench", level, &plain).unwrap())));
        row(
            &format!("seal, level {level}: zstd and AES"),
            sealed,
            format!("{:.2} of zstd alone", ratio(alone, sealed)),
        );
    }
    let cipher = Cipher::new(&[7; 32]);
    let mut text = plain.clone();
    let encrypted = median(|| {
        for chunk in text.chunks_mut(CHUNK_BYTES) {
            black_box(cipher.seal([9; 12], &[], chunk));
        }
    });
    row("AES-256-GCM alone", encrypted, "of what zstd leaves only".into());

    opening(&plain, row);
    columns(&tables, row);
    manifest();
}

fn opening(plain: &[u8], row: impl Fn(&str, Duration, String)) {
    let (epoch, mut ring) = (EpochKey::generate(), KeyRing::new());
    ring.insert(epoch.clone());
    let object = Sealer::whole(&epoch, "bench", 1, plain).unwrap();
    let packed: Vec<Vec<u8>> =
        plain.chunks(CHUNK_BYTES).map(|chunk| zstd::bulk::compress(chunk, 1).unwrap()).collect();
    let mut unpack = zstd::bulk::Decompressor::new().unwrap();
    let mut place = Vec::with_capacity(CHUNK_BYTES);
    let alone = median(|| {
        for chunk in &packed {
            place.clear();
            unpack.decompress_to_buffer(chunk, &mut place).unwrap();
        }
    });
    row("zstd decompression alone", alone, String::new());
    let opened = opened(&ring, &object);
    row("open: AES and zstd", opened, format!("{:.2} of zstd alone", ratio(alone, opened)));
}

/// How long it takes to open all chunks of an object.
fn opened(ring: &KeyRing, object: &bytes::Bytes) -> Duration {
    let mut place = Vec::with_capacity(CHUNK_BYTES);
    median(|| {
        let mut walk = Walk::new(ring, "bench", object).unwrap();
        while walk.next_into(object, &mut place).unwrap() {
            black_box(&place);
        }
    })
}

/// The same for pages whose tuples have one length, as bytes and by column.
fn columns(plain: &[u8], row: impl Fn(&str, Duration, String)) {
    let (epoch, mut ring) = (EpochKey::generate(), KeyRing::new());
    ring.insert(epoch.clone());
    for (what, form) in [("pages as bytes", Form::Bytes), ("pages by column", Form::Pages)] {
        let mut object = bytes::Bytes::new();
        let sealed = median(|| {
            let mut sealer = Sealer::new(&epoch, "bench", form, 1);
            plain.chunks(CHUNK_BYTES).for_each(|chunk| _ = sealer.chunk(chunk, false).unwrap());
            object = sealer.finish().unwrap();
        });
        let share = format!("{:.3} of the bytes", object.len() as f64 / plain.len() as f64);
        row(&format!("seal, level 1: {what}"), sealed, share);
        row(&format!("open: {what}"), opened(&ring, &object), String::new());
    }
}

/// Lines of a manifest: what a restore and the next backup read for each file.
fn manifest() {
    let extent = |n: u32| Extent {
        pack: "12".into(),
        chunk: n,
        at: u64::from(n) * 400_000,
        sealed: 400_000,
        offset: 0,
        len: 1 << 20,
        plain: 1 << 20,
        crc: n,
    };
    let kind = Kind::File { size: 64 << 20, modified: 1_700_000_000, extents: (0..64).map(extent).collect() };
    let entry =
        pitrus::manifest::backup::Line::Entry(Entry { path: "base/5/16384".into(), kind, mode: 0o600 });
    let line = serde_json::to_vec(&entry).unwrap();
    let times = 2000;
    let data = f64::from(times) * f64::from(64 << 20) / 1e12;
    let write = median(|| (0..times).for_each(|_| _ = black_box(serde_json::to_vec(&entry).unwrap())));
    let read = median(|| (0..times).for_each(|_| _ = black_box(read_line(&line).unwrap())));
    println!("a manifest: {} bytes a MiB of data", line.len() / 64);
    for (what, time) in [("written", write), ("read", read)] {
        println!("  {what:<34} {:>7.2} s for the manifest of 1 TB", time.as_secs_f64() / data);
    }
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// Makes pages of rows: a counter, words that repeat, digits that do not.
fn pages(bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["paid", "open", "returned", "north", "south", "invoice", "customer", "delivery"];
    let (mut all, mut seed, mut number) = (Vec::with_capacity(bytes), 0x9E37_79B9_7F4A_7C15u64, 0u64);
    while all.len() < bytes {
        let mut page = vec![0u8; 24];
        while page.len() + 100 < PAGE_BYTES {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            number += 1;
            let (one, two) = (WORDS[(seed % 8) as usize], WORDS[(seed >> 8 & 7) as usize]);
            page.extend_from_slice(&number.to_le_bytes());
            page.extend_from_slice(format!("{seed:016x}{one}{two}{:>12}", seed % 1_000_000).as_bytes());
        }
        page.resize(PAGE_BYTES, 0);
        all.extend_from_slice(&page);
    }
    all
}

/// Makes pages of a B-tree over a counter, whose rows were inserted in another order: tuples of 16 bytes.
fn index(bytes: usize) -> Vec<u8> {
    const TUPLES: usize = 366;
    let page = |block: usize| {
        let mut page = vec![0u8; PAGE_BYTES];
        let special = PAGE_BYTES - 16;
        let fields = [24 + 4 * TUPLES, special - 16 * TUPLES, special, PAGE_BYTES | 4];
        for (n, field) in fields.into_iter().enumerate() {
            page[12 + 2 * n..][..2].copy_from_slice(&(field as u16).to_le_bytes());
        }
        for n in 0..TUPLES {
            let at = special - 16 * (n + 1);
            page[24 + 4 * n..][..4].copy_from_slice(&((16 << 17) | (1 << 15) | at as u32).to_le_bytes());
            let key = block * TUPLES + n;
            let row = key / 61 * 61 + key * 17 % 61;
            let tid = [((row / 61) >> 16) as u16, (row / 61) as u16, (row % 61) as u16 + 1, 16];
            page[at..at + 8].copy_from_slice(&tid.map(u16::to_le_bytes).concat());
            page[at + 8..at + 12].copy_from_slice(&(key as u32).to_le_bytes());
        }
        page
    };
    (0..bytes / PAGE_BYTES).flat_map(page).collect()
}
