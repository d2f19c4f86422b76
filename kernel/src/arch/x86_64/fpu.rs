//! Vector registers: saved and loaded whole by XSAVE. The kernel uses none.

use core::arch::asm;

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::cpu::cpuid;

/// Room for AVX-512 and what is smaller.
const ROOM: usize = 2816;

/// A thread's vector registers.
#[repr(C, align(64))]
pub(crate) struct FpuState([u8; ROOM]);

/// Bytes that XSAVE writes, and the parts of the state that are switched on.
static SIZE: AtomicUsize = AtomicUsize::new(ROOM);
static FEATURES: AtomicU64 = AtomicU64::new(3);

/// Bytes of a saved state.
pub(super) fn size() -> usize {
    SIZE.load(Ordering::Relaxed)
}
/// XCR0.
pub(super) fn features() -> u64 {
    FEATURES.load(Ordering::Relaxed)
}

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
    SIZE.store(size as usize, Ordering::Relaxed);
    FEATURES.store(wanted.into(), Ordering::Relaxed);
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
    /// A state that a program wrote, made such that loading it cannot fault. `image`: at most as long as a state.
    pub(crate) fn from_program(image: &[u8]) -> Self {
        let mut s = FpuState([0; ROOM]);
        s.0[..image.len()].copy_from_slice(image);
        // Bits of MXCSR that are none, parts that are off, the compact form, reserved bytes of the header.
        s.0[26..28].fill(0);
        let parts = u64::from_le_bytes(s.0[512..520].try_into().unwrap_or_default()) & features();
        s.0[512..520].copy_from_slice(&parts.to_le_bytes());
        s.0[520..576].fill(0);
        s
    }
    /// The saved bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
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

/// Why a floating-point instruction faulted, as SIGFPE's code says it: what is not masked in x87's or SSE's status.
pub(crate) fn float_code() -> i32 {
    let (mut status, mut control, mut mxcsr): (u16, u16, u32) = (0, 0, 0);
    // SAFETY: they write the three words.
    unsafe {
        asm!("fnstsw [{}]", "fnstcw [{}]", "stmxcsr [{}]", in(reg) &raw mut status, in(reg) &raw mut control,
            in(reg) &raw mut mxcsr, options(nostack, preserves_flags));
    }
    let x87 = u32::from(status) & !u32::from(control);
    let sse = mxcsr & !(mxcsr >> 7);
    match x87 & 0x3f | sse & 0x3f {
        e if e & 1 != 0 => 7,
        e if e & 4 != 0 => 3,
        e if e & 8 != 0 => 4,
        e if e & 0x12 != 0 => 5,
        _ => 6,
    }
}
