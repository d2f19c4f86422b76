//! The serial line: a PL011.

use super::gic;
use crate::arch::direct;

const UART: u64 = 0x900_0000;
const FLAGS: u64 = 0x18;
/// In the flags: nothing came; no room.
const EMPTY: u32 = 1 << 4;
const FULL: u32 = 1 << 5;
/// What interrupts, and in it: a byte came, or waits.
const MASK: u64 = 0x38;
const CAME: u32 = 1 << 4 | 1 << 6;

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

/// A byte that came. Where there is none the next one interrupts.
pub(crate) fn take() -> Option<u8> {
    if read(FLAGS) & EMPTY == 0 {
        return Some(read(0) as u8);
    }
    write(MASK, CAME);
    None
}

/// From now on an interrupt says that bytes came. => once.
pub(crate) fn init_input() {
    // On, in both directions; of eight bits, without a queue.
    write(0x30, 1 | 3 << 8);
    write(0x2c, 3 << 5);
    write(MASK, CAME);
    gic::let_in(gic::SERIAL);
}

/// Bytes came. The line goes on interrupting until they are taken, which is a thread's to do: not until then.
pub(super) fn interrupt() {
    write(MASK, 0);
    crate::fs::arrived();
}
