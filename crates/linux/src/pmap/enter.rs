//! Entering a run of pages: what each needs, and carrying that out in few calls.

use core::sync::atomic::Ordering;

use machvm_hal::{EnterError, EnterFlags, PAGE_SIZE, PageArray, PageNo, Prot, RefMod, Va};

use super::pv::{self, Mapping};
use super::shadow::{Locked, Pte};
use super::{LinuxPmap, index, sub};
use crate::sys;
use crate::uffd::{Mode, Refusal};

/// What one page of a run needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// To be mapped, with writes trapped or not; or mapped again.
    Map { wp: bool },
    /// Writes no longer trapped.
    Upgrade,
    /// Nothing.
    Skip,
}

/// One `enter` within one window.
pub(super) struct Enter<'a, A> {
    pub(super) pmap: &'a LinuxPmap,
    pub(super) pages: &'a A,
    pub(super) va: Va,
    pub(super) run: &'a [PageNo],
    pub(super) prot: Prot,
    pub(super) access: Prot,
    pub(super) flags: EnterFlags,
    /// A bit for each page of the run whose entry this call made.
    pub(super) fresh: [u64; 8],
}

impl<A: PageArray> Enter<'_, A> {
    /// => `leaf` is that of `va`.
    pub(super) fn window(&mut self, mut leaf: Locked<'_>) -> Result<(), EnterError> {
        let (mut start, mut pending) = (0, Need::Skip);
        for i in 0..self.run.len() {
            let need = match self.plan(&mut leaf, i) {
                Ok(need) => need,
                Err(e) => {
                    self.carry_out(&mut leaf, start, i, pending)?;
                    if matches!(e, EnterError::Displaced(_)) {
                        self.pmap.forget(self.pages, &mut leaf, self.va, i);
                        self.pmap.mmu.zap(sub(self.va, i, 1));
                    }
                    return Err(e);
                }
            };
            if need != pending {
                self.carry_out(&mut leaf, start, i, pending)?;
                (start, pending) = (i, need);
            }
        }
        self.carry_out(&mut leaf, start, self.run.len(), pending)
    }

    /// Writes down what page `i` of the run will be: entry, record and bits come
    /// before the access they describe.
    fn plan(&mut self, leaf: &mut Locked<'_>, i: usize) -> Result<Need, EnterError> {
        let (page, at) = (self.run[i], index(self.va) + i);
        let write = self.prot.contains(Prot::W);
        let (wired, ahead) =
            (self.flags.contains(EnterFlags::WIRED), self.flags.contains(EnterFlags::PREFAULT));
        let mapping = Mapping::new(self.pmap.id(), self.va.add(i as u64));
        let records = &self.pmap.mmu.records;
        let mut refmod = if ahead { RefMod::empty() } else { RefMod::REFERENCED };
        let old = leaf.pte(at);
        if !old.present() {
            refmod.set(RefMod::MODIFIED, write);
            let list = pv::lock(self.pages.md(page), records, refmod.bits());
            list.add(mapping, write).map_err(|_| EnterError::NoMemory)?;
            leaf.set(at, Pte::new(page, write, wired));
            self.fresh[i / 64] |= 1 << (i % 64);
            self.pmap.space().resident.fetch_add(1, Ordering::Relaxed);
            return Ok(Need::Map { wp: !write });
        }
        if old.page() != Some(page) {
            return Err(EnterError::Displaced(self.va.add(i as u64)));
        }
        let mut new = if wired { old.with_wired() } else { old };
        let upgrade = write && !old.write();
        if upgrade {
            refmod |= RefMod::MODIFIED;
            new = new.with_write();
            pv::lock(self.pages.md(page), records, refmod.bits()).set_may_write(mapping, true);
        } else if !ahead {
            self.pages.md(page).bits.fetch_or(refmod.bits(), Ordering::Relaxed);
        }
        leaf.set(at, new);
        Ok(match (upgrade, ahead) {
            (true, _) => Need::Upgrade,
            (false, true) => Need::Skip,
            // Entered, and yet it faulted: Linux may have dropped it.
            (false, false) => Need::Map { wp: !new.write() },
        })
    }

    /// Makes Linux do what was planned for pages `from..to`.
    fn carry_out(
        &mut self,
        leaf: &mut Locked<'_>,
        from: usize,
        to: usize,
        need: Need,
    ) -> Result<(), EnterError> {
        if from == to {
            return Ok(());
        }
        let writes = self.access.contains(Prot::W) && !self.flags.contains(EnterFlags::PREFAULT);
        let uffd = &self.pmap.mmu.uffd;
        match need {
            Need::Skip => Ok(()),
            Need::Map { wp } => {
                let there = self.cont(leaf, from, to, wp)?;
                // A page that Linux already had there may be the one whose write
                // faulted.
                if there != 0 && writes && !wp {
                    let _ = uffd.write_protect(sub(self.va, from, to - from), false);
                }
                Ok(())
            }
            Need::Upgrade => {
                let range = sub(self.va, from, to - from);
                if uffd.write_protect(range, false).is_err() {
                    return Err(EnterError::Foreign(range.start()));
                }
                if self.access.contains(Prot::W) && uffd.mode() == Mode::Signal {
                    // Linux leaves the pages read-only in hardware; doing their first
                    // write faults here saves the thread native ones (0.8 us), for
                    // those entered ahead too, which are expected to be written. Not in
                    // blocking mode: a page that Linux dropped in between would make
                    // this thread wait for itself; here it is just an error.
                    // SAFETY: a region of ours; no contents change.
                    let _ =
                        unsafe { sys::madvise(range.start().get(), range.bytes(), sys::MADV_POPULATE_WRITE) };
                }
                Ok(())
            }
        }
    }

    /// `UFFDIO_CONTINUE` over pages `from..to`; how many Linux had there already.
    fn cont(&mut self, leaf: &mut Locked<'_>, from: usize, to: usize, wp: bool) -> Result<u64, EnterError> {
        let mmu = &self.pmap.mmu;
        let (mut at, mut there, mut filled) = (from, 0, usize::MAX);
        loop {
            let (done, why) = match mmu.uffd.continue_range(sub(self.va, at, to - at), wp) {
                Ok(n) => return Ok(there + n),
                Err(e) => e,
            };
            at += done as usize;
            let va = self.va.add(at as u64);
            // Refused: something is there after all, and it goes as for others.
            if why == Refusal::Hole
                && !wp
                && let Ok(n) = mmu.uffd.zero_range(sub(self.va, at, to - at))
            {
                at += n as usize;
                there += done; // cautious: how many of these were there is lost
                if at == to {
                    return Ok(there);
                }
                continue;
            }
            let error = match why {
                // Zero, or prepared and never written: its contents are free.
                Refusal::Hole if filled != at => {
                    filled = at;
                    let (fd, byte) = mmu.at(self.pages.pfn(self.run[at]));
                    match sys::fallocate(fd, 0, byte, PAGE_SIZE) {
                        Ok(()) => {
                            there += 1; // cautious: the count of the first part is lost
                            continue;
                        }
                        Err(_) => EnterError::NoMemory,
                    }
                }
                Refusal::NoMemory => EnterError::NoMemory,
                Refusal::Hole | Refusal::NoRegion(_) => EnterError::Foreign(va),
            };
            for i in (at..to).filter(|i| self.fresh[i / 64] & 1 << (i % 64) != 0) {
                self.pmap.forget(self.pages, leaf, self.va, i);
            }
            return Err(error);
        }
    }
}
