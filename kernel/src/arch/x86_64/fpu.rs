//! Vector registers: saved and loaded whole by XSAVE. The kernel uses none.

use core::arch::asm;

use super::cpu::cpuid;

/// Room for AVX-512 and what is smaller.
const ROOM: usize = 2816;

/// A thread's vector registers.
#[repr(C, align(64))]
pub(crate) struct FpuState([u8; ROOM]);

/// Switches XSAVE and AVX on.
pub(super) fn init() {
    let xsave = cpuid(1, 0).ecx & 1 << 26 != 0;
    assert!(xsave, "this kernel needs a CPU with XSAVE");
    // SAFETY: reads and writes CR4; OSXSAVE exists.
    unsafe {
        let mut cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nostack, preserves_flags));
        cr4 |= 1 << 18 | 1 << 9 | 1 << 10;
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
    }
    // x87, SSE, AVX, AVX-512, as far as they are there and fit.
    let mut wanted = cpuid(0xd, 0).eax & 0xe7;
    if wanted & 0xe0 != 0xe0 {
        wanted &= 7;
    }
    // SAFETY: XCR0 with bits that CPUID offers.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") wanted, in("edx") 0, options(nostack, preserves_flags)) }
    let size = cpuid(0xd, 0).ebx;
    assert!(size as usize <= ROOM, "vector state of {size} bytes: this kernel has room for {ROOM}");
}

impl FpuState {
    /// As at the start of a program.
    pub(crate) fn new() -> Self {
        let mut s = FpuState([0; ROOM]);
        s.0[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        s.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        // XSTATE_BV: x87 and SSE are as written here, the rest as at reset.
        s.0[512] = 3;
        s
    }
    /// Puts the registers here.
    pub(crate) fn save(&mut self) {
        // SAFETY: aligned to 64, as large as the state is (`init`).
        unsafe {
            asm!("xsave64 [{}]", in(reg) self.0.as_mut_ptr(), in("eax") !0, in("edx") !0, options(nostack, preserves_flags));
        }
    }
    /// Loads the registers from here.
    pub(crate) fn load(&self) {
        // SAFETY: as above; the contents came from `save` or `new`, so the header is good.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) self.0.as_ptr(), in("eax") !0, in("edx") !0, options(nostack, preserves_flags));
        }
    }
}
