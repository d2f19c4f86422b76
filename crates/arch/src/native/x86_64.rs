//! x86-64.

use core::arch::asm;

use machvm_hal::Va;

use crate::tlb::Asid;
use crate::x86::{Invpcid, X86Isa};

/// The CPU that executes the call.
#[derive(Debug)]
pub struct Cpu(());

impl Cpu {
    /// # Safety
    /// As long as the value lives:
    /// 1. Whoever calls its methods runs at CPL 0, and stays on one CPU during a
    ///    sequence of calls that belong together.
    /// 2. `invpcid` is called only on CPUs that have it, with a canonical address and a
    ///    PCID below 4096 (0 while CR4.PCIDE is clear).
    /// 3. Values written to CR3 name the root of page tables that map the kernel's code,
    ///    stack and data as they are mapped now, and set bit 63 only while CR4.PCIDE is set.
    /// 4. Values written to CR4 differ from what was read only in PGE.
    /// 5. Nothing is accessed through translations that the tables do not give, as long
    ///    as the flushes that take them away are not complete.
    pub const unsafe fn new() -> Self {
        Cpu(())
    }
}

impl X86Isa for Cpu {
    #[inline]
    fn invlpg(&self, va: Va) {
        // SAFETY: privileged by 1; it forgets translations, which changes no memory that
        // is accessed by 5. No fault: an address that is not canonical is ignored.
        unsafe { asm!("invlpg [{}]", in(reg) va.get(), options(nostack, preserves_flags)) }
    }

    #[inline]
    fn invpcid(&self, kind: Invpcid, pcid: Asid, va: Va) {
        let what = [u64::from(pcid.0), va.get()];
        // SAFETY: privileged by 1; exists and its operands are good by 2; reads the 16
        // bytes of `what`, which lives on; forgets translations, see `invlpg`.
        unsafe {
            asm!("invpcid {}, [{}]", in(reg) kind as u64, in(reg) &raw const what, options(nostack, preserves_flags));
        }
    }

    #[inline]
    fn read_cr3(&self) -> u64 {
        let value;
        // SAFETY: privileged by 1; reads a register.
        unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, preserves_flags)) }
        value
    }

    #[inline]
    fn write_cr3(&self, value: u64) {
        // SAFETY: privileged by 1; this code and what it uses stay mapped by 3.
        unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) }
    }

    #[inline]
    fn read_cr4(&self) -> u64 {
        let value;
        // SAFETY: privileged by 1; reads a register.
        unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, preserves_flags)) }
        value
    }

    #[inline]
    fn write_cr4(&self, value: u64) {
        // SAFETY: privileged by 1; only whether translations are kept as global changes
        // by 4.
        unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) }
    }
}
