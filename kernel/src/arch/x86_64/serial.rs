//! The serial line: output byte by byte, input by interrupt.

use super::cpu::{inb, outb};

const PORT: u16 = 0x3f8;
/// The IO APIC's registers, and its input for the first serial line.
const IO_APIC: u64 = 0xfec0_0000;
const INPUT: u32 = 4;

/// Sends a byte.
pub(crate) fn put(byte: u8) {
    while inb(PORT + 5) & 0x20 == 0 {
        core::hint::spin_loop();
    }
    outb(PORT, byte);
}

/// A byte that came.
pub(crate) fn take() -> Option<u8> {
    (inb(PORT + 5) & 1 != 0).then(|| inb(PORT))
}

fn write(register: u32, v: u32) {
    // SAFETY: the IO APIC's two windows, which the direct map maps uncached.
    unsafe {
        crate::arch::direct(IO_APIC).cast::<u32>().write_volatile(register);
        crate::arch::direct(IO_APIC + 0x10).cast::<u32>().write_volatile(v);
    }
}

/// From now on an interrupt says that bytes came. => once, after the direct map reaches the IO APIC.
pub(crate) fn init_input() {
    write(0x10 + 2 * INPUT + 1, 0);
    write(0x10 + 2 * INPUT, u32::from(super::apic::SERIAL));
    // Queues of bytes on, interrupts of received bytes, and the line that lets them out.
    outb(PORT + 2, 7);
    outb(PORT + 4, 0x0b);
    outb(PORT + 1, 1);
}
