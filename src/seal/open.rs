//! Sealed object in, plain bytes out, or an error: never bytes that were not sealed so.

use std::cell::RefCell;

use super::header::{self, HEADER_BYTES, Secrets};
use super::key::take;
use super::sealer::{PREFIX_BYTES, TAG_BYTES, TRAILER_BYTES, nonce, trailer};
use super::{Error, Form, KeyRing, squeeze};
use crate::loops::Cipher;

thread_local! {
    /// Where a chunk is decrypted; fresh memory for each would cost as much as the decryption.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Opens the chunks of one object, in any order.
#[derive(Clone)]
pub struct Opener {
    name: String,
    cipher: Cipher,
    nonce_prefix: [u8; 7],
    binding: [u8; 32],
    chunk_bytes: usize,
    form: Form,
}

impl Opener {
    /// Opens a header: the object's first [`HEADER_BYTES`] (more may follow).
    pub fn new(ring: &KeyRing, name: &str, header: &[u8]) -> Result<Self, Error> {
        let secrets = header::open(name, header, |epoch| ring.get(epoch))?;
        let Secrets { data_key, nonce_prefix, binding, chunk_bytes, form } = secrets;
        Ok(Opener {
            name: name.to_owned(),
            cipher: Cipher::new(&data_key),
            nonce_prefix,
            binding,
            chunk_bytes,
            form,
        })
    }

    /// Opens one chunk. `sealed` is the chunk with its length prefix, in place of what `plain` held.
    pub fn chunk(&self, index: u32, last: bool, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        let body = sealed
            .split_first_chunk::<PREFIX_BYTES>()
            .filter(|(prefix, body)| u32::from_le_bytes(**prefix) as usize == body.len())
            .map(|(_, body)| body)
            .ok_or_else(|| self.damaged("a chunk has not the length it says"))?;
        self.body(index, last, body, plain)
    }

    fn body(&self, index: u32, last: bool, body: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        let (frame, tag) = body
            .split_last_chunk::<TAG_BYTES>()
            .filter(|_| body.len() <= zstd::zstd_safe::compress_bound(self.chunk_bytes) + TAG_BYTES)
            .ok_or_else(|| self.damaged("a chunk has no possible length"))?;
        let nonce = nonce(self.nonce_prefix, index, last);
        FRAME.with_borrow_mut(|kept| {
            kept.clear();
            kept.extend_from_slice(frame);
            self.cipher
                .open(nonce, &[&self.binding], kept, *tag)
                .ok_or_else(|| self.damaged("a chunk is not what was sealed there"))?;
            squeeze::decompress(kept, self.form, self.chunk_bytes, plain)
                .map_err(|problem| self.damaged(problem))
        })
    }

    /// Returns the object's full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn damaged(&self, problem: &'static str) -> Error {
        Error::Damaged { name: self.name.clone(), problem }
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({})", self.name)
    }
}

/// Walks over the chunks of a whole object, opening each; ends after the last one.
#[derive(Debug)]
pub struct Walk {
    opener: Opener,
    at: usize,
    next: u32,
    done: bool,
}

impl Walk {
    /// Begins at the header of `object`, which was stored under `name`.
    pub fn new(ring: &KeyRing, name: &str, object: &[u8]) -> Result<Self, Error> {
        Ok(Walk { opener: Opener::new(ring, name, object)?, at: HEADER_BYTES, next: 0, done: false })
    }

    /// Opens the next chunk of the same `object` in place of what `plain` held; `false` when there is
    /// none left. Only then is it sure that nothing was cut off or added.
    pub fn next_into(&mut self, object: &[u8], plain: &mut Vec<u8>) -> Result<bool, Error> {
        if self.done {
            return Ok(false);
        }
        let cut_off = || self.opener.damaged("it ends before its last chunk");
        let rest = object.get(self.at..).unwrap_or_default();
        let (prefix, behind) = rest.split_first_chunk::<PREFIX_BYTES>().ok_or_else(cut_off)?;
        let length = u32::from_le_bytes(*prefix) as usize;
        let (body, behind) = behind.split_at_checked(length).ok_or_else(cut_off)?;
        let last = behind.len() == TRAILER_BYTES;
        self.opener.body(self.next, last, body, plain)?;
        let sealed = u32::try_from(length + PREFIX_BYTES).map_err(|_| cut_off())?;
        if last && behind != trailer(u64::from(self.next) + 1, sealed) {
            return Err(self.opener.damaged("its trailer is not what was written"));
        }
        self.next = self.next.checked_add(1).ok_or_else(cut_off)?;
        self.at += sealed as usize;
        self.done = last;
        Ok(true)
    }
}

/// Opens a whole object that was stored under `name`: header, every chunk, trailer, and nothing behind.
pub fn open(ring: &KeyRing, name: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let mut walk = Walk::new(ring, name, object)?;
    let (mut plain, mut chunk) = (Vec::new(), Vec::new());
    while walk.next_into(object, &mut chunk)? {
        if plain.is_empty() {
            std::mem::swap(&mut plain, &mut chunk);
        } else {
            plain.extend_from_slice(&chunk);
        }
    }
    Ok(plain)
}

/// Returns whether two objects that were stored under `name` have the same contents. An error is of the first
/// object, which is opened to its end, wherever they differ.
pub fn same_contents(ring: &KeyRing, name: &str, first: &[u8], second: &[u8]) -> Result<bool, Error> {
    let mut walks = (Walk::new(ring, name, first)?, Walk::new(ring, name, second)?);
    let (mut plain, mut other, mut taken, mut same) = (Vec::new(), Vec::new(), 0, true);
    while walks.0.next_into(first, &mut plain)? {
        let mut left = plain.as_slice();
        while same && !left.is_empty() {
            if taken == other.len() {
                taken = 0;
                same = walks.1.next_into(second, &mut other)?;
                continue;
            }
            let both = left.len().min(other.len() - taken);
            same = left.get(..both) == other.get(taken..taken + both);
            left = left.get(both..).unwrap_or_default();
            taken += both;
        }
    }
    while same && taken == other.len() {
        taken = 0;
        if !walks.1.next_into(second, &mut other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the last chunk as it lies at the end of an object, and its index, where `tail` (the
/// object's last bytes) holds all of it; else how many bytes from the end it takes.
pub fn last_chunk(tail: &[u8]) -> Result<(u32, &[u8]), usize> {
    let (before, trailer) = tail.split_last_chunk::<TRAILER_BYTES>().ok_or(TRAILER_BYTES)?;
    let mut trailer = trailer.as_slice();
    let mut word = || take::<4>(&mut trailer).map_or(0, u32::from_le_bytes);
    let (chunks, sealed) = (word(), word() as usize);
    let at = before.len().checked_sub(sealed).ok_or(sealed.saturating_add(TRAILER_BYTES))?;
    Ok((chunks.saturating_sub(1), before.get(at..).unwrap_or_default()))
}
