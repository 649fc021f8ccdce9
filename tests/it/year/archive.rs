//! A vault with as many days of WAL as one likes, none of which is stored: segments, indexes and samples of clocks
//! are made when they are asked for. Counts what is opened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use pitrus::ids::{BackupId, GroupId, NodeName};
use pitrus::lsn::Lsn;
use pitrus::manifest::backup::{Foot, Head, VERSION};
use pitrus::manifest::clock::{ClockDoc, Reference, Sample};
use pitrus::manifest::node::NodeDoc;
use pitrus::manifest::topology::{CitusDatabase, CitusNode, TopologyDoc};
use pitrus::moment::Moment;
use pitrus::seal::MasterKey;
use pitrus::timeline::TimelineId;
use pitrus::vault::{Access, ObjectName, Vault, WalName};
use pitrus::wal::event::{Open, Parameters};
use pitrus::wal::index::IndexBuilder;
use pitrus::zones::ZoneSet;

pub(super) const DAY: i64 = 86_400_000_000;
const HOUR: i64 = DAY / 24;
/// The clock of the node with number n is n times so far ahead.
pub(super) const AHEAD_MICROS: i64 = 3000;
const SAMPLE_EVERY: i64 = 10_000_000;
const SEGMENT_BYTES: u32 = 1 << 20;
const TIMELINE: TimelineId = TimelineId(1);
/// Commits in each segment.
const COMMITS: i64 = 4;
/// One past the last segment, whatever the archive's length.
const END: u64 = 2_000_000;
const CLUSTER: &str = "year";
const LEVEL: i32 = 1;

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) nodes: usize,
    pub(super) days: u64,
    pub(super) segments_a_day: u64,
}

pub(super) struct Archive {
    shape: Shape,
    store: Arc<Store>,
}

impl Archive {
    pub(super) async fn new(shape: Shape) -> Self {
        let store = Arc::new(Store {
            shape,
            real: InMemory::new(),
            vault: OnceLock::new(),
            opened: Mutex::default(),
        });
        let archive = Archive { shape, store };
        let vault = archive.vault().await;
        archive.store.vault.set(vault.clone()).expect("set once");
        let put = async |name: &ObjectName, plain: Vec<u8>| {
            vault.put(name, plain.into(), LEVEL).await.unwrap();
        };
        for number in 0..shape.nodes {
            put(&ObjectName::Node { node: node(number) }, serde_json::to_vec(&node_doc(number)).unwrap())
                .await;
            for day in 0..shape.days {
                let (head, foot) = shape.backup(number, day);
                vault.manifest(&head, LEVEL).unwrap().finish(&foot).await.unwrap();
            }
        }
        for day in (0..shape.days).step_by(30) {
            let doc = topology(shape.nodes, shape.start().plus_micros(DAY * day as i64 - DAY));
            put(&ObjectName::Topology { at: doc.recorded_at }, serde_json::to_vec(&doc).unwrap()).await;
        }
        archive
    }

    /// Opens it as somebody new.
    pub(super) async fn vault(&self) -> Vault {
        let store: Arc<dyn ObjectStore> = self.store.clone();
        let zones = ZoneSet::of_stores(vec![("a".parse().unwrap(), store)], 1).unwrap();
        let key = MasterKey::from_text(&"5a".repeat(32)).unwrap();
        Vault::open(zones, key, CLUSTER.parse().unwrap(), Access::Write).await.unwrap()
    }

    pub(super) fn start(&self) -> Moment {
        self.shape.start()
    }

    pub(super) fn end(&self) -> Moment {
        self.shape.time(END)
    }

    pub(super) fn forget(&self) {
        self.store.opened.lock().unwrap().clear();
    }

    /// Returns how many objects were opened, and in how many requests.
    pub(super) fn opened(&self) -> (usize, usize) {
        let opened = self.store.opened.lock().unwrap();
        (opened.len(), opened.values().sum())
    }
}

fn node(number: usize) -> NodeName {
    format!("node-{number}").parse().unwrap()
}

fn node_doc(number: usize) -> NodeDoc {
    NodeDoc {
        version: 1,
        cluster: CLUSTER.parse().unwrap(),
        node: node(number),
        group: Some(GroupId(number as i32)),
        system_identifier: "7".to_owned(),
        postgres_version: 150_015,
        segment_bytes: SEGMENT_BYTES,
        recorded_at: Moment(0),
    }
}

fn topology(nodes: usize, recorded_at: Moment) -> TopologyDoc {
    let row = |number: usize| CitusNode {
        node_id: number as i32 + 1,
        group: GroupId(number as i32),
        host: node(number).to_string(),
        port: 5432,
        role: "primary".to_owned(),
        is_active: true,
    };
    let nodes = (0..nodes).map(row).collect();
    let citus_version = Some("13.2".to_owned());
    TopologyDoc {
        version: 1,
        cluster: CLUSTER.parse().unwrap(),
        recorded_by: node(0),
        recorded_at,
        databases: vec![CitusDatabase { name: "app".to_owned(), oid: 16384, citus_version, nodes }],
    }
}

impl Shape {
    fn first(self) -> u64 {
        END - self.days * self.segments_a_day
    }

    fn start(self) -> Moment {
        self.time(self.first())
    }

    /// When a segment begins, by true time.
    fn time(self, segment: u64) -> Moment {
        let end: Moment = "2026-11-21T00:00:00Z".parse().unwrap();
        end.plus_micros(-((END - segment) as i64) * (DAY / self.segments_a_day as i64))
    }

    /// Returns the position that was written at this time.
    fn position(self, time: Moment) -> Lsn {
        let each = DAY / self.segments_a_day as i64;
        let since = time.micros_since(self.start()).max(0);
        Lsn((self.first() + (since / each) as u64) * u64::from(SEGMENT_BYTES) + 100)
    }

    fn backup(self, number: usize, day: u64) -> (Head, Foot) {
        let started_at = self.start().plus_micros(DAY * day as i64 + 2 * HOUR);
        let stopped_at = started_at.plus_micros(HOUR / 2);
        let head = Head {
            version: VERSION,
            backup: BackupId::new(started_at, [number as u8, 0]),
            cluster: CLUSTER.parse().unwrap(),
            node: node(number),
            group: Some(GroupId(number as i32)),
            system_identifier: "7".into(),
            postgres_version: 150_015,
            segment_bytes: SEGMENT_BYTES,
            timeline: TIMELINE,
            start_lsn: self.position(started_at),
            started_at,
            data_checksums: true,
            tablespaces: Vec::new(),
            goes_on: None,
        };
        let foot = Foot {
            stop_lsn: self.position(stopped_at),
            stopped_at,
            backup_label: String::new(),
            tablespace_map: String::new(),
            files: 0,
            bytes: 0,
            read: 0,
            stored: 0,
            packs: Vec::new(),
            bad_pages: Vec::new(),
            bad_pages_more: 0,
            prepared: Vec::new(),
            parameters: Parameters::default(),
            settings: Vec::new(),
            hba: Vec::new(),
            superuser: "postgres".into(),
        };
        (head, foot)
    }

    /// Makes a segment: a few commits, then the switch to the next one.
    fn segment(self, node: usize, number: u64) -> Vec<u8> {
        let start = number * u64::from(SEGMENT_BYTES);
        let mut bytes = Vec::new();
        // A long page header of PostgreSQL 15 (src/include/access/xlog_internal.h).
        bytes.extend(0xD110u16.to_le_bytes());
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(TIMELINE.0.to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(7u64.to_le_bytes());
        bytes.extend([SEGMENT_BYTES.to_le_bytes(), 8192u32.to_le_bytes()].concat());
        // Each segment is alike: the last record of the one before is its switch.
        let switch = 40 + COMMITS as u64 * 40;
        let mut previous = start - u64::from(SEGMENT_BYTES) + switch;
        let each = DAY / self.segments_a_day as i64 / COMMITS;
        for commit in 0..COMMITS {
            let own_time = self.time(number).plus_micros(each * commit + AHEAD_MICROS * node as i64);
            let body = [&[255, 8][..], &own_time.0.to_le_bytes()].concat();
            let at = start + bytes.len() as u64;
            bytes.extend(record((1, 0, 700), previous, &body));
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            previous = at;
        }
        assert_eq!(bytes.len() as u64, switch);
        bytes.extend(record((0, 0x40, 0), previous, &[]));
        bytes.resize(SEGMENT_BYTES as usize, 0);
        bytes
    }

    fn index(self, node: usize, number: u64) -> Vec<u8> {
        let start = Lsn(number * u64::from(SEGMENT_BYTES));
        let mut builder = IndexBuilder::new(TIMELINE, SEGMENT_BYTES, start, Open::default());
        builder.feed(&self.segment(node, number)).unwrap();
        let finished = builder.feed(&self.segment(node, number + 1)[..8192]).unwrap();
        serde_json::to_vec(&finished[0]).unwrap()
    }

    /// The samples of an hour.
    fn clock(self, number: usize, first: Moment) -> ClockDoc {
        let sample = |at: i64| {
            let at = first.plus_micros(at * SAMPLE_EVERY);
            let ahead_micros = AHEAD_MICROS * number as i64;
            Sample { at, ahead_micros, uncertain_micros: 100, lsn: Some(self.position(at)) }
        };
        let server = || Reference::Server("node-0:5432".to_owned());
        ClockDoc {
            version: 1,
            cluster: CLUSTER.parse().unwrap(),
            node: node(number),
            reference: if number == 0 { Reference::Own } else { server() },
            samples: (0..HOUR / SAMPLE_EVERY).map(sample).collect(),
        }
    }

    /// Names everything of a node that is made on demand.
    fn names(self, number: usize) -> impl Iterator<Item = ObjectName> {
        let segments = (self.first()..END).flat_map(move |segment| {
            let wal = WalName::new(TIMELINE, segment, SEGMENT_BYTES);
            [ObjectName::Segment { node: node(number), wal }, ObjectName::Index { node: node(number), wal }]
        });
        let hours = (0..self.days as i64 * 24).map(move |hour| {
            let first = self.start().plus_micros(hour * HOUR);
            ObjectName::Clock { node: node(number), first, last: first.plus_micros(HOUR - SAMPLE_EVERY) }
        });
        segments.chain(hours)
    }

    fn make(self, name: &ObjectName) -> Option<Vec<u8>> {
        let number = |node: &NodeName| node.as_str().strip_prefix("node-").unwrap().parse().unwrap();
        let segment = |wal: &WalName| wal.number(SEGMENT_BYTES);
        match name {
            ObjectName::Segment { node, wal } => Some(self.segment(number(node), segment(wal))),
            ObjectName::Index { node, wal } => Some(self.index(number(node), segment(wal))),
            ObjectName::Clock { node, first, .. } => {
                Some(serde_json::to_vec(&self.clock(number(node), *first)).unwrap())
            }
            _ => None,
        }
    }
}

/// Makes a record (`XLogRecord`) of a resource manager, with its operation and transaction.
fn record((manager, operation, xid): (u8, u8, u32), previous: u64, body: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend((24 + body.len() as u32).to_le_bytes());
    head.extend(xid.to_le_bytes());
    head.extend(previous.to_le_bytes());
    head.extend([operation, manager, 0, 0]);
    let sum = crc32c::crc32c_append(crc32c::crc32c(body), &head);
    head.extend(sum.to_le_bytes());
    [&head, body].concat()
}

#[derive(Debug)]
struct Store {
    shape: Shape,
    /// Documents and manifests.
    real: InMemory,
    vault: OnceLock<Vault>,
    /// How often each object was asked for.
    opened: Mutex<BTreeMap<String, usize>>,
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("made on demand")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Store {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.real.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.real.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        *self.opened.lock().unwrap().entry(at.to_string()).or_default() += 1;
        let vault = self.vault.get();
        let made = vault.and_then(|vault| {
            let name = ObjectName::parse(vault.cluster(), at.as_ref())?;
            let plain = self.shape.make(&name)?;
            let mut sealer = vault.sealer(&name, LEVEL).unwrap();
            sealer.chunk(&plain, true).unwrap();
            sealer.finish().ok()
        });
        let Some(made) = made else { return self.real.get_opts(at, options).await };
        let once = InMemory::new();
        once.put(at, PutPayload::from(made)).await?;
        once.get_opts(at, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.real.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut made = Vec::new();
        let of = |number: usize| format!("{CLUSTER}/nodes/node-{number}");
        for number in (0..self.shape.nodes).filter(|n| prefix.is_some_and(|p| p.as_ref() == of(*n))) {
            made.extend(self.shape.names(number).map(|name| {
                Ok(ObjectMeta {
                    location: Path::from(name.path(&CLUSTER.parse().unwrap())),
                    last_modified: Default::default(),
                    size: 1000,
                    e_tag: None,
                    version: None,
                })
            }));
        }
        self.real.list(prefix).chain(futures::stream::iter(made)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.real.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.real.copy_opts(from, to, options).await
    }
}
