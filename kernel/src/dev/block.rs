//! Disks: virtio-blk.
//!
//! A request moves at most [`BUFFER`] bytes, through one of a few buffers that the disk has had from the start: nothing
//! here asks for memory, so that swap can use it. Who finds no buffer free waits for those who have one, and they wait
//! for the device only, with a limit.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use machvm::page::{Contig, FrameClass};
use machvm_hal::{Event, PAGE_SIZE};
use machvm_sync::Rank;

use super::pci::Function;
use super::virtio::Virtio;
use crate::arch;
use crate::embed::the_vm;
use crate::errno::{EINVAL, EIO, EROFS, Result};
use crate::lock::IrqSpin;
use crate::memory::{keep, zeroed_frame};
use crate::sched;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Bytes that go with one request.
pub(crate) const BUFFER: usize = 33 * PAGE_SIZE as usize;
const BUFFER_PAGES: u64 = BUFFER as u64 / PAGE_SIZE;
/// Buffers, and so requests at a time. Each takes three descriptors.
const BUFFERS: usize = 8;
const PARTS: u16 = 3;
/// How long a device may take for an answer.
const PATIENCE_NS: u64 = 60_000_000_000;

/// Features: read-only, can write what it caches.
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;

/// Requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read = 0,
    Write = 1,
    Flush = 4,
}

/// In the status byte until the device answered, and when all went well.
const PENDING: u8 = 0xff;
const FINE: u8 = 0;

/// Where in the page of headers a buffer's header and status are.
const HEADER_BYTES: u64 = 32;
const STATUS_AT: u64 = 16;

/// A disk.
pub(crate) struct Disk {
    name: String,
    number: usize,
    device: IrqSpin<Virtio>,
    headers: u64,
    sectors: u64,
    features: u64,
    /// Physical addresses of the buffers.
    buffers: [u64; BUFFERS],
    /// Which of them are free.
    free: AtomicU32,
    /// The device answered: of each buffer.
    done: [AtomicU8; BUFFERS],
    /// It did not answer in time: nothing is asked of it any more.
    dead: AtomicBool,
}

static MAY_SLEEP: AtomicBool = AtomicBool::new(false);

/// See [`super::may_sleep`].
pub(super) fn may_sleep() {
    MAY_SLEEP.store(true, Ordering::Release);
}

/// A buffer of a disk's: given back when it is dropped.
pub(crate) struct Buffer<'d> {
    disk: &'d Disk,
    index: usize,
}

impl Disk {
    /// Sets the device up.
    pub(super) fn new(f: Function, number: usize) -> core::result::Result<Disk, &'static str> {
        let (device, features) = Virtio::new(f, READ_ONLY | FLUSH)?;
        if device.size() < PARTS * BUFFERS as u16 {
            return Err("its queue is too short");
        }
        let sectors = u64::from(device.configuration(0)) | u64::from(device.configuration(4)) << 32;
        let headers = zeroed_frame(FrameClass::Interrupt).ok_or("no memory for requests")?.byte();
        keep(1);
        let mut buffers = [0; BUFFERS];
        let want = Contig::anywhere(BUFFER_PAGES);
        for b in &mut buffers {
            *b = the_vm().contig_take(&want, FrameClass::System).ok_or("no memory for buffers")?.byte();
            keep(BUFFER_PAGES);
        }
        Ok(Disk {
            name: format!("vd{}", char::from(b'a' + number as u8 % 26)),
            number,
            device: IrqSpin::new(Rank::Leaf, device),
            headers,
            sectors,
            features,
            buffers,
            free: AtomicU32::new((1 << BUFFERS) - 1),
            done: [const { AtomicU8::new(0) }; BUFFERS],
            dead: AtomicBool::new(false),
        })
    }

    /// What it is called in /dev.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
    /// The how manieth it is.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
    /// Bytes on it.
    pub(crate) fn size(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }
    /// It cannot be written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.features & READ_ONLY != 0
    }

    /// Who waits for a buffer, and who for the answer to the request of a buffer.
    fn event(&self, index: usize) -> Event {
        Event(core::ptr::from_ref(self) as u64 + 1 + index as u64)
    }

    /// A buffer, when there is one.
    pub(crate) fn buffer(&self) -> Buffer<'_> {
        loop {
            let seen = sched::wakeups(self.event(BUFFERS));
            let free = self.free.load(Ordering::Acquire);
            if free == 0 {
                // Only threads that sleep use more than one.
                sched::sleep_unless(self.event(BUFFERS), seen, None);
                continue;
            }
            let index = free.trailing_zeros() as usize;
            if self.free.fetch_and(!(1 << index), Ordering::AcqRel) & 1 << index != 0 {
                return Buffer { disk: self, index };
            }
        }
    }

    /// Takes the device's answers. Also called by its interrupt.
    pub(super) fn reap(&self) {
        let mut woken = 0u32;
        {
            let mut device = self.device.lock();
            while let Some(first) = device.answered() {
                let index = usize::from(first / PARTS);
                if let Some(done) = self.done.get(index) {
                    done.store(1, Ordering::Release);
                    woken |= 1 << index;
                }
            }
        }
        (0..BUFFERS).filter(|i| woken & 1 << i != 0).for_each(|i| sched::wakeup(self.event(i)));
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index].load(Ordering::Acquire) != 0
    }

    /// Waits for the answer to the request of that buffer. `false`: there is none in time.
    fn wait(&self, index: usize) -> bool {
        let deadline = arch::now_ns() + PATIENCE_NS;
        loop {
            self.reap();
            let seen = sched::wakeups(self.event(index));
            if self.is_done(index) {
                return true;
            }
            if arch::now_ns() > deadline {
                return false;
            }
            if MAY_SLEEP.load(Ordering::Acquire) {
                // An interrupt that was lost costs no more than this.
                sched::sleep_unless(self.event(index), seen, Some(arch::now_ns() + 100_000_000));
            } else {
                arch::relax();
            }
        }
    }

    /// Carries a request out. `sector` and `bytes` are inside the disk.
    fn request(&self, index: usize, kind: Kind, sector: u64, bytes: usize) -> Result<()> {
        if self.dead.load(Ordering::Acquire) {
            return Err(EIO);
        }
        let header = self.headers + index as u64 * HEADER_BYTES;
        let status = arch::direct(header + STATUS_AT);
        // SAFETY: this buffer's part of the page of headers, which the device does not use now.
        unsafe {
            let h = arch::direct(header);
            h.cast::<u32>().write_volatile(kind as u32);
            h.cast::<u32>().add(1).write_volatile(0);
            h.cast::<u64>().add(1).write_volatile(sector);
            status.write_volatile(PENDING);
        }
        self.done[index].store(0, Ordering::Release);
        let data = (self.buffers[index], bytes as u32, kind == Kind::Read);
        let parts = [(header, 16, false), data, (header + STATUS_AT, 1, true)];
        let first = index as u16 * PARTS;
        if kind == Kind::Flush {
            self.device.lock().send(first, &[parts[0], parts[2]]);
        } else {
            self.device.lock().send(first, &parts);
        }
        if !self.wait(index) {
            // The buffer is the device's for ever.
            self.dead.store(true, Ordering::Release);
            crate::say!(
                "machvm: {}: no answer for {} s: it is not used any more",
                self.name,
                PATIENCE_NS / 1_000_000_000
            );
            return Err(EIO);
        }
        // SAFETY: as above: the device answered.
        match unsafe { status.read_volatile() } {
            FINE => Ok(()),
            code => {
                crate::say!(
                    "machvm: {}: {kind:?} of {bytes} bytes at sector {sector}: error {code}",
                    self.name
                );
                Err(EIO)
            }
        }
    }

    /// Is `[at, at + bytes)` on the disk, whole sectors that fit in a buffer?
    fn check(&self, at: u64, bytes: usize) -> Result<()> {
        let whole = at.is_multiple_of(SECTOR) && (bytes as u64).is_multiple_of(SECTOR);
        let inside = at.checked_add(bytes as u64).is_some_and(|end| end <= self.size());
        if whole && inside && bytes != 0 && bytes <= BUFFER { Ok(()) } else { Err(EINVAL) }
    }

    /// What was written is on the disk when this returns.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.features & FLUSH == 0 {
            return Ok(());
        }
        let b = self.buffer();
        self.request(b.index, Kind::Flush, 0, 0)
    }

    /// Reads any bytes that are on the disk, in pieces; `piece` is given each and where in the whole it begins.
    pub(crate) fn read(&self, at: u64, bytes: usize, mut piece: impl FnMut(usize, &[u8])) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            let from = at + done as u64;
            let skip = (from % SECTOR) as usize;
            let n = (bytes - done).min(BUFFER - skip);
            let mut b = self.buffer();
            b.read(from - skip as u64, (skip + n).next_multiple_of(SECTOR as usize))?;
            piece(done, &b.bytes()[skip..skip + n]);
            done += n;
        }
        Ok(())
    }

    /// Writes any bytes of the disk. => writers of the same sectors take turns.
    pub(crate) fn write(&self, at: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let from = at + done as u64;
            let skip = (from % SECTOR) as usize;
            let n = (data.len() - done).min(BUFFER - skip);
            let (start, whole) = (from - skip as u64, (skip + n).next_multiple_of(SECTOR as usize));
            let mut b = self.buffer();
            if whole != n {
                b.read(start, whole)?;
            }
            b.bytes_mut()[skip..skip + n].copy_from_slice(&data[done..done + n]);
            b.write(start, whole)?;
            done += n;
        }
        Ok(())
    }
}

impl Buffer<'_> {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer's frames, which are its alone while no request is under way: requests end before the calls
        // here return, or the buffer is used no more.
        unsafe { core::slice::from_raw_parts(arch::direct(self.disk.buffers[self.index]), BUFFER) }
    }
    /// Its bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(arch::direct(self.disk.buffers[self.index]), BUFFER) }
    }
    /// Reads its first `bytes` from byte `at` of the disk: whole sectors.
    pub(crate) fn read(&mut self, at: u64, bytes: usize) -> Result<()> {
        self.disk.check(at, bytes)?;
        self.disk.request(self.index, Kind::Read, at / SECTOR, bytes)
    }
    /// Writes its first `bytes` to byte `at` of the disk: whole sectors.
    pub(crate) fn write(&mut self, at: u64, bytes: usize) -> Result<()> {
        if self.disk.is_read_only() {
            return Err(EROFS);
        }
        self.disk.check(at, bytes)?;
        self.disk.request(self.index, Kind::Write, at / SECTOR, bytes)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if self.disk.dead.load(Ordering::Acquire) && !self.disk.is_done(self.index) {
            return;
        }
        self.disk.free.fetch_or(1 << self.index, Ordering::AcqRel);
        sched::wakeup(self.disk.event(BUFFERS));
    }
}
