//! The kept inputs of the fuzz targets (`fixtures/fuzz/<target>/`), through the same functions as there.

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub)] // written as a crate of its own
mod targets;

/// Runs a target on its kept inputs, and on each cut short.
fn run(target: &str, take: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(target);
    let mut kept: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    assert!(!kept.is_empty(), "{} is empty", folder.display());
    for path in kept {
        let input = std::fs::read(&path).unwrap();
        let tried = std::panic::catch_unwind(|| {
            for length in [input.len(), input.len() / 2, input.len() * 3 / 4] {
                take(&input[..length]);
            }
        });
        assert!(tried.is_ok(), "{}", path.display());
    }
}

#[test]
fn pages() {
    run("pages", targets::pages::pages);
}

#[test]
fn records() {
    run("records", targets::records::records);
}

#[test]
fn events() {
    run("events", targets::events::events);
}

#[test]
fn objects() {
    run("objects", targets::objects::objects);
}

#[test]
fn sealed() {
    run("sealed", targets::sealed::sealed);
}

#[test]
fn files() {
    run("files", targets::files::files);
}

#[test]
fn cut() {
    run("cut", targets::cut::cut);
}
