//! AArch64.

use core::arch::asm;

use crate::arm::{ArmIsa, Dsb, Tlbi};

/// The CPU that executes the call.
#[derive(Debug)]
pub struct Cpu(());

impl Cpu {
    /// # Safety
    /// As long as the value lives:
    /// 1. Whoever calls its methods runs at EL1 (or at EL2 with HCR_EL2.{E2H, TGE} set),
    ///    and stays on one CPU during a sequence of calls that belong together.
    /// 2. Values written to TTBR0_EL1 name the root of page tables of the format that
    ///    TCR_EL1 says; what the kernel itself uses in that half stays mapped as it is.
    /// 3. Nothing is accessed through translations that the tables do not give, as long
    ///    as the flushes that take them away are not complete.
    pub const unsafe fn new() -> Self {
        Cpu(())
    }
}

/// One arm for each operation: the mnemonic is part of the instruction.
macro_rules! tlbi {
    ($op:expr, $operand:expr; $($name:ident = $text:literal),* ; $all:ident = $all_text:literal) => {
        match $op {
            $(
                // SAFETY: privileged by 1; it forgets translations, which changes no
                // memory that is accessed by 3. No operand faults.
                Tlbi::$name => unsafe {
                    asm!(concat!("tlbi ", $text, ", {}"), in(reg) $operand, options(nostack, preserves_flags));
                },
            )*
            // SAFETY: as above.
            Tlbi::$all => unsafe { asm!(concat!("tlbi ", $all_text), options(nostack, preserves_flags)) },
        }
    };
}

impl ArmIsa for Cpu {
    #[inline]
    fn dsb(&self, kind: Dsb) {
        // SAFETY: barriers wait and do nothing else.
        unsafe {
            match kind {
                Dsb::Ish => asm!("dsb ish", options(nostack, preserves_flags)),
                Dsb::Ishst => asm!("dsb ishst", options(nostack, preserves_flags)),
                Dsb::Nsh => asm!("dsb nsh", options(nostack, preserves_flags)),
                Dsb::Nshst => asm!("dsb nshst", options(nostack, preserves_flags)),
            }
        }
    }

    #[inline]
    fn isb(&self) {
        // SAFETY: as for `dsb`.
        unsafe { asm!("isb", options(nostack, preserves_flags)) }
    }

    #[inline]
    fn tlbi(&self, op: Tlbi, operand: u64) {
        tlbi!(op, operand;
            VAE1IS = "vae1is", VALE1IS = "vale1is", VAAE1IS = "vaae1is", VAALE1IS = "vaale1is",
            ASIDE1IS = "aside1is", VAE1 = "vae1", VAAE1 = "vaae1", ASIDE1 = "aside1";
            VMALLE1IS = "vmalle1is");
    }

    #[inline]
    fn write_ttbr0(&self, value: u64) {
        // SAFETY: privileged by 1; this code and what it uses stay mapped by 2.
        unsafe { asm!("msr ttbr0_el1, {}", in(reg) value, options(nostack, preserves_flags)) }
    }
}
