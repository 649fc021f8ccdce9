//! Expiry over real zones: what it deletes, in what state a crash may leave it, and what it refuses.

use std::collections::BTreeSet;
use std::path::Path;

use pitrus::class::{Class, Classified};
use pitrus::clock;
use pitrus::expire::{self, Error, ExpireOptions};
use pitrus::ids::{BackupId, NodeName};
use pitrus::lsn::Lsn;
use pitrus::manifest;
use pitrus::manifest::backup::{Entry, Extent, Foot, Head, Kind, VERSION};
use pitrus::manifest::node::NodeDoc;
use pitrus::moment::Moment;
use pitrus::seal::MasterKey;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, ObjectName, Vault, WalName};
use pitrus::zones::{self, ZoneOptions, ZoneSet};

const SEGMENT: u32 = 1 << 20;
const DAY_MICROS: i64 = 86_400_000_000;

async fn vault(folder: &Path) -> Vault {
    let zones = ["a", "b", "c"].map(|name| {
        let path = folder.join(name);
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

fn days_ago(days: i64) -> Moment {
    clock::now().plus_micros(-days * DAY_MICROS)
}

fn wal(number: u64) -> WalName {
    WalName::new(TimelineId(1), number, SEGMENT)
}

/// Stores a backup of one file; its WAL is the segment `number`, where that is one.
async fn backup(vault: &Vault, days: i64, number: u64, finished: bool) -> BackupId {
    let at = days_ago(days);
    let id = BackupId::new(at, [number as u8, 0]);
    let pack = ObjectName::Pack { node: node(), backup: id.clone(), number: 0 };
    vault.put(&pack, vec![7; 1000].into(), 1).await.unwrap();
    if !finished {
        return id;
    }
    let start = Lsn(number * u64::from(SEGMENT) + 40);
    let mut manifest = vault.manifest(&head(&id, at, start), 1).unwrap();
    let extent =
        Extent { pack: "0".into(), chunk: 0, at: 120, sealed: 9, offset: 0, len: 1000, plain: 1000, crc: 0 };
    let kind = Kind::File { size: 1000, modified: 0, extents: vec![extent] };
    manifest.entry(Entry { path: "PG_VERSION".into(), kind, mode: 0o600 }).unwrap();
    manifest.finish(&foot(at, start.plus(100))).await.unwrap();
    id
}

fn head(id: &BackupId, at: Moment, start: Lsn) -> Head {
    Head {
        version: VERSION,
        backup: id.clone(),
        cluster: "test".parse().unwrap(),
        node: node(),
        group: None,
        system_identifier: "7".into(),
        postgres_version: 150_018,
        segment_bytes: SEGMENT,
        timeline: TimelineId(1),
        start_lsn: start,
        started_at: at,
        data_checksums: true,
        tablespaces: Vec::new(),
        goes_on: None,
    }
}

fn foot(at: Moment, stop: Lsn) -> Foot {
    Foot {
        stop_lsn: stop,
        stopped_at: at,
        backup_label: String::new(),
        tablespace_map: String::new(),
        files: 0,
        bytes: 0,
        read: 0,
        stored: 0,
        packs: Vec::new(),
        bad_pages: Vec::new(),
        bad_pages_more: 0,
        prepared: Vec::new(),
        parameters: Default::default(),
        settings: Vec::new(),
        hba: Vec::new(),
        superuser: "postgres".into(),
    }
}

/// Ten segments, a backup in each third one, and one that was never finished.
async fn fill(vault: &Vault) -> [BackupId; 4] {
    let doc = NodeDoc {
        version: 1,
        cluster: "test".parse().unwrap(),
        node: node(),
        group: None,
        system_identifier: "7".into(),
        postgres_version: 150_018,
        segment_bytes: SEGMENT,
        recorded_at: days_ago(40),
    };
    vault.put(&ObjectName::Node { node: node() }, manifest::to_bytes(&doc).into(), 1).await.unwrap();
    for number in 1..10 {
        let name = ObjectName::Segment { node: node(), wal: wal(number) };
        vault.put(&name, vec![number as u8; SEGMENT as usize].into(), 1).await.unwrap();
    }
    let name = ObjectName::Part { node: node(), wal: wal(2), start: 0, end: 9 };
    vault.put(&name, vec![2; 9].into(), 1).await.unwrap();
    let finished = [(30, 1), (20, 4), (10, 7)];
    let mut ids = Vec::new();
    for (days, number) in finished {
        ids.push(backup(vault, days, number, true).await);
    }
    ids.push(backup(vault, 9, 9, false).await);
    ids.try_into().unwrap()
}

async fn names(vault: &Vault) -> BTreeSet<ObjectName> {
    let listing = vault.list("nodes").await.unwrap();
    listing.objects.iter().map(|o| ObjectName::parse(vault.cluster(), &o.name).unwrap()).collect()
}

fn options(window_days: u32) -> ExpireOptions {
    ExpireOptions { window_days, dry_run: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_deletes_what_no_moment_of_the_window_needs() {
    let folder = tempfile::tempdir().unwrap();
    let vault = vault(folder.path()).await;
    let [first, second, _third, unfinished] = fill(&vault).await;
    let before = names(&vault).await;
    let dry = expire::run(ExpireOptions { dry_run: true, ..options(15) }, &vault).await.unwrap();
    assert_eq!(names(&vault).await, before, "a dry run deletes nothing");
    let report = expire::run(options(15), &vault).await.unwrap();
    let (dry, of_node) = (&dry.nodes[&node()], &report.nodes[&node()]);
    assert_eq!((&dry.backups, dry.packs, dry.segments), (&of_node.backups, of_node.packs, of_node.segments));
    assert_eq!(of_node.backups, [first.to_string()]);
    assert_eq!((of_node.packs, of_node.segments), (2, 3));
    assert!(report.left.is_empty());

    let gone: BTreeSet<_> = before.difference(&names(&vault).await).cloned().collect();
    let mut want = BTreeSet::from([
        ObjectName::Manifest { node: node(), backup: first.clone() },
        ObjectName::Pack { node: node(), backup: first.clone(), number: 0 },
        ObjectName::Pack { node: node(), backup: unfinished, number: 0 },
        ObjectName::Part { node: node(), wal: wal(2), start: 0, end: 9 },
    ]);
    want.extend((1..4).map(|number| ObjectName::Segment { node: node(), wal: wal(number) }));
    assert_eq!(gone, want);
    assert!(vault.backup_ends(&node(), &second).await.is_ok());
    let again = expire::run(options(15), &vault).await.unwrap();
    assert_eq!(again.nodes[&node()].backups, Vec::<String>::new());
    assert_eq!((again.nodes[&node()].packs, again.nodes[&node()].segments), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_with_a_zone_is_deleted_again() {
    let folder = tempfile::tempdir().unwrap();
    let vault = vault(folder.path()).await;
    let [first, ..] = fill(&vault).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    let (zone, away) = (folder.path().join("c"), folder.path().join("away"));
    std::fs::rename(&zone, &away).unwrap();
    let report = expire::run(options(15), &vault).await.unwrap();
    assert_eq!(report.nodes[&node()].backups, [first.to_string()]);
    std::fs::rename(&away, &zone).unwrap();

    // The zone still has the manifest; another process, which has no memory of the zone's absence.
    let vault = self::vault(folder.path()).await;
    let manifest = ObjectName::Manifest { node: node(), backup: first.clone() };
    assert!(names(&vault).await.contains(&manifest));
    expire::run(options(15), &vault).await.unwrap();
    assert!(!names(&vault).await.contains(&manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_few_zones_it_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let vault = vault(folder.path()).await;
    fill(&vault).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    for zone in ["b", "c"] {
        std::fs::rename(folder.path().join(zone), folder.path().join(format!("away-{zone}"))).unwrap();
    }
    let before = names(&vault).await;
    let error = expire::run(options(15), &vault).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(names(&vault).await, before);
}
