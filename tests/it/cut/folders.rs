//! What can be the matter with a directory of WAL.

use std::os::unix::fs::FileExt;

use super::{Unpacked, copy, pitrus, segment_name, stops};

const TIME: &str = "2026-11-21 09:45:50.123456+00";

#[test]
fn other_files_and_segments_kept_for_later_use_change_nothing() {
    let unpacked = Unpacked::new();
    let plain = unpacked.cut(&["--time", TIME]).json();
    assert_eq!(plain["notes"], serde_json::json!([]));
    let worker = unpacked.path(1);
    for name in [
        "00000001000000000000000F.00000028.backup",
        "archive_status",
        ".hidden",
        "00000001000000000000000f",
        "history",
    ] {
        std::fs::write(worker.join(name), "no WAL").unwrap();
    }
    // Recycled, and not used since; zeros; empty.
    copy(&unpacked.file(1, 0), &unpacked.file(1, 2));
    std::fs::write(unpacked.file(1, 3), vec![0; 1 << 20]).unwrap();
    std::fs::write(unpacked.file(1, 4), "").unwrap();
    assert_eq!(unpacked.cut(&["--time", TIME]).json(), plain);
    std::fs::write(worker.join("000000010000000000000011.partial"), "").unwrap();
    let noted = unpacked.cut(&["--time", TIME]).json();
    assert_eq!(stops(&noted), stops(&plain));
    assert!(noted["notes"][0].as_str().unwrap().contains("000000010000000000000011.partial is not read"));
}

/// The segment that was being written when the directory was copied.
#[test]
fn a_last_segment_that_is_cut_short_is_read_as_far_as_it_goes() {
    let unpacked = Unpacked::new();
    let whole = unpacked.cut(&["--time", TIME]).json();
    let file = std::fs::File::options().write(true).open(unpacked.file(2, 1)).unwrap();
    file.set_len(0x60000).unwrap();
    assert_eq!(stops(&unpacked.cut(&["--time", TIME]).json()), stops(&whole));
    // Too short for the moment: the others go back, or it is said that more would tell more.
    file.set_len(0x10000).unwrap();
    let short = unpacked.cut(&["--time", TIME]).json();
    assert!(stops(&short)[0] < stops(&whole)[0]);
    assert!(short["notes"].to_string().contains("node-2 after"), "{short}");
}

/// Only the second segment of a worker is there: it begins in the middle of a record, and of transactions.
#[test]
fn a_directory_that_begins_later_says_what_it_cannot_know() {
    let unpacked = Unpacked::new();
    let whole = unpacked.cut(&["--time", "2026-11-21T09:45:50.8Z"]).json();
    std::fs::remove_file(unpacked.file(1, 0)).unwrap();
    let later = unpacked.cut(&["--time", "2026-11-21T09:45:50.8Z"]).json();
    assert_eq!(stops(&later), stops(&whole));
    unpacked.cut(&["--time", "2026-11-21T09:45:49Z"]).fails(
        5,
        &[
            "2026-11-21T09:45:49.000000Z cannot be cut",
            "the WAL of node 1 begins after it",
            "is of 2026-11-21T09:45:50",
        ],
    );
}

#[test]
fn damage_is_told_with_its_file() {
    let unpacked = Unpacked::new();
    let file = std::fs::File::options().write(true).open(unpacked.file(1, 0)).unwrap();
    file.write_at(b"damage", 0xC0100).unwrap();
    let name = unpacked.file(1, 0).display().to_string();
    unpacked.cut(&["--time", TIME]).fails(4, &[&name, "breaks off at", "fetch this segment"]);
}

#[test]
fn directories_that_are_none_are_refused() {
    let unpacked = Unpacked::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let cut = |node: &str| pitrus(&["cut", "--latest", "--node", node]);
    cut(&format!("0={path}")).fails(2, &["holds no WAL segment", "24 digits"]);
    cut(&format!("0={path}/none")).fails(2, &["cannot be read", "No such file"]);
    std::fs::create_dir(folder.path().join("0000000100000000")).unwrap();
    cut(&format!("0={path}")).fails(2, &["folder of another tool's archive", "archive-get"]);
    std::fs::write(folder.path().join("00000001000000000000000F.lz4"), "x").unwrap();
    cut(&format!("0={path}")).fails(2, &["00000001000000000000000F.lz4 is packed", "wal-fetch"]);
    std::fs::write(folder.path().join("00000001000000000000000F"), vec![7; 9000]).unwrap();
    cut(&format!("0={path}")).fails(2, &["is no WAL segment, though it is named as one"]);

    // A segment of another server among those of this one.
    std::fs::copy(unpacked.file(2, 1), unpacked.file(1, 1)).unwrap();
    cut(&format!("1={}", unpacked.path(1).display())).fails(2, &["is of another server"]);
}

/// A promoted standby went on where its primary's branch was left; the primary's later segments are not its.
#[test]
fn the_newest_timeline_is_followed() {
    let unpacked = Unpacked::new();
    let plain = unpacked.cut(&["--time", TIME]).json();
    let worker = unpacked.path(1);
    let second = unpacked.file(1, 1);
    // The switch lies at the border of the segments; the pages still name timeline 1, as a copy's do.
    std::fs::rename(&second, worker.join(segment_name(2, 0x10))).unwrap();
    std::fs::write(worker.join("00000002.history"), "1\t0/1000000\tno recovery target specified\n").unwrap();
    let followed = unpacked.cut(&["--time", TIME]).json();
    assert_eq!(stops(&followed), stops(&plain));
    assert_eq!(followed["nodes"][1]["timeline"], 2);
    // What the old primary wrote after that.
    copy(&unpacked.file(1, 0), &second);
    let beside = unpacked.cut(&["--time", TIME]).json();
    assert_eq!(stops(&beside), stops(&plain));
    // What some tools leave of a history that they do not have.
    std::fs::write(worker.join("00000003.history"), "").unwrap();
    let empty = unpacked.cut(&["--time", TIME]).json();
    assert_eq!(stops(&empty), stops(&plain));
    assert!(empty["notes"].to_string().contains("00000003.history names no older timeline"), "{empty}");
    std::fs::remove_file(worker.join("00000003.history")).unwrap();
    unpacked.cut(&["--time", TIME, "--timeline", "1=3"]).fails(2, &["holds nothing of timeline 3", "1, 2"]);
    // A promotion of which only the history is archived so far: nothing after the switch belongs to it.
    let new = worker.join(segment_name(2, 0x10));
    std::fs::rename(&new, &second).unwrap();
    std::fs::write(worker.join("00000002.history"), "1\t0/FF8000\tno recovery target specified\n").unwrap();
    let begun = unpacked.cut(&["--latest"]).json();
    let stop = begun["nodes"][1]["stop_before"].as_str().unwrap().parse::<pitrus::lsn::Lsn>().unwrap();
    assert!(stop <= pitrus::lsn::Lsn(0xFF_8000), "{begun}");
    assert_eq!(stops(&unpacked.cut(&["--latest", "--timeline", "1=1"]).json()), [pitrus::lsn::Lsn::MAX; 3]);
    std::fs::rename(&second, &new).unwrap();
    std::fs::remove_file(worker.join("00000002.history")).unwrap();
    let alone = unpacked.cut(&["--time", "2026-11-21T09:45:50.8Z"]).json();
    assert!(alone["notes"].to_string().contains("00000002.history is not there"), "{alone}");
}
