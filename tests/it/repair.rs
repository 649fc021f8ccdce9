//! Repair on folders: what a zone lacks comes back, what was deleted does not.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use pitrus::ids::{BackupId, ClusterName, NodeName};
use pitrus::manifest::backup::{Entry, Extent, Foot, Head, Kind};
use pitrus::repair::{self, RepairReport};
use pitrus::seal::MasterKey;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, Catalog, ObjectName, Vault, WalName};
use pitrus::zones::{ZoneOptions, ZoneSet};

pub(crate) const ZONES: [&str; 3] = ["a", "b", "c"];
pub(crate) const SEGMENT_BYTES: u32 = 1 << 20;

/// Three folders and a key.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    master: MasterKey,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap(), master: MasterKey::generate() };
        ZONES.iter().for_each(|zone| std::fs::create_dir(place.zone(zone)).unwrap());
        place
    }

    pub(crate) fn zone(&self, zone: &str) -> PathBuf {
        self.folder.path().join(zone)
    }

    pub(crate) fn file(&self, zone: &str, vault: &Vault, name: &ObjectName) -> PathBuf {
        self.zone(zone).join(vault.path(name))
    }

    pub(crate) fn zones(&self) -> ZoneSet {
        let options = |zone: &&str| ZoneOptions {
            name: zone.parse().unwrap(),
            url: self.zone(zone).display().to_string(),
            options: Vec::new(),
        };
        ZoneSet::open(ZONES.iter().map(options).collect(), 2).unwrap()
    }

    /// Opens it as a process does that just started.
    pub(crate) async fn open(&self, access: Access) -> Result<Vault, pitrus::vault::Error> {
        self.open_as(&"shop".parse().unwrap(), access).await
    }

    pub(crate) async fn open_as(
        &self,
        cluster: &ClusterName,
        access: Access,
    ) -> Result<Vault, pitrus::vault::Error> {
        Vault::open(self.zones(), self.master.clone(), cluster.clone(), access).await
    }

    /// Takes a zone's disk away.
    pub(crate) fn unmount(&self, zone: &str) {
        std::fs::rename(self.zone(zone), self.folder.path().join(format!("{zone}.away"))).unwrap();
    }

    pub(crate) fn mount(&self, zone: &str) {
        std::fs::rename(self.folder.path().join(format!("{zone}.away")), self.zone(zone)).unwrap();
    }
}

pub(crate) fn node() -> NodeName {
    "w1".parse().unwrap()
}

pub(crate) fn wal(number: u64) -> WalName {
    WalName::new(TimelineId(1), number, SEGMENT_BYTES)
}

pub(crate) fn segment(number: u64) -> ObjectName {
    ObjectName::Segment { node: node(), wal: wal(number) }
}

pub(crate) fn pack(backup: &str, number: u32) -> ObjectName {
    ObjectName::Pack { node: node(), backup: backup.parse().unwrap(), number }
}

pub(crate) fn manifest(backup: &str) -> ObjectName {
    ObjectName::Manifest { node: node(), backup: backup.parse().unwrap() }
}

/// All files below a folder, by relative path, with a hash of their contents, but for the zone's mark.
pub(crate) fn tree(root: &Path) -> Vec<(PathBuf, u64)> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path != root.join("pitrus.zone") {
                let mut hash = DefaultHasher::new();
                std::fs::read(&path).unwrap().hash(&mut hash);
                files.push((path.strip_prefix(root).unwrap().to_owned(), hash.finish()));
            }
        }
    }
    files.sort();
    files
}

pub(crate) async fn put(vault: &Vault, name: ObjectName) {
    let plain = format!("contents of {}", vault.path(&name)).repeat(50);
    vault.put(&name, plain.into(), 1).await.unwrap();
}

pub(crate) async fn put_node(vault: &Vault) {
    let doc = serde_json::json!({
        "version": 1, "cluster": "shop", "node": "w1", "group": 1, "system_identifier": "7",
        "postgres_version": 150018, "segment_bytes": SEGMENT_BYTES, "recorded_at": "2026-11-21T08:30:00Z",
    });
    vault.put(&ObjectName::Node { node: node() }, doc.to_string().into(), 1).await.unwrap();
}

/// A backup of one file in one pack of `pack_of`, which needs WAL from segment `from` on.
pub(crate) async fn put_backup(vault: &Vault, backup: &str, pack_of: &str, from: u64) {
    let id: BackupId = backup.parse().unwrap();
    let head: Head = serde_json::from_value(serde_json::json!({
        "version": pitrus::manifest::backup::VERSION, "backup": id, "cluster": "shop", "node": "w1", "group": 1,
        "system_identifier": "7", "postgres_version": 150018, "segment_bytes": SEGMENT_BYTES, "timeline": 1,
        "start_lsn": pitrus::lsn::Lsn(from * u64::from(SEGMENT_BYTES) + 40),
        "started_at": "2026-11-21T08:30:00Z", "data_checksums": true, "tablespaces": [],
    }))
    .unwrap();
    let foot: Foot = serde_json::from_value(serde_json::json!({
        "stop_lsn": pitrus::lsn::Lsn(from * u64::from(SEGMENT_BYTES) + 80),
        "stopped_at": "2026-11-21T08:31:00Z", "backup_label": "", "tablespace_map": "", "files": 0,
        "bytes": 0, "read": 0, "stored": 1, "packs": [], "bad_pages": [], "bad_pages_more": 0, "prepared": [],
        "parameters": pitrus::wal::event::Parameters::default(), "settings": [], "hba": [],
        "superuser": "postgres",
    }))
    .unwrap();
    let extent = Extent {
        pack: format!("{pack_of}/0").into(),
        chunk: 0,
        at: 120,
        sealed: 10,
        offset: 0,
        len: 4,
        plain: 4,
        crc: 0,
    };
    let file = Kind::File { size: 4, modified: 0, extents: vec![extent] };
    if backup == pack_of {
        put(vault, pack(backup, 0)).await;
    }
    let mut manifest = vault.manifest(&head, 1).unwrap();
    manifest.entry(Entry { path: "base/1".into(), kind: file, mode: 0o600 }).unwrap();
    manifest.finish(&foot).await.unwrap();
}

/// Every kind of object.
async fn fill(vault: &Vault) {
    put_node(vault).await;
    put_backup(vault, "b1", "b1", 3).await;
    for number in 3..6 {
        put(vault, segment(number)).await;
        put(vault, ObjectName::Index { node: node(), wal: wal(number) }).await;
    }
    put(vault, ObjectName::Part { node: node(), wal: wal(6), start: 0, end: 100 }).await;
}

fn copied(report: &RepairReport, zone: &str) -> u64 {
    report.copied.get(&zone.parse().unwrap()).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_zone_that_was_away_gets_what_it_missed() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    put(&vault, segment(3)).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    place.unmount("b");
    fill(&vault).await;
    let status = vault.zones().status();
    assert!(status[1].failing_since.is_some() && status[1].missed > 0);
    let report = repair::run(&vault, false).await.unwrap();
    assert!(report.silent.contains_key(&"b".parse().unwrap()) && !report.is_whole());

    place.mount("b");
    // A new process knows of the misses only by looking.
    let vault = place.open(Access::Write).await.unwrap();
    let report = repair::run(&vault, false).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((copied(&report, "a"), copied(&report, "b"), copied(&report, "c")), (0, 9, 0));
    let expected = tree(&place.zone("a"));
    assert_eq!(expected.len(), 11);
    assert!(expected == tree(&place.zone("b")) && expected == tree(&place.zone("c")));
    let again = repair::run(&vault, true).await.unwrap();
    assert!(again.is_whole() && again.copied.is_empty() && again.replaced.is_empty());
}

#[tokio::test]
async fn the_process_that_wrote_brings_what_was_missed() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    place.unmount("c");
    fill(&vault).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    place.mount("c");
    let report = repair::run_missed(&vault).await.unwrap();
    assert!(report.is_whole() && copied(&report, "c") == report.objects && report.objects == 10);
    assert_eq!(tree(&place.zone("a")), tree(&place.zone("c")));
    assert_eq!(repair::run_missed(&vault).await.unwrap().objects, 0);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made_and_an_empty_one_is_not_filled() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    place.unmount("c");
    put(&vault, segment(7)).await;
    assert!(!place.zone("c").exists());
    // A mount point without its disk.
    std::fs::create_dir(place.zone("c")).unwrap();
    put(&vault, segment(8)).await;
    let vault = place.open(Access::Write).await.unwrap();
    put(&vault, segment(9)).await;
    let report = repair::run(&vault, true).await.unwrap();
    assert!(report.silent[&"c".parse().unwrap()].contains("not marked as a zone"), "{report:?}");
    assert_eq!(std::fs::read_dir(place.zone("c")).unwrap().count(), 0);
    // The operator says that this is the new disk.
    std::fs::write(place.zone("c").join("pitrus.zone"), "").unwrap();
    let report = repair::run(&vault, false).await.unwrap();
    assert!(report.is_whole());
    assert_eq!(tree(&place.zone("a")), tree(&place.zone("c")));
}

#[tokio::test]
async fn what_was_deleted_while_a_zone_was_away_does_not_come_back() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    for (start, end) in [(0, 10), (10, 20)] {
        put(&vault, ObjectName::Part { node: node(), wal: wal(5), start, end }).await;
    }
    put(&vault, ObjectName::Part { node: node(), wal: wal(3), start: 0, end: 9 }).await;
    put_backup(&vault, "b2", "b1", 5).await;
    put_backup(&vault, "b3", "b3", 5).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;

    place.unmount("c");
    // Backups b1 and b3 are deleted; b2 still names the pack of b1, and needs WAL from segment 5 on.
    for backup in ["b1", "b3"] {
        let backup: BackupId = backup.parse().unwrap();
        vault.put(&ObjectName::Gone { node: node(), backup }, Bytes::new(), 1).await.unwrap();
    }
    for name in [manifest("b1"), manifest("b3"), pack("b3", 0), segment(3), segment(4)] {
        assert_eq!(vault.delete(&name).await.unwrap().len(), 1, "zone c is away");
    }
    // While it is away nothing is judged garbage for good.
    let report = repair::run(&vault, false).await.unwrap();
    assert_eq!((report.deleted, report.copied.len()), (0, 0), "{report:?}");

    place.mount("c");
    let vault = place.open(Access::Write).await.unwrap();
    let report = repair::run(&vault, false).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((copied(&report, "a"), copied(&report, "b"), copied(&report, "c")), (0, 0, 2), "tombstones");
    let names: Vec<String> =
        tree(&place.zone("c")).iter().map(|(path, _)| path.display().to_string()).collect();
    for gone in ["backups/b3", "packs/b3", "b1/manifest", "000000000003", "000000000004", "000000000005.part"]
    {
        assert!(
            !names.iter().any(|name| name.contains(gone) && !name.ends_with("gone")),
            "{gone}: {names:?}"
        );
    }
    for kept in ["packs/b1/000000", "b2/manifest", "000000000005", "000000000005.index", "000000000006.part"]
    {
        assert!(names.iter().any(|name| name.contains(kept)), "{kept}");
    }
    assert_eq!(tree(&place.zone("a")), tree(&place.zone("c")));
    let catalog = Catalog::load(&vault).await.unwrap();
    assert_eq!(catalog.nodes[&node()].backups.len(), 1);

    // Of b3 nothing is left anywhere: its tombstone goes. b1's stays, for its pack is still in use.
    repair::run(&vault, false).await.unwrap();
    let exists = async |backup: &str| {
        vault.exists(&ObjectName::Gone { node: node(), backup: backup.parse().unwrap() }).await.unwrap()
    };
    assert_eq!((exists("b1").await, exists("b3").await), (true, false));
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_keeps_all_it_may_need() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    put_backup(&vault, "b2", "b2", 5).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    for zone in ZONES {
        std::fs::write(place.file(zone, &vault, &manifest("b1")), b"nonsense").unwrap();
    }
    let vault = place.open(Access::Write).await.unwrap();
    let report = repair::run(&vault, true).await.unwrap();
    assert_eq!(report.unreadable, [vault.path(&manifest("b1"))]);
    assert_eq!(report.deleted, 0);
    assert!(vault.exists(&segment(3)).await.unwrap() && vault.exists(&pack("b1", 0)).await.unwrap());
}

#[tokio::test]
async fn leftovers_of_crashed_writers_are_hidden_then_swept() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    put(&vault, segment(3)).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    let leftover = |n: u32| {
        let mut path = place.file("a", &vault, &segment(4)).into_os_string();
        path.push(format!("#{n}"));
        PathBuf::from(path)
    };
    for n in [1, 2] {
        std::fs::write(leftover(n), b"half").unwrap();
    }
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(leftover(1)).unwrap().set_modified(old).unwrap();
    assert_eq!(vault.list("nodes").await.unwrap().objects.len(), 1);
    put(&vault, segment(4)).await;
    let report = repair::run(&vault, true).await.unwrap();
    assert!(report.is_whole() && report.leftovers == 1);
    assert!(!leftover(1).exists() && leftover(2).exists(), "a young one may be in use");
}

#[tokio::test]
async fn a_writer_that_died_between_zones_is_succeeded() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    put(&vault, segment(3)).await;
    vault.zones().settle(std::time::Duration::from_secs(10)).await;
    // It reached one zone and died; the next process seals the same bytes anew.
    for zone in ["b", "c"] {
        std::fs::remove_file(place.file(zone, &vault, &segment(3))).unwrap();
    }
    let vault = place.open(Access::Write).await.unwrap();
    put(&vault, segment(3)).await;
    put(&vault, segment(3)).await;
    assert!(vault.put(&segment(3), Bytes::from("other"), 1).await.unwrap_err().is_clash());
    let report = repair::run(&vault, true).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
}
