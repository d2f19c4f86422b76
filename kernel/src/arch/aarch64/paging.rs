//! The kernel's own half, which has a root of its own (TTBR1): the direct map and the space for stacks, heap and slabs.
//! These tables are made here and never change hands; the pmap has a part of the half for itself.

use core::arch::asm;
use core::sync::atomic::Ordering;

use machvm_arch::Arm;
use machvm_arch::native::Cpu;
use machvm_hal::Pfn;
use machvm_pmap::HwBits;

use super::super::single::Table;
use super::super::tables::{index, leaf};
use super::boot::DIRECT_TABLE;
use crate::arch::{DIRECT, VSPACE};

/// The format of this machine's tables.
pub(crate) type Format = machvm_pmap::pte::Aarch64;
/// Invalidation.
pub(crate) type NativeTlb = Arm<Cpu>;

/// Bits of entries: it is there; a table, or a page of the lowest level; inner shareable; accessed; not executed by the
/// kernel, by programs.
pub(in crate::arch) const VALID: u64 = 1;
const TABLE: u64 = 2;
const SHARED: u64 = 3 << 8;
const USED: u64 = 1 << 10;
const KERNEL_NO_EXECUTE: u64 = 1 << 53;
const NO_EXECUTE: u64 = KERNEL_NO_EXECUTE | 1 << 54;
/// The third kind of memory in MAIR_EL1: devices.
const DEVICE: u64 = 2 << 2;
const ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;

/// Blocks, at address 0: memory; registers of devices; memory with the kernel's code.
pub(super) const MEMORY: u64 = VALID | SHARED | USED | NO_EXECUTE;
pub(super) const REGISTERS: u64 = VALID | DEVICE | USED | NO_EXECUTE;
pub(super) const EXECUTABLE: u64 = MEMORY & !KERNEL_NO_EXECUTE;

/// The root that the kernel begins with.
pub(super) static ROOT: Table = Table::empty();

/// The address in an entry.
pub(in crate::arch) fn frame_of(word: u64) -> u64 {
    word & ADDRESS
}
/// An entry that leads to a table.
pub(in crate::arch) fn pointer(table: u64) -> u64 {
    table | TABLE | VALID
}

/// What was written to tables is seen, and nothing of before is remembered.
pub(super) fn forget() {
    // SAFETY: barriers, and translations are forgotten.
    unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) }
}

/// Gives [`VSPACE`] its table, and takes from the direct map what is no memory.
///
/// => `frame` gives zeroed frames.
pub(crate) fn extend_direct_map(end: u64, _memory_end: u64, frame: &mut dyn FnMut() -> Option<u64>) {
    assert!(end <= 512 << 30, "memory ends at {end:#x}: the direct map has 512 GiB");
    for block in &DIRECT_TABLE.0[end.div_ceil(1 << 30) as usize..] {
        block.store(0, Ordering::Release);
    }
    let vspace = frame().unwrap_or_else(|| panic!("no memory for the kernel's space"));
    ROOT.0[index(VSPACE, 4)].store(pointer(vspace), Ordering::Release);
    forget();
}

/// What the kernel's root has besides the pmap's own: index and word.
pub(crate) fn kernel_entries() -> [(usize, u64); 3] {
    [DIRECT, VSPACE, u64::MAX].map(|va| (index(va, 4), ROOT.0[index(va, 4)].load(Ordering::Acquire)))
}

/// Maps one frame at an address of [`VSPACE`], where nothing was. `None`: no table.
///
/// => callers take turns.
pub(crate) fn map_kernel_page(va: u64, to: Pfn, frame: &mut dyn FnMut() -> Option<u64>) -> Option<()> {
    let third = frame_of(ROOT.0[index(va, 4)].load(Ordering::Acquire));
    leaf(third, va, frame)?.store(to.byte() | TABLE | MEMORY, Ordering::Release);
    // What is not valid is not remembered.
    // SAFETY: barriers.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) }
    Some(())
}

/// TCR_EL1, which says what boot found out.
fn tcr() -> u64 {
    let tcr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, tcr_el1", out(reg) tcr, options(nomem, nostack, preserves_flags)) }
    tcr
}

/// This machine's flush sequences.
pub(crate) fn make_tlb() -> NativeTlb {
    // SAFETY: 1. The kernel runs at EL1 and pins threads around sequences. 2. Roots come from the pmap; the kernel uses
    // nothing of that half. 3. The pmap's and the core's rules.
    Arm::new(unsafe { Cpu::new() }, tcr() & 1 << 36 != 0)
}

/// What the MMU notes in entries by itself: TCR_EL1.{HA, HD}, which boot set where the CPU can do it.
pub(crate) fn hw_bits() -> HwBits {
    let tcr = tcr();
    let mut bits = HwBits::empty();
    bits.set(HwBits::ACCESSED, tcr & 1 << 39 != 0);
    bits.set(HwBits::DIRTY, tcr & 1 << 40 != 0);
    bits
}

/// The pmap's root of the kernel's half: walked from now on, with what [`kernel_entries`] told in it.
pub(crate) fn use_kernel_root(root: Pfn) {
    // SAFETY: the root has all that the kernel uses; what the old one had besides is forgotten.
    unsafe {
        asm!("dsb ishst", "msr ttbr1_el1, {}", "isb", in(reg) root.byte(), options(nostack, preserves_flags));
    }
    forget();
}
