//! What a worker has read, on its way into sealed packs and entries of the manifest.
//!
//! bytes of a file -> a bundle with its neighbours', or a chunk of their own -> zstd and AES-256-GCM
//! -> pack -> out; entries follow when all bytes of their file are sealed
//!
//! Each worker fills a pack of its own, so that workers share nothing but the queue. Chunks that
//! entries name are never their pack's last one: that is empty.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Error;
use super::source::{CHUNK_BYTES, Pieced};
use super::weave::Piece;
use super::worker::Shared;
use crate::manifest::backup::Extent;
use crate::pgfile::page::PAGE_BYTES;
use crate::seal::{ChunkPlace, Sealer};

/// A pack, ready to be stored.
#[derive(Debug)]
pub(super) struct SealedPack {
    pub(super) number: u32,
    pub(super) bytes: Bytes,
}

pub(super) struct Packer<'a> {
    shared: &'a Shared,
    pack: Option<Pack>,
    /// A chunk's worth of bytes; how many of them wait to be sealed as one chunk, and whose they are.
    bundle: Vec<u8>,
    filled: usize,
    bundled: Vec<Bundled>,
    /// Files with bytes in the bundle, and the one that is being read, the last.
    files: Vec<Filling>,
}

struct Pack {
    number: u32,
    sealer: Sealer,
}

/// A file of which pieces come.
struct Filling {
    file: Arc<Pieced>,
    pieces: Vec<Piece>,
    /// Its length, once it is known that no more pieces come here.
    size: Option<u64>,
}

/// A piece in the bundle.
struct Bundled {
    /// In `files`.
    file: usize,
    at: u64,
    offset: usize,
    length: usize,
}

/// A chunk in a pack.
pub(super) struct Sealed {
    /// The pack's name, which all its extents share.
    pack: Arc<str>,
    place: ChunkPlace,
    plain: u32,
    crc: u32,
}

impl Sealed {
    /// Names some of its bytes.
    pub(super) fn extent(&self, offset: usize, length: usize) -> Extent {
        let Sealed { ref pack, place, plain, crc } = *self;
        let ChunkPlace { at, sealed, index: chunk } = place;
        Extent {
            pack: Arc::clone(pack),
            chunk,
            at,
            sealed,
            offset: short(offset),
            len: short(length),
            plain,
            crc,
        }
    }
}

fn short(n: usize) -> u32 {
    u32::try_from(n).expect("it lies in a chunk of at most 1 MiB")
}

impl<'a> Packer<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let bundle = vec![0; CHUNK_BYTES];
        Packer { shared, pack: None, bundle, filled: 0, bundled: Vec::new(), files: Vec::new() }
    }

    /// Begins a file, or a part of one.
    pub(super) fn begin(&mut self, file: Arc<Pieced>) {
        self.files.push(Filling { file, pieces: Vec::new(), size: None });
    }

    /// Adds bytes of the file that was begun, at most a chunk; `read` fills the buffer and says how far. Pages begin
    /// at a multiple of their length, as [`crate::seal`] looks for them there.
    pub(super) fn add(
        &mut self,
        at: u64,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let most = most.min(CHUNK_BYTES);
        if most.is_multiple_of(PAGE_BYTES) {
            let aligned = self.filled.next_multiple_of(PAGE_BYTES);
            self.bundle.get_mut(self.filled..aligned).unwrap_or_default().fill(0);
            self.filled = aligned;
        }
        if self.filled + most > CHUNK_BYTES {
            self.seal_bundle()?;
        }
        let offset = self.filled;
        let length = read(self.bundle.get_mut(offset..offset + most).unwrap_or_default())?;
        self.filled += length;
        if length > 0 {
            let file = self.files.len().saturating_sub(1);
            self.bundled.push(Bundled { file, at, offset, length });
        }
        Ok(length)
    }

    /// Ends the file that was begun: it has `size` bytes.
    pub(super) fn end(&mut self, size: u64) {
        if let Some(file) = self.files.last_mut() {
            file.size = Some(size);
        }
    }

    /// Seals the bundle as one chunk, and hands over the entries of its files.
    fn seal_bundle(&mut self) -> Result<(), Error> {
        if self.filled > 0 {
            let bundle = std::mem::take(&mut self.bundle);
            let sealed = self.seal(bundle.get(..self.filled).unwrap_or_default())?;
            (self.bundle, self.filled) = (bundle, 0);
            for Bundled { file, at, offset, length } in std::mem::take(&mut self.bundled) {
                if let Some(file) = self.files.get_mut(file) {
                    file.pieces.push(Piece { at, extent: sealed.extent(offset, length) });
                }
            }
        }
        for file in std::mem::take(&mut self.files) {
            match file.size {
                Some(size) => self.hand_over(file, size)?,
                None => self.files.push(file),
            }
        }
        Ok(())
    }

    fn hand_over(&self, filled: Filling, size: u64) -> Result<(), Error> {
        let entry = filled.file.finish(filled.pieces, size)?;
        entry.map_or(Ok(()), |entry| self.shared.hand_over(entry))
    }

    /// Seals a chunk into the open pack.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<Sealed, Error> {
        let shared = self.shared;
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => {
                let number = shared.next_pack.fetch_add(1, Ordering::Relaxed);
                Pack { number, sealer: (shared.begin)(number)? }
            }
        };
        let place = pack.sealer.chunk(plain, false).map_err(|source| Error::Seal { source })?;
        let name = pack.number.to_string().into();
        let sealed = Sealed { pack: name, place, plain: short(plain.len()), crc: crc32fast::hash(plain) };
        let length = pack.sealer.len();
        self.pack = Some(pack);
        if length >= shared.pack_bytes {
            self.close_pack()?;
        }
        Ok(sealed)
    }

    /// Seals what waits.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.seal_bundle()?;
        self.close_pack()
    }

    /// Ends the open pack, and hands it over; waits where the zones are slower.
    fn close_pack(&mut self) -> Result<(), Error> {
        let Some(Pack { number, sealer }) = self.pack.take() else { return Ok(()) };
        let bytes = sealer.finish().map_err(|source| Error::Seal { source })?;
        self.shared.packs.blocking_send(SealedPack { number, bytes }).map_err(|_| Error::Ended)
    }
}
