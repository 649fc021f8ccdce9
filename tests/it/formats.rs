//! What was stored once opens for ever: objects of every format version, kept in `fixtures/formats`.

use std::path::{Path, PathBuf};

use pitrus::seal::{self, EpochKey, Form, KeyRing, MasterKey, Sealer};

const MASTER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const KEY_NAME: &str = "frozen/keys/epoch";
const NAME: &str = "frozen/nodes/one/object";
/// Every version whose objects must open; a folder each.
const VERSIONS: [&str; 2] = ["v1", "v2"];

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(version)
}

/// A page of forty tuples of 32 bytes, as version 2 lays them by column.
fn page() -> Vec<u8> {
    let mut page = vec![0; 8192];
    for (at, value) in [24 + 4 * 40, 8192 - 32 * 40, 8192, 8192 | 4_u16].into_iter().enumerate() {
        page[12 + 2 * at..][..2].copy_from_slice(&value.to_le_bytes());
    }
    page[24..][..160].as_chunks_mut().0.fill((31_u32 << 17 | 1 << 15).to_le_bytes());
    page[8192 - 32 * 40..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * at / 31) as u8);
    page
}

/// Four chunks: one that compresses well, one that does not, one of pages, an empty last one.
fn chunks(version: &str) -> Vec<Vec<u8>> {
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let [plain, noise, last] = [vec![7; 100_000], noise.take(5_000).collect(), Vec::new()];
    match version {
        "v1" => vec![plain, noise, last],
        _ => vec![plain, noise, page().repeat(3), last],
    }
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
        assert_eq!(seal::open(&ring, NAME, &read("object")).unwrap(), chunks(version).concat(), "{version}");
        assert!(seal::open(&ring, "frozen/nodes/two/object", &read("object")).is_err());
    }
}

#[test]
#[ignore = "writes fixtures/formats: only for a new format version"]
fn make() {
    let master = MasterKey::from_text(MASTER).unwrap();
    let epoch = EpochKey::generate();
    let newest = VERSIONS[VERSIONS.len() - 1];
    let mut sealer = Sealer::new(&epoch, NAME, Form::Pages, 3);
    for chunk in chunks(newest) {
        sealer.chunk(&chunk, chunk.is_empty()).unwrap();
    }
    let newest = folder(newest);
    for (name, bytes) in
        [("key", epoch.wrap(&master, KEY_NAME)), ("object", sealer.finish().unwrap().to_vec())]
    {
        let path = newest.join(name);
        assert!(!path.exists(), "{}: a frozen format is never written again", path.display());
        std::fs::write(path, bytes).unwrap();
    }
}
