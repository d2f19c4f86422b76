//! From the first use to the end: finding, keeping, ending, destroying.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{ControlId, MaySleep, PAGE_SHIFT, Pager, Pindex};
use machvm_sync::SpinGuard;

use super::{CHAINS, Control, State, Table};
use crate::object::{Object, ObjectFlags, Source, TO_THE_END};
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

fn chain(pager: PagerId) -> usize {
    pager.0.get() as usize % CHAINS
}

/// What a look into the table found.
enum Found {
    /// The object, with a reference; `true`: it had no users.
    Object(Handle<Object>, Handle<Control>, bool),
    /// It is ending, or being told something.
    Wait(Handle<Control>, u32),
    Nothing,
}

impl<P: Platform> Vm<P> {
    /// The memory object of a pager, with one more reference: the one that there is, or a new
    /// one, of which the pager is told (E01 `memory_object_init`, Z120). Page index 0 is the
    /// first byte of the pager's data; `bytes` of it may be mapped, and at least 1 GiB. What is
    /// modified goes back to the pager.
    ///
    /// => nothing is locked, and the caller has a use of the pager.
    ///
    /// # Errors
    /// [`NoMemory`]; also when there is an object that was made for less.
    pub fn memory_object(
        &self,
        pager: PagerId,
        bytes: u64,
        may: &mut MaySleep,
    ) -> Result<Handle<Object>, NoMemory> {
        let pages = bytes.div_ceil(machvm_hal::PAGE_SIZE);
        let mut spare = None;
        let (object, control, new, first) = loop {
            let mut table = self.memory_objects.lock();
            match self.memory_object_find(&mut table, pager) {
                Found::Object(o, c, first) => break (o, c, false, first),
                Found::Wait(c, version) => {
                    drop(table);
                    self.control_wait(c, version, may);
                }
                Found::Nothing => {
                    let Some((object, control)) = spare.take() else {
                        drop(table);
                        spare = Some(self.memory_object_make(pager, pages, may)?);
                        continue;
                    };
                    self.controls.get(control).next.set(table.chains[chain(pager)]);
                    table.chains[chain(pager)] = Some(control);
                    break (object, control, true, true);
                }
            }
        };
        if let Some((object, control)) = spare {
            // Another thread was first.
            self.objects.get(object).control.set(None);
            self.controls.free(control);
            self.object_deallocate(object, may);
        }
        if self.objects.get(object).capacity() < pages {
            self.object_deallocate(object, may);
            return Err(NoMemory);
        }
        let id = self.control_id(control);
        if new {
            let capacity = self.objects.get(object).capacity();
            let how = self.plat.pager(pager).map(|p| p.init(id, capacity << PAGE_SHIFT));
            // Without a pager faults go on, and find that it is gone.
            if let Some(how) = how.unwrap_or(Some(machvm_hal::Attributes::default())) {
                self.control_ready(id, how);
            }
        }
        if first {
            self.tell_pager(pager, |p| p.map(id));
            self.state_change(control, |s| s - State::BUSY);
        }
        Ok(object)
    }

    fn memory_object_find(&self, table: &mut SpinGuard<'_, Table>, pager: PagerId) -> Found {
        let mut at = table.chains[chain(pager)];
        while let Some(c) = at {
            let control = self.controls.get(c);
            at = control.next.get();
            if control.pager_id() != Some(pager) {
                continue;
            }
            let (state, version) = (control.state(), control.version());
            let Some(o) = control.object.get().filter(|_| !state.contains(State::BUSY)) else {
                return Found::Wait(c, version);
            };
            if state.contains(State::CACHED) {
                self.uncache(table, c);
                control.set_state((control.state() | State::BUSY | State::NAMED) - State::CACHED);
                self.objects.get(o).revive();
                return Found::Object(o, c, true);
            }
            if !self.objects.get(o).try_reference() {
                return Found::Wait(c, version); // its last user is just leaving
            }
            let first = !state.contains(State::NAMED);
            if first {
                control.set_state(state | State::BUSY | State::NAMED);
            }
            return Found::Object(o, c, first);
        }
        Found::Nothing
    }

    /// An object and its control, which nobody knows yet.
    fn memory_object_make(
        &self,
        pager: PagerId,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<(Handle<Object>, Handle<Control>), NoMemory> {
        let c = self.controls.alloc()?;
        let made = self.object_of_pager_data(pages, pager, may);
        let object = made.inspect_err(|_| self.controls.free(c))?;
        let control = self.controls.get(c);
        control.set_state(State::BUSY | State::NAMED);
        control.set_attributes(machvm_hal::Attributes::default());
        control.object.set(Some(object));
        control.pager.set(pager.0.get());
        for field in [&control.next, &control.newer, &control.older] {
            field.set(None);
        }
        control.pending.set(None);
        self.objects.get(object).control.set(Some(c));
        Ok((object, c))
    }

    /// Lets faults through, and says how the object is to be treated.
    pub(super) fn control_ready(&self, id: ControlId, how: machvm_hal::Attributes) -> bool {
        let Some(c) = self.control_named(id) else { return false };
        {
            let _table = self.memory_objects.lock();
            if self.control_id(c) != id {
                return false;
            }
            let control = self.controls.get(c);
            control.set_attributes(how);
            control.set_state(control.state() | State::READY);
        }
        self.control_changed(c);
        true
    }

    fn state_change(&self, c: Handle<Control>, f: impl FnOnce(State) -> State) {
        {
            let _table = self.memory_objects.lock();
            let control = self.controls.get(c);
            control.set_state(f(control.state()));
        }
        self.control_changed(c);
    }

    pub(super) fn tell_pager(&self, pager: PagerId, f: impl FnOnce(&dyn Pager)) {
        if let Some(p) = self.plat.pager(pager) {
            f(p);
        }
    }

    /// The object that a control names, with a reference. `None`: it has ended.
    pub(super) fn control_object(&self, id: ControlId) -> Option<(Handle<Object>, Handle<Control>)> {
        let c = self.control_named(id)?;
        let mut table = self.memory_objects.lock();
        if self.control_id(c) != id {
            return None;
        }
        let control = self.controls.get(c);
        let o = control.object.get()?;
        if control.state().contains(State::CACHED) {
            self.uncache(&mut table, c);
            control.set_state(control.state() - State::CACHED);
            self.objects.get(o).revive();
            return Some((o, c));
        }
        self.objects.get(o).try_reference().then_some((o, c))
    }

    /// The last reference to a memory object went: it is kept (`true`), or it has ended for its
    /// pager and the caller frees it.
    ///
    /// => nothing is locked, and nobody else can get a reference but through the table.
    pub(crate) fn memory_object_unused(
        &self,
        object: Handle<Object>,
        c: Handle<Control>,
        may: &mut MaySleep,
    ) -> bool {
        let control = self.controls.get(c);
        let id = self.control_id(c);
        let pager = control.pager_id().filter(|_| !control.state().contains(State::DEAD));
        if let Some(pager) = pager.filter(|_| control.state().contains(State::NAMED)) {
            // Told with a reference, so that the pager may call for the object.
            {
                let _table = self.memory_objects.lock();
                control.set_state((control.state() | State::BUSY) - State::NAMED);
                self.objects.get(object).revive();
            }
            self.tell_pager(pager, |p| p.last_unmap(id));
            self.state_change(c, |s| s - State::BUSY);
            self.object_deallocate(object, may);
            return true;
        }
        if let Some(pager) = pager {
            let mut table = self.memory_objects.lock();
            if control.state().contains(State::MAY_CACHE) && table.limit != 0 {
                self.cache(&mut table, c);
                control.set_state(control.state() | State::CACHED);
                drop(table);
                self.control_changed(c);
                self.trim_object_cache(may);
                return true;
            }
            control.set_state(control.state() | State::BUSY);
            let temporary = control.state().contains(State::TEMPORARY);
            drop(table);
            if !temporary {
                // There is nobody to report an error to.
                let _ = self.object_sync(object, Pindex(0), TO_THE_END, false, may);
            }
            self.control_end(c);
            self.tell_pager(pager, |p| p.terminated(id));
        }
        {
            let mut table = self.memory_objects.lock();
            self.unchain(&mut table, c);
            control.object.set(None);
            control.set_state(State::DEAD);
        }
        self.objects.get(object).control.set(None);
        self.control_changed(c);
        self.controls.free(c);
        false
    }

    /// From here on the name means nothing, and requests that wait have failed.
    fn control_end(&self, c: Handle<Control>) {
        {
            let _table = self.memory_objects.lock();
            let control = self.controls.get(c);
            control.generation.set(control.generation.get().wrapping_add(1));
        }
        self.pending_abandon_all(c);
    }

    /// See [`machvm_hal::ObjectControl::destroy`].
    pub(super) fn control_destroy(&self, id: ControlId, may: &mut MaySleep) -> bool {
        let Some((object, c)) = self.control_object(id) else { return false };
        let control = self.controls.get(c);
        let won = {
            let mut table = self.memory_objects.lock();
            let won = self.control_id(c) == id && !control.state().contains(State::DEAD);
            if won {
                control.set_state(control.state() | State::DEAD);
                self.unchain(&mut table, c);
            }
            won
        };
        if won {
            self.control_end(c);
            self.control_changed(c);
            // A page that a fault finds from here on was there before: it goes, too.
            while self.object_drop_range(object, Pindex(0), TO_THE_END, may).is_err() && self.make_room(may) {
            }
            if let Some(pager) = control.pager_id() {
                self.tell_pager(pager, |p| p.terminated(id));
            }
        }
        self.object_deallocate(object, may);
        won
    }

    /// The object goes on without its pager, which is told that it is terminated.
    ///
    /// => nobody else uses the system.
    pub(crate) fn memory_object_leave(&self, object: Handle<Object>) {
        let Some(c) = self.objects.get(object).control.get() else { return };
        let (control, id) = (self.controls.get(c), self.control_id(c));
        let told = control.pager_id().filter(|_| !control.state().contains(State::DEAD));
        self.control_end(c);
        {
            let mut table = self.memory_objects.lock();
            self.unchain(&mut table, c);
            control.object.set(None);
            control.set_state(State::DEAD);
        }
        self.objects.get(object).control.set(None);
        self.controls.free(c);
        if let Some(pager) = told {
            self.tell_pager(pager, |p| p.terminated(id));
        }
    }

    /// How many memory objects without users are kept; the oldest beyond that end now.
    ///
    /// => nothing is locked.
    pub fn set_object_cache(&self, limit: u64, may: &mut MaySleep) {
        self.memory_objects.lock().limit = limit;
        self.trim_object_cache(may);
    }

    /// Memory objects without users that are kept now.
    pub fn object_cache_len(&self) -> u64 {
        self.memory_objects.lock().kept
    }

    fn trim_object_cache(&self, may: &mut MaySleep) {
        loop {
            let victim = {
                let mut table = self.memory_objects.lock();
                let over = table.kept > table.limit;
                let Some(c) = table.oldest.filter(|_| over) else { return };
                self.uncache(&mut table, c);
                let control = self.controls.get(c);
                // Not to be kept again.
                control.set_state(control.state() - State::CACHED - State::MAY_CACHE);
                let Some(o) = control.object.get() else { continue };
                self.objects.get(o).revive();
                o
            };
            self.object_deallocate(victim, may);
        }
    }

    fn cache(&self, table: &mut SpinGuard<'_, Table>, c: Handle<Control>) {
        let control = self.controls.get(c);
        control.older.set(table.newest);
        control.newer.set(None);
        match table.newest {
            Some(n) => self.controls.get(n).newer.set(Some(c)),
            None => table.oldest = Some(c),
        }
        table.newest = Some(c);
        table.kept += 1;
    }

    fn uncache(&self, table: &mut SpinGuard<'_, Table>, c: Handle<Control>) {
        let control = self.controls.get(c);
        let (older, newer) = (control.older.get(), control.newer.get());
        match older {
            Some(o) => self.controls.get(o).newer.set(newer),
            None => table.oldest = newer,
        }
        match newer {
            Some(n) => self.controls.get(n).older.set(older),
            None => table.newest = older,
        }
        table.kept -= 1;
    }

    /// Takes it out of its chain, if it is there.
    fn unchain(&self, table: &mut SpinGuard<'_, Table>, c: Handle<Control>) {
        let Some(pager) = self.controls.get(c).pager_id() else { return };
        let head = &mut table.chains[chain(pager)];
        let mut before: Option<Handle<Control>> = None;
        let mut at = *head;
        while let Some(x) = at {
            let next = self.controls.get(x).next.get();
            if x == c {
                match before {
                    Some(b) => self.controls.get(b).next.set(next),
                    None => *head = next,
                }
                return;
            }
            (before, at) = (at, next);
        }
    }

    /// An object with room to grow, whose page index 0 is the first byte of the pager's data.
    fn object_of_pager_data(
        &self,
        pages: u64,
        pager: PagerId,
        may: &mut MaySleep,
    ) -> Result<Handle<Object>, NoMemory> {
        let source = Source { pager, base: 0 };
        let h = self.object_with_source(pages.max(super::ROOM), source, ObjectFlags::WRITE_BACK, may)?;
        // Whoever maps it maps the same pages.
        self.object_open(h);
        Ok(h)
    }
}

impl Object {
    /// One more reference, if there is one.
    pub(crate) fn try_reference(&self) -> bool {
        let more = |n: u32| (n != 0).then(|| n + 1);
        self.refs().atomic().fetch_update(Relaxed, Acquire, more).is_ok()
    }
    /// The first reference again.
    ///
    /// => it has none, and the caller found it in the table.
    pub(crate) fn revive(&self) {
        self.refs().atomic().store(1, Release);
    }
}
