//! A cluster's contents.
//!
//! ```text
//!   0   4   "MVMC"
//!   4   1   version, 1
//!   5   1   pages, 1 to 64
//!   6   2   0
//!   8   2 n bytes of each page: 0 absent, 4096 as it is, else lz4
//!   ..      the pages
//! ```
//! Numbers are little-endian. Before it is [`OVERHEAD`] bytes for the seal.

use lz4_flex::block::{compress_into, decompress_into};

use super::seal::OVERHEAD;
use crate::tier::{PAGE, PageBytes};

/// Most pages of a cluster: one word has a bit for each.
pub(super) const MOST_PAGES: usize = 64;

const MAGIC: [u8; 4] = *b"MVMC";
const VERSION: u8 = 1;
const HEAD: usize = 8;

/// Makes a cluster of `n` pages; `page` fills in page `i`, or says that there is none.
pub(super) fn pack(n: usize, mut page: impl FnMut(usize, &mut PageBytes) -> bool) -> Vec<u8> {
    let n = n.min(MOST_PAGES);
    let mut blob = Vec::with_capacity(OVERHEAD + HEAD + n * (2 + PAGE));
    blob.resize(OVERHEAD, 0);
    blob.extend_from_slice(&MAGIC);
    blob.extend_from_slice(&[VERSION, n as u8, 0, 0]);
    let lens = blob.len();
    blob.resize(lens + 2 * n, 0);
    let (mut bytes, mut packed) = ([0; PAGE], [0; PAGE]);
    for i in 0..n {
        if !page(i, &mut bytes) {
            continue;
        }
        let data = match compress_into(&bytes, &mut packed[..PAGE - 1]) {
            Ok(len) if len != 0 => &packed[..len],
            _ => &bytes[..],
        };
        blob[lens + 2 * i..lens + 2 * i + 2].copy_from_slice(&(data.len() as u16).to_le_bytes());
        blob.extend_from_slice(data);
    }
    blob
}

/// Gives each page that is there to `each`. `false`: that is no cluster of `n` pages; pages
/// given before that are right only if the seal was.
#[must_use]
pub(super) fn unpack(body: &[u8], n: usize, mut each: impl FnMut(usize, &PageBytes)) -> bool {
    let Some((head, rest)) = body.split_first_chunk::<HEAD>() else { return false };
    if head[..4] != MAGIC || head[4] != VERSION || usize::from(head[5]) != n || rest.len() < 2 * n {
        return false;
    }
    let (lens, mut data) = rest.split_at(2 * n);
    let mut bytes = [0; PAGE];
    for (i, len) in lens.as_chunks::<2>().0.iter().enumerate() {
        let len = usize::from(u16::from_le_bytes(*len));
        if len == 0 {
            continue;
        }
        let Some((page, after)) = data.split_at_checked(len) else { return false };
        data = after;
        match len {
            PAGE => bytes.copy_from_slice(page),
            _ if decompress_into(page, &mut bytes).is_ok_and(|got| got == PAGE) => {}
            _ => return false,
        }
        each(i, &bytes);
    }
    data.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_come_back_and_nothing_else_passes() {
        let page = |i: usize| -> PageBytes {
            // Some compress well, some do not.
            let mut x = i as u64 + 1;
            core::array::from_fn(|k| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if i.is_multiple_of(2) { (k / 64) as u8 } else { (x >> 40) as u8 }
            })
        };
        for n in [1, 16, 64] {
            let blob = pack(n, |i, to| {
                *to = page(i);
                i % 3 != 1
            });
            let body = &blob[OVERHEAD..];
            let mut seen = 0u64;
            assert!(unpack(body, n, |i, got| {
                assert!(*got == page(i));
                seen |= 1 << i;
            }));
            let wanted = (0..n).filter(|i| i % 3 != 1).fold(0, |w, i| w | 1 << i);
            assert_eq!(seen, wanted);
            assert!(!unpack(body, n - 1, |_, _| {}) && !unpack(body, n + 1, |_, _| {}));
            for len in 0..body.len() {
                assert!(!unpack(&body[..len], n, |_, _| {}), "{len} bytes of {}", body.len());
            }
        }
    }
}
