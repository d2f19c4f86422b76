//! The interrupt controller: a GICv2.

use crate::arch::direct;

const DISTRIBUTOR: u64 = 0x800_0000;
const INTERFACE: u64 = 0x801_0000;
/// What an interrupt is called that nobody has.
const SPURIOUS: u32 = 1020;
/// The virtual timer, and the serial line.
pub(super) const TIMER: u32 = 27;
pub(super) const SERIAL: u32 = 33;

fn write(register: u64, v: u32) {
    // SAFETY: a register of the controller's, in the direct map.
    unsafe { direct(register).cast::<u32>().write_volatile(v) }
}

/// Interrupts that are let in come to this CPU. => once.
pub(super) fn init() {
    write(DISTRIBUTOR, 1);
    // Every priority is let through.
    write(INTERFACE + 4, 0xff);
    write(INTERFACE, 1);
    let_in(TIMER);
}

/// Lets an interrupt in.
pub(super) fn let_in(n: u32) {
    // SAFETY: a byte for each interrupt: CPU 0 takes it.
    unsafe { direct(DISTRIBUTOR + 0x800 + u64::from(n)).write_volatile(1) }
    write(DISTRIBUTOR + 0x100 + u64::from(n / 32 * 4), 1 << (n % 32));
}

/// An interrupt came.
pub(super) fn interrupt(from_user: bool) {
    // SAFETY: reading the register takes the interrupt, which is ended below.
    let word = unsafe { direct(INTERFACE + 0xc).cast::<u32>().read_volatile() };
    match word & 0x3ff {
        TIMER => super::timer::interrupt(from_user),
        SERIAL => super::serial::interrupt(),
        SPURIOUS.. => return,
        _ => {}
    }
    write(INTERFACE + 0x10, word);
}
