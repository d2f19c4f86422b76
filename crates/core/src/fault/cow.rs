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
//! Neighbours for which the same is to be done go along while faults follow one another,
//! up to 16 as when pages are filled (decision 10): most of what a fault costs is not the
//! copy. A copy of the map begins the count anew.
//!
//! Who turns out to be the last sharer keeps the page (Z52).

use core::num::NonZeroU32;
use machvm_arena::Handle;
use machvm_hal::{
    Gather, MaySleep, PageNo, PhysMem, Pmap, PmapPage, PopulateError, Prot, RemoveWhy, Va, VaRange,
};

use super::fill::{ObjectGuard, Run, clip, cluster};
use super::{CLUSTER, MapGuard, Place, Purpose, Step, WaitFor};
use crate::map::Map;
use crate::object::{Anon, LEAF, Leaf, Object, ObjectFlags, ObjectInner};
use crate::page::{FreeBatch, Page, PageFlags, handle, number};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Pages of which the sharing is broken in one step: neighbours, all busy, each with the
/// anon that its slot names.
struct Cluster {
    list: [(Handle<Anon>, Handle<Page>); CLUSTER],
    len: usize,
    /// How many of them come before the page that faulted.
    before: usize,
}

impl Cluster {
    fn of_one(a: Handle<Anon>, p: Handle<Page>) -> Self {
        Cluster { list: [(a, p); CLUSTER], len: 1, before: 0 }
    }
    fn all(&self) -> &[(Handle<Anon>, Handle<Page>)] {
        &self.list[..self.len]
    }
    /// Adds what `take` gives for the neighbours on both sides, up to the bounds of `run`
    /// and the first that it has nothing for.
    fn grow(&mut self, run: Run, mut take: impl FnMut(i64) -> Option<(Handle<Anon>, Handle<Page>)>) {
        for up in 1..(run.pages - run.before) as i64 {
            let Some(got) = take(up) else { break };
            self.list[self.len] = got;
            self.len += 1;
        }
        for down in 1..=run.before as i64 {
            let Some(got) = take(-down) else { break };
            self.list.copy_within(0..self.len, 1);
            self.list[0] = got;
            self.len += 1;
            self.before += 1;
        }
    }
    /// Lets all go but the page that faulted.
    fn shrink<P: Platform>(&mut self, vm: &Vm<P>) {
        let faulted = self.list[self.before];
        for (_, p) in self.all().iter().filter(|(_, p)| *p != faulted.1) {
            vm.page_unbusy(*p);
        }
        *self = Cluster::of_one(faulted.0, faulted.1);
    }
}

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
        let leaf = {
            let inner: &mut ObjectInner = &mut object;
            vm.tree_leaf_mut(&mut inner.tree, at.index, &mut batch)
        };
        let Ok(leaf) = leaf.map(|h| vm.nodes.leaves.get(h)) else {
            return starved(Step::Wait(WaitFor::Memory));
        };
        // The path is this tree's alone now: the anon's own count tells.
        if natural && !vm.anons.get(a).is_shared() {
            return starved(Step::Again);
        }
        let mut old = self.gather(at, (a, p), natural, leaf);
        let push = natural && vm.frames.is_sparse();
        let mut new = [PageNo(NonZeroU32::MIN); CLUSTER];
        if !self.take_frames(at, push, &mut old, &mut new) {
            return starved(Step::Wait(WaitFor::Memory));
        }
        let Ok(mut spare) = vm.anons.reserve(old.len as u32) else {
            let new = &new[..old.len];
            vm.discard_run(new);
            new.iter().for_each(|q| vm.page_untake(handle(*q)));
            old.shrink(vm);
            return starved(Step::Wait(WaitFor::Memory));
        };
        let new = &new[..old.len];
        // From here on nothing fails.
        let mut freed = [None; CLUSTER];
        let first = at.index - old.before as u64;
        for (i, (&(a, p), q)) in old.all().iter().zip(new).enumerate() {
            let (slot, q) = (&leaf.slots[(first as usize + i) % LEAF], handle(*q));
            // What was shared and natural is divided even if the others let go meanwhile:
            // it must stay where it is.
            let shared = natural || vm.anons.get(a).is_shared();
            let anon = if shared { spare.take() } else { None };
            self.move_wirings(at, (p, q), anon.is_some(), push);
            match anon {
                Some(b) => {
                    vm.divide(at, (a, b), (p, q), push, first + i as u64);
                    slot.set(Some(b));
                    vm.anon_release(a, &mut batch);
                }
                None => {
                    vm.pages.get(q).owner.set(Some(a));
                    vm.anons.get(a).change_page(Some(p), Some(q));
                    vm.pages.get(p).owner.set(None);
                    freed[i] = Some(p);
                }
            }
            vm.leave_to_copies(at.object, (p, q), anon.is_some(), push);
        }
        drop(object);
        // What still maps the old pages of this object forgets them (Z51). In the sparse placement nothing does: it
        // sees nothing but what is at its natural frame.
        let alone = map.is_direct() && !at.entry.is_shared() && !at.entry.keeps_mappings();
        if alone && !vm.frames.is_sparse() {
            self.remove_here(at.va.sub(old.before as u64), old.len as u64);
        }
        drop(map);
        vm.copy_pages(old.all(), new);
        if !alone && !vm.frames.is_sparse() {
            vm.remove_mappings(old.all());
        }
        for ((&(_, p), q), freed) in old.all().iter().zip(new).zip(freed) {
            vm.page_fresh(handle(*q));
            vm.page_unbusy(handle(*q));
            if freed.is_some() {
                vm.queues.dequeue(&vm.pages, p);
                batch.push(p);
            } else {
                vm.page_unbusy(p);
            }
        }
        Step::Again
    }

    /// This map forgets what it maps there: no other entry names these pages of the object. The trees that share them
    /// keep what they map.
    ///
    /// => the map is locked, the slots name busy pages.
    fn remove_here(&self, first: Va, pages: u64) {
        let Some(range) = VaRange::of_pages(first, pages) else { return };
        let mut g = Gather::new();
        self.pmap().remove(&self.vm().pages, range, &mut g);
        // Waits for other CPUs at most; no spin lock is held.
        self.vm().finish(g, &mut MaySleep::claim());
    }

    /// The page that faulted, and the neighbours that go along, all busy.
    ///
    /// => `leaf` is that of `at`, and this tree's alone.
    fn gather(
        &self,
        at: &Place<'_>,
        (a, p): (Handle<Anon>, Handle<Page>),
        natural: bool,
        leaf: &Leaf,
    ) -> Cluster {
        let vm = self.vm();
        let mut all = Cluster::of_one(a, p);
        // Wirings are counted page by page, and a page is made its object's alone for a
        // reason of its own.
        if at.purpose == Purpose::Own || at.entry.wired.get() != 0 {
            return all;
        }
        let run = clip(cluster(at.entry, at.va.page()), at);
        if vm.frames.free() >= run.pages + vm.frames.low() {
            all.grow(run, |n| {
                let index = at.index.wrapping_add_signed(n);
                let a = leaf.slots[index as usize % LEAF].get()?;
                let p = vm.anons.get(a).page()?;
                vm.anon_busy_page(a, p).ok()?;
                let alike = vm.is_natural(at, p, index) == natural
                    && (!natural || vm.anons.get(a).is_shared())
                    && !vm.pages.get(p).is_kept()
                    && vm.is_usable(at.object, p, at.access);
                if !alike {
                    vm.page_unbusy(p);
                }
                alike.then_some((a, p))
            });
        }
        at.entry.next_fault.set(at.va.page() - all.before as u64 + all.len as u64);
        at.entry.cluster.set(all.len as u32);
        all
    }

    /// Pages for the copies, of all of `old` or of the one that faulted alone. `false`:
    /// not even that; `old` is that one then.
    fn take_frames(
        &self,
        at: &Place<'_>,
        push: bool,
        old: &mut Cluster,
        new: &mut [PageNo; CLUSTER],
    ) -> bool {
        let vm = self.vm();
        loop {
            let (n, first) = (old.len, at.index - old.before as u64);
            let new = &mut new[..n];
            let got = if push {
                vm.stray_take_run(new)
            } else {
                vm.page_take_run(vm.frame_for(at, first), new, |_| vm.is_fresh_copy(at))
            };
            if got == n && vm.prepare_run(new).is_ok() {
                return true;
            }
            new[..got].iter().for_each(|q| vm.page_untake(handle(*q)));
            if n == 1 {
                return false;
            }
            old.shrink(vm);
        }
    }

    /// The wiring of this entry stays with what this entry maps, the others' with the old
    /// contents (Z50): `p` has them, and `q` is to.
    fn move_wirings(&self, at: &Place<'_>, (p, q): (Handle<Page>, Handle<Page>), shared: bool, push: bool) {
        let vm = self.vm();
        vm.page_inherit(p, q);
        let all = vm.pages.get(p).wired.get();
        let own = all.min(u32::from(at.entry.wired.get() != 0));
        let moves = match (shared, push) {
            (true, true) => all - own,
            (true, false) => own,
            (false, _) => all,
        };
        vm.wirings_move(p, q, moves);
        // What is held for I/O is never shared, and where its object has it.
        debug_assert!(!vm.pages.get(p).is_held_for_io(), "a held page is moved");
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

    /// The contents of `a`, which are in `p`, are to be `a`'s and, for the slot at `index`,
    /// those of the new `b`: one of them gets `q`.
    ///
    /// => the pages are busy, and `q` is nobody's.
    fn divide(
        &self,
        at: &Place<'_>,
        (a, b): (Handle<Anon>, Handle<Anon>),
        (p, q): (Handle<Page>, Handle<Page>),
        push: bool,
        index: u64,
    ) {
        let (old, copy) = (self.pages.get(p), self.pages.get(q));
        if push {
            copy.owner.set(Some(a));
            self.anons.get(a).change_page(Some(p), Some(q));
            self.anons.get(b).reset(Some(p));
            old.owner.set(Some(b));
            old.insert_flags(PageFlags::DIRTY);
        } else {
            copy.owner.set(Some(b));
            copy.insert_flags(PageFlags::DIRTY);
            copy.home.set(Some(at.object));
            copy.pindex.set(index);
            self.anons.get(b).reset(Some(q));
        }
    }

    /// The contents of `p` are also in `q`: the object's own are one of the two now, and the
    /// copies have the other if `parted`. An object that writes its pages back leaves its copies
    /// contents that its pager will not have any more; and what the pager said of the page holds
    /// for the object's own only.
    ///
    /// => both are busy. `pushed`: the object goes on with `p`.
    pub(crate) fn leave_to_copies(
        &self,
        o: Handle<Object>,
        (p, q): (Handle<Page>, Handle<Page>),
        parted: bool,
        pushed: bool,
    ) {
        let object = self.objects.get(o);
        let (own, other) = if parted && pushed { (p, q) } else { (q, p) };
        let (own, other) = (self.pages.get(own), self.pages.get(other));
        if parted && object.flags().contains(ObjectFlags::WRITE_BACK) {
            other.insert_flags(PageFlags::DIRTY);
        }
        if object.control.get().is_some() {
            let said = if parted && pushed { own } else { other };
            let (lock, flags) = (said.lock(), said.flags());
            own.set_lock(lock);
            own.insert_flags(flags & (PageFlags::OWN | PageFlags::PUSHED | PageFlags::PRECIOUS));
            if parted {
                other.set_lock(Prot::NONE);
                other.remove_flags(PageFlags::OWN | PageFlags::PUSHED | PageFlags::PRECIOUS);
            }
        }
    }

    /// The platform gets ready for the contents of busy pages; on failure for none of them.
    fn prepare_run(&self, list: &[PageNo]) -> Result<(), PopulateError> {
        let mut done = 0;
        while done < list.len() {
            let (first, n) = self.frame_run(&list[done..]);
            if let Err(e) = self.plat.mem().prepare(first, n as u32) {
                self.discard_run(&list[..done]);
                return Err(e);
            }
            done += n;
        }
        Ok(())
    }

    /// Undoes [`Vm::prepare_run`].
    fn discard_run(&self, list: &[PageNo]) {
        let mut rest = list;
        while !rest.is_empty() {
            let (first, n) = self.frame_run(rest);
            self.plat.mem().discard(first, n as u32);
            rest = &rest[n..];
        }
    }

    /// Copies page by page, runs of frames in one call.
    fn copy_pages(&self, from: &[(Handle<Anon>, Handle<Page>)], to: &[PageNo]) {
        let frames = |i: usize| (self.pages.get(from[i].1).pfn(), self.pages.get(handle(to[i])).pfn());
        let mut i = 0;
        while i < to.len() {
            let (a, b) = frames(i);
            let next = |n: &usize| frames(i + n) == (a.add(*n as u64), b.add(*n as u64));
            let n = (1..to.len() - i).take_while(next).count() + 1;
            self.plat.mem().copy_run(a, b, n as u32);
            i += n;
        }
        bump(&self.stats.cow_copies, to.len() as u64);
    }

    /// => the pages are busy.
    fn remove_mappings(&self, list: &[(Handle<Anon>, Handle<Page>)]) {
        let mut mapped = [PageNo(NonZeroU32::MIN); CLUSTER];
        let mut n = 0;
        for (_, p) in list.iter().filter(|(_, p)| self.pages.get(*p).is_mapped()) {
            mapped[n] = number(*p);
            n += 1;
        }
        if n != 0 {
            let mut g = Gather::new();
            self.plat.pmap_page().page_remove(&self.pages, &mapped[..n], RemoveWhy::Sample, &mut g);
            self.finish(g, &mut MaySleep::claim());
        }
    }
}
