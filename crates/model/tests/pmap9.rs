//! `pmap(9)` on page tables of every format, on hardware that does everything the
//! manuals allow: with and without hardware that notes use and writes.

use machvm_model::conformance::HwFixture;
use machvm_model::{pmap9_bootstrap_conformance, pmap9_conformance, seed_from_env};

/// Machines that each test is made on, with seeds that follow each other from
/// `MACHVM_SEED`.
const MACHINES: u64 = 4;

macro_rules! formats {
    ($($name:ident: $format:ty, $bits:expr;)*) => {$(
        mod $name {
            use super::*;
            use machvm_pmap::pte::*;
            fn machine(i: u64) -> HwFixture<$format> {
                HwFixture::new(seed_from_env(1) + i, $bits)
            }
            pmap9_conformance!(MACHINES, machine);
            pmap9_bootstrap_conformance!(MACHINES, machine);
        }
    )*};
}
formats! {
    x86_4_levels: X86L4, true;
    x86_5_levels: X86L5, true;
    aarch64: Aarch64, true;
    aarch64_without_bits: Aarch64, false;
    sv39: Sv39, true;
    sv39_without_bits: Sv39, false;
    sv48: Sv48, true;
    sv57_without_bits: Sv57, false;
}
