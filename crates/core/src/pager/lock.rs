//! Locks of pages, and the pager's requests about ranges of them (E14 to E16).
//!
//! A lock names the accesses that are not allowed to a resident page of a memory object. A
//! fault that needs one of them asks the pager once (`data_unlock`), remembers so in the page,
//! and sleeps until something of the object's locks changed (Z114).

use machvm_arena::Handle;
use machvm_hal::{
    ControlError, ControlId, Gather, Host, LockRequest, MaySleep, PAGE_SHIFT, PAGE_SIZE, PageNo, Pindex,
    PmapPage, Prot, RemoveWhy, Return, Supply,
};

use super::give::ReturnRun;
use super::{Control, State};
use crate::error::FaultError;
use crate::fault::{Place, Step, WaitFor};
use crate::object::Object;
use crate::page::{Page, PageFlags, event, handle};
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

/// A fault needs an access that a page's lock does not allow: its pager is to be asked
/// ([`Vm::ask_unlock`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unlock {
    /// Whom to ask.
    pub pager: PagerId,
    /// The memory object.
    pub object: ControlId,
    /// The page, in bytes of the pager's data.
    pub offset: u64,
    /// The accesses that are needed.
    pub access: Prot,
}

/// Where in [`PageFlags`] the lock is, and above it what was asked for.
const LOCK_SHIFT: u32 = 8;
const ASKED_SHIFT: u32 = 12;
const MASK: u32 = 7;

impl Page {
    /// Accesses that are not allowed.
    ///
    /// => the page is busy, as for all of these.
    pub(crate) fn lock(&self) -> Prot {
        Prot::from_bits_truncate((self.flags.get() >> LOCK_SHIFT & MASK) as u8)
    }
    fn asked(&self) -> Prot {
        Prot::from_bits_truncate((self.flags.get() >> ASKED_SHIFT & MASK) as u8)
    }
    /// A new lock; nothing was asked for.
    pub(crate) fn set_lock(&self, lock: Prot) {
        let rest = self.flags.get() & !(MASK << LOCK_SHIFT | MASK << ASKED_SHIFT);
        self.flags.set(rest | u32::from(lock.bits()) << LOCK_SHIFT);
    }
    fn set_asked(&self, more: Prot) {
        self.flags.set(self.flags.get() | u32::from(more.bits()) << ASKED_SHIFT);
    }
}

impl<P: Platform> Vm<P> {
    /// The accesses that the page's lock does not allow to who maps `object`. Copies share the
    /// page for reading, in whatever way: of them only the lock against that stops anything.
    ///
    /// => the page is busy.
    pub(crate) fn lock_for(&self, object: Handle<Object>, h: Handle<Page>) -> Prot {
        let lock = self.pages.get(h).lock();
        if lock.is_empty() || self.objects.get(object).control.get().is_some() {
            lock
        } else if lock.contains(Prot::R) {
            Prot::ALL
        } else {
            Prot::NONE
        }
    }

    /// Were there ever memory objects? Where there were none, faults ask nothing more.
    #[inline]
    pub(crate) fn has_controls(&self) -> bool {
        !self.controls.is_untouched()
    }

    /// What a fault at `at` on this page does because of its lock. `None`: go on.
    ///
    /// => the page is busy; when something is to be done, it is not any more.
    #[inline]
    pub(crate) fn page_locked<'vm>(&self, at: &Place<'_>, h: Handle<Page>) -> Option<Step<'vm>> {
        if self.has_controls() { self.look_at_lock(at, h) } else { None }
    }

    #[inline(never)]
    fn look_at_lock<'vm>(&self, at: &Place<'_>, h: Handle<Page>) -> Option<Step<'vm>> {
        let page = self.pages.get(h);
        let lock = self.lock_for(at.object, h);
        if lock.is_empty() {
            return None;
        }
        let Some(c) = self.control_behind(at.object) else {
            page.set_lock(Prot::NONE); // of an object that has ended
            return None;
        };
        let control = self.controls.get(c);
        if control.state().contains(State::DEAD) {
            page.set_lock(Prot::NONE);
            return None;
        }
        // A copy only reads what it shares.
        let own = self.objects.get(at.object).control.get().is_some();
        let access = if own { at.access.hardware() } else { Prot::R };
        let denied = access & lock;
        if denied.is_empty() {
            return None;
        }
        // Read with the page busy: who changes the lock later changes this later.
        let version = control.version();
        let asked = page.asked().contains(denied);
        page.set_asked(denied);
        self.page_unbusy(h);
        if asked {
            return Some(Step::Wait(WaitFor::Pager(c, version)));
        }
        let offset = self.objects.get(at.object).data_base().wrapping_add(at.index << PAGE_SHIFT);
        let object = self.control_id(c);
        let ask = |pager| Step::Unlock(Unlock { pager, object, offset, access });
        Some(control.pager_id().map_or(Step::Again, ask))
    }

    /// Asks a pager for what a step named.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`FaultError::PagerGone`]: there is nobody to ask.
    pub fn ask_unlock(&self, u: &Unlock, va: machvm_hal::Va) -> Result<(), FaultError> {
        let pager = self.plat.pager(u.pager).ok_or(FaultError::PagerGone(va))?;
        pager.data_unlock(u.object, u.offset, PAGE_SIZE, u.access);
        Ok(())
    }

    /// May a fault on an object with a memory object behind go on, or what else?
    ///
    /// => the object is locked.
    #[inline]
    pub(crate) fn control_gate<'vm>(&self, at: &Place<'_>) -> Result<Option<Step<'vm>>, FaultError> {
        if self.has_controls() { self.look_at_control(at) } else { Ok(None) }
    }

    #[inline(never)]
    fn look_at_control<'vm>(&self, at: &Place<'_>) -> Result<Option<Step<'vm>>, FaultError> {
        let Some(c) = self.control_behind(at.object) else { return Ok(None) };
        let control = self.controls.get(c);
        let version = control.version();
        let state = control.state();
        if state.contains(State::DEAD) {
            return Err(FaultError::PagerGone(at.va));
        }
        let wait = !state.contains(State::READY);
        Ok(wait.then_some(Step::Wait(WaitFor::Pager(c, version))))
    }

    /// A page that was waited for has its contents.
    ///
    /// => the page is busy; on return it is not.
    pub(crate) fn page_supplied(&self, h: Handle<Page>, how: Supply, lock: Prot) {
        self.page_supplied_to(h, how, lock);
        bump_pagein(self);
        match self.pages.get(h).owner.get() {
            Some(a) => self.page_returned(h, a),
            None => self.page_fresh(h),
        }
        self.page_unbusy(h);
    }

    /// What the pager says of a page, if it is a memory object's own.
    pub(crate) fn page_supplied_to(&self, h: Handle<Page>, how: Supply, lock: Prot) {
        let page = self.pages.get(h);
        if page.flags().contains(PageFlags::OWN) {
            if how == Supply::Precious {
                page.insert_flags(PageFlags::PRECIOUS);
            }
            page.set_lock(lock);
        } else if how == Supply::Precious && page.home.get().is_none_or(|o| !self.object_has_control(o)) {
            page.insert_flags(PageFlags::DIRTY);
        }
    }

    fn object_has_control(&self, o: Handle<Object>) -> bool {
        self.control_behind(o).is_some()
    }

    /// See [`machvm_hal::ObjectControl::lock_request`].
    pub(super) fn lock_pages(
        &self,
        (object, c, id): (Handle<Object>, Handle<Control>, ControlId),
        first: Pindex,
        pages: u64,
        request: &LockRequest,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        let Some(source) = self.objects.get(object).lock.read(self.host(), may).source else {
            return Err(ControlError::Dead);
        };
        // Flushing returns what is precious, too: it would be lost.
        let what = match request.ret {
            Return::Dirty if request.flush => Return::All,
            other => other,
        };
        let (mut next, end) = (first.0, first.0.saturating_add(pages));
        let mut result = Ok(());
        while let Some(mut run) = self.next_run(object, next, end, &|_| true, may) {
            let Some(run) = self.unwired_part(&mut run, request, may) else { continue };
            next = run.end();
            self.restrict(run.pages(), request, may);
            self.return_run(object, source, run, (what, !request.flush), may);
            let mut refused = Ok(());
            for (i, (p, done)) in run.results().enumerate() {
                refused = refused.and(done);
                let index = next - run.pages().len() as u64 + i as u64;
                self.lock_one((object, index), handle(p), request, done.is_ok(), may);
            }
            self.control_changed(c);
            result = result.and(refused.map_err(ControlError::Pager));
            if self.memory_object_control(object) != Some(id) {
                return Err(ControlError::Dead);
            }
        }
        result
    }

    /// The part of a run before the first page that is wired and would change; the rest is let
    /// go. `None`: it begins with one, and some time was waited for it.
    fn unwired_part<'r>(
        &self,
        run: &'r mut ReturnRun,
        request: &LockRequest,
        may: &mut MaySleep,
    ) -> Option<&'r mut ReturnRun> {
        let stays = |p: PageNo| {
            let page = self.pages.get(handle(p));
            let changes = request.flush || request.lock.is_some_and(|l| !page.lock().contains(l));
            page.wired.get() != 0 && changes
        };
        let n = run.pages().iter().take_while(|p| !stays(**p)).count();
        let first = run.pages().first().map(|p| handle(*p));
        for p in run.split(n) {
            self.page_unbusy(handle(p));
        }
        if n == 0 {
            self.wait_unwired(first, may);
            return None;
        }
        Some(run)
    }

    /// Nobody tells when a page is unwired: looks again after a moment.
    fn wait_unwired(&self, page: Option<Handle<Page>>, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let Some(p) = page else { return };
        let host = self.host();
        let t = host.assert_wait(event(p));
        host.thread_block(t, Some(host.now_ns() + 5_000_000));
    }

    /// Takes from the mappings what the lock does not allow; a flush allows nothing.
    fn restrict(&self, pages: &[PageNo], request: &LockRequest, may: &mut MaySleep) {
        let lock = if request.flush { Prot::ALL } else { request.lock.unwrap_or(Prot::NONE) };
        let mut g = Gather::new();
        if lock.intersects(Prot::R | Prot::X) {
            self.plat.pmap_page().page_remove(&self.pages, pages, RemoveWhy::Sample, &mut g);
        } else if lock.contains(Prot::W) {
            self.plat.pmap_page().page_write_protect(&self.pages, pages, &mut g);
        }
        self.finish(g, may);
    }

    /// The rest of a lock request, for a page that was given back, if it had to be.
    ///
    /// => the page is busy; on return it is not.
    fn lock_one(
        &self,
        (object, index): (Handle<Object>, u64),
        h: Handle<Page>,
        request: &LockRequest,
        given: bool,
        may: &mut MaySleep,
    ) {
        let page = self.pages.get(h);
        if let Some(lock) = request.lock {
            page.set_lock(lock);
        }
        // Of a page that the pager refused the only copy is here.
        if !request.flush || !given || page.is_kept() {
            self.page_unbusy(h);
            return;
        }
        let mut x = self.xbusy(object, index, h);
        if x.is_shared(may) {
            // The copies keep it: nobody will give them what it was.
            page.set_lock(Prot::NONE);
            x.dirty();
        }
        // Without memory to change a shared path it stays.
        let _ = x.free(may);
    }
}

fn bump_pagein<P: Platform>(vm: &Vm<P>) {
    crate::stats::bump(&vm.stats.pageins, 1);
}
