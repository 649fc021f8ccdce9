//! What may be typed, and what is printed for people.

use super::{Unpacked, pitrus};

const TIME: &str = "2026-11-21T09:45:50.123456Z";

#[test]
fn arguments_that_mean_nothing_are_refused() {
    let unpacked = Unpacked::new();
    let node = |group: i32| format!("{group}={}", unpacked.path(group).display());
    let (zero, one) = (node(0), node(1));
    let cut = |more: &[&str]| pitrus(&[&["cut"], more].concat());
    cut(&["--node", &zero, "--time", "2026-11-21 09:45:50"]).fails(2, &["not a time with a zone"]);
    cut(&["--node", &zero]).fails(2, &["--time"]);
    cut(&["--time", TIME]).fails(2, &["--node"]);
    cut(&["--node", "x=/srv", "--time", TIME]).fails(2, &["is not GROUP=DIR"]);
    cut(&["--node", &zero, "--node", &zero, "--time", TIME]).fails(2, &["--node names group 0 twice"]);
    let same = one.replacen("1=", "2=", 1);
    cut(&["--node", &one, "--node", &same, "--time", TIME])
        .fails(2, &["nodes 1 and 2 have WAL of one server"]);
    cut(&["--node", &zero, "--time", TIME, "--clock", "7=+50ms"]).fails(2, &["there is no node 7"]);
    cut(&["--node", &zero, "--time", TIME, "--clock", "0=50"]).fails(2, &["in us, ms or s"]);
    cut(&["--node", &zero, "--time", TIME, "--clock", "0=+1ms", "--clock", "0=+2ms"]).fails(2, &["twice"]);
    cut(&["--node", &zero, "--stop", "7=0/F00060"]).fails(2, &["there is no node 7"]);
    cut(&["--node", &zero, "--stop", "0=0/1"]).fails(5, &["the WAL of node-0 goes from 0/F00000"]);
    cut(&["--node", &zero, "--latest", "--at-or-after"]).fails(2, &["--at-or-after"]);
    cut(&["--node", &zero, "--restore-point", "never-made"]).fails(5, &["has no restore point of that name"]);
    cut(&["--node", &zero, "--before-transaction", "no-such"])
        .fails(5, &["no transaction no-such was prepared"]);
    for outside in ["2026-11-20T00:00:00Z", "2026-11-22T00:00:00Z"] {
        cut(&["--node", &zero, "--node", &one, "--time", outside])
            .fails(5, &["cannot be cut", "the WAL of node 1 is of 2026-11-21T09:45:4"]);
    }
}

#[test]
fn the_text_says_what_to_do() {
    let unpacked = Unpacked::new();
    let nodes: Vec<String> =
        (0..3).map(|group| format!("--node={group}={}", unpacked.path(group).display())).collect();
    let mut args = vec!["cut", "--time", TIME, "--pretend-clock", "1=+50ms"];
    args.extend(nodes.iter().map(String::as_str));
    let said = pitrus(&args);
    assert_eq!(said.code, 0, "{}", said.err);
    for word in [
        "node  recovery_target_lsn",
        "recovery_target_inclusive = off",
        "recovery_target_timeline = '1'",
        "moved to a consistent cut (",
        "left out: inside at the moment asked for",
        "on every node would tear",
        "PREPARED 'citus_",
        "in the database with oid 16384",
        "left as they are (1):\n  node 0: left-open",
    ] {
        assert!(said.out.contains(word), "{}\nlacks {word:?}", said.out);
    }
    args.push("--explain");
    let explained = pitrus(&args);
    for word in
        ["why the cut moved:", "and node-1 stands where the moment asked for puts it", "decided by node-"]
    {
        assert!(explained.out.contains(word), "{}\nlacks {word:?}", explained.out);
    }
    // The figures are those of the JSON form.
    let json = unpacked.cut(&["--time", TIME, "--pretend-clock", "1=+50ms"]).json();
    for node in json["nodes"].as_array().unwrap() {
        let line = format!("recovery_target_lsn = '{}'", node["stop_before"].as_str().unwrap());
        assert!(said.out.contains(&line), "{}\nlacks {line:?}", said.out);
    }
}

#[test]
fn wal_is_shown_by_transaction() {
    let unpacked = Unpacked::new();
    let files: Vec<String> = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
        .map(|(group, at)| unpacked.file(group, at).display().to_string())
        .to_vec();
    let show = |more: &[&str]| {
        let mut args = vec!["wal", "show"];
        args.extend(files.iter().map(String::as_str));
        args.extend(more);
        pitrus(&args)
    };
    let json = show(&["--output", "json"]).json();
    let groups: Vec<&serde_json::Value> =
        json["nodes"].as_array().unwrap().iter().map(|n| &n["group"]).collect();
    assert_eq!(groups, [0, 1, 2]);
    let transactions = json["transactions"].as_array().unwrap();
    let truth = crate::recorded::truth();
    assert!(transactions.len() >= truth["transfers"].as_array().unwrap().len());
    let whole = |one: &&serde_json::Value| {
        let dids: Vec<&str> =
            one["steps"].as_array().unwrap().iter().map(|step| step["did"].as_str().unwrap()).collect();
        dids == ["prepare", "prepare", "decide", "commit_prepared", "commit_prepared"]
    };
    assert!(transactions.iter().filter(whole).count() > 1000);
    let text = show(&[]);
    for word in
        ["restore point \"in-the-middle\"", "left-open\n", "00000001000000000000000F: zeros", "group 2"]
    {
        assert!(text.out.contains(word), "lacks {word:?}");
    }
    let records = show(&["--records"]);
    let prepares = records.out.lines().filter(|line| line.contains("  prepare  ")).count();
    assert!(prepares > 1000, "{prepares}");
    let lines = show(&["--records", "--output", "json"]);
    let first: serde_json::Value = serde_json::from_str(lines.out.lines().next().unwrap()).unwrap();
    assert!(first["event"]["lsn"].is_string(), "{first}");
}

#[test]
fn files_that_are_no_wal_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("000000010000000000000001");
    let shown = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        pitrus(&["wal", "show", path.to_str().unwrap()])
    };
    shown(&zstd::encode_all([1_u8; 9000].as_slice(), 1).unwrap()).fails(2, &["is compressed with zstd"]);
    shown(b"\x1F\x8B more of it").fails(2, &["is compressed with gzip"]);
    shown(b"PITRUS\x01O and so on").fails(2, &["is sealed by pitrus"]);
    shown(&[0; 9000]).fails(2, &["begins with zeros"]);
    shown(b"").fails(2, &["is no WAL segment"]);
    // A broken tail is told, and what is before it shown.
    let unpacked = Unpacked::new();
    let mut bytes = std::fs::read(unpacked.file(1, 0)).unwrap();
    bytes[0x80100] ^= 1;
    let broken = shown(&bytes);
    assert_eq!(broken.code, 0, "{}", broken.err);
    assert!(broken.out.contains("01: a record whose checksum is wrong"), "{}", broken.out);
}
