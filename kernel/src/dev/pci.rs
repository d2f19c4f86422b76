//! What is on the first PCI bus.

use crate::arch::{self, pci_read, pci_write};

/// One function of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(u32);

const COMMAND: u8 = 0x04;
const BARS: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
/// Command: answers to memory accesses, makes its own, and does not use the old interrupt lines.
const MEMORY: u32 = 1 << 1;
const MASTER: u32 = 1 << 2;
const NO_LINE: u32 = 1 << 10;

const VIRTIO: u32 = 0x1af4;
/// Block devices: modern ones, and those that are old and modern.
const BLOCK: [u32; 2] = [0x1042, 0x1001];

/// A capability: where it is, and its first word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capability {
    pub(super) at: u8,
    pub(super) word: u32,
}

impl Capability {
    pub(super) fn id(self) -> u8 {
        self.word as u8
    }
}

/// The first function of each device on the first bus.
pub(super) fn functions() -> impl Iterator<Item = Function> {
    (0..32).map(|device| Function(device << 3)).filter(|f| f.read(0) != u32::MAX)
}

impl Function {
    pub(super) fn number(self) -> u32 {
        self.0
    }
    pub(super) fn read(self, offset: u8) -> u32 {
        pci_read(self.0, offset)
    }
    pub(super) fn write(self, offset: u8, v: u32) {
        pci_write(self.0, offset, v);
    }
    pub(super) fn is_virtio_block(self) -> bool {
        let id = self.read(0);
        id & 0xffff == VIRTIO && BLOCK.contains(&(id >> 16))
    }
    /// It may use memory from here on.
    pub(super) fn enable(self) {
        let command = self.read(COMMAND) & 0xffff;
        self.write(COMMAND, command | MEMORY | MASTER | NO_LINE);
    }
    /// Its capabilities.
    pub(super) fn capabilities(self) -> impl Iterator<Item = Capability> {
        let mut at = self.read(CAPABILITIES) as u8 & 0xfc;
        // A list that bites its tail has no more than fit.
        (0..48).map_while(move |_| {
            let here = Capability { at, word: if at == 0 { 0 } else { self.read(at) } };
            at = (here.word >> 8) as u8 & 0xfc;
            (here.at != 0).then_some(here)
        })
    }
    /// Where registers are that begin `offset` bytes into range `bar` of the device's. `None`: not in memory, or where
    /// the kernel has not mapped them.
    pub(super) fn registers(self, bar: u8, offset: u32) -> Option<*mut u8> {
        if bar > 5 {
            return None;
        }
        let low = self.read(BARS + 4 * bar);
        let wide = low & 6 == 4;
        let high = if wide && bar < 5 { self.read(BARS + 4 * bar + 4) } else { 0 };
        let base = u64::from(high) << 32 | u64::from(low & !15);
        let at = base.checked_add(u64::from(offset))?;
        // The direct map has the first 4 GiB, uncached where there is no memory.
        (low & 1 == 0 && base != 0 && at < (4 << 30) - 4096).then(|| arch::direct(at))
    }
}
