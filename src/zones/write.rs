//! Writing to a quorum.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ZoneSet;
use super::fault::{Error, Failure, Fault};
use super::store::Created;
use super::writing::Writing;
use super::zone::{Begun, Zone};
use crate::class::Class;
use crate::retry::Backoff;

/// What a write found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// A zone held it before: always so where a quorum did, though the zones beyond it may be written only now.
    pub already: bool,
}

/// What the bytes that a zone already holds are, compared with those to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Other,
    /// They cannot have been written by anyone: this zone does not count, and is repaired.
    Damaged(String),
}

/// Judges what a zone already holds under the name. May block: it runs on a thread for that.
pub type Judge = Arc<dyn Fn(&crate::ids::ZoneName, &Bytes) -> Verdict + Send + Sync>;

/// After so long without a quorum, zones that rest are asked as well.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 3;

impl ZoneSet {
    /// Creates an object. Done when a quorum holds these very bytes, whoever wrote them.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error> {
        let ours = bytes.clone();
        let judge: Judge =
            Arc::new(move |_, found| if *found == ours { Verdict::Same } else { Verdict::Other });
        self.put_judged(name, bytes, judge).await
    }

    /// Creates an object; where a zone holds one of that name, `judge` says what it is.
    pub async fn put_judged(&self, name: &str, bytes: Bytes, judge: Judge) -> Result<PutOutcome, Error> {
        let wanted = self.0.write_quorum;
        let (mut round, mut replies) = Round::new(self, name, bytes, judge);
        let (first, mut resting): (Vec<_>, Vec<_>) = self.0.zones.iter().partition(|zone| zone.wants_work());
        first.into_iter().for_each(|zone| round.send(zone));
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            if round.new + round.same >= wanted {
                resting.iter().for_each(|zone| zone.note_miss(name));
                return Ok(PutOutcome { already: round.same > 0 });
            }
            if round.new + round.same + round.open < wanted {
                resting.drain(..).for_each(|zone| round.send(zone));
            }
            if round.open == 0 {
                return Err(round.too_few(wanted));
            }
            tokio::select! {
                Some((zone, reply)) = replies.recv() => round.take(zone, reply).await?,
                () = &mut patience, if !resting.is_empty() => {
                    resting.drain(..).for_each(|zone| round.send(zone));
                }
            }
        }
    }

    /// Deletes an object in every zone that answers, after the writes of it that are still under way;
    /// returns the zones that did not.
    pub async fn delete(&self, name: &str) -> Result<Vec<Failure>, Error> {
        let tried = self.0.zones.iter().map(|zone| async move { (zone, zone.delete(name).await) });
        let mut failures = Vec::new();
        for (zone, result) in futures::future::join_all(tried).await {
            if let Err(fault) = result {
                failures.push(Failure { zone: zone.name.clone(), fault });
            }
        }
        if failures.len() == self.0.zones.len() {
            return Err(Error::TooFew { name: name.to_owned(), held: 0, wanted: 1, failures });
        }
        Ok(failures)
    }
}

type Reply = (Arc<Zone>, Result<Created, Stop>);

/// Why one zone's part of a write ended without its bytes.
enum Stop {
    Clash,
    Fault(Fault),
}

/// One object on its way to all zones.
struct Round<'a> {
    set: &'a ZoneSet,
    job: Job,
    replies: mpsc::Sender<Reply>,
    /// Zones whose reply is awaited.
    open: usize,
    new: usize,
    same: usize,
    failures: Vec<Failure>,
}

/// What the task of one zone needs.
#[derive(Clone)]
struct Job {
    name: Arc<str>,
    bytes: Bytes,
    judge: Judge,
    /// The caller waits no longer: who has not begun need not begin.
    done: CancellationToken,
    traces: Arc<Mutex<Traces>>,
}

/// Where a write has created its object. Once it is refused, all of them take it back, each once: a second
/// time could delete what another writer has put there since.
#[derive(Default)]
struct Traces {
    zones: Vec<Arc<Zone>>,
    refused: bool,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.job.done.cancel();
    }
}

impl<'a> Round<'a> {
    fn new(set: &'a ZoneSet, name: &str, bytes: Bytes, judge: Judge) -> (Self, mpsc::Receiver<Reply>) {
        let (replies, receiver) = mpsc::channel(set.0.zones.len());
        let job =
            Job { name: name.into(), bytes, judge, done: CancellationToken::new(), traces: Arc::default() };
        let round = Round { set, job, replies, open: 0, new: 0, same: 0, failures: Vec::new() };
        (round, receiver)
    }

    fn send(&mut self, zone: &Arc<Zone>) {
        self.open += 1;
        let (zone, job, replies) = (zone.clone(), self.job.clone(), self.replies.clone());
        let writing = zone.begin_write(&job.name);
        self.set.0.behind.spawn(async move {
            let reply = job.run(&zone, &writing).await;
            // Nobody listens once the quorum is reached.
            let _ = replies.try_send((zone, reply));
        });
    }

    async fn take(&mut self, zone: Arc<Zone>, reply: Result<Created, Stop>) -> Result<(), Error> {
        self.open -= 1;
        match reply {
            Ok(Created::New) => self.new += 1,
            Ok(Created::Exists) => self.same += 1,
            Err(Stop::Fault(fault)) => self.failures.push(Failure { zone: zone.name.clone(), fault }),
            Err(Stop::Clash) => {
                let name = self.job.name.clone();
                let created = self.job.refuse();
                let undone = async move {
                    futures::future::join_all(created.iter().map(|zone| zone.undo(&name))).await;
                };
                // A caller who waits no longer must not leave it half done.
                let _ = self.set.0.behind.spawn(undone).await;
                return Err(Error::Clash { name: self.job.name.to_string(), zone: zone.name.clone() });
            }
        }
        Ok(())
    }

    fn too_few(&mut self, wanted: usize) -> Error {
        Error::TooFew {
            name: self.job.name.to_string(),
            held: self.new + self.same,
            wanted,
            failures: std::mem::take(&mut self.failures),
        }
    }
}

impl Job {
    fn traces(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses the write; returns where it must be taken back.
    fn refuse(&self) -> Vec<Arc<Zone>> {
        let mut traces = self.traces();
        traces.refused = true;
        std::mem::take(&mut traces.zones)
    }

    /// Notes that the object was created in a zone; returns whether it may stay.
    fn note_created(&self, zone: &Arc<Zone>) -> bool {
        let mut traces = self.traces();
        if !traces.refused {
            traces.zones.push(zone.clone());
        }
        !traces.refused
    }

    /// Brings the object into one zone, and remembers it as missed where that fails.
    async fn run(&self, zone: &Arc<Zone>, writing: &Arc<Writing>) -> Result<Created, Stop> {
        let result = self.tries(zone, writing).await;
        match &result {
            Ok(Created::New) if !self.note_created(zone) => {
                let _ = zone.undo(&self.name).await;
            }
            Ok(_) => zone.forget_miss(&self.name),
            Err(Stop::Clash) => tracing::warn!(zone = %zone.name, object = %self.name, "holds other bytes"),
            Err(Stop::Fault(_)) => zone.note_miss(&self.name),
        }
        result
    }

    async fn tries(&self, zone: &Zone, writing: &Arc<Writing>) -> Result<Created, Stop> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut tried = 0;
        loop {
            tried += 1;
            let fault = match self.once(zone, writing).await {
                Err(Stop::Fault(fault)) => fault,
                other => return other,
            };
            // One that hung once will hang again; the others do not wait for it.
            let again = fault.class() == Class::Transient && !matches!(fault, Fault::Slow(_) | Fault::Busy);
            if !again || tried == TRIES {
                return Err(Stop::Fault(fault));
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    async fn once(&self, zone: &Zone, writing: &Arc<Writing>) -> Result<Created, Stop> {
        let permit = tokio::select! {
            biased;
            permit = zone.write_permit(self.bytes.len()) => permit.map_err(Stop::Fault)?,
            () = self.done.cancelled() => return Err(Stop::Fault(Fault::Busy)),
        };
        match zone.create(permit, writing.clone(), self.bytes.clone()).await.map_err(Stop::Fault)? {
            Created::New => Ok(Created::New),
            Created::Exists => self.compare(zone).await,
        }
    }

    /// An object of that name exists: ours, after a lost reply or a crash, or another's.
    async fn compare(&self, zone: &Zone) -> Result<Created, Stop> {
        let found = zone.get(&self.name, None, Begun::default()).await.map_err(Stop::Fault)?;
        let (judge, its_name) = (self.judge.clone(), zone.name.clone());
        let verdict = tokio::task::spawn_blocking(move || judge(&its_name, &found)).await;
        match verdict {
            Ok(Verdict::Same) => {
                zone.confirm(&self.name).await.map_err(Stop::Fault)?;
                Ok(Created::Exists)
            }
            Ok(Verdict::Other) => Err(Stop::Clash),
            Ok(Verdict::Damaged(problem)) => Err(Stop::Fault(Fault::Damaged(problem))),
            Err(_) => Err(Stop::Fault(Fault::Stopped)),
        }
    }
}
