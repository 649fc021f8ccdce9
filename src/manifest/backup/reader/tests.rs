//! Writer and reader against each other, and against damage.

use proptest::prelude::*;

use super::super::*;
use super::Ends;
use crate::manifest::Error;
use crate::moment::Moment;

fn head() -> Head {
    Head {
        version: VERSION,
        backup: "20261121t083000z-ab01".parse().unwrap(),
        cluster: "prod".parse().unwrap(),
        node: "worker1".parse().unwrap(),
        group: Some(GroupId(1)),
        system_identifier: "7400000000000000001".to_owned(),
        postgres_version: 150_018,
        segment_bytes: 16 << 20,
        timeline: TimelineId(1),
        start_lsn: Lsn(0x200_0028),
        started_at: Moment(1),
        data_checksums: true,
        tablespaces: vec![Tablespace { oid: 16385, location: "/mnt/fast".to_owned() }],
        goes_on: None,
    }
}

fn foot() -> Foot {
    Foot {
        stop_lsn: Lsn(0x200_0100),
        stopped_at: Moment(2),
        backup_label: "START WAL LOCATION: 0/2000028\n".to_owned(),
        tablespace_map: String::new(),
        files: 0,
        bytes: 0,
        read: 815,
        stored: 4711,
        packs: Vec::new(),
        bad_pages: Vec::new(),
        bad_pages_more: 0,
        prepared: Vec::new(),
        parameters: Parameters::default(),
        settings: Vec::new(),
        hba: Vec::new(),
        superuser: "postgres".to_owned(),
    }
}

fn file(path: &str, pack: &str, sizes: &[u32]) -> Entry {
    let extent = |len: &u32| Extent {
        pack: pack.into(),
        chunk: 0,
        at: 64,
        sealed: 99,
        offset: 0,
        len: *len,
        plain: *len,
        crc: 7,
    };
    let size = sizes.iter().map(|s| u64::from(*s)).sum();
    let kind = Kind::File { size, modified: 1_700_000_000, extents: sizes.iter().map(extent).collect() };
    Entry { path: path.to_owned(), kind, mode: 0o600 }
}

fn sample(entries: Vec<Entry>) -> Vec<u8> {
    let mut writer = ManifestWriter::new(&head(), 1000);
    let mut blocks = Vec::new();
    for entry in entries {
        writer.entry(entry).unwrap();
        blocks.extend(std::iter::from_fn(|| writer.next_block()));
    }
    blocks.extend(writer.finish(&foot()));
    assert!(blocks.iter().all(|block| block.len() <= 1000));
    // Both ends can be read alone.
    assert_eq!(read_line(&blocks[0]).unwrap(), Line::Head(head()));
    assert!(matches!(read_line(&blocks[blocks.len() - 1]).unwrap(), Line::Foot(_)));
    blocks.concat()
}

fn sample_entries() -> Vec<Entry> {
    vec![
        Entry { path: "pg_wal".to_owned(), kind: Kind::Folder, mode: 0o700 },
        file("base/1/1259", "3", &[8192, 100]),
        file("PG_VERSION", "20261120t083000z-ab01/17", &[3]),
        file("base/1/empty", "0", &[]),
    ]
}

fn read(bytes: &[u8], piece: usize) -> Result<Vec<Line>, Error> {
    let mut reader = ManifestReader::new();
    let mut lines = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        while let Some(line) = reader.next()? {
            lines.push(line);
        }
    }
    reader.finish().map(|()| lines)
}

#[test]
fn what_was_written_is_read_in_pieces_of_any_size() {
    let bytes = sample(sample_entries());
    for piece in [1, 7, 100, 1 << 20] {
        let lines = read(&bytes, piece).unwrap();
        let entries: Vec<_> = lines
            .iter()
            .filter_map(|l| if let Line::Entry(e) = l { Some(e.clone()) } else { None })
            .collect();
        assert_eq!(entries, sample_entries());
    }
    let Ends { head: begun, foot: ended } = ManifestReader::ends(&bytes).unwrap();
    assert_eq!(begun, head());
    assert_eq!((ended.files, ended.bytes, ended.stored), (3, 8295, 4711));
    assert_eq!(ended.packs, ["20261120t083000z-ab01/17", "3"]);
}

/// An incremental backup's file: pages of a new chunk between those of older ones.
#[test]
fn a_chunk_is_described_once_however_often_it_is_cut() {
    let extent = |pack: &str, chunk: u32, offset: u32| {
        let (at, sealed) = (u64::from(chunk) * 400_000 + 64, 400_000);
        let (len, plain, crc) = (8192, CHUNK_BYTES_MAX, 4_000_000_000 + chunk);
        Extent { pack: pack.into(), chunk, at, sealed, offset, len, plain, crc }
    };
    let older = |number: u32| extent("20261120t083000z-ab01/17", number / 100, number % 100 * 8192);
    let extents: Vec<Extent> = (0..40_000)
        .flat_map(|number| [older(number), extent("3", 2 + number / 128, number % 128 * 8192)])
        .collect();
    let kind = Kind::File { size: 80_000 * 8192, modified: 1, extents };
    let entry = Entry { path: "base/1/1259".to_owned(), kind, mode: 0o600 };
    let bytes = sample(vec![entry.clone()]);
    assert!(bytes.len() < 80_000 * 20, "{}", bytes.len());
    assert_eq!(read(&bytes, 1 << 20).unwrap()[1], Line::Entry(entry));
}

#[test]
fn extents_that_are_none_are_refused() {
    let text = String::from_utf8(sample(sample_entries())).unwrap();
    let good = r#""cuts":[0,0,8192,1,0,100]"#;
    for bad in ["0,0,8192,2,0,100", "0,0,8192,1,0", "0,0,8192,1,4294967295,100", "0,0,8192,1,0,101", ""] {
        let changed = text.replace(good, &format!(r#""cuts":[{bad}]"#));
        assert_ne!(changed, text, "{bad}");
        assert!(read(changed.as_bytes(), 100).is_err(), "{bad}");
    }
}

#[test]
fn what_is_cut_off_or_goes_on_is_refused() {
    let bytes = sample(sample_entries());
    for cut in 0..bytes.len() {
        assert!(ManifestReader::ends(&bytes[..cut]).is_err(), "{cut}");
    }
    for more in [&b" "[..], b"\n", &bytes] {
        assert!(ManifestReader::ends(&[&bytes, more].concat()).is_err());
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    for left_out in 0..lines.len() {
        if left_out == 1 {
            continue; // a folder is not counted
        }
        let kept: Vec<&[u8]> =
            lines.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, l)| *l).collect();
        assert!(ManifestReader::ends(&kept.concat()).is_err(), "{left_out}");
    }
}

#[test]
fn an_unknown_version_says_so() {
    let text = String::from_utf8(sample(Vec::new())).unwrap().replace("\"version\":3", "\"version\":4");
    assert!(matches!(read(text.as_bytes(), 100), Err(Error::Version { found: 4, known: 3, .. })));
}

#[test]
fn paths_stay_below_the_data_directory() {
    for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0"] {
        assert!(ManifestWriter::new(&head(), 1000).entry(file(bad, "1", &[1])).is_err(), "{bad:?}");
    }
    for pack in ["", "x", "-1", "+1", "a/b", "/1", "1/1/1", "99999999999"] {
        assert!(ManifestWriter::new(&head(), 1000).entry(file("a", pack, &[1])).is_err(), "{pack:?}");
    }
    assert!(ManifestWriter::new(&head(), 1000).entry(file("a", "1", &[CHUNK_BYTES_MAX + 1])).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(at in 0usize..2000, byte: u8, piece in 1usize..300) {
        let mut bytes = sample(sample_entries());
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let _ = read(&bytes, piece);
    }
}
