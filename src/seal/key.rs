//! Keys: the master key, and the epoch keys it wraps.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Error;
use super::header::{KIND_KEY, MAGIC, VERSION, preamble};
use crate::clock;
use crate::loops::Cipher;

/// The key from which everything else is opened. Kept by the operator, never in a zone.
#[derive(Clone)]
pub struct MasterKey {
    bytes: Zeroizing<[u8; 32]>,
    id: KeyId,
}

impl MasterKey {
    /// Reads 64 hexadecimal digits, or base64 of 32 bytes; white space around it is allowed.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let bytes = if text.len() == 64 { from_hex::<32>(text) } else { from_base64(text) };
        Ok(Self::from_bytes(bytes.ok_or(Error::NotAKey)?))
    }

    /// Makes a new key from the operating system's random source.
    pub fn generate() -> Self {
        Self::from_bytes(Zeroizing::new(clock::random()))
    }

    fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"pitrus master key");
        hash.update(bytes.as_slice());
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 8];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        MasterKey { bytes, id: KeyId(id) }
    }

    /// Returns what may be shown of it: half a hash of a hash tells nothing of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the key as 64 hexadecimal digits, for the operator's file.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(to_hex(self.bytes.as_slice()))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $type:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub [u8; $bytes]);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(s: &str) -> Result<Self, Error> {
                from_hex(s).map(|bytes| $type(*bytes)).ok_or(Error::NotAKey)
            }
        }
    };
}

hex_id!(
    /// Names a master key: the first bytes of a hash of it.
    KeyId,
    8
);
hex_id!(
    /// Names an epoch key: its making in microseconds of Unix time (big-endian), then 8 random bytes,
    /// so that ids sort by age.
    EpochId,
    16
);

/// A key that wraps the data keys of many objects. Stored wrapped for the master key.
#[derive(Clone)]
pub struct EpochKey {
    id: EpochId,
    bytes: Zeroizing<[u8; 32]>,
}

/// A key object: magic, version, kind, master id, epoch id, nonce, wrapped key, tag.
const KEY_OBJECT_BYTES: usize = 8 + 8 + 16 + 12 + 32 + 16;

impl EpochKey {
    /// Makes a new key that begins now.
    pub fn generate() -> Self {
        let born = clock::now().unix_micros().unsigned_abs().to_be_bytes();
        let chance = clock::random::<8>();
        let mut id = [0; 16];
        id.iter_mut().zip(born.into_iter().chain(chance)).for_each(|(to, from)| *to = from);
        EpochKey { id: EpochId(id), bytes: Zeroizing::new(clock::random()) }
    }

    pub fn id(&self) -> EpochId {
        self.id
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Returns the key object that is stored under `name`.
    pub fn wrap(&self, master: &MasterKey, name: &str) -> Vec<u8> {
        let nonce = clock::random::<12>();
        let mut object = Vec::with_capacity(KEY_OBJECT_BYTES);
        object.extend_from_slice(MAGIC);
        object.extend_from_slice(&[VERSION, KIND_KEY]);
        object.extend_from_slice(&master.id.0);
        object.extend_from_slice(&self.id.0);
        let mut wrapped = *self.bytes;
        let tag = Cipher::new(&master.bytes).seal(nonce, &[&object, name.as_bytes()], &mut wrapped);
        object.extend_from_slice(&nonce);
        object.extend_from_slice(&wrapped);
        object.extend_from_slice(&tag);
        object
    }

    /// Opens a key object. [`Error::OtherMaster`] where it was wrapped for another master key;
    /// [`Error::Damaged`] where it was wrapped for this one and is not what was stored.
    pub fn unwrap(master: &MasterKey, name: &str, object: &[u8]) -> Result<Self, Error> {
        let damaged = |problem| Error::Damaged { name: name.to_owned(), problem };
        let (_, mut rest) = preamble(name, object, KIND_KEY, VERSION)?;
        if object.len() != KEY_OBJECT_BYTES {
            return Err(damaged("it has not the length of a key object"));
        }
        let short = || damaged("it ends too early");
        let wanted = KeyId(take(&mut rest).ok_or_else(short)?);
        let id = EpochId(take(&mut rest).ok_or_else(short)?);
        let nonce: [u8; 12] = take(&mut rest).ok_or_else(short)?;
        let wrapped: [u8; 32] = take(&mut rest).ok_or_else(short)?;
        let tag: [u8; 16] = take(&mut rest).ok_or_else(short)?;
        if wanted != master.id {
            return Err(Error::OtherMaster { name: name.to_owned(), wanted, given: master.id });
        }
        let bound = object.get(..8 + 8 + 16).ok_or_else(short)?;
        let mut bytes = Zeroizing::new(wrapped);
        Cipher::new(&master.bytes)
            .open(nonce, &[bound, name.as_bytes()], bytes.as_mut_slice(), tag)
            .ok_or_else(|| damaged("the wrapped key, or its name, is not what was stored"))?;
        Ok(EpochKey { id, bytes })
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKey({})", self.id)
    }
}

/// The epoch keys at hand, by id.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<EpochId, EpochKey>,
}

impl KeyRing {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, key: EpochKey) {
        self.keys.insert(key.id, key);
    }

    pub fn get(&self, id: EpochId) -> Option<&EpochKey> {
        self.keys.get(&id)
    }

    /// Returns the youngest key: new objects are sealed under it.
    pub fn current(&self) -> Option<&EpochKey> {
        self.keys.values().next_back()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Takes the first `N` bytes off.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all text");
        text
    })
}

fn from_hex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    for (to, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *to = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// Reads standard or URL-safe base64 of 32 bytes, with or without its padding.
fn from_base64(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.strip_suffix('=').unwrap_or(text);
    if digits.len() != 43 {
        return None;
    }
    let mut bytes = Zeroizing::new([0_u8; 32]);
    let (mut held, mut bits, mut place) = (0_u32, 0_u32, bytes.iter_mut());
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            *place.next()? = u8::try_from(held >> bits).ok()?;
            held &= (1 << bits) - 1;
        }
    }
    // 43 digits carry two bits more than 32 bytes.
    (held == 0).then_some(bytes)
}
