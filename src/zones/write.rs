//! Writing to a quorum.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ZoneSet;
use super::fault::{Error, Failure, Fault};
use super::store::Created;
use super::zone::{Begun, Zone};
use crate::class::Class;
use crate::retry::Backoff;

/// What a write found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Every zone that answered held it before.
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
            if round.new.len() + round.same >= wanted {
                resting.iter().for_each(|zone| zone.note_miss(name));
                return Ok(PutOutcome { already: round.new.is_empty() });
            }
            if round.new.len() + round.same + round.open < wanted {
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

    /// Deletes an object in every zone that answers; returns those that did not.
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
    new: Vec<Arc<Zone>>,
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
    /// The write was refused: what was just created must go.
    refused: Arc<AtomicBool>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.job.done.cancel();
    }
}

impl<'a> Round<'a> {
    fn new(set: &'a ZoneSet, name: &str, bytes: Bytes, judge: Judge) -> (Self, mpsc::Receiver<Reply>) {
        let (replies, receiver) = mpsc::channel(set.0.zones.len());
        let job = Job {
            name: name.into(),
            bytes,
            judge,
            done: CancellationToken::new(),
            refused: Arc::new(AtomicBool::new(false)),
        };
        let round = Round { set, job, replies, open: 0, new: Vec::new(), same: 0, failures: Vec::new() };
        (round, receiver)
    }

    fn send(&mut self, zone: &Arc<Zone>) {
        self.open += 1;
        let (zone, job, replies) = (zone.clone(), self.job.clone(), self.replies.clone());
        self.set.0.behind.spawn(async move {
            let reply = job.run(&zone).await;
            // Nobody listens once the quorum is reached.
            let _ = replies.try_send((zone, reply));
        });
    }

    async fn take(&mut self, zone: Arc<Zone>, reply: Result<Created, Stop>) -> Result<(), Error> {
        self.open -= 1;
        match reply {
            Ok(Created::New) => self.new.push(zone),
            Ok(Created::Exists) => self.same += 1,
            Err(Stop::Fault(fault)) => self.failures.push(Failure { zone: zone.name.clone(), fault }),
            Err(Stop::Clash) => {
                self.job.refused.store(true, Ordering::SeqCst);
                let undone = self.new.iter().map(|zone| zone.delete(&self.job.name));
                futures::future::join_all(undone).await;
                return Err(Error::Clash { name: self.job.name.to_string(), zone: zone.name.clone() });
            }
        }
        Ok(())
    }

    fn too_few(&mut self, wanted: usize) -> Error {
        Error::TooFew {
            name: self.job.name.to_string(),
            held: self.new.len() + self.same,
            wanted,
            failures: std::mem::take(&mut self.failures),
        }
    }
}

impl Job {
    /// Brings the object into one zone, and remembers it as missed where that fails.
    async fn run(&self, zone: &Zone) -> Result<Created, Stop> {
        let result = self.tries(zone).await;
        match &result {
            Ok(Created::New) if self.refused.load(Ordering::SeqCst) => {
                let _ = zone.delete(&self.name).await;
            }
            Ok(_) => zone.forget_miss(&self.name),
            Err(Stop::Clash) => tracing::warn!(zone = %zone.name, object = %self.name, "holds other bytes"),
            Err(Stop::Fault(_)) => zone.note_miss(&self.name),
        }
        result
    }

    async fn tries(&self, zone: &Zone) -> Result<Created, Stop> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut tried = 0;
        loop {
            tried += 1;
            let fault = match self.once(zone).await {
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

    async fn once(&self, zone: &Zone) -> Result<Created, Stop> {
        let permit = tokio::select! {
            biased;
            permit = zone.write_permit(self.bytes.len()) => permit.map_err(Stop::Fault)?,
            () = self.done.cancelled() => return Err(Stop::Fault(Fault::Busy)),
        };
        match zone.create(permit, &self.name, self.bytes.clone()).await.map_err(Stop::Fault)? {
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
