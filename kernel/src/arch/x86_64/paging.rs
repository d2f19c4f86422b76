//! The kernel's own half: the direct map and the space for stacks, heap and slabs. These tables are made here and never
//! change hands; the pmap has a part of the half for itself.

use core::sync::atomic::Ordering;

use machvm_arch::X86;
use machvm_arch::native::Cpu;
use machvm_hal::Pfn;
use machvm_pmap::HwBits;

use super::super::tables::{below, entry, index, leaf};
use super::cpu::cpuid;
use crate::arch::{DIRECT, VSPACE};

/// The format of this machine's tables.
pub(crate) type Format = machvm_pmap::pte::X86L4;
/// Invalidation.
pub(crate) type NativeTlb = X86<Cpu>;

/// An entry is there.
pub(in crate::arch) const VALID: u64 = 1;
const WRITE: u64 = 2;
const LARGE: u64 = 0x80;
const GLOBAL: u64 = 0x100;
const UNCACHED: u64 = 0x18;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const MIB2: u64 = 2 << 20;

unsafe extern "C" {
    #[link_name = "boot_pml4"]
    safe static BOOT_PML4: u8;
}

fn has_pcid() -> bool {
    cpuid(1, 0).ecx & 1 << 17 != 0
}

/// Switches numbers of address spaces on, if this CPU has them. => CR3 is a table of boot's.
fn number_spaces() {
    if has_pcid() {
        // SAFETY: CR4.PCIDE may be set while CR3's low bits are zero, as they are at boot; CR4.PGE is set.
        unsafe {
            core::arch::asm!("mov {t}, cr4", "bts {t}, 17", "mov cr4, {t}", t = out(reg) _, options(nostack));
        }
    }
}

/// This CPU uses page tables as the first one does. => once on each other CPU, before it is said to be online.
pub(super) fn join() {
    number_spaces();
}

/// The table at the lowest addresses of boot's root: for CPUs that start there. 0: none.
pub(super) fn set_low(table: u64) {
    entry(root(), 0).store(if table == 0 { 0 } else { table | VALID | WRITE }, Ordering::Release);
}

/// This machine's flush sequences.
pub(crate) fn make_tlb() -> NativeTlb {
    number_spaces();
    let invpcid = cpuid(7, 0).ebx & 1 << 10 != 0;
    // SAFETY: 1. The kernel runs at CPL 0 and pins threads around sequences. 2. INVPCID is used if CPUID has it.
    // 3. Roots come from the pmap, which puts the kernel's upper entries in each. 4. Only `toggle_pge` writes CR4
    // through it. 5. The pmap's and the core's rules.
    X86::new(unsafe { Cpu::new() }, has_pcid(), invpcid)
}

/// The address in an entry.
pub(in crate::arch) fn frame_of(word: u64) -> u64 {
    word & FRAME
}
/// An entry that leads to a table.
pub(in crate::arch) fn pointer(table: u64) -> u64 {
    table | VALID | WRITE
}

fn root() -> u64 {
    &raw const BOOT_PML4 as u64
}

/// Maps all memory below `end`, at least 4 GiB, directly. What is not memory is uncached.
///
/// => `frame` gives zeroed frames of the first gigabyte.
pub(crate) fn extend_direct_map(end: u64, memory_end: u64, frame: &mut dyn FnMut() -> Option<u64>) {
    // The entry that boot shared with the kernel's addresses and the low ones is replaced by one of its own.
    let pdpt = frame().unwrap_or_else(|| panic!("no memory for the direct map"));
    let mut at = 0;
    while at < end.max(4 << 30) {
        let Some(pd) = below(pdpt, index(at, 3), frame) else { panic!("no memory for the direct map") };
        let cache = if at < memory_end || at >= 4 << 30 { 0 } else { UNCACHED };
        entry(pd, index(at, 2))
            .store(at | VALID | WRITE | LARGE | GLOBAL | NO_EXECUTE | cache, Ordering::Release);
        at += MIB2;
    }
    entry(root(), index(DIRECT, 4)).store(pdpt | VALID | WRITE, Ordering::Release);
    // Boot's low addresses go.
    entry(root(), 0).store(0, Ordering::Release);
    let vspace = frame().unwrap_or_else(|| panic!("no memory for the kernel's space"));
    entry(root(), index(VSPACE, 4)).store(vspace | VALID | WRITE, Ordering::Release);
    // SAFETY: loads the root that is loaded: forgets what boot had.
    unsafe { core::arch::asm!("mov {t}, cr3", "mov cr3, {t}", t = out(reg) _, options(nostack)) }
}

/// What every root has in its upper half besides the pmap's own: index and word.
pub(crate) fn kernel_entries() -> [(usize, u64); 3] {
    [DIRECT, VSPACE, super::KVA].map(|va| {
        let i = index(va, 4);
        (i, entry(root(), i).load(Ordering::Acquire))
    })
}

/// Maps one frame at an address of [`VSPACE`], where nothing was. `None`: no table.
///
/// => callers take turns.
pub(crate) fn map_kernel_page(va: u64, to: Pfn, frame: &mut dyn FnMut() -> Option<u64>) -> Option<()> {
    let pdpt = frame_of(entry(root(), index(va, 4)).load(Ordering::Acquire));
    leaf(pdpt, va, frame)?.store(to.byte() | VALID | WRITE | GLOBAL | NO_EXECUTE, Ordering::Release);
    Some(())
}

/// What the MMU notes in entries by itself.
pub(crate) fn hw_bits() -> HwBits {
    HwBits::all()
}
