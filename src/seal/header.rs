//! The first bytes of an object: what it takes to open the rest. See `format.md`.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::key::{EpochId, EpochKey, take};
use super::{CHUNK_BYTES, Error, Form};
use crate::clock;
use crate::loops::Cipher;

pub(super) const MAGIC: &[u8; 6] = b"PITRUS";
pub(super) const VERSION: u8 = 1;
/// Of an object whose chunks are pages laid by column; the newest there is.
const VERSION_PAGES: u8 = 2;
pub(super) const KIND_OBJECT: u8 = b'O';
pub(super) const KIND_KEY: u8 = b'K';

/// Length of an object's header.
pub const HEADER_BYTES: usize = 120;
/// What the wrapping of the data key authenticates: everything before it.
const BOUND_BYTES: usize = 72;
const WRAP_LABEL: &[u8; 16] = b"pitrus wrap v1\0\0";

/// All that sealing and opening the chunks of one object takes.
pub(super) struct Secrets {
    pub(super) data_key: Zeroizing<[u8; 32]>,
    pub(super) nonce_prefix: [u8; 7],
    /// SHA-256 of header and name: every chunk authenticates it.
    pub(super) binding: [u8; 32],
    pub(super) chunk_bytes: usize,
    pub(super) form: Form,
}

/// Makes a header with fresh random keys.
pub(super) fn create(epoch: &EpochKey, name: &str, chunk_bytes: usize, form: Form) -> (Vec<u8>, Secrets) {
    let data_key = Zeroizing::new(clock::random::<32>());
    let nonce_prefix = clock::random::<7>();
    let salt = clock::random::<32>();
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    let version = match form {
        Form::Bytes => VERSION,
        Form::Pages => VERSION_PAGES,
    };
    header.extend_from_slice(&[version, KIND_OBJECT]);
    header.extend_from_slice(&0_u32.to_le_bytes());
    header.extend_from_slice(&u32::try_from(chunk_bytes).unwrap_or(u32::MAX).to_le_bytes());
    header.extend_from_slice(&epoch.id().0);
    header.extend_from_slice(&nonce_prefix);
    header.push(0);
    header.extend_from_slice(&salt);
    let mut wrapped = *data_key;
    let tag =
        Cipher::new(&wrapping_key(epoch, &salt)).seal([0; 12], &[&header, name.as_bytes()], &mut wrapped);
    header.extend_from_slice(&wrapped);
    header.extend_from_slice(&tag);
    let binding = bind(&header, name);
    (header, Secrets { data_key, nonce_prefix, binding, chunk_bytes, form })
}

/// Checks the common first bytes, and returns the format version and the rest.
pub(super) fn preamble<'a>(
    name: &str,
    bytes: &'a [u8],
    kind: u8,
    newest: u8,
) -> Result<(u8, &'a [u8]), Error> {
    let foreign = || Error::Foreign { name: name.to_owned() };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(foreign)?;
    let ([found, its_kind], rest) = rest.split_first_chunk::<2>().ok_or_else(foreign)?;
    if !(VERSION..=newest).contains(found) {
        return Err(Error::Version { name: name.to_owned(), found: *found, known: newest });
    }
    if *its_kind != kind {
        return Err(Error::Damaged { name: name.to_owned(), problem: "it is of another kind" });
    }
    Ok((*found, rest))
}

/// Returns the id of the epoch key under which an object is sealed, and opens its header with the key
/// that `find` gives.
pub(super) fn open<'k>(
    name: &str,
    bytes: &[u8],
    find: impl FnOnce(EpochId) -> Option<&'k EpochKey>,
) -> Result<Secrets, Error> {
    let damaged = |problem| Error::Damaged { name: name.to_owned(), problem };
    let (version, mut rest) = preamble(name, bytes, KIND_OBJECT, VERSION_PAGES)?;
    let form = if version == VERSION_PAGES { Form::Pages } else { Form::Bytes };
    let short = || damaged("it ends inside its header");
    let flags: [u8; 4] = take(&mut rest).ok_or_else(short)?;
    let chunk_bytes: [u8; 4] = take(&mut rest).ok_or_else(short)?;
    let epoch: [u8; 16] = take(&mut rest).ok_or_else(short)?;
    let nonce_prefix: [u8; 7] = take(&mut rest).ok_or_else(short)?;
    let [_reserved]: [u8; 1] = take(&mut rest).ok_or_else(short)?;
    let salt: [u8; 32] = take(&mut rest).ok_or_else(short)?;
    let wrapped: [u8; 32] = take(&mut rest).ok_or_else(short)?;
    let tag: [u8; 16] = take(&mut rest).ok_or_else(short)?;
    let (header, _) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(short)?;
    let bound = header.get(..BOUND_BYTES).ok_or_else(short)?;

    let epoch = EpochId(epoch);
    let key = find(epoch).ok_or_else(|| Error::UnknownEpoch { name: name.to_owned(), epoch })?;
    let mut data_key = Zeroizing::new(wrapped);
    Cipher::new(&wrapping_key(key, &salt))
        .open([0; 12], &[bound, name.as_bytes()], data_key.as_mut_slice(), tag)
        .ok_or_else(|| damaged("its header, or its name, is not what was sealed"))?;
    // What follows was written by a holder of the key.
    let chunk_bytes = u32::from_le_bytes(chunk_bytes) as usize;
    if flags != [0; 4] || !(1..=CHUNK_BYTES).contains(&chunk_bytes) {
        return Err(Error::Version { name: name.to_owned(), found: version, known: VERSION_PAGES });
    }
    Ok(Secrets { data_key, nonce_prefix, binding: bind(header, name), chunk_bytes, form })
}

/// Each object's data key is wrapped with a key of its own, so no number of objects wears out an epoch key.
fn wrapping_key(epoch: &EpochKey, salt: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(WRAP_LABEL);
    hash.update(epoch.bytes());
    hash.update(salt);
    Zeroizing::new(hash.finalize().into())
}

fn bind(header: &[u8], name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(header);
    hash.update(name.as_bytes());
    hash.finalize().into()
}
