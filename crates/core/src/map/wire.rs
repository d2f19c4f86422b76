//! Wiring ranges (M33, M34).
//!
//! Pages are faulted in with the map unlocked (Z22): the entries are marked
//! IN_TRANSITION and with the number of this wiring, so that they may be clipped
//! meanwhile but neither merged nor removed (Z27), and a newcomer in a hole is left
//! alone (Z29). A page is counted once for each entry that is wired at all; the
//! entry counts its wirings.

use machvm_arena::Handle;
use machvm_hal::{Gather, Host, MaySleep, Pmap, Prot, Va, VaRange};

use super::clip::CLIPS;
use super::edit::{Edit, transition_event};
use super::entry::{Entry, EntryFlags, Kind};
use super::protect::Holes;
use super::{Map, WireError};
use crate::object::Object;
use crate::platform::Platform;
use crate::vm::Vm;

/// Who wires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wiring {
    /// mlock: one flag, no nesting.
    User,
    /// Counted.
    System,
}

/// What the entries of a wiring need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    /// One wiring more, of entries with these rights.
    Wire(Wiring, Prot),
    /// One wiring less.
    Unwire(Wiring),
}

impl Change {
    /// Does `e` take part?
    fn concerns(self, e: &Entry) -> bool {
        let user = e.flags().contains(EntryFlags::USER_WIRED);
        e.kind() == Kind::Object
            && match self {
                Change::Wire(Wiring::User, _) => !user,
                Change::Wire(Wiring::System, _) => true,
                Change::Unwire(Wiring::User) => user,
                Change::Unwire(Wiring::System) => e.wired.get() != 0,
            }
    }
    /// Wirings that `e` has afterwards.
    fn wired(self, e: &Entry) -> u32 {
        match self {
            Change::Wire(..) => e.wired.get() + 1,
            Change::Unwire(_) => e.wired.get().saturating_sub(1),
        }
    }
}

impl<P: Platform> Map<'_, P> {
    /// Faults in and keeps every page of `range` (M33 `vm_map_wire`). With
    /// [`Holes::Skip`], holes and entries without rights are passed over. The machine's
    /// own mappings are always passed over.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`WireError`]; everything this call wired is undone (Z28).
    pub fn wire(
        &self,
        range: VaRange,
        who: Wiring,
        holes: Holes,
        may: &mut MaySleep,
    ) -> Result<(), WireError> {
        self.wire_for(range, Prot::NONE, who, holes, may)
    }

    /// As [`Map::wire`], and every entry must have these rights too (`VM_MAP_WIRE_WRITE`).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// As [`Map::wire`].
    pub fn wire_for(
        &self,
        range: VaRange,
        need: Prot,
        who: Wiring,
        holes: Holes,
        may: &mut MaySleep,
    ) -> Result<(), WireError> {
        let change = Change::Wire(who, need);
        let Some((within, number)) = self.begin(range, change, holes, may)? else { return Ok(()) };
        let mut done = Ok(());
        self.each_marked(within, number, may, &mut |part, wired, may| {
            if wired == 0 {
                done = self.wire_range(part, may).map_err(WireError::Fault);
            }
            done.is_ok()
        });
        if let Err(WireError::Fault(f)) = done {
            // Pages below the failure that were wired here are let go.
            let mut failed = false;
            self.each_marked(within, number, may, &mut |part, wired, may| {
                failed |= part.contains(f.va());
                if wired == 0 && !failed {
                    part.iter().for_each(|va| self.unwire_page(va, may));
                }
                !failed
            });
        }
        self.end(within, number, done.is_ok().then_some(change), may);
        done
    }

    /// Undoes one wiring (M34 `vm_map_unwire`). Of the user: entries without it are
    /// fine.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`WireError`]; nothing changed.
    pub fn unwire(
        &self,
        range: VaRange,
        who: Wiring,
        holes: Holes,
        may: &mut MaySleep,
    ) -> Result<(), WireError> {
        self.let_go(range, Change::Unwire(who), holes, may)
    }

    fn let_go(
        &self,
        range: VaRange,
        change: Change,
        holes: Holes,
        may: &mut MaySleep,
    ) -> Result<(), WireError> {
        let Some((within, number)) = self.begin(range, change, holes, may)? else { return Ok(()) };
        self.each_marked(within, number, may, &mut |part, wired, may| {
            if wired == 1 {
                part.iter().for_each(|va| self.unwire_page(va, may));
            }
            true
        });
        self.end(within, number, Some(change), may);
        Ok(())
    }

    /// Checks, clips, and marks what takes part. `None`: nothing does.
    fn begin(
        &self,
        range: VaRange,
        change: Change,
        holes: Holes,
        may: &mut MaySleep,
    ) -> Result<Option<(VaRange, u32)>, WireError> {
        let within = match (range.intersect(self.bounds), holes) {
            (None, Holes::Skip) => return Ok(None),
            (Some(w), _) if w == range || holes == Holes::Skip => w,
            _ => return Err(WireError::Hole(range.start())),
        };
        let failed = |e| WireError::no_memory(range.start())(e);
        let mut edit = self.edit_range(within, CLIPS, may).map_err(failed)?;
        let mut done = edit.check_wire(within, change, holes);
        if done.is_ok() {
            done = edit.clip_range(within).map_err(failed);
            edit.settle_ends(within, &done);
        }
        if done.is_ok() {
            edit.inner.wirings = edit.inner.wirings % (u32::MAX - 2) + 1;
            let number = edit.inner.wirings;
            let all = self.overlapping(&edit.inner, within).map(|h| self.entry(h));
            all.filter(|e| change.concerns(e) && !edit.skips(e, change)).for_each(|e| {
                e.insert_flags(EntryFlags::IN_TRANSITION);
                e.wirer.set(number);
            });
        }
        let number = edit.inner.wirings;
        edit.done(may);
        done.map(|()| Some((within, number)))
    }

    /// Calls `f` with each marked part and its wirings, the map unlocked, until `f`
    /// says `false`.
    fn each_marked(
        &self,
        range: VaRange,
        number: u32,
        may: &mut MaySleep,
        f: &mut dyn FnMut(VaRange, u32, &mut MaySleep) -> bool,
    ) {
        let mut at = range.start();
        while let Some(rest) = VaRange::between(at, range.end()) {
            let found = {
                let inner = self.lock_read(may);
                let mut marked = self.overlapping(&inner, rest).map(|h| self.entry(h));
                marked
                    .find(|e| is_marked(e, number))
                    .and_then(|e| Some((e.range()?.intersect(range)?, e.wired.get())))
            };
            let Some((part, wired)) = found else { return };
            if !f(part, wired, may) {
                return;
            }
            at = part.end();
        }
    }

    /// Applies the change (`None`: it failed) and ends the transition.
    fn end(&self, range: VaRange, number: u32, change: Option<Change>, may: &mut MaySleep) {
        let Ok(mut edit) = self.edit(0, may) else { return };
        for h in self.overlapping(&edit.inner, range) {
            let e = self.entry(h);
            if !is_marked(e, number) {
                continue;
            }
            if let Some(change) = change {
                let wired = change.wired(e);
                e.wired.set(wired);
                match change {
                    Change::Wire(Wiring::User, _) => e.insert_flags(EntryFlags::USER_WIRED),
                    Change::Unwire(Wiring::User) => e.remove_flags(EntryFlags::USER_WIRED),
                    Change::Wire(Wiring::System, _) | Change::Unwire(Wiring::System) => {}
                }
            }
            // Also of a wiring that failed half way.
            if let (0, Some(range)) = (e.wired.get(), e.range()) {
                // Those who show this map may forget the pages again.
                self.unmap_views(&edit.inner, range);
                let mut g = Gather::new();
                self.pmap.unwire(self.vm.page_array(), range, &mut g);
                self.vm.finish(g, &mut MaySleep::claim());
            }
            e.wirer.set(0);
            let waited = e.flags().contains(EntryFlags::NEEDS_WAKEUP);
            e.remove_flags(EntryFlags::IN_TRANSITION | EntryFlags::NEEDS_WAKEUP);
            if waited {
                self.vm.host().thread_wakeup(transition_event(e));
            }
        }
        edit.simplify_range(range);
        edit.done(may);
    }
}

fn is_marked(e: &Entry, number: u32) -> bool {
    e.wirer.get() == number && e.flags().contains(EntryFlags::IN_TRANSITION)
}

impl<P: Platform> Edit<'_, '_, P> {
    /// Is `e` passed over for want of rights?
    fn skips(&self, e: &Entry, change: Change) -> bool {
        matches!(change, Change::Wire(_, need)
            if !e.prot().intersects(Prot::R | Prot::X) || !e.prot().contains(need))
    }

    fn check_wire(&self, range: VaRange, change: Change, holes: Holes) -> Result<(), WireError> {
        if holes == Holes::Skip {
            return Ok(());
        }
        if let Some(hole) = self.first_hole(range) {
            return Err(WireError::Hole(hole));
        }
        for h in self.map.overlapping(&self.inner, range) {
            let e = self.entry(h);
            let at: Va = e.start().max(range.start());
            match e.kind() {
                Kind::Guard | Kind::StackGap => return Err(WireError::Hole(at)),
                Kind::Foreign => {}
                Kind::Submap => return Err(WireError::Submap(at)),
                Kind::Object if self.skips(e, change) => return Err(WireError::NoAccess(at)),
                Kind::Object => {
                    let system = e.wired.get() - u32::from(e.flags().contains(EntryFlags::USER_WIRED));
                    if change == Change::Unwire(Wiring::System) && system == 0 {
                        return Err(WireError::NotWired(at));
                    }
                }
            }
        }
        Ok(())
    }
}

impl<P: Platform> Vm<P> {
    /// Takes one wiring off every resident page of the range of an object: what is left
    /// to do when a wired entry is gone.
    ///
    /// => a map may be write locked: who has a page busy does not wait for a map.
    pub(super) fn unwire_object(&self, o: Handle<Object>, first: u64, pages: u64, may: &mut MaySleep) {
        self.each_resident(o, first, pages, may, &mut |p, _| self.pages.get(p).change_wirings(-1));
    }
}
