//! Floating-point and vector registers: saved and loaded whole. The kernel uses none.

use core::arch::asm;

/// Bytes of FPSR, FPCR and v0 to v31, as they follow each other in a signal's frame.
pub(super) const BYTES: usize = 8 + 32 * 16;
/// Before them, so that the vectors are aligned.
const PAD: usize = 8;

/// A thread's floating-point and vector registers.
#[repr(C, align(16))]
pub(crate) struct FpuState([u8; PAD + BYTES]);

impl FpuState {
    /// As at the start of a program.
    pub(crate) fn new() -> Self {
        FpuState([0; PAD + BYTES])
    }
    /// A state that a program wrote. `image`: at most as long as a state.
    pub(crate) fn from_program(image: &[u8]) -> Self {
        let mut s = FpuState::new();
        s.0[PAD..PAD + image.len()].copy_from_slice(image);
        s
    }
    /// The saved bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[PAD..]
    }
    /// Puts the registers here.
    pub(crate) fn save(&mut self) {
        // SAFETY: as many bytes as are written; floating point is on.
        unsafe {
            asm!(
                ".arch_extension simd",
                ".set i, 0",
                ".altmacro",
                ".macro FSAVE m, n",
                "stp q\\m, q\\n, [{p}, #16 + 16 * \\m]",
                ".endm",
                ".rept 16",
                "FSAVE %i, %(i + 1)",
                ".set i, i + 2",
                ".endr",
                ".purgem FSAVE",
                ".noaltmacro",
                "mrs {s}, fpsr",
                "mrs {c}, fpcr",
                "stp {s:w}, {c:w}, [{p}, #8]",
                p = in(reg) self.0.as_mut_ptr(),
                s = out(reg) _,
                c = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
    /// Loads the registers from here.
    pub(crate) fn load(&self) {
        // SAFETY: any bits are good; bits of FPSR and FPCR that are none are ignored. No register is the kernel's.
        unsafe {
            asm!(
                ".arch_extension simd",
                ".set i, 0",
                ".altmacro",
                ".macro FLOAD m, n",
                "ldp q\\m, q\\n, [{p}, #16 + 16 * \\m]",
                ".endm",
                ".rept 16",
                "FLOAD %i, %(i + 1)",
                ".set i, i + 2",
                ".endr",
                ".purgem FLOAD",
                ".noaltmacro",
                "ldp {s:w}, {c:w}, [{p}, #8]",
                "msr fpsr, {s}",
                "msr fpcr, {c}",
                p = in(reg) self.0.as_ptr(),
                s = out(reg) _,
                c = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}
