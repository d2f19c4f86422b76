//! The suite's machine: the one this kernel runs on.

use core::num::NonZeroU32;

use alloc::boxed::Box;
use alloc::vec::Vec;
use machvm_hal::pmap9::{PhysAddr, Pmap9 as _, PmapBootstrap as _, PmapMachine as _, Shortage};
use machvm_hal::{CpuId, PAGE_SIZE, PageArray, PageMd, PageNo, Pfn, RawAddr, Va};
use machvm_pmap::{HwBits, Nine, NinePmap};

use super::rows::{Facts, Fixture, Touch};
use crate::arch::{self, direct};
use crate::embed::{self, Kernel, KernelPort, Pmaps};

/// Pages, and the frames behind them that are nobody's pages.
const PAGES: u64 = 1024;
pub(super) const FRAMES: u64 = PAGES + 512;
const ALIASES: usize = 12;
/// The first user page, aligned for superpages.
const FIRST: u64 = 1 << 16;

/// Page `n` is frame `first + n - 1`.
pub(super) struct Pages {
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
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        let n = frame.0.checked_sub(self.first.0).filter(|n| *n < PAGES)?;
        NonZeroU32::new(n as u32 + 1).map(PageNo)
    }
}

type Here = Nine<KernelPort, &'static Pmaps, &'static Pages, &'static Kernel>;
type Pmap = NinePmap<KernelPort, &'static Pmaps, &'static Pages>;

/// See the module text. What it took is never given back: the kernel ends after the tests.
pub(super) struct Machine {
    nine: Here,
    pages: &'static Pages,
}

impl Machine {
    /// A system of pmaps of its own, over pages of zeroes. `early`: where there is room for them.
    pub(super) fn new(early: u64) -> Self {
        let first = Pfn(early.next_multiple_of(2 << 20) / PAGE_SIZE);
        (0..FRAMES).for_each(|i| arch::zero_page(first.add(i)));
        let md = (0..PAGES).map(|_| PageMd::default()).collect();
        let pages: &'static Pages = Box::leak(Box::new(Pages { first, md }));
        let system = embed::more_pmaps().expect("memory for pmaps");
        let nine = Nine::new(system, pages, embed::the_vm().host()).expect("memory for the kernel's tables");
        let m = Machine { nine, pages };
        m.leave();
        m
    }
}

fn access(at: RawAddr, what: Touch) -> Option<u64> {
    match what {
        Touch::Load => arch::load(at.0),
        // SAFETY: tests store at programs' addresses and at those of pages that they mapped.
        Touch::Store(word) => unsafe { arch::store(at.0, word) }.map(|()| 0),
        Touch::Fetch => panic!("the machine fetches nothing for a test"),
    }
}

impl Fixture for Machine {
    type Machine = Here;

    fn machine(&self) -> &Here {
        &self.nine
    }
    fn facts(&self) -> Facts {
        let bits = arch::hw_bits();
        Facts {
            hw_accessed: bits.contains(HwBits::ACCESSED),
            hw_dirty: bits.contains(HwBits::DIRTY),
            speculative: bits.contains(HwBits::ACCESSED),
            exec: false,
            superpage: true,
            any_frame: true,
            // It may forget any translation at any time.
            lazy: false,
            cpus: 1,
            aliases: ALIASES,
        }
    }
    fn page(&self, n: usize) -> PageNo {
        NonZeroU32::new(n as u32 + 1).map(PageNo).expect("not zero")
    }
    fn physical(&self, page: PageNo) -> Option<PhysAddr> {
        Some(PhysAddr(self.pages.pfn(page).byte()))
    }
    fn device(&self) -> Option<Pfn> {
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
        let va = self.nine.pmap_virtual_space().start().add(n);
        self.nine.pmap_growkernel(RawAddr(va.add(1).get()));
        va
    }
    fn run(&self, _cpu: u16, pm: &Pmap, at: RawAddr, what: Touch) -> Option<u64> {
        // There is one.
        pm.pmap_activate(CpuId(0));
        access(at, what)
    }
    fn run_kernel(&self, _cpu: u16, at: RawAddr, what: Touch) -> Option<u64> {
        access(at, what)
    }
    fn leave(&self) {
        self.nine.pmap_kernel().pmap_activate(CpuId(0));
    }
    fn peek(&self, page: PageNo, off: usize) -> u64 {
        assert!(off.is_multiple_of(8) && off < PAGE_SIZE as usize);
        // SAFETY: a word of a test's page, in the direct map.
        unsafe { direct(self.pages.pfn(page).byte()).add(off).cast::<u64>().read_volatile() }
    }
    fn poke(&self, page: PageNo, off: usize, word: u64) {
        assert!(off.is_multiple_of(8) && off < PAGE_SIZE as usize);
        // SAFETY: as above.
        unsafe { direct(self.pages.pfn(page).byte()).add(off).cast::<u64>().write_volatile(word) }
    }
    fn shortage(&self, _what: Shortage, _on: bool) -> bool {
        false
    }
    fn finish(&self) {}
}
