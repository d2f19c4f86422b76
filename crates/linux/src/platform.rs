//! Linux as the core's platform.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use machvm::pageout::{Policy, Replacement, Watch};
use machvm::{PagerId, Platform};
use machvm_arena::{Handle, Slab};
use machvm_hal::{
    Attributes, ControlId, Event, Flush, HasPage, Host, Invalidations, MaySleep, PAGE_SIZE, PageIn, PageOut,
    Pager, PagerError, Prot, Swap,
};
use machvm_pagers::{FileId, FilePager, Tiers};

use crate::chunk::LinuxChunks;
use crate::host::LinuxHost;
use crate::phys::LinuxMem;
use crate::pmap::{Config, LinuxPmap, LinuxPv, PmapError};

/// What wakes the page daemon.
const DAEMON_EVENT: Event = Event(4 << 60);

/// Why the platform could not be made.
#[derive(Debug)]
pub enum SetupError {
    /// The memfd.
    Memory(io::Error),
    /// The userfaultfd or the tables.
    Pmap(PmapError),
    /// No memory for the core's structures.
    NoMemory,
    /// A file that is to be mapped.
    File(io::Error),
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SetupError::Memory(e) => write!(f, "cannot make the memfd that is physical memory: {e}"),
            SetupError::Pmap(e) => e.fmt(f),
            SetupError::File(e) => write!(f, "cannot map the file: {e}"),
            SetupError::NoMemory => f.write_str("no memory for the VM's own structures"),
        }
    }
}
impl std::error::Error for SetupError {}

/// Linux: futexes, one memfd, one userfaultfd.
pub struct Linux {
    host: LinuxHost,
    mem: LinuxMem,
    pv: LinuxPv,
    swap: Option<Arc<Tiers>>,
    pagers: Slab<PagerSlot, LinuxChunks>,
    /// The pagers that all who map a file share. One whose last use ends leaves before its name
    /// is another's.
    files: Mutex<HashMap<FileId, PagerId>>,
    daemon_wanted: AtomicBool,
    policy: Replacement,
    watch: Option<Arc<dyn Watch + Send + Sync>>,
}

/// A place for a pager; type-stable, so that a name never dangles.
#[derive(Default)]
struct PagerSlot {
    pager: RwLock<Option<Installed>>,
    /// Objects that use it, and one of whoever made it.
    users: AtomicU32,
}

/// What is behind a name. Files are known as such: a fork copies what they hold.
#[derive(Clone)]
enum Installed {
    File(Arc<FilePager>),
    Other(Arc<dyn Pager + Send + Sync>),
}

impl Installed {
    fn pager(&self) -> &(dyn Pager + Send + Sync) {
        match self {
            Installed::File(pager) => &**pager,
            Installed::Other(pager) => &**pager,
        }
    }
}

/// Every change of ours in Linux's page tables is complete, on every CPU, when the
/// system call returns: nothing is left to flush.
#[derive(Debug)]
pub struct FlushedByLinux;
impl Flush for FlushedByLinux {
    fn flush(&self, _what: &Invalidations<'_>) {}
}

impl Linux {
    /// `frames` pages may be resident at once; `swap` takes what is paged out.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(frames: u64, swap: Option<Arc<Tiers>>, config: Config) -> Result<Self, SetupError> {
        let mem = LinuxMem::new(frames).map_err(SetupError::Memory)?;
        let pv = LinuxPv::new(&mem, config).map_err(SetupError::Pmap)?;
        Ok(Linux {
            host: LinuxHost::new(),
            mem,
            pv,
            swap,
            pagers: Slab::new(LinuxChunks, u32::MAX),
            files: Mutex::default(),
            daemon_wanted: AtomicBool::new(false),
            policy: Replacement::default(),
            watch: None,
        })
    }

    /// The same, choosing the pages that go in another way.
    #[must_use]
    pub fn with_policy(self, policy: Replacement) -> Self {
        Linux { policy, ..self }
    }

    /// The same, telling somebody how memory is used.
    #[must_use]
    pub fn with_watch(self, watch: Arc<dyn Watch + Send + Sync>) -> Self {
        Linux { watch: Some(watch), ..self }
    }

    /// What takes the pages that are paged out.
    pub fn tiers(&self) -> Option<&Arc<Tiers>> {
        self.swap.as_ref()
    }
    /// The pmaps of the process, seen from the pages.
    pub fn pv(&self) -> &LinuxPv {
        &self.pv
    }

    /// Gives a file a name that objects can be made from. The caller holds one use
    /// of it until [`Linux::pager_release`].
    ///
    /// # Errors
    /// No memory for the slot.
    pub fn add_file_pager(&self, file: FilePager) -> Result<PagerId, SetupError> {
        self.install(Installed::File(Arc::new(file)))
    }

    /// The pager that everybody who maps this file shares (G04 `vm_pager_object_lookup`), or a
    /// new one; with one use more. `writable`: from now on it writes through `file` if it does
    /// not write yet.
    ///
    /// # Errors
    /// [`SetupError::NoMemory`], [`SetupError::File`].
    pub(crate) fn shared_file_pager(
        &self,
        file: File,
        writable: bool,
    ) -> Result<(PagerId, Arc<FilePager>), SetupError> {
        let which = FileId::of(&file).map_err(SetupError::File)?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, pager)) = files.get(&which).and_then(|id| Some((*id, self.use_file(*id)?))) {
            let done = if writable && !pager.is_writable() { pager.write_through(file) } else { Ok(()) };
            if let Err(e) = done {
                drop(files);
                self.pager_release(id);
                return Err(SetupError::File(e));
            }
            return Ok((id, pager));
        }
        let new = if writable { FilePager::shared(file) } else { Ok(FilePager::read_only(file)) };
        let new = Arc::new(new.map_err(SetupError::File)?);
        let id = self.install(Installed::File(Arc::clone(&new)))?;
        files.insert(which, id);
        Ok((id, new))
    }

    /// One more use of a file's pager, if it has any.
    fn use_file(&self, id: PagerId) -> Option<Arc<FilePager>> {
        let slot = self.pagers.lookup(NonZeroU32::get(id.0))?;
        let more = |n: u32| (n != 0).then(|| n + 1);
        slot.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        match slot.current() {
            Some(Installed::File(pager)) => Some(pager),
            Some(Installed::Other(_)) | None => None, // it is listed as a file
        }
    }

    /// As [`Linux::add_file_pager`], for a pager of any other kind. It is dropped when the
    /// last use ends, on the thread that ends it, with no lock of the VM held.
    ///
    /// # Errors
    /// No memory for the slot.
    pub fn add_pager(&self, pager: Arc<dyn Pager + Send + Sync>) -> Result<PagerId, SetupError> {
        self.install(Installed::Other(pager))
    }

    fn install(&self, pager: Installed) -> Result<PagerId, SetupError> {
        let h = self.pagers.alloc().map_err(|_| SetupError::NoMemory)?;
        let slot = self.pagers.get(h);
        *slot.pager.write().unwrap_or_else(PoisonError::into_inner) = Some(pager);
        slot.users.store(1, Ordering::Relaxed);
        Ok(PagerId(h.raw()))
    }

    /// Whether the pager's data are a file of which `f` may have a look.
    pub(crate) fn with_file_pager<R>(&self, id: PagerId, f: impl FnOnce(&FilePager) -> R) -> Option<R> {
        let slot = self.pagers.lookup(NonZeroU32::get(id.0))?;
        match slot.current() {
            Some(Installed::File(pager)) => Some(f(&pager)),
            Some(Installed::Other(_)) | None => None,
        }
    }

    /// Ends one use of a pager; the last one tells it so, and drops it.
    pub fn pager_release(&self, id: PagerId) {
        let h = Handle::from_raw(id.0);
        let slot: &PagerSlot = self.pagers.get(h);
        if slot.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            let last = slot.pager.write().unwrap_or_else(PoisonError::into_inner).take();
            if matches!(last, Some(Installed::File(_))) {
                self.files.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, other| *other != id);
            }
            self.pagers.free(h);
            if let Some(last) = last {
                last.pager().terminate();
            }
        }
    }

    /// Sleeps until memory is low: the page daemon's waiting room.
    pub fn wait_memory_low(&self, _may: &mut MaySleep) {
        let ticket = self.host.assert_wait(DAEMON_EVENT);
        if self.daemon_wanted.swap(false, Ordering::AcqRel) {
            self.host.cancel_wait(ticket);
        } else {
            self.host.thread_block(ticket, None);
            self.daemon_wanted.store(false, Ordering::Release);
        }
    }
}

impl PagerSlot {
    fn current(&self) -> Option<Installed> {
        self.pager.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Pager for PagerSlot {
    fn page_in(&self, req: PageIn<'_>) {
        match self.current() {
            Some(p) => p.pager().page_in(req),
            None => req.failed(0, PagerError::Gone),
        }
    }
    fn page_out(&self, offset: u64, data: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        self.current().ok_or(PagerError::Gone)?.pager().page_out(offset, data)
    }
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        match self.current() {
            Some(p) => p.pager().page_out_run(run),
            None => (0..run.pages()).for_each(|i| run.done(i, Err(PagerError::Gone))),
        }
    }
    fn has_page(&self, offset: u64) -> HasPage {
        self.current().map_or(HasPage::Unknown, |p| p.pager().has_page(offset))
    }
    fn init(&self, object: ControlId, bytes: u64) -> Option<Attributes> {
        // Without a pager faults go on, and find that it is gone.
        self.current().map_or(Some(Attributes::default()), |p| p.pager().init(object, bytes))
    }
    fn data_unlock(&self, object: ControlId, offset: u64, bytes: u64, access: Prot) {
        if let Some(p) = self.current() {
            p.pager().data_unlock(object, offset, bytes, access);
        }
    }
    fn synchronize(&self, object: ControlId, offset: u64, bytes: u64) -> Result<(), PagerError> {
        self.current().ok_or(PagerError::Gone)?.pager().synchronize(object, offset, bytes)
    }
    fn map(&self, object: ControlId) {
        if let Some(p) = self.current() {
            p.pager().map(object);
        }
    }
    fn last_unmap(&self, object: ControlId) {
        if let Some(p) = self.current() {
            p.pager().last_unmap(object);
        }
    }
    fn copied(&self, object: ControlId, offset: u64, bytes: u64) {
        if let Some(p) = self.current() {
            p.pager().copied(object, offset, bytes);
        }
    }
    fn terminated(&self, object: ControlId) {
        if let Some(p) = self.current() {
            p.pager().terminated(object);
        }
    }
}

impl Platform for Linux {
    type Host = LinuxHost;
    type Mem = LinuxMem;
    type Pmap = LinuxPmap;
    type PmapPage = LinuxPv;
    type Flush = FlushedByLinux;
    type Chunks = LinuxChunks;

    fn host(&self) -> &LinuxHost {
        &self.host
    }
    fn mem(&self) -> &LinuxMem {
        &self.mem
    }
    fn pmap_page(&self) -> &LinuxPv {
        &self.pv
    }
    fn flush(&self) -> &FlushedByLinux {
        &FlushedByLinux
    }
    fn chunks(&self) -> LinuxChunks {
        LinuxChunks
    }
    fn swap(&self) -> Option<&dyn Swap> {
        self.swap.as_deref().map(|t| t as &dyn Swap)
    }
    fn pager(&self, id: PagerId) -> Option<&dyn Pager> {
        self.pagers.lookup(NonZeroU32::get(id.0)).map(|s| s as &dyn Pager)
    }
    fn pager_used(&self, id: PagerId) {
        self.pagers.get(Handle::from_raw(id.0)).users.fetch_add(1, Ordering::Relaxed);
    }
    fn pager_unused(&self, id: PagerId) {
        self.pager_release(id);
    }
    fn policy(&self) -> &'static dyn Policy {
        self.policy.policy()
    }
    fn watch(&self) -> Option<&dyn Watch> {
        self.watch.as_deref().map(|w| w as &dyn Watch)
    }
    fn memory_low(&self) {
        if !self.daemon_wanted.swap(true, Ordering::AcqRel) {
            self.host.thread_wakeup(DAEMON_EVENT);
        }
    }
}
