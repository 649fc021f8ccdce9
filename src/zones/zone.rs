//! One zone: its store, how it does, what it missed, and how much is under way to it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::{GetRange, ObjectMeta};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::fault::Fault;
use super::folder::State;
use super::store::{Created, SILENCE, Store};
use super::writing::{Writes, Writing};
use crate::clock;
use crate::ids::ZoneName;
use crate::moment::Moment;
use crate::retry::Backoff;

/// Bytes of writes under way to one zone, at most, and the share that each write takes at least.
const WRITES_BYTES_MAX: u64 = 64 << 20;
const WRITES_AT_ONCE: u64 = 64;
/// A permit stands for so many bytes.
const UNIT_BYTES: u64 = 64 << 10;
const READS_AT_ONCE: usize = 32;
/// A write may take this long, and as much again as its bytes need at [`SLOWEST_BYTES_PER_SECOND`].
const WRITE_LIMIT: Duration = Duration::from_secs(10);
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;
const READ_LIMIT: Duration = Duration::from_secs(600);
const SLOW_FOR: Duration = Duration::from_secs(30);
/// Names of missed objects that are remembered; beyond that, comparing lists finds them.
const MISSED_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct Zone {
    pub(super) name: ZoneName,
    store: Store,
    writes: Arc<Semaphore>,
    writing: Writes,
    reads: Arc<Semaphore>,
    health: Mutex<Health>,
    missed: Mutex<BTreeSet<String>>,
}

/// How a zone did when it was last used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneStatus {
    pub zone: ZoneName,
    /// Since when it fails; `None` while it works.
    pub failing_since: Option<Moment>,
    pub last_error: Option<String>,
    /// Objects of this process that are not in it yet.
    pub missed: usize,
}

/// Says whether a read has begun to be answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Health {
    failing_since: Option<Moment>,
    last_error: Option<String>,
    /// Reads go to other zones first until then.
    slow_until: Option<Instant>,
    /// While it fails: when it may be tried again.
    next_try: Instant,
    backoff: Backoff,
}

impl Zone {
    pub(super) fn new(name: ZoneName, store: Store) -> Self {
        Zone {
            name,
            store,
            writes: Arc::new(Semaphore::new((WRITES_BYTES_MAX / UNIT_BYTES) as usize)),
            writing: Writes::default(),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            health: Mutex::new(Health {
                failing_since: None,
                last_error: None,
                slow_until: None,
                next_try: Instant::now(),
                backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            }),
            missed: Mutex::default(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> ZoneStatus {
        let health = self.health();
        ZoneStatus {
            zone: self.name.clone(),
            failing_since: health.failing_since,
            last_error: health.last_error.clone(),
            missed: self.missed().len(),
        }
    }

    /// Returns how little a read should begin here: zones that fail last, slow ones before those.
    pub(super) fn reluctance(&self) -> u8 {
        let health = self.health();
        match (health.failing_since, health.slow_until) {
            (Some(_), _) => 2,
            (None, Some(until)) if until > Instant::now() => 1,
            _ => 0,
        }
    }

    /// Remembers that others were asked because this zone did not begin to answer.
    pub(super) fn note_slow(&self) {
        self.health().slow_until = Some(Instant::now() + SLOW_FOR);
    }

    /// Returns whether a write should go here now: the zone works, or it is time to try it again (and
    /// then this call is the one that tries).
    pub(super) fn wants_work(&self) -> bool {
        let mut health = self.health();
        if health.failing_since.is_none() {
            return true;
        }
        let due = health.next_try <= Instant::now();
        if due {
            let wait = health.backoff.wait();
            health.next_try = Instant::now() + wait;
        }
        due
    }

    pub(super) fn note_miss(&self, name: &str) {
        let mut missed = self.missed();
        if missed.len() < MISSED_MAX {
            missed.insert(name.to_owned());
        }
    }

    pub(super) fn forget_miss(&self, name: &str) {
        self.missed().remove(name);
    }

    pub(super) fn misses(&self) -> Vec<String> {
        self.missed().iter().cloned().collect()
    }

    /// Remembers how an operation went. Absence and damage of one object say nothing of the zone.
    fn note<T>(&self, result: &Result<T, Fault>) {
        let mut health = self.health();
        match result {
            Ok(_) | Err(Fault::NotFound) => {
                if let Some(since) = health.failing_since.take() {
                    tracing::info!(zone = %self.name, %since, "zone works again");
                    health.backoff.reset();
                }
            }
            Err(Fault::Damaged(_) | Fault::Huge(_) | Fault::Busy | Fault::Resting | Fault::Stopped) => {}
            Err(fault) => {
                let text = super::fault::chain(fault);
                if health.failing_since.is_none() {
                    tracing::warn!(zone = %self.name, error = text, "zone fails; the others go on");
                    health.failing_since = Some(clock::now());
                    let wait = health.backoff.wait();
                    health.next_try = Instant::now() + wait;
                }
                health.last_error = Some(text);
            }
        }
    }

    /// Runs one operation within `limit`. The permit is kept until it really ends: a blocked system
    /// call cannot be stopped, and a zone full of those gets no more.
    async fn run<T: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        limit: Duration,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        let task = tokio::spawn(async move {
            let result = work.await;
            drop(permit);
            result
        });
        let joined = if self.store.can_abort() {
            tokio::time::timeout(limit, AbortOnDropHandle::new(task)).await
        } else {
            tokio::time::timeout(limit, task).await
        };
        let result = match joined {
            Ok(joined) => joined.unwrap_or(Err(Fault::Stopped)),
            Err(_) => Err(Fault::Slow(limit)),
        };
        self.note(&result);
        result
    }

    /// Waits for room for a write of so many bytes.
    pub(super) async fn write_permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let least = WRITES_BYTES_MAX / UNIT_BYTES / WRITES_AT_ONCE;
        let units = (bytes as u64).div_ceil(UNIT_BYTES).clamp(least, WRITES_BYTES_MAX / UNIT_BYTES);
        let units = u32::try_from(units).expect("at most a few thousand");
        self.writes.clone().acquire_many_owned(units).await.map_err(|_| Fault::Stopped)
    }

    async fn read_permit(&self) -> Result<OwnedSemaphorePermit, Fault> {
        match tokio::time::timeout(SILENCE, self.reads.clone().acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| Fault::Stopped),
            Err(_) => Err(Fault::Busy),
        }
    }

    /// Notes that an object is about to be written here; deleting it waits until this is dropped.
    pub(super) fn begin_write(&self, name: &Arc<str>) -> Arc<Writing> {
        self.writing.begin(name)
    }

    pub(super) async fn create(
        &self,
        permit: OwnedSemaphorePermit,
        writing: Arc<Writing>,
        bytes: Bytes,
    ) -> Result<Created, Fault> {
        let (store, limit) = (self.store.clone(), write_limit(bytes.len()));
        self.run(permit, limit, async move { store.create(&writing.name, bytes).await }).await
    }

    pub(super) async fn replace(
        &self,
        permit: OwnedSemaphorePermit,
        writing: Arc<Writing>,
        bytes: Bytes,
    ) -> Result<(), Fault> {
        let (store, limit) = (self.store.clone(), write_limit(bytes.len()));
        self.run(permit, limit, async move { store.replace(&writing.name, bytes).await }).await
    }

    pub(super) async fn state(&self) -> Result<State, Fault> {
        let permit = self.read_permit().await?;
        let store = self.store.clone();
        self.run(permit, 2 * SILENCE, async move { store.state().await }).await
    }

    pub(super) async fn mark(&self) -> Result<(), Fault> {
        self.store.mark().await
    }

    pub(super) async fn sweep_leftovers(&self) -> u64 {
        match self.store.sweep_leftovers().await {
            Ok(swept) => swept,
            Err(fault) => {
                tracing::debug!(zone = %self.name, error = super::fault::chain(&fault), "leftovers stay");
                0
            }
        }
    }

    pub(super) async fn confirm(&self, name: &str) -> Result<(), Fault> {
        let permit = self.write_permit(0).await?;
        let (store, name) = (self.store.clone(), name.to_owned());
        self.run(permit, WRITE_LIMIT, async move { store.confirm(&name).await }).await
    }

    /// Deletes an object, once nobody here writes it any more.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Fault> {
        if tokio::time::timeout(WRITE_LIMIT + SILENCE, self.writing.ended(name)).await.is_err() {
            return Err(Fault::Busy);
        }
        self.forget_miss(name);
        self.undo(name).await
    }

    /// Deletes what a write has just created, whoever else is trying to.
    pub(super) async fn undo(&self, name: &str) -> Result<(), Fault> {
        let permit = match tokio::time::timeout(SILENCE, self.write_permit(0)).await {
            Ok(permit) => permit?,
            Err(_) => return Err(Fault::Busy),
        };
        let (store, name) = (self.store.clone(), name.to_owned());
        self.run(permit, WRITE_LIMIT, async move { store.delete(&name).await }).await
    }

    pub(super) async fn get(
        &self,
        name: &str,
        range: Option<GetRange>,
        begun: Begun,
    ) -> Result<Bytes, Fault> {
        let permit = self.read_permit().await?;
        let (store, name) = (self.store.clone(), name.to_owned());
        let limit = if self.store.can_abort() { READ_LIMIT } else { 6 * SILENCE };
        self.run(permit, limit, async move { store.get(&name, range, &begun).await }).await
    }

    pub(super) async fn size(&self, name: &str) -> Result<u64, Fault> {
        let permit = self.read_permit().await?;
        let (store, name) = (self.store.clone(), name.to_owned());
        self.run(permit, 2 * SILENCE, async move { store.size(&name).await }).await
    }

    pub(super) async fn folders(&self, prefix: &str) -> Result<Vec<String>, Fault> {
        let permit = self.read_permit().await?;
        let (store, prefix) = (self.store.clone(), prefix.to_owned());
        self.run(permit, 2 * SILENCE, async move { store.folders(&prefix).await }).await
    }

    /// Lists all objects below `prefix`.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>, Fault> {
        let permit = self.read_permit().await?;
        let (store, prefix) = (self.store.clone(), prefix.to_owned());
        self.run(permit, READ_LIMIT, async move {
            let mut found = Vec::new();
            store.list(&prefix, |name, meta| found.push((name, meta))).await?;
            Ok(found)
        })
        .await
    }
}

fn write_limit(bytes: usize) -> Duration {
    WRITE_LIMIT + Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_SECOND)
}
