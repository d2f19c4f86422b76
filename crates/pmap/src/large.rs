//! Large mappings on demand (PM11 with `psind`, PM14; Q11, Q12), and single ones that
//! nobody records.
//!
//! A managed superpage made here is what promotion would have made: its table is put
//! aside under it, empty, and demotion fills it. An unmanaged large mapping has no table
//! aside and is never demoted: removing or weakening a part of it takes the whole.

use machvm_arch::Tlb;
use machvm_hal::pmap9::{LargeFailed, MemAttr, PhysAddr, Shortage};
use machvm_hal::{EnterError, Gather, PageArray, PageNo, Pfn, Prot, RawAddr, Va, VaRange};

use crate::enter::Entering;
use crate::path::NoTable;
use crate::port::{Cpus, Port, TableMem};
use crate::pte::{Format, Leaf, Pte};
use crate::pv::{REGION, Record};
use crate::system::{PmapId, System};
use crate::table::Ident;
use crate::walk::{Walk, as_leaf};

const SUPER: u8 = 2;

/// Why a large mapping was not made now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotLarge {
    /// For good.
    Failed(LargeFailed),
    /// What was there is out and in the gather: finish it, then again.
    Displaced,
}

impl From<LargeFailed> for NotLarge {
    fn from(e: LargeFailed) -> Self {
        NotLarge::Failed(e)
    }
}

/// An unmanaged mapping to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unmanaged {
    pub(crate) pfn: Pfn,
    pub(crate) prot: Prot,
    pub(crate) wired: bool,
    pub(crate) attr: MemAttr,
}

impl<P: Port> System<P> {
    /// log2 of the bytes of superpages of this size index.
    pub(crate) fn large_shift(psind: u8) -> Option<u32> {
        let level = psind.checked_add(1)?;
        let fits = psind != 0 && level <= P::Format::MAX_LEAF_LEVEL && level < P::Format::LEVELS;
        fits.then(|| P::Format::shift(level))
    }

    /// Has an entry room for the frame's number?
    fn has_room(pfn: Pfn) -> bool {
        pfn.0 >> (P::Format::PHYSICAL_BITS - 12) == 0
    }

    /// Checks size and alignment; gives the level.
    pub(crate) fn large_level(&self, id: PmapId, va: Va, pfn: Pfn, psind: u8) -> Result<u8, LargeFailed> {
        let no_size = LargeFailed::NoSuchSize { psind };
        let shift = Self::large_shift(psind).ok_or(no_size)?;
        if (va.get() | pfn.0 << 12).trailing_zeros() < shift {
            return Err(LargeFailed::Unaligned { va, pfn });
        }
        // These windows keep their tables for unmanaged mappings.
        if self.keeps_table(self.pmap(id), va.get()) || !Self::has_room(pfn) || !self.owns(id, va.get()) {
            return Err(no_size);
        }
        Ok(psind + 1)
    }

    /// Is there anything below the entry at `level` that must go? Refuses what may not.
    ///
    /// => the pmap is locked.
    fn occupied(&self, id: PmapId, range: VaRange, level: u8, replace: bool) -> Result<bool, LargeFailed> {
        let pm = self.pmap(id);
        let (mut found, mut refused) = (false, None);
        self.for_windows(range, |part| {
            if refused.is_some() {
                return Some(P::Format::LEVELS);
            }
            let w = self.walk(pm, part.start().get());
            if let Some(old) = as_leaf::<P::Format>(w.raw, w.stop) {
                let first = part.start().get() & !((1 << P::Format::shift(w.stop)) - 1);
                let va = Va::from_page(first >> 12);
                if w.stop >= level {
                    refused = Some(LargeFailed::AlreadyLarge { va });
                } else if old.wired || !replace {
                    refused = Some(LargeFailed::Occupied { va });
                }
                found = true;
            } else if w.is_leaf()
                && let Some(md) = self.md(w.table(1))
                && (md.children.get() != 0 || md.eager.get() != 0)
            {
                if !replace || md.eager.get() != 0 {
                    refused = Some(LargeFailed::Occupied { va: self.first_mapped(&w, part.start()) });
                }
                found = true;
            }
            Some(w.stop)
        });
        refused.map_or(Ok(found), Err)
    }

    fn first_mapped(&self, w: &Walk, at: Va) -> Va {
        let index = (0..P::Format::entries(1)).find(|i| self.leaf_at(w.table(1), *i).1.is_some());
        at.add(index.unwrap_or(0) as u64)
    }

    /// Nothing is mapped in the range after this, or it says why not; nothing but empty
    /// tables was there if it says yes.
    fn make_room<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        range: VaRange,
        level: u8,
        replace: bool,
        g: &mut Gather,
    ) -> Result<(), NotLarge> {
        let found = {
            let _pm = self.pmap(id).lock.lock();
            self.occupied(id, range, level, replace)?
        };
        if found {
            self.remove_range(id, pages, range, g);
            return Err(NotLarge::Displaced);
        }
        Ok(())
    }

    /// A managed superpage of size index 1.
    pub(crate) fn enter_super<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        head: PageNo,
        replace: bool,
        g: &mut Gather,
    ) -> Result<(), NotLarge> {
        let first = e.pages.pfn(head);
        self.large_level(e.id, va, first, 1)?;
        for i in 0..REGION {
            let pfn = first.add(i);
            if e.pages.page_at(pfn).is_none() || !self.port.mem().has_frames(pfn, 1) {
                return Err(LargeFailed::NotContiguous { pfn }.into());
            }
        }
        let range = VaRange::of_pages(va, REGION).unwrap_or(VaRange::page(va));
        self.make_room(e.id, e.pages, range, SUPER, replace, g)?;
        // A writable superpage is dirty (Q03): write access only when it is used, or when
        // no fault may bring it.
        let mut leaf = e.leaf(&self.port, head);
        leaf.dirty = leaf.prot.contains(Prot::W) && (e.access.contains(Prot::W) || leaf.wired);
        if !leaf.dirty {
            leaf.prot -= Prot::W;
        }
        let _pm = e.pm.lock.lock();
        let no_table = LargeFailed::NoMemory { short: Shortage::Table };
        let w = self.make_path(e.id, va.get()).map_err(|n| match n {
            NoTable::NoMemory => no_table,
            NoTable::Superpage(_) => LargeFailed::AlreadyLarge { va },
        })?;
        self.push_down(e.id, va.get(), leaf.prot.contains(Prot::W));
        if self.put_aside(e, va, &w, leaf, g).is_err() {
            self.unlink_empty(e.id, va.get(), g);
            return Err(LargeFailed::NoMemory { short: Shortage::Record }.into());
        }
        Ok(())
    }

    /// The window's empty table goes under a superpage.
    ///
    /// => the pmap is locked.
    fn put_aside<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        w: &Walk,
        leaf: Leaf,
        g: &mut Gather,
    ) -> Result<(), machvm_arena::NoMemory> {
        let (mem, deposit) = (self.port.mem(), w.table(1));
        let Some(md) = self.md(deposit) else { return Err(machvm_arena::NoMemory) };
        let _leaf = md.lock();
        let mut pv = self.pv.cursor();
        pv.at(leaf.pfn);
        let Some(head) = e.pages.page_at(leaf.pfn) else { return Err(machvm_arena::NoMemory) };
        self.pv_insert(e.pages.md(head), Record::Super { deposit })?;
        self.set_region_super(e.pages, head, true);
        for i in 1..REGION {
            let pfn = leaf.pfn.add(i);
            if let Some(page) = e.pages.page_at(pfn) {
                // What is free becomes the mark of a member.
                self.pv_tidy(e.pages, pfn, e.pages.md(page));
            }
        }
        if leaf.prot.contains(Prot::X) {
            (0..REGION).for_each(|i| self.port.cpus().sync_icache(leaf.pfn.add(i)));
        }
        md.set_ident(Ident { pmap: e.id, va: va.get(), level: 1, deposited: true });
        let wired = if leaf.wired { REGION as u32 } else { 0 };
        md.children.set(REGION as u32);
        md.eager.set(wired);
        let index = P::Format::index(va.get(), SUPER);
        self.break_first(e.pm, w.table(SUPER), index, va.get());
        mem.store(w.table(SUPER), index, P::Format::emit(Pte::Leaf(leaf), SUPER));
        self.port.tlb().publish(e.pm.space_here(), VaRange::page(va), true);
        // CPUs may remember the way to the table.
        g.invalidate(e.id.raw(), VaRange::page(va));
        g.invalidate_walks();
        let above = Walk { stop: SUPER, ..*w };
        self.count_eager(&above, wired as i32);
        e.pm.count(REGION as i64, i64::from(wired));
        Ok(())
    }

    /// An unmanaged mapping of size index `psind`, without a table aside.
    #[expect(clippy::too_many_arguments)]
    pub(crate) fn enter_large<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        va: Va,
        what: &Unmanaged,
        psind: u8,
        replace: bool,
        g: &mut Gather,
    ) -> Result<(), NotLarge> {
        let level = self.large_level(id, va, what.pfn, psind)?;
        let (pm, mem) = (self.pmap(id), self.port.mem());
        let n = 1u64 << (P::Format::shift(level) - 12);
        let Some(range) = VaRange::of_pages(va, n) else {
            return Err(LargeFailed::NoSuchSize { psind }.into());
        };
        self.make_room(id, pages, range, level, replace, g)?;
        let _pm = pm.lock.lock();
        let mut unlinked = false;
        self.for_windows(range, |part| {
            let w = self.walk(pm, part.start().get());
            if w.is_leaf() {
                self.unlink_empty(id, part.start().get(), g);
                unlinked = true;
            }
            Some(w.stop)
        });
        if unlinked {
            // Ways to the empty tables are remembered.
            return Err(NotLarge::Displaced);
        }
        let w = self
            .make_path_to(id, va.get(), level)
            .map_err(|_| LargeFailed::NoMemory { short: Shortage::Table })?;
        if w.stop != level || w.raw != 0 {
            return Err(LargeFailed::Occupied { va }.into());
        }
        self.push_down(id, va.get(), true);
        let leaf = self.unmanaged_leaf(id, what);
        let index = P::Format::index(va.get(), level);
        mem.store(w.table(level), index, P::Format::emit(Pte::Leaf(leaf), level));
        self.port.tlb().publish(pm.space_here(), VaRange::page(va), true);
        self.child_added(w.table(level), 1);
        let wired = if what.wired { n as i64 } else { 0 };
        self.count_eager(&w, wired as i32);
        pm.count(n as i64, wired);
        Ok(())
    }

    fn unmanaged_leaf(&self, id: PmapId, what: &Unmanaged) -> Leaf {
        let kernel = self.is_kernel(id);
        Leaf {
            user: !kernel,
            global: kernel,
            wired: what.wired,
            ..crate::kernel::kernel_leaf(what.pfn, what.prot, what.attr)
        }
    }

    /// A single unmanaged mapping; see [`machvm_hal::pmap9::Frame::Unmanaged`].
    pub(crate) fn enter_unmanaged<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        va: Va,
        what: &Unmanaged,
        g: &mut Gather,
    ) -> Result<(), EnterError> {
        if !Self::has_room(what.pfn) {
            return Err(EnterError::Foreign(va));
        }
        let pm = self.pmap(id);
        let _pm = pm.lock.lock();
        let (leaf, w) = loop {
            match self.make_path(id, va.get()) {
                Err(NoTable::NoMemory) => return Err(EnterError::NoMemory),
                Err(NoTable::Superpage(_)) => {
                    if !self.demote(id, pages, va.get(), g) {
                        self.remove_superpage(id, pages, va.get(), g);
                        return Err(EnterError::Displaced(va));
                    }
                    continue;
                }
                Ok(_) => {}
            }
            self.push_down(id, va.get(), true);
            if let Ok(found) = self.lock_leaf(id, va.get()) {
                break found;
            }
        };
        let index = P::Format::index(va.get(), 1);
        let new = self.unmanaged_leaf(id, what);
        let keeps = |l: &Leaf| crate::kernel::counted(pm, l);
        match self.leaf_at(leaf.table, index).1 {
            Some(old) if old.pfn == new.pfn && !old.managed && old.attr == new.attr => {
                let both = |l: Leaf| Leaf { prot: l.prot | new.prot, dirty: l.dirty | new.dirty, ..l };
                self.update(leaf.table, index, 1, |l| Some(Leaf { wired: l.wired | new.wired, ..both(l) }));
                let more = i32::from(new.wired && !old.wired);
                if keeps(&old) {
                    leaf.md.eager.set(leaf.md.eager.get().wrapping_add_signed(more));
                    self.count_eager(&w, more);
                }
                pm.count(0, i64::from(more));
            }
            Some(_) => {
                let mut pv = self.pv.cursor();
                if let Some(old) = self.take_out(id, pages, &leaf, index, va, &mut pv, g) {
                    if keeps(&old) {
                        leaf.md.children.sub(1);
                        leaf.md.eager.sub(u32::from(old.wired));
                        self.count_eager(&w, -i32::from(old.wired));
                    }
                    pm.count(-1, -i64::from(old.wired));
                }
                return Err(EnterError::Displaced(va));
            }
            None => {
                self.port.mem().store(leaf.table, index, P::Format::emit(Pte::Leaf(new), 1));
                if keeps(&new) {
                    leaf.md.children.add(1);
                    leaf.md.eager.add(u32::from(new.wired));
                    self.count_eager(&w, i32::from(new.wired));
                }
                pm.count(1, i64::from(new.wired));
            }
        }
        self.port.tlb().publish(pm.space_here(), VaRange::page(va), true);
        Ok(())
    }

    /// `pmap_object_init_pt` (PM14): the largest unmanaged mappings that fit, where nothing
    /// is mapped. Gives the pages mapped.
    #[expect(clippy::too_many_arguments)]
    pub(crate) fn preload<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        range: VaRange,
        first: Pfn,
        prot: Prot,
        attr: MemAttr,
        g: &mut Gather,
    ) -> u64 {
        let (mut at, mut done) = (0, 0);
        while at < range.pages() {
            let (va, pfn) = (range.start().add(at), first.add(at));
            let fits = |psind: &u8| {
                Self::large_shift(*psind).is_some_and(|s| {
                    (va.get() | pfn.0 << 12).trailing_zeros() >= s && range.pages() - at >= 1 << (s - 12)
                })
            };
            let what = Unmanaged { pfn, prot, wired: false, attr };
            let made = [2, 1]
                .into_iter()
                .filter(fits)
                .find(|psind| self.enter_large(id, pages, va, &what, *psind, false, g).is_ok());
            let step = made.or(Some(1)).and_then(Self::large_shift).map_or(1, |s| 1 << (s - 12));
            if made.is_some() {
                done += step;
                at += step;
            } else {
                // To the next place where one could begin.
                at += step - (va.page() & (step - 1));
            }
        }
        done
    }

    /// Where an address of the pmap is in physical memory.
    pub(crate) fn physical(&self, id: PmapId, at: RawAddr) -> Option<PhysAddr> {
        let va = Va::containing(at).get();
        let (leaf, _) = self.owns(id, va).then(|| self.leaf_of(id, va)).flatten()?;
        Some(PhysAddr::new(leaf.pfn, at))
    }
}
