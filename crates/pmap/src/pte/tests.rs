//! Tests of the formats: what holds of all of them (`laws`, `addresses`), and of each one
//! words and masks taken from its manual by hand.

use std::vec::Vec;

use machvm_hal::{Pfn, Prot};

use super::{Format, Leaf, MemAttr, Next};

mod aarch64;
mod addresses;
mod laws;
mod riscv;
mod x86;

/// What the manual says of a format. Shares no constant with the format itself.
trait Manual: Format {
    /// Width of a physical address.
    const PA_BITS: u32;
    /// Bits that a pointer at `level` may have set: all others are reserved, or have a
    /// meaning that we do not use.
    fn pointer_bits(level: u8) -> u64;
    /// The same of a leaf.
    fn leaf_bits(level: u8) -> u64;
    /// What comes back of a leaf.
    fn given_back(leaf: Leaf) -> Leaf;
}

/// Runs a test that is generic over the format on all of them.
macro_rules! each_format {
    ($test:ident) => {{
        $test::<crate::pte::X86L4>();
        $test::<crate::pte::X86L5>();
        $test::<crate::pte::Aarch64>();
        $test::<crate::pte::Aarch64Granule16>();
        $test::<crate::pte::Aarch64Granule64>();
        $test::<crate::pte::Sv39>();
        $test::<crate::pte::Sv48>();
        $test::<crate::pte::Sv57>();
    }};
}
use each_format;

/// Bits `high` to `low`, as manuals write it.
const fn bits(high: u32, low: u32) -> u64 {
    u64::MAX >> (63 - (high - low)) << low
}

/// Frames at the edges of a field of `width` bits, and patterns in between; every bit
/// once. The lowest `aligned` bits are clear.
fn frames(width: u32, aligned: u32) -> Vec<Pfn> {
    let all = bits(width - 1, aligned);
    let mut list: Vec<u64> = (aligned..width).map(|n| 1 << n).collect();
    list.extend([
        0,
        all,
        all & 0x5555_5555_5555_5555,
        all & 0xaaaa_aaaa_aaaa_aaaa,
        all & 0x0123_4567_89ab_cdef,
    ]);
    list.into_iter().map(Pfn).collect()
}

/// A leaf that everything about is plain: what a test names is what differs.
const PLAIN: Leaf = Leaf {
    pfn: Pfn(0),
    prot: Prot::R,
    user: false,
    global: false,
    accessed: false,
    dirty: false,
    wired: false,
    managed: false,
    contiguous: false,
    attr: MemAttr::WriteBack,
};

/// Every combination of what a leaf can say except its frame.
fn flags<F: Format>(level: u8) -> impl Iterator<Item = Leaf> {
    const RIGHTS: [Prot; 5] = [Prot::R, Prot::RW, Prot::R.union(Prot::X), Prot::ALL, Prot::X];
    const ATTRS: [MemAttr; 3] = [MemAttr::WriteBack, MemAttr::WriteCombining, MemAttr::Device];
    let runs = F::contiguous_bits(level) != 0;
    let count = if runs { 1 << 7 } else { 1 << 6 };
    RIGHTS.into_iter().flat_map(move |prot| {
        ATTRS.into_iter().flat_map(move |attr| {
            (0..count).map(move |n: u32| Leaf {
                pfn: Pfn(0),
                prot,
                user: n & 1 != 0,
                global: n & 2 != 0,
                accessed: n & 4 != 0,
                dirty: n & 8 != 0,
                wired: n & 16 != 0,
                managed: n & 32 != 0,
                contiguous: n & 64 != 0,
                attr,
            })
        })
    })
}

/// Every table pointer the format has, but for its frame.
fn pointers<F: Format>() -> [Next; 2] {
    let of = |write, detached| Next { pfn: Pfn(0), write, detached };
    [of(true, false), of(false, !F::UPPER_RIGHTS)]
}

/// The log2 of what is mapped at `level`, in frames.
fn frames_log2<F: Format>(level: u8) -> u32 {
    F::shift(level) - 12
}

/// SplitMix64: seeded numbers. `MACHVM_SEED` runs one seed again.
struct Numbers(u64);

impl Numbers {
    fn seeded(default: u64) -> (Self, u64) {
        let seed = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
        (Numbers(seed), seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
