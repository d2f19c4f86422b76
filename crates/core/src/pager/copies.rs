//! Copies of memory objects (decision 2): the original keeps for them what it is about to change.
//!
//! A copy has the contents that were in memory, or on swap, when it was made: it names their
//! anons. What was not there it takes from the pager when it needs it, so the original gives a
//! page that came in later to every copy without contents there before it lets it be written
//! (*push*). From then on the page is shared as any other.
//!
//! [`PageFlags::PUSHED`] says that no copy needs the page: of a page without it write access is
//! not given while there are copies. Contents that were there when a copy was made are shared
//! with it and never need it.
//!
//! The list of copies, and the places in it, are guarded by the original's lock. A copy holds a
//! reference to the original, which therefore ends after it.

use core::sync::atomic::Ordering::{Acquire, Release};
use machvm_arena::{Handle, NoMemory};
use machvm_hal::{ControlId, CopyStrategy, MaySleep, PAGE_SHIFT, Pindex};
use machvm_sync::{Field64, WriteGuard};

use super::State;

use crate::fault::WaitFor;
use crate::object::{Anon, LEAF, Object, ObjectFlags, ObjectInner, Source};
use crate::page::{FreeBatch, Page, PageFlags};
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

impl<P: Platform> Vm<P> {
    /// The memory object that a copy of `h` takes absent contents from.
    pub(crate) fn original_of(&self, h: Handle<Object>) -> Option<Handle<Object>> {
        let object = self.objects.get(h);
        object.below.get().or_else(|| object.control.get().map(|_| h))
    }

    /// From now on `copy` is one of `original`'s copies.
    ///
    /// => `original` is write locked, nobody else knows `copy`, and the caller has a reference
    ///    to `original` or to a copy of it.
    pub(crate) fn copy_link(&self, original: Handle<Object>, copy: Handle<Object>) {
        let (from, to) = (self.objects.get(original), self.objects.get(copy));
        to.next_copy.set(from.copies.get());
        from.copies.set(Some(copy));
        to.below.set(Some(original));
        self.object_reference(original);
    }

    /// As [`Vm::object_with_source`], with what another object takes absent contents from,
    /// beginning at its index `at`: of a memory object, a copy of it.
    pub(crate) fn object_with_source_of(
        &self,
        h: Handle<Object>,
        at: Pindex,
        pages: u64,
        source: Source,
        may: &mut MaySleep,
    ) -> Result<Handle<Object>, NoMemory> {
        let base = source.base.wrapping_add(at.0 << PAGE_SHIFT);
        let new = self.object_with_source(pages, Source { base, ..source }, ObjectFlags::empty(), may)?;
        if let Some(original) = self.original_of(h) {
            let _inner = self.objects.get(original).lock.write(self.plat.host(), may);
            self.copy_link(original, new);
            self.copy_note(original, base, pages << PAGE_SHIFT);
        }
        Ok(new)
    }

    /// A range of a memory object was copied: with [`CopyStrategy::Call`] its pager is to be told
    /// (E21 `memory_object_copy`).
    ///
    /// => `original` is write locked; the caller calls [`Vm::tell_copies`] when nothing is.
    pub(crate) fn copy_note(&self, original: Handle<Object>, offset: u64, bytes: u64) {
        let Some(c) = self.objects.get(original).control.get() else { return };
        let _table = self.memory_objects.lock();
        let control = self.controls.get(c);
        if control.attributes().copy != CopyStrategy::Call || control.state().contains(State::DEAD) {
            return;
        }
        let mut range = (offset, offset.saturating_add(bytes));
        let [first, end] = &control.copied;
        if control.state().contains(State::COPIED) {
            range = (range.0.min(first.get()), range.1.max(end.get()));
        }
        first.set(range.0);
        end.set(range.1);
        control.set_state(control.state() | State::COPIED);
        self.copies_untold.atomic().store(1, Release);
    }

    /// Tells pagers what was copied of their objects.
    ///
    /// => nothing is locked.
    pub(crate) fn tell_copies(&self) {
        // Who noted a copy sees that it did.
        if self.copies_untold.atomic().load(Acquire) == 0 {
            return;
        }
        self.copies_untold.atomic().store(0, Release);
        while let Some((pager, id, [offset, end])) = self.next_untold() {
            self.tell_pager(pager, |p| p.copied(id, offset, end - offset));
        }
    }

    fn next_untold(&self) -> Option<(PagerId, ControlId, [u64; 2])> {
        let table = self.memory_objects.lock();
        for head in table.chains {
            let mut at = head;
            while let Some(c) = at {
                let control = self.controls.get(c);
                at = control.next.get();
                if let Some(pager) = control.pager_id().filter(|_| control.state().contains(State::COPIED)) {
                    control.set_state(control.state() - State::COPIED);
                    return Some((pager, self.control_id(c), control.copied.each_ref().map(Field64::get)));
                }
            }
        }
        None
    }

    /// A copy ends.
    ///
    /// => it has no references; nothing is locked. On return nobody looks at it any more, and
    ///    the caller lets its reference to the original go, which is given.
    pub(crate) fn copy_unlink(&self, copy: Handle<Object>, may: &mut MaySleep) -> Option<Handle<Object>> {
        let to = self.objects.get(copy);
        let original = to.below.get()?;
        let from = self.objects.get(original);
        let _inner = from.lock.write(self.host(), may);
        let (mut before, mut at) = (None::<Handle<Object>>, from.copies.get());
        while let Some(c) = at {
            let next = self.objects.get(c).next_copy.get();
            if c == copy {
                match before {
                    Some(b) => self.objects.get(b).next_copy.set(next),
                    None => from.copies.set(next),
                }
                break;
            }
            (before, at) = (at, next);
        }
        to.below.set(None);
        Some(original)
    }

    /// May the page not be written before the object's copies have it?
    ///
    /// => the page is busy and the object's, which is locked.
    #[inline]
    pub(crate) fn must_push(&self, object: Handle<Object>, page: Handle<Page>) -> bool {
        self.has_controls()
            && self.objects.get(object).copies.get().is_some()
            && !self.pages.get(page).flags().contains(PageFlags::PUSHED)
    }

    /// Gives a page to the copies that have nothing at its index. `None`: all have it.
    ///
    /// => the page is busy and `anon`'s; the object is write locked. `Some`: not all have it
    ///    yet, and this is what to wait for.
    pub(crate) fn push_page(
        &self,
        (object, index): (Handle<Object>, u64),
        (anon, page): (Handle<Anon>, Handle<Page>),
    ) -> Option<WaitFor> {
        let from = self.objects.get(object);
        let offset = from.data_base().wrapping_add(index << PAGE_SHIFT);
        let mut batch = FreeBatch::new(self);
        let mut at = from.copies.get();
        while let Some(c) = at {
            let copy = self.objects.get(c);
            at = copy.next_copy.get();
            let there = offset.wrapping_sub(copy.data_base()) >> PAGE_SHIFT;
            if there >= copy.capacity() {
                continue;
            }
            // Against the order, and so by try only.
            let Some(mut inner) = copy.lock.try_write(self.host()) else {
                return Some(WaitFor::Object(c));
            };
            if let Some(wait) = self.push_into(&mut inner, there, anon, &mut batch) {
                return Some(wait);
            }
            // Its pages may be at the original's frames.
            let copied = ObjectFlags::COPIED.bits();
            for o in [from, copy] {
                o.flags_word().atomic().fetch_or(copied, core::sync::atomic::Ordering::Relaxed);
            }
        }
        self.pages.get(page).insert_flags(PageFlags::PUSHED);
        None
    }

    /// As [`Vm::push_page`], of a page that was grabbed to be written.
    ///
    /// => the page is busy, nothing is locked.
    pub(crate) fn push_grabbed(
        &self,
        object: Handle<Object>,
        index: u64,
        page: Handle<Page>,
        may: &mut MaySleep,
    ) -> Option<WaitFor> {
        self.objects.get(object).control.get()?;
        let inner = self.objects.get(object).lock.write(self.host(), may);
        let anon = self.tree_lookup(&inner.tree, index).0?;
        if !self.anons.get(anon).holds(page) || !self.must_push(object, page) {
            return None;
        }
        self.push_page((object, index), (anon, page))
    }

    fn push_into(
        &self,
        inner: &mut WriteGuard<'_, ObjectInner, P::Host>,
        index: u64,
        anon: Handle<Anon>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Option<WaitFor> {
        let (slot, _) = self.tree_lookup(&inner.tree, index);
        if let Some(a) = slot {
            let has = self.anons.get(a);
            match (has.page(), has.swap()) {
                _ if a == anon => return None,
                // It asked the pager itself: what it gets must be older than what comes now.
                (Some(p), _) if !self.page_is_filled(p) => return Some(WaitFor::Page(p)),
                (None, None) => {}
                _ => return None,
            }
        }
        let tree: &mut ObjectInner = inner;
        let Ok(leaf) = self.tree_leaf_mut(&mut tree.tree, index, batch) else {
            return Some(WaitFor::Memory);
        };
        self.anons.get(anon).reference();
        self.nodes.leaves.get(leaf).slots[index as usize % LEAF].set(Some(anon));
        if let Some(old) = slot {
            self.anon_release(old, batch);
        }
        None
    }

    /// Has the page its contents? One that waits for them is busy, and on no queue.
    fn page_is_filled(&self, p: Handle<Page>) -> bool {
        let page = self.pages.get(p);
        !page.busy.is_busy() || crate::page::QueueId::names(page.queue.get())
    }
}
