//! The configuration space of PCI, by the old two ports, and messages that devices send as interrupts.

use core::arch::asm;

use crate::lock::IrqSpin;
use machvm_sync::Rank;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// The two ports belong together.
static PORTS: IrqSpin<()> = IrqSpin::new(Rank::Leaf, ());

fn outl(port: u16, v: u32) {
    // SAFETY: the two ports of configuration space; they reach no memory.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") v, options(nomem, nostack, preserves_flags)) }
}
fn inl(port: u16) -> u32 {
    let v;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") v, options(nomem, nostack, preserves_flags)) }
    v
}

/// The register of a function's that holds byte `offset`: which bus, device and function is in `function`, from bit 8 on.
fn select(function: u32, offset: u8) {
    outl(ADDRESS, 1 << 31 | function << 8 | u32::from(offset & 0xfc));
}

/// Reads a register of configuration space; `offset` is a multiple of 4. All ones: nobody is there.
pub(crate) fn pci_read(function: u32, offset: u8) -> u32 {
    let _one = PORTS.lock();
    select(function, offset);
    inl(DATA)
}
/// Writes one.
pub(crate) fn pci_write(function: u32, offset: u8, v: u32) {
    let _one = PORTS.lock();
    select(function, offset);
    outl(DATA, v);
}

/// Address and data of the message that interrupts the first CPU with a device's vector.
pub(crate) fn interrupt_message() -> (u64, u32) {
    (super::apic::APIC, u32::from(super::apic::DEVICE))
}
