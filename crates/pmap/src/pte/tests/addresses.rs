//! Virtual addresses: which there are, and which entry leads to them.

use super::{Manual, each_format};
use crate::pte::{Aarch64, Aarch64Granule16, Aarch64Granule64, Format, Sv39, Sv48, Sv57, X86L4, X86L5};

/// `user` and `kernel`: the last address of the lower half and the first of the upper.
fn halves<F: Format>(user: u64, kernel: u64) {
    for va in [0, 1, 0xfff, 0x1000, user - 1, user] {
        assert!(F::canonical(va) && !F::is_kernel(va), "{} {va:#x}", F::NAME);
    }
    for va in [kernel, kernel + 1, u64::MAX - 1, u64::MAX] {
        assert!(F::canonical(va) && F::is_kernel(va), "{} {va:#x}", F::NAME);
    }
    for va in [user + 1, user + 2, 1 << 63, (1 << 63) - 1, u64::MAX >> 1, kernel - 2, kernel - 1] {
        assert!(!F::canonical(va), "{} {va:#x}", F::NAME);
    }
    // Each bit of an upper half alone.
    for n in 0..64 {
        let va = 1u64 << n;
        assert_eq!(F::canonical(va), va <= user, "{} {va:#x}", F::NAME);
        assert_eq!(F::canonical(!va), !va >= kernel, "{} {:#x}", F::NAME, !va);
    }
}

#[test]
fn halves_end_where_the_manuals_say() {
    // SDM 1 section 3.3.7.1: bits 63:47, with 5 levels 63:56, are equal.
    halves::<X86L4>(0x0000_7fff_ffff_ffff, 0xffff_8000_0000_0000);
    halves::<X86L5>(0x00ff_ffff_ffff_ffff, 0xff00_0000_0000_0000);
    // Arm ARM D8: 48 bits on each side, bit 47 included.
    halves::<Aarch64>(0x0000_ffff_ffff_ffff, 0xffff_0000_0000_0000);
    halves::<Aarch64Granule16>(0x0000_ffff_ffff_ffff, 0xffff_0000_0000_0000);
    halves::<Aarch64Granule64>(0x0000_ffff_ffff_ffff, 0xffff_0000_0000_0000);
    // Sv39: bits 63:39 equal bit 38; Sv48: 63:48 bit 47; Sv57: 63:57 bit 56.
    halves::<Sv39>(0x0000_003f_ffff_ffff, 0xffff_ffc0_0000_0000);
    halves::<Sv48>(0x0000_7fff_ffff_ffff, 0xffff_8000_0000_0000);
    halves::<Sv57>(0x00ff_ffff_ffff_ffff, 0xff00_0000_0000_0000);
}

/// What an entry of each level maps (log2), from level 1, and entries of each table.
fn shape<F: Format>(shifts: &[u32], entries: &[usize], max_leaf: u8) {
    assert_eq!(usize::from(F::LEVELS), shifts.len(), "{}", F::NAME);
    assert_eq!(F::MAX_LEAF_LEVEL, max_leaf, "{}", F::NAME);
    assert_eq!(F::GRANULE_SHIFT, shifts[0], "{}", F::NAME);
    for (level, (shift, entries)) in (1..).zip(shifts.iter().zip(entries)) {
        assert_eq!((F::shift(level), F::entries(level)), (*shift, *entries), "{} level {level}", F::NAME);
    }
}

#[test]
fn levels_cover_what_the_manuals_say() {
    let t = 512;
    shape::<X86L4>(&[12, 21, 30, 39], &[t; 4], 3);
    shape::<X86L5>(&[12, 21, 30, 39, 48], &[t; 5], 3);
    shape::<Aarch64>(&[12, 21, 30, 39], &[t; 4], 3);
    // Arm ARM D8: VA[47] alone indexes level 0, VA[47:42] level 1.
    shape::<Aarch64Granule16>(&[14, 25, 36, 47], &[2048, 2048, 2048, 2], 2);
    shape::<Aarch64Granule64>(&[16, 29, 42], &[8192, 8192, 64], 2);
    shape::<Sv39>(&[12, 21, 30], &[t; 3], 3);
    shape::<Sv48>(&[12, 21, 30, 39], &[t; 4], 4);
    shape::<Sv57>(&[12, 21, 30, 39, 48], &[t; 5], 5);
}

/// Arm has rights above leaves (APTable) and a root for each half; x86-64 the rights; RISC-V
/// neither.
#[test]
fn what_the_machines_have() {
    fn has<F: Format>() -> (bool, bool) {
        (F::UPPER_RIGHTS, F::SPLIT_ROOT)
    }
    assert_eq!([has::<X86L4>(), has::<X86L5>()], [(true, false); 2]);
    assert_eq!([has::<Aarch64>(), has::<Aarch64Granule16>(), has::<Aarch64Granule64>()], [(true, true); 3]);
    assert_eq!([has::<Sv39>(), has::<Sv48>(), has::<Sv57>()], [(false, false); 3]);
}

fn indices<F: Manual>() {
    for level in 1..=F::LEVELS {
        let last = F::entries(level) - 1;
        let size = 1u64 << F::shift(level);
        assert_eq!(F::index(0, level), 0, "{}", F::NAME);
        assert_eq!(F::index(u64::MAX, level), last, "{}", F::NAME);
        assert_eq!(F::index(size - 1, level), 0, "{}", F::NAME);
        assert_eq!(F::index(size, level), 1, "{}", F::NAME);
        assert_eq!(F::index(last as u64 * size, level), last, "{}", F::NAME);
        // The next table begins again.
        if level < F::LEVELS {
            assert_eq!(F::index((last as u64 + 1) * size, level), 0, "{}", F::NAME);
            assert_eq!(F::shift(level) + F::index_bits(level), F::shift(level + 1), "{}", F::NAME);
        }
    }
    // The indices of an address and its offset are all of it.
    let va = 0x0000_1234_5678_9abc & ((1 << (F::shift(F::LEVELS) + F::index_bits(F::LEVELS))) - 1);
    let back = (1..=F::LEVELS).fold(va & ((1 << F::GRANULE_SHIFT) - 1), |sum, level| {
        sum | (F::index(va, level) as u64) << F::shift(level)
    });
    assert_eq!(back, va, "{}", F::NAME);
}

#[test]
fn indices_wrap_at_their_table() {
    each_format!(indices);
}

fn halves_of_the_root<F: Manual>() {
    let root = |va| F::index(va, F::LEVELS);
    let half = F::entries(F::LEVELS) / 2;
    if F::SPLIT_ROOT {
        // Two roots, both indexed from 0.
        assert_eq!((root(0), root(0xffff_0000_0000_0000)), (0, 0), "{}", F::NAME);
        assert_eq!(root(0x0000_ffff_ffff_ffff), F::entries(F::LEVELS) - 1, "{}", F::NAME);
    } else {
        let bits = F::shift(F::LEVELS) + F::index_bits(F::LEVELS);
        assert_eq!(root((1 << (bits - 1)) - 1), half - 1, "{}", F::NAME);
        assert_eq!(root(u64::MAX << (bits - 1)), half, "{}", F::NAME);
    }
}

#[test]
fn the_kernel_has_the_upper_half_of_the_root_or_its_own() {
    each_format!(halves_of_the_root);
}
