//! Making managed mappings, and the faults that note their use.

use machvm_hal::pmap9::{Frame, Shortage};
use machvm_hal::{PAGE_SIZE, PageArray, PageNo, Pfn, Prot, RegionError, Va, VaRange};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::super::pv::{self, Mapping};
use super::super::regions::Part;
use super::super::shadow::{Entry, Pte};
use super::super::{Mmu, Pmap, index};
use super::Ops;
use crate::sys;
use crate::uffd::Refusal;

/// Linux did not give the memory.
struct NotShown;

impl Mmu {
    /// Makes Linux have the page at `va`, writable or with writes trapped.
    ///
    /// => a region of ours maps the frame there; its leaf is locked. Writable in Linux
    ///    already only if `write`.
    fn show(&self, va: Va, pfn: Pfn, write: bool) -> Result<(), NotShown> {
        let (page, mut filled) = (VaRange::page(va), false);
        loop {
            match self.uffd.continue_range(page, !write) {
                Ok(there) => {
                    // A page that was there may be the one whose write is to go on.
                    if there != 0 && write {
                        self.uffd.write_protect(page, false).map_err(|_| NotShown)?;
                    }
                    return Ok(());
                }
                Err((_, Refusal::Hole)) if !filled => {
                    if write && self.uffd.zero_range(page).is_ok() {
                        return Ok(());
                    }
                    let file = self.file.as_raw_fd();
                    sys::fallocate(file, 0, pfn.byte(), PAGE_SIZE).map_err(|_| NotShown)?;
                    filled = true;
                }
                Err(_) => return Err(NotShown),
            }
        }
    }
}

impl<A: PageArray> Ops<'_, A> {
    /// Makes the region that a mapping of the frame needs. Allocates and makes four
    /// system calls when another one or none was there.
    ///
    /// => nothing, or the same frame, is mapped at `va`.
    fn region(&self, va: Va, first: Pfn, execute: bool) -> Result<(), RegionError> {
        // Writes are trapped page by page.
        let prot = if execute { Prot::ALL } else { Prot::RW };
        let range = VaRange::page(va);
        let there = self.pm.space().regions.lock().at(va);
        match there {
            Some((f, p)) if f == first && p == prot => return Ok(()),
            Some((f, p)) if f == first => {
                return self.pm.region_protect(self.pages, range, p, prot, &mut machvm_hal::Gather::new());
            }
            _ => {}
        }
        let part = Part { range, first, prot };
        let ((), fits) = self.pm.with_regions(|r| {
            r.take(range);
            r.insert(part);
        });
        if fits && self.pm.map(part).is_ok() {
            return Ok(());
        }
        self.pm.with_regions(|r| r.take(range));
        self.pm.unmap(range);
        Err(RegionError)
    }

    /// Maps a page. An older mapping of another frame goes first; of the same one, what
    /// is too much.
    pub(super) fn enter(
        &self,
        va: Va,
        page: PageNo,
        prot: Prot,
        access: Prot,
        wired: bool,
    ) -> Result<(), Shortage> {
        let (prot, pfn) = (prot.hardware(), self.pages.pfn(page));
        let mut was = self.peek(va);
        if was.is_some_and(|e| e.frame != Frame::Page(page)) {
            self.take(VaRange::page(va), |_| true);
            was = None;
        }
        self.region(va, pfn, prot.contains(Prot::X)).map_err(|RegionError| Shortage::Host)?;
        let done = self.enter_in_region(va, page, prot, access, wired);
        if let (Err(_), Some(was)) = (done, was) {
            let _ = self.region(va, pfn, was.rights.contains(Prot::X));
        }
        done
    }

    /// => the region is as `prot` needs it.
    fn enter_in_region(
        &self,
        va: Va,
        page: PageNo,
        rights: Prot,
        access: Prot,
        wired: bool,
    ) -> Result<(), Shortage> {
        let (mmu, space, id, i) = (&self.pm.mmu, self.pm.space(), self.pm.id(), index(va));
        let leaf = mmu.tables.lock_or_make(&space.root, id, va);
        let mut leaf = leaf.map_err(|_| Shortage::Table)?;
        let old = Entry::of(leaf.pte(i));
        let (used, dirty) = old.map_or((false, false), |e| (e.used, e.dirty));
        let new = Entry {
            frame: Frame::Page(page),
            rights,
            wired,
            used: used || wired || !access.is_empty(),
            dirty: rights.contains(Prot::W) && (dirty || access.contains(Prot::W)),
        };
        if old.is_none() {
            // Whoever takes write access by record looks at the entry anyway.
            let list = pv::lock(self.pages.md(page), &mmu.records, 0);
            list.add(Mapping::new(id, va), true).map_err(|_| Shortage::Record)?;
            space.resident.fetch_add(1, Ordering::Relaxed);
        }
        if dirty && !new.dirty {
            mmu.trap_writes(VaRange::page(va));
            self.pm.mmu.harvest(self.pages, Entry { used: false, ..new }, true);
        }
        space.count_wired(old.is_some_and(|e| e.wired), wired);
        // Entry and bits come before the access they describe.
        leaf.set(i, new.pte());
        if !new.used || mmu.show(va, self.pages.pfn(page), new.dirty).is_ok() {
            return Ok(());
        }
        match old {
            Some(old) => {
                space.count_wired(wired, old.wired);
                leaf.set(i, Entry { dirty: old.dirty && new.dirty, ..old }.pte());
            }
            None => {
                space.count_wired(wired, false);
                pv::lock(self.pages.md(page), &mmu.records, 0).remove(Mapping::new(id, va));
                space.resident.fetch_sub(1, Ordering::Relaxed);
                leaf.set(i, Pte::NONE);
            }
        }
        Err(Shortage::Host)
    }

    /// Notes an access that faulted, if it is allowed.
    pub(super) fn fault(&self, va: Va, access: Prot) -> bool {
        let (mmu, i) = (&self.pm.mmu, index(va));
        let Some(mut leaf) = self.pm.lock(va) else { return false };
        let Some(old) = Entry::of(leaf.pte(i)).filter(|e| e.rights.contains(access)) else { return false };
        let Frame::Page(page) = old.frame else { return true };
        let new = Entry { used: true, dirty: old.dirty || access.contains(Prot::W), ..old };
        leaf.set(i, new.pte());
        let shown = mmu.show(va, self.pages.pfn(page), new.dirty).is_ok();
        if !shown {
            leaf.set(i, old.pte());
        }
        shown
    }
}
