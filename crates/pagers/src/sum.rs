//! The checksum over stored bytes, and the test for one repeated word.

use machvm_hal::PAGE_SIZE;

// Odd, without a pattern: the first digits of the fractions of sqrt(2), sqrt(3),
// sqrt(5), sqrt(7).
const KEY: [u64; 4] =
    [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

/// Both halves of a product, folded: every bit of `a` and `b` reaches the middle.
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    p as u64 ^ (p >> 64) as u64
}

fn word(b: &[u8; 64], i: usize) -> u64 {
    let (words, _) = b.as_chunks::<8>();
    u64::from_le_bytes(words[i])
}

fn stir(lanes: &mut [u64; 4], b: &[u8; 64]) {
    for (i, lane) in lanes.iter_mut().enumerate() {
        // The lane is added again so that a zero product does not forget the past.
        *lane = fold(*lane ^ word(b, 2 * i), KEY[i] ^ word(b, 2 * i + 1)).wrapping_add(lane.rotate_left(7));
    }
}

/// A checksum against damage, not against an adversary.
pub(crate) fn checksum(bytes: &[u8], seed: u64) -> u64 {
    let mut lanes = KEY.map(|k| k ^ seed);
    let (blocks, rest) = bytes.as_chunks::<64>();
    for b in blocks {
        stir(&mut lanes, b);
    }
    if !rest.is_empty() {
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        stir(&mut lanes, &last);
    }
    let len = bytes.len() as u64;
    fold(lanes[0] ^ lanes[1].rotate_left(17), lanes[2] ^ lanes[3].rotate_left(31) ^ KEY[0]) ^ lanes[1] ^ len
}

/// The word that the whole page repeats, if there is one.
pub(crate) fn repeated_word(page: &[u8; PAGE_SIZE as usize]) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let first = u64::from_ne_bytes(words[0]);
    // Eight words at a time: the compiler makes vectors of it.
    for block in words.as_chunks::<8>().0 {
        let differs = block.iter().fold(0, |d, w| d | (u64::from_ne_bytes(*w) ^ first));
        if differs != 0 {
            return None;
        }
    }
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_bit_counts() {
        let mut bytes = [0u8; 200];
        bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 31) as u8);
        for len in [1, 8, 63, 64, 65, 200] {
            let whole = checksum(&bytes[..len], 5);
            assert_ne!(whole, checksum(&bytes[..len - 1], 5), "length {len}");
            assert_ne!(whole, checksum(&bytes[..len], 6), "seed");
            for bit in 0..len * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(whole, checksum(&bytes[..len], 5), "bit {bit} of {len} bytes");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_trailing_zero_counts() {
        assert_ne!(checksum(&[1, 2, 3], 0), checksum(&[1, 2, 3, 0], 0));
    }

    #[test]
    fn one_odd_word_anywhere_is_seen() {
        let mut page = [0xa5u8; PAGE_SIZE as usize];
        assert_eq!(repeated_word(&page), Some(0xa5a5_a5a5_a5a5_a5a5));
        for at in 0..PAGE_SIZE as usize {
            page[at] ^= 0x10;
            assert_eq!(repeated_word(&page), None, "byte {at}");
            page[at] ^= 0x10;
        }
    }
}
