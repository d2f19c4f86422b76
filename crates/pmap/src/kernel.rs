//! The kernel's addresses: which have tables (PM02-PM04), and mappings that nobody
//! records (PM30-PM34).
//!
//! Below [`System::kernel_end`] every window has its level-1 table for ever: these are
//! not taken out when they are empty and superpages do not take their place. So an
//! unmanaged mapping is one store: no lock, no memory, no waiting, in interrupts too.
//! Such mappings are in no count that a lock guards; the pmap's own counts are atomics.
//!
//! What [`System::kremove`] took out is remembered as one range in two words and flushed
//! by the next `pmap_update` of the kernel's pmap.

use core::sync::atomic::{AtomicU64, Ordering};

use machvm_arch::{Space, Tlb};
use machvm_hal::pmap9::{MemAttr, PhysSegment};
use machvm_hal::{MaySleep, PAGE_SIZE, Pfn, Prot, Va, VaRange};

use crate::cpu::MAX_CPUS;
use crate::path::NoTable;
use crate::port::{Port, TableMem};
use crate::pte::{Format, Leaf, Pte};
use crate::system::{PmapData, PmapId, System};
use crate::walk::{Walk, as_leaf};

/// No page table could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrowError {
    /// The first address without one.
    pub at: Va,
}

/// Why no memory was stolen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StealError {
    /// There are pages already: every frame is accounted for (Z149).
    TooLate,
    /// No segment has so many free frames in a row.
    NoFrames {
        /// As asked.
        frames: u64,
    },
    /// No kernel addresses are left for it.
    NoSpace,
    /// No page table.
    Grow(GrowError),
}

/// Words of the kernel's address space. All \[a\].
#[derive(Debug)]
pub(crate) struct KernelSpace {
    /// Addresses below this were stolen.
    start: AtomicU64,
    /// Not 0: there are pages, nothing is stolen any more.
    ready: AtomicU64,
    /// What was removed and not flushed: lowest address, highest end.
    dirty: [AtomicU64; 2],
    /// First address of the slots of [`crate::quick`]; 0: there are none.
    pub(crate) slots: AtomicU64,
    /// Not 0: the CPU's slot is in use.
    pub(crate) slot_used: [AtomicU64; MAX_CPUS],
}

const CLEAN: [u64; 2] = [u64::MAX, 0];

impl KernelSpace {
    pub(crate) fn new(start: Va) -> Self {
        KernelSpace {
            start: AtomicU64::new(start.get()),
            ready: AtomicU64::new(0),
            dirty: CLEAN.map(AtomicU64::new),
            slots: AtomicU64::new(0),
            slot_used: [const { AtomicU64::new(0) }; MAX_CPUS],
        }
    }

    /// => the entry is written.
    fn soil(&self, range: VaRange) {
        // Release: who takes the words sees the entries gone.
        self.dirty[0].fetch_min(range.start().get(), Ordering::Release);
        self.dirty[1].fetch_max(range.end().get(), Ordering::Release);
    }

    /// What must be flushed. Two words are not taken in one step: of a range that is
    /// found in halves more is said than is true, twice.
    pub(crate) fn take_dirty(&self, all: VaRange) -> Option<VaRange> {
        let low = self.dirty[0].swap(CLEAN[0], Ordering::AcqRel);
        let high = self.dirty[1].swap(CLEAN[1], Ordering::AcqRel);
        if [low, high] == CLEAN {
            return None;
        }
        Some(VaRange::between(Va::from_page(low >> 12), Va::from_page(high >> 12)).unwrap_or(all))
    }

    fn is_dirty(&self, va: Va) -> bool {
        let [low, high] = [0, 1].map(|i| self.dirty[i].load(Ordering::Acquire));
        low <= va.get() && va.get() < high
    }
}

/// Is the mapping in the counts of tables? Unmanaged ones of the kernel are not.
#[inline]
pub(crate) fn counted(pm: &PmapData, l: &Leaf) -> bool {
    l.managed || !pm.is_kernel()
}

impl<P: Port> System<P> {
    /// `pmap_init` (PM01), the end of bootstrapping: nothing is stolen from here on.
    pub fn bootstrapped(&self) {
        self.kspace.ready.store(1, Ordering::Release);
    }

    /// `pmap_virtual_space` (PM02): kernel addresses for the rest of the system.
    pub fn virtual_space(&self) -> VaRange {
        let all = self.kernel_range();
        let end = match self.kspace.slots.load(Ordering::Relaxed) {
            0 => all.end(),
            slots => Va::from_page(slots >> 12),
        };
        let start = Va::from_page(self.kspace.start.load(Ordering::Acquire) >> 12);
        VaRange::between(start, end).unwrap_or(VaRange::page(end.sub(1)))
    }

    /// `pmap_growkernel` (PM04): tables for the kernel's addresses below `max`, rounded up
    /// to the span of a table. Gives the end of those that have tables, which never falls
    /// (Z148).
    ///
    /// => no pmap is locked.
    ///
    /// # Errors
    /// [`GrowError`]; what was made stays.
    pub fn grow_kernel(&self, max: Va) -> Result<Va, GrowError> {
        let (id, space) = (self.kernel_id(), self.virtual_space());
        let pm = self.pmap(id);
        let span = 1u64 << P::Format::shift(2);
        if max > space.end() {
            return Err(GrowError { at: space.end() });
        }
        let _pm = pm.lock.lock();
        let mut end = self.kernel_end.load(Ordering::Relaxed);
        while end < max.get() {
            let at = Va::from_page(end >> 12);
            if self.make_path(id, end).is_err() {
                return Err(GrowError { at });
            }
            let next = (end & !(span - 1)).saturating_add(span);
            end = next.min(space.end().get());
            // Release: who sees the end sees the tables.
            self.kernel_end.store(end, Ordering::Release);
        }
        Ok(Va::from_page(end >> 12))
    }

    /// Has the window of `va` a table for ever?
    #[inline]
    pub(crate) fn keeps_table(&self, pm: &PmapData, va: u64) -> bool {
        if !pm.is_kernel() {
            return false;
        }
        let slots = self.kspace.slots.load(Ordering::Relaxed);
        let first = crate::walk::window::<P::Format>(va);
        first < self.kernel_end.load(Ordering::Acquire)
            && va >= crate::walk::window::<P::Format>(self.kernel_range().start().get())
            || slots != 0 && first == crate::walk::window::<P::Format>(slots)
    }

    /// A new entry of the kernel's root is in every root, where the format has one root.
    ///
    /// => the kernel's pmap is locked, so no pmap is made or ends meanwhile.
    pub(crate) fn share_root_entry(&self, index: usize, word: u64) {
        if P::Format::SPLIT_ROOT {
            return;
        }
        self.pmaps.for_each(|_, pm| {
            if pm.is_alive() && !pm.is_kernel() {
                self.port.mem().store(pm.root(), index, word);
            }
        });
    }

    /// The frames for `pmap_steal_memory` (PM03), off a segment, and where the kernel finds
    /// them: in the direct map, or mapped at the start of [`System::virtual_space`], which
    /// they leave. Their contents are what they were.
    ///
    /// # Errors
    /// [`StealError`].
    pub fn steal(&self, frames: u64, segments: &mut [PhysSegment]) -> Result<(Va, Pfn), StealError> {
        if self.kspace.ready.load(Ordering::Acquire) != 0 {
            return Err(StealError::TooLate);
        }
        let none = StealError::NoFrames { frames };
        let from = segments.iter_mut().find(|s| s.available() >= frames).ok_or(none)?;
        if let (Some(first), Some(_)) = (
            self.port.mem().direct(from.avail_start),
            self.port.mem().direct(from.avail_start.add(frames.max(1) - 1)),
        ) {
            return Ok((first, from.take(frames).ok_or(none)?));
        }
        let space = self.virtual_space();
        if space.pages() <= frames {
            return Err(StealError::NoSpace);
        }
        let (va, end) = (space.start(), space.start().add(frames));
        self.grow_kernel(end).map_err(StealError::Grow)?;
        let first = from.take(frames).ok_or(none)?;
        for i in 0..frames {
            self.kenter(va.add(i), first.add(i), Prot::RW, MemAttr::WriteBack);
        }
        self.kspace.start.store(end.get(), Ordering::Release);
        Ok((va, first))
    }

    /// `pmap_kenter_pa` (PM31): an unmanaged, wired mapping of the kernel's. Never fails.
    /// Takes the place of an older one, which other CPUs may use until
    /// [`System::kernel_update`].
    ///
    /// => any lock may be held, in interrupts too. No managed mapping is there: debug
    ///    builds refuse it, release builds leave it.
    ///
    /// # Panics
    /// `va` is not in what [`System::grow_kernel`] made.
    #[track_caller]
    pub fn kenter(&self, va: Va, pfn: Pfn, prot: Prot, attr: MemAttr) {
        let pm = self.pmap(self.kernel_id());
        let w = self.walk(pm, va.get());
        let end = self.kernel_end.load(Ordering::Acquire);
        assert!(
            w.is_leaf() && self.keeps_table(pm, va.get()),
            "no page table for the kernel address {va:?}: they end at {end:#x}"
        );
        let new = kernel_leaf(pfn, prot, attr);
        if self.kspace.is_dirty(va) && P::Tlb::BROADCAST {
            // Clear, flush, set, where the flush reaches all without waiting for them.
            self.flush_kernel_page(va);
        }
        if let Some(old) = self.swap_unmanaged(&w, va, Some(&new)) {
            if old.pfn != new.pfn || !new.prot.contains(old.prot) || old.attr != new.attr {
                self.kspace.soil(VaRange::page(va));
            }
        } else {
            pm.count(1, 1);
        }
        self.port.tlb().publish(Space::Kernel, VaRange::page(va), false);
    }

    /// `pmap_kremove` (PM32): takes out what [`System::kenter`] made. Holes are skipped.
    /// CPUs may use it until [`System::kernel_update`].
    ///
    /// => any lock may be held, in interrupts too. A managed mapping is refused in debug
    ///    builds and left in release builds (Z136).
    pub fn kremove(&self, range: VaRange) {
        let pm = self.pmap(self.kernel_id());
        let mut gone = 0;
        for va in range.iter() {
            let w = self.walk(pm, va.get());
            if w.is_leaf() && self.swap_unmanaged(&w, va, None).is_some() {
                gone += 1;
            }
        }
        if gone != 0 {
            self.kspace.soil(range);
            pm.count(-gone, -gone);
        }
    }

    /// Replaces or removes an unmanaged mapping in one step. Gives what was there; a
    /// managed mapping stays.
    fn swap_unmanaged(&self, w: &Walk, va: Va, new: Option<&Leaf>) -> Option<Leaf> {
        let (mem, table, index) = (self.port.mem(), w.table(1), P::Format::index(va.get(), 1));
        let word = new.map_or(0, |l| P::Format::emit(Pte::Leaf(*l), 1));
        let mut raw = mem.load(table, index);
        loop {
            let old = as_leaf::<P::Format>(raw, 1);
            if let Some(l) = old.filter(|l| l.managed) {
                debug_assert!(
                    false,
                    "{va:?}: the managed mapping of {:?} is not for {}",
                    l.pfn,
                    if new.is_some() { "pmap_kenter_pa" } else { "pmap_kremove" }
                );
                return old;
            }
            if P::Format::BREAK_BEFORE_MAKE
                && raw != 0
                && let Some(new) = new
                && old.is_some_and(|l| l.pfn != new.pfn || l.attr != new.attr)
            {
                // Nothing, a flush, the new one; no other CPU is waited for.
                if mem.compare_exchange(table, index, raw, 0).is_ok() {
                    self.flush_kernel_page(va);
                    mem.store(table, index, word);
                    return old;
                }
                raw = mem.load(table, index);
                continue;
            }
            match mem.compare_exchange(table, index, raw, word) {
                Ok(_) => return old,
                Err(now) => raw = now,
            }
        }
    }

    /// This CPU's flush of one kernel page; every CPU's where flushes are broadcast.
    pub(crate) fn flush_kernel_page(&self, va: Va) {
        let tlb = self.port.tlb();
        tlb.before();
        tlb.flush_range(Space::Kernel, VaRange::page(va), false);
        tlb.after();
    }

    /// `pmap_update` (PM42) of the kernel's pmap: when it returns every CPU obeys all calls of
    /// [`System::kenter`] and [`System::kremove`] before it.
    ///
    /// => no spin lock is held.
    pub fn kernel_update(&self, may: &mut MaySleep) {
        self.finish_deferred(self.kernel_id(), may);
    }

    /// What was removed by [`System::kremove`] or replaced by [`System::kenter`] and not
    /// flushed since; the caller flushes it.
    pub(crate) fn kernel_dirty(&self) -> Option<VaRange> {
        self.kspace.take_dirty(self.kernel_range())
    }

    /// Makes the table of the slots of `quick` and takes their addresses off the end of the
    /// kernel's.
    ///
    /// => before [`System::virtual_space`] is asked for. A second call changes nothing.
    pub(crate) fn make_slots(&self) -> Result<(), NoTable> {
        let all = self.kernel_range();
        let slots = MAX_CPUS as u64;
        if self.port.mem().direct(self.idle).is_some() || all.pages() <= 2 * slots {
            return Ok(());
        }
        // In one window: a multiple of their number from the end.
        let first = (all.end().get() / PAGE_SIZE / slots - 1) * slots * PAGE_SIZE;
        let _pm = self.pmap(self.kernel_id()).lock.lock();
        if self.kspace.slots.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        self.make_path(self.kernel_id(), first)?;
        self.kspace.slots.store(first, Ordering::Relaxed);
        Ok(())
    }

    /// The kernel's pmap, for who has a range in it.
    pub(crate) fn is_kernel(&self, id: PmapId) -> bool {
        id == self.kernel_id()
    }
}

/// An unmanaged mapping of the kernel's: no access to it faults or is noted.
pub(crate) fn kernel_leaf(pfn: Pfn, prot: Prot, attr: MemAttr) -> Leaf {
    Leaf {
        pfn,
        prot: prot.hardware(),
        user: false,
        global: true,
        accessed: true,
        dirty: prot.contains(Prot::W),
        wired: true,
        managed: false,
        contiguous: false,
        attr,
    }
}
