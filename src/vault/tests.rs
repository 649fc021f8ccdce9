//! A vault over folders.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;

use super::*;
use crate::ids::{BackupId, NodeName};
use crate::manifest::backup::{Entry, Foot, Head, Kind};
use crate::timeline::TimelineId;
use crate::zones::ZoneOptions;

pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) master: MasterKey,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for zone in ["a", "b", "c"] {
            std::fs::create_dir(folder.path().join(zone)).unwrap();
        }
        World { folder, master: MasterKey::generate() }
    }

    pub(super) fn zones(&self) -> ZoneSet {
        let zone = |name: &str| ZoneOptions {
            name: name.parse().unwrap(),
            url: self.folder.path().join(name).display().to_string(),
            options: Vec::new(),
        };
        ZoneSet::open(vec![zone("a"), zone("b"), zone("c")], 2).unwrap()
    }

    pub(super) async fn open(&self, access: Access) -> Result<Vault, Error> {
        Vault::open(self.zones(), self.master.clone(), "shop".parse().unwrap(), access).await
    }
}

fn node() -> NodeName {
    "w1".parse().unwrap()
}

#[tokio::test]
async fn what_is_put_is_got_and_nothing_is_overwritten() {
    let world = World::new();
    let none = world.open(Access::Read).await.err();
    assert!(matches!(none, Some(Error::Zones(_))), "folders without a mark are no zones: {none:?}");
    let vault = world.open(Access::Write).await.unwrap();
    let name = ObjectName::Node { node: node() };
    assert!(!vault.exists(&name).await.unwrap());
    assert!(vault.get(&name).await.unwrap_err().is_not_found());
    assert!(!vault.put(&name, Bytes::from("one"), 1).await.unwrap().already);
    assert!(vault.put(&name, Bytes::from("one"), 1).await.unwrap().already);
    assert!(vault.put(&name, Bytes::from("two"), 1).await.unwrap_err().is_clash());
    assert_eq!(vault.get(&name).await.unwrap(), "one");

    let reader = world.open(Access::Read).await.unwrap();
    assert_eq!(reader.get(&name).await.unwrap(), "one");
    assert!(matches!(reader.put(&name, Bytes::from("x"), 1).await, Err(Error::ReadOnly { .. })));
    assert!(matches!(reader.delete(&name).await, Err(Error::ReadOnly { .. })));

    assert!(vault.delete(&name).await.unwrap().is_empty());
    assert!(!vault.exists(&name).await.unwrap());
}

#[tokio::test]
async fn a_wrong_key_is_told() {
    let world = World::new();
    world.open(Access::Write).await.unwrap();
    let other = MasterKey::generate();
    let opened = Vault::open(world.zones(), other, "shop".parse().unwrap(), Access::Write).await;
    assert!(matches!(opened, Err(Error::WrongKey { known, .. }) if known == [world.master.id()]));
    let cluster = "other".parse().unwrap();
    let opened = Vault::open(world.zones(), world.master.clone(), cluster, Access::Read).await;
    assert!(matches!(opened, Err(Error::NoVault { .. })));
}

#[tokio::test]
async fn parts_join_as_far_as_they_go() {
    let world = World::new();
    let vault = world.open(Access::Write).await.unwrap();
    let (timeline, bytes) = (TimelineId(1), 1 << 20);
    let wal = WalName::new(timeline, 7, bytes);
    let read = async || vault.segment_bytes(&node(), timeline, 7, bytes).await.unwrap();
    assert_eq!(read().await, None);
    let all: Vec<u8> = (0..bytes).map(|i| (i / 11) as u8).collect();
    for (start, end) in [(0, 100), (100, 300), (200, 250), (250, 400), (500, 600)] {
        let part = ObjectName::Part { node: node(), wal, start, end };
        vault.put(&part, all[start as usize..end as usize].to_vec().into(), 1).await.unwrap();
    }
    let found = read().await.unwrap();
    assert_eq!((found.valid, found.complete), (400, false));
    assert_eq!(found.bytes, all[..400]);
    vault.put(&ObjectName::Segment { node: node(), wal }, all.clone().into(), 1).await.unwrap();
    let found = read().await.unwrap();
    assert_eq!((found.valid, found.complete), (bytes, true));
    assert_eq!(found.bytes, all);
}

pub(super) fn head(backup: &BackupId) -> Head {
    serde_json::from_value(serde_json::json!({
        "version": crate::manifest::backup::VERSION, "backup": backup, "cluster": "shop", "node": "w1", "group": 1,
        "system_identifier": "7", "postgres_version": 150018, "segment_bytes": 1 << 24, "timeline": 1,
        "start_lsn": "0/3000028", "started_at": "2026-11-21T08:30:00Z", "data_checksums": true,
        "tablespaces": [],
    }))
    .unwrap()
}

pub(super) fn foot(label: &str) -> Foot {
    serde_json::from_value(serde_json::json!({
        "stop_lsn": "0/4000028", "stopped_at": "2026-11-21T08:31:00Z", "backup_label": label,
        "tablespace_map": "", "files": 0, "bytes": 0, "read": 0, "stored": 1, "packs": [], "bad_pages": [], "bad_pages_more": 0, "prepared": [],
        "parameters": crate::wal::event::Parameters::default(), "settings": [], "hba": [],
        "superuser": "postgres",
    }))
    .unwrap()
}

#[tokio::test]
async fn manifests_are_read_from_both_ends() {
    let world = World::new();
    let vault = world.open(Access::Write).await.unwrap();
    let long = (0..3_000_000_u64).map(|i| char::from(b'a' + (i * i * 7 / 13 % 26) as u8)).collect();
    // A foot longer than the first read of it, and one longer than a chunk.
    for (id, label) in ["x".to_owned(), "y".repeat(400_000), long].into_iter().enumerate() {
        let backup: BackupId = format!("b{id}").parse().unwrap();
        assert!(vault.backup_ends(&node(), &backup).await.unwrap_err().is_not_found());
        let mut manifest = vault.manifest(&head(&backup), 1).unwrap();
        let entry = |n: u32| Entry { path: format!("base/{n}"), kind: Kind::Folder, mode: 0o700 };
        (0..40_000).for_each(|n| manifest.entry(entry(n)).unwrap());
        assert_eq!(manifest.counted(), (0, 0));
        manifest.finish(&foot(&label)).await.unwrap();

        let ends = vault.backup_ends(&node(), &backup).await.unwrap();
        assert_eq!((ends.head, ends.foot), (head(&backup), foot(&label)));
        let mut blocks = vault.manifest_blocks(&node(), &backup).await.unwrap();
        let mut read = Vec::new();
        while let Some(block) = blocks.next().await.unwrap() {
            assert!(block.len() <= 1 << 20);
            read.extend_from_slice(&block);
        }
        let whole = vault.get(&ObjectName::Manifest { node: node(), backup }).await.unwrap();
        assert!(read == whole, "the blocks make the manifest");
    }
}

#[tokio::test]
async fn a_segment_that_is_finished_after_it_was_listed_is_read_whole() {
    const BYTES: u32 = 1 << 20;
    let world = World::new();
    let vault = world.open(Access::Write).await.unwrap();
    let (node, wal) = (node(), WalName::new(TimelineId(1), 3, BYTES));
    let parts = [PartRange { start: 0, end: 20 }, PartRange { start: 20, end: 50 }];
    let name =
        |part: &PartRange| ObjectName::Part { node: node.clone(), wal, start: part.start, end: part.end };
    for part in &parts {
        let bytes = vec![7; (part.end - part.start) as usize];
        vault.put(&name(part), bytes.into(), 1).await.unwrap();
    }
    let listed = SegmentState { complete: false, index: false, parts: parts.to_vec() };
    let read = async || vault.listed_segment_bytes(&node, wal, &listed, BYTES).await.unwrap().unwrap();
    assert_eq!(read().await.bytes, vec![7; 50]);
    vault
        .put(&ObjectName::Segment { node: node.clone(), wal }, vec![7; BYTES as usize].into(), 1)
        .await
        .unwrap();
    for gone in [&parts[1], &parts[0]] {
        vault.delete(&name(gone)).await.unwrap();
        assert!(read().await.complete);
    }
}

#[tokio::test]
async fn the_catalogue_tells_what_there_is() {
    let world = World::new();
    let vault = world.open(Access::Write).await.unwrap();
    assert!(Catalog::load(&vault).await.unwrap().nodes.is_empty());
    let doc = serde_json::json!({
        "version": 1, "cluster": "shop", "node": "w1", "group": 1, "system_identifier": "7",
        "postgres_version": 150018, "segment_bytes": 1 << 24, "recorded_at": "2026-11-21T08:30:00Z",
    });
    vault.put(&ObjectName::Node { node: node() }, doc.to_string().into(), 1).await.unwrap();
    let wal = |number| WalName::new(TimelineId(1), number, 1 << 24);
    for number in [3, 4, 6] {
        vault
            .put(&ObjectName::Segment { node: node(), wal: wal(number) }, Bytes::from("s"), 1)
            .await
            .unwrap();
    }
    vault.put(&ObjectName::Index { node: node(), wal: wal(4) }, Bytes::from("i"), 1).await.unwrap();
    for (start, end) in [(0, 20), (20, 50), (60, 70)] {
        let part = ObjectName::Part { node: node(), wal: wal(7), start, end };
        vault.put(&part, Bytes::from("p"), 1).await.unwrap();
    }
    let history = ObjectName::History { node: node(), timeline: TimelineId(2) };
    vault.put(&history, Bytes::from("1\t0/7000000\tx\n"), 1).await.unwrap();
    for id in ["b1", "b2"] {
        let manifest = vault.manifest(&head(&id.parse().unwrap()), 1).unwrap();
        manifest.finish(&foot("x")).await.unwrap();
    }
    vault
        .put(&ObjectName::Gone { node: node(), backup: "b1".parse().unwrap() }, Bytes::new(), 1)
        .await
        .unwrap();

    let catalog = Catalog::load(&vault).await.unwrap();
    let found = &catalog.nodes[&node()];
    assert_eq!(found.runs(TimelineId(1)), [3..=4, 6..=6]);
    assert!(found.segments.get((TimelineId(1), 4)).unwrap().index);
    assert_eq!(found.segments.get((TimelineId(1), 7)).unwrap().joined(), 50);
    assert_eq!(found.histories[&TimelineId(2)].ancestors.len(), 1);
    assert_eq!(found.backups.iter().map(|b| b.head.backup.as_str()).collect::<Vec<_>>(), ["b2"]);
    assert!(found.complete && catalog.silent.is_empty());
}
