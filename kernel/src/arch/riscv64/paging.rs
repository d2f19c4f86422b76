//! The kernel's own half: the direct map and the space for stacks, heap and slabs. These tables are made here and never
//! change hands; the pmap has a part of the half for itself.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use machvm_arch::native::Cpu;
use machvm_arch::{Mode, Riscv};
use machvm_hal::Pfn;
use machvm_pmap::HwBits;

use super::super::single::Table;
use super::super::tables::{index, leaf};
use super::KVA;
use super::boot::DIRECT_TABLE;
use crate::arch::{DIRECT, VSPACE};

/// The format of this machine's tables.
pub(crate) type Format = machvm_pmap::pte::Sv48;
/// Invalidation.
pub(crate) type NativeTlb = Riscv<Cpu>;

/// An entry is there.
pub(in crate::arch) const VALID: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 4;
const GLOBAL: u64 = 0x20;
/// A and D.
const USED: u64 = 0xc0;
const PPN: u64 = ((1 << 44) - 1) << 10;

/// The root that the kernel begins with.
pub(super) static ROOT: Table = Table::empty();

/// The address in an entry.
pub(in crate::arch) fn frame_of(word: u64) -> u64 {
    (word & PPN) << 2
}
/// An entry that leads to a table.
pub(in crate::arch) fn pointer(table: u64) -> u64 {
    table >> 2 | VALID
}

/// Gives [`VSPACE`] its table; the direct map has been complete since boot.
///
/// => `frame` gives zeroed frames.
pub(crate) fn extend_direct_map(end: u64, _memory_end: u64, frame: &mut dyn FnMut() -> Option<u64>) {
    assert!(end <= 512 << 30, "memory ends at {end:#x}: the direct map has 512 GiB");
    let vspace = frame().unwrap_or_else(|| panic!("no memory for the kernel's space"));
    ROOT.0[index(VSPACE, 4)].store(pointer(vspace), Ordering::Release);
    fence(None);
}

/// What every root has in its upper half besides the pmap's own: index and word.
pub(crate) fn kernel_entries() -> [(usize, u64); 3] {
    [DIRECT, VSPACE, u64::MAX].map(|va| (index(va, 4), ROOT.0[index(va, 4)].load(Ordering::Acquire)))
}

/// This hart forgets what it knows of an address, or of all.
fn fence(va: Option<u64>) {
    // SAFETY: forgets translations.
    unsafe {
        match va {
            Some(va) => asm!("sfence.vma {}, x0", in(reg) va, options(nostack)),
            None => asm!("sfence.vma", options(nostack)),
        }
    }
}

/// Maps one frame at an address of [`VSPACE`], where nothing was. `None`: no table.
///
/// => callers take turns.
pub(crate) fn map_kernel_page(va: u64, to: Pfn, frame: &mut dyn FnMut() -> Option<u64>) -> Option<()> {
    let third = frame_of(ROOT.0[index(va, 4)].load(Ordering::Acquire));
    leaf(third, va, frame)?.store(to.byte() >> 2 | VALID | READ | WRITE | GLOBAL | USED, Ordering::Release);
    // Also what is not valid may be remembered.
    fence(Some(va));
    Some(())
}

/// This machine's flush sequences. => satp has the root of boot.
pub(crate) fn make_tlb() -> NativeTlb {
    let (old, tried): (u64, u64);
    // SAFETY: the same root and mode under the highest number, and back; bits that satp.ASID has not stay zero.
    unsafe {
        asm!("csrr {}, satp", out(reg) old, options(nostack));
        asm!("csrw satp, {}", in(reg) old | 0xffff << 44, options(nostack));
        asm!("csrr {}, satp", out(reg) tried, options(nostack));
        asm!("csrw satp, {}", in(reg) old, options(nostack));
    }
    fence(None);
    let asids = ((tried >> 44 & 0xffff) + 1) as u32;
    // SAFETY: 1. The kernel runs in S-mode under OpenSBI, which leaves TVM clear, and pins threads around sequences.
    // 2. Sv48 is on already; roots come from the pmap, which puts the kernel's upper entries in each. 3. The pmap's and
    // the core's rules.
    Riscv::new(unsafe { Cpu::new() }, Mode::Sv48, asids)
}

/// What the MMU notes in entries by itself: found out once, by a store through an entry without A and D.
pub(crate) fn hw_bits() -> HwBits {
    /// 0: not known; 1: nothing; 2: both.
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    if KNOWN.load(Ordering::Relaxed) == 0 {
        KNOWN.store(if notes_uses() { 2 } else { 1 }, Ordering::Relaxed);
    }
    if KNOWN.load(Ordering::Relaxed) == 2 { HwBits::all() } else { HwBits::empty() }
}

/// Does a store set A and D? => interrupts are off, at boot.
fn notes_uses() -> bool {
    static WORD: AtomicU64 = AtomicU64::new(0);
    const GIB: u64 = 1 << 30;
    // The last gigabyte of the direct map is no memory: it maps the one with WORD for a moment.
    let at = &raw const WORD as u64 - KVA;
    let last = &DIRECT_TABLE.0[511];
    let kept = last.swap((at & !(GIB - 1)) >> 2 | VALID | READ | WRITE | GLOBAL, Ordering::AcqRel);
    fence(None);
    // SAFETY: the store goes to WORD, or faults and is skipped: it has four bytes, and the handler changes t0 only.
    unsafe {
        asm!(
            "la   {new}, 2f",
            "csrrw {old}, stvec, {new}",
            "li   {new}, 1",
            ".option push",
            ".option norvc",
            "sd   {new}, ({at})",
            ".option pop",
            "csrw stvec, {old}",
            "j    3f",
            ".balign 4",
            "2: csrr t0, sepc",
            "addi t0, t0, 4",
            "csrw sepc, t0",
            "sret",
            "3:",
            at = in(reg) DIRECT + 511 * GIB + at % GIB,
            old = out(reg) _,
            new = out(reg) _,
            out("t0") _,
            options(nostack),
        );
    }
    let set = last.swap(kept, Ordering::AcqRel) & USED == USED;
    fence(None);
    set && WORD.load(Ordering::Relaxed) == 1
}
