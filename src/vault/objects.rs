//! Whole objects and single chunks: put, get, list, delete.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use object_store::GetRange;

use super::{Error, ObjectName, Vault};
use crate::ids::ZoneName;
use crate::seal::{self, ChunkPlace, HEADER_BYTES, KeyRing, Opener, Sealer};
use crate::zones::{Copies, Failure, Fault, Judge, Listing, Verdict};

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Length of the sealed object, in bytes.
    pub sealed: u64,
    /// It was stored before, with the same contents.
    pub already: bool,
}

/// Headers that are kept open, for reads of single chunks.
const OPENERS_MAX: usize = 1024;

thread_local! {
    /// An opened chunk, while somebody looks at it.
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Returns what of an object holds all of these chunks, which rise.
fn span(places: &[ChunkPlace]) -> Option<Range<u64>> {
    let (first, end) = (places.first()?, places.last()?);
    Some(first.at..end.at.saturating_add(u64::from(end.sealed)))
}

/// Returns one sealed chunk out of bytes that begin at `from` in the object.
fn cut_out<'a>(
    opener: &Opener,
    bytes: &'a Bytes,
    from: u64,
    place: &ChunkPlace,
) -> Result<&'a [u8], seal::Error> {
    let begin = place.at.checked_sub(from).and_then(|at| usize::try_from(at).ok());
    let sealed = begin.and_then(|begin| bytes.get(begin..begin.checked_add(place.sealed as usize)?));
    let problem = "it ends before a chunk of it";
    sealed.ok_or_else(|| seal::Error::Damaged { name: opener.name().to_owned(), problem })
}

impl Vault {
    /// Seals `plain` and stores it. Done before with the same contents is done; with others it is
    /// refused ([`Error::Clash`]). `level` is zstd's.
    pub async fn put(&self, name: &ObjectName, plain: Bytes, level: i32) -> Result<Stored, Error> {
        let (path, ring) = (self.path(name), self.ring());
        self.must_write(&path)?;
        let sealed = {
            let (path, ring) = (path.clone(), ring.clone());
            off_thread(move || {
                let epoch = ring.current().ok_or(Error::NoKey)?;
                Ok(Sealer::whole(epoch, &path, level, &plain)?)
            })
            .await?
        };
        let judge = self.judge(&path, ring, Expected::Contents(sealed.clone()));
        self.store(&path, sealed, judge).await
    }

    /// Stores an object that was sealed with [`Vault::sealer`] or [`Vault::object_key`] for this name, with
    /// contents that another may have sealed and stored before: then it is done, as with [`Vault::put`].
    pub async fn put_contents(&self, name: &ObjectName, sealed: Bytes) -> Result<Stored, Error> {
        let path = self.path(name);
        self.must_write(&path)?;
        let judge = self.judge(&path, self.ring(), Expected::Contents(sealed.clone()));
        self.store(&path, sealed, judge).await
    }

    /// Stores an object that was sealed with [`Vault::sealer`] or [`Vault::object_key`] for this name.
    pub async fn put_sealed(&self, name: &ObjectName, sealed: Bytes) -> Result<Stored, Error> {
        let path = self.path(name);
        self.must_write(&path)?;
        let judge = self.judge(&path, self.ring(), Expected::Sealed(sealed.clone()));
        self.store(&path, sealed, judge).await
    }

    async fn store(&self, path: &str, sealed: Bytes, judge: Judge) -> Result<Stored, Error> {
        let length = sealed.len() as u64;
        let outcome = self.0.zones.put_judged(path, sealed, judge).await?;
        Ok(Stored { sealed: length, already: outcome.already })
    }

    /// Returns how to tell whether an object that a zone already holds is the one to be written.
    fn judge(&self, path: &str, ring: Arc<KeyRing>, expected: Expected) -> Judge {
        let (vault, path) = (self.clone(), path.to_owned());
        Arc::new(move |zone: &ZoneName, found: &Bytes| {
            let (Expected::Contents(ours) | Expected::Sealed(ours)) = &expected;
            if ours == found {
                return Verdict::Same;
            }
            match seal::same_contents(&ring, &path, found, ours) {
                Ok(true) if matches!(expected, Expected::Contents(_)) => Verdict::Same,
                Ok(_) => Verdict::Other,
                // Sealed by another writer under a key that is not known here yet: not ours to judge.
                Err(seal::Error::UnknownEpoch { .. } | seal::Error::Version { .. }) => Verdict::Other,
                Err(error) => {
                    vault.note_damage(&path, zone, &error.to_string());
                    Verdict::Damaged(error.to_string())
                }
            }
        })
    }

    /// Reads and opens an object.
    pub async fn get(&self, name: &ObjectName) -> Result<Bytes, Error> {
        let path = self.path(name);
        self.first_good(&path, None, {
            let path = path.clone();
            move |ring, sealed| seal::open(ring, &path, sealed).map(Bytes::from)
        })
        .await
    }

    /// Reads and opens an object; `None` where zones answer that there is none.
    pub async fn find(&self, name: &ObjectName) -> Result<Option<Bytes>, Error> {
        match self.get(name).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an object as it is stored, after checking that every chunk of it opens.
    pub async fn get_sealed(&self, name: &ObjectName) -> Result<Bytes, Error> {
        let path = self.path(name);
        self.first_good(&path, None, {
            let path = path.clone();
            move |ring, sealed| {
                let mut walk = seal::Walk::new(ring, &path, sealed)?;
                let mut plain = Vec::new();
                while walk.next_into(sealed, &mut plain)? {}
                Ok(sealed.clone())
            }
        })
        .await
    }

    /// Reads and opens one chunk. `last` as it was sealed.
    pub async fn get_chunk(&self, name: &ObjectName, place: ChunkPlace, last: bool) -> Result<Bytes, Error> {
        let mut chunks = self.get_chunks(name, vec![place], last).await?;
        chunks.pop().ok_or(Error::Thread)
    }

    /// Reads and opens chunks of one object in one request: from the first of `places` to the last,
    /// which rise. `last` is whether the last of them was sealed as the object's last.
    pub async fn get_chunks(
        &self,
        name: &ObjectName,
        places: Vec<ChunkPlace>,
        last: bool,
    ) -> Result<Vec<Bytes>, Error> {
        let path = self.path(name);
        let Some(range) = span(&places) else { return Ok(Vec::new()) };
        let from = range.start;
        let opener = self.opener(&path).await?;
        self.first_good(&path, Some(GetRange::Bounded(range)), move |_, bytes| {
            let mut opened = Vec::with_capacity(places.len());
            for (number, place) in places.iter().enumerate() {
                let sealed = cut_out(&opener, bytes, from, place)?;
                let mut plain = Vec::new();
                opener.chunk(place.index, last && number + 1 == places.len(), sealed, &mut plain)?;
                opened.push(Bytes::from(plain));
            }
            Ok(opened)
        })
        .await
    }

    /// The same for many bytes: gives `take` one chunk after the other, from a buffer that is used again,
    /// with its number in `places`. None of them was sealed as its object's last. `take` runs on a thread
    /// that may block; it is called again with the same chunks where a copy turns out damaged on the way,
    /// and its first failure ends the reading.
    pub async fn each_chunk<E: Send + 'static>(
        &self,
        name: &ObjectName,
        places: Arc<[ChunkPlace]>,
        take: impl Fn(usize, &[u8]) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<Result<(), E>, Error> {
        let path = self.path(name);
        let Some(range) = span(&places) else { return Ok(Ok(())) };
        let from = range.start;
        let opener = self.opener(&path).await?;
        self.first_good(&path, Some(GetRange::Bounded(range)), move |_, bytes| {
            PLAIN.with_borrow_mut(|plain| {
                for (number, place) in places.iter().enumerate() {
                    let sealed = cut_out(&opener, bytes, from, place)?;
                    opener.chunk(place.index, false, sealed, plain)?;
                    if let Err(error) = take(number, plain) {
                        return Ok(Err(error));
                    }
                }
                Ok(Ok(()))
            })
        })
        .await
    }

    /// Opens an object's header, or finds it among those opened lately.
    pub async fn opener(&self, path: &str) -> Result<Arc<Opener>, Error> {
        if let Some(opener) = self.0.openers.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(opener.clone());
        }
        let header = Some(GetRange::Bounded(0..HEADER_BYTES as u64));
        let name = path.to_owned();
        let opener =
            self.first_good(path, header, move |ring, bytes| Opener::new(ring, &name, bytes)).await?;
        let opener = Arc::new(opener);
        let mut openers = self.0.openers.lock().unwrap_or_else(PoisonError::into_inner);
        if openers.len() >= OPENERS_MAX {
            openers.clear();
        }
        openers.insert(path.to_owned(), opener.clone());
        Ok(opener)
    }

    /// Reads copies until one satisfies `open`, which runs on a thread that may block.
    pub(super) async fn first_good<T: Send + 'static>(
        &self,
        path: &str,
        range: Option<GetRange>,
        open: impl Fn(&KeyRing, &Bytes) -> Result<T, seal::Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let open = Arc::new(open);
        let mut copies = self.0.zones.copies(path, range);
        let mut refreshed = false;
        loop {
            let (zone, bytes) = copies.next().await?;
            loop {
                let (ring, bytes, open) = (self.ring(), bytes.clone(), open.clone());
                // Reading goes on ahead of it for the others; more threads than cores would only take turns.
                let _turn = self.0.opening.acquire().await;
                match off_thread(move || Ok(open(&ring, &bytes))).await? {
                    Ok(value) => return Ok(value),
                    Err(seal::Error::UnknownEpoch { .. }) if !refreshed => {
                        refreshed = true;
                        self.refresh_keys().await?;
                    }
                    Err(error) => {
                        self.refuse(&mut copies, path, &zone, &error);
                        break;
                    }
                }
            }
        }
    }

    fn refuse(&self, copies: &mut Copies, path: &str, zone: &ZoneName, error: &seal::Error) {
        self.note_damage(path, zone, &error.to_string());
        copies.refuse(zone, Fault::Damaged(error.to_string()));
    }

    /// Returns whether an object exists.
    pub async fn exists(&self, name: &ObjectName) -> Result<bool, Error> {
        Ok(self.0.zones.exists(&self.path(name)).await?)
    }

    /// Lists the objects in a folder of this cluster, by full name; "" is all.
    pub async fn list(&self, folder: &str) -> Result<Listing, Error> {
        let cluster = &self.0.cluster;
        let prefix = if folder.is_empty() { cluster.to_string() } else { format!("{cluster}/{folder}") };
        Ok(self.0.zones.list(&prefix).await?)
    }

    /// Deletes an object wherever a zone answers; returns the zones that did not.
    pub async fn delete(&self, name: &ObjectName) -> Result<Vec<Failure>, Error> {
        let path = self.path(name);
        self.must_write(&path)?;
        Ok(self.0.zones.delete(&path).await?)
    }
}

/// What a zone should hold under a name. The sealed bytes stand for their contents: those would have to be kept
/// until the slowest zone has answered.
enum Expected {
    Contents(Bytes),
    Sealed(Bytes),
}

/// Runs work that computes for long where it may.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Thread))
}
