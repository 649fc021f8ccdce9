//! WAL and files of every version, recorded (see `fixtures/README.md`): what is read of them is what the
//! servers themselves answered.

use std::path::PathBuf;

use serde_json::{Value, json};

use pitrus::lsn::Lsn;
use pitrus::moment::Moment;
use pitrus::pgfile::{control::ControlFile, twophase};
use pitrus::wal::Version;
use pitrus::wal::decoder::{Decoder, Step};
use pitrus::wal::event::{Event, Open, What};
use pitrus::wal::record::Packing;
use pitrus::wal::scan::{EventScan, Found};

const SEGMENT_BYTES: u32 = 1 << 20;

fn file(version: Version, name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/wal/pg{version}"));
    let path = folder.join(format!("{name}.zst"));
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(packed.as_slice()).unwrap()
}

struct Recorded {
    version: Version,
    truth: Value,
    start: Lsn,
    end: Lsn,
    wal: Vec<u8>,
}

/// A version without a recording fails here.
fn recorded() -> impl Iterator<Item = Recorded> {
    Version::ALL.into_iter().map(|version| {
        let truth: Value = serde_json::from_slice(&file(version, "truth.json")).unwrap();
        assert_eq!(truth["version"], version.major());
        let segments = truth["segments"].as_array().unwrap().iter();
        let wal = segments.flat_map(|name| file(version, name.as_str().unwrap())).collect();
        let lsn = |field: &str| Lsn(truth[field].as_u64().unwrap());
        Recorded { version, start: lsn("start"), end: lsn("end"), wal, truth }
    })
}

fn events(recorded: &Recorded) -> Vec<Event> {
    let mut scan = EventScan::new(SEGMENT_BYTES, recorded.start, Open::default());
    let mut events = Vec::new();
    for piece in recorded.wal.chunks(6007) {
        scan.feed(piece);
        loop {
            match scan.step().unwrap() {
                // The server's own notes come when it likes.
                Found::Event(Event { what: What::Running { .. }, .. }) => {}
                Found::Event(event) => events.push(event),
                Found::NeedMore => break,
                Found::End { at, .. } => {
                    assert_eq!(at, recorded.end);
                    return events;
                }
            }
        }
    }
    panic!("PostgreSQL {}: the end was not seen", recorded.version);
}

fn micros(time: Moment) -> i64 {
    time.unix_micros()
}

/// Says an event in the words of the truth.
fn said(event: &Event) -> Value {
    match &event.what {
        What::Prepare { xid, database, gid, time } => {
            json!({ "what": "prepare", "xid": xid, "gid": gid, "database": database, "time": micros(*time) })
        }
        What::Commit { xid, time, decides } => {
            let decides: Vec<Value> = decides.iter().map(|row| json!([row.group.0, row.gid])).collect();
            json!({ "what": "commit", "xid": xid, "time": micros(*time), "decides": decides })
        }
        What::Abort { xid, .. } => json!({ "what": "abort", "xid": xid }),
        What::CommitPrepared { xid, time, gid } => {
            json!({ "what": "commit_prepared", "xid": xid, "gid": gid, "time": micros(*time) })
        }
        What::RollbackPrepared { xid, gid, .. } => {
            json!({ "what": "rollback_prepared", "xid": xid, "gid": gid, "time": null })
        }
        What::RestorePoint { name, .. } => {
            json!({ "what": "restore_point", "name": name, "end": event.end.to_string() })
        }
        What::Checkpoint { redo, timeline, next_xid, time, .. } => json!({
            "what": "checkpoint", "lsn": event.lsn.to_string(), "redo": redo.to_string(),
            "timeline": timeline, "next_xid": format!("{}:{}", next_xid >> 32, next_xid & 0xFFFF_FFFF),
            "time": micros(*time),
        }),
        other @ (What::EndOfRecovery { .. } | What::Running { .. }) => panic!("never told: {other:?}"),
        What::Parameters(parameters) => {
            let mut all = serde_json::to_value(parameters).unwrap();
            all["what"] = json!("parameters");
            all
        }
    }
}

/// The one client told of everything it did; the log holds that and nothing else.
#[test]
fn events_are_what_the_server_answered() {
    for recorded in recorded() {
        let told: Vec<Value> = recorded.truth["events"].as_array().unwrap().iter().map(of_event).collect();
        let read: Vec<Value> = events(&recorded).iter().map(said).collect();
        // The checkpoint that the recording begins with was before it.
        let first = read.iter().position(|event| *event == told[0]).expect("the first that was told");
        assert!(read[..first].iter().all(|event| event["what"] == "checkpoint"), "{:?}", &read[..first]);
        for (read, told) in read[first..].iter().zip(&told) {
            assert_eq!(read, told, "PostgreSQL {}", recorded.version);
        }
        assert_eq!(read.len() - first, told.len(), "PostgreSQL {}", recorded.version);
        assert!(told.len() > 30);
    }
}

/// Leaves out what only `pg_control` tells.
fn of_event(told: &Value) -> Value {
    let mut event = told.as_object().unwrap().clone();
    event.retain(|name, _| name != "system_identifier" && name != "data_checksums");
    Value::Object(event)
}

#[test]
fn decisions_are_read_from_images_of_every_form() {
    for recorded in recorded() {
        let mut decoder = Decoder::new(SEGMENT_BYTES, recorded.start);
        decoder.feed(&recorded.wal);
        let mut forms = std::collections::BTreeSet::new();
        while let Step::Record(record) = decoder.step().unwrap() {
            assert_eq!(record.version, recorded.version);
            forms.extend(record.blocks.iter().filter_map(|block| block.image).map(|image| image.packing));
        }
        let all = [
            ("off", Packing::Plain),
            ("pglz", Packing::Pglz),
            ("lz4", Packing::Lz4),
            ("zstd", Packing::Zstd),
        ];
        let told = recorded.truth["compressions"].as_array().unwrap();
        for (name, form) in all {
            let expected = told.iter().any(|told| told == name);
            assert_eq!(forms.contains(&form), expected, "PostgreSQL {}: {name}", recorded.version);
        }
    }
}

#[test]
fn the_servers_files_are_read() {
    for recorded in recorded() {
        let told = &recorded.truth["control"];
        let control = ControlFile::parse(&file(recorded.version, "pg_control")).unwrap();
        assert_eq!(control.system_identifier, told["system_identifier"].as_i64().unwrap().cast_unsigned());
        assert_eq!(control.checkpoint.to_string(), told["lsn"].as_str().unwrap());
        assert_eq!(control.redo.to_string(), told["redo"].as_str().unwrap());
        assert_eq!(json!(control.timeline), told["timeline"]);
        assert_eq!(json!(control.data_checksums), told["data_checksums"]);
        assert_eq!(control.segment_bytes, SEGMENT_BYTES);
        let events = events(&recorded);
        let of_wal = events.iter().rev().find_map(|event| match event.what {
            What::Parameters(parameters) => Some(parameters),
            _ => None,
        });
        assert_eq!(Some(control.parameters), of_wal);

        let open = twophase::parse(&file(recorded.version, "twophase"), recorded.version).unwrap();
        let left =
            recorded.truth["events"].as_array().unwrap().iter().find(|e| e["gid"] == "left-open").unwrap();
        assert_eq!((json!(open.xid), json!(open.database)), (left["xid"].clone(), left["database"].clone()));
        assert_eq!((open.gid.as_str(), micros(open.time)), ("left-open", left["time"].as_i64().unwrap()));
        let digits = if recorded.version >= Version::V17 { 16 } else { 8 };
        assert_eq!(recorded.truth["twophase"], format!("{:0digits$X}", open.xid));
    }
}
