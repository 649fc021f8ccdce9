//! What was stored once opens for ever: objects of every format version, kept in `fixtures/formats`.

use std::path::{Path, PathBuf};

use pitrus::seal::{self, EpochKey, KeyRing, MasterKey, Sealer};

const MASTER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const KEY_NAME: &str = "frozen/keys/epoch";
const NAME: &str = "frozen/nodes/one/object";
/// Every version whose objects must open; a folder each.
const VERSIONS: [&str; 1] = ["v1"];

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(version)
}

/// Three chunks: one that compresses well, one that does not, an empty last one.
fn chunks() -> [Vec<u8>; 3] {
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    [vec![7; 100_000], noise.take(5_000).collect(), Vec::new()]
}

#[test]
fn every_version_still_opens() {
    let kept = std::fs::read_dir(folder("")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(kept.count(), VERSIONS.len(), "every folder of fixtures/formats is tried");
    for version in VERSIONS {
        let read = |name: &str| std::fs::read(folder(version).join(name)).unwrap();
        let master = MasterKey::from_text(MASTER).unwrap();
        let mut ring = KeyRing::new();
        ring.insert(EpochKey::unwrap(&master, KEY_NAME, &read("key")).unwrap());
        assert_eq!(seal::open(&ring, NAME, &read("object")).unwrap(), chunks().concat(), "{version}");
        assert!(seal::open(&ring, "frozen/nodes/two/object", &read("object")).is_err());
    }
}

#[test]
#[ignore = "writes fixtures/formats: only for a new format version"]
fn make() {
    let master = MasterKey::from_text(MASTER).unwrap();
    let epoch = EpochKey::generate();
    let mut sealer = Sealer::new(&epoch, NAME, 3);
    for (at, chunk) in chunks().iter().enumerate() {
        sealer.chunk(chunk, at == 2).unwrap();
    }
    let newest = folder(VERSIONS[VERSIONS.len() - 1]);
    for (name, bytes) in
        [("key", epoch.wrap(&master, KEY_NAME)), ("object", sealer.finish().unwrap().to_vec())]
    {
        let path = newest.join(name);
        assert!(!path.exists(), "{}: a frozen format is never written again", path.display());
        std::fs::write(path, bytes).unwrap();
    }
}
