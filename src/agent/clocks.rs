//! Compares the node's clock with the coordinator's about every ten seconds, and stores what it finds.
//!
//! both servers are asked -> a sample -> the document of this hour -> every minute a longer object of it,
//! which replaces the one before
//!
//! Two servers are compared, and this machine's clock only measures the time between the answers. A coordinator
//! that cannot be reached is said once in the log and always in the status; nothing else waits for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::status::ClockLine;
use super::{Error, Post, blocking};
use crate::archive::Mishap;
use crate::class::Classified;
use crate::clock;
use crate::ids::NodeName;
use crate::manifest::clock::{ClockDoc, Reference, Sample};
use crate::manifest::{self, Document};
use crate::moment::Moment;
use crate::node::ConnectionOptions;
use crate::node::clock::ServerClock;
use crate::node::topology::{self, Seat};
use crate::retry::Backoff;
use crate::vault::ObjectName;

const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const SAMPLE_WITHIN: Duration = Duration::from_secs(8);
/// How often each server is asked for one sample: the quickest answer counts.
const ASKED: usize = 5;
/// Between tries where it cannot be reached: its log says each.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The coordinator may move to another address.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What the death of the node and its disk can lose: until the sample before, the clock is known.
const STORE_EVERY: Duration = Duration::from_secs(60);
const STORE_WITHIN: Duration = Duration::from_secs(10);
/// An object tells of about an hour.
const SAMPLES_EACH: usize = 360;
/// While nothing can be stored, a day is kept.
const SAMPLES_MAX: usize = 8640;
/// zstd level.
const LEVEL: i32 = 3;

/// What was found and is not yet put away for good.
#[derive(Default)]
pub(super) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    doc: Option<ClockDoc>,
    /// The object that has the document so far.
    stored: Option<(ObjectName, Instant)>,
}

/// The two servers that are compared.
struct Pair {
    own: ServerClock,
    /// `None`: the node is the reference.
    other: Option<(String, ServerClock)>,
    looked: Instant,
}

/// Samples and stores until dropped.
pub(super) async fn keep(post: &Post, book: &Book, tell: &watch::Sender<ClockLine>) {
    let mut pair: Option<Pair> = None;
    let mut backoff = Backoff::new(SAMPLE_EVERY, LONGEST_WAIT);
    loop {
        let mut wait = SAMPLE_EVERY;
        let sampled = match timeout(SAMPLE_WITHIN, sample(post, &mut pair)).await {
            Ok(sampled) => sampled,
            Err(_) => Err(Error::SlowClock { seconds: SAMPLE_WITHIN.as_secs() }),
        };
        match sampled {
            Ok(Some((reference, sample))) => {
                if book.is_of_other(&reference) {
                    book.store(post, tell).await;
                }
                book.add(post, reference.clone(), sample);
                took(tell, reference, &sample);
                backoff.reset();
            }
            Ok(None) => tell.send_modify(|line| line.reference = None),
            Err(error) => {
                pair = None;
                wait = wait.max(backoff.wait());
                let what = "the clock could not be compared with the coordinator's";
                failed(tell, |line| &mut line.last_error, &error, what);
            }
        }
        if book.is_due() {
            book.store(post, tell).await;
        }
        sleep(wait).await;
    }
}

fn took(tell: &watch::Sender<ClockLine>, reference: Reference, sample: &Sample) {
    tell.send_modify(|line| {
        if line.last_error.take().is_some() {
            tracing::info!("the clock is compared with the coordinator's again");
        }
        line.reference = Some(reference);
        line.sampled_at = Some(sample.at);
        line.ahead_micros = sample.ahead_micros;
        line.uncertain_micros = sample.uncertain_micros;
    });
}

/// Says a failure once in the log, until it is over.
fn failed(
    tell: &watch::Sender<ClockLine>,
    of: impl FnOnce(&mut ClockLine) -> &mut Option<Mishap>,
    error: &Error,
    what: &str,
) {
    let why = Mishap::now(error);
    tell.send_modify(|line| {
        let said = of(line);
        if said.is_none() {
            tracing::warn!(error = why.text, hint = error.hint(), "{what}");
        }
        *said = Some(why);
    });
}

/// Takes a sample; `None` where nobody is known to compare with.
async fn sample(post: &Post, pair: &mut Option<Pair>) -> Result<Option<(Reference, Sample)>, Error> {
    if pair.as_ref().is_none_or(|pair| pair.looked.elapsed() > LOOK_EVERY) {
        *pair = look(post, pair.take()).await?;
    }
    let Some(Pair { own, other, .. }) = pair else { return Ok(None) };
    let Some((address, other)) = other else {
        let here = own.read(1).await?;
        let sample = Sample { at: here.shown, ahead_micros: 0, uncertain_micros: 0, lsn: here.lsn };
        return Ok(Some((Reference::Own, sample)));
    };
    let there = other.read(ASKED).await?;
    let here = own.read(ASKED).await?;
    let ahead = here.ahead_of(&there);
    let sample = Sample {
        at: here.shown.plus_micros(ahead.micros.saturating_neg()),
        ahead_micros: ahead.micros,
        uncertain_micros: ahead.uncertain,
        lsn: here.lsn,
    };
    Ok(Some((Reference::Server(address.clone()), sample)))
}

/// Finds whom to compare with; connections that still serve are kept.
async fn look(post: &Post, known: Option<Pair>) -> Result<Option<Pair>, Error> {
    let Some((address, options, database)) = reference(post).await? else { return Ok(None) };
    let looked = Instant::now();
    if let Some(known) = known
        && known.other.as_ref().map(|(its, _)| its) == address.as_ref()
    {
        return Ok(Some(Pair { looked, ..known }));
    }
    let own = ServerClock::connect(&post.connection, None).await?;
    let other = match address {
        None => None,
        Some(address) => Some((address, ServerClock::connect(&options, database.as_deref()).await?)),
    };
    Ok(Some(Pair { own, other, looked }))
}

/// Whom to ask: an address for messages, `None` for the node itself, and how to get there.
type Whom = (Option<String>, ConnectionOptions, Option<String>);

/// Returns the server that the configuration names, else the coordinator as Citus names it.
async fn reference(post: &Post) -> Result<Option<Whom>, Error> {
    if let Some(server) = &post.settings.coordinator {
        let server = server.clone();
        let address = server.conninfo.clone();
        let options = blocking(move || server.options()).await??;
        return Ok(Some((Some(address), options, None)));
    }
    match topology::coordinator(&post.connection).await? {
        Seat::Here => Ok(Some((None, post.connection.clone(), None))),
        Seat::At { host, port, database } => {
            let options = post.connection.toward(&host, port, &database)?;
            Ok(Some((Some(format!("{host}:{port}")), options, None)))
        }
        Seat::Unknown => Ok(None),
    }
}

impl Pages {
    /// Returns whether the document is full and stored.
    fn is_done(&self) -> bool {
        let Some((doc, (name, _))) = self.doc.as_ref().zip(self.stored.as_ref()) else { return false };
        doc.samples.len() >= SAMPLES_EACH && self.name(&doc.node) == Some(name.clone())
    }

    /// Names the object of what there is.
    fn name(&self, node: &NodeName) -> Option<ObjectName> {
        let (first, last) = self.doc.as_ref()?.ends()?;
        Some(ObjectName::Clock { node: node.clone(), first, last })
    }
}

impl Book {
    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether what is written so far is of another clock than this.
    fn is_of_other(&self, reference: &Reference) -> bool {
        self.pages().doc.as_ref().is_some_and(|doc| doc.reference != *reference)
    }

    fn add(&self, post: &Post, reference: Reference, sample: Sample) {
        let mut pages = self.pages();
        if pages.is_done() || pages.doc.as_ref().is_some_and(|doc| doc.reference != reference) {
            *pages = Pages::default();
        }
        let doc = pages.doc.get_or_insert_with(|| ClockDoc {
            version: ClockDoc::VERSION,
            cluster: post.cluster.clone(),
            node: post.node.clone(),
            reference,
            samples: Vec::new(),
        });
        doc.samples.push(sample);
        if doc.samples.len() > SAMPLES_MAX {
            doc.samples.remove(0);
        }
    }

    fn is_due(&self) -> bool {
        let pages = self.pages();
        let is_full = pages.doc.as_ref().is_some_and(|doc| doc.samples.len() == SAMPLES_EACH);
        is_full || pages.stored.as_ref().is_none_or(|(_, at)| at.elapsed() >= STORE_EVERY)
    }

    /// Stores what there is, in place of the object that has less of it.
    pub(super) async fn store(&self, post: &Post, tell: &watch::Sender<ClockLine>) {
        let (doc, name, before) = {
            let pages = self.pages();
            let before = pages.stored.as_ref().map(|(name, _)| name.clone());
            (pages.doc.clone(), pages.name(&post.node), before)
        };
        let Some((doc, name)) = doc.zip(name).filter(|(_, name)| before.as_ref() != Some(name)) else {
            return;
        };
        let put = post.vault.put(&name, manifest::to_bytes(&doc).into(), LEVEL);
        let error = match timeout(STORE_WITHIN, put).await {
            Ok(Ok(_)) => {
                tell.send_modify(|line| {
                    line.stored_at = Some(clock::now());
                    line.store_error = None;
                });
                // Left where a zone does not answer: repair deletes what a longer one replaces.
                if let Some(before) = before.filter(|before| begins(before) == begins(&name))
                    && let Err(error) = post.vault.delete(&before).await
                {
                    tracing::debug!(%error, "an object about the clock that is no longer needed was left");
                }
                self.pages().stored = Some((name, Instant::now()));
                return;
            }
            Ok(Err(error)) => Error::from(error),
            Err(_) => Error::SlowClock { seconds: STORE_WITHIN.as_secs() },
        };
        failed(
            tell,
            |line| &mut line.store_error,
            &error,
            "what the clock showed could not be stored; it is tried again",
        );
    }
}

fn begins(name: &ObjectName) -> Option<Moment> {
    match name {
        ObjectName::Clock { first, .. } => Some(*first),
        _ => None,
    }
}
