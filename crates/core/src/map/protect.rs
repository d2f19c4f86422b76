//! Protections (M30).

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, Pmap, Prot, RawAddr, RegionError, VaRange};

use super::clip::CLIPS;
use super::edit::Edit;
use super::entry::{Entry, EntryFlags, Kind};
use super::stack::DETACHED;
use super::tree::Tree;
use super::{Map, MapFlags, ProtectError};
use crate::error::FaultError;
use crate::fault::Fault;
use crate::platform::Platform;

/// What becomes of addresses where nothing is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holes {
    /// They are passed over (Mach, FreeBSD; Z07).
    Skip,
    /// They are an error, found before anything is changed.
    Refuse,
}

/// What [`Map::protect`] sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetProt {
    /// The current protection (`SET_PROT`).
    pub prot: Option<Prot>,
    /// The maximum is cut to this, and the protection with it (`SET_MAXPROT`).
    pub max: Option<Prot>,
    /// Holes.
    pub holes: Holes,
}

impl SetProt {
    /// The current protection; holes are passed over.
    pub const fn prot(prot: Prot) -> Self {
        SetProt { prot: Some(prot), max: None, holes: Holes::Skip }
    }
    /// What it makes of an entry: protection and maximum.
    fn of(&self, e: &Entry) -> (Prot, Prot) {
        let max = self.max.map_or(e.max(), |m| m & e.max());
        (self.prot.unwrap_or(e.prot()) & max, max)
    }
    /// Does it make memory writable that was not?
    fn makes_writable(&self, e: &Entry) -> bool {
        e.kind() == Kind::Object && !e.prot().contains(Prot::W) && self.of(e).0.contains(Prot::W)
    }
}

/// What a change of protections makes writable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Gains {
    /// Some memory.
    write: bool,
    /// Some wired memory.
    wired: bool,
}

/// In `charged` of an entry: since this operation began.
const NEW: u32 = 2;

/// What becomes of a new maximum that is not part of the old one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ceiling {
    /// The common part counts.
    Cut,
    /// It is an error.
    Refuse,
}

impl<P: Platform> Map<'_, P> {
    /// Sets current or maximum protection, or both (M30 `vm_map_protect`). Guards are
    /// passed over. Everything is checked before anything changes.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ProtectError`]; nothing changed.
    pub fn protect(&self, range: VaRange, set: &SetProt, may: &mut MaySleep) -> Result<(), ProtectError> {
        if let (Some(p), Some(m)) = (set.prot, set.max)
            && !m.contains(p)
        {
            return Err(ProtectError::OutsideMax(range.start()));
        }
        self.protect_checked(range, set, Ceiling::Cut, may)
    }

    /// Lowers the maximum of everything in `range` to `max`, and the protection with it
    /// (U20 `vm_protect` with `set_maximum`). Unlike [`SetProt::max`], a maximum that is
    /// not part of the old one is refused.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ProtectError`]; nothing changed.
    pub fn set_maximum(
        &self,
        range: VaRange,
        max: Prot,
        holes: Holes,
        may: &mut MaySleep,
    ) -> Result<(), ProtectError> {
        let set = SetProt { prot: None, max: Some(max), holes };
        self.protect_checked(range, &set, Ceiling::Refuse, may)
    }

    fn protect_checked(
        &self,
        range: VaRange,
        set: &SetProt,
        ceiling: Ceiling,
        may: &mut MaySleep,
    ) -> Result<(), ProtectError> {
        let Some(within) = range.intersect(self.bounds) else {
            return match set.holes {
                Holes::Skip => Ok(()),
                Holes::Refuse => Err(ProtectError::Hole(range.start())),
            };
        };
        let failed = |e| ProtectError::no_memory(range.start())(e);
        let (mut edit, checked) = loop {
            let edit = self.edit_range(within, CLIPS, may).map_err(failed)?;
            let checked = edit.check_protect(range, set, ceiling);
            let wired = checked.is_ok_and(|gains| gains.wired);
            match wired.then(|| edit.shared_wired(within, set, may)).flatten() {
                None => break (edit, checked),
                Some(rest) => {
                    edit.done(may);
                    self.own_wired(rest, may)?;
                }
            }
        };
        let done = checked.and_then(|gains| {
            let clipped = edit.clip_range(within).map_err(failed);
            let done = clipped.and_then(|()| edit.apply_protect(within, set, gains, may));
            edit.settle(within, &done);
            done
        });
        edit.done(may);
        if done.is_ok() && checked.is_ok_and(|gains| gains.wired) {
            self.map_wired(within, may);
        }
        done
    }

    /// Gives the objects behind wired pages of `range` pages of their own where copies
    /// share them (F06).
    fn own_wired(&self, range: VaRange, may: &mut MaySleep) -> Result<(), ProtectError> {
        for va in range.iter() {
            let wired = {
                let inner = self.lock_read(may);
                let e = self.lookup_entry(&inner, va).map(|h| self.entry(h));
                e.is_some_and(|e| e.kind() == Kind::Object && e.wired.get() != 0)
            };
            if wired && self.is_resident(va, may) {
                // Whatever else happened to the map is found when it is locked again.
                if let Err(FaultError::NoMemory(va)) = self.fault_own(va, Prot::R, may) {
                    return Err(ProtectError::NoMemory(va));
                }
            }
        }
        Ok(())
    }

    /// Maps the wired pages of `range` with the rights that they have now, so that they
    /// take no fault later (Z49). Where there is no memory for that, they do.
    fn map_wired(&self, range: VaRange, may: &mut MaySleep) {
        for va in range.iter() {
            let wired = {
                let inner = self.lock_read(may);
                let e = self.lookup_entry(&inner, va).map(|h| self.entry(h));
                e.is_some_and(|e| e.wired.get() != 0 && e.prot().contains(Prot::W))
            };
            if wired && self.pmap.extract(self.vm.page_array(), va).is_none_or(|(_, p)| !p.contains(Prot::W))
            {
                let _ = self.fault(&Fault { addr: RawAddr(va.get()), access: Prot::W }, may);
            }
        }
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// The entries of memory in `range` that `set` makes writable, and their parts in it.
    fn newly_writable(&self, range: VaRange, set: &SetProt) -> impl Iterator<Item = (&Entry, VaRange)> {
        let all = self.map.overlapping(&self.inner, range).map(|h| self.map.entry(h));
        all.filter(|e| set.makes_writable(e)).filter_map(move |e| Some((e, e.range()?.intersect(range)?)))
    }

    /// Charges what `set` makes writable. What comes before the first that is refused keeps
    /// its charge until it is unmapped, and no protection changes (Z61).
    ///
    /// => `range` is clipped.
    fn charge_writable(&self, range: VaRange, set: &SetProt) -> Result<(), ProtectError> {
        let vm = self.map.vm;
        let mut done = Ok(());
        for (e, _) in self.newly_writable(range, set) {
            let needs = e.object.get().is_some_and(|o| vm.object_needs_charge(o, e.is_shared()))
                && !e.flags().contains(EntryFlags::NO_CHARGE)
                && e.charged.get() == 0;
            if needs {
                done = vm.commit_take(e.pages(), 0).map_err(ProtectError::no_memory(e.start()));
                if done.is_err() {
                    self.settle_charges(range, Ok(()));
                    break;
                }
                e.charged.set(NEW);
            }
        }
        done
    }

    /// What was charged anew stays so, or is released if the machine refused the change.
    fn settle_charges(&self, range: VaRange, done: Result<(), ProtectError>) {
        let all = self.map.overlapping(&self.inner, range).map(|h| self.map.entry(h));
        for e in all.filter(|e| e.charged.get() == NEW) {
            match done {
                Ok(()) => e.charged.set(1),
                Err(_) => self.map.vm.entry_uncharge(e),
            }
        }
    }

    /// Marks the wired pages that `set` makes writable as their objects' alone. Gives what
    /// begins with the first that is shared: it must get a page of its own first.
    fn shared_wired(&self, range: VaRange, set: &SetProt, may: &mut MaySleep) -> Option<VaRange> {
        let mut wired = self.newly_writable(range, set).filter(|(e, _)| e.wired.get() != 0);
        let at = wired.find_map(|(e, part)| self.map.mark_wired(e, part, may))?;
        VaRange::between(at, range.end())
    }

    fn check_protect(&self, range: VaRange, set: &SetProt, ceiling: Ceiling) -> Result<Gains, ProtectError> {
        let wxorx = self.inner.flags.contains(MapFlags::WXORX);
        let mut at = range.start();
        let mut gains = Gains { write: false, wired: false };
        for h in self.map.overlapping(&self.inner, range) {
            let e = self.entry(h);
            let here = e.start().max(range.start());
            if set.holes == Holes::Refuse && here > at {
                return Err(ProtectError::Hole(at));
            }
            at = e.end();
            match e.kind() {
                Kind::Guard | Kind::StackGap => continue,
                Kind::Submap => return Err(ProtectError::Submap(here)),
                Kind::Object | Kind::Foreign => {}
            }
            let raised = set.max.is_some_and(|m| !e.max().contains(m));
            let max = set.max.map_or(e.max(), |m| m & e.max());
            if (raised && ceiling == Ceiling::Refuse) || set.prot.is_some_and(|p| !max.contains(p)) {
                return Err(ProtectError::ExceedsMax(here));
            }
            if wxorx && set.prot.is_some_and(|p| p.contains(Prot::W | Prot::X)) {
                return Err(ProtectError::WriteExecute(here));
            }
            if set.makes_writable(e) {
                gains.write = true;
                gains.wired |= e.wired.get() != 0;
            }
        }
        if set.holes == Holes::Refuse && at < range.end() { Err(ProtectError::Hole(at)) } else { Ok(gains) }
    }

    /// => `range` is clipped and checked. On failure the machine is as before.
    fn apply_protect(
        &mut self,
        range: VaRange,
        set: &SetProt,
        gains: Gains,
        may: &mut MaySleep,
    ) -> Result<(), ProtectError> {
        if gains.write {
            self.charge_writable(range, set)?;
        }
        let mut g = Gather::new();
        let mut refused = None;
        for h in self.map.overlapping(&self.inner, range) {
            let e = self.entry(h);
            let (new, _) = set.of(e);
            if self.region_protect(h, e.prot(), new, &mut g).is_err() {
                refused = Some(e.start());
                break;
            }
        }
        for h in self.map.overlapping(&self.inner, range) {
            let e = self.entry(h);
            let (new, max) = set.of(e);
            match refused {
                None if matches!(e.kind(), Kind::Guard | Kind::StackGap) => {}
                None => {
                    e.set_prot(new);
                    e.set_max(max);
                }
                Some(at) if e.start() == at => break,
                Some(_) => {
                    // Back to what the machine had a moment ago.
                    let back = self.region_protect(h, new, e.prot(), &mut g);
                    debug_assert!(back.is_ok(), "the machine does not take a protection back");
                }
            }
        }
        self.map.vm.finish(g, may);
        let done = match refused {
            None => Ok(()),
            Some(at) => Err(ProtectError::Machine(at)),
        };
        if gains.write {
            self.settle_charges(range, done);
        }
        done
    }

    /// Tells the machine that the protection of `h` changes; the gap below a stack goes
    /// with it. On failure nothing changed.
    fn region_protect(
        &self,
        h: Handle<Entry>,
        old: Prot,
        new: Prot,
        g: &mut Gather,
    ) -> Result<(), RegionError> {
        let e = self.entry(h);
        let (Kind::Object | Kind::Foreign, Some(range)) = (e.kind(), e.range()) else { return Ok(()) };
        if old == new {
            return Ok(());
        }
        let (pmap, pages) = (&self.map.pmap, self.map.vm.page_array());
        if !new.contains(old) {
            self.map.unmap_views(&self.inner, range);
        }
        pmap.region_protect(pages, range, old, new, g)?;
        if let Some(gap) = self.gap_below(h)
            && let Err(e) = pmap.region_protect(pages, gap, old, new, g)
        {
            let back = pmap.region_protect(pages, range, new, old, g);
            debug_assert!(back.is_ok(), "the machine does not take a protection back");
            return Err(e);
        }
        Ok(())
    }

    /// The gap, of one or more entries, that the stack `h` may grow into.
    fn gap_below(&self, h: Handle<Entry>) -> Option<VaRange> {
        let e = self.entry(h);
        if !e.flags().contains(EntryFlags::GROWS_DOWN) {
            return None;
        }
        let (mut at, mut start) = (h, e.start());
        while let Some(below) = Tree::prev(&self.map.vm.entries, at)
            && let b = self.entry(below)
            && b.kind() == Kind::StackGap
            && b.end() == start
            && b.tag.get() != DETACHED
        {
            (at, start) = (below, b.start());
        }
        VaRange::between(start, e.start())
    }
}
