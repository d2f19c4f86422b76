//! What the 64 bits of a slot mean.
//!
//! ```text
//! 63 62 | 61 60 | 59 .. 57 | 56 ......... 28 | 27 ....... 0
//!   0   |   1   |  shard   |     handle      |  generation     a stored page
//!   0   |   2   |        a word, sign-extended from 60 bits    one word, repeated
//!   0   |   3   |     0            | a half word, twice        one word, repeated
//! ```
//!
//! The two top bits are zero so that a structure of the core can keep a slot and a
//! tag in one word.

use core::num::NonZeroU64;
use machvm_hal::SwapSlot;

/// Slots are smaller than two to the power of this.
pub const SLOT_BITS: u32 = 62;

const KIND_SHIFT: u32 = 60;
const STORED: u64 = 1;
const WORD: u64 = 2;
const TWICE: u64 = 3;
const SHARD_SHIFT: u32 = 57;
const HANDLE_SHIFT: u32 = 28;

/// Most shards that a slot can name.
pub(crate) const MAX_SHARDS: usize = 1 << (KIND_SHIFT - SHARD_SHIFT);
/// Bits of a handle's number.
pub(crate) const HANDLE_BITS: u32 = SHARD_SHIFT - HANDLE_SHIFT;
/// Bits of a generation.
pub(crate) const GENERATION_BITS: u32 = HANDLE_SHIFT;

/// A page in a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    /// Number of the handle in its shard.
    pub(crate) handle: u32,
    /// Which use of the handle it is.
    pub(crate) generation: u32,
}

/// What a slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// The page is in this shard.
    Stored(usize, Name),
    /// The page repeats this word.
    Filled(u64),
}

fn slot(kind: u64, rest: u64) -> Option<SwapSlot> {
    NonZeroU64::new(kind << KIND_SHIFT | rest).map(SwapSlot)
}

/// The slot of a stored page. `None` only if a number is too large.
pub(crate) fn stored(shard: usize, name: Name) -> Option<SwapSlot> {
    let fits =
        shard < MAX_SHARDS && name.handle >> HANDLE_BITS == 0 && name.generation >> GENERATION_BITS == 0;
    let rest =
        (shard as u64) << SHARD_SHIFT | u64::from(name.handle) << HANDLE_SHIFT | u64::from(name.generation);
    if fits { slot(STORED, rest) } else { None }
}

/// The slot that says it all, if `word` can be squeezed in.
pub(crate) fn filled(word: u64) -> Option<SwapSlot> {
    let (low, high) = (word as u32, (word >> 32) as u32);
    if extend(word) == word {
        slot(WORD, word & ((1 << KIND_SHIFT) - 1))
    } else if low == high {
        slot(TWICE, u64::from(low))
    } else {
        None
    }
}

/// The low 60 bits as a signed number.
fn extend(word: u64) -> u64 {
    const UNUSED: u32 = u64::BITS - KIND_SHIFT;
    ((word << UNUSED) as i64 >> UNUSED) as u64
}

/// Reads a slot. `None`: this pool never made it.
pub(crate) fn meaning(slot: SwapSlot) -> Option<Meaning> {
    let raw = slot.0.get();
    let rest = raw & ((1 << KIND_SHIFT) - 1);
    match raw >> KIND_SHIFT {
        STORED => Some(Meaning::Stored(
            (rest >> SHARD_SHIFT) as usize,
            Name {
                handle: (rest >> HANDLE_SHIFT) as u32 & ((1 << HANDLE_BITS) - 1),
                generation: rest as u32 & ((1 << GENERATION_BITS) - 1),
            },
        )),
        WORD => Some(Meaning::Filled(extend(rest))),
        TWICE if rest >> 32 == 0 => Some(Meaning::Filled(rest << 32 | rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_words_need_no_memory() {
        let bytes = (0..=255u64).map(|b| b * 0x0101_0101_0101_0101);
        for w in bytes.chain([0xdead_beef_dead_beef, 1, u64::MAX, 1 << 58, 0x7fff_ffff_f000]) {
            let s = filled(w).expect("fits");
            assert!(s.0.get() >> SLOT_BITS == 0);
            assert_eq!(meaning(s), Some(Meaning::Filled(w)));
        }
        assert_eq!(filled(0x1234_5678_9abc_def0), None);
    }

    proptest! {
        #[test]
        fn reading_inverts_writing(shard in 0..MAX_SHARDS, handle in 0u32..1 << 29, generation in 0u32..1 << 28) {
            let name = Name { handle, generation };
            let s = stored(shard, name).expect("fits");
            prop_assert!(s.0.get() >> SLOT_BITS == 0);
            prop_assert_eq!(meaning(s), Some(Meaning::Stored(shard, name)));
        }
        #[test]
        fn any_slot_is_read_and_a_filled_one_is_exact(raw in 1u64..) {
            if let Some(Meaning::Filled(w)) = NonZeroU64::new(raw).and_then(|r| meaning(SwapSlot(r))) {
                prop_assert_eq!(filled(w).and_then(meaning), Some(Meaning::Filled(w)));
            }
        }
    }
}
