//! A small restore, for these tests alone: files from a manifest, then PostgreSQL's own recovery.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pitrus::ids::BackupId;
use pitrus::lsn::Lsn;
use pitrus::manifest::backup::{Entry, Foot, Head, Kind, Line, ManifestReader, Pack};
use pitrus::seal::ChunkPlace;
use pitrus::vault::{ObjectName, WalName};

use super::site::Site;
use crate::world::Server;
use crate::world::server::free_port;

pub(super) struct Fetched {
    pub(super) head: Head,
    pub(super) entries: Vec<Entry>,
    pub(super) foot: Foot,
    data: PathBuf,
}

impl Fetched {
    /// Writes the files of a backup below `data`, those of its tablespaces below `spaces`.
    pub(super) async fn new(site: &Site, backup: &BackupId, data: &Path, spaces: &Path) -> Fetched {
        let (mut head, mut foot, mut entries) = (None, None, Vec::new());
        let name = ObjectName::Manifest { node: site.node.clone(), backup: backup.clone() };
        let mut reader = ManifestReader::new();
        reader.feed(&site.vault.get(&name).await.unwrap());
        while let Some(line) = reader.next().unwrap() {
            match line {
                Line::Head(line) => head = Some(line),
                Line::Entry(line) => entries.push(line),
                Line::Foot(line) => foot = Some(line),
            }
        }
        reader.finish().unwrap();
        let fetched = Fetched { head: head.unwrap(), entries, foot: foot.unwrap(), data: data.to_owned() };
        fetched.folders(spaces);
        fetched.files(site).await;
        fetched
    }

    fn folders(&self, spaces: &Path) {
        fs::create_dir_all(self.data.join("pg_tblspc")).unwrap();
        fs::set_permissions(&self.data, fs::Permissions::from_mode(0o700)).unwrap();
        for space in &self.head.tablespaces {
            symlink(spaces, self.data.join(format!("pg_tblspc/{}", space.oid))).unwrap();
        }
        for entry in self.entries.iter().filter(|entry| entry.kind == Kind::Folder) {
            let path = self.data.join(&entry.path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).unwrap();
        }
    }

    async fn files(&self, site: &Site) {
        type Pieces = Vec<(PathBuf, u64, usize)>;
        // By pack, so that each chunk is fetched once.
        let mut wanted: BTreeMap<(Pack, u32), Pieces> = BTreeMap::new();
        let mut places = BTreeMap::new();
        let mut extents = Vec::new();
        for entry in &self.entries {
            let Kind::File { size, extents: of_file, .. } = &entry.kind else { continue };
            let path = self.data.join(&entry.path);
            let file = fs::File::create_new(&path).unwrap();
            file.set_permissions(fs::Permissions::from_mode(entry.mode)).unwrap();
            let mut at = 0;
            for extent in of_file {
                let pack = Pack::named(&extent.pack, &self.head.backup).unwrap();
                let place = ChunkPlace { at: extent.at, sealed: extent.sealed, index: extent.chunk };
                places.insert((pack.clone(), extent.chunk), place);
                wanted.entry((pack, extent.chunk)).or_default().push((path.clone(), at, extents.len()));
                // Pages are looked for at multiples of their length, to be laid by column.
                let pages = size.is_multiple_of(8192);
                assert!(!pages || extent.offset.is_multiple_of(8192), "{}: {extent:?}", entry.path);
                extents.push(extent.clone());
                at += u64::from(extent.len);
            }
            assert_eq!(at, *size, "{}", entry.path);
        }
        for ((pack, chunk), pieces) in wanted {
            let place = places[&(pack.clone(), chunk)];
            let name = ObjectName::Pack { node: site.node.clone(), backup: pack.backup, number: pack.number };
            let plain = site.vault.get_chunk(&name, place, false).await.unwrap();
            for (path, at, number) in pieces {
                let extent = &extents[number];
                let bytes = &plain[extent.offset as usize..][..extent.len as usize];
                assert_eq!((crc32fast::hash(&plain), plain.len()), (extent.crc, extent.plain as usize));
                fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
            }
        }
    }

    /// Starts a server on the files; it recovers to `end` from the archived WAL.
    pub(super) async fn recover(&self, site: &Site, end: Lsn) -> Server {
        let wal = site.folder.folder("spool").unwrap();
        let Head { timeline, segment_bytes, start_lsn, .. } = self.head;
        for number in start_lsn.segment(segment_bytes)..=end.segment(segment_bytes) {
            let held = site.vault.segment_bytes(&site.node, timeline, number, segment_bytes).await.unwrap();
            if let Some(held) = held.filter(|held| held.complete) {
                let name = WalName::new(timeline, number, segment_bytes).to_string();
                fs::write(wal.join(name), &held.bytes).unwrap();
            }
        }
        let (port, socket) = (free_port().unwrap(), site.folder.folder("copy/s").unwrap());
        let conf = format!(
            "\nport = {port}\nunix_socket_directories = '{}'\nlisten_addresses = ''\n\
             restore_command = 'cp {}/%f %p'\nrecovery_target_action = promote\n",
            socket.display(),
            wal.display()
        );
        let path = self.data.join("postgresql.conf");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &conf).unwrap();
        fs::write(self.data.join("recovery.signal"), "").unwrap();
        fs::write(self.data.join("backup_label"), &self.foot.backup_label).unwrap();
        give_away(site, self.data.parent().unwrap());
        let mut server = Server::adopt(&site.folder, "copy", &self.data, &socket, port);
        server.start().unwrap();
        for _ in 0..600 {
            let recovering = server.value("postgres", "select pg_is_in_recovery()").await;
            if recovering.is_ok_and(|answer| answer.as_deref() == Some("f")) {
                return server;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the copy did not finish its recovery: {}", server.log_text());
    }
}

/// Makes everything below a folder the servers' user's own.
fn give_away(site: &Site, folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(site.folder.path()).unwrap();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        std::os::unix::fs::lchown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        if path.is_dir() && !path.is_symlink() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
