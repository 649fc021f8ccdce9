//! A source that was promoted after its backup: the replay follows it onto its new timeline.

use std::sync::Arc;

use pitrus::lsn::Lsn;
use pitrus::restore;
use pitrus::restore::plan::WalRange;
use pitrus::timeline::{History, TimelineId};

use super::copies::{Copies, Copy, archive};
use super::{SEGMENT, commit, lsn, node_plan, options, plan, silent};
use crate::world::{self, Folder, Kind, Landing, NODES, Server, ServerOptions, Stop, proof};

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_source_is_followed() {
    if !world::can_run("a_promoted_source_is_followed") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let kept = archive(&folder, NODES[0]);
    let command = format!("cp %p {}/%f", kept.display());
    let named = ServerOptions::named(NODES[0]).set("archive_mode", "on").set("archive_command", &command);
    let named = named.set("restore_command", &format!("cp {}/%f %p", kept.display()));
    let mut server = Server::start_new(&folder, &named).unwrap();
    server.run("postgres", "create table seen (v int)").await.unwrap();
    let copy = Copy::take(&folder, &server).await;
    server.run("postgres", "insert into seen values (10)").await.unwrap();
    server.stop(Stop::Fast).unwrap();
    // An archive recovery to the end, as a standby's promotion leaves it.
    folder.write(&server.data.join("recovery.signal"), "").unwrap();
    server.start().unwrap();
    let promoted =
        async || Ok(server.value("postgres", "select pg_is_in_recovery()").await?.as_deref() == Some("f"));
    proof::eventually("the promotion", std::time::Duration::from_secs(90), promoted).await.unwrap();
    server.run("postgres", "insert into seen values (20)").await.unwrap();
    let inside = commit(&server).await;
    let stop = lsn(&server).await;
    let outside = commit(&server).await;
    server.run("postgres", "select pg_switch_wal()").await.unwrap();
    let last = pitrus::wal::segment::Segment::of(TimelineId(2), stop, SEGMENT).file_name(SEGMENT);
    let there = async || Ok(kept.join(&last).exists());
    proof::eventually("archived WAL", std::time::Duration::from_secs(90), there).await.unwrap();
    server.stop(Stop::Immediate).unwrap();

    let history = std::fs::read_to_string(kept.join("00000002.history")).unwrap();
    let left: Lsn = History::parse(TimelineId(2), &history).unwrap().ancestors[0].end;
    let mut node = node_plan(0, stop, inside, Some(outside));
    let switch = left.segment(SEGMENT);
    node.group = None;
    node.timeline = TimelineId(2);
    node.wal = vec![
        WalRange { timeline: TimelineId(1), first: 2, last: switch - 1 },
        WalRange { timeline: TimelineId(2), first: switch, last: stop.segment(SEGMENT) },
    ];
    let landing = Landing::choose(&folder, "new", &[NODES[0].to_owned()]).unwrap();
    let plan = plan(Kind::Plain, vec![node], Vec::new());
    let store = Copies(Arc::new(vec![copy]));
    let options = options(landing.targets.clone());
    let report = restore::run(&options, store, plan, Arc::new(silent)).await.unwrap();
    let proved = report.nodes[0].proof.clone().unwrap();
    assert_eq!(proved.timeline, TimelineId(3));
    let servers = landing.start(&folder).unwrap();
    crate::world::open_hba(&folder, &servers).unwrap();
    let seen = servers[0].value("postgres", "select string_agg(v::text, ' ' order by v) from seen").await;
    assert_eq!(seen.unwrap().as_deref(), Some("1 10 20"));
}
