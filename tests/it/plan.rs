//! Plans made from a vault that holds the recorded Citus cluster (see `fixtures/README.md`), held against the
//! cut that all of its WAL gives.

use bytes::Bytes;
use pitrus::class::{Class, Classified};
use pitrus::cut::{self, NodeHistory};
use pitrus::ids::{BackupId, GroupId, NodeName};
use pitrus::lsn::Lsn;
use pitrus::manifest::backup::{BadPage, Foot, Head, VERSION};
use pitrus::manifest::node::NodeDoc;
use pitrus::manifest::topology::{CitusDatabase, CitusNode, TopologyDoc};
use pitrus::moment::Moment;
use pitrus::restore::plan::{Error, Follow, Plan, PlanOptions, Request};
use pitrus::restore::{self, plan};
use pitrus::seal::MasterKey;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, Catalog, ObjectName, Vault, WalName};
use pitrus::wal::event::{Event, Open, Parameters, What};
use pitrus::wal::index::IndexBuilder;
use pitrus::zones::{self, ZoneOptions, ZoneSet};

use crate::recorded::{self, Recorded, SEGMENT_BYTES};

const TIMELINE: TimelineId = TimelineId(1);
const LEVEL: i32 = 1;

/// The recorded cluster in a vault.
pub(crate) struct Stored {
    pub(crate) vault: Vault,
    pub(crate) nodes: Vec<Recorded>,
    events: Vec<Vec<Event>>,
    _folder: tempfile::TempDir,
}

impl Stored {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let zone = |name: &str| {
            let path = folder.path().join(name);
            zones::create_folder(&path).unwrap();
            let url = path.to_str().unwrap().to_owned();
            ZoneOptions { name: name.parse().unwrap(), url, options: Vec::new() }
        };
        let zones = ZoneSet::open(vec![zone("a")], 1).unwrap();
        let key = MasterKey::from_text(&"5a".repeat(32)).unwrap();
        let vault = Vault::open(zones, key, "bank".parse().unwrap(), Access::Write).await.unwrap();
        let nodes = recorded::nodes();
        let events = nodes.iter().map(recorded::events).collect();
        let stored = Stored { vault, nodes, events, _folder: folder };
        for at in 0..stored.nodes.len() {
            stored.put_node(at).await;
        }
        stored.put_topology().await;
        stored
    }

    /// One whose archive is complete, with a backup at the twentieth transaction record of each node.
    pub(crate) async fn whole() -> Self {
        let stored = Stored::new().await;
        for at in 0..stored.nodes.len() {
            stored.put_wal(at, stored.nodes[at].end).await;
            stored.put_backup(at, 20, false).await;
        }
        stored
    }

    pub(crate) fn name(&self, at: usize) -> NodeName {
        self.nodes[at].name.parse().unwrap()
    }

    async fn put_node(&self, at: usize) {
        let doc = NodeDoc {
            version: 1,
            cluster: self.vault.cluster().clone(),
            node: self.name(at),
            group: Some(GroupId(self.nodes[at].group)),
            system_identifier: "7".to_owned(),
            postgres_version: 150_015,
            segment_bytes: SEGMENT_BYTES,
            recorded_at: Moment(0),
        };
        self.put(&ObjectName::Node { node: self.name(at) }, serde_json::to_vec(&doc).unwrap()).await;
    }

    async fn put_topology(&self) {
        let row = |node: &Recorded| CitusNode {
            node_id: node.group,
            group: GroupId(node.group),
            host: node.name.clone(),
            port: 5432,
            role: "primary".to_owned(),
            is_active: true,
        };
        // A coordinator that was not added to its own metadata.
        let nodes = self.nodes.iter().filter(|node| node.group != 0).map(row).collect();
        let database =
            CitusDatabase { name: "bank".into(), oid: 16384, citus_version: Some("13.2".into()), nodes };
        let recorded_at = Moment(0);
        let doc = TopologyDoc {
            version: 1,
            cluster: self.vault.cluster().clone(),
            recorded_by: self.name(0),
            recorded_at,
            databases: vec![database],
        };
        self.put(&ObjectName::Topology { at: recorded_at }, serde_json::to_vec(&doc).unwrap()).await;
    }

    pub(crate) async fn put(&self, name: &ObjectName, plain: impl Into<Bytes>) {
        self.vault.put(name, plain.into(), LEVEL).await.unwrap();
    }

    /// Stores a node's WAL up to `end`: whole segments with their indexes, and two parts of the last.
    async fn put_wal(&self, at: usize, end: Lsn) {
        let recorded = &self.nodes[at];
        let mut builder = IndexBuilder::new(TIMELINE, SEGMENT_BYTES, recorded.start, Open::default());
        let known = &recorded.wal[..usize::try_from(end.0 - recorded.start.0).unwrap()];
        let indexes = builder.feed(known).unwrap();
        for (number, bytes) in known.chunks(SEGMENT_BYTES as usize).enumerate() {
            let number = recorded.start.segment(SEGMENT_BYTES) + number as u64;
            let wal = WalName::new(TIMELINE, number, SEGMENT_BYTES);
            let node = self.name(at);
            if bytes.len() == SEGMENT_BYTES as usize {
                self.put(&ObjectName::Segment { node: node.clone(), wal }, bytes.to_vec()).await;
                let start = Lsn(number * u64::from(SEGMENT_BYTES));
                let index = indexes.iter().find(|index| index.start == start).unwrap();
                self.put(&ObjectName::Index { node, wal }, serde_json::to_vec(index).unwrap()).await;
                continue;
            }
            let middle = bytes.len() / 2;
            for (from, to) in [(0, middle), (middle - 8, bytes.len())] {
                let (start, end) = (u32::try_from(from).unwrap(), u32::try_from(to).unwrap());
                let name = ObjectName::Part { node: node.clone(), wal, start, end };
                self.put(&name, bytes[from..to].to_vec()).await;
            }
        }
    }

    pub(crate) fn times(&self, at: usize) -> Vec<(Lsn, Moment)> {
        self.events[at].iter().filter_map(|event| Some((event.lsn, event.what.time()?))).collect()
    }

    /// Stores a backup that was finished just before the `number`th transaction record.
    async fn put_backup(&self, at: usize, number: usize, is_damaged: bool) -> BackupId {
        let (stop_lsn, stopped_at) = self.times(at)[number];
        let backup = BackupId::new(stopped_at, [(number % 251) as u8, (number / 251) as u8]);
        let head = Head {
            version: VERSION,
            backup: backup.clone(),
            cluster: self.vault.cluster().clone(),
            node: self.name(at),
            group: Some(GroupId(self.nodes[at].group)),
            system_identifier: "7".into(),
            postgres_version: 150_015,
            segment_bytes: SEGMENT_BYTES,
            timeline: TIMELINE,
            start_lsn: self.nodes[at].start.plus(40),
            started_at: self.times(at)[0].1,
            data_checksums: true,
            tablespaces: Vec::new(),
            goes_on: None,
        };
        let bad_pages = Vec::from_iter(is_damaged.then(|| BadPage { path: "base/1/1".into(), block: 0 }));
        let foot = Foot {
            stop_lsn,
            stopped_at,
            backup_label: String::new(),
            tablespace_map: String::new(),
            files: 0,
            bytes: 0,
            read: 0,
            stored: 0,
            packs: Vec::new(),
            bad_pages,
            bad_pages_more: 0,
            prepared: Vec::new(),
            parameters: Parameters { max_connections: 77, ..Parameters::default() },
            settings: Vec::new(),
            hba: Vec::new(),
            superuser: "postgres".into(),
        };
        self.vault.manifest(&head, LEVEL).unwrap().finish(&foot).await.unwrap();
        backup
    }

    async fn plan(&self, request: Request) -> Result<Plan, Error> {
        self.plan_with(request, 0, 0).await
    }

    /// Plans with the clock of the first worker pretended, and said, to be so far ahead.
    async fn plan_with(&self, request: Request, pretended: i64, said: i64) -> Result<Plan, Error> {
        let catalog = Catalog::load(&self.vault).await.unwrap();
        plan::make(&self.vault, &catalog, &self.options(request, pretended, said)).await
    }

    fn options(&self, request: Request, pretended: i64, said: i64) -> PlanOptions {
        let one = |micros: i64| [(self.name(1), micros)].into_iter().collect();
        let new_name = "copy".parse().unwrap();
        PlanOptions {
            request,
            follow: Follow::default(),
            new_name,
            clocks: one(said),
            pretended: one(pretended),
            explain: true,
        }
    }

    /// All that was recorded, as the cut wants it.
    pub(crate) fn histories(&self) -> Vec<NodeHistory> {
        let history = |(node, events): (&Recorded, &Vec<Event>)| NodeHistory {
            node: node.name.parse().unwrap(),
            group: Some(GroupId(node.group)),
            earliest: node.start,
            end: node.end,
            events: events.clone(),
            prepared_at_start: Vec::new(),
            times: None,
        };
        self.nodes.iter().zip(&self.events).map(history).collect()
    }

    /// A moment in the middle of the load.
    pub(crate) fn middle(&self, of: usize, parts: usize) -> Moment {
        let times = self.times(0);
        times[times.len() * of / parts].1
    }

    /// Returns the first record of each node after `time`; the first worker's clock is pretended ahead.
    fn starts(&self, time: Moment, pretended: i64) -> Vec<Lsn> {
        let start = |at: usize| {
            let wrong = if at == 1 { pretended } else { 0 };
            let mut later = self.times(at).into_iter().filter(|(_, t)| t.plus_micros(wrong) > time);
            later.next().map_or(Lsn::MAX, |(lsn, _)| lsn)
        };
        (0..self.nodes.len()).map(start).collect()
    }

    /// Returns where `recovery_target_time` would stop: it looks at the ends of transactions only.
    fn naive_stops(&self, time: Moment) -> Vec<Lsn> {
        let stop = |events: &Vec<Event>| {
            let mut ends = events.iter().filter(|event| event.what.is_end());
            ends.find(|end| end.what.time().unwrap() > time).map_or(Lsn::MAX, |end| end.lsn)
        };
        self.events.iter().map(stop).collect()
    }
}

pub(crate) fn stops(plan: &Plan) -> Vec<Lsn> {
    plan.nodes.iter().map(|node| node.stop_before.unwrap_or(Lsn::MAX)).collect()
}

#[tokio::test]
async fn a_time_becomes_the_greatest_consistent_cut_before_it() {
    let stored = Stored::whole().await;
    let histories = stored.histories();
    for part in 1..6 {
        let time = stored.middle(part, 6);
        let plan = stored.plan(Request::Time(time)).await.unwrap();
        let starts = stored.starts(time, 0);
        let cut = cut::greatest_consistent(&histories, &starts).unwrap();
        assert_eq!(stops(&plan), cut.stop, "{plan}");
        assert_eq!((&plan.settle, &plan.left_out, &plan.moves), (&cut.settle, &cut.left_out, &cut.moves));
        assert_eq!(plan.torn_by_time, cut::torn(&histories, &stored.naive_stops(time)).unwrap());
        for node in &plan.nodes {
            let stop = node.stop_before.unwrap();
            assert!(node.last_included.as_ref().unwrap().lsn < stop);
            assert_eq!(node.first_excluded.as_ref().unwrap().lsn, stop);
            assert!(node.before_target_micros.unwrap() >= 0);
            assert_eq!(node.parameters.max_connections, 77);
        }
        assert_eq!(plan.notes, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_wrong_clock_tears_naive_stops_and_not_the_cut() {
    let stored = Stored::whole().await;
    let (histories, time) = (stored.histories(), stored.middle(1, 2));
    for wrong in [50_000, -50_000] {
        let plan = stored.plan_with(Request::Time(time), wrong, 0).await.unwrap();
        assert!(plan.torn_by_time.len() > 3, "{plan}");
        assert!(cut::torn(&histories, &stops(&plan)).unwrap().is_empty());
        let cut = cut::greatest_consistent(&histories, &stored.starts(time, wrong)).unwrap();
        assert_eq!(stops(&plan), cut.stop, "{wrong}");
        // Where the clock's error is known it costs nothing.
        let known = stored.plan_with(Request::Time(time), wrong, wrong).await.unwrap();
        assert_eq!(stops(&known), stops(&stored.plan(Request::Time(time)).await.unwrap()));
        assert_eq!(known.torn_by_time.len(), plan.torn_by_time.len());
    }
}

#[tokio::test]
async fn latest_earliest_and_a_restore_point_are_consistent() {
    let stored = Stored::whole().await;
    let histories = stored.histories();
    let latest = stored.plan(Request::Latest).await.unwrap();
    let cut = cut::greatest_consistent(&histories, &[Lsn::MAX; 3]).unwrap();
    assert_eq!(stops(&latest), cut.stop);
    for (node, recorded) in latest.nodes.iter().zip(&stored.nodes) {
        assert_eq!(node.wal_end, recorded.end);
    }
    assert!(latest.foreign.iter().any(|prepared| prepared.gid == "left-open"), "{latest}");

    let earliest = stored.plan(Request::Earliest).await.unwrap();
    let floors: Vec<Lsn> = (0..3).map(|at| stored.times(at)[20].0).collect();
    let cut = cut::first_consistent_at_or_after(&histories, &floors).unwrap();
    assert_eq!(stops(&earliest), cut.stop);

    let named = stored.plan(Request::RestorePoint("in-the-middle".into())).await.unwrap();
    let point = |events: &Vec<Event>| {
        let is_it =
            |e: &&Event| matches!(&e.what, What::RestorePoint { name, .. } if name == "in-the-middle");
        events.iter().find(is_it).unwrap().end
    };
    let starts: Vec<Lsn> = stored.events.iter().map(point).collect();
    let cut = cut::greatest_consistent(&histories, &starts).unwrap();
    assert_eq!(stops(&named), cut.stop);
}

#[tokio::test]
async fn what_is_deleted_between_the_list_and_the_reading_is_no_error() {
    let stored = Stored::whole().await;
    let vault = &stored.vault;
    let whole = stored.plan(Request::Earliest).await.unwrap();
    let wal = WalName::new(TIMELINE, stored.nodes[1].start.segment(SEGMENT_BYTES), SEGMENT_BYTES);
    let index = ObjectName::Index { node: stored.name(1), wal };
    let options = stored.options(Request::Earliest, 0, 0);
    let mut looks = 0;
    let plan = plan::while_gone(async || {
        let catalog = Catalog::load(vault).await?;
        vault.delete(&index).await?;
        looks += 1;
        plan::make(vault, &catalog, &options).await
    });
    assert_eq!(stops(&plan.await.unwrap()), stops(&whole));
    assert_eq!(looks, 2, "the first list names what was deleted");

    // What a list names time and again, and no zone has, is lost.
    let mut looks = 0;
    let lost = plan::while_gone(async || {
        looks += 1;
        Ok(vault.get(&index).await?)
    });
    assert_eq!(lost.await.unwrap_err().class(), Class::Damage);
    assert_eq!(looks, 5);
}

/// The same three positions, said in other ways.
#[tokio::test]
async fn a_transaction_or_a_position_of_one_node_is_a_moment_too() {
    let stored = Stored::whole().await;
    let histories = stored.histories();
    let time = stored.middle(1, 2);
    let onward = stored.plan_with(Request::AtOrAfter(time), 50_000, 0).await.unwrap();
    let cut = cut::first_consistent_at_or_after(&histories, &stored.starts(time, 50_000)).unwrap();
    assert_eq!(stops(&onward), cut.stop);
    assert!(onward.nodes.iter().zip(stored.starts(time, 50_000)).all(|(n, s)| n.stop_before >= Some(s)));

    let decided = |event: &&Event| matches!(&event.what, What::Commit { decides, time: at, .. } if !decides.is_empty() && *at > time);
    let decision = stored.events[1].iter().find(decided).unwrap();
    let What::Commit { decides, .. } = &decision.what else { unreachable!() };
    let gid = decides[0].gid.clone();
    for near in [None, Some(time)] {
        let request = Request::BeforeTransaction { gid: gid.clone(), near };
        let before = stored.plan(request).await.unwrap();
        assert_eq!(before.nodes[1].stop_before, Some(decision.lsn), "{before}");
        assert!(cut::torn(&histories, &stops(&before)).unwrap().is_empty());
        assert!(before.settle.iter().all(|one| one.gid != gid || one.action == cut::Action::Rollback));
    }
    let node = stored.name(1);
    let at = stored.plan(Request::Stop { node: node.clone(), lsn: decision.lsn }).await.unwrap();
    assert_eq!(at.nodes[1].stop_before, Some(decision.lsn), "{at}");
    assert!(cut::torn(&histories, &stops(&at)).unwrap().is_empty());

    let far = Request::BeforeTransaction { gid: gid.clone(), near: Some(time.plus_micros(86_400_000_000)) };
    for (request, class) in [
        (far, Class::Outside),
        (Request::BeforeTransaction { gid: "no-such".into(), near: None }, Class::Outside),
        (Request::BeforeTransaction { gid: "left-open".into(), near: None }, Class::Operator),
        (Request::Stop { node: node.clone(), lsn: Lsn(1) }, Class::Outside),
        (Request::Stop { node, lsn: Lsn(1 << 40) }, Class::Outside),
        (Request::Stop { node: "nobody".parse().unwrap(), lsn: Lsn(1 << 24) }, Class::Operator),
    ] {
        let refused = stored.plan(request.clone()).await.unwrap_err();
        assert_eq!(refused.class(), class, "{request:?}: {refused}");
    }
}

#[tokio::test]
async fn a_plan_explains_what_moved_it() {
    let stored = Stored::whole().await;
    let time = stored.middle(1, 2);
    let plan = stored.plan_with(Request::Time(time), 50_000, 0).await.unwrap();
    let explained = plan.explanation.as_ref().unwrap();
    assert_eq!(explained.chains.len(), plan.moves.len());
    for (chain, moved) in explained.chains.iter().zip(&plan.moves) {
        assert_eq!((&chain.moves[0].node, chain.moves[0].to), (&moved.node, moved.to));
        // The worker whose clock is ahead stops early by the time asked for; all else follows from that.
        assert_eq!(chain.began.as_ref().unwrap(), &stored.name(1));
    }
    // Everything that a plain time would tear was under way.
    for torn in &plan.torn_by_time {
        let gids = |parts: &[cut::ExplainedPart]| parts.iter().any(|part| torn.gids.contains(&part.gid));
        assert!(explained.straddling.iter().any(|one| gids(&one.parts)), "{torn:?}");
    }
    for one in &explained.straddling {
        let decision = one.decision.as_ref().unwrap();
        assert_eq!(decision.inside_cut, one.kept);
        assert!(one.parts.iter().all(|part| !part.ended.as_ref().unwrap().inside_cut || one.kept));
    }
    let text = plan.to_string();
    for word in
        ["why the cut moved:", "stands where the moment asked for puts it", "decided by", ": left out"]
    {
        assert!(text.contains(word), "{text}\nlacks {word:?}");
    }
}

#[tokio::test]
async fn a_plan_looks_where_it_would_go() {
    let stored = Stored::whole().await;
    let mut plan = stored.plan(Request::Latest).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let into = restore::Targets::Into(folder.path().join("new"));
    restore::check(None, &plan, false).unwrap();
    restore::check(Some(&into), &plan, false).unwrap();
    assert!(!folder.path().join("new").exists(), "nothing is written");
    std::fs::create_dir_all(folder.path().join("new/worker1/base")).unwrap();
    let said = restore::check(Some(&into), &plan, false).unwrap_err().to_string();
    assert!(said.contains("worker1") && said.contains("is not empty"), "{said}");
    plan.new_name = plan.cluster.clone();
    let said = restore::check(None, &plan, false).unwrap_err().to_string();
    assert!(said.contains("may not have the source's name"), "{said}");
}

#[tokio::test]
async fn moments_outside_the_window_are_refused_with_the_window() {
    let stored = Stored::whole().await;
    let (first, last) = (stored.times(1)[0].1, stored.times(1).last().unwrap().1);
    for request in [
        Request::Time(first.plus_micros(-1_000_000)),
        Request::Time(stored.times(0)[3].1),
        Request::Time(last.plus_micros(60_000_000)),
        Request::RestorePoint("never-made".into()),
    ] {
        let refused = stored.plan(request.clone()).await.unwrap_err();
        assert_eq!(refused.class(), Class::Outside, "{refused}");
        assert!(refused.to_string().contains("the cluster can be restored from 2026-"), "{refused}");
    }
}

#[tokio::test]
async fn the_newest_good_backup_before_the_cut_is_used() {
    let stored = Stored::whole().await;
    let records = stored.times(1).len();
    let good = stored.put_backup(1, records / 4, false).await;
    let bad = stored.put_backup(1, records / 3, true).await;
    let late = stored.put_backup(1, records - 2, false).await;
    let used = |plan: Plan| plan.nodes[1].backup.clone();
    assert_eq!(used(stored.plan(Request::Time(stored.middle(1, 2))).await.unwrap()), good);
    assert_eq!(used(stored.plan(Request::Latest).await.unwrap()), late);
    let before = used(stored.plan(Request::Time(stored.middle(1, 8))).await.unwrap());
    assert!(before != good && before != bad && before != late);
}

#[tokio::test]
async fn a_gap_divides_what_can_be_restored() {
    let stored = Stored::new().await;
    for at in [0, 2] {
        stored.put_wal(at, stored.nodes[at].end).await;
        stored.put_backup(at, 20, false).await;
    }
    // The first worker's agent died within its first segment, and came back in the next.
    let worker = &stored.nodes[1];
    let half = worker.start.plus(u64::from(SEGMENT_BYTES / 2));
    stored.put_wal(1, half).await;
    stored.put_backup(1, 20, false).await;
    let second = worker.start.plus(u64::from(SEGMENT_BYTES));
    let bytes = &worker.wal[SEGMENT_BYTES as usize..usize::try_from(worker.end.0 - worker.start.0).unwrap()];
    let wal = WalName::new(TIMELINE, second.segment(SEGMENT_BYTES), SEGMENT_BYTES);
    let name =
        ObjectName::Part { node: stored.name(1), wal, start: 0, end: u32::try_from(bytes.len()).unwrap() };
    stored.put(&name, bytes.to_vec()).await;

    let times = stored.times(1);
    let (held, lost) = (times[times.len() / 4].1, times.iter().find(|(lsn, _)| *lsn > half).unwrap().1);
    let plan = stored.plan(Request::Time(held)).await.unwrap();
    let cut = cut::greatest_consistent(&stored.histories(), &stored.starts(held, 0)).unwrap();
    assert_eq!(stops(&plan), cut.stop);
    assert!(plan.notes[0].contains("worker1"), "{plan}");
    let refused = stored.plan(Request::Time(lost.plus_micros(100_000))).await.unwrap_err().to_string();
    assert!(refused.contains("WAL of node worker1 is missing there"), "{refused}");
}

/// The archive of one node ends earlier than the others': nothing of a transaction without it is kept.
#[tokio::test]
async fn an_archive_that_lags_holds_the_others_back() {
    let stored = Stored::new().await;
    for at in 0..3 {
        let times = stored.times(at);
        let end = if at == 2 { times[times.len() * 3 / 4].0 } else { stored.nodes[at].end };
        stored.put_wal(at, end).await;
        stored.put_backup(at, 20, false).await;
    }
    let plan = stored.plan(Request::Latest).await.unwrap();
    assert!(!plan.moves.is_empty() && !plan.left_out.is_empty());
    let mut whole = stops(&plan);
    whole[2] = plan.nodes[2].stop_before.unwrap_or(plan.nodes[2].wal_end);
    assert_eq!(cut::torn(&stored.histories(), &whole).unwrap(), []);
}
