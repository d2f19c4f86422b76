//! The pmap on Linux: `userfaultfd` and `mmap` are the page tables.
//!
//! A map entry is one shared mapping (VMA) of the memfd, registered with the
//! process's userfaultfd, so that an access to an absent page, to a hole of the
//! file, or a write to a protected page comes to us. Sparse placement makes the page
//! at every address the one that the mapping's file offset says, so entering it is
//! `UFFDIO_CONTINUE`, over a whole run; taking write access away is
//! `UFFDIO_WRITEPROTECT`; removing is `MADV_DONTNEED`. The VMA's protection is the
//! entry's, so Linux itself denies what the map denies.
//!
//! One process has one memory map, so one userfaultfd ([`LinuxPv`]) serves all its
//! pmaps, which own disjoint ranges ([`Window`]).
//!
//! Linux may forget a mapping whenever it likes, and never tells: what we told it is
//! in `shadow`, entering is idempotent, and an entry that is there already is entered
//! again.
//!
//! Nothing on the fault path (`enter`) allocates but from slabs, sleeps, or touches
//! managed memory: it may run in a signal handler that has every signal blocked.

mod again;
mod enter;
pub mod nine;
mod pages;
mod pv;
mod regions;
mod shadow;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use machvm_arena::{Handle, Slab};
use machvm_hal::{
    EnterError, EnterFlags, Gather, PAGE_SIZE, PageArray, PageNo, Pfn, Pmap, Prot, Region, RegionError, Va,
    VaRange,
};
use machvm_sync::{Field64, Rank, Spin};

use crate::chunk::LinuxChunks;
use crate::phys::LinuxMem;
use crate::phys::commons::Commons;
use crate::sys;
use crate::uffd::{Mode, Uffd, UffdError};

use enter::Enter;
use pv::{Mapping, Records};
use regions::{Part, Regions};
use shadow::{Locked, Pte, Root, Tables, WINDOW};

pub use pages::{LinuxFlush, LinuxPv};

/// What one process's pmaps have in common.
struct Mmu {
    uffd: Uffd,
    /// The memfd, our own descriptor of it.
    file: OwnedFd,
    commons: Arc<Commons>,
    tables: Tables,
    records: Records,
    spaces: Slab<Space, LinuxChunks>,
    /// VMAs that our regions make, at most. \[a\]
    vmas: AtomicU64,
    /// What `vmas` may be.
    vma_limit: u64,
    dont_fork: bool,
}

/// One pmap's state; type-stable, since records of mappings name it by number.
struct Space {
    root: Root,
    /// Pages mapped. \[a\]
    resident: AtomicU64,
    /// Of those, wired; counted by [`nine`] only. \[a\]
    wired: AtomicU64,
    regions: Spin<Regions>,
    /// First page and number of pages of its window.
    window: (Field64, Field64),
}

impl Default for Space {
    fn default() -> Self {
        Space {
            root: Root::default(),
            resident: AtomicU64::new(0),
            wired: AtomicU64::new(0),
            regions: Spin::new(Rank::Pmap, Regions::default()),
            window: (Field64::new(0), Field64::new(0)),
        }
    }
}

/// How [`LinuxPv::new`] sets the process up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How faults are told.
    pub mode: Mode,
    /// Reading faults does not wait.
    pub nonblocking: bool,
    /// Children of `fork` do not get the regions (`MADV_DONTFORK`). Without it a child
    /// shares them, unregistered: it sees pages without asking us.
    pub dont_fork: bool,
}

/// How much the tables of all pmaps together may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Leaves of page tables (4 KiB each), and directories (2 KiB each).
    pub tables: u32,
    /// Records of mappings beyond a page's first (16 bytes each).
    pub records: u32,
}

impl Limits {
    /// As much as there is.
    pub const NONE: Limits = Limits { tables: u32::MAX, records: u32::MAX };
}

/// The addresses a pmap owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// Whatever is free in the process: a region that meets a foreign mapping is
    /// refused, and a region that goes leaves a hole.
    Whole,
    /// So many pages, reserved at once, 2 MiB aligned, wherever the kernel has room.
    /// No region is refused for a foreign mapping, and one that goes leaves a
    /// reservation.
    Reserve(u64),
    /// As [`Window::Reserve`], from this page of the process on (a multiple of 512):
    /// refused when something is mapped there.
    ReserveAt(u64, u64),
}

/// Why there is no pmap.
#[derive(Debug)]
pub enum PmapError {
    /// No userfaultfd.
    Uffd(UffdError),
    /// The memfd's descriptor could not be duplicated.
    File(std::io::Error),
    /// The address range could not be reserved (`errno`).
    Reserve(i32),
    /// No memory for the top table.
    NoMemory,
}

impl core::fmt::Display for PmapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PmapError::Uffd(e) => e.fmt(f),
            PmapError::File(e) => write!(f, "duplicating the memfd: {e}"),
            PmapError::Reserve(e) => {
                write!(f, "reserving addresses: {}", std::io::Error::from_raw_os_error(*e))
            }
            PmapError::NoMemory => f.write_str("no memory for page tables"),
        }
    }
}
impl std::error::Error for PmapError {}

/// The map of one address space. Dropping it unmaps its regions.
///
/// => dropped after [`Pmap::remove`] of everything; what is still mapped is leaked,
///    with the addresses, so that the pages' records stay true.
pub struct LinuxPmap {
    mmu: Arc<Mmu>,
    handle: Handle<Space>,
    /// The reservation as `mmap` gave it: address and bytes.
    reserved: Option<(u64, u64)>,
}

impl core::fmt::Debug for LinuxPmap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LinuxPmap(#{}, {:?})", self.handle.get(), self.window())
    }
}

/// Whatever the kernel's default `vm.max_map_count` is when it cannot be read.
const DEFAULT_MAP_COUNT: u64 = 65_530;

fn vma_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let max = text.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(DEFAULT_MAP_COUNT);
    // At the limit the C library breaks first: thread stacks, allocation, fopen.
    max / 10 * 6
}

impl Mmu {
    fn new(mem: &LinuxMem, config: Config, limits: Limits) -> Result<Self, PmapError> {
        Ok(Mmu {
            uffd: Uffd::open(config.mode, config.nonblocking).map_err(PmapError::Uffd)?,
            file: mem.fd().try_clone_to_owned().map_err(PmapError::File)?,
            commons: Arc::clone(mem.commons()),
            tables: Tables::new(limits.tables),
            records: Records::new(LinuxChunks, limits.records),
            spaces: Slab::new(LinuxChunks, 1 << 20),
            vmas: AtomicU64::new(0),
            vma_limit: vma_limit(),
            dont_fork: config.dont_fork,
        })
    }

    /// Where a frame is: file and byte.
    fn at(&self, frame: Pfn) -> (RawFd, u64) {
        self.commons.locate(frame).unwrap_or((self.file.as_raw_fd(), frame.byte()))
    }

    /// Unmaps the pages of a range from Linux's tables; the file keeps them.
    ///
    /// => every page of it is in the shadow tables, whose leaf is locked.
    fn zap(&self, range: VaRange) {
        // `MADV_DONTNEED_LOCKED`: also in a process that called mlockall.
        const DONTNEED_LOCKED: i32 = 24;
        // SAFETY: pages in the shadow tables lie in a region of ours, a shared mapping
        // whose contents this does not change.
        let r = unsafe { sys::madvise(range.start().get(), range.bytes(), DONTNEED_LOCKED) };
        debug_assert_eq!(r, Ok(()), "unmapping {range:?}");
    }

    /// Traps writes to a range.
    ///
    /// => as for [`Mmu::zap`].
    fn trap_writes(&self, range: VaRange) {
        if self.uffd.write_protect(range, true).is_err() && range.pages() > 1 {
            // Kernels before 6.6 refuse a range of several VMAs.
            for va in range.iter() {
                let r = self.uffd.write_protect(VaRange::page(va), true);
                debug_assert_eq!(r, Ok(()), "protecting {va:?}");
            }
        }
    }
}

/// Calls `f` with each maximal run of indices below `n` for which `want` holds.
fn runs(n: usize, mut want: impl FnMut(usize) -> bool, mut f: impl FnMut(usize, usize)) {
    let mut i = 0;
    while i < n {
        let start = i;
        while i < n && want(i) {
            i += 1;
        }
        if i > start {
            f(start, i - start);
        } else {
            i += 1;
        }
    }
}

/// `n` pages from page `i` after `va`; `n` is not 0.
fn sub(va: Va, i: usize, n: usize) -> VaRange {
    VaRange::of_pages(va.add(i as u64), n as u64).unwrap_or(VaRange::page(va))
}

const fn index(va: Va) -> usize {
    (va.page() % WINDOW) as usize
}

impl LinuxPmap {
    fn new(mmu: Arc<Mmu>, window: Window) -> Result<Self, PmapError> {
        let handle = mmu.spaces.alloc().map_err(|_| PmapError::NoMemory)?;
        // From here on dropping it gives everything back.
        let mut pmap = LinuxPmap { mmu, handle, reserved: None };
        pmap.mmu.tables.init(&pmap.space().root).map_err(|_| PmapError::NoMemory)?;
        let (first, pages) = match window {
            // From Linux's default vm.mmap_min_addr to its last user page.
            Window::Whole => (16, shadow::PAGES - 1 - 16),
            Window::Reserve(pages) => {
                let bytes = pages.checked_add(WINDOW).and_then(|p| p.checked_mul(PAGE_SIZE));
                let bytes = bytes.ok_or(PmapError::Reserve(libc::ENOMEM))?;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                // SAFETY: not MAP_FIXED.
                let at = unsafe { sys::mmap(0, bytes, libc::PROT_NONE, flags, -1, 0) };
                let at = at.map_err(PmapError::Reserve)?;
                pmap.reserved = Some((at, bytes));
                ((at / PAGE_SIZE).next_multiple_of(WINDOW), pages)
            }
            Window::ReserveAt(first, pages) => {
                let refused = PmapError::Reserve(libc::EEXIST);
                let whole =
                    first % WINDOW == 0 && first.checked_add(pages).is_some_and(|e| e < shadow::PAGES);
                if !whole || pages == 0 {
                    return Err(PmapError::Reserve(libc::EINVAL));
                }
                let (at, bytes) = (first * PAGE_SIZE, pages * PAGE_SIZE);
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                let flags = flags | sys::MAP_FIXED_NOREPLACE;
                // SAFETY: nothing is replaced.
                let got = unsafe { sys::mmap(at, bytes, libc::PROT_NONE, flags, -1, 0) };
                let got = got.map_err(PmapError::Reserve)?;
                pmap.reserved = Some((got, bytes));
                if got != at {
                    return Err(refused); // an old kernel took it for a hint
                }
                (first, pages)
            }
        };
        let (start, len) = &pmap.space().window;
        start.set(first);
        len.set(pages);
        Ok(pmap)
    }

    fn space(&self) -> &Space {
        self.mmu.spaces.get(self.handle)
    }
    fn root(&self) -> &Root {
        &self.space().root
    }
    fn id(&self) -> u32 {
        self.handle.get()
    }

    /// The addresses it owns.
    pub fn window(&self) -> VaRange {
        let (start, len) = &self.space().window;
        sub(Va::from_page(start.get()), 0, len.get() as usize)
    }

    /// Everybody who waits for a page of the range tries again. The fault loop of
    /// [`Mode::Blocking`] calls it once, when a fault is resolved (entering wakes
    /// nobody); in the other mode nobody waits.
    pub fn wake(&self, range: VaRange) {
        if self.mmu.uffd.mode() == Mode::Blocking {
            self.mmu.uffd.wake(range);
        }
    }

    /// Accesses to the page at `va` raise SIGBUS, or fail with EFAULT in a system call: who
    /// waits for the page is woken and finds that. Until [`LinuxPmap::unpoison`], or until
    /// the region goes.
    pub fn poison(&self, va: Va) {
        let page = VaRange::page(va);
        // Nobody enters it meanwhile. Without a leaf it never was.
        let leaf = self.lock(va);
        if let Some(leaf) = &leaf {
            // A page that is there cannot be poisoned, nor can the mark that stays where a
            // write-protected one was.
            if leaf.pte(index(va)).present() {
                self.mmu.zap(page);
            }
            self.mmu.uffd.clear_marks(page);
        }
        // Refused where the region went: Linux itself denies.
        let _ = self.mmu.uffd.poison(page);
    }

    /// As [`LinuxPmap::poison`], unless the page has been entered meanwhile.
    ///
    /// # Errors
    /// This kernel cannot (UFFDIO_POISON, Linux 6.6).
    pub fn poison_absent(&self, va: Va) -> Result<(), i32> {
        let page = VaRange::page(va);
        let leaf = self.lock(va);
        if let Some(leaf) = &leaf {
            if leaf.pte(index(va)).present() {
                return Ok(());
            }
            // Who waits sleeps on until there is poison, else it faults again, and that fault
            // may be served when something else is mapped here.
            self.mmu.uffd.clear_marks(page);
        }
        self.mmu.uffd.poison(page)
    }

    /// Undoes [`LinuxPmap::poison`]. The page may be entered or not; the next access is a
    /// fault.
    pub fn unpoison(&self, va: Va) {
        // Harmless in a region of ours, which it is while the lock is held.
        let regions = self.space().regions.lock();
        if regions.at(va).is_some() {
            self.mmu.zap(VaRange::page(va));
        }
    }

    fn lock(&self, va: Va) -> Option<Locked<'_>> {
        self.mmu.tables.lock(self.root(), self.id(), va)
    }

    /// Forgets the mapping `i` pages after `va` in its leaf.
    fn forget<A: PageArray>(&self, pages: &A, leaf: &mut Locked<'_>, va: Va, i: usize) {
        if let Some(page) = leaf.pte(index(va) + i).page() {
            let list = pv::lock(pages.md(page), &self.mmu.records, 0);
            list.remove(Mapping::new(self.id(), va.add(i as u64)));
        }
        leaf.set(index(va) + i, Pte::NONE);
        self.space().resident.fetch_sub(1, Ordering::Relaxed);
    }

    /// Maps a part of the file; nothing is entered yet. Nobody has access before the userfaultfd
    /// knows of it: what is touched then would be mapped without anybody noting it.
    fn map(&self, part: Part) -> Result<(), i32> {
        let (at, len) = (part.range.start().get(), part.range.bytes());
        let how = if self.reserved.is_some() { libc::MAP_FIXED } else { sys::MAP_FIXED_NOREPLACE };
        let ((fd, byte), flags) = (self.mmu.at(part.first), libc::MAP_SHARED | how);
        // SAFETY: with MAP_FIXED the range lies in our reservation and meets no region
        // (region_insert looked), so only the reservation is replaced.
        let got = unsafe { sys::mmap(at, len, libc::PROT_NONE, flags, fd, byte) }?;
        if got != at {
            // A kernel that does not know MAP_FIXED_NOREPLACE took it for a hint.
            // SAFETY: the mapping just made.
            let _ = unsafe { sys::munmap(got, len) };
            return Err(libc::EEXIST);
        }
        if self.mmu.dont_fork {
            // SAFETY: the mapping just made; contents stay.
            unsafe { sys::madvise(at, len, libc::MADV_DONTFORK) }.inspect_err(|_| self.unmap(part.range))?;
        }
        self.mmu.uffd.register(part.range).inspect_err(|_| self.unmap(part.range))?;
        // SAFETY: the mapping just made.
        unsafe { sys::mprotect(at, len, linux_prot(part.prot)) }.inspect_err(|_| self.unmap(part.range))
    }

    /// Unmaps a range that [`LinuxPmap::map`] mapped. If Linux refuses (too many
    /// mappings to split one), the range stays registered and empty: an access to it
    /// is a fault without an entry, which the map denies.
    fn unmap(&self, range: VaRange) {
        let (at, len) = (range.start().get(), range.bytes());
        let _ = if self.reserved.is_some() {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
            // SAFETY: our own mapping in our own reservation; the caller knows that
            // the range is no longer in use.
            unsafe { sys::mmap(at, len, libc::PROT_NONE, flags, -1, 0) }.map(drop)
        } else {
            // SAFETY: as above, without the reservation.
            unsafe { sys::munmap(at, len) }
        };
    }

    /// Changes the regions by `f`, and counts. When that makes more VMAs than we may
    /// have, `f`'s undoing is the caller's.
    fn with_regions<R>(&self, f: impl FnOnce(&mut Regions) -> R) -> (R, bool) {
        let mut regions = self.space().regions.lock();
        let before = regions.len();
        let r = f(&mut regions);
        // In a reservation every piece makes a gap too.
        let each = if self.reserved.is_some() { 2 } else { 1 };
        let delta = (regions.len().wrapping_sub(before)).wrapping_mul(each);
        let now = self.mmu.vmas.fetch_add(delta, Ordering::Relaxed).wrapping_add(delta);
        (r, delta.cast_signed() <= 0 || now <= self.mmu.vma_limit)
    }
}

/// `VM_PROT_*` has the values of `PROT_*`.
fn linux_prot(prot: Prot) -> i32 {
    i32::from(prot.bits())
}

impl Drop for LinuxPmap {
    fn drop(&mut self) {
        let space = self.space();
        if space.resident.load(Ordering::Relaxed) != 0 {
            return; // leaked, see the type
        }
        let window = self.window();
        for part in self.with_regions(|r| r.take(window)).0 {
            self.unmap(part.range);
        }
        if let Some((at, bytes)) = self.reserved {
            // SAFETY: our reservation, with nothing of it in use any more.
            let _ = unsafe { sys::munmap(at, bytes) };
        }
        self.mmu.tables.destroy(&space.root);
        self.mmu.spaces.free(self.handle);
    }
}

impl Pmap for LinuxPmap {
    /// [`EnterError::Foreign`] here also means that no region is at the address.
    fn enter<A: PageArray>(
        &self,
        pages: &A,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        _gather: &mut Gather,
    ) -> Result<(), EnterError> {
        let mut done = 0;
        while done < run.len() {
            let at = va.add(done as u64);
            let n = (run.len() - done).min(WINDOW as usize - index(at));
            let leaf = self.mmu.tables.lock_or_make(self.root(), self.id(), at);
            let leaf = leaf.map_err(|_| EnterError::NoMemory)?;
            let run = &run[done..done + n];
            Enter { pmap: self, pages, va: at, run, prot, access, flags, fresh: [0; 8] }.window(leaf)?;
            done += n;
        }
        Ok(())
    }

    /// Linux has removed the mappings on return: there is nothing to gather.
    fn remove<A: PageArray>(&self, pages: &A, range: VaRange, _gather: &mut Gather) {
        self.mmu.tables.for_each_window(self.root(), range, |part| {
            let (va, n) = (part.start(), part.pages() as usize);
            let Some(mut leaf) = self.lock(va) else { return };
            if leaf.present() == 0 {
                return;
            }
            // Only what is entered: between regions there may be mappings of others.
            let present: [bool; WINDOW as usize] =
                core::array::from_fn(|i| i < n && leaf.pte(index(va) + i).present());
            runs(
                n,
                |i| present[i],
                // The records last: a page-out that finds none takes the page for
                // unmapped, and reads it.
                |i, n| {
                    self.mmu.zap(sub(va, i, n));
                    (i..i + n).for_each(|i| self.forget(pages, &mut leaf, va, i));
                },
            );
        });
    }

    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, gather: &mut Gather) {
        if prot.is_empty() {
            return self.remove(pages, range, gather);
        }
        if prot.contains(Prot::W) {
            return; // the other rights are the VMA's
        }
        self.mmu.tables.for_each_window(self.root(), range, |part| {
            let (va, n) = (part.start(), part.pages() as usize);
            let Some(mut leaf) = self.lock(va) else { return };
            // Runs of what is entered, protected or not: fewer and longer calls; never
            // what is not entered: that would build page tables.
            let ptes: [Pte; WINDOW as usize] =
                core::array::from_fn(|i| if i < n { leaf.pte(index(va) + i) } else { Pte::NONE });
            runs(
                n,
                |i| ptes[i].present(),
                |i, n| {
                    let mut writable = (i..i + n).filter(|i| ptes[*i].write());
                    let Some(first) = writable.next() else { return };
                    let last = writable.next_back().unwrap_or(first);
                    self.mmu.trap_writes(sub(va, first, last + 1 - first));
                    (first..=last).for_each(|i| leaf.set(index(va) + i, ptes[i].without_write()));
                },
            );
        });
    }

    fn unwire<A: PageArray>(&self, _pages: &A, range: VaRange, _gather: &mut Gather) {
        self.mmu.tables.for_each_window(self.root(), range, |part| {
            let Some(mut leaf) = self.lock(part.start()) else { return };
            for va in part.iter() {
                let pte = leaf.pte(index(va));
                if pte.wired() {
                    leaf.set(index(va), pte.without_wired());
                }
            }
        });
    }

    fn extract<A: PageArray>(&self, _pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        let pte = self.mmu.tables.peek(self.root(), self.id(), va)?;
        Some((pte.page()?, if pte.write() { Prot::RW } else { Prot::R }))
    }

    fn resident_count(&self) -> u64 {
        self.space().resident.load(Ordering::Relaxed)
    }

    fn has_regions(&self) -> bool {
        true
    }

    /// Refuses what lies outside the [`Window`], what meets a mapping that is not
    /// ours, and more than 60 % of the VMAs that Linux allows.
    fn region_insert(&self, range: VaRange, region: Region) -> Result<(), RegionError> {
        let window = self.window();
        if window.intersect(range) != Some(range) {
            return Err(RegionError);
        }
        let part = Part { range, first: region.first, prot: region.prot };
        let (inserted, fits) = self.with_regions(|r| {
            let free = r.parts(range).is_empty();
            if free {
                r.insert(part);
            }
            free
        });
        if !inserted {
            return Err(RegionError);
        }
        if fits && self.map(part).is_ok() {
            return Ok(());
        }
        self.with_regions(|r| r.take(range));
        Err(RegionError)
    }

    fn region_remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        // First, and with the leaves locked: a page operation that found a stale entry
        // would otherwise act on whatever Linux puts at the address next.
        self.remove(pages, range, gather);
        self.mmu.tables.prune(self.root(), range);
        let parts = self.with_regions(|r| r.take(range)).0;
        if self.reserved.is_none() {
            // The range is covered by entries; what is no region of ours is a mapping
            // that the embedder made for a foreign one.
            return self.unmap(range);
        }
        for part in parts {
            self.unmap(part.range);
        }
    }

    /// The VMA's protection changes; what is entered stays entered, and its writes
    /// stay trapped or not. Outside our regions it is a foreign entry's mapping.
    fn region_protect<A: PageArray>(
        &self,
        _pages: &A,
        range: VaRange,
        _old: Prot,
        new: Prot,
        _gather: &mut Gather,
    ) -> Result<(), RegionError> {
        let (old, fits) = self.with_regions(|r| {
            if !r.cover(range) {
                return None;
            }
            let old = r.take(range);
            old.iter().for_each(|p| r.insert(Part { prot: new, ..*p }));
            Some(old)
        });
        let Some(old) = old else {
            if self.reserved.is_some() {
                return Err(RegionError);
            }
            // SAFETY: the mapping of a foreign entry, whose rights the map decides.
            let done = unsafe { sys::mprotect(range.start().get(), range.bytes(), linux_prot(new)) };
            return done.map_err(|_| RegionError);
        };
        // Taking rights away from a whole region must not fail; there is a reserve.
        let adds = old.iter().any(|p| !p.prot.contains(new));
        if fits || !adds {
            // SAFETY: regions of ours; the map decided that nobody relies on the rights.
            let set = |p: &Part, prot| unsafe {
                sys::mprotect(p.range.start().get(), p.range.bytes(), linux_prot(prot))
            };
            let changed = old.iter().take_while(|p| set(p, new).is_ok()).count();
            if changed == old.len() {
                return Ok(());
            }
            for p in &old[..changed] {
                let _ = set(p, p.prot);
            }
        }
        self.with_regions(|r| {
            r.take(range);
            old.iter().for_each(|p| r.insert(*p));
        });
        Err(RegionError)
    }
}
