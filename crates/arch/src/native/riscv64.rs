//! RISC-V, 64 bits.

use core::arch::asm;

use machvm_hal::Va;

use crate::riscv::RiscvIsa;
use crate::tlb::Asid;

/// The hart that executes the call.
#[derive(Debug)]
pub struct Cpu(());

impl Cpu {
    /// # Safety
    /// As long as the value lives:
    /// 1. Whoever calls its methods runs in S-mode with mstatus.TVM clear, and stays on
    ///    one hart during a sequence of calls that belong together.
    /// 2. Values written to satp name a mode that the hart has and the root of page
    ///    tables that map the kernel's code, stack and data as they are mapped now.
    /// 3. Nothing is accessed through translations that the tables do not give, as long
    ///    as the flushes that take them away are not complete.
    pub const unsafe fn new() -> Self {
        Cpu(())
    }
}

impl RiscvIsa for Cpu {
    #[inline]
    fn sfence_vma(&self, va: Option<Va>, asid: Option<Asid>) {
        // `reg` is never x0, which would mean all of them.
        // SAFETY: privileged by 1; it forgets translations, which changes no memory that
        // is accessed by 3.
        unsafe {
            match (va.map(Va::get), asid.map(|a| u64::from(a.0))) {
                (None, None) => asm!("sfence.vma x0, x0", options(nostack, preserves_flags)),
                (Some(v), None) => asm!("sfence.vma {}, x0", in(reg) v, options(nostack, preserves_flags)),
                (None, Some(a)) => asm!("sfence.vma x0, {}", in(reg) a, options(nostack, preserves_flags)),
                (Some(v), Some(a)) => {
                    asm!("sfence.vma {}, {}", in(reg) v, in(reg) a, options(nostack, preserves_flags));
                }
            }
        }
    }

    #[inline]
    fn fence(&self) {
        // SAFETY: barriers wait and do nothing else.
        unsafe { asm!("fence rw, rw", options(nostack, preserves_flags)) }
    }

    #[inline]
    fn write_satp(&self, value: u64) {
        // SAFETY: privileged by 1; this code and what it uses stay mapped by 2.
        unsafe { asm!("csrw satp, {}", in(reg) value, options(nostack, preserves_flags)) }
    }
}
