//! Tasks: an address space each.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use machvm::fault::Fault;
use machvm::map::{Advise, Attributes, Backing, Inherit, Map, Place, SetProt};
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SIZE, Pmap, Prot, RawAddr, RawSize, Va, VaRange};

use super::error::Error;
use super::platform::{Hosted, TaskPmap};
use super::quiet::Quiet;
use super::{Denied, Shared, copy, table};

use crate::uffd::{Mode, page_of};

/// The lowest address of a task: a null pointer plus a field offset is never valid.
const LOWEST: u64 = 0x1_0000;

/// What the fault handler needs of a task.
pub(super) struct Core {
    map: Map<'static, Hosted>,
    /// After `map`, which borrows from it.
    shared: Arc<Shared>,
    /// The process's address of the task's address [`super::Shared::origin`].
    start: u64,
    /// It stayed with the parent of this process.
    pub(super) gone: AtomicBool,
}

impl Core {
    /// Is this another process's, of which this one only holds a copy, by `fork(2)`?
    pub(super) fn is_forked(&self) -> bool {
        self.shared.is_forked() || self.gone.load(Relaxed)
    }

    pub(super) fn map(&self) -> &Map<'static, Hosted> {
        &self.map
    }

    /// What a denied access raises.
    pub(super) fn denied(&self) -> Denied {
        self.shared.denied
    }

    /// Serves the fault at the process's address `addr`.
    pub(super) fn fault(&self, addr: u64, access: Prot) -> Result<(), FaultError> {
        let at = addr - self.start + self.shared.origin;
        let mut may = MaySleep::claim();
        if access == Prot::R && self.denied() == Denied::Bus && self.hides(at, &mut may) {
            return Err(FaultError::Protection(Va::containing(RawAddr(at))));
        }
        self.map.fault(&Fault { addr: RawAddr(at), access }, &mut may)
    }

    /// Is the page mapped, and may not be read? The core reads what may be written, as the
    /// processor does; a Mach program finds out at the first touch (Z94).
    fn hides(&self, at: u64, may: &mut MaySleep) -> bool {
        let va = Va::containing(RawAddr(at));
        !self.map.check_protection(va, va.add(1), Prot::R, may)
            && self.map.check_protection(va, va, Prot::NONE, may)
    }

    /// The page at the process's address `addr` is denied to who waits for it.
    pub(super) fn poison(&self, addr: u64) {
        self.map.pmap().poison(page_of(addr));
    }
    /// And may be asked for again.
    pub(super) fn unpoison(&self, addr: u64) {
        self.map.pmap().unpoison(page_of(addr));
    }
    /// Do threads wait for their faults to be served?
    pub(super) fn waits(&self) -> bool {
        self.shared.vm.platform().mode() == Mode::Blocking
    }
}

/// The tasks of a system.
#[derive(Default)]
pub(super) struct Tasks {
    /// The first that was made, which is the process's own.
    own: Option<*const Core>,
    all: Vec<*const Core>,
    /// One was made.
    any: bool,
}

// SAFETY: the pointers are to what any thread may use, and are good while they are in.
unsafe impl Send for Tasks {}

impl Tasks {
    /// => `core` stays where it is until [`Tasks::remove`].
    fn add(&mut self, core: &Core) {
        if !core::mem::replace(&mut self.any, true) {
            self.own = Some(core);
        }
        self.all.push(core);
    }
    fn remove(&mut self, core: &Core) {
        self.all.retain(|c| !core::ptr::eq(*c, core));
        self.own = self.own.filter(|c| !core::ptr::eq(*c, core));
    }
    /// Every task.
    pub(super) fn all(&self) -> impl Iterator<Item = &Core> {
        // SAFETY: `add`'s caller keeps them while they are in, and `self` is borrowed.
        self.all.iter().map(|c| unsafe { &**c })
    }
    /// The process's own.
    pub(super) fn own(&self) -> Option<&Core> {
        // SAFETY: as above.
        self.own.map(|c| unsafe { &*c })
    }
    /// All but the process's own.
    pub(super) fn others(&self) -> impl Iterator<Item = &Core> {
        self.all().filter(|c| self.own.is_none_or(|own| !core::ptr::eq(own, *c)))
    }
}

/// An address space (`task_t`, as far as memory goes).
///
/// Addresses are the task's own: they count from the start of its window (or from
/// [`super::Config::origin`]), so a child has its parent's addresses. [`Task::as_ptr`] gives the pointer of this process that
/// stands for one, for loads and stores like any other's. They may be made by any
/// thread of the process, and they may wait.
///
/// Not allowed on managed memory, unless a thread serves faults
/// ([`Faults`](super::Faults)): giving it to a system call (which fails with EFAULT where
/// pages are absent: use [`Task::read`] and [`Task::write`]), and touching it while SIGBUS
/// or SIGSEGV is blocked (the kernel then ends the process).
///
/// Dropping a task frees its memory. All operations can be called from any thread.
pub struct Task {
    core: ManuallyDrop<Box<Core>>,
    entry: table::Entry,
}

/// A range of a task with one set of attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First address.
    pub start: usize,
    /// Bytes.
    pub size: usize,
    /// Protection.
    pub prot: Prot,
    /// The most that the protection may become.
    pub max: Prot,
    /// What a child gets.
    pub inherit: Inherit,
}

impl core::fmt::Debug for Task {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Task({:?})", self.entry)
    }
}

pub(super) fn check(addr: usize, size: usize) -> Result<VaRange, Error> {
    VaRange::check(RawAddr(addr as u64), RawSize(size as u64)).map_err(|_| Error::InvalidAddress(addr))
}

/// Any right comes with reading: neither Linux nor every processor has others (Z94).
fn attributes(prot: Prot) -> Attributes {
    Attributes::new(prot.hardware())
}

impl Task {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Task, Error> {
        Self::made_by(shared, |vm, pmap, bounds| Ok(Map::new(vm, pmap, bounds)))
    }

    /// A task that other tasks can show.
    pub(super) fn showable(shared: &Arc<Shared>) -> Result<Task, Error> {
        Self::made_by(shared, |vm, pmap, bounds| {
            Map::new_submap(vm, pmap, bounds).map_err(|_| Error::ResourceShortage)
        })
    }

    fn made_by(
        shared: &Arc<Shared>,
        map: impl FnOnce(&'static Vm<Hosted>, TaskPmap, VaRange) -> Result<Map<'static, Hosted>, Error>,
    ) -> Result<Task, Error> {
        let _quiet = shared.enter()?;
        let (origin, pages) = (shared.origin / PAGE_SIZE, shared.window / PAGE_SIZE);
        let platform = shared.vm.platform();
        // The first task is where its addresses say, if nothing else is there.
        let in_place = origin != 0 && !shared.placed.swap(true, Relaxed);
        let pmap = if in_place { platform.pmap_in_place(origin, pages).ok() } else { None };
        let pmap = pmap.map_or_else(|| platform.pmap(origin, pages), Ok)?;
        let start = pmap.start();
        let lowest = shared.origin.max(LOWEST);
        let bounds = check(lowest as usize, (shared.origin + shared.window - lowest) as usize)?;
        // SAFETY: `Core` keeps `shared` for longer than the map, and `shared` the VM,
        // which never moves.
        let vm: &'static Vm<Hosted> = unsafe { &*Arc::as_ptr(&shared.vm) };
        Ok(Self::with(map(vm, pmap, bounds)?, start, shared))
    }

    fn with(map: Map<'static, Hosted>, start: u64, shared: &Arc<Shared>) -> Task {
        let core = Box::new(Core { map, shared: Arc::clone(shared), start, gone: AtomicBool::new(false) });
        shared.tasks().add(&core);
        let entry = table::Entry::open(&core, start, start + shared.window, core.map.pmap().reserve());
        Task { core: ManuallyDrop::new(core), entry }
    }

    pub(super) fn enter(&self) -> Result<Quiet, Error> {
        let quiet = self.core.shared.enter()?;
        if self.core.is_forked() { Err(Error::Forked) } else { Ok(quiet) }
    }
    pub(super) fn map(&self) -> &Map<'static, Hosted> {
        &self.core.map
    }
    /// Is it a task of that system?
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.core.shared, shared)
    }

    /// Allocates `size` bytes of zeroes, rounded up to pages, wherever there is space
    /// (U01 `vm_allocate`). Gives the address. No memory is used before it is touched.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for size zero, [`Error::NoSpace`],
    /// [`Error::ResourceShortage`].
    pub fn allocate(&self, size: usize) -> Result<usize, Error> {
        let pages = (size as u64).div_ceil(PAGE_SIZE);
        if pages == 0 {
            return Err(Error::InvalidArgument("size zero"));
        }
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        let place = Place::Any(self.map().search());
        let va = self.map().find(place, pages, Backing::Anonymous, &attributes(Prot::RW), &mut may)?;
        Ok(va.get() as usize)
    }

    /// Allocates the pages that `[addr, addr + size)` touches, exactly there.
    ///
    /// # Errors
    /// As [`Task::allocate`]; [`Error::NoSpace`] when something is mapped there,
    /// [`Error::InvalidAddress`] outside the task.
    pub fn allocate_at(&self, addr: usize, size: usize) -> Result<(), Error> {
        let range = check(addr, size)?;
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        Ok(self.map().insert(range, Backing::Anonymous, &attributes(Prot::RW), &mut may)?)
    }

    /// Frees the pages that `[addr, addr + size)` touches (U02 `vm_deallocate`). What is
    /// not mapped is passed over. Nobody may use pointers to it any more.
    ///
    /// # Errors
    /// [`Error::ResourceShortage`]; nothing changed.
    pub fn deallocate(&self, addr: usize, size: usize) -> Result<(), Error> {
        if size == 0 {
            return Ok(());
        }
        let range = check(addr, size)?;
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        Ok(self.map().delete(range, &mut may)?)
    }

    /// Sets the protection (U03 `vm_protect`). What is not mapped is passed over. A
    /// denied access raises SIGSEGV with `SEGV_ACCERR` and its address.
    ///
    /// # Errors
    /// [`Error::Protection`] beyond the maximum, [`Error::ResourceShortage`]; nothing
    /// changed.
    pub fn protect(&self, addr: usize, size: usize, prot: Prot) -> Result<(), Error> {
        if size == 0 {
            return Ok(());
        }
        let range = check(addr, size)?;
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        Ok(self.map().protect(range, &SetProt::prot(prot.hardware()), &mut may)?)
    }

    /// Sets what children get (U04 `vm_inherit`).
    ///
    /// # Errors
    /// [`Error::ResourceShortage`]; nothing changed.
    pub fn inherit(&self, addr: usize, size: usize, inherit: Inherit) -> Result<(), Error> {
        if size == 0 {
            return Ok(());
        }
        let range = check(addr, size)?;
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        Ok(self.map().inherit(range, inherit, &mut may)?)
    }

    /// Forgets the contents: the next access finds zeroes (`MADV_DONTNEED`). Memory that
    /// is shared with another task keeps them.
    ///
    /// # Errors
    /// [`Error::ResourceShortage`]: shared contents could not be separated.
    pub fn discard(&self, addr: usize, size: usize) -> Result<(), Error> {
        if size == 0 {
            return Ok(());
        }
        let range = check(addr, size)?;
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        self.map().madvise(range, Advise::DontNeed, &mut may)?;
        Ok(())
    }

    /// Makes `[dst, dst + size)` of `to` (which may be this task) a copy of
    /// `[src, src + size)` (U16 `vm_copy`), by copy-on-write: no page is touched. The two
    /// may overlap.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when something is not page aligned, or `to` belongs to
    /// another VM; [`Error::InvalidAddress`] where either side is not mapped,
    /// [`Error::Protection`] where the source is not readable or the destination not
    /// writable, [`Error::ResourceShortage`]. Nothing changed.
    pub fn copy(&self, src: usize, size: usize, to: &Task, dst: usize) -> Result<(), Error> {
        if !Arc::ptr_eq(&self.core.shared, &to.core.shared) {
            return Err(Error::InvalidArgument("tasks of two VMs"));
        }
        if to.core.is_forked() {
            return Err(Error::Forked);
        }
        if (src | dst | size) as u64 & PAGE_MASK != 0 {
            return Err(Error::InvalidArgument("not page aligned"));
        }
        if size == 0 {
            return Ok(());
        }
        let range = check(src, size)?;
        let (quiet, mut may) = (self.enter()?, MaySleep::claim());
        let dst = Va::containing(RawAddr(dst as u64));
        let done = self.map().copy_range(range, to.map(), dst, &mut may);
        drop(quiet);
        self.core.shared.free_later();
        Ok(done?)
    }

    /// A child (`task_create` with inheritance, `fork`): at the same addresses it has the
    /// same memory, a copy-on-write copy, zeroes or nothing, as [`Task::inherit`] said; by
    /// default a copy. Its window is another one, so the same address has another
    /// pointer there, and pointers that are stored in the memory are still the parent's.
    ///
    /// # Errors
    /// [`Error::ResourceShortage`], [`Error::Setup`]; nothing is left over.
    pub fn fork(&self) -> Result<Task, Error> {
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        let shared = &self.core.shared;
        let pmap = shared.vm.platform().pmap(shared.origin / PAGE_SIZE, shared.window / PAGE_SIZE)?;
        let start = pmap.start();
        Ok(Self::with(self.map().fork(pmap, &mut may)?, start, shared))
    }

    /// What turns an address of the task into one of the process.
    fn slide(&self) -> usize {
        self.core.start.wrapping_sub(self.core.shared.origin) as usize
    }

    /// The pointer to an address of the task. Any address may be asked for; what the
    /// pointer is good for is up to the task's regions. It is good as long as the task.
    #[must_use]
    pub fn as_ptr(&self, addr: usize) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.slide().wrapping_add(addr))
    }

    /// Bytes of addresses that a task has; the lowest 64 KiB cannot be allocated.
    #[must_use]
    pub fn size(&self) -> usize {
        self.core.shared.window as usize
    }

    /// The process's address of part of the window.
    fn place(&self, addr: usize, len: usize) -> Result<*mut u8, Error> {
        if self.core.is_forked() {
            return Err(Error::Forked);
        }
        let origin = self.core.shared.origin as usize;
        match addr.checked_sub(origin).and_then(|a| a.checked_add(len)) {
            Some(end) if end <= self.size() => Ok(self.as_ptr(addr)),
            _ => Err(Error::InvalidAddress(addr)),
        }
    }

    /// Reads memory (U10 `vm_read`). Other than a load through a pointer, an access that
    /// the task denies is an error, not a signal.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], [`Error::Protection`], [`Error::Memory`],
    /// [`Error::NoMemory`]; `buf` is filled below the address in it.
    pub fn read(&self, addr: usize, buf: &mut [u8]) -> Result<(), Error> {
        let from = self.place(addr, buf.len())?;
        // SAFETY: `buf`, and a part of the window of this task.
        self.here(unsafe { copy::copy(buf.as_mut_ptr(), from, buf.len()) })
    }

    /// Writes memory (U12 `vm_write`), as [`Task::read`] reads it. Who reads or writes the
    /// same memory at the same time may see any part of it done.
    ///
    /// # Errors
    /// As [`Task::read`]; what lies below the address in the error is written.
    pub fn write(&self, addr: usize, data: &[u8]) -> Result<(), Error> {
        let to = self.place(addr, data.len())?;
        // SAFETY: `data`, and a part of the window of this task.
        self.here(unsafe { copy::copy(to, data.as_ptr(), data.len()) })
    }

    /// The process's addresses in an error become the task's.
    fn here(&self, r: Result<(), FaultError>) -> Result<(), Error> {
        let to_here = |a: usize| a.wrapping_sub(self.slide());
        r.map_err(|e| match e.into() {
            Error::InvalidAddress(a) => Error::InvalidAddress(to_here(a)),
            Error::Protection(a) => Error::Protection(to_here(a)),
            Error::Memory(a) => Error::Memory(to_here(a)),
            Error::NoMemory(a) => Error::NoMemory(to_here(a)),
            other => other,
        })
    }

    /// Everything that is mapped, ascending (`vm_region`).
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn regions(&self) -> Result<Vec<Region>, Error> {
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        let mut all = Vec::new();
        let each = |e: machvm::map::EntryInfo| {
            all.push(Region {
                start: e.range.start().get() as usize,
                size: e.range.bytes() as usize,
                prot: e.attributes.prot,
                max: e.attributes.max,
                inherit: e.attributes.inherit,
            });
        };
        self.map().for_each_entry(each, &mut may);
        Ok(all)
    }

    /// Pages of this task that are mapped now: the next access to them costs nothing.
    #[must_use]
    pub fn mapped_pages(&self) -> u64 {
        self.map().pmap().resident_count()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.core.shared.is_forked() {
            return; // it is the parent's memory; nothing of it may be touched here
        }
        let _quiet = Quiet::new();
        self.core.shared.tasks().remove(&self.core);
        self.entry.close();
        // SAFETY: dropped here only; the handlers let go of it.
        unsafe { ManuallyDrop::drop(&mut self.core) };
    }
}
