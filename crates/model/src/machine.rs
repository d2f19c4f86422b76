//! The platform.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machvm::pageout::{Note, OutOfMemory, Policy, Replacement, TaskSize, Watch};
use machvm::{PagerId, Platform};
use machvm_arena::HeapChunks;
use machvm_hal::{PageArray, Pager, Pfn, Placement, Swap, Va};
use machvm_pmap::CreateError;

use crate::hardware::{Access, Hardware};
use crate::host::ModelHost;
use crate::hw::{self, Arch};
use crate::inject::Injector;
use crate::mem::{Frames, ModelMem};
use crate::mmu::{FlatFlush, FlatPages, FlatPmap};
use crate::pager::{MemPager, Pagers};
use crate::paging::Tables;
use crate::pmap::{ModelFlush, ModelPages, ModelPmap};
use crate::swap::MemSwap;

/// How translations are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mmu {
    /// In a plain map, with no more CPUs than it takes to have stale translations.
    Flat,
    /// In page tables, with CPUs, TLBs and interrupts as configured there; frames and seed
    /// are the machine's. Dense placement only.
    Tables(hw::Config),
}

/// What machine to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How translations are kept.
    pub mmu: Mmu,
    /// The sparse placement, else the dense one.
    pub sparse: bool,
    /// Frames.
    pub frames: u32,
    /// Pages that fit on swap; `None`: there is no swap.
    pub swap: Option<usize>,
    /// One enter in so many makes the pmap forget a mapping; 0: never.
    pub forget: u64,
    /// The MMU notes every access, else only the pmap notes what it is told of faults
    /// (Linux). Modified is exact either way.
    pub reference_bits: bool,
    /// How pages that go are chosen.
    pub policy: Replacement,
    /// Of everything the machine chooses.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mmu: Mmu::Flat,
            sparse: true,
            frames: 256,
            swap: Some(1 << 20),
            forget: 0,
            reference_bits: true,
            policy: Replacement::Clock,
            seed: 1,
        }
    }
}

impl Config {
    /// On page tables of this format; `noted`: the hardware notes use and writes.
    #[must_use]
    pub const fn on_tables(self, arch: Arch, noted: bool) -> Self {
        let c = hw::Config { tables: 256, trace: 64, ..hw::Config::new(arch, self.seed) };
        let c = if noted { c } else { c.without_updates() };
        Config { mmu: Mmu::Tables(c), sparse: false, ..self }
    }
    /// With so many frames for page tables, if it has any.
    #[must_use]
    pub const fn with_tables(self, tables: u32) -> Self {
        match self.mmu {
            Mmu::Tables(hw) => Config { mmu: Mmu::Tables(hw::Config { tables, ..hw }), ..self },
            Mmu::Flat => self,
        }
    }
    /// Page tables on CPUs that do nothing unasked: no speculation notes use of a page that
    /// nobody uses, or remembers that nothing was there. For tests that count.
    #[must_use]
    pub const fn calm(self) -> Self {
        match self.mmu {
            Mmu::Tables(hw) => Config { mmu: Mmu::Tables(hw::Config { rate: 0, ..hw }), ..self },
            Mmu::Flat => self,
        }
    }
    /// On page tables of every format, with and without hardware that notes use.
    pub fn every_format(self) -> impl Iterator<Item = Config> {
        Arch::ALL.into_iter().flat_map(move |a| {
            let noted: &[bool] = if a.is_x86() { &[true] } else { &[true, false] };
            noted.iter().map(move |n| self.on_tables(a, *n))
        })
    }
    /// Every kind of machine: flat in both placements, then [`Config::every_format`].
    pub fn every_kind(self) -> impl Iterator<Item = Config> {
        let flat = [true, false].map(|sparse| Config { mmu: Mmu::Flat, sparse, ..self });
        flat.into_iter().chain(self.every_format())
    }
}

/// What is under the core.
#[derive(Clone, Debug)]
enum Under {
    Flat(Arc<Hardware>),
    Tables(Arc<Tables>),
}

/// See the crate text.
#[derive(Debug)]
pub struct Machine {
    host: Arc<ModelHost>,
    under: Under,
    mem: ModelMem,
    pages: ModelPages,
    flush: ModelFlush,
    swap: Option<MemSwap>,
    /// Pagers live as long as the process, so that they can be lent out.
    pagers: Pagers,
    users: AtomicU64,
    inject: &'static Injector,
    policy: Replacement,
    lowmem: AtomicU64,
    tasks: Mutex<Tasks>,
    notes: Notes,
}

/// What the core said of the use of memory, if anybody listens.
#[derive(Debug, Default)]
struct Notes(Mutex<Option<Vec<Note>>>);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Note>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Notes {
    fn note(&self, note: Note) {
        if let Some(all) = &mut *self.lock() {
            all.push(note);
        }
    }
}

/// The tasks that the machine names when memory is exhausted, and what it was told then.
#[derive(Debug, Default)]
struct Tasks {
    sizes: Vec<TaskSize>,
    /// It ends the victims.
    ends: bool,
    told: Vec<OutOfMemory>,
}

impl Machine {
    /// A machine, with nothing running on it.
    pub fn new(c: Config) -> Self {
        let inject: &'static Injector = Box::leak(Box::default());
        let host = Arc::new(ModelHost::new(c.seed));
        let (under, first) = match c.mmu {
            Mmu::Flat => (Under::Flat(Arc::new(Hardware::new(host.clone(), inject, c))), 0x100),
            Mmu::Tables(t) => {
                assert!(!c.sparse, "page tables have the dense placement only");
                let tables = Arc::new(Tables::new(host.clone(), inject, &c, t));
                let first = tables.hw().config().first_frame();
                (Under::Tables(tables), first)
            }
        };
        let placement = if c.sparse {
            Placement::Sparse { frames: u64::from(c.frames) }
        } else {
            Placement::Dense { first: Pfn(first), frames: c.frames }
        };
        let (frames, pages, flush) = match under.clone() {
            Under::Flat(hw) => (
                Frames::Flat(hw.clone()),
                ModelPages::Flat(FlatPages { hw: hw.clone() }),
                ModelFlush::Flat(FlatFlush { hw }),
            ),
            Under::Tables(t) => {
                (Frames::Tables(t.clone()), ModelPages::Tables(t.clone()), ModelFlush::Tables(t))
            }
        };
        Machine {
            mem: ModelMem { frames, placement, host: host.clone(), inject },
            pages,
            flush,
            swap: c.swap.map(|n| MemSwap::new(n, host.clone(), inject)),
            pagers: Pagers::default(),
            users: AtomicU64::new(0),
            host,
            under,
            inject,
            policy: c.policy,
            lowmem: AtomicU64::new(0),
            tasks: Mutex::default(),
            notes: Notes::default(),
        }
    }
    /// What the core said of the use of memory since this was asked last; the first time it
    /// begins to listen.
    pub fn notes(&self) -> Vec<Note> {
        self.notes.lock().replace(Vec::new()).unwrap_or_default()
    }
    /// A new address space.
    ///
    /// # Panics
    /// There is no memory for it (page tables); see [`Machine::try_pmap`].
    pub fn pmap(&self) -> ModelPmap {
        self.try_pmap().expect("memory for a pmap")
    }
    /// A new address space.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn try_pmap(&self) -> Result<ModelPmap, CreateError> {
        match &self.under {
            Under::Flat(hw) => Ok(ModelPmap::Flat(FlatPmap::new(hw.clone()))),
            Under::Tables(t) => t.create().map(ModelPmap::Tables),
        }
    }
    /// The page-table machine, if it is one.
    pub fn tables(&self) -> Option<&Arc<Tables>> {
        match &self.under {
            Under::Flat(_) => None,
            Under::Tables(t) => Some(t),
        }
    }
    /// Programs' addresses end at this page.
    pub fn end_page(&self) -> u64 {
        match self.tables().map(|t| t.hw().config().arch) {
            Some(Arch::Sv39) => 1 << 26,
            _ => 1 << 35,
        }
    }
    /// Frames that hold contents now.
    pub fn resident(&self) -> u64 {
        match &self.under {
            Under::Flat(hw) => hw.resident(),
            Under::Tables(t) => t.hw().frames_in_use(),
        }
    }
    /// No translation is used that was taken away, and nothing was found wrong so far.
    ///
    /// => nothing runs on the machine.
    ///
    /// # Panics
    /// Something is wrong.
    pub fn check_quiet(&self) {
        match &self.under {
            Under::Flat(hw) => assert_eq!(hw.stale(), 0, "translations that were never flushed"),
            Under::Tables(t) => {
                t.hw().check_quiet();
                t.hw().assert_clean();
            }
        }
    }
    /// Loads from a page, as a CPU would; `None`: it faults.
    pub fn load<A: PageArray>(
        &self,
        pages: &A,
        p: &ModelPmap,
        va: Va,
        off: usize,
        buf: &mut [u8],
    ) -> Option<()> {
        match (&self.under, p) {
            (Under::Flat(hw), ModelPmap::Flat(p)) => hw.load(pages, p.space(), va, off, buf),
            (_, ModelPmap::Tables(p)) => p.load(va.get() + off as u64, buf),
            (Under::Tables(_), ModelPmap::Flat(_)) => None,
        }
    }
    /// As [`Machine::load`].
    pub fn touch<A: PageArray>(
        &self,
        pages: &A,
        p: &ModelPmap,
        va: Va,
        off: usize,
        access: Access<'_>,
    ) -> Option<()> {
        let at = va.get() + off as u64;
        match (&self.under, p, access) {
            (Under::Flat(hw), ModelPmap::Flat(p), _) => hw.touch(pages, p.space(), va, off, access),
            (_, ModelPmap::Tables(p), Access::Store(data)) => p.store(at, data),
            (_, ModelPmap::Tables(p), Access::Fetch) => p.fetch(at),
            (Under::Tables(_), ModelPmap::Flat(_), _) => None,
        }
    }
    /// What fails.
    pub fn inject(&self) -> &'static Injector {
        self.inject
    }
    /// Swap, if there is any.
    pub fn mem_swap(&self) -> Option<&MemSwap> {
        self.swap.as_ref()
    }
    /// A new pager over `data`.
    pub fn add_pager(&self, data: Vec<u8>) -> (PagerId, &'static MemPager) {
        let p: &'static MemPager = Box::leak(Box::new(MemPager::new(data, self.host.clone(), self.inject)));
        (self.add_any_pager(p), p)
    }
    /// Names a pager of any kind.
    pub fn add_any_pager(&self, p: &'static (dyn Pager + Send + Sync)) -> PagerId {
        PagerId(self.pagers.add(p))
    }
    /// From now on nobody has that name.
    pub fn remove_pager(&self, id: PagerId) {
        self.pagers.remove(id.0);
    }
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What tasks there are from now on; `ends`: the machine ends victims when it is told.
    pub fn set_tasks(&self, sizes: &[TaskSize], ends: bool) {
        let mut t = self.tasks();
        (t.sizes, t.ends) = (sizes.to_vec(), ends);
    }
    /// Takes what was said when memory was exhausted.
    pub fn take_out_of_memory(&self) -> Vec<OutOfMemory> {
        std::mem::take(&mut self.tasks().told)
    }
    /// Times that the machine was asked to give memory back.
    pub fn lowmem_events(&self) -> u64 {
        self.lowmem.load(SeqCst)
    }
    /// Objects that use a pager now, as the core told.
    pub fn pager_users(&self) -> u64 {
        self.users.load(SeqCst)
    }
}

impl Platform for Machine {
    type Host = ModelHost;
    type Mem = ModelMem;
    type Pmap = ModelPmap;
    type PmapPage = ModelPages;
    type Flush = ModelFlush;
    type Chunks = HeapChunks;

    fn host(&self) -> &ModelHost {
        &self.host
    }
    fn mem(&self) -> &ModelMem {
        &self.mem
    }
    fn pmap_page(&self) -> &ModelPages {
        &self.pages
    }
    fn flush(&self) -> &ModelFlush {
        &self.flush
    }
    fn chunks(&self) -> HeapChunks {
        HeapChunks::gated(self.inject)
    }
    fn swap(&self) -> Option<&dyn Swap> {
        self.swap.as_ref().map(|s| s as &dyn Swap)
    }
    fn pager(&self, id: PagerId) -> Option<&dyn Pager> {
        self.pagers.get(id.0).map(|p| p as &dyn Pager)
    }
    fn policy(&self) -> &'static dyn Policy {
        self.policy.policy()
    }
    fn watch(&self) -> Option<&dyn Watch> {
        Some(&self.notes)
    }
    fn lowmem(&self) {
        self.lowmem.fetch_add(1, SeqCst);
    }
    fn for_each_task(&self, f: &mut dyn FnMut(TaskSize)) {
        let sizes = self.tasks().sizes.clone();
        sizes.into_iter().for_each(f);
    }
    fn out_of_memory(&self, report: &OutOfMemory) -> bool {
        let mut t = self.tasks();
        t.told.push(*report);
        t.ends
    }
    fn pager_used(&self, _id: PagerId) {
        self.users.fetch_add(1, SeqCst);
    }
    fn pager_unused(&self, _id: PagerId) {
        machvm_sync::assert_may_sleep();
        let before = self.users.fetch_sub(1, SeqCst);
        assert!(before != 0, "a pager is not used more often than it was");
    }
}
