//! What leaves memory is sealed.
//!
//! The device is divided into regions. A region has a random key while a page of it is in
//! use, and none otherwise: when its last page is freed the key is wiped, and what is
//! still on the device is noise from then on. A page is encrypted with AES-256-GCM; its
//! nonce is the number of the write, counted over all writes of the device, so no two
//! writes share one. Number and tag stay in memory, and the tag covers whose page it is
//! (slot, generation) and where: contents that are old, torn, swapped or flipped are found.
//!
//! Without encryption the tag is a checksum over the same.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroize;

use super::super::{PageBytes, PageId};
use crate::sum::checksum;

/// Pages of a region: 512 KiB.
pub(super) const REGION_PAGES: u64 = 128;

/// What is kept in memory of a page on the device.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Seal {
    /// The number of the write.
    pub(super) number: u64,
    pub(super) tag: [u8; 16],
}

/// The key of a region, and how many pages need it.
pub(super) struct Region {
    key: [u8; 32],
    users: u16,
}

impl Region {
    pub(super) const UNUSED: Region = Region { key: [0; 32], users: 0 };

    /// One more page; the first makes the key. `false`: the system gives no random
    /// numbers.
    #[must_use]
    pub(super) fn join(&mut self) -> bool {
        if self.users == 0 && getrandom::fill(&mut self.key).is_err() {
            self.key.zeroize();
            return false;
        }
        self.users += 1;
        true
    }
    /// One page less; the last wipes the key.
    pub(super) fn leave(&mut self) {
        self.users = self.users.saturating_sub(1);
        if self.users == 0 {
            self.key.zeroize();
        }
    }
    /// A copy of the key, wiped by whoever uses it.
    pub(super) fn key(&self) -> Key {
        Key(self.key)
    }
    #[cfg(test)]
    pub(super) fn has_key(&self) -> bool {
        self.key != [0; 32]
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// A copy of a region's key.
pub(super) struct Key([u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn name(id: PageId, place: u64) -> [u8; 16] {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&id.0.to_le_bytes());
    name[8..].copy_from_slice(&place.to_le_bytes());
    name
}

fn nonce(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = Nonce::default();
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce
}

fn plain_tag(page: &PageBytes, id: PageId, place: u64, number: u64) -> [u8; 16] {
    let sum = |seed: u64| checksum(page, seed ^ number.rotate_left(32)).to_le_bytes();
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&sum(id.0));
    tag[8..].copy_from_slice(&sum(id.0 ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    tag
}

/// Makes `page` what is written to `place`. `None`: it could not be.
pub(super) fn seal(
    key: Option<&Key>,
    (id, place): (PageId, u64),
    number: u64,
    page: &mut PageBytes,
) -> Option<Seal> {
    let tag = match key {
        None => plain_tag(page, id, place, number),
        Some(key) => {
            let cipher = Aes256Gcm::new(&key.0.into());
            cipher
                .encrypt_inout_detached(&nonce(number), &name(id, place), page.as_mut_slice().into())
                .ok()?
                .into()
        }
    };
    Some(Seal { number, tag })
}

/// Makes `page`, as read from `place`, what it was. `false`: that is not what was written.
#[must_use]
pub(super) fn open(key: Option<&Key>, (id, place): (PageId, u64), seal: &Seal, page: &mut PageBytes) -> bool {
    match key {
        None => plain_tag(page, id, place, seal.number) == seal.tag,
        Some(key) => {
            let cipher = Aes256Gcm::new(&key.0.into());
            let tag = Tag::from(seal.tag);
            cipher
                .decrypt_inout_detached(
                    &nonce(seal.number),
                    &name(id, place),
                    page.as_mut_slice().into(),
                    &tag,
                )
                .is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_itself_opens() {
        let mut region = Region::UNUSED;
        assert!(region.join() && region.has_key());
        for key in [Some(region.key()), None] {
            let page: PageBytes = core::array::from_fn(|i| (i * 7) as u8);
            let mut sealed = page;
            let at = (PageId(0x1234), 9);
            let s = seal(key.as_ref(), at, 77, &mut sealed).expect("sealed");
            assert_eq!(key.is_some(), sealed != page);
            let mut back = sealed;
            assert!(open(key.as_ref(), at, &s, &mut back) && back == page);
            let other = Seal { number: 78, ..s };
            for (at, s) in [((PageId(0x1235), 9), s), ((PageId(0x1234), 8), s), (at, other)] {
                assert!(!open(key.as_ref(), at, &s, &mut sealed.clone()), "{at:?} {s:?}");
            }
            for bit in [0, 1, 17, 4096 * 8 - 1] {
                let mut flipped = sealed;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!open(key.as_ref(), at, &s, &mut flipped), "bit {bit}");
            }
        }
        region.leave();
        assert!(!region.has_key(), "wiped with the last page");
    }
}
