//! Where WAL ends, breaks off and branches: what servers of every version at hand leave behind (see
//! `waldump` for which those are).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::waldump::{MIB, assert_same, decode, read_wal, small_server, waldump};
use crate::world::{self, Folder, Programs, Server, Stop, say};
use pitrus::lsn::Lsn;
use pitrus::pgfile::control::ControlFile;
use pitrus::timeline::{History, TimelineId};
use pitrus::wal::decoder::{Decoder, Step};
use pitrus::wal::segment::{Segment, history_file_name};

const PAGE: u64 = 8192;

fn programs(test: &str) -> Vec<Programs> {
    let all = world::all_programs();
    if all.is_empty() {
        say!("skipped: {test}: no PostgreSQL server is at hand");
    }
    all
}

async fn lsn(server: &Server, function: &str) -> Lsn {
    server.value("postgres", &format!("select {function}()")).await.unwrap().unwrap().parse().unwrap()
}

fn checkpoint(server: &Server) -> Lsn {
    let bytes = std::fs::read(server.data.join("global/pg_control")).unwrap();
    ControlFile::parse(&bytes).unwrap().checkpoint
}

/// Zeroes a server's WAL from a position on, as if the disk had never got it.
fn lose(wal: &Path, from: Lsn) {
    let (segments, _) = read_wal(wal, TimelineId(1));
    for segment in segments.into_iter().filter(|segment| segment.end(MIB) > from) {
        let begin = from.0.saturating_sub(segment.start(MIB).0);
        let file = OpenOptions::new().write(true).open(wal.join(segment.file_name(MIB))).unwrap();
        file.write_all_at(&vec![0; (u64::from(MIB) - begin) as usize], begin).unwrap();
    }
}

/// A server that finds the beginning of a record and not its end goes on after it, and says so in the next
/// page (`XLOG_OVERWRITE_CONTRECORD`).
#[tokio::test(flavor = "multi_thread")]
async fn records_lost_in_a_crash_are_stepped_over() {
    for programs in programs("records_lost_in_a_crash_are_stepped_over") {
        let folder = Arc::new(Folder::new().unwrap());
        let mut server = small_server(&folder, &programs, &[("autovacuum", "off")]);
        let mut torn = Vec::new();
        // What is lost begins in the record's own segment; with the next; and with the one after that.
        for kept in [PAGE * 5, u64::from(MIB), 2 * u64::from(MIB)] {
            server.run("postgres", "checkpoint").await.unwrap();
            let begin = lsn(&server, "pg_current_wal_insert_lsn").await;
            let long = "select pg_logical_emit_message(true, 'pitrus', repeat('long ', 700000))";
            server.run("postgres", long).await.unwrap();
            server.stop(Stop::Kill).unwrap();
            let from = Lsn((begin.0 + kept) / kept.min(u64::from(MIB)) * kept.min(u64::from(MIB)));
            lose(&server.data.join("pg_wal"), Lsn(from.0 / PAGE * PAGE));
            server.start().unwrap();
            server.run("postgres", "create table if not exists t (n int)").await.unwrap();
            torn.push(begin);
        }
        server.stop(Stop::Fast).unwrap();
        let wal = server.data.join("pg_wal");
        let (segments, bytes) = read_wal(&wal, TimelineId(1));
        let start = segments[0].start(MIB);
        assert_eq!(overwrites(start, &bytes), torn.len(), "PostgreSQL {}", programs.version);
        let (ours, _) = decode(start, &bytes, 3000);
        assert_eq!(ours.last().unwrap().lsn, checkpoint(&server));
        assert_eq!(decode(start, &bytes, 1 << 20).0, ours);
        if let Some(theirs) = waldump(&folder, &programs, &wal, segments[0], segments[segments.len() - 1]) {
            assert_same(&ours, &theirs);
        }
    }
}

/// Counts the records that say that one before them was never finished.
fn overwrites(start: Lsn, segments: &[Vec<u8>]) -> usize {
    let mut decoder = Decoder::new(MIB, start);
    let mut found = 0;
    for segment in segments {
        decoder.feed(segment);
        while let Step::Record(record) = decoder.step().unwrap() {
            found += usize::from(record.rmgr == 0 && record.operation() == 0xD0);
        }
    }
    found
}

/// Segments made ready for later hold what they held before under another name.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_found_before_what_was_recycled() {
    for programs in programs("the_end_is_found_before_what_was_recycled") {
        let folder = Arc::new(Folder::new().unwrap());
        let settings = [("wal_keep_size", "0"), ("min_wal_size", "16MB"), ("max_wal_size", "32MB")];
        let mut server = small_server(&folder, &programs, &settings);
        for _ in 0..3 {
            let rows = "create table t as select md5(n::text) from generate_series(1, 60000) n; drop table t";
            server.run("postgres", rows).await.unwrap();
            server.run("postgres", "checkpoint").await.unwrap();
        }
        let flushed = lsn(&server, "pg_current_wal_flush_lsn").await;
        let (segments, bytes) = read_wal(&server.data.join("pg_wal"), TimelineId(1));
        let start = segments[0].start(MIB);
        let end = segments[segments.len() - 1].end(MIB);
        assert!(end.0 - flushed.0 > 3 * u64::from(MIB), "{end} is not recycled, {flushed} was written");
        assert_eq!(decode(start, &bytes, 5000).1, flushed, "PostgreSQL {}", programs.version);
        server.stop(Stop::Kill).unwrap();
        // A file that is shorter than its segment, as an archive of what was written so far.
        let whole = &bytes[..(flushed.segment(MIB) - segments[0].number) as usize];
        let partial = bytes[whole.len()][..(flushed.0 % u64::from(MIB)) as usize].to_vec();
        let cut: Vec<Vec<u8>> = whole.iter().cloned().chain([partial]).collect();
        assert_eq!(decode(start, &cut, 5000).1, flushed);
    }
}

/// A promoted server copies the segment in which it left the old timeline, and goes on in the copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_timeline_goes_on_where_its_history_says() {
    for programs in programs("a_new_timeline_goes_on_where_its_history_says") {
        let folder = Arc::new(Folder::new().unwrap());
        let mut server = small_server(&folder, &programs, &[]);
        for promotion in 2..=3 {
            server
                .run("postgres", "create table t as select generate_series(1, 30000); drop table t")
                .await
                .unwrap();
            server.stop(Stop::Fast).unwrap();
            folder.write(&server.data.join("standby.signal"), "").unwrap();
            server.start().unwrap();
            server.run("postgres", "select pg_promote()").await.unwrap();
            server.run("postgres", &format!("select pg_create_restore_point('{promotion}')")).await.unwrap();
        }
        server.stop(Stop::Fast).unwrap();
        let wal = server.data.join("pg_wal");
        let newest = TimelineId(3);
        let text = std::fs::read_to_string(wal.join(history_file_name(newest))).unwrap();
        let history = History::parse(newest, &text).unwrap();
        assert_eq!(history.ancestors.iter().map(|a| a.timeline.0).collect::<Vec<_>>(), [1, 2]);

        let (first, _) = read_wal(&wal, TimelineId(1));
        let (last, _) = read_wal(&wal, newest);
        let start = first[0].start(MIB);
        let numbers = first[0].number..=last[last.len() - 1].number;
        let line: Vec<Segment> = numbers.map(|number| on_line(&history, number)).collect();
        let bytes: Vec<Vec<u8>> =
            line.iter().map(|s| std::fs::read(wal.join(s.file_name(MIB))).unwrap()).collect();
        let (ours, _) = decode(start, &bytes, 10_000);
        assert_eq!(ours.last().unwrap().lsn, checkpoint(&server), "PostgreSQL {}", programs.version);
        // Their reader stays on one timeline: the newest, from the segment in which it begins.
        if let Some(theirs) = waldump(&folder, &programs, &wal, last[0], last[last.len() - 1]) {
            let from = ours.iter().position(|record| record.lsn == theirs[0].lsn).unwrap();
            assert!(theirs.len() > 10);
            assert_same(&ours[from..], &theirs);
        }
    }
}

/// Returns the segment of a line of timelines that holds the newest's bytes.
fn on_line(history: &History, number: u64) -> Segment {
    let last_byte = Lsn((number + 1) * u64::from(MIB) - 1);
    Segment { timeline: history.timeline_at(last_byte), number }
}
