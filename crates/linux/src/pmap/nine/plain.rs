//! Unmanaged mappings: plain shared mappings of the memfd, which Linux serves itself.

use machvm_hal::pmap9::{Frame, Shortage};
use machvm_hal::{PageArray, Pfn, Prot, Va, VaRange};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::super::shadow::{Entry, Locked};
use super::super::{index, linux_prot};
use super::Ops;
use crate::sys;

/// VMAs that one such mapping makes, at most: itself, and a gap.
const VMAS: u64 = 2;

impl<A: PageArray> Ops<'_, A> {
    /// Maps a frame, over whatever is there. `spare`: within the VMAs that pmaps may make.
    pub(super) fn enter_plain(
        &self,
        va: Va,
        pfn: Pfn,
        prot: Prot,
        wired: bool,
        spare: bool,
    ) -> Result<(), Shortage> {
        let (mmu, space, page) = (&self.pm.mmu, self.pm.space(), VaRange::page(va));
        let old = self.peek(va);
        if old.is_some_and(|e| matches!(e.frame, Frame::Page(_))) {
            self.take(page, |_| true);
        }
        if space.regions.lock().at(va).is_some() {
            self.pm.with_regions(|r| r.take(page));
            self.pm.unmap(page);
        }
        let leaf = mmu.tables.lock_or_make(&space.root, self.pm.id(), va);
        let mut leaf = leaf.map_err(|_| Shortage::Table)?;
        let old = Entry::of(leaf.pte(index(va)));
        if old.is_none() {
            let now = mmu.vmas.fetch_add(VMAS, Ordering::Relaxed) + VMAS;
            if spare && now > mmu.vma_limit {
                mmu.vmas.fetch_sub(VMAS, Ordering::Relaxed);
                return Err(Shortage::Host);
            }
        }
        let rights = prot.hardware();
        if self.map_plain(page, pfn, rights).is_err() {
            if old.is_none() {
                mmu.vmas.fetch_sub(VMAS, Ordering::Relaxed);
            }
            return Err(Shortage::Host);
        }
        self.set_plain(
            &mut leaf,
            va,
            old,
            Entry { frame: Frame::Unmanaged(pfn), rights, wired, used: true, dirty: false },
        );
        Ok(())
    }

    fn set_plain(&self, leaf: &mut Locked<'_>, va: Va, old: Option<Entry>, new: Entry) {
        let space = self.pm.space();
        if old.is_none() {
            space.resident.fetch_add(1, Ordering::Relaxed);
        }
        space.count_wired(old.is_some_and(|e| e.wired), new.wired);
        leaf.set(index(va), new.pte());
    }

    fn map_plain(&self, range: VaRange, pfn: Pfn, prot: Prot) -> Result<(), i32> {
        let (at, len, mmu) = (range.start().get(), range.bytes(), &self.pm.mmu);
        let (fd, flags) = (mmu.file.as_raw_fd(), libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: the range lies in the pmap's reservation, and the caller has taken out
        // what was mapped there.
        unsafe { sys::mmap(at, len, linux_prot(prot), flags, fd, pfn.byte()) }?;
        if mmu.dont_fork {
            // SAFETY: the mapping just made; contents stay.
            unsafe { sys::madvise(at, len, libc::MADV_DONTFORK) }.inspect_err(|_| self.pm.unmap(range))?;
        }
        Ok(())
    }

    /// => the range has such mappings only, whose entries go next.
    pub(super) fn unmap_plain(&self, range: VaRange) {
        self.pm.unmap(range);
        self.pm.mmu.vmas.fetch_sub(VMAS * range.pages(), Ordering::Relaxed);
    }

    /// => as above; rights are only taken away.
    pub(super) fn protect_plain(&self, page: VaRange, prot: Prot) {
        // SAFETY: a mapping of ours; the caller decided that nobody relies on the rights.
        let done = unsafe { sys::mprotect(page.start().get(), page.bytes(), linux_prot(prot)) };
        debug_assert_eq!(done, Ok(()), "protecting {page:?}");
    }
}
