//! Our decoder against PostgreSQL's own: record for record, block for block what `pg_waldump` reads, from a
//! server of each version at hand.
//!
//! PITRUS_PG_BINS lists their folders (as PATH does); else it is that of PITRUS_PG_BIN, and Debian's. Where
//! a folder has no `pg_waldump`, WAL is tried by the server's own evidence alone: the chain of records, its
//! end in `pg_control`, and events beside what SQL did.

use std::path::Path;
use std::sync::Arc;

use crate::world::{self, Folder, Programs, Server, ServerOptions, Stop, say};
use pitrus::lsn::Lsn;
use pitrus::pgfile::control::{ControlFile, State};
use pitrus::pgfile::kind::RelationFile;
use pitrus::pgfile::page::{self, PAGE_BYTES, Verdict};
use pitrus::timeline::TimelineId;
use pitrus::wal::Version;
use pitrus::wal::decoder::{Decoder, Step};
use pitrus::wal::event::{Open, What};
use pitrus::wal::index::IndexBuilder;
use pitrus::wal::record::Record;
use pitrus::wal::scan::{EventScan, Found};
use pitrus::wal::segment::Segment;

pub(crate) const MIB: u32 = 1 << 20;

/// Where a record begins, what came before it, its transaction, its whole length, and its blocks.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) struct Line {
    pub(crate) lsn: Lsn,
    previous: Lsn,
    xid: u32,
    length: u32,
    blocks: Vec<BlockLine>,
}

/// Tablespace, database and file, fork, block, and whether its page is in the record.
type BlockLine = ([u32; 3], u8, u32, bool);

/// Work that writes long records, page images, subtransactions, both phases, relation files, and records of
/// every resource manager that a client can cause. `{dir}` is a folder of the server's.
const WORK: [&str; 42] = [
    "create table a (id int primary key, t text)",
    "create table h (n int, t text); create sequence s",
    "create table gone (n int primary key, t text); create table going (n int primary key, t text)",
    "insert into a select i, repeat(md5(i::text), 1 + i % 20) from generate_series(1, 4000) i",
    "checkpoint",
    "update a set t = t || 'x' where id % 3 = 0",
    "create index on a (md5(t))",
    "create index on a using hash (id)",
    "create index on a using gin (to_tsvector('simple', t))",
    "create index on a using gist (box(point(id, id), point(id, id)))",
    "create index on a using spgist (t)",
    "create index on a using brin (id)",
    "do $$ begin for i in 1..400 loop
         update a set t = 'b' || i where id = 1 + i * 7 % 4000;
         insert into h values (nextval('s'), i);
         commit;
     end loop; end $$",
    "copy a to '{dir}/copied'",
    "create table b (like a); copy b from '{dir}/copied'",
    "alter table b set tablespace aside",
    "begin",
    "insert into a values (-1, 'p'); savepoint s; insert into a values (-2, 'q'); drop table gone",
    "prepare transaction 'one'",
    "begin",
    "insert into a values (-3, 'p'); drop table going; create table other (n int)",
    "prepare transaction 'two'",
    "checkpoint",
    "commit prepared 'one'",
    "rollback prepared 'two'",
    "begin",
    "savepoint x; insert into a values (-4, 's'); release x; savepoint y; insert into a values (-5, 's')",
    "rollback to y; drop table going; select id from a where id > 3990 for update; commit",
    "begin",
    "delete from a where id < 0; create table other (n int); rollback",
    "select pg_create_restore_point('here')",
    "delete from a where id % 2 = 0",
    "vacuum (freeze) a",
    "vacuum full a",
    "truncate a",
    "insert into a select i, string_agg(md5((i * j)::text), '')
         from generate_series(1, 300) i, generate_series(1, 200) j group by 1",
    "select pg_logical_emit_message(false, 'pitrus', repeat('long ', 500000))",
    "create database d template template0",
    "drop database d",
    "drop table a, b, h; drop sequence s",
    "select pg_switch_wal()",
    "insert into marks select txid_current()",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_that_of_pg_waldump() {
    let all = world::all_programs();
    if all.is_empty() {
        say!("skipped: every_record_is_that_of_pg_waldump: no PostgreSQL server is at hand");
    }
    for programs in &all {
        compare(programs).await;
    }
}

async fn compare(programs: &Programs) {
    let folder = Arc::new(Folder::new().unwrap());
    let mut server = small_server(&folder, programs, &[("wal_level", "logical")]);
    let rounds = work(&folder, &server, programs.version).await;
    let xids = server.value("postgres", "select string_agg(xid::text, ' ' order by xid) from marks").await;
    server.stop(Stop::Fast).unwrap();
    let last = every_page_is_right(&server.data);

    let wal = server.data.join("pg_wal");
    let (segments, bytes) = read_wal(&wal, TimelineId(1));
    let start = segments[0].start(MIB);
    let (ours, end) = decode(start, &bytes, 1 << 20);
    assert!(ours.len() > 10_000, "{} records", ours.len());
    assert_eq!(ours.last().unwrap().lsn, last, "the shutdown's checkpoint is the last record");
    assert!(ours.windows(2).all(|pair| pair[1].previous == pair[0].lsn));
    match waldump(&folder, programs, &wal, segments[0], segments[segments.len() - 1]) {
        Some(theirs) => assert_same(&ours, &theirs),
        None => say!("PostgreSQL {}: no pg_waldump to compare with", programs.version),
    }
    assert_eq!(decode(start, &bytes, 977), (ours.clone(), end), "however the bytes are cut");
    events_and_indexes_agree(start, &bytes, end, rounds, &xids.unwrap().unwrap());
    say!("PostgreSQL {}: {} records agree", programs.version, ours.len());
}

/// Starts a server of these programs that writes segments of 1 MiB and keeps them all.
pub(crate) fn small_server(folder: &Arc<Folder>, programs: &Programs, settings: &[(&str, &str)]) -> Server {
    let named = ServerOptions::named(&format!("pg{}", programs.version));
    let mut options = ServerOptions { wal_segment_mib: 1, bin: Some(programs.bin.clone()), ..named }
        .set("wal_keep_size", "1GB")
        .set("max_prepared_transactions", "10");
    for (name, value) in settings {
        options = options.set(name, value);
    }
    Server::start_new(folder, &options).unwrap()
}

/// Does the work once with each way to compress page images that the server has; returns how often.
async fn work(folder: &Folder, server: &Server, version: Version) -> usize {
    let (copied, aside) = (folder.folder("copied").unwrap(), folder.folder("aside").unwrap());
    server.run("postgres", "create table marks (xid int8)").await.unwrap();
    let space = format!("create tablespace aside location '{}'", aside.display());
    server.run("postgres", &space).await.unwrap();
    let mut rounds = 0;
    for compression in ["off", "pglz", "lz4", "zstd"] {
        let client = server.connect("postgres").await.unwrap();
        let value = if version == Version::V14 && compression == "pglz" { "on" } else { compression };
        if let Err(error) = client.batch_execute(&format!("set wal_compression = {value}")).await {
            say!("PostgreSQL {version}: wal_compression = {value}: {error}");
            continue;
        }
        for statement in WORK {
            let statement = statement.replace("{dir}", copied.to_str().unwrap());
            client.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
        if version > Version::V14 {
            let by_files = "create database by_files template template0 strategy file_copy";
            client.batch_execute(by_files).await.unwrap();
            client.batch_execute("drop database by_files").await.unwrap();
        }
        rounds += 1;
    }
    server.run("postgres", "drop tablespace aside").await.unwrap();
    rounds
}

/// Returns the segments of a timeline that lie in a folder, in order, with their bytes.
pub(crate) fn read_wal(wal: &Path, timeline: TimelineId) -> (Vec<Segment>, Vec<Vec<u8>>) {
    let mut segments: Vec<Segment> = std::fs::read_dir(wal)
        .unwrap()
        .filter_map(|entry| Segment::parse(entry.unwrap().file_name().to_str().unwrap(), MIB))
        .filter(|segment| segment.timeline == timeline)
        .collect();
    segments.sort();
    let bytes = segments.iter().map(|s| std::fs::read(wal.join(s.file_name(MIB))).unwrap()).collect();
    (segments, bytes)
}

pub(crate) fn assert_same(ours: &[Line], theirs: &[Line]) {
    for (our, their) in ours.iter().zip(theirs) {
        assert_eq!(our, their);
    }
    assert_eq!(ours.len(), theirs.len());
}

pub(crate) fn decode(start: Lsn, segments: &[Vec<u8>], piece: usize) -> (Vec<Line>, Lsn) {
    let mut decoder = Decoder::new(MIB, start);
    let mut lines = Vec::new();
    for piece in segments.iter().flat_map(|segment| segment.chunks(piece)) {
        decoder.feed(piece);
        loop {
            match decoder.step().unwrap() {
                Step::Record(record) => lines.push(line(&record)),
                Step::NeedMore => break,
                Step::End { at, .. } => return (lines, at),
            }
        }
    }
    let end = decoder.position();
    (lines, end)
}

fn line(record: &Record<'_>) -> Line {
    let blocks = record.blocks.iter().map(|block| {
        let file = [block.file.tablespace, block.file.database, block.file.relation];
        (file, block.fork, block.number, block.image.is_some())
    });
    Line {
        lsn: record.lsn,
        previous: record.previous,
        xid: record.xid,
        length: record.length,
        blocks: blocks.collect(),
    }
}

/// Returns what `pg_waldump` reads; `None` where there is none.
pub(crate) fn waldump(
    folder: &Folder,
    programs: &Programs,
    wal: &Path,
    first: Segment,
    last: Segment,
) -> Option<Vec<Line>> {
    let program = programs.bin.join("pg_waldump");
    if !program.is_file() {
        return None;
    }
    let mut command = folder.command(&program);
    let said = command.arg("-p").arg(wal).args([first.file_name(MIB), last.file_name(MIB)]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    Some(text.lines().map(|line| their_line(line).unwrap_or_else(|| panic!("{line}"))).collect())
}

/// `rmgr: Heap len (rec/tot): 54/ 7634, tx: 731, lsn: 0/01000060, prev 0/01000028, desc: …, blkref #0: …`
fn their_line(line: &str) -> Option<Line> {
    let after = |name: &str| line.split(name).nth(1)?.trim_start().split([',', ' ']).next();
    let lengths = line.split("(rec/tot):").nth(1)?.split(", tx:").next()?;
    let blocks = line.split(", blkref #").skip(1).map(their_block);
    Some(Line {
        lsn: after("lsn: ")?.parse().ok()?,
        previous: after("prev ")?.parse().ok()?,
        xid: after("tx: ")?.parse().ok()?,
        length: lengths.rsplit('/').next()?.trim().parse().ok()?,
        blocks: blocks.collect::<Option<_>>()?,
    })
}

/// `0: rel 1663/5/16385 fork vm blk 0 FPW`
fn their_block(text: &str) -> Option<BlockLine> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let word = |name: &str| words.get(words.iter().position(|w| *w == name)? + 1).copied();
    let mut file = word("rel")?.split('/').map(|part| part.parse().ok());
    let fork = match word("fork") {
        None | Some("main") => 0,
        Some("fsm") => 1,
        Some("vm") => 2,
        _ => 3,
    };
    let image = text.contains("FPW");
    Some(([file.next()??, file.next()??, file.next()??], fork, word("blk")?.parse().ok()?, image))
}

/// Both ways to events agree, and an index decoded again from what was open at its start is the same.
fn events_and_indexes_agree(start: Lsn, segments: &[Vec<u8>], end: Lsn, rounds: usize, xids: &str) {
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
    assert_eq!(count(|w| matches!(w, What::RestorePoint { name, .. } if name == "here")), rounds);
    assert_eq!(count(|w| matches!(w, What::CommitPrepared { gid: Some(g), .. } if g == "one")), rounds);
    assert_eq!(count(|w| matches!(w, What::RollbackPrepared { gid: Some(g), .. } if g == "two")), rounds);
    let commits: Vec<String> = xids.split(' ').map(str::to_owned).collect();
    let seen = |xid: &String| {
        events.iter().any(|e| matches!(e.what, What::Commit { xid: x, .. } if x.to_string() == *xid))
    };
    assert!(commits.len() == rounds && commits.iter().all(seen), "{commits:?}");
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

/// Every page of a server that was stopped cleanly has the checksum that we compute. Returns where the last
/// checkpoint is.
pub(crate) fn every_page_is_right(data: &Path) -> Lsn {
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
    control.checkpoint
}
