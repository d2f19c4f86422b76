//! Making pages: in an object (`vm_page_alloc`, P02), in none (P04), in runs (P03).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PhysMem, Pindex};

use super::request::Tries;
use super::{At, FrameClass, FreeBatch, Loose, Page, Request, Wait, Wish, XBusy};
use crate::object::{LEAF, Object, ObjectFlags};
use crate::platform::Platform;
use crate::vm::Vm;

/// Why a page was not put into an object. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The object has contents at this index: a page, or a copy on swap. (The manual calls
    /// it the caller's mistake and panics.)
    Present,
    /// The object has no such index.
    Beyond,
    /// No page, or no memory for the structures around it, as far as the request waits.
    NoMemory,
}

/// There is no page, as far as the request waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoPage;

impl<P: Platform> Vm<P> {
    /// A new page of the object at `index`, busy and without contents; with `req.zero` it is
    /// zero and valid (P02 `vm_page_alloc`). Dropped before it is valid, it is gone again, and
    /// what a pager has at the index is there as before.
    ///
    /// => nothing is locked, and the caller has a reference to the object; holding other
    ///    pages busy, it does not wait ([`super::Wait::No`]).
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn vm_page_alloc(
        &self,
        object: Handle<Object>,
        index: Pindex,
        req: Request,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, PlaceError> {
        let mut tries = Tries::default();
        loop {
            let made = self.slot_put(object, index.0, req.wait, may, &mut || {
                self.page_take_as(req.class, self.frame_at(object, index.0), |_| false)
            });
            match made.and_then(|page| self.page_prepare(page, object, index.0, req.zero)) {
                Err(PlaceError::NoMemory) if self.page_retry(req.wait, &mut tries, may) => {}
                done => return done,
            }
        }
    }

    /// Makes the frame of a new page resident.
    ///
    /// => it is busy; on error it is gone.
    fn page_prepare(
        &self,
        page: Handle<Page>,
        object: Handle<Object>,
        index: u64,
        zero: bool,
    ) -> Result<XBusy<'_, P>, PlaceError> {
        let mut new = XBusy { vm: self, page, object, index, valid: false };
        let done = if zero { self.mem().zero(new.pfn(), 1) } else { self.mem().prepare(new.pfn(), 1) };
        done.map_err(|_| PlaceError::NoMemory)?;
        new.valid = zero;
        Ok(new)
    }

    /// A page of no object (P04 `vm_page_alloc_noobj`), wired in the sense that nothing pages
    /// it out; with `req.zero` it is zero and valid.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`NoPage`].
    pub fn vm_page_alloc_noobj(&self, req: Request, may: &mut MaySleep) -> Result<Loose<'_, P>, NoPage> {
        let mut tries = Tries::default();
        loop {
            if let Some(page) = self.loose_take(req.class, req.zero) {
                return Ok(page);
            }
            if !self.page_retry(req.wait, &mut tries, may) {
                return Err(NoPage);
            }
        }
    }

    /// A page of no object, its frame resident. In the sparse placement it is at a stray
    /// frame.
    pub(super) fn loose_take(&self, class: FrameClass, zero: bool) -> Option<Loose<'_, P>> {
        let page = if self.frames.is_sparse() {
            self.stray_take_as(class)
        } else {
            self.page_take_as(class, At::Any, |_| false)
        }?;
        let frame = self.pages.get(page).pfn();
        let done = if zero { self.mem().zero(frame, 1) } else { self.mem().prepare(frame, 1) };
        if done.is_err() {
            self.page_untake(page);
            return None;
        }
        Some(Loose { vm: self, page, valid: zero })
    }

    /// Which frame a page of the object should get. Pages made here join reservations that
    /// faults made, and make none (R02: who maps the object knows whether it is worth it).
    pub(super) fn frame_at(&self, object: Handle<Object>, index: u64) -> At {
        let o = self.objects.get(object);
        if self.frames.is_sparse() {
            At::Frame(o.natural(index))
        } else {
            o.color().map_or(At::Any, |color| At::Near(Wish { object, place: index + color }))
        }
    }

    /// Puts the page that `give` gives, or `NoMemory` if it gives none, into the empty slot of
    /// an index. `give` is called when nothing else can fail, with the object locked.
    ///
    /// => nothing is locked. On success the page is busy still, and belongs to a new anon.
    pub(super) fn slot_put(
        &self,
        object: Handle<Object>,
        index: u64,
        wait: Wait,
        may: &mut MaySleep,
        give: &mut dyn FnMut() -> Option<Handle<Page>>,
    ) -> Result<Handle<Page>, PlaceError> {
        let o = self.objects.get(object);
        loop {
            // Ends what was in the slot, after the lock is released.
            let mut batch = FreeBatch::new(self);
            let mut inner = o.lock.write(self.host(), may);
            if index >= o.capacity() {
                return Err(PlaceError::Beyond);
            }
            if !self.limbo_is_empty() {
                drop(inner);
                drop(batch);
                if wait == Wait::No {
                    return Err(PlaceError::NoMemory);
                }
                self.wait_limbo(may);
                continue;
            }
            if self.object_may_be_held(object) && self.frames.any_abandoned() {
                return Err(PlaceError::NoMemory); // the frame of this index may be held still
            }
            let (there, _) = self.tree_lookup(&inner.tree, index);
            if there.map(|a| self.anons.get(a)).is_some_and(|a| a.page().is_some() || a.swap().is_some()) {
                return Err(PlaceError::Present);
            }
            let mut anons = self.anons.reserve(1).map_err(|_| PlaceError::NoMemory)?;
            let leaf =
                self.tree_leaf_mut(&mut inner.tree, index, &mut batch).map_err(|_| PlaceError::NoMemory)?;
            let page = give().ok_or(PlaceError::NoMemory)?;
            // One was reserved.
            let anon = anons.take().ok_or(PlaceError::NoMemory)?;
            self.anons.get(anon).reset(Some(page));
            let structure = self.pages.get(page);
            structure.owner.set(Some(anon));
            structure.home.set(Some(object));
            structure.pindex.set(index);
            if o.control.get().is_some() {
                structure.insert_flags(super::PageFlags::OWN);
            }
            let slot = &self.nodes.leaves.get(leaf).slots[index as usize % LEAF];
            let old = slot.get();
            slot.set(Some(anon));
            if o.flags().contains(ObjectFlags::UNPAGED) {
                self.keep_page(&inner.tree, index, page);
            }
            if let Some(old) = old {
                self.anon_release(old, &mut batch);
            }
            return Ok(page);
        }
    }
}
