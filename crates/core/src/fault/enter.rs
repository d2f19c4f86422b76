//! Entering: the page is resident and busy; map it and its neighbours.

use core::num::NonZeroU32;
use core::sync::atomic::Ordering::Relaxed;
use machvm_arena::Handle;
use machvm_hal::{EnterError, EnterFlags, Gather, MaySleep, PageNo, Pmap, Prot, Va};

use super::fill::{ObjectGuard, cluster};
use super::{CLUSTER, MapGuard, Place, Purpose, Step, WaitFor};
use crate::error::FaultError;
use crate::map::{Entry, Kind, Map, Seen};
use crate::object::{Anon, LEAF, Object, ObjectFlags, ObjectInner};
use crate::page::{Page, PageFlags, QueueId, handle, number};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Length of a fault cluster from which on its pages are taken for written when one
/// is.
const WRITE_AHEAD: u32 = 4;

/// Do writes follow one another here? Pages that go back to a pager are never taken for
/// written before they are: it would get what nobody wrote, over what others put there.
pub(super) fn writes_ahead<P: Platform>(vm: &Vm<P>, at: &Place<'_>) -> bool {
    at.access.contains(Prot::W)
        && at.entry.cluster.get() >= WRITE_AHEAD
        && !vm.objects.get(at.object).flags().contains(ObjectFlags::WRITE_BACK)
}

/// Stores that follow one another are foreseen also where nothing is filled or copied: the last
/// sharer of much gets it back in clusters. `false`: the page was in the last one.
#[inline(never)] // seldom
fn grow_cluster(entry: &Entry, page: u64) -> bool {
    let before_next = entry.next_fault.get().wrapping_sub(page);
    if (1..=u64::from(entry.cluster.get())).contains(&before_next) {
        return false;
    }
    entry.cluster.set(cluster(entry, page).pages as u32);
    true
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// => `page` is busy and belongs to `anon`, which is at `at`.
    pub(super) fn resident(
        &self,
        at: &Place<'_>,
        anon: Handle<Anon>,
        page: Handle<Page>,
        path_shared: bool,
        map: MapGuard<'_, P>,
        object: ObjectGuard<'_, P>,
    ) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        let shared = path_shared || vm.anons.get(anon).is_shared();
        let natural = vm.is_natural(at, page, at.index);
        let own = at.purpose == Purpose::Own;
        if let Some(step) = vm.page_locked(at, page) {
            return Ok(step);
        }
        if (own || at.access.contains(Prot::W)) && vm.must_push(at.object, page) {
            let wait = vm.push_page((at.object, at.index), (anon, page));
            vm.page_unbusy(page);
            return Ok(wait.map_or(Step::Again, Step::Wait));
        }
        if !natural || (shared && (own || at.access.contains(Prot::W))) {
            return Ok(self.break_sharing(at, anon, page, natural, map, object));
        }
        if own {
            vm.page_unbusy(page);
            return Ok(Step::Done);
        }
        let rights = vm.rights(at, &object, anon, page, shared, at.access);
        let mut foresee = false;
        if at.access.contains(Prot::W) {
            // Mapped without write although nothing but sharing forbade it.
            let reuse = vm.objects.get(at.object).flags().contains(ObjectFlags::COPIED)
                && self.pmap().extract(&vm.pages, at.va).is_some_and(|(_, had)| !had.contains(Prot::W))
                && vm.page_is_dirty(page);
            bump(&vm.stats.cow_reuse, u64::from(reuse));
            vm.forget_copy(anon, page);
            vm.take_over(at, page);
            foresee = reuse && grow_cluster(at.entry, at.va.page());
        }
        if self.is_window_due(at, page, rights) {
            return self.enter_window(at, page, rights, map, object);
        }
        let mut run = [PageNo(NonZeroU32::MIN); CLUSTER];
        let (first, n) = self.neighbours(at, page, rights, &object, &mut run);
        if foresee {
            at.entry.next_fault.set(first.page() + n as u64);
        }
        self.enter_busy(at, page, first, &run[..n], rights, map, object)
    }

    /// Enters a run of busy pages, among them `page`, and lets them go.
    #[expect(clippy::too_many_arguments)]
    pub(super) fn enter_busy(
        &self,
        at: &Place<'_>,
        page: Handle<Page>,
        first: Va,
        run: &[PageNo],
        rights: Prot,
        map: MapGuard<'_, P>,
        object: ObjectGuard<'_, P>,
    ) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        drop(object);
        // The pages are busy and the map is read locked: nobody enters, removes or
        // write-protects them meanwhile, so the object is not needed any more.
        let r = self.enter_run(first, run, rights, at);
        vm.activate_entered(page, run);
        if r.is_ok() {
            vm.watch_entered(page, run, rights.contains(Prot::W));
        }
        for p in run {
            vm.page_unbusy(handle(*p));
        }
        drop(map);
        match r {
            Ok(()) => Ok(Step::Done),
            Err(EnterError::NoMemory) => Ok(Step::Wait(WaitFor::Memory)),
            // Only natural frames are entered; a machine that refuses one has no
            // way to map the page.
            Err(EnterError::Foreign(va) | EnterError::Displaced(va)) => Err(FaultError::NoMemory(va)),
        }
    }

    /// Takes resident neighbours with the same rights busy, unmapped ones or, where
    /// writes follow one another, write-protected ones; gives the
    /// address of the first page and the length of the run.
    fn neighbours(
        &self,
        at: &Place<'_>,
        page: Handle<Page>,
        rights: Prot,
        object: &ObjectInner,
        run: &mut [PageNo; CLUSTER],
    ) -> (Va, usize) {
        let vm = self.vm();
        let in_leaf = at.index % LEAF as u64;
        // Where writes follow one another, the next pages are taken for written too: one
        // fault instead of one for each page, at the price of their copies on swap.
        let writes = writes_ahead(vm, at);
        let as_if = if writes { Prot::W } else { Prot::R };
        let leaf = vm.tree_leaf(&object.tree, at.index);
        let take = |index: u64| {
            let (leaf, shared) = leaf?;
            let a = leaf.slots[index as usize % LEAF].get()?;
            let p = vm.anons.get(a).page()?;
            if vm.pages.get(p).is_mapped() {
                let va = Va::from_page((at.va.page() + index) - at.index);
                let here = || self.pmap().extract(&vm.pages, va).filter(|(no, _)| *no == number(p));
                if !writes || here().is_none_or(|(_, prot)| prot.contains(Prot::W)) {
                    return None;
                }
            }
            vm.anon_busy_page(a, p).ok()?;
            let shared = shared || vm.anons.get(a).is_shared();
            let ok = vm.is_natural(at, p, index) && vm.rights(at, object, a, p, shared, as_if) == rights;
            if ok && as_if.contains(Prot::W) {
                vm.forget_copy(a, p);
            }
            if !ok {
                vm.page_unbusy(p);
            }
            ok.then_some(p)
        };
        let room_up = (LEAF as u64 - in_leaf).min(at.end.page() - at.va.page());
        let room_down = in_leaf.min(at.va.page() - at.start.page());
        let mut up = 1;
        run[0] = number(page);
        while up < CLUSTER && (up as u64) < room_up {
            let Some(p) = take(at.index + up as u64) else { break };
            run[up] = number(p);
            up += 1;
        }
        let mut down = 0;
        while up + down < CLUSTER && (down as u64) < room_down {
            let Some(p) = take(at.index - down as u64 - 1) else { break };
            run.copy_within(0..up + down, 1);
            run[0] = number(p);
            down += 1;
        }
        (at.va.sub(down as u64), up + down)
    }

    /// Enters a run of busy pages, clearing and flushing where another frame was.
    fn enter_run(&self, first: Va, run: &[PageNo], rights: Prot, at: &Place<'_>) -> Result<(), EnterError> {
        let vm = self.vm();
        let flags = if at.entry.keeps_mappings() { EnterFlags::WIRED } else { EnterFlags::empty() };
        // The page that faulted first: it is the one that was accessed.
        let which = ((at.va.page() - first.page()) as usize).min(run.len() - 1);
        let enter = |va: Va, list: &[PageNo], flags: EnterFlags| {
            for _ in 0..=list.len() {
                let mut g = Gather::new();
                let r = self.pmap().enter(&vm.pages, va, list, rights, at.access, flags, &mut g);
                // Waits for other CPUs at most; no spin lock is held.
                vm.finish(g, &mut MaySleep::claim());
                if !matches!(r, Err(EnterError::Displaced(_))) {
                    return r;
                }
            }
            Err(EnterError::NoMemory)
        };
        let ahead = flags | EnterFlags::PREFAULT;
        let written = at.access.contains(Prot::W) && !vm.frames.is_sparse();
        if run.len() == 1 || (written && writes_ahead(vm, at)) {
            // A pmap that makes superpages takes write access from entries that are not
            // modified (Q03), so what is taken for written is entered as that.
            enter(first, run, flags)?;
        } else {
            enter(first, run, ahead)?;
            if written {
                // Nothing may take back what this fault came for.
                enter(at.va, &run[which..=which], flags)?;
            }
            vm.mark_referenced(handle(run[which]));
        }
        bump(&vm.stats.mapped, run.len() as u64);
        Ok(())
    }

    /// Maps resident neighbours of `va` for reading (F03): `-1, +1, -2, +2, ...` up
    /// to `backward` and `forward` pages, stopping on each side at the first page
    /// that is not resident, busy or mapped. Never allocates, never sleeps, reports
    /// no error. Pages are mapped without write access (Z90, Z91).
    pub fn vm_fault_prefault(&self, va: Va, backward: u64, forward: u64) {
        let vm = self.vm();
        let host = vm.plat.host();
        let Some(inner) = self.lock_word().try_read(host) else { return };
        let Ok(Some(seen)) = self.try_see(&inner, va) else { return };
        let entry = seen.entry;
        let (Kind::Object, Some(oh)) = (entry.kind(), entry.object.get()) else { return };
        let rights = entry.prot().hardware() - Prot::W;
        if seen.is_stale() && self.pmap().has_regions() {
            return;
        }
        if rights.is_empty() {
            return;
        }
        let (mut down, mut up) = (true, true);
        for d in 1..=backward.max(forward) {
            down = down
                && d <= backward
                && va.page() >= seen.start.page() + d
                && self.prefault_one(&seen, oh, va.sub(d), rights);
            up = up
                && d <= forward
                && va.page() + d < seen.end.page()
                && self.prefault_one(&seen, oh, va.add(d), rights);
        }
    }

    fn prefault_one(
        &self,
        seen: &Seen<'vm, P>,
        oh: Handle<crate::object::Object>,
        va: Va,
        rights: Prot,
    ) -> bool {
        let vm = self.vm();
        let Some(object) = vm.objects.get(oh).lock.try_write(vm.plat.host()) else { return false };
        let at = Place::of(seen, va, oh, (Prot::R, Purpose::Access));
        let (Some(a), _) = vm.tree_lookup(&object.tree, at.index) else { return false };
        let Some(p) = vm.anons.get(a).page() else { return false };
        if self.pmap().extract(&vm.pages, va).is_some() {
            return true;
        }
        if vm.anon_busy_page(a, p).is_err() {
            return false;
        }
        let ok = vm.is_natural(&at, p, at.index) && !vm.lock_for(oh, p).intersects(rights) && {
            let mut g = Gather::new();
            let r =
                self.pmap().enter(&vm.pages, va, &[number(p)], rights, Prot::R, EnterFlags::PREFAULT, &mut g);
            vm.finish(g, &mut MaySleep::claim());
            r.is_ok()
        };
        vm.page_unbusy(p);
        ok
    }
}

impl<P: Platform> Vm<P> {
    /// Is the page at the frame that the object's place is tied to?
    pub(crate) fn is_natural(&self, at: &Place<'_>, page: Handle<Page>, index: u64) -> bool {
        self.is_at_home(at.object, page, index)
    }

    /// As [`Vm::is_natural`].
    pub(crate) fn is_at_home(&self, o: Handle<Object>, page: Handle<Page>, index: u64) -> bool {
        !self.frames.is_sparse() || self.pages.get(page).pfn() == self.objects.get(o).natural(index)
    }

    /// What the page may be mapped with: the entry's rights, without write while the
    /// page is shared, or clean with a copy elsewhere (so that the first write is
    /// seen), or copies need it first; and without what its lock does not allow.
    pub(super) fn rights(
        &self,
        at: &Place<'_>,
        object: &ObjectInner,
        anon: Handle<Anon>,
        page: Handle<Page>,
        shared: bool,
        access: Prot,
    ) -> Prot {
        let (mut all, mut shared) = (at.entry.prot().hardware(), shared);
        if self.has_controls() {
            let lock = self.lock_for(at.object, page);
            if lock.contains(Prot::R) {
                return Prot::NONE;
            }
            all -= lock;
            shared |= self.must_push(at.object, page);
        }
        let has_copy = object.source.is_some() || self.anons.get(anon).swap().is_some();
        let watch = has_copy && !access.contains(Prot::W) && !self.page_is_dirty(page);
        if shared || watch { all - Prot::W } else { all }
    }

    /// The page is about to be written: its copy on swap is stale.
    fn forget_copy(&self, anon: Handle<Anon>, page: Handle<Page>) {
        let slot = self.anons.get(anon);
        self.pages.get(page).insert_flags(PageFlags::DIRTY);
        if let Some(s) = slot.swap() {
            slot.set_swap(None);
            self.swap_free(s);
        }
    }

    /// Dense: a page that a copy left behind belongs to this object alone; what is known
    /// of its place is true of this object from now on.
    fn take_over(&self, at: &Place<'_>, page: Handle<Page>) {
        let pg = self.pages.get(page);
        if !self.frames.is_sparse() && pg.home.get() != Some(at.object) {
            pg.home.set(Some(at.object));
            pg.pindex.set(at.index);
            self.reserv_rename(page, self.frame_for(at, at.index));
        }
    }

    fn mark_referenced(&self, page: Handle<Page>) {
        let bits = &self.pages.get(page).md.bits;
        bits.fetch_or(machvm_hal::RefMod::REFERENCED.bits(), Relaxed);
    }

    /// Pages that were set aside and are used again go back to the active queue;
    /// those entered ahead stay where they are.
    fn activate_entered(&self, faulted: Handle<Page>, run: &[PageNo]) {
        let q = self.pages.get(faulted).queue.get();
        if QueueId::names_aside(q) {
            self.page_called_back(faulted);
        }
        debug_assert!(run.contains(&number(faulted)));
    }
}
