//! The serial line (an ns16550), and the interrupt controller (a PLIC) that tells of its bytes.

use crate::arch::direct;

const UART: u64 = 0x1000_0000;
/// Its interrupt.
const SOURCE: u32 = 10;
const PLIC: u64 = 0xc00_0000;
/// Of hart 0 in S-mode.
const CONTEXT: u64 = 1;
const ENABLE: u64 = PLIC + 0x2000 + 0x80 * CONTEXT;
const THRESHOLD: u64 = PLIC + 0x20_0000 + 0x1000 * CONTEXT;
const CLAIM: u64 = THRESHOLD + 4;

fn read(register: u64) -> u8 {
    // SAFETY: a register of the serial line's, in the direct map.
    unsafe { direct(UART + register).read_volatile() }
}
fn write(register: u64, v: u8) {
    // SAFETY: as above.
    unsafe { direct(UART + register).write_volatile(v) }
}
fn plic(at: u64) -> *mut u32 {
    direct(at).cast()
}

/// Sends a byte.
pub(crate) fn put(byte: u8) {
    while read(5) & 0x20 == 0 {
        core::hint::spin_loop();
    }
    write(0, byte);
}

/// A byte that came.
pub(crate) fn take() -> Option<u8> {
    (read(5) & 1 != 0).then(|| read(0))
}

/// From now on an interrupt says that bytes came. => once.
pub(crate) fn init_input() {
    // SAFETY: registers of the PLIC: the source's priority, what context 1 takes, and from which priority on.
    unsafe {
        plic(PLIC + 4 * u64::from(SOURCE)).write_volatile(1);
        plic(ENABLE).write_volatile(1 << SOURCE);
        plic(THRESHOLD).write_volatile(0);
    }
    // Queues of bytes on, interrupts of received bytes.
    write(2, 7);
    write(1, 1);
}

/// A device interrupted.
pub(super) fn interrupt() {
    // SAFETY: reading claims an interrupt, writing ends it.
    unsafe {
        let source = plic(CLAIM).read_volatile();
        if source == SOURCE {
            crate::fs::arrived();
        }
        if source != 0 {
            plic(CLAIM).write_volatile(source);
        }
    }
}
