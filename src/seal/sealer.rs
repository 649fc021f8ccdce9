//! Plain bytes in, sealed object out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::header::{self, Secrets};
use super::{CHUNK_BYTES, EpochKey, Error, Form, squeeze};
use crate::loops::Cipher;

/// Where a sealed chunk lies in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// From the object's first byte.
    pub at: u64,
    /// With its length prefix, in bytes.
    pub sealed: u32,
    /// From 0.
    pub index: u32,
}

/// The length prefix of a sealed chunk, and its tag.
pub(super) const PREFIX_BYTES: usize = 4;
pub(super) const TAG_BYTES: usize = 16;
/// Behind the last chunk: how many there are, and how long it is.
pub(super) const TRAILER_BYTES: usize = 8;

/// The keys of one object, shared by all who seal its chunks.
#[derive(Clone)]
pub struct ObjectKey(Arc<Shared>);

struct Shared {
    name: String,
    header: Vec<u8>,
    cipher: Cipher,
    nonce_prefix: [u8; 7],
    binding: [u8; 32],
    form: Form,
    level: i32,
    next: AtomicU64,
}

impl ObjectKey {
    /// Makes the keys of a new object that will be stored under `name`; `level` is zstd's.
    pub fn new(epoch: &EpochKey, name: &str, form: Form, level: i32) -> Self {
        let (header, secrets) = header::create(epoch, name, CHUNK_BYTES, form);
        let Secrets { data_key, nonce_prefix, binding, .. } = secrets;
        ObjectKey(Arc::new(Shared {
            name: name.to_owned(),
            header,
            cipher: Cipher::new(&data_key),
            nonce_prefix,
            binding,
            form,
            level,
            next: AtomicU64::new(0),
        }))
    }

    /// Takes the place of the next chunk. Chunks lie in the object in the order of their seats.
    pub fn seat(&self) -> Result<Seat, Error> {
        let index = self.0.next.fetch_add(1, Ordering::Relaxed);
        let index =
            u32::try_from(index).map_err(|_| self.misuse("it has more chunks than can be counted"))?;
        Ok(Seat { index, key: self.clone() })
    }

    fn misuse(&self, problem: &'static str) -> Error {
        Error::Misuse { name: self.0.name.clone(), problem }
    }
}

impl std::fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectKey({})", self.0.name)
    }
}

/// The right to seal one chunk, once: its nonce is used up with it.
#[derive(Debug)]
pub struct Seat {
    index: u32,
    key: ObjectKey,
}

impl Seat {
    /// Returns the chunk's number in its object, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Seals `plain` (at most [`CHUNK_BYTES`]) behind what `out` holds, with its length prefix;
    /// returns how many bytes that is. Blocks for the time of the work.
    pub fn seal(self, last: bool, plain: &[u8], out: &mut Vec<u8>) -> Result<u32, Error> {
        let key = &self.key.0;
        if plain.len() > CHUNK_BYTES {
            return Err(self.key.misuse("a chunk is longer than a chunk may be"));
        }
        let begin = out.len();
        out.extend_from_slice(&[0; PREFIX_BYTES]);
        squeeze::compress(plain, key.form, key.level, out)
            .map_err(|source| Error::Compressor { name: key.name.clone(), source })?;
        let body = out.get_mut(begin + PREFIX_BYTES..).unwrap_or_default();
        let nonce = nonce(key.nonce_prefix, self.index, last);
        let tag = key.cipher.seal(nonce, &[&key.binding], body);
        out.extend_from_slice(&tag);
        let sealed = u32::try_from(out.len() - begin).expect("a chunk is at most a little over 1 MiB");
        if let Some(prefix) = out.get_mut(begin..begin + PREFIX_BYTES) {
            prefix.copy_from_slice(&(sealed - PREFIX_BYTES as u32).to_le_bytes());
        }
        Ok(sealed)
    }
}

/// The nonce of a chunk, as in STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): it says the chunk's
/// place and whether it is the last, so none can be left out, moved, or cut off unseen.
pub(super) fn nonce(prefix: [u8; 7], index: u32, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    let tail = index.to_be_bytes().into_iter().chain([u8::from(last)]);
    nonce.iter_mut().zip(prefix.into_iter().chain(tail)).for_each(|(to, from)| *to = from);
    nonce
}

/// Lays sealed chunks one after the other, behind the header.
#[derive(Debug)]
pub struct Assembly {
    key: ObjectKey,
    object: Vec<u8>,
    next: u64,
    /// Length of the last chunk appended, sealed.
    newest: u32,
    closed: bool,
}

impl Assembly {
    pub fn new(key: ObjectKey) -> Self {
        let object = key.0.header.clone();
        Assembly { key, object, next: 0, newest: 0, closed: false }
    }

    /// Makes room for so many bytes of sealed chunks.
    pub fn reserve(&mut self, bytes: usize) {
        self.object.reserve_exact(bytes + TRAILER_BYTES);
    }

    /// Appends a chunk that was sealed elsewhere; chunks come in the order of their seats.
    pub fn append(&mut self, index: u32, last: bool, sealed: &[u8]) -> Result<ChunkPlace, Error> {
        let place = self.place(index, last, sealed.len())?;
        self.object.extend_from_slice(sealed);
        Ok(place)
    }

    /// Seals the next chunk here.
    pub fn seal(&mut self, plain: &[u8], last: bool) -> Result<ChunkPlace, Error> {
        if self.closed {
            return Err(self.key.misuse("a chunk came after the last one"));
        }
        let seat = self.key.seat()?;
        let index = seat.index();
        let at = self.object.len();
        let sealed = seat.seal(last, plain, &mut self.object)?;
        let mut place = self.place(index, last, sealed as usize)?;
        place.at = at as u64;
        Ok(place)
    }

    fn place(&mut self, index: u32, last: bool, sealed: usize) -> Result<ChunkPlace, Error> {
        if self.closed || u64::from(index) != self.next {
            return Err(self.key.misuse("chunks came out of order"));
        }
        self.next += 1;
        self.closed = last;
        let sealed = u32::try_from(sealed).map_err(|_| self.key.misuse("a sealed chunk is too long"))?;
        self.newest = sealed;
        Ok(ChunkPlace { at: self.object.len() as u64, sealed, index })
    }

    /// Returns the object's length so far, in bytes.
    pub fn len(&self) -> usize {
        self.object.len()
    }

    /// Returns whether no chunk has been appended.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Returns the whole object; where no chunk was the last one, an empty one is added as such.
    pub fn finish(mut self) -> Result<Bytes, Error> {
        if !self.closed {
            self.seal(&[], true)?;
        }
        self.object.extend_from_slice(&trailer(self.next, self.newest));
        Ok(self.object.into())
    }
}

/// Where to find the last chunk from the end of an object. Not authenticated: who is misled by it finds
/// nothing that opens.
pub(super) fn trailer(chunks: u64, newest: u32) -> [u8; TRAILER_BYTES] {
    let chunks = u32::try_from(chunks).unwrap_or(u32::MAX).to_le_bytes();
    let mut trailer = [0; TRAILER_BYTES];
    trailer.iter_mut().zip(chunks.into_iter().chain(newest.to_le_bytes())).for_each(|(to, from)| *to = from);
    trailer
}

/// Seals one object on one thread.
#[derive(Debug)]
pub struct Sealer(Assembly);

impl Sealer {
    /// Begins an object that will be stored under `name`; `level` is zstd's.
    pub fn new(epoch: &EpochKey, name: &str, form: Form, level: i32) -> Self {
        Sealer(Assembly::new(ObjectKey::new(epoch, name, form, level)))
    }

    /// Seals the next chunk, of at most [`CHUNK_BYTES`].
    pub fn chunk(&mut self, plain: &[u8], last: bool) -> Result<ChunkPlace, Error> {
        self.0.seal(plain, last)
    }

    /// Returns the object's length so far, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no chunk has been sealed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the whole object; where no chunk was the last one, an empty one is added as such.
    pub fn finish(self) -> Result<Bytes, Error> {
        self.0.finish()
    }

    /// Seals all of `plain` as one object, as bytes.
    pub fn whole(epoch: &EpochKey, name: &str, level: i32, plain: &[u8]) -> Result<Bytes, Error> {
        let mut sealer = Sealer::new(epoch, name, Form::Bytes, level);
        let mut chunks = plain.chunks(CHUNK_BYTES).peekable();
        while let Some(chunk) = chunks.next() {
            sealer.chunk(chunk, chunks.peek().is_none())?;
        }
        sealer.finish()
    }
}
