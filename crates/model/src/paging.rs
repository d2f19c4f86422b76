//! Page tables under the core: `machvm-pmap` on the machine of [`crate::hw`].
//!
//! Every call of the core is one thread's on one of the CPUs: thread n is on CPU n at
//! first and moves now and then. Other threads run before a call, never inside one (the
//! pmap holds spin locks there); between a change of the tables and its flush they do.
//! Interrupts are taken by whoever runs, in the CPU's name.
//!
//! Real threads are a CPU each and stay there; their interrupts they take themselves.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machvm_hal::{
    CpuId, DeviceFrames, EnterError, EnterFlags, Flush, Gather, Invalidations, MaySleep, PageArray, PageMd,
    PageNo, Pfn, Pmap, PmapPage, Prot, RefMod, RegionError, RemoveWhy, Va, VaRange,
};
use machvm_pmap::pte::{Aarch64, Sv39, Sv48, Sv57, X86L4, X86L5};
use machvm_pmap::{CreateError, PtPmap, System};

use crate::hardware::GARBAGE;
use crate::host::ModelHost;
use crate::hw::{self, Arch, Hw, HwFormat, HwPort, Mapped, Mode, Rights, Use};
use crate::inject::{GateAt, Injector, Point};
use crate::machine::Config;
use crate::rng::Rng;

/// Pages, with their type forgotten.
struct Pages<'a>(&'a dyn PageArray);

impl PageArray for Pages<'_> {
    fn md(&self, page: PageNo) -> &PageMd {
        self.0.md(page)
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        self.0.pfn(page)
    }
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        self.0.page_at(frame)
    }
}

/// All pmaps of a machine of some format.
pub(crate) trait AnySystem: Send + Sync {
    fn create(self: Arc<Self>) -> Result<Box<dyn AnyPmap>, CreateError>;
    fn page_write_protect(&self, pages: &dyn PageArray, list: &[PageNo], g: &mut Gather);
    fn page_remove(&self, pages: &dyn PageArray, list: &[PageNo], why: RemoveWhy, g: &mut Gather);
    fn page_refmod(&self, pages: &dyn PageArray, page: PageNo) -> RefMod;
    fn page_clear(&self, pages: &dyn PageArray, page: PageNo, clear: RefMod, g: &mut Gather) -> RefMod;
    fn flush(&self, what: &Invalidations<'_>);
    fn free_tables(&self, first: Pfn);
    fn epoch_over(&self, epoch: core::num::NonZeroU64);
    /// Finishes a gather in which no page rides.
    fn finish(&self, g: Gather);
}

/// One of them.
pub(crate) trait AnyPmap: Send + Sync {
    #[expect(clippy::too_many_arguments)]
    fn enter(
        &self,
        pages: &dyn PageArray,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        g: &mut Gather,
    ) -> Result<(), EnterError>;
    fn enter_frames(
        &self,
        pages: &dyn PageArray,
        va: Va,
        frames: DeviceFrames,
        prot: Prot,
        flags: EnterFlags,
        g: &mut Gather,
    ) -> Result<(), EnterError>;
    fn remove(&self, pages: &dyn PageArray, range: VaRange, g: &mut Gather);
    fn protect(&self, pages: &dyn PageArray, range: VaRange, prot: Prot, g: &mut Gather);
    fn protect_copy(&self, pages: &dyn PageArray, range: VaRange, whole: bool, g: &mut Gather);
    fn unwire(&self, pages: &dyn PageArray, range: VaRange, g: &mut Gather);
    fn extract(&self, pages: &dyn PageArray, va: Va) -> Option<(PageNo, Prot)>;
    fn resident_count(&self) -> u64;
    fn wired_count(&self) -> u64;
    fn root(&self) -> Pfn;
    fn tag(&self) -> u32;
    fn activate(&self, cpu: u16);
    fn deactivate(&self, cpu: u16);
}

type Sys<F> = System<HwPort<F>>;

impl<F: HwFormat> AnySystem for Sys<F> {
    fn create(self: Arc<Self>) -> Result<Box<dyn AnyPmap>, CreateError> {
        Ok(Box::new(PtPmap::create(self)?))
    }
    fn page_write_protect(&self, pages: &dyn PageArray, list: &[PageNo], g: &mut Gather) {
        PmapPage::page_write_protect(self, &Pages(pages), list, g);
    }
    fn page_remove(&self, pages: &dyn PageArray, list: &[PageNo], why: RemoveWhy, g: &mut Gather) {
        PmapPage::page_remove(self, &Pages(pages), list, why, g);
    }
    fn page_refmod(&self, pages: &dyn PageArray, page: PageNo) -> RefMod {
        PmapPage::page_refmod(self, &Pages(pages), page)
    }
    fn page_clear(&self, pages: &dyn PageArray, page: PageNo, clear: RefMod, g: &mut Gather) -> RefMod {
        PmapPage::page_clear(self, &Pages(pages), page, clear, g)
    }
    fn flush(&self, what: &Invalidations<'_>) {
        Flush::flush(self, what);
    }
    fn free_tables(&self, first: Pfn) {
        Flush::free_tables(self, first);
    }
    fn epoch_over(&self, epoch: core::num::NonZeroU64) {
        Flush::epoch_over(self, epoch);
    }
    fn finish(&self, g: Gather) {
        let flushed = g.finish(self, &mut MaySleep::claim());
        assert!(flushed.dead.is_none());
    }
}

impl<F: HwFormat> AnyPmap for PtPmap<HwPort<F>, Arc<Sys<F>>> {
    fn enter(
        &self,
        pages: &dyn PageArray,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        g: &mut Gather,
    ) -> Result<(), EnterError> {
        Pmap::enter(self, &Pages(pages), va, run, prot, access, flags, g)
    }
    fn enter_frames(
        &self,
        pages: &dyn PageArray,
        va: Va,
        frames: DeviceFrames,
        prot: Prot,
        flags: EnterFlags,
        g: &mut Gather,
    ) -> Result<(), EnterError> {
        Pmap::enter_frames(self, &Pages(pages), va, frames, prot, flags, g)
    }
    fn remove(&self, pages: &dyn PageArray, range: VaRange, g: &mut Gather) {
        Pmap::remove(self, &Pages(pages), range, g);
    }
    fn protect(&self, pages: &dyn PageArray, range: VaRange, prot: Prot, g: &mut Gather) {
        Pmap::protect(self, &Pages(pages), range, prot, g);
    }
    fn protect_copy(&self, pages: &dyn PageArray, range: VaRange, whole: bool, g: &mut Gather) {
        Pmap::protect_copy(self, &Pages(pages), range, whole, g);
    }
    fn unwire(&self, pages: &dyn PageArray, range: VaRange, g: &mut Gather) {
        Pmap::unwire(self, &Pages(pages), range, g);
    }
    fn extract(&self, pages: &dyn PageArray, va: Va) -> Option<(PageNo, Prot)> {
        Pmap::extract(self, &Pages(pages), va)
    }
    fn resident_count(&self) -> u64 {
        Pmap::resident_count(self)
    }
    fn wired_count(&self) -> u64 {
        PtPmap::wired_count(self)
    }
    fn root(&self) -> Pfn {
        PtPmap::root(self)
    }
    fn tag(&self) -> u32 {
        self.id().raw()
    }
    fn activate(&self, cpu: u16) {
        Pmap::activate(self, CpuId(cpu));
    }
    fn deactivate(&self, cpu: u16) {
        Pmap::deactivate(self, CpuId(cpu));
    }
}

/// The machine with its pmaps.
pub struct Tables {
    hw: Arc<Hw>,
    sys: Arc<dyn AnySystem>,
    host: Arc<ModelHost>,
    inject: &'static Injector,
    forget: u64,
    /// Where each thread is, and chance.
    places: Mutex<(HashMap<usize, u16>, Rng)>,
    /// Of every space: what names it in gathers, its root.
    roots: Mutex<HashMap<u32, Pfn>>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tables({:?})", self.hw)
    }
}

fn build<F: HwFormat>(config: hw::Config, inject: &'static Injector) -> (Arc<Hw>, Arc<dyn AnySystem>) {
    let records: &'static GateAt = Box::leak(Box::new(GateAt(inject, Point::Record)));
    let tables: &'static GateAt = Box::leak(Box::new(GateAt(inject, Point::Table)));
    let port = HwPort::<F>::with_gates(config, Some(records), Some(tables));
    let hw = port.hw().clone();
    let sys = Arc::new(System::new(port).expect("memory for the kernel's root"));
    let handler = Arc::downgrade(&sys);
    hw.set_ipi_handler(move |_| {
        if let Some(sys) = handler.upgrade() {
            sys.shootdown_interrupt();
        }
    });
    hw.set_kernel_root(PtPmap::kernel(sys.clone()).root());
    (hw, sys)
}

impl Tables {
    pub(crate) fn new(host: Arc<ModelHost>, inject: &'static Injector, c: &Config, hw: hw::Config) -> Self {
        let config = hw::Config { frames: c.frames, memory_in_use: false, seed: c.seed, ..hw };
        let (hw, sys) = match config.arch {
            Arch::X86L4 => build::<X86L4>(config, inject),
            Arch::X86L5 => build::<X86L5>(config, inject),
            Arch::Aarch64 => build::<Aarch64>(config, inject),
            Arch::Sv39 => build::<Sv39>(config, inject),
            Arch::Sv48 => build::<Sv48>(config, inject),
            Arch::Sv57 => build::<Sv57>(config, inject),
        };
        let places = Mutex::new((HashMap::new(), Rng::new(c.seed ^ 0x9c)));
        Tables { hw, sys, host, inject, forget: c.forget, places, roots: Mutex::default() }
    }
    /// The hardware.
    pub fn hw(&self) -> &Arc<Hw> {
        &self.hw
    }
    /// Address spaces that there are.
    pub fn spaces(&self) -> usize {
        self.roots().len()
    }

    fn roots(&self) -> MutexGuard<'_, HashMap<u32, Pfn>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn one_in(&self, n: u64) -> bool {
        n != 0 && self.places.lock().unwrap_or_else(PoisonError::into_inner).1.one_in(n)
    }
    /// The CPU of this thread.
    fn place(&self) -> u16 {
        let cpus = self.hw.config().cpus;
        if self.host.is_threaded() {
            return self.hw.cpu();
        }
        let me = ModelHost::me();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (threads, rng) = &mut *places;
        let at = threads.entry(me).or_insert(me as u16 % cpus);
        if rng.one_in(32) {
            *at = rng.below(u64::from(cpus)) as u16;
        }
        *at
    }
    /// Something done on this thread's CPU while nobody else runs.
    pub(crate) fn here<R>(&self, f: impl FnOnce(&dyn AnySystem, u16) -> R) -> R {
        let cpu = self.place();
        self.hw.on_cpu(cpu, || f(&*self.sys, cpu))
    }
    /// As [`Tables::here`]; others may run before.
    #[track_caller]
    pub(crate) fn on<R>(&self, f: impl FnOnce(&dyn AnySystem, u16) -> R) -> R {
        self.host.preempt();
        self.here(f)
    }

    pub(crate) fn flush(&self, what: &Invalidations<'_>) {
        self.on(|s, _| {
            let since = self.hw.now();
            s.flush(what);
            // What others took away meanwhile and flush later is none of this flush's business.
            if ModelHost::me() != 0 || self.host.is_threaded() {
                return;
            }
            if what.all {
                return self.hw.check_flushed_all(since);
            }
            for (tag, range) in what.ranges {
                if let Some(root) = self.roots().get(tag) {
                    self.hw.check_flushed(Some(*root), *range, since);
                }
            }
        });
    }

    pub(crate) fn create(self: &Arc<Self>) -> Result<TablePmap, CreateError> {
        let pmap = self.on(|_, _| self.sys.clone().create())?;
        self.hw.space_begins(pmap.root());
        self.roots().insert(pmap.tag(), pmap.root());
        Ok(TablePmap { tables: self.clone(), pmap: Some(pmap), on: AtomicU64::new(0) })
    }
}

/// Memory.
impl Tables {
    fn own(&self, f: Pfn, what: &str) {
        let used = self.hw.used(f);
        assert!(used == Some(Use::Data), "frame {:#x} is {what} but not resident ({used:?})", f.0);
    }
    fn populate(&self, first: Pfn, n: u32, fill: impl FnOnce()) {
        for i in 0..u64::from(n) {
            let f = first.add(i);
            assert!(f.0 >= self.hw.config().first_frame(), "no frame {f:?}");
            let used = self.hw.used(f);
            assert!(used == Some(Use::Free), "frame {:#x} is populated while it is {used:?}", f.0);
        }
        self.here(|_, _| fill());
    }
    pub(crate) fn zero(&self, first: Pfn, n: u32) {
        self.populate(first, n, || self.hw.zero(first, u64::from(n)));
    }
    pub(crate) fn prepare(&self, first: Pfn, n: u32) {
        self.populate(first, n, || {
            for i in 0..u64::from(n) {
                self.hw.claim(first.add(i));
                self.hw.write(first.add(i), 0, &[GARBAGE; 4096]);
            }
        });
    }
    pub(crate) fn discard(&self, first: Pfn, n: u32) {
        for i in 0..u64::from(n) {
            let f = first.add(i);
            if self.one_in(16) {
                self.check_unmapped(f);
            }
            // A frame that never got its contents may be discarded too.
            self.here(|_, _| self.hw.release(f));
        }
    }
    /// Nothing may lead to a frame that is discarded. The hardware looks at the TLBs; this
    /// looks at the tables, and checks of quiet systems find what it misses.
    fn check_unmapped(&self, f: Pfn) {
        for root in self.roots().values() {
            for m in self.hw.mapped(*root) {
                let at = f.0.wrapping_sub(m.translation.pfn);
                assert!(at >= m.pages, "frame {:#x} is discarded while {m:?} maps it", f.0);
            }
        }
    }
    pub(crate) fn copy(&self, from: Pfn, to: Pfn) {
        self.own(from, "copied");
        self.own(to, "copied to");
        self.here(|_, _| self.hw.copy(from, to));
    }
    pub(crate) fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        self.own(f, "read");
        self.here(|_, _| self.hw.read(f, off, buf));
    }
    pub(crate) fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        self.own(f, "written");
        self.here(|_, _| self.hw.write(f, off, buf));
    }
}

/// One address space.
pub struct TablePmap {
    tables: Arc<Tables>,
    /// Until it is destroyed.
    pmap: Option<Box<dyn AnyPmap>>,
    /// CPUs that had it loaded.
    on: AtomicU64,
}

impl fmt::Debug for TablePmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TablePmap(root {:#x})", self.root().0)
    }
}

impl TablePmap {
    fn pmap(&self) -> &dyn AnyPmap {
        self.pmap.as_deref().expect("it lives until it is dropped")
    }
    /// The frame of its root table.
    pub fn root(&self) -> Pfn {
        self.pmap().root()
    }
    /// Pages wired.
    pub fn wired_count(&self) -> u64 {
        self.pmap().wired_count()
    }
    /// The machine.
    pub fn machine(&self) -> &Arc<Tables> {
        &self.tables
    }
    /// What the walker finds.
    pub fn mapped(&self) -> Vec<Mapped> {
        self.tables.hw.mapped(self.root())
    }
    #[track_caller]
    pub(crate) fn on<R>(&self, f: impl FnOnce(&dyn AnyPmap) -> R) -> R {
        self.tables.on(|_, _| f(self.pmap()))
    }
    pub(crate) fn here<R>(&self, f: impl FnOnce(&dyn AnyPmap) -> R) -> R {
        self.tables.here(|_, _| f(self.pmap()))
    }

    pub(crate) fn region_insert(&self, range: VaRange) -> Result<(), RegionError> {
        self.tables.host.preempt();
        if self.tables.inject.fails(Point::Region) {
            return Err(RegionError);
        }
        let old = self.mapped().into_iter().find(|m| range.contains(m.va));
        assert!(old.is_none(), "{range:?} becomes an entry's while {old:?} is mapped");
        Ok(())
    }

    #[expect(clippy::too_many_arguments)]
    pub(crate) fn enter(
        &self,
        pages: &dyn PageArray,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        g: &mut Gather,
    ) -> Result<(), EnterError> {
        assert!(
            prot.contains(access) || flags.contains(EnterFlags::PREFAULT),
            "entered with {prot:?} for {access:?}"
        );
        if self.tables.one_in(self.tables.forget) {
            let all = self.mapped();
            if !all.is_empty() {
                let n = self
                    .tables
                    .places
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .1
                    .below(all.len() as u64);
                self.forget(pages, all[n as usize].va);
            }
        }
        for (i, page) in run.iter().enumerate() {
            let f = pages.pfn(*page);
            self.tables.own(f, &format!("entered at {:?}", va.add(i as u64)));
        }
        self.on(|p| p.enter(pages, va, run, prot, access, flags, g))
    }

    /// Forgets the mapping at `va`, as a pmap may at any time, if nothing here is wired.
    pub fn forget(&self, pages: &dyn PageArray, va: Va) {
        self.tables.here(|s, _| {
            if self.pmap().wired_count() == 0 {
                let mut g = Gather::new();
                self.pmap().remove(pages, VaRange::page(va), &mut g);
                s.finish(g);
            }
        });
    }

    /// A program's access on this thread's CPU, which runs this space from then on.
    fn access<R>(&self, f: impl FnOnce(&Hw) -> R) -> R {
        self.tables.on(|_, cpu| {
            self.pmap().activate(cpu);
            self.on.fetch_or(1 << cpu, SeqCst);
            f(&self.tables.hw)
        })
    }
    /// `None`: it faults.
    pub(crate) fn load(&self, at: u64, buf: &mut [u8]) -> Option<()> {
        self.access(|hw| hw.load(at, buf, Mode::User).ok())
    }
    pub(crate) fn store(&self, at: u64, data: &[u8]) -> Option<()> {
        self.access(|hw| hw.store(at, data, Mode::User).ok())
    }
    pub(crate) fn fetch(&self, at: u64) -> Option<()> {
        self.access(|hw| hw.fetch(at, Mode::User).ok())
    }

    /// The walker against the pmap and against what the map allows: every mapping is
    /// allowed, leads to memory in use and to a page that looks mapped; counts agree.
    ///
    /// => nothing runs in this system.
    ///
    /// # Panics
    /// Something does not agree.
    pub(crate) fn check(&self, pages: &dyn PageArray, mut allowed: impl FnMut(Va) -> Option<Prot>) {
        let mut resident = 0;
        let exact = self.tables.hw.config().arch.is_x86() || self.tables.hw.config().updates.accessed;
        for m in self.mapped() {
            resident += m.pages;
            let walked = prot_of(m.translation.rights);
            for i in 0..m.pages {
                let (va, frame) = (m.va.add(i), Pfn(m.translation.pfn + i));
                let Some(prot) = allowed(va) else { panic!("{va:?} of {self:?}: {m:?} without an entry") };
                assert!(
                    prot.hardware().contains(walked),
                    "{va:?} of {self:?} is mapped {walked:?}, the entry has {prot:?}"
                );
                self.tables.own(frame, &format!("mapped at {va:?}"));
                let Some(page) = pages.page_at(frame) else { panic!("{va:?} is mapped to no page: {m:?}") };
                let pv = pages.md(page).pv.load(SeqCst);
                assert!(pv != 0, "{va:?} maps {page:?}, which looks unmapped");
                let said = self.pmap().extract(pages, va);
                let same = said
                    .is_some_and(|(p, r)| p == page && if exact { r == walked } else { r.contains(walked) });
                assert!(same, "{va:?} of {self:?}: the walker finds {page:?} {walked:?}, the pmap {said:?}");
            }
        }
        assert!(resident <= self.pmap().resident_count(), "{self:?}: {resident} pages mapped");
    }
}

fn prot_of(r: Rights) -> Prot {
    let mut p = Prot::NONE;
    p.set(Prot::R, r.contains(Rights::UR));
    p.set(Prot::W, r.contains(Rights::UW));
    p.set(Prot::X, r.contains(Rights::UX));
    p
}

impl Drop for TablePmap {
    fn drop(&mut self) {
        let Some(pmap) = self.pmap.take() else { return };
        if std::thread::panicking() {
            std::mem::forget(pmap);
            return;
        }
        let (hw, root) = (self.tables.hw.clone(), pmap.root());
        let on = self.on.load(SeqCst);
        for cpu in (0..hw.config().cpus).filter(|c| on >> c & 1 != 0) {
            hw.on_cpu(cpu, || pmap.deactivate(cpu));
        }
        self.tables.roots().remove(&pmap.tag());
        self.tables.here(|_, _| drop(pmap));
        if !self.tables.host.is_threaded() {
            hw.space_ends(root);
        }
    }
}
