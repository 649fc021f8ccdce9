//! A store made of `pg_basebackup` copies and a folder of archived WAL: a restore without a vault.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use pitrus::ids::{BackupId, NodeName};
use pitrus::lsn::Lsn;
use pitrus::manifest::backup::{
    Ends, Entry, Extent, Foot, Head, Kind, Line, ManifestReader, Pack, Setting, Tablespace, VERSION,
};
use pitrus::moment::Moment;
use pitrus::restore::{Error, Store};
use pitrus::seal::ChunkPlace;
use pitrus::timeline::TimelineId;
use pitrus::wal::event::Parameters;
use pitrus::wal::segment::Segment;

use crate::world::{self, Folder, Server};

const CHUNK: usize = 1 << 20;

/// What is kept of one server.
pub(super) struct Copy {
    node: NodeName,
    folder: PathBuf,
    wal: PathBuf,
    settings: Vec<Setting>,
    /// Names and paths, folders before what is in them.
    files: Vec<(String, PathBuf)>,
    tablespaces: Vec<Tablespace>,
    fails: AtomicBool,
}

#[derive(Clone)]
pub(super) struct Copies(pub(super) Arc<Vec<Copy>>);

impl Copy {
    /// Takes a base backup. The server archives to the folder that [`archive`] names.
    pub(super) async fn take(world: &Folder, server: &Server) -> Copy {
        let folder = world.folder(&format!("{}/copy", server.name)).unwrap();
        let bin = world::bin_dir().unwrap();
        let mut command = world.command(&bin.join("pg_basebackup"));
        command.args(["-X", "none", "-c", "fast", "-U", "postgres", "-h"]).arg(&server.socket);
        command.args(["-p", &server.port.to_string(), "-D"]).arg(folder.join("data"));
        let moved = server.value(
            "postgres",
            "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'side'",
        );
        let mut tablespaces = Vec::new();
        if let Some(location) = moved.await.unwrap() {
            command.arg("-T").arg(format!("{location}={}", folder.join("side").display()));
            let oid = server.value("postgres", "select oid from pg_tablespace where spcname = 'side'").await;
            let oid = oid.unwrap().unwrap().parse().unwrap();
            tablespaces.push(Tablespace { oid, location });
        }
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let query = "select name, current_setting(name) from pg_settings
                     where source not in ('default', 'override', 'client', 'session')";
        let rows = server.connect("postgres").await.unwrap().query(query, &[]).await.unwrap();
        let settings = rows.iter().map(|row| Setting { name: row.get(0), value: row.get(1) }).collect();
        let mut files = Vec::new();
        walk(&folder.join("data"), &folder.join("data"), &mut files);
        Copy {
            node: server.name.parse().unwrap(),
            wal: archive(world, &server.name),
            folder: folder.join("data"),
            settings,
            files,
            tablespaces,
            fails: AtomicBool::new(false),
        }
    }

    fn manifest(&self, backup: &BackupId) -> Vec<u8> {
        let mut text = Vec::new();
        for line in self.lines(backup) {
            serde_json::to_writer(&mut text, &line).unwrap();
            text.push(b'\n');
        }
        text
    }

    fn lines(&self, backup: &BackupId) -> Vec<Line> {
        let mut lines = vec![Line::Head(Head {
            version: VERSION,
            backup: backup.clone(),
            cluster: "old".parse().unwrap(),
            node: self.node.clone(),
            group: None,
            system_identifier: "1".into(),
            postgres_version: world::version_num().unwrap(),
            segment_bytes: 1 << 24,
            timeline: TimelineId(1),
            start_lsn: Lsn(0),
            started_at: Moment(0),
            data_checksums: false,
            tablespaces: self.tablespaces.clone(),
            goes_on: None,
        })];
        let (mut files, mut total, mut packs) = (0, 0, Vec::new());
        for (number, (name, path)) in self.files.iter().enumerate() {
            let kind = if path.is_dir() {
                Kind::Folder
            } else {
                let bytes = std::fs::read(path).unwrap();
                files += 1;
                total += bytes.len() as u64;
                if !bytes.is_empty() {
                    packs.push(number.to_string());
                }
                Kind::File { size: bytes.len() as u64, modified: 0, extents: extents(number, &bytes) }
            };
            let mode = if path.is_dir() { 0o700 } else { 0o600 };
            lines.push(Line::Entry(Entry { path: name.clone(), kind, mode }));
        }
        packs.sort();
        lines.push(Line::Foot(Foot {
            stop_lsn: Lsn(0),
            stopped_at: Moment(0),
            backup_label: std::fs::read_to_string(self.folder.join("backup_label")).unwrap(),
            tablespace_map: String::new(),
            files,
            bytes: total,
            read: 0,
            stored: 0,
            packs,
            bad_pages: Vec::new(),
            bad_pages_more: 0,
            prepared: Vec::new(),
            parameters: Parameters::default(),
            settings: self.settings.clone(),
            hba: vec!["local all all trust".into()],
            superuser: "postgres".into(),
        }));
        lines
    }
}

/// Returns the folder to which a server archives.
pub(super) fn archive(world: &Folder, name: &str) -> PathBuf {
    world.folder("archive").unwrap();
    world.folder(&format!("archive/{name}")).unwrap()
}

fn extents(number: usize, bytes: &[u8]) -> Vec<Extent> {
    let extent = |(chunk, bytes): (usize, &[u8])| Extent {
        pack: number.to_string().into(),
        chunk: chunk as u32,
        at: (chunk * CHUNK) as u64,
        sealed: bytes.len() as u32,
        offset: 0,
        len: bytes.len() as u32,
        plain: bytes.len() as u32,
        crc: crc32fast::hash(bytes),
    };
    bytes.chunks(CHUNK).enumerate().map(extent).collect()
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        found.push((name, path.clone()));
        if path.is_dir() {
            walk(root, &path, found);
        }
    }
}

impl Copies {
    /// Makes a node's copy fail, or work again, where its larger files are read.
    pub(super) fn fail(&self, node: &str, fail: bool) {
        let copy = self.0.iter().find(|copy| copy.node.as_str() == node).unwrap();
        copy.fails.store(fail, Ordering::Relaxed);
    }

    fn of(&self, node: &NodeName) -> &Copy {
        self.0.iter().find(|copy| copy.node == *node).unwrap()
    }
}

impl Store for Copies {
    async fn manifest(
        &self,
        node: &NodeName,
        backup: &BackupId,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let text = Bytes::from(self.of(node).manifest(backup));
        let blocks =
            (0..text.len()).step_by(1000).map(move |at| Ok(text.slice(at..text.len().min(at + 1000))));
        Ok(futures::stream::iter(blocks).boxed())
    }

    async fn ends(&self, node: &NodeName, backup: &BackupId) -> Result<Ends, Error> {
        Ok(ManifestReader::ends(&self.of(node).manifest(backup)).unwrap())
    }

    async fn chunks(
        &self,
        node: &NodeName,
        pack: &Pack,
        places: Arc<[ChunkPlace]>,
        take: impl Fn(usize, &[u8]) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let (_, path) = &self.of(node).files[pack.number as usize];
        let bytes = std::fs::read(path).unwrap();
        if bytes.len() > 100_000 && self.of(node).fails.load(Ordering::Relaxed) {
            return Err(Error::Lost("a file of the copy"));
        }
        places.iter().enumerate().try_for_each(|(number, place)| {
            let from = place.index as usize * CHUNK;
            take(number, &bytes[from..bytes.len().min(from + CHUNK)])
        })
    }

    async fn segment(&self, node: &NodeName, segment: Segment, _: u32) -> Result<Option<Bytes>, Error> {
        let path = self.of(node).wal.join(segment.file_name(1 << 24));
        Ok(std::fs::read(path).ok().map(Bytes::from))
    }

    async fn history(&self, node: &NodeName, timeline: TimelineId) -> Result<Option<Bytes>, Error> {
        let path = self.of(node).wal.join(format!("{:08X}.history", timeline.0));
        Ok(std::fs::read(path).ok().map(Bytes::from))
    }
}
