//! The PCI bus: this port does not look for devices.

/// All ones: nobody is there.
pub(crate) fn pci_read(_function: u32, _offset: u8) -> u32 {
    u32::MAX
}
/// Nobody is there.
pub(crate) fn pci_write(_function: u32, _offset: u8, _v: u32) {}

/// What a device would write to interrupt; nothing happens.
pub(crate) fn interrupt_message() -> (u64, u32) {
    (0, 0)
}
