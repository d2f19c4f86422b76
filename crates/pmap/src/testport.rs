//! A port for unit tests: plain memory, one CPU, a TLB that only counts. What needs a TLB
//! that remembers is tested on the model.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use machvm_arch::{Asid, Space, Tlb};
use machvm_arena::HeapChunks;
use machvm_hal::{
    CpuId, CpuSet, ExtentError, PAGE_SIZE, PageArray, PageMd, PageNo, Pfn, PhysMem, Placement, PopulateError,
    RawAddr, Va, VaRange,
};

use crate::nine::{Nine, NinePmap};
use crate::port::{Cpus, HwBits, Port, TableMem};
use crate::pte::Format;
use crate::system::System;
use crate::table::TableMd;

/// Frames `1..TABLES` are tables, those from [`FIRST`] on are pages.
const TABLES: usize = 256;
pub(crate) const FIRST: u64 = 1024;
pub(crate) const PAGES: u64 = 1024;

#[derive(Debug)]
pub(crate) struct TestMem {
    words: Vec<[AtomicU64; 512]>,
    md: Vec<TableMd>,
    free: Mutex<Vec<u64>>,
    /// Frame 0 is at this address; 0: no direct map.
    direct: u64,
    /// No table is to be had.
    pub(crate) short: AtomicBool,
}

impl TestMem {
    /// Tables that are not handed out.
    pub(crate) fn left(&self) -> usize {
        self.free.lock().expect("lock").len()
    }
    fn word(&self, table: Pfn, index: usize) -> &AtomicU64 {
        &self.words[table.0 as usize][index]
    }
}

impl TableMem for TestMem {
    fn load(&self, table: Pfn, index: usize) -> u64 {
        self.word(table, index).load(SeqCst)
    }
    fn store(&self, table: Pfn, index: usize, raw: u64) {
        self.word(table, index).store(raw, SeqCst);
    }
    fn swap(&self, table: Pfn, index: usize, raw: u64) -> u64 {
        self.word(table, index).swap(raw, SeqCst)
    }
    fn compare_exchange(&self, table: Pfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(table, index).compare_exchange(old, new, SeqCst, SeqCst)
    }
    fn alloc(&self) -> Option<Pfn> {
        if self.short.load(SeqCst) {
            return None;
        }
        self.free.lock().expect("lock").pop().map(Pfn)
    }
    fn free(&self, table: Pfn) {
        let words = &self.words[table.0 as usize];
        assert!(words.iter().all(|w| w.load(SeqCst) == 0), "table {table:?} is freed with entries");
        self.free.lock().expect("lock").push(table.0);
    }
    fn md(&self, table: Pfn) -> Option<&TableMd> {
        self.md.get(table.0 as usize)
    }
    fn has_frames(&self, pfn: Pfn, n: u64) -> bool {
        pfn.0 >= FIRST && pfn.0 + n <= FIRST + PAGES
    }
    fn direct(&self, frame: Pfn) -> Option<Va> {
        (self.direct != 0).then(|| Va::containing(RawAddr(self.direct + frame.byte())))
    }
}

#[derive(Debug, Default)]
pub(crate) struct TestTlb {
    /// Flushes of something.
    pub(crate) flushes: AtomicU64,
}

impl TestTlb {
    fn count(&self) {
        self.flushes.fetch_add(1, SeqCst);
    }
}

impl Tlb for TestTlb {
    const BROADCAST: bool = false;
    fn asids(&self) -> u32 {
        4096
    }
    fn publish(&self, _space: Space, _range: VaRange, _walks: bool) {}
    fn before(&self) {}
    fn flush_range(&self, _space: Space, _range: VaRange, _walks: bool) {
        self.count();
    }
    fn flush_space(&self, _space: Space) {
        self.count();
    }
    fn flush_all(&self) {
        self.count();
    }
    fn after(&self) {}
    fn spurious(&self, _space: Space, _va: Va) {}
    fn switch(&self, _root: Pfn, _asid: Asid, _flush: bool) {}
}

#[derive(Debug, Default)]
pub(crate) struct TestCpus;

impl Cpus for TestCpus {
    type Pin = ();
    fn current(&self) -> CpuId {
        CpuId(0)
    }
    fn online(&self) -> CpuSet {
        CpuSet(1)
    }
    fn pin(&self) {}
    fn send_ipi(&self, to: CpuSet) {
        panic!("one CPU interrupts {to:?}");
    }
    fn relax(&self) {}
}

#[derive(Debug)]
pub(crate) struct TestPort<F> {
    mem: TestMem,
    tlb: TestTlb,
    cpus: TestCpus,
    _format: core::marker::PhantomData<F>,
}

impl<F: Format> Port for TestPort<F> {
    type Format = F;
    type Mem = TestMem;
    type Tlb = TestTlb;
    type Cpus = TestCpus;
    type Chunks = HeapChunks;
    fn mem(&self) -> &TestMem {
        &self.mem
    }
    fn tlb(&self) -> &TestTlb {
        &self.tlb
    }
    fn cpus(&self) -> &TestCpus {
        &self.cpus
    }
    fn chunks(&self) -> HeapChunks {
        HeapChunks::new()
    }
    fn hw_bits(&self) -> HwBits {
        HwBits::all()
    }
    fn kernel_range(&self) -> VaRange {
        VaRange::of_pages(Va::containing(RawAddr(0xffff_ffff_8000_0000)), 1 << 18).expect("a range")
    }
}

/// Page `n` is frame `FIRST + n - 1`.
#[derive(Debug)]
pub(crate) struct TestPages(Vec<PageMd>);

impl PageArray for TestPages {
    fn md(&self, page: PageNo) -> &PageMd {
        &self.0[page.0.get() as usize - 1]
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        Pfn(FIRST + u64::from(page.0.get()) - 1)
    }
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        let n = frame.0.checked_sub(FIRST).filter(|n| *n < PAGES)?;
        NonZeroU32::new(n as u32 + 1).map(PageNo)
    }
}

/// Bytes of frames; those of tables too.
#[derive(Debug)]
pub(crate) struct TestPhys(Mutex<Vec<u8>>);

impl TestPhys {
    fn at(f: Pfn, off: usize) -> usize {
        f.byte() as usize + off
    }
}

impl PhysMem for TestPhys {
    fn placement(&self) -> Placement {
        Placement::Dense { first: Pfn(FIRST), frames: PAGES as u32 }
    }
    fn extent_reserve(&self, _pages: u64) -> Result<Pfn, ExtentError> {
        Err(ExtentError)
    }
    fn extent_release(&self, _base: Pfn, _pages: u64) {}
    fn zero(&self, _first: Pfn, _n: u32) -> Result<(), PopulateError> {
        // As where frames must be written: what calls this falls back to writing.
        Err(PopulateError)
    }
    fn discard(&self, _first: Pfn, _n: u32) {}
    fn copy(&self, from: Pfn, to: Pfn) {
        let (from, to) = (Self::at(from, 0), Self::at(to, 0));
        self.0.lock().expect("lock").copy_within(from..from + PAGE_SIZE as usize, to);
    }
    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        let at = Self::at(f, off);
        buf.copy_from_slice(&self.0.lock().expect("lock")[at..at + buf.len()]);
    }
    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        let at = Self::at(f, off);
        self.0.lock().expect("lock")[at..at + buf.len()].copy_from_slice(buf);
    }
}

pub(crate) type Sys<F> = Arc<System<TestPort<F>>>;
pub(crate) type TestNine<F> = Nine<TestPort<F>, Sys<F>, Arc<TestPages>, Arc<TestPhys>>;
pub(crate) type TestPmap<F> = NinePmap<TestPort<F>, Sys<F>, Arc<TestPages>>;

/// A machine; `direct`: the kernel finds frame 0 there, 0: it has no direct map.
pub(crate) fn machine<F: Format>(direct: u64) -> TestNine<F> {
    let table = || core::array::from_fn(|_| AtomicU64::new(0));
    let mem = TestMem {
        words: (0..TABLES).map(|_| table()).collect(),
        md: (0..TABLES).map(|_| TableMd::new()).collect(),
        free: Mutex::new((1..TABLES as u64).collect()),
        direct,
        short: AtomicBool::new(false),
    };
    let port = TestPort { mem, tlb: TestTlb::default(), cpus: TestCpus, _format: core::marker::PhantomData };
    let pages = Arc::new(TestPages((0..PAGES).map(|_| PageMd::default()).collect()));
    let bytes = std::vec![0xa5; ((FIRST + 2 * PAGES) * PAGE_SIZE) as usize];
    let sys = Arc::new(System::new(port).expect("memory for the kernel's root"));
    Nine::new(sys, pages, Arc::new(TestPhys(Mutex::new(bytes)))).expect("memory for the kernel's tables")
}

pub(crate) fn page(n: u32) -> PageNo {
    PageNo(NonZeroU32::new(n + 1).expect("not zero"))
}
pub(crate) fn va(page: u64) -> Va {
    Va::from_page(page)
}
