//! Threads that seal: chunks of a segment while it still arrives, and all else that the archiver stores.
//!
//! plain chunk -> [`Sealing::chunk`] -> one of a few threads -> [`Sealing::finish`] -> the sealed object
//!
//! Few, since each keeps a compressor of megabytes. What waits for them is bounded: who brings more
//! waits. A chunk's plain bytes are let go as soon as it is sealed.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Error;
use crate::seal::{self, Assembly, CHUNK_BYTES, ObjectKey, Seat};
use crate::vault;

const THREADS: usize = 2;
/// Chunks that wait for a thread.
const WAITING_MAX: usize = 4;

/// The threads. They end when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Sealers(mpsc::Sender<Work>);

struct Work {
    seat: Seat,
    last: bool,
    plain: Bytes,
    answer: oneshot::Sender<Result<Vec<u8>, seal::Error>>,
}

impl Sealers {
    pub(super) fn start() -> Self {
        let (sender, work) = mpsc::channel(WAITING_MAX);
        let work = Arc::new(Mutex::new(work));
        for _ in 0..THREADS {
            let work = Arc::clone(&work);
            tokio::task::spawn_blocking(move || seal_all(&work));
        }
        Sealers(sender)
    }

    /// Seals one object whole.
    pub(super) async fn whole(&self, key: ObjectKey, plain: &Bytes) -> Result<Bytes, Error> {
        let mut sealing = Sealing::new(key);
        let mut rest = plain.clone();
        while rest.len() > CHUNK_BYTES {
            sealing.chunk(self, rest.split_to(CHUNK_BYTES), false).await?;
        }
        sealing.chunk(self, rest, true).await?;
        sealing.finish().await
    }
}

fn seal_all(work: &Mutex<mpsc::Receiver<Work>>) {
    let mut scratch = Vec::new();
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    while let Some(Work { seat, last, plain, answer }) = next() {
        scratch.clear();
        let sealed = seat.seal(last, &plain, &mut scratch);
        drop(plain);
        // A copy that is as long as it must be: the scratch has room for what does not compress.
        let _ = answer.send(sealed.map(|_| scratch.clone())); // nobody waits only when we stop
    }
}

/// One object whose chunks are being sealed.
pub(super) struct Sealing {
    key: ObjectKey,
    chunks: Vec<oneshot::Receiver<Result<Vec<u8>, seal::Error>>>,
    closed: bool,
}

impl Sealing {
    pub(super) fn new(key: ObjectKey) -> Self {
        Sealing { key, chunks: Vec::new(), closed: false }
    }

    /// Brings the next chunk, of at most [`CHUNK_BYTES`], once there is room.
    pub(super) async fn chunk(&mut self, sealers: &Sealers, plain: Bytes, last: bool) -> Result<(), Error> {
        let (answer, sealed) = oneshot::channel();
        let seat = self.key.seat().map_err(vault::Error::from)?;
        sealers.0.send(Work { seat, last, plain, answer }).await.map_err(|_| Error::Thread)?;
        self.chunks.push(sealed);
        self.closed = last;
        Ok(())
    }

    /// Returns the object when its last chunk is sealed.
    pub(super) async fn finish(self) -> Result<Bytes, Error> {
        let mut sealed = Vec::with_capacity(self.chunks.len());
        for chunk in self.chunks {
            sealed.push(chunk.await.map_err(|_| Error::Thread)?.map_err(vault::Error::from)?);
        }
        let mut assembly = Assembly::new(self.key);
        assembly.reserve(sealed.iter().map(Vec::len).sum());
        let count = sealed.len();
        for (index, chunk) in sealed.into_iter().enumerate() {
            let last = self.closed && index + 1 == count;
            let index = u32::try_from(index).map_err(|_| Error::Thread)?;
            assembly.append(index, last, &chunk).map_err(vault::Error::from)?;
        }
        Ok(assembly.finish().map_err(vault::Error::from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{EpochKey, Form, KeyRing, open};

    #[tokio::test]
    async fn chunks_come_out_in_the_order_they_were_brought() {
        let epoch = EpochKey::generate();
        let sealers = Sealers::start();
        let plain: Vec<u8> = (0..3 * CHUNK_BYTES + 5).map(|at| (at / 1000 % 251) as u8).collect();
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, plain.len()] {
            let plain = Bytes::copy_from_slice(&plain[..length]);
            let sealed = sealers.whole(ObjectKey::new(&epoch, "a", Form::Bytes, 1), &plain).await.unwrap();
            let mut ring = KeyRing::new();
            ring.insert(epoch.clone());
            assert_eq!(open(&ring, "a", &sealed).unwrap(), plain);
        }
    }
}
