//! The serial line.

use super::cpu::{inb, outb};

const PORT: u16 = 0x3f8;

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
