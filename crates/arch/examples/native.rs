//! How a kernel makes its flush sequences, and what they compile to:
//!
//! ```sh
//! cargo rustc --release -p machvm-arch --example native -- --emit asm
//! ```
//!
//! A library, because it cannot run where there is no kernel of ours under it.
#![no_std]

use machvm_arch::Tlb;
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "x86_64"))]
use machvm_arch::native::Cpu;
use machvm_arch::{Asid, Space};
use machvm_hal::{Pfn, VaRange};

/// With PCIDs; the CPUs have INVPCID if `invpcid`.
///
/// # Safety
/// 1. That of [`Cpu::new`].
/// 2. CR4.PCIDE and CR4.PGE are set, and CPUs have INVPCID if `invpcid`.
#[cfg(target_arch = "x86_64")]
pub unsafe fn machine(invpcid: bool) -> impl Tlb {
    // SAFETY: 1 is the caller's.
    machvm_arch::X86::new(unsafe { Cpu::new() }, true, invpcid)
}

/// ASIDs of 16 bits if `wide`.
///
/// # Safety
/// 1. That of [`Cpu::new`].
/// 2. TCR_EL1.AS says the same as `wide`.
#[cfg(target_arch = "aarch64")]
pub unsafe fn machine(wide: bool) -> impl Tlb {
    // SAFETY: 1 is the caller's.
    machvm_arch::Arm::new(unsafe { Cpu::new() }, wide)
}

/// Sv39, with the 16 bits of satp.ASID if `asids`.
///
/// # Safety
/// 1. That of [`Cpu::new`].
/// 2. The harts have 16 bits of ASID if `asids`.
#[cfg(target_arch = "riscv64")]
pub unsafe fn machine(asids: bool) -> impl Tlb {
    // SAFETY: 1 is the caller's.
    machvm_arch::Riscv::new(unsafe { Cpu::new() }, machvm_arch::Mode::Sv39, if asids { 1 << 16 } else { 1 })
}

/// Takes `range` of a space away on this CPU, or on all of them.
#[inline(never)]
pub fn forget(on: &impl Tlb, space: Space, range: VaRange, tables: bool) {
    on.before();
    on.flush_range(space, range, tables);
    on.after();
}

/// Every method once, so that all instructions are compiled.
///
/// # Safety
/// That of [`machine`].
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "x86_64"))]
pub unsafe fn every_method(feature: bool, space: Space, range: VaRange, root: Pfn, asid: Asid) {
    // SAFETY: the caller's.
    let on = unsafe { machine(feature) };
    on.publish(space, range, feature);
    forget(&on, space, range, feature);
    on.flush_space(space);
    on.flush_all();
    on.after();
    on.spurious(space, range.start());
    on.switch(root, asid, feature);
}
