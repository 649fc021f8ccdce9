//! Our decoder against PostgreSQL's own: record for record what `pg_waldump` reads.

use std::path::Path;
use std::sync::Arc;

use crate::world::{self, Folder, Server, ServerOptions, Stop};
use pitrus::lsn::Lsn;
use pitrus::pgfile::control::{ControlFile, State};
use pitrus::pgfile::kind::RelationFile;
use pitrus::pgfile::page::{self, PAGE_BYTES, Verdict};
use pitrus::timeline::TimelineId;
use pitrus::wal::decoder::{Decoder, Step};
use pitrus::wal::event::{Open, What};
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::scan::{EventScan, Found};
use pitrus::wal::segment::Segment;

const MIB: u32 = 1 << 20;

/// Where a record begins, what came before it, its transaction and its whole length.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Line {
    lsn: Lsn,
    previous: Lsn,
    xid: u32,
    length: u32,
}

/// Work that writes long records, page images, subtransactions, both phases, and relation files.
const WORK: &str = "
    create table a (id int primary key, t text);
    insert into a select i, repeat(md5(i::text), 1 + i % 20) from generate_series(1, 6000) i;
    checkpoint;
    update a set t = t || 'x' where id % 3 = 0;
    create index on a (md5(t));
    begin; insert into a values (-1, 'p'); savepoint s; insert into a values (-2, 'q'); prepare transaction 'one';
    begin; insert into a values (-3, 'p'); prepare transaction 'two';
    commit prepared 'one';
    rollback prepared 'two';
    begin; savepoint x; insert into a values (-4, 's'); release x; savepoint y; insert into a values (-5, 's'); rollback to y; commit;
    begin; delete from a where id < 0; rollback;
    select pg_create_restore_point('here');
    vacuum full a;
    truncate a;
    insert into a select i, string_agg(md5((i * j)::text), '') from generate_series(1, 300) i, generate_series(1, 200) j group by 1;
    select pg_logical_emit_message(false, 'pitrus', repeat('long ', 500000));
    drop table a;
";

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_that_of_pg_waldump() {
    if !world::can_run("every_record_is_that_of_pg_waldump") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let options = ServerOptions { wal_segment_mib: 1, ..ServerOptions::named("one") }
        .set("wal_keep_size", "1GB")
        .set("max_prepared_transactions", "10");
    let mut server = Server::start_new(&folder, &options).unwrap();
    for compression in ["off", "pglz", "lz4", "zstd"] {
        let client = server.connect("postgres").await.unwrap();
        client.batch_execute(&format!("set wal_compression = {compression}; checkpoint")).await.unwrap();
        for statement in WORK.split(";").map(str::trim).filter(|s| !s.is_empty()) {
            client.batch_execute(statement).await.unwrap();
        }
        client.batch_execute(&format!("create database d_{compression} template template0")).await.unwrap();
        client.batch_execute("select pg_switch_wal()").await.unwrap();
    }
    server.stop(Stop::Fast).unwrap();
    every_page_is_right(&server.data);

    let wal = server.data.join("pg_wal");
    let mut segments: Vec<Segment> = std::fs::read_dir(&wal)
        .unwrap()
        .filter_map(|entry| Segment::parse(entry.unwrap().file_name().to_str().unwrap(), MIB))
        .collect();
    segments.sort();
    let bytes: Vec<Vec<u8>> =
        segments.iter().map(|s| std::fs::read(wal.join(s.file_name(MIB))).unwrap()).collect();
    let start = segments[0].start(MIB);

    let (ours, end) = decode(start, &bytes, 1 << 20);
    let theirs = waldump(&folder, &wal, segments[0], segments[segments.len() - 1]);
    assert!(ours.len() > 10_000, "{} records", ours.len());
    assert_eq!(ours.len(), theirs.len());
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!(our, their);
    }
    assert_eq!(decode(start, &bytes, 977), (ours, end), "however the bytes are cut");
    events_and_indexes_agree(start, &bytes, end);
}

fn decode(start: Lsn, segments: &[Vec<u8>], piece: usize) -> (Vec<Line>, Lsn) {
    let mut decoder = Decoder::new(MIB, start);
    let mut lines = Vec::new();
    for piece in segments.iter().flat_map(|segment| segment.chunks(piece)) {
        decoder.feed(piece);
        loop {
            match decoder.step().unwrap() {
                Step::Record(r) => {
                    lines.push(Line { lsn: r.lsn, previous: r.previous, xid: r.xid, length: r.length });
                }
                Step::NeedMore => break,
                Step::End { at, .. } => return (lines, at),
            }
        }
    }
    let end = decoder.position();
    (lines, end)
}

fn waldump(folder: &Folder, wal: &Path, first: Segment, last: Segment) -> Vec<Line> {
    let mut command = folder.command(&world::bin_dir().unwrap().join("pg_waldump"));
    let said = command.arg("-p").arg(wal).args([first.file_name(MIB), last.file_name(MIB)]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    let lines = text.lines().map(|line| {
        let field = |name: &str| {
            let rest = &line[line.find(name).unwrap() + name.len()..];
            rest.split(',').next().unwrap().split_whitespace().next().unwrap().to_owned()
        };
        let total = line[line.find("(rec/tot):").unwrap()..line.find(", tx:").unwrap()].rsplit('/').next();
        Line {
            lsn: field("lsn: ").parse().unwrap(),
            previous: line.split("prev ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap(),
            xid: field("tx: ").parse().unwrap(),
            length: total.unwrap().trim().parse().unwrap(),
        }
    });
    lines.collect()
}

/// Both ways to events agree, and an index decoded again from what was open at its start is the same.
fn events_and_indexes_agree(start: Lsn, segments: &[Vec<u8>], end: Lsn) {
    let whole: Vec<u8> = segments.concat();
    let valid = &whole[..(end.0 - start.0) as usize];
    let mut scan = EventScan::new(MIB, start, Open::default());
    scan.feed(valid);
    let mut events = Vec::new();
    while let Found::Event(event) = scan.step().unwrap() {
        events.push(event);
    }
    assert_eq!(scan.open(), Open::default());
    let count = |matches: fn(&What) -> bool| events.iter().filter(|e| matches(&e.what)).count();
    assert_eq!(count(|w| matches!(w, What::RestorePoint { name, .. } if name == "here")), 4);
    assert_eq!(count(|w| matches!(w, What::CommitPrepared { gid: Some(g), .. } if g == "one")), 4);
    assert_eq!(count(|w| matches!(w, What::RollbackPrepared { gid: Some(g), .. } if g == "two")), 4);
    assert!(count(|w| matches!(w, What::Parameters(_) | What::Checkpoint { .. })) > 4);

    let timeline = TimelineId(1);
    let mut builder = IndexBuilder::new(timeline, MIB, start, Open::default());
    let mut indexes = Vec::new();
    for piece in valid.chunks(100_000) {
        indexes.extend(builder.feed(piece).unwrap());
    }
    indexes.push(builder.tail());
    let indexed: Vec<_> = indexes.iter().flat_map(|i| i.events.clone()).collect();
    assert_eq!(indexed, events.into_iter().filter(|e| e.what.is_indexed()).collect::<Vec<_>>());
    for index in &indexes {
        let from = (index.start.0 - start.0) as usize;
        let mut again = IndexBuilder::new(timeline, MIB, index.start, index.open_at_start.clone());
        let first = again.feed(&valid[from..]).unwrap().into_iter().next().unwrap_or_else(|| again.tail());
        assert_eq!(&first.events, &index.events);
        assert_eq!((first.records, &first.blocks), (index.records, &index.blocks));
    }
    assert!(indexes.iter().any(|i| i.blocks.iter().any(|b| b.limit == Some(0))));
}

/// Every page of a server that was stopped cleanly has the checksum that we compute.
fn every_page_is_right(data: &Path) {
    let control = ControlFile::parse(&std::fs::read(data.join("global/pg_control")).unwrap()).unwrap();
    assert_eq!((control.state, control.segment_bytes, control.data_checksums), (State::ShutDown, MIB, true));
    let mut right = 0;
    for database in std::fs::read_dir(data.join("base")).unwrap() {
        for file in std::fs::read_dir(database.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            let name = file.strip_prefix(data).unwrap().to_str().unwrap().to_owned();
            let Some(relation) = RelationFile::parse(&name) else { continue };
            let bytes = std::fs::read(&file).unwrap();
            for (block, page) in (relation.first_block()..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
                match page::verify(block, page, Lsn::MAX) {
                    Verdict::New => {}
                    Verdict::Right => right += 1,
                    other => panic!("{name} block {block}: {other:?}"),
                }
                let mut flipped = *page;
                flipped[5000] ^= 1;
                assert_ne!(page::checksum(block, &flipped), page::checksum(block, page));
            }
        }
    }
    assert!(right > 1000, "{right} pages");
}
