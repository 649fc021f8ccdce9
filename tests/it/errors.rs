//! What can be wrong with a restore: each is refused with what and what to do, and nothing is written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::scene::{MARGIN_US, Scene};
use crate::world::{Installed, Kind, Landing, Said, protect, text};

const OPERATOR: i32 = 2;
const DAMAGE: i32 = 4;
const OUTSIDE: i32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_why_and_writes_nothing() {
    if !Kind::Plain.can_run("every_refusal_says_why_and_writes_nothing") {
        return;
    }
    let mut scene = Scene::set(Kind::Plain, &[]).await.unwrap();
    let (target, truth) = scene.load(Duration::from_secs(2), Duration::from_secs(1)).await.unwrap();
    scene.archived().await.unwrap();
    scene.protected.stop_agents().await.unwrap();
    let time = target.to_string();
    let when = ["--time", time.as_str()];

    outside_the_window(&scene).await;
    wrong_key(&scene, &when).await;
    missing_zones(&scene, &when).await;
    occupied_target(&scene, &when).await;
    same_name(&scene, &when).await;
    unknown_restore_point(&scene).await;

    // A damaged copy is read from another zone; where there is none, the object is named.
    let damaged = damage_a_pack(&scene.protected.zones[0]);
    let (landing, said) = scene.restore(&[0], "damaged", &when).await.unwrap();
    refused(&said, DAMAGE, &[&damaged]);
    assert!(!landing.directory.join("worker1/PG_VERSION").exists() || said.status.code() != Some(0));
    let (landing, said) = scene.restore(&[0, 1], "healed", &when).await.unwrap();
    said.ok().unwrap();
    scene.proved(&landing, &truth, target, MARGIN_US).await.unwrap();
}

async fn outside_the_window(scene: &Scene) {
    let (landing, said) =
        scene.restore(&[0, 1, 2], "early", &["--time", "2020-01-01T00:00:00Z"]).await.unwrap();
    refused(&said, OUTSIDE, &["2020-01-01", "Z"]);
    untouched(&landing);
    let (landing, said) =
        scene.restore(&[0, 1, 2], "late", &["--time", "2099-01-01T00:00:00Z"]).await.unwrap();
    refused(&said, OUTSIDE, &["2099-01-01", "Z"]);
    untouched(&landing);
}

async fn wrong_key(scene: &Scene, when: &[&str]) {
    let other = scene.folder.path().join("etc/other-key");
    scene.protected.pitrus.run(&["key", "generate", "--file", text(&other).unwrap()]).await.unwrap();
    let landing = Landing::choose(&scene.folder, "wrong-key", &scene.protected.nodes).unwrap();
    let zone = text(&scene.protected.zones[0]).unwrap();
    let arguments = ["restore", "run", "--as", "new", "--targets", text(&landing.targets).unwrap()];
    let vault = ["--cluster", protect::CLUSTER, "--key-file", text(&other).unwrap(), "--zone", zone];
    let said = scene.protected.pitrus.run(&[&arguments, when, &vault].concat()).await.unwrap();
    refused(&said, OPERATOR, &["key"]);
    untouched(&landing);
}

async fn missing_zones(scene: &Scene, when: &[&str]) {
    let pitrus: &Installed = &scene.protected.pitrus;
    let gone = scene.folder.path().join("zones/gone");
    let gone = text(&gone).unwrap();
    let landing = Landing::choose(&scene.folder, "no-zone", &scene.protected.nodes).unwrap();
    let arguments = ["restore", "run", "--as", "new", "--targets", text(&landing.targets).unwrap()];
    let key = ["--cluster", protect::CLUSTER, "--key-file", text(&scene.protected.key).unwrap()];
    let said = pitrus.run(&[&arguments, when, &key, &["--zone", gone]].concat()).await.unwrap();
    assert!(!said.status.success(), "{said:?}");
    assert!(said.err.contains("zones/gone") || said.err.contains("zone a"), "{}", said.err);
    untouched(&landing);
    assert!(!Path::new(gone).exists(), "a missing zone is never made again");
    // Two of three zones gone: the third is enough to plan from.
    let left = text(&scene.protected.zones[2]).unwrap();
    let zones = ["--zone", gone, "--zone", "/nonexistent/zone", "--zone", left];
    let said = pitrus.run(&[&["restore", "plan"], when, &key, &zones].concat()).await.unwrap();
    said.ok().unwrap();
}

async fn occupied_target(scene: &Scene, when: &[&str]) {
    let landing = Landing::choose(&scene.folder, "occupied", &scene.protected.nodes).unwrap();
    let there = scene.folder.folder("occupied/worker2").unwrap();
    scene.folder.write(&there.join("somebody's"), "x").unwrap();
    let arguments = ["restore", "run", "--as", "new", "--targets", text(&landing.targets).unwrap()];
    let said = scene.protected.run_with(&[0, 1, 2], &[&arguments, when].concat()).await.unwrap();
    refused(&said, OPERATOR, &["occupied/worker2"]);
    assert!(!landing.directory.join("coordinator").exists(), "nothing is written beside it either");
}

async fn same_name(scene: &Scene, when: &[&str]) {
    let landing = Landing::choose(&scene.folder, "same-name", &scene.protected.nodes).unwrap();
    let targets = text(&landing.targets).unwrap();
    let arguments = ["restore", "run", "--as", protect::CLUSTER, "--targets", targets];
    let said = scene.protected.run_with(&[0, 1, 2], &[&arguments, when].concat()).await.unwrap();
    refused(&said, OPERATOR, &["name"]);
    untouched(&landing);
}

async fn unknown_restore_point(scene: &Scene) {
    let (landing, said) =
        scene.restore(&[0, 1, 2], "no-point", &["--restore-point", "never-made"]).await.unwrap();
    assert!(!said.status.success());
    assert!(said.err.contains("never-made"), "{}", said.err);
    untouched(&landing);
}

/// Checks the exit code, that the message names what it must, and that it says what to do.
fn refused(said: &Said, code: i32, names: &[&str]) {
    assert_eq!(said.status.code(), Some(code), "{}{}", said.out, said.err);
    for name in names {
        assert!(said.err.contains(name), "{name} is not in: {}", said.err);
    }
    assert!(said.err.lines().filter(|line| !line.trim().is_empty()).count() >= 2, "no hint: {}", said.err);
}

/// Checks that no data directory was made.
fn untouched(landing: &Landing) {
    let names: Vec<PathBuf> =
        std::fs::read_dir(&landing.directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let made: Vec<&PathBuf> = names
        .iter()
        .filter(|path| **path != landing.targets && !text(path).unwrap().contains("/s-"))
        .collect();
    assert!(made.is_empty(), "written: {made:?}");
}

/// Flips a byte in the middle of the largest pack of a zone, and returns the pack's name.
fn damage_a_pack(zone: &Path) -> String {
    let nodes = zone.join(protect::CLUSTER).join("nodes");
    let mut largest: Option<(u64, PathBuf)> = None;
    let mut folders = vec![nodes];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                folders.push(path);
            } else if text(&path).unwrap().contains("/packs/")
                && largest.as_ref().is_none_or(|(size, _)| meta.len() > *size)
            {
                largest = Some((meta.len(), path));
            }
        }
    }
    let (size, path) = largest.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[size as usize / 2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    text(path.strip_prefix(zone).unwrap()).unwrap().to_owned()
}
