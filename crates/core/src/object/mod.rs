//! Objects: what map entries map.
//!
//! An object owns a copy-on-write tree of anons (`radix.rs`), a run of frame numbers
//! in the sparse placement (its *extent*), and its claim on a pager, if it has one.
//! It does not own: protections, who maps it, the file behind the pager.
//!
//! There are no shadow chains. *Shadowing* is [`Vm::vm_object_shadow`]: the copy shares
//! the root of the tree, and the first write of either side copies one path. Depth
//! is one, whatever lives: an absent slot comes from the pager or is zero.

mod anon;
mod census;
mod copy;
mod empty;
mod held;
mod purge;
mod radix;
mod range;
mod rehome;
mod size;

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use machvm_arena::{Handle, HandleField, NoMemory};
use machvm_hal::{Host, MaySleep, Pfn, PhysMem, Pindex, PmapPage, RefMod, Va};
use machvm_sync::{Field32, Field64, Rank, RwSleep};

pub use anon::Anon;
pub use census::Census;
pub(crate) use copy::Much;
pub(crate) use purge::Volatile;
pub use purge::{PurgeError, Purgeable};
pub(crate) use radix::{LEAF, Leaf, Nodes, Spare, Tree};
pub use range::{ObjectInfo, RemoveFlags, TO_THE_END};
pub use rehome::{Home, RehomeError};

use crate::page::{self, FreeBatch, PageFlags, RUN, Reserv};
use crate::pager::Control;
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct ObjectFlags: u32 {
        /// Two map entries may cover the same index (not `OBJ_ONEMAPPING`): those that are
        /// marked `EntryFlags::SHARED`.
        const SHARED = 1;
        /// Modified pages go back to the pager, not to swap.
        const WRITE_BACK = 2;
        /// A copy was made of it, or it is one: other trees may name its anons, and
        /// pages may sit at frames of the other's extent.
        const COPIED = 4;
        /// Its contents may be declared volatile ([`purge`]).
        const PURGEABLE = 8;
        /// It has a pager: what `source` says, readable without the lock.
        const PAGER = 0x10;
        /// Sparse: pages of it have been held for I/O, so frames may outlive their indices.
        const HELD = 0x20;
        /// Who has a claim on it may map any index, and all who map it are marked: a mapping
        /// that grows goes on with what is there.
        const OPEN = 0x40;
        /// Its pages are wired when they are made, and stay.
        const UNPAGED = 0x80;
        /// It has no pages: its pager names frames of a device.
        const DEVICE = 0x100;
    }
}

/// What an absent slot is filled from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) pager: PagerId,
    /// Byte offset in the pager's data of page index 0; wraps.
    pub(crate) base: u64,
}

/// What the object lock guards.
#[derive(Default)]
pub(crate) struct ObjectInner {
    /// The contents.
    pub(crate) tree: Tree,
    /// Where absent contents come from; `None`: they are zero.
    pub(crate) source: Option<Source>,
}

/// One memory object.
///
/// Letters: \[I\] immutable while referenced, \[O\] the object's lock, \[a\] atomic.
pub struct Object {
    /// Map entries and handles that name it. \[a\]
    refs: Field32,
    /// [`ObjectFlags`]. \[a\]
    flags: Field32,
    /// How often a part of it was shared. \[a\]
    sharings: Field32,
    /// What its pager knows it by, if it is a memory object ([`crate::pager`]). \[I\]
    pub(crate) control: HandleField<Control>,
    /// The memory object that it is a copy of. \[I\]
    pub(crate) below: HandleField<Object>,
    /// The first of its copies. \[O\]
    pub(crate) copies: HandleField<Object>,
    /// The next of the copies that its original has. \[O\] of the original
    pub(crate) next_copy: HandleField<Object>,
    /// Where in its pager's data index 0 is, as its source says. \[I\], as the extent
    base: Field64,
    /// First frame number of the extent (sparse). \[I\], but for [`rehome`], which is alone
    extent: Field64,
    /// Page indices `[0, capacity)` may be used. \[I\]
    capacity: Field64,
    /// Dense: one more than what is added to a page index so that it has the phase of the
    /// addresses it is mapped at, modulo the pages of a superpage (`pg_color`); 0: not
    /// known yet (not `OBJ_COLORED`). \[O\]
    color: Field32,
    /// Purgeable: the state, as `vm_purgable_control` has it. \[O\]
    purge: Field32,
    /// While volatile: the order in which contents go, smallest first; 0: they are not
    /// volatile. \[O\] to write
    purge_order: Field64,
    /// Pages that are reserved for its contents, beside what entries are charged. \[a\]
    pub(crate) charge: Field64,
    /// Ranges of it that were replaced and wait to be freed (`map::later`). \[a\]
    replaced: Field32,
    /// The first of its reservations. \[F\], the free-frames lock
    pub(crate) reservs: HandleField<Reserv>,
    /// \[O\]
    pub(crate) lock: RwSleep<ObjectInner>,
}

impl Default for Object {
    fn default() -> Self {
        Object {
            refs: Field32::new(0),
            flags: Field32::new(0),
            sharings: Field32::new(0),
            control: HandleField::new(None),
            below: HandleField::new(None),
            copies: HandleField::new(None),
            next_copy: HandleField::new(None),
            base: Field64::new(0),
            extent: Field64::new(0),
            capacity: Field64::new(0),
            color: Field32::new(0),
            purge: Field32::new(0),
            purge_order: Field64::new(0),
            charge: Field64::new(0),
            replaced: Field32::new(0),
            reservs: HandleField::new(None),
            lock: RwSleep::new(Rank::Object, ObjectInner::default()),
        }
    }
}

impl Object {
    pub(crate) fn flags(&self) -> ObjectFlags {
        ObjectFlags::from_bits_truncate(self.flags.get())
    }
    /// The word of flags.
    pub(crate) fn flags_word(&self) -> &Field32 {
        &self.flags
    }
    /// The count of references.
    pub(crate) fn refs(&self) -> &Field32 {
        &self.refs
    }
    /// Where in its pager's data index 0 is.
    pub(crate) fn data_base(&self) -> u64 {
        self.base.get()
    }
    /// Entries and handles that name it now, without those of ranges that wait to be freed.
    pub(crate) fn references(&self) -> u32 {
        self.refs.get().saturating_sub(self.replaced.get())
    }
    /// The colour, if it has one.
    pub(crate) fn color(&self) -> Option<u64> {
        self.color.get().checked_sub(1).map(u64::from)
    }
    /// Where absent contents come from, from now on.
    ///
    /// => `inner` is its own, write locked.
    pub(crate) fn set_source(&self, inner: &mut ObjectInner, source: Option<Source>) {
        inner.source = source;
        self.base.set(source.map_or(0, |s| s.base));
    }
    /// Gives it a colour, if it has none.
    ///
    /// => write locked.
    pub(crate) fn set_color(&self, color: u64) {
        if self.color().is_none() {
            self.color.set((color % RUN) as u32 + 1);
        }
    }
    /// The colour; if it has none, the one that suits page `index` at `va` (O21
    /// `vm_object_color`).
    ///
    /// => write locked.
    pub(crate) fn color_at(&self, va: Va, index: u64) -> u64 {
        self.color().unwrap_or_else(|| {
            let color = va.page().wrapping_sub(index) % RUN;
            self.color.set(color as u32 + 1);
            color
        })
    }
    /// Page indices `[0, capacity)` may be used.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.get()
    }
    /// The frame tied to a page index (sparse placement).
    pub(crate) fn natural(&self, index: u64) -> Pfn {
        Pfn(self.extent.get().wrapping_add(index))
    }
}

/// Smallest number space of an object, in pages (1 GiB): neighbours that are
/// mapped later join it without a new object.
const MIN_CAPACITY: u64 = 1 << 18;

impl<P: Platform> Vm<P> {
    /// A new anonymous object with one reference, and the index for its creator's
    /// first page: there is room to grow on both sides.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn object_allocate(&self, pages: u64) -> Result<(Handle<Object>, Pindex), NoMemory> {
        let capacity = pages
            .checked_next_power_of_two()
            .and_then(|c| c.checked_mul(4))
            .filter(|c| *c <= 1 << 50)
            .ok_or(NoMemory)?
            .max(MIN_CAPACITY);
        let h = self.object_make(capacity)?;
        Ok((h, Pindex(((capacity - pages) / 2) & !(LEAF as u64 - 1))))
    }

    /// A new object whose page index 0 is byte `offset` of the pager's data.
    /// `write_back`: modified pages go to the pager (a shared mapping), else the
    /// object is a private copy of it.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn object_from_pager(
        &self,
        pages: u64,
        pager: PagerId,
        offset: u64,
        write_back: bool,
        may: &mut MaySleep,
    ) -> Result<(Handle<Object>, Pindex), NoMemory> {
        let flags = if write_back { ObjectFlags::WRITE_BACK } else { ObjectFlags::empty() };
        let h = self.object_with_source(pages, Source { pager, base: offset }, flags, may)?;
        Ok((h, Pindex(0)))
    }

    /// A new object of memory that is never paged out (G15 `phys_pager_allocate`): its pages
    /// are zero at first, and wired as soon as there is one; in the dense placement a fault makes
    /// those of the superpage around it, too (G09 `vm_pager_populate`), as far as there is memory
    /// to spare. Dropping a range, or the object, frees them.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn object_unpaged(&self, pages: u64) -> Result<(Handle<Object>, Pindex), NoMemory> {
        let (h, first) = self.object_allocate(pages)?;
        self.objects.get(h).flags.atomic().fetch_or(ObjectFlags::UNPAGED.bits(), Relaxed);
        Ok((h, first))
    }

    /// A new object of a device's memory (G14 `cdev_pager_allocate`, G16): page index 0 is byte
    /// `offset` of it, and [`Pager::frames`](machvm_hal::Pager::frames) of its pager says where
    /// that is. To be mapped shared. There is nothing to read, copy, page out or hold; who copies a
    /// range of it gets errors from the pager. Only for machines that can map such frames
    /// ([`Pmap::enter_frames`](machvm_hal::Pmap::enter_frames)).
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn object_of_device(
        &self,
        pages: u64,
        pager: PagerId,
        offset: u64,
        may: &mut MaySleep,
    ) -> Result<(Handle<Object>, Pindex), NoMemory> {
        let source = Source { pager, base: offset };
        let h = self.object_with_source(pages, source, ObjectFlags::DEVICE, may)?;
        Ok((h, Pindex(0)))
    }

    /// A new object of at least so many pages that come from there.
    pub(crate) fn object_with_source(
        &self,
        pages: u64,
        source: Source,
        flags: ObjectFlags,
        may: &mut MaySleep,
    ) -> Result<Handle<Object>, NoMemory> {
        let capacity = pages.checked_next_power_of_two().filter(|c| *c <= 1 << 50).ok_or(NoMemory)?;
        let h = self.object_make(capacity.max(LEAF as u64))?;
        let object = self.objects.get(h);
        object.flags.atomic().fetch_or((flags | ObjectFlags::PAGER).bits(), Relaxed);
        object.set_source(&mut object.lock.write(self.plat.host(), may), Some(source));
        self.plat.pager_used(source.pager);
        Ok(h)
    }

    /// What a private mapping goes on with behind its last page: `pages` of the same
    /// pager's data from index `at` on, with a reference. The object itself when nobody
    /// else can have contents there, another one otherwise: what was cut off the mapping
    /// and lives elsewhere keeps its indices. `None`: the object has no pager.
    ///
    /// => the map is write locked.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing changed.
    pub(crate) fn object_behind(
        &self,
        h: Handle<Object>,
        at: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<Option<(Handle<Object>, Pindex)>, NoMemory> {
        let object = self.objects.get(h);
        let Some(source) = object.lock.read(self.plat.host(), may).source else {
            return Ok(None);
        };
        let inside = at.0.checked_add(pages).is_some_and(|end| end <= object.capacity.get());
        if inside && self.object_is_private_sole(h) && self.object_is_empty(h, at, pages, may) {
            self.object_reference(h);
            return Ok(Some((h, at)));
        }
        self.object_with_source_of(h, at, pages, source, may).map(|o| Some((o, Pindex(0))))
    }

    /// Is nothing of the range written, and no frame of it in use (Z56)? What was dropped
    /// may still be there when memory was short.
    fn object_is_empty(&self, h: Handle<Object>, at: Pindex, pages: u64, may: &mut MaySleep) -> bool {
        let inner = self.objects.get(h).lock.read(self.plat.host(), may);
        let mut empty = !self.object_may_be_held(h);
        self.tree_for_each(&inner.tree, at.0, pages, &mut |_, _| {
            empty = false;
            false
        });
        empty
    }

    fn object_make(&self, capacity: u64) -> Result<Handle<Object>, NoMemory> {
        let h = self.objects.alloc()?;
        let object = self.objects.get(h);
        if self.frames.is_sparse() {
            match self.plat.mem().extent_reserve(capacity) {
                Ok(base) => object.extent.set(base.0),
                Err(_) => {
                    self.objects.free(h);
                    return Err(NoMemory);
                }
            }
        }
        object.capacity.set(capacity);
        object.color.set(0);
        object.control.set(None);
        object.below.set(None);
        object.copies.set(None);
        object.next_copy.set(None);
        object.base.set(0);
        object.purge.set(0);
        object.purge_order.set(0);
        object.flags.set(0);
        object.replaced.set(0);
        object.refs.set(1);
        Ok(h)
    }

    /// One more reference (O05).
    ///
    /// => the caller has one.
    pub fn object_reference(&self, h: Handle<Object>) {
        self.objects.get(h).refs.atomic().fetch_add(1, Relaxed);
    }

    /// One reference less; the last one ends the object (O06, O07).
    ///
    /// => no map lock is held (Z26).
    pub fn object_deallocate(&self, h: Handle<Object>, may: &mut MaySleep) {
        let object = self.objects.get(h);
        if object.refs.atomic().fetch_sub(1, AcqRel) != 1 {
            return;
        }
        if let Some(c) = object.control.get()
            && self.memory_object_unused(h, c, may)
        {
            return;
        }
        let original = self.copy_unlink(h, may);
        self.volatile_end(object);
        self.object_uncharge(object);
        let inner = core::mem::take(&mut *object.lock.write(self.plat.host(), may));
        let orphaned = {
            let mut batch = FreeBatch::new(self);
            self.tree_release(inner.tree, &mut batch);
            batch.orphaned
        };
        self.reserv_break_all(h);
        if self.frames.is_sparse() {
            // A page of a copy may still sit at its natural frame here, or a busy
            // page, orphaned now or when a range was dropped, may be about to be freed:
            // such an extent is not used again (the number space is large enough to lose
            // it). Nor is one whose frames somebody may hold.
            let elsewhere = object.flags().intersects(ObjectFlags::COPIED | ObjectFlags::HELD);
            if orphaned || !self.limbo_is_empty() || elsewhere {
                self.stats.extents_lost.atomic().fetch_add(1, Relaxed);
            } else {
                self.plat.mem().extent_release(Pfn(object.extent.get()), object.capacity.get());
            }
        }
        let source = inner.source;
        self.objects.free(h);
        if let Some(s) = source {
            self.plat.pager_unused(s.pager);
        }
        if let Some(original) = original {
            // A memory object is no copy: this goes no deeper.
            self.object_deallocate(original, may);
        }
    }

    /// Is this reference the only one?
    pub(crate) fn object_is_private_sole(&self, h: Handle<Object>) -> bool {
        self.objects.get(h).refs.atomic().load(Acquire) == 1
    }
    /// From now on several entries may cover one index (clears `OBJ_ONEMAPPING`). Those
    /// entries are marked by the caller.
    pub(crate) fn object_mark_shared(&self, h: Handle<Object>) {
        let object = self.objects.get(h);
        object.flags.atomic().fetch_or(ObjectFlags::SHARED.bits(), Relaxed);
        object.sharings.atomic().fetch_add(1, Relaxed);
    }
    /// How often [`Vm::object_mark_shared`] was called.
    ///
    /// => a map that names the object is locked: what others share meanwhile they share
    ///    with entries that are marked already.
    pub(crate) fn object_sharings(&self, h: Handle<Object>) -> u32 {
        self.objects.get(h).sharings.get()
    }
    /// As [`Vm::object_mark_shared`], and whoever maps the object may map all of it.
    pub(crate) fn object_open(&self, h: Handle<Object>) {
        self.object_mark_shared(h);
        self.objects.get(h).flags.atomic().fetch_or(ObjectFlags::OPEN.bits(), Relaxed);
    }
    /// See [`Vm::object_open`]: what lies behind the last page of a mapping of such an object.
    pub(crate) fn object_is_open(&self, h: Handle<Object>) -> bool {
        self.objects.get(h).flags().contains(ObjectFlags::OPEN)
    }
    /// See [`Vm::object_mark_shared`].
    pub(crate) fn object_is_shared(&self, h: Handle<Object>) -> bool {
        self.objects.get(h).flags().contains(ObjectFlags::SHARED)
    }
    /// May a range that nothing maps any more be freed later? Of anonymous memory that has
    /// one entry at most for each index, and that nobody holds.
    pub(crate) fn object_may_wait(&self, h: Handle<Object>) -> bool {
        (self.objects.get(h).flags() - ObjectFlags::COPIED).is_empty()
    }
    /// A range of it waits to be freed.
    pub(crate) fn object_replaced(&self, h: Handle<Object>) {
        self.objects.get(h).replaced.atomic().fetch_add(1, Relaxed);
    }
    /// See [`Vm::object_replaced`]: the contents are gone.
    pub(crate) fn object_replaced_free(&self, h: Handle<Object>) {
        self.objects.get(h).replaced.atomic().fetch_sub(1, AcqRel);
    }
    /// Does a range of it wait to be freed, or is one being freed?
    pub(crate) fn object_has_replaced(&self, h: Handle<Object>) -> bool {
        self.objects.get(h).replaced.atomic().load(Acquire) != 0
    }
    /// Has the object a pager?
    pub(crate) fn object_has_pager(&self, h: Handle<Object>, may: &mut MaySleep) -> bool {
        self.objects.get(h).lock.read(self.plat.host(), may).source.is_some()
    }
    /// The object's colour (R07); 0 when it has none yet.
    pub(crate) fn object_color(&self, h: Handle<Object>) -> u64 {
        self.objects.get(h).color().unwrap_or(0)
    }
    /// The natural frame of an index; the first frame in the dense placement.
    pub(crate) fn object_natural(&self, h: Handle<Object>, at: Pindex) -> Pfn {
        if self.frames.is_sparse() { self.objects.get(h).natural(at.0) } else { Pfn(0) }
    }

    /// May `[first, first + pages)` be added to what the caller's entry maps of this
    /// object (O13)? Only for anonymous memory that no other map shares, inside the
    /// number space and with no old contents there (Z56); nor while some wait to be freed,
    /// in a range that may have gaps.
    pub(crate) fn object_coalesce(
        &self,
        h: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> bool {
        let object = self.objects.get(h);
        if object.flags().intersects(
            ObjectFlags::SHARED | ObjectFlags::WRITE_BACK | ObjectFlags::COPIED | ObjectFlags::PURGEABLE,
        ) || first.0.checked_add(pages).is_none_or(|end| end > object.capacity.get())
            || self.object_has_replaced(h)
        {
            return false;
        }
        !self.object_has_pager(h, may) && self.object_is_empty(h, first, pages, may)
    }

    /// What is known of the contents of `p` holds for their copy in `q`.
    pub(crate) fn page_inherit(&self, p: Handle<crate::page::Page>, q: Handle<crate::page::Page>) {
        let (from, to) = (self.pages.get(p), self.pages.get(q));
        to.home.set(from.home.get());
        to.pindex.set(from.pindex.get());
        if self.page_is_dirty(p) {
            to.insert_flags(PageFlags::DIRTY);
        }
    }

    /// Do the contents differ from the copy on backing store?
    ///
    /// => the page is busy.
    pub(crate) fn page_is_dirty(&self, p: Handle<crate::page::Page>) -> bool {
        self.page_is_modified(p) || self.pages.get(p).flags().contains(PageFlags::PRECIOUS)
    }

    /// As [`Vm::page_is_dirty`]; that its pager wants it back does not count.
    pub(crate) fn page_is_modified(&self, p: Handle<crate::page::Page>) -> bool {
        let page = self.pages.get(p);
        page.flags().contains(PageFlags::DIRTY)
            || self.plat.pmap_page().page_refmod(&self.pages, page::number(p)).contains(RefMod::MODIFIED)
    }

    /// Sleeps until a busy page is released.
    pub(crate) fn wait_page(&self, p: Handle<crate::page::Page>, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let host = self.plat.host();
        let t = host.assert_wait(page::event(p));
        if self.pages.get(p).busy.mark_waiting() {
            host.thread_block(t, None);
        } else {
            host.cancel_wait(t);
        }
    }
}
