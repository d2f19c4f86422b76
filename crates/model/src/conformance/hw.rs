//! The suite's machine: page tables on the hardware of [`crate::hw`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use machvm_arena::Gate;
use machvm_hal::pmap9::{PhysAddr, Pmap9, PmapBootstrap, PmapMachine, Shortage};
use machvm_hal::{
    CpuId, ExtentError, PAGE_SIZE, PageArray, PageMd, PageNo, Pfn, PhysMem, Placement, PopulateError, Prot,
    RawAddr, Va,
};
use machvm_pmap::{HwBits, Nine, NinePmap, Port, System};

use super::{Facts, Fixture, Touch};
use crate::hw::{Access, Checks, Config, Hw, HwFormat, HwPort, Mode};

/// Managed pages; the frames after them are a device's.
const PAGES: u64 = 1024;
const DEVICE: u64 = 512;
const ALIASES: usize = 12;
/// The first user page, aligned for superpages.
const FIRST: u64 = 1 << 16;

/// Page `n` is frame `first + n - 1`.
#[derive(Debug)]
pub struct HwPages {
    first: Pfn,
    md: Vec<PageMd>,
}

impl PageArray for HwPages {
    fn md(&self, page: PageNo) -> &PageMd {
        &self.md[page.0.get() as usize - 1]
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        self.first.add(u64::from(page.0.get()) - 1)
    }
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        let n = frame.0.checked_sub(self.first.0).filter(|n| *n < self.md.len() as u64)?;
        NonZeroU32::new(n as u32 + 1).map(PageNo)
    }
}

/// Contents, past the MMU.
#[derive(Debug)]
pub struct HwPhys(Arc<Hw>);

impl PhysMem for HwPhys {
    fn placement(&self) -> Placement {
        let c = self.0.config();
        Placement::Dense { first: Pfn(c.first_frame()), frames: c.frames }
    }
    fn extent_reserve(&self, _pages: u64) -> Result<Pfn, ExtentError> {
        Err(ExtentError)
    }
    fn extent_release(&self, _base: Pfn, _pages: u64) {}
    fn zero(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        for i in 0..u64::from(n) {
            self.0.write(first.add(i), 0, &[0; PAGE_SIZE as usize]);
        }
        Ok(())
    }
    fn discard(&self, _first: Pfn, _n: u32) {}
    fn copy(&self, from: Pfn, to: Pfn) {
        self.0.copy(from, to);
    }
    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        self.0.read(f, off, buf);
    }
    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        self.0.write(f, off, buf);
    }
}

/// Lets memory through, or not.
#[derive(Debug)]
struct Valve {
    closed: AtomicBool,
    /// Requests that come before the one that is refused, and that one; 0: none is.
    left: Arc<AtomicU64>,
}

impl Gate for Valve {
    fn admit(&self) -> bool {
        let left = self.left.try_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        !self.closed.load(SeqCst) && left != Ok(1)
    }
}

type Sys<F> = Arc<System<HwPort<F>>>;

/// See the module text.
pub struct HwFixture<F: HwFormat> {
    hw: Arc<Hw>,
    machine: Nine<HwPort<F>, Sys<F>, Arc<HwPages>, Arc<HwPhys>>,
    pages: Arc<HwPages>,
    tables: &'static Valve,
    records: &'static Valve,
}

impl<F: HwFormat> std::fmt::Debug for HwFixture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HwFixture").field("hw", &self.hw).finish_non_exhaustive()
    }
}

impl<F: HwFormat> HwFixture<F> {
    /// A machine of this format. `bits`: its hardware notes use and writes.
    ///
    /// # Panics
    /// The machine has no memory for the kernel's tables.
    pub fn new(seed: u64, bits: bool) -> Self {
        let mut c = Config::new(F::ARCH, seed);
        if !bits {
            c = c.without_updates();
        }
        // Valves of a test live as long as the test's process.
        let left = Arc::new(AtomicU64::new(0));
        let valve = || Box::leak(Box::new(Valve { closed: AtomicBool::new(false), left: left.clone() }));
        let (tables, records): (&'static Valve, &'static Valve) = (valve(), valve());
        let port = HwPort::<F>::with_gates(c, Some(records), Some(tables));
        let hw = port.hw().clone();
        let sys = Arc::new(System::new(port).expect("memory for the kernel's root"));
        let handler = Arc::downgrade(&sys);
        hw.set_ipi_handler(move |_| {
            if let Some(sys) = handler.upgrade() {
                sys.shootdown_interrupt();
            }
        });
        let first = Pfn(c.first_frame());
        let md = (0..PAGES).map(|_| PageMd::default()).collect();
        let pages = Arc::new(HwPages { first, md });
        let phys = Arc::new(HwPhys(hw.clone()));
        let machine = Nine::new(sys, pages.clone(), phys).expect("memory for the kernel's tables");
        hw.set_kernel_root(machine.pmap_kernel().pmap().root());
        let f = HwFixture { hw, machine, pages, tables, records };
        f.leave();
        f
    }
    /// The machine under it.
    pub fn hw(&self) -> &Arc<Hw> {
        &self.hw
    }

    fn access(&self, at: RawAddr, what: Touch, mode: Mode) -> Option<u64> {
        let mut word = [0; 8];
        match what {
            Touch::Load => self.hw.load(at.0, &mut word, mode).ok().map(|()| u64::from_le_bytes(word)),
            Touch::Store(w) => self.hw.store(at.0, &w.to_le_bytes(), mode).ok().map(|()| 0),
            Touch::Fetch => self.hw.access(at.0, Access::Exec, mode).ok().map(|_| 0),
        }
    }
}

impl<F: HwFormat> Fixture for HwFixture<F> {
    type Machine = Nine<HwPort<F>, Sys<F>, Arc<HwPages>, Arc<HwPhys>>;

    fn machine(&self) -> &Self::Machine {
        &self.machine
    }
    fn facts(&self) -> Facts {
        let bits = self.machine.system().port().hw_bits();
        Facts {
            hw_accessed: bits.contains(HwBits::ACCESSED),
            hw_dirty: bits.contains(HwBits::DIRTY),
            speculative: bits.contains(HwBits::ACCESSED),
            exec: true,
            superpage: F::MAX_LEAF_LEVEL > 1,
            any_frame: true,
            lazy: true,
            cpus: self.hw.config().cpus,
            aliases: ALIASES,
        }
    }
    fn making<R>(&self, f: impl FnOnce() -> R) -> R {
        // The root may be a frame that the pmap kept since it was a table of another level.
        self.hw.set_checks(Checks::all() - Checks::TABLES);
        let r = f();
        self.hw.set_checks(Checks::all());
        r
    }
    fn alone<R>(&self, f: impl FnOnce() -> R) -> R {
        self.hw.set_rate(0);
        let r = f();
        self.hw.set_rate(self.hw.config().rate);
        r
    }
    fn created(&self, pm: &NinePmap<HwPort<F>, Sys<F>, Arc<HwPages>>) {
        self.hw.space_begins(pm.pmap().root());
    }
    fn page(&self, n: usize) -> PageNo {
        NonZeroU32::new(n as u32 + 1).map(PageNo).expect("not zero")
    }
    fn physical(&self, page: PageNo) -> Option<PhysAddr> {
        Some(PhysAddr(self.pages.pfn(page).byte()))
    }
    fn device(&self) -> Option<Pfn> {
        assert!(u64::from(self.hw.config().frames) >= PAGES + DEVICE);
        Some(self.pages.first.add(PAGES))
    }
    fn at(&self, alias: usize, n: usize) -> Va {
        Va::from_page(FIRST + alias as u64 * PAGES + n as u64)
    }
    fn far(&self, k: usize, n: usize) -> Va {
        // An entry of the root or of the level below it each: 1 GiB apart.
        Va::from_page(((k as u64 + 2) << 18) + FIRST + n as u64)
    }
    fn kernel(&self, n: u64) -> Va {
        let va = self.machine.pmap_virtual_space().start().add(n);
        self.machine.pmap_growkernel(RawAddr(va.add(1).get()));
        va
    }

    fn run(
        &self,
        cpu: u16,
        pm: &NinePmap<HwPort<F>, Sys<F>, Arc<HwPages>>,
        at: RawAddr,
        what: Touch,
    ) -> Option<u64> {
        self.hw.on_cpu(cpu, || {
            pm.pmap_activate(CpuId(cpu));
            self.access(at, what, Mode::User)
        })
    }
    fn run_kernel(&self, cpu: u16, at: RawAddr, what: Touch) -> Option<u64> {
        self.hw.on_cpu(cpu, || self.access(at, what, Mode::Kernel))
    }
    fn fault(
        &self,
        cpu: u16,
        pm: &NinePmap<HwPort<F>, Sys<F>, Arc<HwPages>>,
        at: RawAddr,
        access: Prot,
    ) -> bool {
        self.hw.on_cpu(cpu, || pm.pmap_fault(at, access))
    }
    fn leave(&self) {
        let kernel = self.machine.pmap_kernel();
        for cpu in 0..self.hw.config().cpus {
            self.hw.on_cpu(cpu, || kernel.pmap_activate(CpuId(cpu)));
        }
    }
    fn peek(&self, page: PageNo, off: usize) -> u64 {
        let mut word = [0; 8];
        self.hw.read(self.pages.pfn(page), off, &mut word);
        u64::from_le_bytes(word)
    }
    fn poke(&self, page: PageNo, off: usize, word: u64) {
        self.hw.write(self.pages.pfn(page), off, &word.to_le_bytes());
    }
    fn shortage(&self, what: Shortage, on: bool) -> bool {
        match what {
            Shortage::Table => self.tables.closed.store(on, SeqCst),
            Shortage::Record => self.records.closed.store(on, SeqCst),
            Shortage::Host => return false,
        }
        true
    }
    fn fail_at(&self, k: u64) -> Option<bool> {
        // Left over: it was not reached.
        Some(self.tables.left.swap(k, SeqCst) == 0)
    }
    fn finish(&self) {
        self.hw.check_quiet();
        self.hw.assert_clean();
    }
}
