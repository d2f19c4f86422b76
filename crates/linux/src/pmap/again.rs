//! The pmaps in the child of a fork.
//!
//! The child has the tables, by Linux's copy-on-write, and nothing of what they are about:
//! the regions are holes (`MADV_DONTFORK`), the userfaultfd and the file are the parent's.
//! A pmap is a cache, so all is forgotten, and the regions that are still wanted are made
//! anew.

use core::sync::atomic::Ordering;
use std::os::fd::{AsFd, AsRawFd};

use machvm_arena::Handle;
use machvm_hal::{PageArray, RegionError, Va, VaRange};

use super::pv::{self, Mapping};
use super::regions::Part;
use super::shadow::{PAGES, Pte};
use super::{LinuxPmap, LinuxPv, PmapError, Space, WINDOW};
use crate::phys::LinuxMem;
use crate::sys;

fn everything() -> Option<VaRange> {
    VaRange::between(Va::ZERO, Va::from_page(PAGES))
}

impl LinuxPv {
    /// Every pmap has nothing entered. Their regions are known and none is mapped; where
    /// they were, the windows are reserved. The userfaultfd and the file are this process's.
    ///
    /// => in the child of a fork, before anything else is done with a pmap; `mem` has its
    ///    own file.
    ///
    /// # Errors
    /// [`PmapError`]; the pmaps are of no use.
    pub(crate) fn begin_anew<A: PageArray>(&self, pages: &A, mem: &LinuxMem) -> Result<(), PmapError> {
        let mmu = &self.0;
        mmu.uffd.begin_anew().map_err(PmapError::Uffd)?;
        let file = mem.fd().as_fd().try_clone_to_owned().map_err(PmapError::File)?;
        sys::replace(mmu.file.as_raw_fd(), file).map_err(PmapError::File)?;
        let mut done = Ok(());
        mmu.spaces.for_each(|handle, space| {
            self.forget_all(pages, handle, space);
            for part in everything().map(|all| space.regions.lock().parts(all)).unwrap_or_default() {
                done = done.and(reserve(&part));
            }
        });
        done.map_err(PmapError::Reserve)
    }

    fn forget_all<A: PageArray>(&self, pages: &A, handle: Handle<Space>, space: &Space) {
        let Some(all) = everything() else { return };
        let (mmu, id) = (&self.0, handle.get());
        mmu.tables.for_each_window(&space.root, all, |part| {
            let Some(mut leaf) = mmu.tables.lock(&space.root, id, part.start()) else { return };
            for i in 0..WINDOW as usize {
                if let Some(page) = leaf.pte(i).page() {
                    let mapping = Mapping::new(id, part.start().add(i as u64));
                    pv::lock(pages.md(page), &mmu.records, 0).remove(mapping);
                    leaf.set(i, Pte::NONE);
                }
            }
        });
        space.resident.store(0, Ordering::Relaxed);
        mmu.tables.prune(&space.root, all);
    }
}

/// The hole that a region left is not free for other mappings.
fn reserve(part: &Part) -> Result<(), i32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | sys::MAP_FIXED_NOREPLACE;
    let (at, len) = (part.range.start().get(), part.range.bytes());
    // SAFETY: nothing is replaced.
    match unsafe { sys::mmap(at, len, libc::PROT_NONE, flags, -1, 0) } {
        Ok(got) if got == at => Ok(()),
        Ok(_) => Err(libc::EEXIST),
        Err(e) => Err(e),
    }
}

impl LinuxPmap {
    /// Maps every region; nothing is entered.
    ///
    /// => after [`LinuxPv::begin_anew`], once.
    ///
    /// # Errors
    /// Linux refused one.
    pub(crate) fn map_regions(&self) -> Result<(), RegionError> {
        let parts = everything().map(|all| self.space().regions.lock().parts(all)).unwrap_or_default();
        parts.into_iter().try_for_each(|part| self.map(part).map_err(|_| RegionError))
    }
}
