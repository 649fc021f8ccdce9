//! The archiver against real servers: what the vault holds is the server's own WAL, whatever happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pitrus::archive::{self, Error, Options, Status};
use pitrus::ids::NodeName;
use pitrus::lsn::Lsn;
use pitrus::manifest::wal_index::WalIndex;
use pitrus::node::{ConnectionOptions, NodeFacts};
use pitrus::seal::MasterKey;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, ObjectName, Vault, WalName};
use pitrus::wal::event::Open;
use pitrus::wal::index::IndexBuilder;
use pitrus::zones::{self, ZoneOptions, ZoneSet};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{self, Folder, Server, ServerOptions, Stop};

const SEGMENT: u32 = 1 << 20;

struct Archiver {
    task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
    status: watch::Receiver<Status>,
}

impl Archiver {
    async fn start(server: &Server, vault: &Vault) -> Archiver {
        let connection = ConnectionOptions { conninfo: server.conninfo("postgres"), ..Default::default() };
        let facts = NodeFacts::read(&connection).await.unwrap();
        let options = Options {
            part_every: Duration::from_millis(200),
            ..Options::of("one".parse().unwrap(), connection, "pitrus_one".to_owned(), &facts)
        };
        let shutdown = CancellationToken::new();
        let (tell, status) = watch::channel(Status::default());
        let task = tokio::spawn(archive::run(options, vault.clone(), shutdown.clone(), tell));
        Archiver { task, shutdown, status }
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
        let wait = async { self.status.wait_for(|s| reached(s)).await.map(|status| status.clone()) };
        // A zone that has failed for a while is asked again only every now and then.
        match tokio::time::timeout(Duration::from_secs(120), wait).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{what}: {:?}", *self.status.borrow()),
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As if the process died: nothing is finished.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn small(name: &str) -> ServerOptions {
    let options = ServerOptions::named(name).set("wal_keep_size", "2GB");
    ServerOptions { wal_segment_mib: 1, ..options }
}

async fn flushed(server: &Server) -> Lsn {
    server.value("postgres", "select pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap()
}

async fn write(server: &Server, rows: u32) {
    let sql = format!("insert into t select md5(n::text) from generate_series(1, {rows}) n");
    server.run("postgres", &sql).await.unwrap();
}

async fn server_with_table(folder: &Arc<Folder>, options: &ServerOptions) -> Server {
    let server = Server::start_new(folder, options).unwrap();
    server.run("postgres", "create table t (x text)").await.unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_leaves_neither_gap_nor_overlap() {
    if !world::can_run("killed_at_any_moment_it_leaves_neither_gap_nor_overlap") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let server = Arc::new(server_with_table(&folder, &small("one")).await);
    let vault = vault(&folder).await;
    let done = CancellationToken::new();
    let load = tokio::spawn({
        let (server, done) = (Arc::clone(&server), done.clone());
        async move {
            while !done.is_cancelled() {
                write(&server, 2000).await;
            }
        }
    });
    for kill in 0..20_u64 {
        let archiver = Archiver::start(&server, &vault).await;
        tokio::time::sleep(Duration::from_millis(40 + kill * 37 % 400)).await;
        archiver.kill().await;
    }
    done.cancel();
    load.await.unwrap();
    let mut archiver = Archiver::start(&server, &vault).await;
    let end = flushed(&server).await;
    archiver.until("all is archived", |s| s.archived >= end).await;
    archiver.stop().await;
    assert_archived(&server, &vault, 1, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_follows_within_a_second_and_an_idle_server_leaves_none() {
    if !world::can_run("a_part_follows_within_a_second_and_an_idle_server_leaves_none") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let server = server_with_table(&folder, &small("one")).await;
    let vault = vault(&folder).await;
    let mut archiver = Archiver::start(&server, &vault).await;
    archiver.until("streaming", |s| s.connected).await;
    for _ in 0..5 {
        write(&server, 3).await;
        let (end, began) = (flushed(&server).await, Instant::now());
        archiver.until("a part", |s| s.archived >= end).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    let slot = "select restart_lsn from pg_replication_slots where slot_name = 'pitrus_one'";
    let end = flushed(&server).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let restart: Lsn = server.value("postgres", slot).await.unwrap().unwrap().parse().unwrap();
    assert!(restart >= end, "{restart} {end}");
    let before = kept(&vault).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(kept(&vault).await, before);
    write(&server, 30_000).await;
    let end = flushed(&server).await;
    archiver.until("all is archived", |s| s.archived >= end).await;
    archiver.stop().await;
    assert_archived(&server, &vault, 1, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_when_the_server_does() {
    if !world::can_run("it_comes_back_when_the_server_does") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let mut server = server_with_table(&folder, &small("one")).await;
    let vault = vault(&folder).await;
    let mut archiver = Archiver::start(&server, &vault).await;
    for how in [Stop::Kill, Stop::Fast, Stop::Immediate] {
        write(&server, 30_000).await;
        let end = flushed(&server).await;
        server.stop(how).unwrap();
        archiver.until("what was received is put away", |s| s.archived == s.received && !s.connected).await;
        server.start().unwrap();
        archiver.until("streams again", |s| s.archived >= end && s.connected).await;
    }
    write(&server, 30_000).await;
    let end = flushed(&server).await;
    archiver.until("all is archived", |s| s.archived >= end).await;
    archiver.stop().await;
    assert_archived(&server, &vault, 1, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_promoted_server_to_its_timeline() {
    if !world::can_run("it_follows_a_promoted_server_to_its_timeline") {
        return;
    }
    for kill in [false, true] {
        let folder = Arc::new(Folder::new().unwrap());
        let mut server = server_with_table(&folder, &small("one")).await;
        let vault = vault(&folder).await;
        let mut archiver = Archiver::start(&server, &vault).await;
        for _ in 0..2 {
            write(&server, 30_000).await;
            let end = flushed(&server).await;
            archiver.until("all is archived", |s| s.archived >= end).await;
            if kill {
                archiver.kill().await;
                promote(&mut server, &folder).await;
                archiver = Archiver::start(&server, &vault).await;
            } else {
                promote(&mut server, &folder).await;
            }
        }
        write(&server, 30_000).await;
        let end = flushed(&server).await;
        let status =
            archiver.until("all is archived", |s| s.archived >= end && s.timeline.is_some_and(|t| t.0 == 3));
        assert_eq!(status.await.gaps, []);
        archiver.stop().await;
        assert_archived(&server, &vault, 3, end).await;
        for timeline in [2, 3] {
            let name = format!("{timeline:08X}.history");
            let own = std::fs::read(server.data.join("pg_wal").join(&name)).unwrap();
            let kept = ObjectName::History { node: node(), timeline: TimelineId(timeline) };
            assert!(vault.get(&kept).await.unwrap() == own, "{name}");
        }
    }
}

/// Restarts the server as a standby of nothing, and promotes it: a new timeline.
async fn promote(server: &mut Server, folder: &Folder) {
    server.stop(Stop::Fast).unwrap();
    folder.write(&server.data.join("standby.signal"), "").unwrap();
    server.start().unwrap();
    server.run("postgres", "select pg_promote()").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_gone_is_a_gap_told_by_name() {
    if !world::can_run("wal_that_is_gone_is_a_gap_told_by_name") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let options =
        small("one").set("wal_keep_size", "0").set("max_wal_size", "4MB").set("min_wal_size", "2MB");
    let server = server_with_table(&folder, &options).await;
    let vault = vault(&folder).await;
    let mut archiver = Archiver::start(&server, &vault).await;
    write(&server, 30_000).await;
    let end = flushed(&server).await;
    let before = archiver.until("all is archived", |s| s.archived >= end).await;
    archiver.stop().await;
    server.run("postgres", "select pg_drop_replication_slot('pitrus_one')").await.unwrap();
    write(&server, 100_000).await;
    server.run("postgres", "select pg_switch_wal()").await.unwrap();
    server.run("postgres", "checkpoint").await.unwrap();
    server.run("postgres", "checkpoint").await.unwrap();

    let mut archiver = Archiver::start(&server, &vault).await;
    write(&server, 30_000).await;
    let end = flushed(&server).await;
    let after = archiver.until("goes on after the gap", |s| s.archived >= end).await;
    let [gap] = after.gaps.as_slice() else { panic!("{after:?}") };
    assert!(gap.from <= before.archived && gap.to > before.archived, "{gap}");
    archiver.stop().await;
    assert!(
        complete(&vault, 1)
            .await
            .iter()
            .all(|n| *n < gap.from.segment(SEGMENT) || *n >= gap.to.segment(SEGMENT))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_under_the_same_name_is_refused() {
    if !world::can_run("another_server_under_the_same_name_is_refused") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let server = server_with_table(&folder, &small("one")).await;
    let vault = vault(&folder).await;
    let connection = ConnectionOptions { conninfo: server.conninfo("postgres"), ..Default::default() };
    let facts = NodeFacts::read(&connection).await.unwrap();
    let mut options = Options::of("one".parse().unwrap(), connection, "pitrus_one".to_owned(), &facts);
    options.system_identifier = "1".to_owned();
    let (tell, _status) = watch::channel(Status::default());
    let refused = archive::run(options, vault, CancellationToken::new(), tell).await;
    assert!(matches!(refused, Err(Error::OtherServer { .. })), "{refused:?}");
}
const ZONES: [&str; 3] = ["a", "b", "c"];

/// Opens the vault of a test: three folders, of which two must answer.
async fn vault(folder: &Folder) -> Vault {
    let zones = ZONES.map(|name| {
        let path = folder.path().join("zones").join(name);
        zones::create_folder(&path).unwrap();
        let url = path.to_str().unwrap().to_owned();
        ZoneOptions { name: name.parse().unwrap(), url, options: Vec::new() }
    });
    let zones = ZoneSet::open(zones.into(), 2).unwrap();
    let key = MasterKey::from_text(&"5a".repeat(32)).unwrap();
    Vault::open(zones, key, "test".parse().unwrap(), Access::Write).await.unwrap()
}

fn node() -> NodeName {
    "one".parse().unwrap()
}

/// Everything that is kept of the node's WAL.
async fn kept(vault: &Vault) -> Vec<ObjectName> {
    let listing = vault.list("nodes/one/wal").await.unwrap();
    let names =
        listing.objects.iter().map(|object| ObjectName::parse(vault.cluster(), &object.name).unwrap());
    names.collect()
}

async fn complete(vault: &Vault, timeline: u32) -> Vec<u64> {
    let number = |name: &ObjectName| match name {
        ObjectName::Segment { wal, .. } if wal.timeline.0 == timeline => Some(wal.number(SEGMENT)),
        _ => None,
    };
    kept(vault).await.iter().filter_map(number).collect()
}

async fn index(vault: &Vault, wal: WalName) -> Option<WalIndex> {
    let bytes = vault.get(&ObjectName::Index { node: node(), wal }).await.ok()?;
    Some(pitrus::manifest::from_bytes(&bytes).unwrap())
}

/// The vault holds the server's own bytes up to `end`, and for each whole segment the index that
/// decoding all of it in one go gives.
async fn assert_archived(server: &Server, vault: &Vault, timeline: u32, end: Lsn) {
    let timeline = TimelineId(timeline);
    let whole = complete(vault, timeline.0).await;
    let first = *whole.first().unwrap();
    assert!(whole.iter().copied().eq(first..first + whole.len() as u64), "{whole:?}");
    let own = |number| {
        let name = WalName::new(timeline, number, SEGMENT).to_string();
        std::fs::read(server.data.join("pg_wal").join(name)).unwrap()
    };
    let held = async |number| vault.segment_bytes(&node(), timeline, number, SEGMENT).await.unwrap().unwrap();
    let name = |number| WalName::new(timeline, number, SEGMENT);

    let start = Lsn(first * u64::from(SEGMENT));
    let open = index(vault, name(first)).await.map_or_else(Open::default, |index| index.open_at_start);
    let mut builder = IndexBuilder::new(timeline, SEGMENT, start, open);
    let mut indexes = Vec::new();
    for number in &whole {
        let own = own(*number);
        assert!(held(*number).await.bytes == own, "segment {number} differs");
        indexes.extend(builder.feed(&own).unwrap());
    }
    for expected in indexes {
        let number = expected.start.segment(SEGMENT);
        assert_eq!(index(vault, name(number)).await, Some(expected), "index of segment {number}");
    }
    let last = first + whole.len() as u64;
    assert!(last >= end.segment(SEGMENT), "{whole:?} {end}");
    if last == end.segment(SEGMENT) && end.segment_offset(SEGMENT) > 0 {
        let parts = held(last).await;
        assert!(parts.valid >= end.segment_offset(SEGMENT), "{} of {end}", parts.valid);
        assert!(own(last).starts_with(&parts.bytes), "the parts of segment {last} differ");
    }
}
#[tokio::test(flavor = "multi_thread")]
async fn while_the_zones_are_away_the_server_keeps_its_wal() {
    if !world::can_run("while_the_zones_are_away_the_server_keeps_its_wal") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let options =
        small("one").set("wal_keep_size", "0").set("max_wal_size", "4MB").set("min_wal_size", "2MB");
    let server = server_with_table(&folder, &options).await;
    let vault = vault(&folder).await;
    let mut archiver = Archiver::start(&server, &vault).await;
    write(&server, 10_000).await;
    let end = flushed(&server).await;
    let before = archiver.until("all is archived", |s| s.archived >= end).await;

    zones_away(&folder, true);
    for _ in 0..20 {
        write(&server, 60_000).await;
    }
    server.run("postgres", "checkpoint").await.unwrap();
    let during =
        archiver.until("the buffer is full", |s| s.waiting_ms > 3000 && s.last_error.is_some()).await;
    assert!(during.archived.0 - before.archived.0 < u64::from(SEGMENT), "{during:?}");
    // 64 MiB of segments, the unfinished one, and what is between server and keeper.
    assert!(during.received.0 - during.archived.0 < 80 << 20, "{during:?}");
    assert!(during.server.0 - during.received.0 > 0);

    zones_away(&folder, false);
    let end = flushed(&server).await;
    let after = archiver.until("all is archived", |s| s.archived >= end).await;
    assert_eq!((after.gaps.len(), after.waiting_ms), (0, 0));

    // Asked to stop while the zones are away, it stops in time, and the next start goes on.
    zones_away(&folder, true);
    write(&server, 10_000).await;
    let end = flushed(&server).await;
    archiver.until("received", |s| s.received >= end).await;
    archiver.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(15), archiver.task).await.unwrap().unwrap();
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    zones_away(&folder, false);
    let mut archiver = Archiver::start(&server, &vault).await;
    let after = archiver.until("all is archived", |s| s.archived >= end).await;
    assert_eq!(after.gaps, []);
    archiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_gave_up_is_made_anew_and_the_gap_told() {
    if !world::can_run("a_slot_that_the_server_gave_up_is_made_anew_and_the_gap_told") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let options =
        small("one").set("wal_keep_size", "0").set("max_wal_size", "4MB").set("min_wal_size", "2MB");
    let server = server_with_table(&folder, &options.set("max_slot_wal_keep_size", "4MB")).await;
    let vault = vault(&folder).await;
    let mut archiver = Archiver::start(&server, &vault).await;
    write(&server, 1000).await;
    let end = flushed(&server).await;
    archiver.until("all is archived", |s| s.archived >= end).await;

    zones_away(&folder, true);
    for _ in 0..20 {
        write(&server, 60_000).await;
    }
    server.run("postgres", "select pg_switch_wal()").await.unwrap();
    server.run("postgres", "checkpoint").await.unwrap();
    zones_away(&folder, false);
    write(&server, 30_000).await;
    let end = flushed(&server).await;
    let after = archiver.until("goes on after the gap", |s| s.archived >= end && s.connected).await;
    archiver.stop().await;
    // The server may give the slot up more than once before we have caught up.
    assert!(!after.gaps.is_empty(), "{after:?}");
    let whole = complete(&vault, 1).await;
    for gap in &after.gaps {
        assert!(gap.from < gap.to && gap.to <= end, "{gap}");
        let lost = gap.from.segment(SEGMENT)..gap.to.segment(SEGMENT);
        assert!(!whole.iter().any(|number| lost.contains(number)), "{whole:?} {gap}");
    }
    let last = after.gaps[after.gaps.len() - 1];
    assert!((last.to.segment(SEGMENT)..end.segment(SEGMENT)).all(|number| whole.contains(&number)));
}

/// Takes two of the three zones away, or brings them back.
fn zones_away(folder: &Folder, away: bool) {
    for zone in ["a", "c"] {
        let here = folder.path().join("zones").join(zone);
        let there = here.with_extension("away");
        let (from, to) = if away { (here, there) } else { (there, here) };
        std::fs::rename(from, to).unwrap();
    }
}
