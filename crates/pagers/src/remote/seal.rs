//! What leaves the machine is sealed, as on disks: AES-256-GCM, or a checksum where the user
//! asked for plain contents. Either covers whose contents they are.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroize;

use crate::sum::checksum;

/// Bytes before the contents: tag or checksum.
pub(super) const OVERHEAD: usize = 16;

/// A key; wiped when dropped.
#[derive(Clone)]
pub(super) struct Key([u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl From<[u8; 32]> for Key {
    fn from(mut bytes: [u8; 32]) -> Key {
        let key = Key(bytes);
        bytes.zeroize();
        key
    }
}

impl Key {
    /// `None`: the system gives no random numbers.
    pub(super) fn random() -> Option<Key> {
        let mut key = Key([0; 32]);
        getrandom::fill(&mut key.0).ok()?;
        Some(key)
    }
    /// A key of its own for everybody with another `salt`: AES in counter mode from there,
    /// which tells nothing of this key.
    pub(super) fn derive(&self, salt: &[u8; 12]) -> Option<Key> {
        let mut key = Key([0; 32]);
        let nonce = Nonce::from(*salt);
        Aes256Gcm::new(&self.0.into())
            .encrypt_inout_detached(&nonce, &[], key.0.as_mut_slice().into())
            .ok()?;
        Some(key)
    }
}

fn sums(body: &[u8], name: &[u8], number: u128) -> [u8; OVERHEAD] {
    let seed = checksum(name, number as u64 ^ (number >> 64) as u64);
    let mut tag = [0; OVERHEAD];
    tag[..8].copy_from_slice(&checksum(body, seed).to_le_bytes());
    tag[8..].copy_from_slice(&checksum(body, !seed).to_le_bytes());
    tag
}

/// The number as a nonce. Of its 128 bits the upper 32 are 0.
fn nonce(number: u128) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(&number.to_le_bytes()[..12]);
    nonce
}

/// Seals `blob`, whose first [`OVERHEAD`] bytes are free, for who knows the `name`. With one
/// key no `number` (below 2^96) is used for two contents. `false`: it could not be.
#[must_use]
pub(super) fn seal(key: Option<&Key>, number: u128, name: &[u8], blob: &mut [u8]) -> bool {
    let Some((tag, body)) = blob.split_first_chunk_mut::<OVERHEAD>() else { return false };
    *tag = match key {
        None => sums(body, name, number),
        Some(key) => {
            let cipher = Aes256Gcm::new(&key.0.into());
            match cipher.encrypt_inout_detached(&nonce(number), name, body.into()) {
                Ok(made) => made.into(),
                Err(_) => return false,
            }
        }
    };
    true
}

/// What was sealed; `None`: that is not it.
pub(super) fn open<'a>(key: Option<&Key>, number: u128, name: &[u8], blob: &'a mut [u8]) -> Option<&'a [u8]> {
    let (tag, body) = blob.split_first_chunk_mut::<OVERHEAD>()?;
    match key {
        None => (sums(body, name, number) == *tag).then_some(body),
        Some(key) => {
            let cipher = Aes256Gcm::new(&key.0.into());
            let tag = Tag::from(*tag);
            cipher.decrypt_inout_detached(&nonce(number), name, (&mut *body).into(), &tag).ok()?;
            Some(body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_opens() {
        let key = Key::random();
        let other = key.as_ref().and_then(|k| k.derive(&[1; 12]));
        for (key, other) in [(None, None), (key.as_ref(), other.as_ref())] {
            let mut blob = vec![0; OVERHEAD];
            blob.extend_from_slice(b"contents");
            assert!(seal(key, 7, b"me", &mut blob));
            assert_eq!(blob[OVERHEAD..] == *b"contents", key.is_none());
            let try_open = |key, number, name: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
                let mut copy = blob.clone();
                change(&mut copy);
                open(key, number, name, &mut copy).map(<[u8]>::to_vec)
            };
            assert_eq!(try_open(key, 7, b"me", &|_| {}).as_deref(), Some(&b"contents"[..]));
            assert_eq!(try_open(key, 8, b"me", &|_| {}), None);
            assert_eq!(try_open(key, 7, b"you", &|_| {}), None);
            for i in 0..blob.len() {
                assert_eq!(try_open(key, 7, b"me", &|b| b[i] ^= 4), None, "byte {i}");
            }
            assert_eq!(try_open(key, 7, b"me", &|b| b.truncate(OVERHEAD + 3)), None);
            assert_eq!(try_open(key, 7, b"me", &|b| b.truncate(3)), None);
            if other.is_some() {
                assert_eq!(try_open(other, 7, b"me", &|_| {}), None);
            }
        }
    }
}
