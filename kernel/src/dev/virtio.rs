//! Virtio over PCI, as of version 1: finding a device's registers, agreeing on features, and one queue.

use core::sync::atomic::{Ordering, fence};

use machvm::page::FrameClass;
use machvm_hal::PAGE_SIZE;

use super::pci::Function;
use crate::arch;
use crate::memory::{keep, zeroed_frame};

/// Vendor-specific and message interrupt capabilities.
const VENDOR: u8 = 0x09;
const MSIX: u8 = 0x11;

/// Kinds of virtio's capabilities.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// Offsets in the common configuration.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub(super) const QUEUE_DESC: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
}

/// Device status.
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const FAILED: u8 = 0x80;

/// The device is not of the old kind.
const VERSION_1: u64 = 1 << 32;
/// No vector.
const NO_VECTOR: u16 = 0xffff;

/// Registers of a device's, mapped for ever.
#[derive(Clone, Copy)]
struct Registers(*mut u8);

impl Registers {
    fn read<T: Copy>(self, at: usize) -> T {
        // SAFETY: registers of the device's, which the direct map has; offsets are those of the standard, aligned.
        unsafe { self.0.add(at).cast::<T>().read_volatile() }
    }
    fn write<T: Copy>(self, at: usize, v: T) {
        // SAFETY: as above.
        unsafe { self.0.add(at).cast::<T>().write_volatile(v) }
    }
    /// A word of 64 bits, in two.
    fn write_wide(self, at: usize, v: u64) {
        self.write(at, v as u32);
        self.write(at + 4, (v >> 32) as u32);
    }
}

/// Descriptors of a queue, at most.
const MOST: u16 = 64;
/// A descriptor is followed by another; the device writes what it leads to.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Where the rings are in the queue's page.
const AVAILABLE: usize = 16 * MOST as usize;
const USED: usize = 2048;

/// Memory that a request is about: physical address, bytes, and whether the device writes it.
pub(super) type Part = (u64, u32, bool);

/// A device with one queue that is ready for requests.
pub(super) struct Virtio {
    device: Registers,
    doorbell: Registers,
    queue: Queue,
}

/// The queue: descriptors and two rings in one page.
struct Queue {
    page: *mut u8,
    size: u16,
    /// Requests made and answers seen so far.
    made: u16,
    seen: u16,
}

// SAFETY: the pointers lead to memory and registers that stay; who has the `Virtio` for itself has them too.
unsafe impl Send for Virtio {}

struct Found {
    common: Registers,
    notify: (Registers, u32),
    device: Registers,
}

/// The device's registers.
fn find(f: Function) -> Option<Found> {
    let (mut common, mut notify, mut device) = (None, None, None);
    for c in f.capabilities().filter(|c| c.id() == VENDOR) {
        let (bar, offset) = (f.read(c.at + 4) as u8, f.read(c.at + 8));
        let registers = || f.registers(bar, offset).map(Registers);
        match (c.word >> 24) as u8 {
            COMMON => common = common.or_else(registers),
            NOTIFY => notify = notify.or_else(|| Some((registers()?, f.read(c.at + 16)))),
            DEVICE => device = device.or_else(registers),
            _ => {}
        }
    }
    Some(Found { common: common?, notify: notify?, device: device? })
}

/// The first entry of the table of messages interrupts the first CPU. `None`: it has no such table.
fn use_messages(f: Function) -> Option<()> {
    let c = f.capabilities().find(|c| c.id() == MSIX)?;
    let table = f.read(c.at + 4);
    let entry = Registers(f.registers(table as u8 & 7, table & !7)?);
    let (address, data) = arch::interrupt_message();
    entry.write_wide(0, address);
    entry.write(8, data);
    entry.write(12, 0u32); // not masked
    f.write(c.at, c.word & !(1 << 30) | 1 << 31);
    Some(())
}

impl Virtio {
    /// Sets a device up. `wanted`: features that are used where the device has them; gives what it has of them.
    pub(super) fn new(f: Function, wanted: u64) -> Result<(Virtio, u64), &'static str> {
        f.enable();
        let found =
            find(f).ok_or("its registers are not in the first 4 GiB, or it is older than virtio 1")?;
        let messages = use_messages(f).is_some();
        let c = found.common;
        c.write(common::STATUS, 0u8);
        while c.read::<u8>(common::STATUS) != 0 {
            arch::relax();
        }
        c.write(common::STATUS, ACKNOWLEDGE | DRIVER);
        let mut has = 0;
        for half in 0..2u32 {
            c.write(common::DEVICE_FEATURE_SELECT, half);
            has |= u64::from(c.read::<u32>(common::DEVICE_FEATURE)) << (32 * half);
        }
        let agreed = has & (wanted | VERSION_1);
        for half in 0..2u32 {
            c.write(common::DRIVER_FEATURE_SELECT, half);
            c.write(common::DRIVER_FEATURE, (agreed >> (32 * half)) as u32);
        }
        c.write(common::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if agreed & VERSION_1 == 0 || c.read::<u8>(common::STATUS) & FEATURES_OK == 0 {
            c.write(common::STATUS, FAILED);
            return Err("it does not agree to virtio 1");
        }
        let queue = Queue::new(c, messages).inspect_err(|_| c.write(common::STATUS, FAILED))?;
        let doorbell = c.read::<u16>(common::QUEUE_NOTIFY_OFF);
        // SAFETY: the standard puts the queue's doorbell there, inside the capability's registers.
        let doorbell =
            Registers(unsafe { found.notify.0.0.add(usize::from(doorbell) * found.notify.1 as usize) });
        c.write(common::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Ok((Virtio { device: found.device, doorbell, queue }, agreed))
    }

    /// A word of the device's own registers.
    pub(super) fn configuration(&self, at: usize) -> u32 {
        self.device.read(at)
    }
    /// How many descriptors there are.
    pub(super) fn size(&self) -> u16 {
        self.queue.size
    }
    /// Makes a request of `parts`, in the descriptors from `first` on, which are free.
    pub(super) fn send(&mut self, first: u16, parts: &[Part]) {
        self.queue.put(first, parts);
        self.doorbell.write(0, 0u16);
    }
    /// The first descriptor of a request that is answered.
    pub(super) fn answered(&mut self) -> Option<u16> {
        self.queue.take()
    }
}

impl Queue {
    fn new(c: Registers, messages: bool) -> Result<Queue, &'static str> {
        c.write(common::QUEUE_SELECT, 0u16);
        let size = c.read::<u16>(common::QUEUE_SIZE).min(MOST);
        if size == 0 {
            return Err("it has no queue");
        }
        let frame = zeroed_frame(FrameClass::Interrupt).ok_or("no memory for its queue")?;
        keep(1);
        let at = frame.byte();
        c.write(common::QUEUE_SIZE, size);
        c.write_wide(common::QUEUE_DESC, at);
        c.write_wide(common::QUEUE_DRIVER, at + AVAILABLE as u64);
        c.write_wide(common::QUEUE_DEVICE, at + USED as u64);
        c.write(common::CONFIG_VECTOR, NO_VECTOR);
        // Without messages who waits looks again and again.
        c.write(common::QUEUE_VECTOR, if messages { 0u16 } else { NO_VECTOR });
        c.write(common::QUEUE_ENABLE, 1u16);
        Ok(Queue { page: arch::direct(at), size, made: 0, seen: 0 })
    }

    fn word<T>(&self, at: usize) -> *mut T {
        debug_assert!(at + size_of::<T>() <= PAGE_SIZE as usize);
        // SAFETY: inside the queue's page.
        unsafe { self.page.add(at).cast() }
    }

    fn put(&mut self, first: u16, parts: &[Part]) {
        let last = parts.len() - 1;
        assert!(usize::from(first) + last < usize::from(self.size), "descriptors that are not there");
        for (i, (address, bytes, written)) in parts.iter().enumerate() {
            let index = first + i as u16;
            let flags = if i < last { NEXT } else { 0 } | if *written { WRITE } else { 0 };
            let at = 16 * usize::from(index);
            // SAFETY: a descriptor that the device does not use; words are aligned.
            unsafe {
                self.word::<u64>(at).write_volatile(*address);
                self.word::<u32>(at + 8).write_volatile(*bytes);
                self.word::<u16>(at + 12).write_volatile(flags);
                self.word::<u16>(at + 14).write_volatile(index + 1);
            }
        }
        let place = AVAILABLE + 4 + 2 * usize::from(self.made % self.size);
        // SAFETY: as above: of the ring, a place that the device has seen the last use of.
        unsafe { self.word::<u16>(place).write_volatile(first) };
        self.made = self.made.wrapping_add(1);
        // The device sees the request before it sees that there is one.
        fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { self.word::<u16>(AVAILABLE + 2).write_volatile(self.made) };
        fence(Ordering::SeqCst);
    }

    fn take(&mut self) -> Option<u16> {
        // SAFETY: in the queue's page; the device writes it.
        let there = unsafe { self.word::<u16>(USED + 2).read_volatile() };
        if there == self.seen {
            return None;
        }
        fence(Ordering::SeqCst);
        let place = USED + 4 + 8 * usize::from(self.seen % self.size);
        // SAFETY: as above.
        let first = unsafe { self.word::<u32>(place).read_volatile() };
        self.seen = self.seen.wrapping_add(1);
        Some(first as u16)
    }
}
