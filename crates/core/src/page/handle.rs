//! Pages in the hands of an embedder: busy alone, busy with others, or in no object.
//!
//! | manual | here |
//! |---|---|
//! | exclusive busy, `VPB_SINGLE_EXCLUSIVER` | an [`XBusy`] |
//! | shared busy | an [`SBusy`] |
//! | a page with no object | a [`Loose`] |
//! | `vm_page_xunbusy`, `vm_page_sunbusy` | dropping it |
//! | `vm_page_busy_downgrade`, `vm_page_busy_tryupgrade` | [`XBusy::downgrade`], [`SBusy::try_upgrade`] |
//! | `vm_page_xbusy_claim` | moving it to another thread |
//!
//! A page is valid as a whole or not at all. One that is not valid yet stays busy until
//! [`XBusy::set_valid`]; dropping it takes it from its object again, whose contents at that
//! index are what they were. That is `vm_page_free_invalid`, and why nobody ever maps a page
//! without contents.

use core::mem;

use machvm_arena::Handle;
use machvm_hal::{Host, MaySleep, PAGE_SIZE, PageNo, Pfn, PhysMem, Pindex};

use super::{FreeBatch, Page, PageFlags, QueueId, event, number};
use crate::object::Object;
use crate::platform::Platform;
use crate::vm::Vm;

/// Why contents were neither read nor written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentError {
    /// Offset and length do not lie in the page.
    Outside,
    /// Copies of the object share the page: take it with [`Vm::vm_page_grab`].
    Shared,
    /// There are no contents yet.
    Invalid,
}

/// Does `[off, off + len)` lie in a page?
fn inside(off: usize, len: usize) -> bool {
    off.checked_add(len).is_some_and(|end| end <= PAGE_SIZE as usize)
}

/// A page of an object that the caller holds busy alone (`vm_page_xbusied`): nobody maps,
/// frees, moves or pages it out meanwhile. Mappings that it has stay.
///
/// Dropping it lets it go. Like every busy page it may be held across I/O and moved to
/// another thread, and who holds it never sleeps for another page.
#[must_use = "dropping it ends the busy state"]
pub struct XBusy<'vm, P: Platform> {
    pub(super) vm: &'vm Vm<P>,
    pub(super) page: Handle<Page>,
    pub(super) object: Handle<Object>,
    pub(super) index: u64,
    pub(super) valid: bool,
}

/// A page of an object that the caller shares busy (`vm_page_sbusied`): it stays where it is,
/// and its contents are read only.
#[must_use = "dropping it ends the busy state"]
pub struct SBusy<'vm, P: Platform> {
    pub(super) vm: &'vm Vm<P>,
    pub(super) page: Handle<Page>,
    pub(super) object: Handle<Object>,
    pub(super) index: u64,
}

/// A page of no object (`vm_page_alloc_noobj`): the caller's alone. Dropping it frees it.
#[must_use = "dropping it frees the page"]
pub struct Loose<'vm, P: Platform> {
    pub(super) vm: &'vm Vm<P>,
    pub(super) page: Handle<Page>,
    pub(super) valid: bool,
}

impl<P: Platform> core::fmt::Debug for XBusy<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "XBusy(page {}, index {})", self.page.get(), self.index)
    }
}
impl<P: Platform> core::fmt::Debug for SBusy<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SBusy(page {}, index {})", self.page.get(), self.index)
    }
}
impl<P: Platform> core::fmt::Debug for Loose<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Loose(page {})", self.page.get())
    }
}

impl<'vm, P: Platform> XBusy<'vm, P> {
    pub(super) fn structure(&self) -> &'vm Page {
        self.vm.pages.get(self.page)
    }
    /// The caller takes over the busy state.
    pub(super) fn into_page(self) -> Handle<Page> {
        let page = self.page;
        mem::forget(self);
        page
    }
    /// The number of the page structure, as pmaps name it.
    pub fn number(&self) -> PageNo {
        number(self.page)
    }
    /// The frame (`VM_PAGE_TO_PHYS`).
    pub fn pfn(&self) -> Pfn {
        self.structure().pfn()
    }
    /// The object and index through which it was found.
    pub fn place(&self) -> (Handle<Object>, Pindex) {
        (self.object, Pindex(self.index))
    }
    /// Has it contents (`vm_page_all_valid`)?
    pub fn is_valid(&self) -> bool {
        self.valid
    }
    /// Its contents are complete (`vm_page_valid`): what is on backing store, or zero where
    /// there is none; if they differ from that, it is dirty too ([`XBusy::dirty`]).
    pub fn set_valid(&mut self) {
        self.valid = true;
    }
    /// Do copies of the object share it? A hint while others may copy the object.
    pub fn is_shared(&self, may: &mut MaySleep) -> bool {
        self.vm.page_is_shared(self.object, self.index, self.page, may)
    }

    /// Does somebody sleep until the caller lets it go (`PG_WANTED`)? A `true` stays true.
    pub fn is_wanted(&self) -> bool {
        self.structure().busy.is_wanted()
    }

    /// Is it wired, or held for I/O?
    pub fn is_wired(&self) -> bool {
        self.is_kept()
    }

    /// Frees a page whose contents backing store has; they stay there.
    ///
    /// => it is clean and nobody maps it.
    pub(crate) fn forget(self) {
        let vm = self.vm;
        vm.page_forget(self.into_page());
    }

    /// Reads `buf.len()` bytes at `off`.
    ///
    /// # Errors
    /// [`ContentError::Outside`], [`ContentError::Invalid`].
    pub fn read(&self, off: usize, buf: &mut [u8]) -> Result<(), ContentError> {
        read(self.vm, self.pfn(), (off, self.valid), buf)
    }

    /// Writes at `off`; the page is dirty then.
    ///
    /// # Errors
    /// [`ContentError::Outside`], [`ContentError::Shared`]; nothing is written.
    pub fn write(&mut self, off: usize, data: &[u8], may: &mut MaySleep) -> Result<(), ContentError> {
        if !inside(off, data.len()) {
            return Err(ContentError::Outside);
        }
        if self.is_shared(may) {
            return Err(ContentError::Shared);
        }
        self.vm.mem().write(self.pfn(), off, data);
        self.structure().insert_flags(PageFlags::DIRTY);
        Ok(())
    }

    /// Zero contents, whatever was there; nothing is said of valid or dirty.
    ///
    /// => nobody else has the page.
    pub(super) fn clear(&mut self) {
        self.vm.mem().write(self.pfn(), 0, &[0; PAGE_SIZE as usize]);
    }

    /// Shares it from now on (`vm_page_busy_downgrade`). A page without contents is not
    /// shared: it comes back.
    ///
    /// # Errors
    /// The page, not valid.
    pub fn downgrade(self) -> Result<SBusy<'vm, P>, Self> {
        if !self.valid {
            return Err(self);
        }
        let (vm, object, index) = (self.vm, self.object, self.index);
        let page = self.into_page();
        vm.page_on_queue(page);
        if vm.pages.get(page).busy.downgrade() {
            vm.host().thread_wakeup(event(page));
        }
        Ok(SBusy { vm, page, object, index })
    }
}

impl<P: Platform> Drop for XBusy<'_, P> {
    fn drop(&mut self) {
        if self.valid {
            self.vm.page_on_queue(self.page);
            self.vm.page_unbusy(self.page);
        } else {
            self.vm.page_abandon(self.page, None);
        }
    }
}

impl<'vm, P: Platform> SBusy<'vm, P> {
    /// The number of the page structure, as pmaps name it.
    pub fn number(&self) -> PageNo {
        number(self.page)
    }
    /// The frame.
    pub fn pfn(&self) -> Pfn {
        self.vm.pages.get(self.page).pfn()
    }
    /// The object and index through which it was found.
    pub fn place(&self) -> (Handle<Object>, Pindex) {
        (self.object, Pindex(self.index))
    }
    /// Reads `buf.len()` bytes at `off`.
    ///
    /// # Errors
    /// [`ContentError::Outside`].
    pub fn read(&self, off: usize, buf: &mut [u8]) -> Result<(), ContentError> {
        read(self.vm, self.pfn(), (off, true), buf)
    }
    /// Holds it alone from now on, if nobody else shares it (`vm_page_busy_tryupgrade`).
    ///
    /// # Errors
    /// The page, shared as before.
    pub fn try_upgrade(self) -> Result<XBusy<'vm, P>, Self> {
        if !self.vm.pages.get(self.page).busy.try_upgrade() {
            return Err(self);
        }
        let (vm, page, object, index) = (self.vm, self.page, self.object, self.index);
        mem::forget(self);
        Ok(XBusy { vm, page, object, index, valid: true })
    }
}

impl<P: Platform> Drop for SBusy<'_, P> {
    fn drop(&mut self) {
        self.vm.page_unshare(self.page);
    }
}

impl<'vm, P: Platform> Loose<'vm, P> {
    pub(super) fn into_page(self) -> Handle<Page> {
        let page = self.page;
        mem::forget(self);
        page
    }
    /// The number of the page structure.
    pub fn number(&self) -> PageNo {
        number(self.page)
    }
    /// The frame.
    pub fn pfn(&self) -> Pfn {
        self.vm.pages.get(self.page).pfn()
    }
    /// Has it contents?
    pub fn is_valid(&self) -> bool {
        self.valid
    }
    /// Its contents are complete.
    pub fn set_valid(&mut self) {
        self.valid = true;
    }
    /// Reads `buf.len()` bytes at `off`.
    ///
    /// # Errors
    /// [`ContentError::Outside`], [`ContentError::Invalid`].
    pub fn read(&self, off: usize, buf: &mut [u8]) -> Result<(), ContentError> {
        read(self.vm, self.pfn(), (off, self.valid), buf)
    }
    /// Writes at `off`.
    ///
    /// # Errors
    /// [`ContentError::Outside`]; nothing is written.
    pub fn write(&mut self, off: usize, data: &[u8]) -> Result<(), ContentError> {
        if !inside(off, data.len()) {
            return Err(ContentError::Outside);
        }
        self.vm.mem().write(self.pfn(), off, data);
        Ok(())
    }
}

impl<P: Platform> Drop for Loose<'_, P> {
    fn drop(&mut self) {
        FreeBatch::new(self.vm).push(self.page);
    }
}

fn read<P: Platform>(
    vm: &Vm<P>,
    frame: Pfn,
    (off, valid): (usize, bool),
    buf: &mut [u8],
) -> Result<(), ContentError> {
    if !inside(off, buf.len()) {
        return Err(ContentError::Outside);
    }
    if !valid {
        return Err(ContentError::Invalid);
    }
    vm.mem().read(frame, off, buf);
    Ok(())
}

impl<P: Platform> Vm<P> {
    /// The caller's busy page, which has contents.
    pub(crate) fn xbusy(&self, object: Handle<Object>, index: u64, page: Handle<Page>) -> XBusy<'_, P> {
        XBusy { vm: self, page, object, index, valid: true }
    }

    /// Its anon goes on without the page, which is freed.
    ///
    /// => it is busy, clean, and mapped nowhere.
    fn page_forget(&self, h: Handle<Page>) {
        self.queues.dequeue(&self.pages, h);
        FreeBatch::new(self).push(h);
    }

    /// A page in use is on a queue.
    ///
    /// => it is busy and has contents.
    pub(super) fn page_on_queue(&self, h: Handle<Page>) {
        if !QueueId::names(self.pages.get(h).queue.get()) {
            self.page_fresh(h);
        }
    }

    /// One sharer less. When the page lost its owner meanwhile and this was the last, both go.
    pub(super) fn page_unshare(&self, h: Handle<Page>) {
        let r = self.pages.get(h).busy.unshare();
        if r.orphan {
            self.page_end_orphan(h);
        }
        if r.wake {
            self.host().thread_wakeup(event(h));
        }
    }
}
