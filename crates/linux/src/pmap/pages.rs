//! Operations that start from pages, and the part that all pmaps of a process share.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use machvm_arena::Handle;
use machvm_hal::{Flush, Gather, Invalidations, PageArray, PageNo, PmapPage, RefMod, RemoveWhy};

use super::pv::{self, Mapping};
use super::shadow::{Locked, Pte, WINDOW};
use super::{Config, Limits, LinuxPmap, Mmu, PmapError, Space, Window, index, runs, sub};
use crate::phys::LinuxMem;
use crate::phys::commons::is_common;
use crate::uffd::Uffd;

/// The pmaps of this process, seen from the pages.
#[derive(Clone)]
pub struct LinuxPv(pub(super) Arc<Mmu>);

impl core::fmt::Debug for LinuxPv {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LinuxPv({} pmaps)", self.0.spaces.live())
    }
}

impl LinuxPv {
    /// Opens the userfaultfd for pages of `mem`.
    ///
    /// # Errors
    /// [`PmapError`].
    pub fn new(mem: &LinuxMem, config: Config) -> Result<Self, PmapError> {
        LinuxPv::with_limits(mem, config, Limits::NONE)
    }

    /// The same, with an end to what page tables may take.
    ///
    /// # Errors
    /// [`PmapError`].
    pub fn with_limits(mem: &LinuxMem, config: Config, limits: Limits) -> Result<Self, PmapError> {
        Ok(LinuxPv(Arc::new(Mmu::new(mem, config, limits)?)))
    }

    /// A new, empty pmap.
    ///
    /// # Errors
    /// [`PmapError`].
    pub fn pmap(&self, window: Window) -> Result<LinuxPmap, PmapError> {
        LinuxPmap::new(Arc::clone(&self.0), window)
    }

    /// Where faults are read and waiters woken.
    pub fn uffd(&self) -> &Uffd {
        &self.0.uffd
    }

    /// VMAs that the regions make, at most, and how many they may.
    pub fn vmas(&self) -> (u64, u64) {
        (self.0.vmas.load(Ordering::Relaxed), self.0.vma_limit)
    }

    /// Bytes of page tables and of records of mappings in use.
    pub fn table_bytes(&self) -> usize {
        self.0.tables.bytes() + self.0.records.live() as usize * size_of::<pv::Record>()
    }

    /// The first mapping of a page (that may be writable).
    fn first<A: PageArray>(&self, pages: &A, page: PageNo, may_write: bool) -> Option<Mapping> {
        let md = pages.md(page);
        // Most pages have no mapping when this is asked. Nobody enters them (they are
        // busy), so empty stays empty.
        if md.pv.load(Ordering::Relaxed) == 0 {
            return None;
        }
        pv::lock(md, &self.0.records, 0).first(may_write)
    }

    /// How many pages of `list` follow each other in the pmap from `m` on, within a
    /// window; at least one.
    fn together<A: PageArray>(&self, pages: &A, list: &[PageNo], m: Mapping, may_write: bool) -> usize {
        let room = WINDOW as usize - index(m.va());
        let follows = |(i, page): (usize, &PageNo)| {
            let next = Mapping::new(m.id(), m.va().add(i as u64));
            pv::lock(pages.md(*page), &self.0.records, 0).has(next, may_write)
        };
        1 + list.iter().enumerate().take(room).skip(1).take_while(|x| follows(*x)).count()
    }

    /// Every mapping of the pages (that may be writable), in runs: `f` gets the space,
    /// the locked leaf, the first mapping and the pages of the run. It must take the
    /// mappings out (or the hint off): that is what ends this.
    fn each_run<A: PageArray>(
        &self,
        pages: &A,
        list: &[PageNo],
        may_write: bool,
        mut f: impl FnMut(&Space, &mut Locked<'_>, Mapping, &[PageNo]),
    ) {
        for i in 0..list.len() {
            while let Some(m) = self.first(pages, list[i], may_write) {
                let n = self.together(pages, &list[i..], m, may_write);
                let Some(space) = self.0.spaces.lookup(m.id()) else { continue };
                // No leaf: the mapping went away meanwhile, with its record.
                if let Some(mut leaf) = self.0.tables.lock(&space.root, m.id(), m.va()) {
                    f(space, &mut leaf, m, &list[i..i + n]);
                }
            }
        }
    }

    /// Takes write access from the writable mappings of the pages.
    fn trap_writes<A: PageArray>(&self, pages: &A, list: &[PageNo]) {
        self.each_run(pages, list, true, |_, leaf, m, run| {
            let base = index(m.va());
            let ours = |leaf: &Locked<'_>, i: usize| leaf.pte(base + i).page() == Some(run[i]);
            let writable: [bool; WINDOW as usize] =
                core::array::from_fn(|i| i < run.len() && ours(leaf, i) && leaf.pte(base + i).write());
            runs(
                run.len(),
                |i| writable[i],
                |i, n| {
                    self.0.trap_writes(sub(m.va(), i, n));
                    (base + i..base + i + n).for_each(|i| leaf.set(i, leaf.pte(i).without_write()));
                },
            );
            for (i, page) in run.iter().enumerate() {
                let mapping = Mapping::new(m.id(), m.va().add(i as u64));
                pv::lock(pages.md(*page), &self.0.records, 0).set_may_write(mapping, false);
            }
        });
    }
}

impl PmapPage for LinuxPv {
    /// Linux has taken the rights on return: there is nothing to gather.
    fn page_write_protect<A: PageArray>(&self, pages: &A, list: &[PageNo], _gather: &mut Gather) {
        self.trap_writes(pages, list);
    }

    fn page_remove<A: PageArray>(&self, pages: &A, list: &[PageNo], why: RemoveWhy, _gather: &mut Gather) {
        self.each_run(pages, list, false, |space, leaf, m, run| {
            let base = index(m.va());
            let ours: [bool; WINDOW as usize] =
                core::array::from_fn(|i| i < run.len() && leaf.pte(base + i).page() == Some(run[i]));
            runs(
                run.len(),
                |i| ours[i],
                |i, n| {
                    for (i, page) in run.iter().enumerate().skip(i).take(n) {
                        let mapping = Mapping::new(m.id(), m.va().add(i as u64));
                        pv::lock(pages.md(*page), &self.0.records, 0).remove(mapping);
                        leaf.set(base + i, Pte::NONE);
                    }
                    space.resident.fetch_sub(n as u64, Ordering::Relaxed);
                    match why {
                        RemoveWhy::Sample => self.0.zap(sub(m.va(), i, n)),
                        // Nobody punches holes there.
                        RemoveWhy::Free if is_common(pages.pfn(run[i])) => self.0.zap(sub(m.va(), i, n)),
                        // Punching the hole removes what Linux has mapped.
                        RemoveWhy::Free => {}
                    }
                },
            );
        });
    }

    /// Clearing MODIFIED traps the next write.
    fn page_refmod<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod {
        self.page_clear(pages, page, RefMod::empty(), &mut Gather::new())
    }
    fn page_clear<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        clear: RefMod,
        _gather: &mut Gather,
    ) -> RefMod {
        let bits = &pages.md(page).bits;
        let old = if clear.is_empty() {
            bits.load(Ordering::Relaxed)
        } else {
            bits.fetch_and(!clear.bits(), Ordering::AcqRel)
        };
        // Afterwards: who gets the right to write from now on sets the bit again, and that stays.
        if clear.contains(RefMod::MODIFIED) {
            self.trap_writes(pages, &[page]);
        }
        RefMod::from_bits_truncate(old)
    }
}

/// Carries out flushes on Linux: whatever took rights away has flushed already, and
/// nothing of it is ever gathered.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxFlush;

impl Flush for LinuxFlush {
    fn flush(&self, _what: &Invalidations<'_>) {}
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<LinuxPv>();
    shared::<LinuxPmap>();
    shared::<Handle<Space>>();
};
