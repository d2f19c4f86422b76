//! Grabbing: the page of an index, found or made, busy (P11 to P13).
//!
//! ```text
//!  resident, free ---- shared with copies --> copied, so that it may be written --> got
//!     |   |                                                                          ^
//!   busy  +--------------------------- this object's alone --------------------------+
//!     |                                                                              |
//!   sleep, look again       on swap: read back, look again                           |
//!                           absent:  made ------ zero or the pager's data, or not valid
//! ```

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PageIn, PagerError, PhysMem, Pindex, Prot};

use super::request::Tries;
use super::{At, FrameClass, Page, PageFlags, PlaceError, Request, SBusy, TryError, Wait, XBusy, number};
use crate::fault::WaitFor;
use crate::object::{Anon, LEAF, Object, Source};
use crate::platform::Platform;
use crate::vm::Vm;

bitflags::bitflags! {
    /// What to grab (`VM_ALLOC_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct GrabFlags: u32 {
        /// Only what is there: nothing is made.
        const NOCREAT = 1;
        /// Never sleep: not for a busy page, not for memory.
        const NOWAIT = 2;
        /// A page that is made is filled with zero.
        const ZERO = 4;
        /// As far down the pool as [`FrameClass::System`].
        const SYSTEM = 8;
    }
}

/// Why nothing was grabbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrabError {
    /// Nothing is there, and nothing was to be made (`VM_PAGER_FAIL`).
    Absent,
    /// The page is busy, and nobody was to wait (`VM_PAGER_FAIL`).
    Busy,
    /// The object has no such index.
    Beyond,
    /// Copies share the page, and it is wired: it can be had for reading only.
    Wired,
    /// The pager, or swap, does not have it (`VM_PAGER_ERROR`).
    Pager(PagerError),
    /// No page, or no memory for structures.
    NoMemory,
}

/// What [`Vm::grab_step`] found.
enum Look<'vm, P: Platform> {
    Got(XBusy<'vm, P>),
    /// It is busy.
    Busy(Handle<Page>),
    /// Its contents are on swap; the page is busy, and filled next.
    OnSwap(Handle<Anon>, Handle<Page>),
    Nothing,
    /// Something changed, or was waited for.
    Again,
}

impl GrabFlags {
    fn request(self) -> Request {
        let class = if self.contains(GrabFlags::SYSTEM) { FrameClass::System } else { FrameClass::Normal };
        let wait = if self.contains(GrabFlags::NOWAIT) { Wait::No } else { Wait::Ok };
        Request { class, wait, zero: self.contains(GrabFlags::ZERO) }
    }
}

impl<P: Platform> Vm<P> {
    /// The page at `index`, busy alone and this object's alone, so that it may be written
    /// (P11 `vm_page_grab`). What is on swap is read back; what a pager has is not read: such a
    /// page is made, and not valid (see [`Vm::vm_page_grab_valid`]), as is one of an object
    /// without a pager unless `ZERO` is asked for.
    ///
    /// => nothing is locked, and the caller has a reference to the object. Holding other pages
    ///    busy, it says `NOWAIT`.
    ///
    /// # Errors
    /// [`GrabError`]; of [`GrabError::Pager`], what swap lost.
    pub fn vm_page_grab(
        &self,
        object: Handle<Object>,
        index: Pindex,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, GrabError> {
        let mut x = self.grab_pushed(object, index, flags, may)?;
        while x.valid && x.is_shared(may) {
            match self.make_private(x, flags, may)? {
                Some(done) => return Ok(done),
                None => x = self.grab_pushed(object, index, flags, may)?, // it changed
            }
        }
        Ok(x)
    }

    /// As [`Vm::vm_page_grab`], for reading: shared busy, and with copies (`VM_ALLOC_SBUSY`). A
    /// page that has to be made is zero.
    ///
    /// => as [`Vm::vm_page_grab`].
    ///
    /// # Errors
    /// As [`Vm::vm_page_grab`].
    pub fn vm_page_grab_shared(
        &self,
        object: Handle<Object>,
        index: Pindex,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<SBusy<'_, P>, GrabError> {
        loop {
            match self.vm_page_trysbusy(object, index, may) {
                Ok(s) => return Ok(s),
                Err(TryError::Busy) if flags.contains(GrabFlags::NOWAIT) => return Err(GrabError::Busy),
                Err(TryError::Busy) => {
                    self.vm_page_sleep_if_busy(object, index, may);
                }
                Err(TryError::Absent) => {
                    let x = self.grab_valid_any(object, index, flags, may)?;
                    if let Ok(s) = x.downgrade() {
                        return Ok(s);
                    }
                }
            }
        }
    }

    /// The page at `index`, busy alone, this object's alone and with its contents (P12
    /// `vm_page_grab_valid`): the pager is asked for what is absent; without a pager it is
    /// zero.
    ///
    /// => as [`Vm::vm_page_grab`]. With `NOWAIT` a pager that answers later gives
    ///    [`GrabError::Busy`], and the page comes nevertheless.
    ///
    /// # Errors
    /// [`GrabError`].
    pub fn vm_page_grab_valid(
        &self,
        object: Handle<Object>,
        index: Pindex,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, GrabError> {
        loop {
            let x = self.grab_valid_any(object, index, flags, may)?;
            if let Some(wait) = self.push_grabbed(object, index.0, x.page, may) {
                drop(x);
                self.push_wait(wait, flags, may)?;
                continue;
            }
            if !x.is_shared(may) {
                return Ok(x);
            }
            if let Some(done) = self.make_private(x, flags, may)? {
                return Ok(done);
            }
        }
    }

    /// The pages of `[first, first + out.len())`, each as [`Vm::vm_page_grab`] gives it, as far
    /// as there is no gap (P13 `vm_page_grab_pages`); gives how many. Only the first page is
    /// waited for: who holds a page does not sleep for another. So the run may be shorter
    /// without `NOWAIT` too, and the caller lets go and asks again.
    ///
    /// => as [`Vm::vm_page_grab`].
    ///
    /// # Errors
    /// [`GrabError`], of the first page.
    pub fn vm_page_grab_pages<'vm>(
        &'vm self,
        object: Handle<Object>,
        first: Pindex,
        flags: GrabFlags,
        out: &mut [Option<XBusy<'vm, P>>],
        may: &mut MaySleep,
    ) -> Result<usize, GrabError> {
        for (i, slot) in out.iter_mut().enumerate() {
            let wait = if i == 0 { flags } else { flags | GrabFlags::NOWAIT };
            let index = first.0.checked_add(i as u64).ok_or(GrabError::Beyond)?;
            match self.vm_page_grab(object, Pindex(index), wait, may) {
                Ok(x) => *slot = Some(x),
                Err(e) if i == 0 => return Err(e),
                Err(_) => return Ok(i),
            }
        }
        Ok(out.len())
    }

    /// As [`Vm::grab_any`]; the copies of a memory object have what they need of the page.
    fn grab_pushed(
        &self,
        object: Handle<Object>,
        index: Pindex,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, GrabError> {
        loop {
            let x = self.grab_any(object, index, flags, may)?;
            if !x.valid {
                return Ok(x);
            }
            let Some(wait) = self.push_grabbed(object, index.0, x.page, may) else { return Ok(x) };
            drop(x);
            self.push_wait(wait, flags, may)?;
        }
    }

    fn push_wait(&self, w: WaitFor, flags: GrabFlags, may: &mut MaySleep) -> Result<(), GrabError> {
        match w {
            _ if flags.contains(GrabFlags::NOWAIT) => Err(GrabError::Busy),
            WaitFor::Object(o) => {
                drop(self.objects.get(o).lock.read(self.host(), may));
                Ok(())
            }
            WaitFor::Page(p) => {
                self.wait_page(p, may);
                Ok(())
            }
            _ if self.make_room(may) => Ok(()),
            _ => Err(GrabError::NoMemory),
        }
    }

    /// The page at `index`, which copies may share.
    fn grab_any(
        &self,
        object: Handle<Object>,
        index: Pindex,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, GrabError> {
        let (nowait, req) = (flags.contains(GrabFlags::NOWAIT), flags.request());
        let mut tries = Tries::default();
        loop {
            match self.grab_step(object, index.0, (req.class, req.wait), may)? {
                Some(Look::Got(x)) => return Ok(x),
                Some(Look::Busy(_)) if nowait => return Err(GrabError::Busy),
                Some(Look::Busy(p)) => self.wait_page(p, may),
                Some(Look::OnSwap(a, p)) => self.grab_from_swap(a, p)?,
                Some(Look::Nothing) if flags.contains(GrabFlags::NOCREAT) => return Err(GrabError::Absent),
                Some(Look::Nothing) => match self.vm_page_alloc(object, index, req, may) {
                    Ok(x) => return Ok(x),
                    Err(PlaceError::Beyond) => return Err(GrabError::Beyond),
                    Err(PlaceError::NoMemory) => return Err(GrabError::NoMemory),
                    Err(PlaceError::Present) => {} // somebody was first
                },
                Some(Look::Again) => {}
                None if self.page_retry(req.wait, &mut tries, may) => {}
                None => return Err(GrabError::NoMemory),
            }
        }
    }

    /// One look at the slot. `None`: no memory to bring its contents from swap.
    fn grab_step(
        &self,
        object: Handle<Object>,
        index: u64,
        (class, wait): (FrameClass, Wait),
        may: &mut MaySleep,
    ) -> Result<Option<Look<'_, P>>, GrabError> {
        let o = self.objects.get(object);
        if index >= o.capacity() {
            return Err(GrabError::Beyond);
        }
        let inner = o.lock.write(self.host(), may);
        let (Some(a), _) = self.tree_lookup(&inner.tree, index) else { return Ok(Some(Look::Nothing)) };
        let anon = self.anons.get(a);
        if let Some(page) = anon.page() {
            return Ok(Some(match self.anon_busy_page(a, page) {
                Ok(()) => Look::Got(XBusy { vm: self, page, object, index, valid: true }),
                Err(Some(p)) => Look::Busy(p),
                Err(None) => Look::Again,
            }));
        }
        if let Some(e) = anon.take_error() {
            return Err(GrabError::Pager(e));
        }
        if anon.swap().is_none() {
            return Ok(Some(Look::Nothing));
        }
        if !self.limbo_is_empty() {
            drop(inner);
            if wait == Wait::No {
                return Ok(None);
            }
            self.wait_limbo(may);
            return Ok(Some(Look::Again));
        }
        let Some(page) = self.page_take_as(class, self.frame_at(object, index), |_| false) else {
            return Ok(None);
        };
        let structure = self.pages.get(page);
        structure.owner.set(Some(a));
        structure.home.set(Some(object));
        structure.pindex.set(index);
        if anon.change_page(None, Some(page)) {
            return Ok(Some(Look::OnSwap(a, page)));
        }
        self.page_untake(page); // another object's fault was first
        Ok(Some(Look::Again))
    }

    fn grab_from_swap(&self, a: Handle<Anon>, p: Handle<Page>) -> Result<(), GrabError> {
        use crate::fault::SwapIn;
        self.swap_in_run(SwapIn::of_one(a, p)).map_err(|e| match e {
            machvm_hal::SwapError::Lost => GrabError::Pager(PagerError::Io),
            machvm_hal::SwapError::Full => GrabError::NoMemory,
        })
    }

    /// As [`Vm::grab_any`], with contents.
    fn grab_valid_any(
        &self,
        object: Handle<Object>,
        index: Pindex,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, GrabError> {
        let source = self.objects.get(object).lock.read(self.host(), may).source;
        let Some(source) = source else {
            return self.grab_any(object, index, flags | GrabFlags::ZERO, may);
        };
        let mut flags = flags - GrabFlags::ZERO;
        loop {
            let mut x = self.grab_any(object, index, flags, may)?;
            if x.valid {
                return Ok(x);
            }
            // As before a request of a fault: a pager fills only what it has (Z88).
            x.clear();
            self.ask_pager(source, x);
            // What was asked for is there to be waited for.
            flags -= GrabFlags::NOCREAT;
        }
    }

    /// Asks the pager for one busy page, which is its from here on.
    fn ask_pager(&self, source: Source, x: XBusy<'_, P>) {
        let offset = source.base.wrapping_add(x.index << machvm_hal::PAGE_SHIFT);
        let object = self.control_id_behind(x.object);
        let list = [number(x.into_page())];
        let req = PageIn::new(self, &list, offset).of_object(object, Prot::R);
        match self.plat.pager(source.pager) {
            Some(pager) => pager.page_in(req),
            None => req.failed(0, PagerError::Gone),
        }
    }

    /// The page is copied, so that this object has one of its own. `None`: something changed
    /// meanwhile, and the page was let go.
    ///
    /// => nothing is locked.
    fn make_private<'vm>(
        &'vm self,
        mut x: XBusy<'vm, P>,
        flags: GrabFlags,
        may: &mut MaySleep,
    ) -> Result<Option<XBusy<'vm, P>>, GrabError> {
        if x.is_kept() {
            return Err(GrabError::Wired);
        }
        // Sparse: the copies keep the old page, but not at the frame of this place.
        x.leave_extent().map_err(|()| GrabError::NoMemory)?;
        let (object, index) = (x.object, x.index);
        let (Ok(mut spare), Ok(mut anons)) = (self.tree_reserve(), self.anons.reserve(1)) else {
            return Err(GrabError::NoMemory);
        };
        if !self.limbo_is_empty() {
            drop(x);
            if flags.contains(GrabFlags::NOWAIT) {
                return Err(GrabError::NoMemory);
            }
            self.wait_limbo(may);
            return Ok(None);
        }
        let class = flags.request().class;
        let a = x.structure().owner.get();
        let mut made = None;
        let put = self.slot_swap(object, index, &mut spare, may, |leaf, batch| {
            let slot = &leaf.slots[index as usize % LEAF];
            if a.is_none() || slot.get() != a || !a.is_some_and(|a| self.anons.get(a).is_shared()) {
                return Ok(());
            }
            let at: At = self.frame_at(object, index);
            let page = self.page_take_as(class, at, |_| false).ok_or(super::StayError::NoMemory)?;
            if self.mem().prepare(self.pages.get(page).pfn(), 1).is_err() {
                self.page_untake(page);
                return Err(super::StayError::NoMemory);
            }
            let b = anons.take().ok_or(super::StayError::NoMemory)?;
            self.page_inherit(x.page, page);
            self.leave_to_copies(object, (x.page, page), true, false);
            let structure = self.pages.get(page);
            structure.owner.set(Some(b));
            structure.home.set(Some(object));
            structure.pindex.set(index);
            structure.insert_flags(PageFlags::DIRTY);
            self.anons.get(b).reset(Some(page));
            slot.set(Some(b));
            if let Some(a) = a {
                self.anon_release(a, batch);
            }
            made = Some(page);
            Ok(())
        });
        put.map_err(|_| GrabError::NoMemory)?;
        let Some(page) = made else {
            return Ok(None); // not shared any more, or dropped
        };
        self.mem().copy(x.pfn(), self.pages.get(page).pfn());
        // Maps of this object see the old page until now (Z51).
        x.unmap(may);
        Ok(Some(XBusy { vm: self, page, object, index, valid: true }))
    }
}
