//! The memory of devices: frames that are mapped as they are (G14), and lists of them (G16).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use machvm_hal::pmap9::MemAttr;
use machvm_hal::{
    DeviceFrames, HasPage, PAGE_SHIFT, PAGE_SIZE, PageIn, PageOut, Pager, PagerError, Pfn, Prot,
};

/// Pages that a request for contents may be large; more is not worth saying.
const FAR: u64 = u32::MAX as u64;

/// What a driver says of its memory (`cdev_pager_ops`).
pub trait Device: Send + Sync {
    /// Somebody maps `bytes` of it for the first time (`cdev_pg_ctor`). `false`: not so.
    fn open(&self, _bytes: u64, _prot: Prot) -> bool {
        true
    }
    /// The frames of byte `offset`, which is inside and of a page, and of what follows (`d_mmap`,
    /// `cdev_pg_fault`). `None`: there are none.
    ///
    /// => called with a map locked: it waits for nothing.
    fn frames(&self, offset: u64, access: Prot) -> Option<DeviceFrames>;
    /// Nobody maps it any more (`cdev_pg_dtor`).
    fn close(&self) {}
}

/// Why there is no pager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// There are no bytes, or their end lies beyond all offsets (EINVAL).
    Range,
    /// The device refused (`cdev_pg_ctor`).
    Refused,
}

impl core::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            DeviceError::Range => "no bytes, or too many",
            DeviceError::Refused => "the device refused to be mapped",
        })
    }
}
impl std::error::Error for DeviceError {}

/// The end of whole pages around `bytes` from `offset` on.
fn end_of(offset: u64, bytes: u64) -> Result<u64, DeviceError> {
    let end = offset.checked_add(bytes).filter(|_| bytes != 0);
    end.and_then(|e| e.checked_next_multiple_of(PAGE_SIZE)).ok_or(DeviceError::Range)
}

/// A device's memory as the backing of an object (`OBJT_DEVICE`; `Vm::object_of_device`).
#[derive(Debug)]
pub struct DevicePager<D: Device> {
    device: D,
    /// Bytes that may be mapped.
    end: AtomicU64,
}

impl<D: Device> DevicePager<D> {
    /// `bytes` from `offset` on of a device are to be mapped (G14 `cdev_pager_allocate`).
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn allocate(device: D, offset: u64, bytes: u64, prot: Prot) -> Result<Self, DeviceError> {
        let end = end_of(offset, bytes)?;
        if !device.open(end, prot) {
            return Err(DeviceError::Refused);
        }
        Ok(DevicePager { device, end: AtomicU64::new(end) })
    }
    /// So many bytes at least may be mapped from now on.
    ///
    /// # Errors
    /// [`DeviceError::Range`].
    pub fn grow(&self, offset: u64, bytes: u64) -> Result<(), DeviceError> {
        self.end.fetch_max(end_of(offset, bytes)?, AcqRel);
        Ok(())
    }
    /// Bytes that may be mapped.
    pub fn bytes(&self) -> u64 {
        self.end.load(Acquire)
    }
    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }
}

impl<D: Device> Drop for DevicePager<D> {
    fn drop(&mut self) {
        self.device.close();
    }
}

/// Nothing is read or written: pages are not what a device has.
fn no_contents(run: &mut PageOut<'_>) {
    (0..run.pages()).for_each(|i| run.done(i, Err(PagerError::Gone)));
}

impl<D: Device> Pager for DevicePager<D> {
    fn page_in(&self, req: PageIn<'_>) {
        req.failed(0, PagerError::Gone);
    }
    fn page_out(&self, _: u64, _: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        Err(PagerError::Gone)
    }
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        no_contents(run);
    }
    fn has_page(&self, offset: u64) -> HasPage {
        has_page_of(offset >> PAGE_SHIFT, self.bytes() >> PAGE_SHIFT)
    }
    fn frames(&self, offset: u64, access: Prot) -> Result<DeviceFrames, PagerError> {
        let left = self.bytes().checked_sub(offset).filter(|left| *left != 0).ok_or(PagerError::Beyond)?;
        let frames = self.device.frames(offset, access).ok_or(PagerError::Gone)?;
        frames.part(0, left >> PAGE_SHIFT).ok_or(PagerError::Gone)
    }
}

fn has_page_of(page: u64, pages: u64) -> HasPage {
    let few = |n: u64| n.min(FAR) as u32;
    match pages.checked_sub(page) {
        None | Some(0) => HasPage::No,
        Some(left) => HasPage::Yes { before: few(page), after: few(left - 1) },
    }
}

/// The pagers of devices by their handles: whoever maps a device gets the same one (G02, G04).
#[derive(Debug)]
pub struct Devices<H, D: Device>(Mutex<HashMap<H, Weak<DevicePager<D>>>>);

impl<H, D: Device> Default for Devices<H, D> {
    fn default() -> Self {
        Devices(Mutex::default())
    }
}

impl<H: Eq + Hash, D: Device> Devices<H, D> {
    /// The pager of a device that somebody maps (G14 `cdev_pager_lookup`).
    pub fn lookup(&self, handle: &H) -> Option<Arc<DevicePager<D>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(handle)?.upgrade()
    }
    /// The pager of a device, which `make` makes if there is none; of one that there is more may
    /// be mapped from now on, if need be (G02 `vm_pager_allocate`). Of two that come at once one
    /// makes it.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn allocate(
        &self,
        handle: H,
        (offset, bytes): (u64, u64),
        prot: Prot,
        make: impl FnOnce() -> D,
    ) -> Result<Arc<DevicePager<D>>, DeviceError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = all.get(&handle).and_then(Weak::upgrade) {
            there.grow(offset, bytes)?;
            return Ok(there);
        }
        let new = Arc::new(DevicePager::allocate(make(), offset, bytes, prot)?);
        all.retain(|_, pager| pager.strong_count() != 0);
        all.insert(handle, Arc::downgrade(&new));
        Ok(new)
    }
}

/// A list of frames, one behind the other (G16, `OBJT_SG`).
#[derive(Debug)]
pub struct SgPager {
    /// First page and frames of each part.
    parts: Vec<(u64, DeviceFrames)>,
    pages: u64,
}

impl SgPager {
    /// Of these runs of frames, which are cached so. `None`: there are none, or too many.
    pub fn new(list: impl IntoIterator<Item = (Pfn, u64)>, attr: MemAttr) -> Option<Self> {
        let (mut parts, mut all) = (Vec::new(), 0u64);
        for (first, pages) in list {
            first.0.checked_add(pages)?;
            if pages != 0 {
                parts.push((all, DeviceFrames { first, pages, attr }));
            }
            all = all.checked_add(pages).filter(|n| *n <= u64::MAX >> PAGE_SHIFT)?;
        }
        (all != 0).then_some(SgPager { parts, pages: all })
    }
    /// Pages in all.
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

impl Pager for SgPager {
    fn page_in(&self, req: PageIn<'_>) {
        req.failed(0, PagerError::Gone);
    }
    fn page_out(&self, _: u64, _: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        Err(PagerError::Gone)
    }
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        no_contents(run);
    }
    fn has_page(&self, offset: u64) -> HasPage {
        has_page_of(offset >> PAGE_SHIFT, self.pages)
    }
    fn frames(&self, offset: u64, _: Prot) -> Result<DeviceFrames, PagerError> {
        let page = offset >> PAGE_SHIFT;
        let behind = self.parts.partition_point(|(first, _)| *first <= page);
        let (first, frames) = *self.parts[..behind].last().ok_or(PagerError::Beyond)?;
        frames.part(page - first, u64::MAX).ok_or(PagerError::Beyond)
    }
}

#[cfg(test)]
mod tests;
