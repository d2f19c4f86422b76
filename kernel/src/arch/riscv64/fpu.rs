//! Floating-point registers: saved and loaded whole. The kernel uses none.

use core::arch::asm;

/// Bytes of f0 to f31 and fcsr.
pub(super) const BYTES: usize = 32 * 8 + 4;

/// A thread's floating-point registers.
#[repr(C, align(16))]
pub(crate) struct FpuState([u8; BYTES]);

impl FpuState {
    /// As at the start of a program.
    pub(crate) fn new() -> Self {
        FpuState([0; BYTES])
    }
    /// A state that a program wrote. `image`: at most as long as a state.
    pub(crate) fn from_program(image: &[u8]) -> Self {
        let mut s = FpuState::new();
        s.0[..image.len()].copy_from_slice(image);
        s
    }
    /// The saved bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
    /// Puts the registers here.
    pub(crate) fn save(&mut self) {
        // SAFETY: as many bytes as are written; floating point is on.
        unsafe {
            asm!(
                ".altmacro",
                ".macro FSAVE n",
                "fsd f\\n, 8 * \\n({p})",
                ".endm",
                ".set i, 0",
                ".rept 32",
                "FSAVE %i",
                ".set i, i + 1",
                ".endr",
                ".purgem FSAVE",
                ".noaltmacro",
                "frcsr {t}",
                "sw {t}, 256({p})",
                p = in(reg) self.0.as_mut_ptr(),
                t = out(reg) _,
                options(nostack),
            );
        }
    }
    /// Loads the registers from here.
    pub(crate) fn load(&self) {
        // SAFETY: any bits are good; bits of fcsr that are none are ignored. No register is the kernel's.
        unsafe {
            asm!(
                ".altmacro",
                ".macro FLOAD n",
                "fld f\\n, 8 * \\n({p})",
                ".endm",
                ".set i, 0",
                ".rept 32",
                "FLOAD %i",
                ".set i, i + 1",
                ".endr",
                ".purgem FLOAD",
                ".noaltmacro",
                "lw {t}, 256({p})",
                "fscsr {t}",
                p = in(reg) self.0.as_ptr(),
                t = out(reg) _,
                options(nostack),
            );
        }
    }
}
