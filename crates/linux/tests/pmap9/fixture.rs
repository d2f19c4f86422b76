//! The suite's machine: this process.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::Arc;

use machvm_hal::pmap9::{Frame, PhysAddr, Pmap9, PmapFlags, PmapMachine, Shortage};
use machvm_hal::{MaySleep, PageArray, PageMd, PageNo, Pfn, PhysMem, Prot, RawAddr, Va, VaRange};
use machvm_linux::phys::LinuxMem;
use machvm_linux::pmap::nine::{LinuxNine, LinuxNinePmap, Sizes};
use machvm_linux::pmap::{Config, Limits, LinuxPv};
use machvm_linux::uffd::Mode;
use machvm_model::conformance::{Facts, Fixture, Touch};

use super::access::Cpu;

/// Pages; the last is the fixture's own. The frames after them are nobody's pages.
pub(crate) const PAGES: u64 = 65;
const DEVICE: u64 = 512;
const ALIASES: u64 = 12;
const FIRST: u64 = 512;
/// Pages of addresses.
const USER: u64 = 5 << 18;
/// Threads; the suite wants four.
const CPUS: u16 = 4;
/// So few that a test can use them up.
const LIMITS: Limits = Limits { tables: 96, records: 96 };

/// Page `n` is frame `first + n - 1`.
#[derive(Debug)]
pub(crate) struct Pages {
    first: Pfn,
    md: Vec<PageMd>,
}

impl PageArray for Pages {
    fn md(&self, page: PageNo) -> &PageMd {
        &self.md[page.0.get() as usize - 1]
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        self.first.add(u64::from(page.0.get()) - 1)
    }
    fn page_at(&self, _frame: Pfn) -> Option<PageNo> {
        None
    }
}

pub(crate) type Machine = LinuxNine<Arc<Pages>, Arc<LinuxMem>>;
pub(crate) type Space = LinuxNinePmap<Arc<Pages>>;

/// See the module text.
#[derive(Debug)]
pub(crate) struct LinuxFixture {
    pub(crate) mem: Arc<LinuxMem>,
    machine: Machine,
    pages: Arc<Pages>,
    device: Pfn,
    cpus: Vec<Cpu>,
    /// Who has all tables, and who has all records.
    hogs: [RefCell<Vec<Space>>; 2],
}

pub(crate) fn may() -> MaySleep {
    MaySleep::claim()
}

fn nth(n: u64) -> PageNo {
    PageNo(NonZeroU32::new(n as u32 + 1).expect("not zero"))
}

impl LinuxFixture {
    pub(crate) fn new() -> Self {
        let mem = Arc::new(LinuxMem::new(1 << 16).expect("memfd"));
        let config = Config { mode: Mode::Signal, nonblocking: true, dont_fork: true };
        let pv = LinuxPv::with_limits(&mem, config, LIMITS).expect("userfaultfd");
        let first = mem.extent_reserve(PAGES).expect("numbers");
        let device = mem.extent_reserve(DEVICE).expect("numbers");
        let md = (0..PAGES).map(|_| PageMd::default()).collect();
        let pages = Arc::new(Pages { first, md });
        let sizes = Sizes { kernel: 512, user: USER };
        let machine = LinuxNine::new(pv, Arc::clone(&pages), Arc::clone(&mem), sizes);
        let machine = machine.expect("addresses");
        let cpus = (0..CPUS).map(|n| Cpu::new(usize::from(n))).collect();
        LinuxFixture { mem, machine, pages, device, cpus, hogs: Default::default() }
    }

    fn frame_word(&self, frame: Pfn, off: usize) -> u64 {
        let mut word = [0; 8];
        self.mem.read(frame, off, &mut word);
        u64::from_le_bytes(word)
    }

    /// An access at an address of the process.
    fn access(&self, cpu: u16, host: RawAddr, what: Touch, frame: Option<Pfn>) -> Option<u64> {
        let cpu = &self.cpus[usize::from(cpu)];
        let (Touch::Fetch, Some(frame)) = (what, frame) else { return cpu.access(host.0, what) };
        // A word of code, past every mapping, for a moment.
        let (off, ret) = ((host.0 & 0xff8) as usize, 0xc3c3_c3c3_c3c3_c3c3u64);
        let was = self.frame_word(frame, off);
        self.mem.write(frame, off, &ret.to_le_bytes());
        let done = cpu.access(host.0, what);
        self.mem.write(frame, off, &was.to_le_bytes());
        done
    }

    fn hog_tables(&self) -> Vec<Space> {
        let mut hogs = Vec::new();
        while let Ok(pm) = self.machine.pmap_create() {
            for window in (0..USER).step_by(512) {
                let (va, frame) = (Va::from_page(window), Frame::Unmanaged(self.device));
                if pm.pmap_enter(va, frame, Prot::R, PmapFlags::PMAP_CANFAIL, &mut may()).is_err() {
                    break;
                }
            }
            hogs.push(pm);
        }
        hogs
    }
    fn hog_records(&self) -> Vec<Space> {
        let pm = self.machine.pmap_create().expect("tables");
        let own = Frame::Page(nth(PAGES - 1));
        for page in 0.. {
            let va = Va::from_page(page);
            if pm.pmap_enter(va, own, Prot::R, PmapFlags::PMAP_CANFAIL, &mut may()).is_err() {
                break;
            }
        }
        vec![pm]
    }
}

/// All addresses of a user pmap.
pub(crate) fn everything() -> VaRange {
    VaRange::of_pages(Va::ZERO, USER).expect("a range")
}

impl Fixture for LinuxFixture {
    type Machine = Machine;

    fn machine(&self) -> &Machine {
        &self.machine
    }
    fn facts(&self) -> Facts {
        Facts {
            hw_accessed: false,
            hw_dirty: false,
            speculative: false,
            exec: true,
            superpage: false,
            any_frame: true,
            lazy: false,
            cpus: CPUS,
            aliases: ALIASES as usize,
        }
    }
    fn page(&self, n: usize) -> PageNo {
        assert!((n as u64) < PAGES - 1, "the suite has 64 pages without superpages, not {n}");
        nth(n as u64)
    }
    fn physical(&self, page: PageNo) -> Option<PhysAddr> {
        Some(PhysAddr(self.pages.pfn(page).byte()))
    }
    fn device(&self) -> Option<Pfn> {
        Some(self.device)
    }
    fn at(&self, alias: usize, n: usize) -> Va {
        Va::from_page(FIRST + alias as u64 * 1024 + n as u64)
    }
    fn far(&self, k: usize, n: usize) -> Va {
        Va::from_page(((k as u64 + 1) << 18) + n as u64)
    }
    fn kernel(&self, n: u64) -> Va {
        self.machine.kernel_space().start().add(n)
    }

    fn run(&self, cpu: u16, pm: &Space, at: RawAddr, what: Touch) -> Option<u64> {
        let host = pm.host(at)?;
        self.access(cpu, host, what, pm.pmap_extract(at).map(|p| p.pfn()))
    }
    fn run_kernel(&self, cpu: u16, at: RawAddr, what: Touch) -> Option<u64> {
        self.access(cpu, at, what, self.machine.pmap_kextract(at).map(|p| p.pfn()))
    }
    fn leave(&self) {}
    fn peek(&self, page: PageNo, off: usize) -> u64 {
        self.frame_word(self.pages.pfn(page), off)
    }
    fn poke(&self, page: PageNo, off: usize, word: u64) {
        self.mem.write(self.pages.pfn(page), off, &word.to_le_bytes());
    }
    fn shortage(&self, what: Shortage, on: bool) -> bool {
        let (hogs, fill): (_, fn(&Self) -> Vec<Space>) = match what {
            Shortage::Table => (&self.hogs[0], Self::hog_tables),
            Shortage::Record => (&self.hogs[1], Self::hog_records),
            Shortage::Host => return false,
        };
        if on {
            *hogs.borrow_mut() = fill(self);
            return true;
        }
        for pm in hogs.take() {
            pm.pmap_remove(everything());
            pm.pmap_destroy(&mut may());
        }
        true
    }
    fn finish(&self) {
        let kernel = self.machine.pmap_kernel().pmap_statistics();
        assert_eq!((kernel.resident_count, kernel.wired_count), (0, 0), "left in the kernel's pmap");
    }
}
