//! Breaking sharing: a write to a page that several trees see, or any access to a
//! page that sits at a frame this object cannot map.
//!
//! Four cases (`a` is the anon that the slot names, `p` its page):
//!
//! | frame of p | a shared | what is done |
//! |---|---|---|
//! | natural (sparse) | yes | *push*: the old contents move to a stray frame that `a` keeps; a new anon takes `p` and its mappings |
//! | any (dense) | yes | *copy*: a new anon gets a new page |
//! | foreign (sparse) | yes | *copy* into the natural frame, for reads too |
//! | foreign (sparse) | no | *move* into the natural frame; `p` is freed |
//!
//! In the dense placement the copy goes to its place in the object's reservation,
//! unless the old page sits there.
//!
//! Who turns out to be the last sharer keeps the page (Z52).

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, PhysMem, PmapPage, RemoveWhy};

use super::fill::ObjectGuard;
use super::{MapGuard, Place, Step, WaitFor};
use crate::map::Map;
use crate::object::{Anon, LEAF, ObjectInner};
use crate::page::{FreeBatch, Page, PageFlags, QueueId, number};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

impl<'vm, P: Platform> Map<'vm, P> {
    /// => `p` is busy and belongs to `a`; on return it is not busy.
    pub(super) fn break_sharing(
        &self,
        at: &Place<'_>,
        a: Handle<Anon>,
        p: Handle<Page>,
        natural: bool,
        map: MapGuard<'_, P>,
        mut object: ObjectGuard<'_, P>,
    ) -> Step<'vm> {
        let vm = self.vm();
        let starved = |step| {
            vm.page_unbusy(p);
            step
        };
        if !natural && !vm.limbo_is_empty() {
            return starved(Step::Wait(WaitFor::Limbo));
        }
        let mut batch = FreeBatch::new(vm);
        let (Ok(mut spare), Ok(leaf)) = (vm.anons.reserve(1), {
            let inner: &mut ObjectInner = &mut object;
            vm.tree_leaf_mut(&mut inner.tree, at.index, &mut batch)
        }) else {
            return starved(Step::Wait(WaitFor::Memory));
        };
        // The path is this tree's alone now: the anon's own count tells.
        let shared = vm.anons.get(a).is_shared();
        if natural && !shared {
            return starved(Step::Again);
        }
        let push = natural && vm.frames.is_sparse();
        let taken = if push {
            vm.stray_take()
        } else {
            vm.page_take(vm.frame_for(at, at.index), |_| vm.is_fresh_copy(at))
        };
        let Some(q) = taken else {
            return starved(Step::Wait(WaitFor::Memory));
        };
        if vm.plat.mem().prepare(vm.pages.get(q).pfn(), 1).is_err() {
            vm.page_untake(q);
            return starved(Step::Wait(WaitFor::Memory));
        }
        // From here on nothing fails.
        vm.page_inherit(p, q);
        let slot = &vm.nodes.leaves.get(leaf).slots[at.index as usize % LEAF];
        let new = if shared { spare.take() } else { None };
        // The wiring of this entry stays with what this entry maps, the others' with
        // the old contents (Z50).
        let all = vm.pages.get(p).wired.get();
        let own = all.min(u32::from(at.entry.wired.get() != 0));
        let moves = match new {
            Some(_) if push => all - own,
            Some(_) => own,
            None => all,
        };
        vm.wirings_move(p, q, moves);
        // What is held for I/O is never shared, and where its object has it.
        debug_assert!(!vm.pages.get(p).is_held_for_io(), "a held page is moved");
        match new {
            Some(b) if push => {
                vm.pages.get(q).owner.set(Some(a));
                vm.anons.get(a).change_page(Some(p), Some(q));
                vm.anons.get(b).reset(Some(p));
                vm.pages.get(p).owner.set(Some(b));
                vm.pages.get(p).insert_flags(PageFlags::DIRTY);
                slot.set(Some(b));
                vm.anon_release(a, &mut batch);
            }
            Some(b) => {
                let page = vm.pages.get(q);
                page.owner.set(Some(b));
                page.insert_flags(PageFlags::DIRTY);
                page.home.set(Some(at.object));
                page.pindex.set(at.index);
                vm.anons.get(b).reset(Some(q));
                slot.set(Some(b));
                vm.anon_release(a, &mut batch);
            }
            None => {
                vm.pages.get(q).owner.set(Some(a));
                vm.anons.get(a).change_page(Some(p), Some(q));
                vm.pages.get(p).owner.set(None);
            }
        }
        drop((object, map));
        vm.plat.mem().copy(vm.pages.get(p).pfn(), vm.pages.get(q).pfn());
        bump(&vm.stats.cow_copies, 1);
        if !push {
            // Other maps of this object still see the old page (Z51).
            vm.remove_mappings(p);
        }
        vm.queues.enqueue(&vm.pages, q, QueueId::Active);
        vm.page_unbusy(q);
        if new.is_none() {
            vm.queues.dequeue(&vm.pages, p);
            batch.push(p);
        } else {
            vm.page_unbusy(p);
        }
        Step::Again
    }
}

impl<P: Platform> Vm<P> {
    /// So many wirings of `p` are of its copy `q` from now on.
    ///
    /// => both are busy.
    pub(crate) fn wirings_move(&self, p: Handle<Page>, q: Handle<Page>, n: u32) {
        if n != 0 {
            self.pages.get(q).change_wirings(n as i32);
            self.pages.get(p).change_wirings(-(n as i32));
        }
    }

    /// => `p` is busy.
    fn remove_mappings(&self, p: Handle<Page>) {
        if self.pages.get(p).is_mapped() {
            let mut g = Gather::new();
            self.plat.pmap_page().page_remove(&self.pages, &[number(p)], RemoveWhy::Sample, &mut g);
            self.finish(g, &mut MaySleep::claim());
        }
    }
}
