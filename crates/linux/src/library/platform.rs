//! Linux as the platform of the library.
//!
//! As [`Linux`], with two differences: each task has the same addresses, wherever in the
//! process its window is (so a parent and its child have the same ones), and the
//! compressed pool takes its memory from the kernel, since page-out may run in a signal
//! handler.

use machvm::{PagerId, Platform};
use machvm_arena::NoMemory;
use machvm_hal::{
    EnterError, EnterFlags, Gather, MaySleep, PAGE_SIZE, PageArray, PageNo, Pager, Pmap, Prot, Region,
    RegionError, Swap, Va, VaRange,
};
use machvm_pagers::{Pool, RegionSource};

use crate::chunk::LinuxChunks;
use crate::host::LinuxHost;
use crate::phys::LinuxMem;
use crate::platform::{FlushedByLinux, Linux, SetupError};
use crate::pmap::{Config, LinuxPmap, LinuxPv, PmapError, Window};
use crate::sys;
use crate::uffd::{Mode, Uffd, UffdError, feature};

use super::Faults;
use super::fork::{COMMONS, CommonPager, snapshot};
use super::table::GRANULE;

/// Pages in a granule of the table of windows.
const GRANULE_PAGES: u64 = GRANULE / PAGE_SIZE;

/// See the module text.
pub struct Hosted {
    linux: Linux,
    pool: Option<Pool<Mapped>>,
}

impl Hosted {
    /// `frames` pages may be resident; `swap`: pages go to a pool, of at most so many
    /// bytes.
    pub(super) fn new(frames: u64, swap: Option<Option<u64>>, faults: Faults) -> Result<Self, SetupError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let linux = match faults {
            Faults::Signal => Self::linux(frames, Mode::Signal)?,
            Faults::Thread => Self::linux(frames, Mode::Blocking)?,
            Faults::Auto => {
                Self::linux(frames, Mode::Blocking).or_else(|_| Self::linux(frames, Mode::Signal))?
            }
        };
        Ok(Hosted { linux, pool: swap.map(|max| Pool::with_source(Mapped, max, threads)) })
    }

    fn linux(frames: u64, mode: Mode) -> Result<Linux, SetupError> {
        let linux = Linux::new(frames, None, Config { mode, nonblocking: true, dont_fork: true })?;
        if mode == Mode::Blocking && !linux.pv().uffd().has(feature::POISON) {
            // Without it a thread that waits cannot be told that it waits for nothing.
            let lacks = UffdError::Features(vec!["POISON (Linux 6.6)"]);
            return Err(SetupError::Pmap(PmapError::Uffd(lacks)));
        }
        Ok(linux)
    }
    /// Where faults are told.
    pub(super) fn uffd(&self) -> &Uffd {
        self.linux.pv().uffd()
    }
    /// How they are told.
    pub(super) fn mode(&self) -> Mode {
        self.linux.pv().uffd().mode()
    }
    /// The system's pagers.
    pub(super) fn machine(&self) -> &Linux {
        &self.linux
    }
    pub(super) fn pool(&self) -> Option<&Pool<Mapped>> {
        self.pool.as_ref()
    }
    pub(super) fn wait_memory_low(&self, may: &mut MaySleep) {
        self.linux.wait_memory_low(may);
    }
    /// The pmap of a task with `pages` pages of addresses, of which the first is `origin`.
    pub(super) fn pmap(&self, origin: u64, pages: u64) -> Result<TaskPmap, PmapError> {
        // One granule more, so that an aligned window of this size is inside.
        let reserve = pages.checked_add(GRANULE_PAGES).ok_or(PmapError::Reserve(libc::ENOMEM))?;
        let pmap = self.linux.pv().pmap(Window::Reserve(reserve))?;
        let start = pmap.window().start().page().next_multiple_of(GRANULE_PAGES);
        Ok(TaskPmap { pmap, start, origin })
    }
    /// As [`Hosted::pmap`], of a task whose addresses are the process's.
    ///
    /// => `origin` is a multiple of the granule.
    pub(super) fn pmap_in_place(&self, origin: u64, pages: u64) -> Result<TaskPmap, PmapError> {
        let pmap = self.linux.pv().pmap(Window::ReserveAt(origin, pages))?;
        Ok(TaskPmap { pmap, start: origin, origin })
    }
}

impl Platform for Hosted {
    type Host = LinuxHost;
    type Mem = LinuxMem;
    type Pmap = TaskPmap;
    type PmapPage = LinuxPv;
    type Flush = FlushedByLinux;
    type Chunks = LinuxChunks;

    fn host(&self) -> &LinuxHost {
        self.linux.host()
    }
    fn mem(&self) -> &LinuxMem {
        self.linux.mem()
    }
    fn pmap_page(&self) -> &LinuxPv {
        self.linux.pv()
    }
    fn flush(&self) -> &FlushedByLinux {
        self.linux.flush()
    }
    fn chunks(&self) -> LinuxChunks {
        LinuxChunks
    }
    fn swap(&self) -> Option<&dyn Swap> {
        self.pool.as_ref().map(|p| p as &dyn Swap)
    }
    fn pager(&self, id: PagerId) -> Option<&dyn Pager> {
        if id == COMMONS { Some(&CommonPager) } else { self.linux.pager(id) }
    }
    fn pager_used(&self, id: PagerId) {
        if id != COMMONS {
            self.linux.pager_used(id);
        }
    }
    fn pager_unused(&self, id: PagerId) {
        if id != COMMONS {
            self.linux.pager_unused(id);
        }
    }
    fn pager_snapshot(&self, id: PagerId, offset: u64, bytes: u64) -> Option<Result<PagerId, NoMemory>> {
        let take = || {
            let file = snapshot(self.mem().commons(), offset, bytes).map_err(|_| NoMemory)?;
            self.linux.add_file_pager(file).map_err(|_| NoMemory)
        };
        (id == COMMONS).then(take)
    }
    fn memory_low(&self) {
        self.linux.memory_low();
    }
}

/// A pmap whose page `origin` is page `start` of the process.
pub struct TaskPmap {
    pmap: LinuxPmap,
    start: u64,
    origin: u64,
}

impl TaskPmap {
    /// The process's address of the task's first address.
    pub(super) fn start(&self) -> u64 {
        self.start * PAGE_SIZE
    }
    /// See [`LinuxPmap::map_regions`].
    pub(super) fn map_regions(&self) -> Result<(), RegionError> {
        self.pmap.map_regions()
    }
    /// See [`LinuxPmap::poison`]; `va` is the process's.
    pub(super) fn poison(&self, va: Va) {
        self.pmap.poison(va);
    }
    /// See [`LinuxPmap::unpoison`]; `va` is the process's.
    pub(super) fn unpoison(&self, va: Va) {
        self.pmap.unpoison(va);
    }
    /// What the process has reserved for it: start and end.
    pub(super) fn reserve(&self) -> (u64, u64) {
        let all = self.pmap.window();
        (all.start().get(), all.end().get())
    }
    fn there(&self, va: Va) -> Va {
        Va::from_page(va.page() - self.origin + self.start)
    }
    fn range_there(&self, r: VaRange) -> VaRange {
        // A task's range lies in its window, so the sum lies in user space.
        VaRange::of_pages(self.there(r.start()), r.pages()).unwrap_or(r)
    }
    fn back(&self, va: Va) -> Va {
        Va::from_page(va.page() - self.start + self.origin)
    }
    fn here(&self, e: EnterError) -> EnterError {
        match e {
            EnterError::Foreign(va) => EnterError::Foreign(self.back(va)),
            EnterError::Displaced(va) => EnterError::Displaced(self.back(va)),
            EnterError::NoMemory => e,
        }
    }
}

impl Pmap for TaskPmap {
    fn enter<A: PageArray>(
        &self,
        pages: &A,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        gather: &mut Gather,
    ) -> Result<(), EnterError> {
        let done = self.pmap.enter(pages, self.there(va), run, prot, access, flags, gather);
        done.map_err(|e| self.here(e))
    }
    fn remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.pmap.remove(pages, self.range_there(range), gather);
    }
    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, gather: &mut Gather) {
        self.pmap.protect(pages, self.range_there(range), prot, gather);
    }
    fn unwire<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.pmap.unwire(pages, self.range_there(range), gather);
    }
    fn extract<A: PageArray>(&self, pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        self.pmap.extract(pages, self.there(va))
    }
    fn resident_count(&self) -> u64 {
        self.pmap.resident_count()
    }
    fn has_regions(&self) -> bool {
        true
    }
    fn region_insert(&self, range: VaRange, region: Region) -> Result<(), RegionError> {
        self.pmap.region_insert(self.range_there(range), region)
    }
    fn region_remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.pmap.region_remove(pages, self.range_there(range), gather);
    }
    fn region_protect<A: PageArray>(
        &self,
        pages: &A,
        range: VaRange,
        old: Prot,
        new: Prot,
        gather: &mut Gather,
    ) -> Result<(), RegionError> {
        self.pmap.region_protect(pages, self.range_there(range), old, new, gather)
    }
}

/// Memory for the pool straight from the kernel: may be taken in a signal handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped;

/// One mapping of [`Mapped`].
#[derive(Debug)]
pub(super) struct MappedRegion {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping belongs to the value alone, like a Box.
unsafe impl Send for MappedRegion {}

impl RegionSource for Mapped {
    type Region = MappedRegion;

    fn take(&self, bytes: usize) -> Option<MappedRegion> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: not MAP_FIXED.
        let at = unsafe { sys::mmap(0, bytes as u64, prot, flags, -1, 0) }.ok()?;
        Some(MappedRegion { at: core::ptr::with_exposed_provenance_mut(at as usize), bytes })
    }
}

impl AsRef<[u8]> for MappedRegion {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a mapping of this size, zeroed by the kernel, ours until dropped.
        unsafe { core::slice::from_raw_parts(self.at, self.bytes) }
    }
}
impl AsMut<[u8]> for MappedRegion {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}
impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the borrows ended with the value.
        let _ = unsafe { sys::munmap(self.at.expose_provenance() as u64, self.bytes as u64) };
    }
}
