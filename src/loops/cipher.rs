//! AES-256-GCM in place: bytes, a nonce and what is bound to them -> ciphertext and tag, and back. Pure.
//!
//! Nonces are never made here: who seals sees to it that none is used twice under a key.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

/// AES-256-GCM under one key, which is zeroed when this is dropped.
#[derive(Clone)]
pub struct Cipher(Aes256Gcm);

impl Cipher {
    pub fn new(key: &[u8; 32]) -> Cipher {
        Cipher(Aes256Gcm::new(key.into()))
    }

    /// Encrypts in place and returns the tag. `bound` is authenticated as one text, joined.
    ///
    /// # Panics
    ///
    /// When `buffer` is longer than the 64 GiB that GCM allows.
    pub fn seal(&self, nonce: [u8; 12], bound: &[&[u8]], buffer: &mut [u8]) -> [u8; 16] {
        let tag = self
            .0
            .encrypt_inout_detached(&nonce.into(), &bound.concat(), InOutBuf::from(buffer))
            .expect("a chunk is far shorter than the 64 GiB that GCM allows");
        tag.into()
    }

    /// Decrypts in place; `None`, and unchanged bytes, where the tag does not fit.
    pub fn open(&self, nonce: [u8; 12], bound: &[&[u8]], buffer: &mut [u8], tag: [u8; 16]) -> Option<()> {
        self.0
            .decrypt_inout_detached(&nonce.into(), &bound.concat(), InOutBuf::from(buffer), &tag.into())
            .ok()
    }
}
