//! Each kind of damage, to each kind of object, in one zone and in two: found, read from another zone,
//! and repaired. In all three: an error, never wrong bytes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pitrus::class::{Class, Classified};
use pitrus::ids::ClusterName;
use pitrus::moment::Moment;
use pitrus::repair as job;
use pitrus::seal::ChunkPlace;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, ObjectName, Vault};

use super::repair::{Place, ZONES, manifest, node, pack, put, put_backup, put_node, segment, tree, wal};

/// What happens to the file of an object.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    FlipFromEnd(usize),
    CutTo(usize),
    CutBy(usize),
    Extend,
    Double,
    Empty,
    /// Another object of the same kind lies in its place.
    Swap,
    /// An object of another kind does.
    Stranger,
    Zeros,
    Delete,
}

const DAMAGES: [Damage; 16] = [
    Damage::Flip(0),
    Damage::Flip(6),
    Damage::Flip(8),
    Damage::Flip(20),
    Damage::Flip(60),
    Damage::FlipFromEnd(1),
    Damage::FlipFromEnd(12),
    Damage::CutTo(7),
    Damage::CutTo(90),
    Damage::CutBy(1),
    Damage::Extend,
    Damage::Double,
    Damage::Empty,
    Damage::Swap,
    Damage::Stranger,
    Damage::Zeros,
];

impl Damage {
    fn apply(self, file: &Path, other: &Path, stranger: &Path) {
        let mut bytes = std::fs::read(file).unwrap();
        let len = bytes.len();
        match self {
            Damage::Flip(at) => bytes[at] ^= 0x10,
            Damage::FlipFromEnd(at) => bytes[len - at] ^= 1,
            Damage::CutTo(to) => bytes.truncate(to),
            Damage::CutBy(by) => bytes.truncate(len - by),
            Damage::Extend => bytes.push(0),
            Damage::Double => bytes.extend_from_within(..),
            Damage::Empty => bytes.clear(),
            Damage::Swap => bytes = std::fs::read(other).unwrap(),
            Damage::Stranger => bytes = std::fs::read(stranger).unwrap(),
            Damage::Zeros => bytes.fill(0),
            Damage::Delete => return std::fs::remove_file(file).unwrap(),
        }
        std::fs::write(file, bytes).unwrap();
    }
}

/// One object of each kind but keys, and another of its kind.
fn kinds() -> Vec<(ObjectName, ObjectName)> {
    let topology = |at| ObjectName::Topology { at: Moment::from_unix_micros(at) };
    let part = |start, end| ObjectName::Part { node: node(), wal: wal(9), start, end };
    let index = |number| ObjectName::Index { node: node(), wal: wal(number) };
    let history = |timeline| ObjectName::History { node: node(), timeline: TimelineId(timeline) };
    vec![
        (ObjectName::Node { node: node() }, topology(1)),
        (topology(1), topology(2)),
        (segment(3), segment(4)),
        (index(3), index(4)),
        (part(0, 10), part(10, 20)),
        (history(2), history(3)),
        (manifest("b1"), manifest("b2")),
        (pack("b1", 0), pack("b2", 0)),
    ]
}

async fn fill(vault: &Vault) {
    put_node(vault).await;
    put_backup(vault, "b1", "b1", 3).await;
    put_backup(vault, "b2", "b2", 3).await;
    for (first, second) in kinds() {
        for name in [first, second] {
            if !vault.exists(&name).await.unwrap() {
                put(vault, name).await;
            }
        }
    }
    assert!(vault.zones().settle(std::time::Duration::from_secs(20)).await);
}

#[tokio::test]
async fn every_damage_to_every_object_is_found_and_repaired() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    let whole = tree(&place.zone("a"));
    let key = vault.list("keys").await.unwrap().objects[0].name.clone();
    for damage in DAMAGES.into_iter().chain([Damage::Delete]) {
        for (number, (name, other)) in kinds().into_iter().enumerate() {
            let plain = vault.get(&name).await.unwrap();
            // Only one good copy is left, in one zone or another.
            let spared = ZONES[number % 3];
            for zone in ZONES.iter().filter(|zone| **zone != spared) {
                let file = |name: &ObjectName| place.file(zone, &vault, name);
                damage.apply(&file(&name), &file(&other), &place.zone(zone).join(&key));
            }
            let reader = place.open(Access::Read).await.unwrap();
            assert_eq!(reader.get(&name).await.unwrap(), plain, "{damage:?} of {name:?}");
            let found = reader.damage().len();
            assert!(found > 0 || matches!(damage, Damage::Delete) || spared == "a", "{damage:?} of {name:?}");
            if let ObjectName::Manifest { node, backup } = &name {
                assert_eq!(reader.backup_ends(node, backup).await.unwrap().head.backup, *backup);
            }
        }
        // All kinds are damaged now: one deep repair makes every zone whole.
        let report = job::run(&place.open(Access::Write).await.unwrap(), true).await.unwrap();
        assert!(report.is_whole(), "{damage:?}: {report:?}");
        for zone in ZONES {
            assert!(tree(&place.zone(zone)) == whole, "{damage:?} in {zone}: {report:?}");
        }
    }
}

#[tokio::test]
async fn damage_in_all_zones_is_an_error_and_never_wrong_bytes() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    let key = vault.list("keys").await.unwrap().objects[0].name.clone();
    for damage in DAMAGES {
        let (name, other) = (segment(3), segment(4));
        let good: Vec<Vec<u8>> =
            ZONES.iter().map(|zone| std::fs::read(place.file(zone, &vault, &name)).unwrap()).collect();
        for zone in ZONES {
            let file = |name: &ObjectName| place.file(zone, &vault, name);
            damage.apply(&file(&name), &file(&other), &place.zone(zone).join(&key));
        }
        let reader = place.open(Access::Read).await.unwrap();
        let error = reader.get(&name).await.unwrap_err();
        assert_eq!(error.class(), Class::Damage, "{damage:?}: {error}");
        assert_eq!(reader.damage().len(), 3);
        for zone in ZONES {
            assert!(error.to_string().contains(&format!("zone {zone}")), "{error}");
        }
        // It is not taken for something to be written anew, either.
        let writer = place.open(Access::Write).await.unwrap();
        assert!(writer.put(&name, Bytes::from("other"), 1).await.is_err());
        for (zone, bytes) in ZONES.iter().zip(good) {
            std::fs::write(place.file(zone, &vault, &name), bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn a_damaged_key_is_read_elsewhere_and_repaired() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    let key = vault.list("keys").await.unwrap().objects[0].name.clone();
    let whole = tree(&place.zone("c"));
    for damage in DAMAGES.into_iter().filter(|damage| !matches!(damage, Damage::Swap)) {
        for zone in ["a", "b"] {
            let file = place.zone(zone).join(&key);
            damage.apply(&file, &file, &place.file(zone, &vault, &segment(3)));
        }
        let reader = place.open(Access::Read).await.unwrap();
        assert!(reader.get(&segment(3)).await.is_ok(), "{damage:?}");
        assert_eq!(reader.damage().len(), 2, "{damage:?}");
        // A writer makes sure of its key before it writes anything; one zone may still be at it.
        let writer = place.open(Access::Write).await.unwrap();
        assert!(writer.zones().settle(std::time::Duration::from_secs(20)).await);
        assert!(writer.damage().is_empty() && tree(&place.zone("a")) == whole, "{damage:?}");
    }
}

#[tokio::test]
async fn objects_of_another_cluster_node_or_name_do_not_open() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    fill(&vault).await;
    // A whole cluster's folder under another name: its keys were wrapped for the old one.
    let other: ClusterName = "other".parse().unwrap();
    for zone in ZONES {
        let status = std::process::Command::new("cp")
            .arg("-r")
            .args([place.zone(zone).join("shop"), place.zone(zone).join("other")])
            .status()
            .unwrap();
        assert!(status.success());
    }
    let opened = place.open_as(&other, Access::Read).await.unwrap_err();
    assert_eq!(opened.class(), Class::Damage, "{opened}");
}

#[tokio::test]
async fn chunks_are_read_alone_and_from_a_good_zone() {
    let place = Place::new();
    let vault = place.open(Access::Write).await.unwrap();
    let name = pack("b7", 1);
    let mut sealer = vault.sealer(&name, 1).unwrap();
    let chunks: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n; 1000 * (usize::from(n) + 1)]).collect();
    let places: Vec<ChunkPlace> = chunks.iter().map(|plain| sealer.chunk(plain, false).unwrap()).collect();
    vault.put_sealed(&name, sealer.finish().unwrap()).await.unwrap();
    assert!(vault.zones().settle(std::time::Duration::from_secs(20)).await);
    for zone in ["a", "b"] {
        let file = place.file(zone, &vault, &name);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[places[2].at as usize + 6] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let reader = place.open(Access::Read).await.unwrap();
    assert_eq!(reader.get_chunk(&name, places[1], false).await.unwrap(), chunks[1]);
    assert!(reader.damage().is_empty());
    assert_eq!(reader.get_chunk(&name, places[2], false).await.unwrap(), chunks[2]);
    assert_eq!(reader.damage().len(), 2);
    let some = reader.get_chunks(&name, places[1..4].to_vec(), false).await.unwrap();
    assert_eq!(some, chunks[1..4]);
    // One after the other: those before the damage come again from the good copy.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (told, expected) = (seen.clone(), chunks.clone());
    let take = move |number: usize, plain: &[u8]| {
        assert_eq!(plain, expected[number + 1]);
        told.lock().unwrap().push(number);
        if number < 3 { Ok(()) } else { Err("enough") }
    };
    let read = reader.each_chunk(&name, places[1..5].into(), take).await.unwrap();
    assert_eq!((read, seen.lock().unwrap().as_slice()), (Err("enough"), &[0, 0, 0, 1, 2, 3][..]));
    let moved = ChunkPlace { index: 3, ..places[2] };
    assert_eq!(reader.get_chunk(&name, moved, false).await.unwrap_err().class(), Class::Damage);
    let beyond = ChunkPlace { at: places[4].at + 1_000_000, ..places[4] };
    assert!(reader.get_chunk(&name, beyond, false).await.is_err());
}
