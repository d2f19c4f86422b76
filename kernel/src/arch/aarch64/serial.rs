//! The serial line: a PL011.

use super::gic;
use crate::arch::direct;

const UART: u64 = 0x900_0000;
const FLAGS: u64 = 0x18;
/// In the flags: nothing came; no room.
const EMPTY: u32 = 1 << 4;
const FULL: u32 = 1 << 5;

fn read(register: u64) -> u32 {
    // SAFETY: a register of the serial line's, in the direct map.
    unsafe { direct(UART + register).cast::<u32>().read_volatile() }
}
fn write(register: u64, v: u32) {
    // SAFETY: as above.
    unsafe { direct(UART + register).cast::<u32>().write_volatile(v) }
}

/// Sends a byte.
pub(crate) fn put(byte: u8) {
    while read(FLAGS) & FULL != 0 {
        core::hint::spin_loop();
    }
    write(0, byte.into());
}

/// A byte that came.
pub(crate) fn take() -> Option<u8> {
    (read(FLAGS) & EMPTY == 0).then(|| read(0) as u8)
}

/// From now on an interrupt says that bytes came. => once.
pub(crate) fn init_input() {
    // On, in both directions; bytes are told of one by one; what is told: one came, or one waits.
    write(0x30, 1 | 3 << 8);
    write(0x2c, 3 << 5);
    write(0x38, 1 << 4 | 1 << 6);
    gic::let_in(gic::SERIAL);
}
