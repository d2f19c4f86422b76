//! A machine where nothing costs anything: plain memory for tables, instructions that
//! do nothing, one CPU. What is counted is the pmap.

use core::num::NonZeroU32;
use core::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use machvm_arch::{Asid, Invpcid, X86, X86Isa};
use machvm_arena::{ChunkSource, HeapChunks};
use machvm_hal::{
    CpuId, CpuSet, ExtentError, PageArray, PageMd, PageNo, Pfn, PhysMem, Placement, PopulateError, Va,
    VaRange,
};
use machvm_pmap::pte::X86L4;
use machvm_pmap::{Cpus, HwBits, Port, TableMd, TableMem};

/// Frames for tables; memory that is mapped lies above.
const TABLES: usize = 1200;
/// Page 1's frame; the first of a region that one superpage can map.
const FIRST: u64 = 1 << 20;

/// The machine.
#[derive(Debug)]
pub struct Mini {
    mem: Tables,
    tlb: X86<NoIsa>,
    /// Bytes that slabs asked for.
    bytes: &'static AtomicUsize,
}

/// Table frames. Taking and giving one is two plain stores: real ones are the
/// embedder's.
#[derive(Debug)]
pub struct Tables {
    words: Vec<[AtomicU64; 512]>,
    md: Vec<TableMd>,
    free: Vec<AtomicU64>,
    left: AtomicUsize,
}

/// Instructions that do nothing.
#[derive(Debug)]
pub struct NoIsa;

/// Heap memory, counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted(&'static AtomicUsize);

/// Pages; number `n` is frame `FIRST + n - 1`.
#[derive(Debug)]
pub struct Pages(Vec<PageMd>);

/// Memory whose contents nobody looks at.
#[derive(Debug)]
pub struct NoMem;

impl Mini {
    /// A machine of its own.
    pub(super) fn new() -> Mini {
        let mem = Tables {
            words: (0..TABLES).map(|_| [const { AtomicU64::new(0) }; 512]).collect(),
            md: (0..TABLES).map(|_| TableMd::new()).collect(),
            free: (1..TABLES as u64).map(AtomicU64::new).collect(),
            left: AtomicUsize::new(TABLES - 1),
        };
        Mini { mem, tlb: X86::new(NoIsa, true, true), bytes: Box::leak(Box::default()) }
    }
    /// Tables in use and bytes that slabs have.
    pub(super) fn used(&self) -> (usize, usize) {
        (TABLES - 1 - self.mem.left.load(Relaxed), self.bytes.load(Relaxed))
    }
}

impl Tables {
    #[inline]
    fn word(&self, table: Pfn, index: usize) -> &AtomicU64 {
        &self.words[table.0 as usize][index]
    }
}

impl TableMem for Tables {
    #[inline]
    fn load(&self, table: Pfn, index: usize) -> u64 {
        self.word(table, index).load(Acquire)
    }
    #[inline]
    fn store(&self, table: Pfn, index: usize, raw: u64) {
        self.word(table, index).store(raw, Release);
    }
    #[inline]
    fn swap(&self, table: Pfn, index: usize, raw: u64) -> u64 {
        self.word(table, index).swap(raw, AcqRel)
    }
    #[inline]
    fn compare_exchange(&self, table: Pfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(table, index).compare_exchange(old, new, AcqRel, Acquire)
    }
    fn alloc(&self) -> Option<Pfn> {
        let left = self.left.load(Relaxed).checked_sub(1)?;
        self.left.store(left, Relaxed);
        Some(Pfn(self.free[left].load(Relaxed)))
    }
    fn free(&self, table: Pfn) {
        let left = self.left.load(Relaxed);
        self.free[left].store(table.0, Relaxed);
        self.left.store(left + 1, Relaxed);
    }
    #[inline]
    fn md(&self, table: Pfn) -> Option<&TableMd> {
        self.md.get(table.0 as usize)
    }
    fn has_frames(&self, _pfn: Pfn, _n: u64) -> bool {
        true
    }
}

impl X86Isa for NoIsa {
    #[inline]
    fn invlpg(&self, _va: Va) {}
    #[inline]
    fn invpcid(&self, _kind: Invpcid, _pcid: Asid, _va: Va) {}
    #[inline]
    fn read_cr3(&self) -> u64 {
        0
    }
    #[inline]
    fn write_cr3(&self, _value: u64) {}
    #[inline]
    fn read_cr4(&self) -> u64 {
        0
    }
    #[inline]
    fn write_cr4(&self, _value: u64) {}
}

impl Cpus for Mini {
    type Pin = ();
    #[inline]
    fn current(&self) -> CpuId {
        CpuId(0)
    }
    #[inline]
    fn online(&self) -> CpuSet {
        CpuSet(1)
    }
    #[inline]
    fn pin(&self) {}
    fn send_ipi(&self, to: CpuSet) {
        unreachable!("there is no CPU but this one to interrupt: {to:?}");
    }
    fn relax(&self) {}
}

impl Port for Mini {
    type Format = X86L4;
    type Mem = Tables;
    type Tlb = X86<NoIsa>;
    type Cpus = Mini;
    type Chunks = Counted;
    #[inline]
    fn mem(&self) -> &Tables {
        &self.mem
    }
    #[inline]
    fn tlb(&self) -> &X86<NoIsa> {
        &self.tlb
    }
    #[inline]
    fn cpus(&self) -> &Mini {
        self
    }
    fn chunks(&self) -> Counted {
        Counted(self.bytes)
    }
    #[inline]
    fn hw_bits(&self) -> HwBits {
        HwBits::all()
    }
    fn kernel_range(&self) -> VaRange {
        let first = Va::from_page(0xffff_c000_0000_0000 >> 12);
        VaRange::of_pages(first, 1 << 18).expect("a range")
    }
}

// SAFETY: the memory is HeapChunks' own, asked for and given back with the same size.
unsafe impl ChunkSource for Counted {
    fn chunk(&self, bytes: usize) -> Option<NonNull<u8>> {
        self.0.fetch_add(bytes, Relaxed);
        HeapChunks::new().chunk(bytes)
    }
    unsafe fn release(&self, ptr: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's conditions are those of HeapChunks.
        unsafe { HeapChunks::new().release(ptr, bytes) }
    }
}

impl Pages {
    pub(super) fn new(n: usize) -> Pages {
        Pages((0..n).map(|_| PageMd::default()).collect())
    }
}

impl PageArray for Pages {
    #[inline]
    fn md(&self, page: PageNo) -> &PageMd {
        &self.0[page.0.get() as usize - 1]
    }
    #[inline]
    fn pfn(&self, page: PageNo) -> Pfn {
        Pfn(FIRST + u64::from(page.0.get()) - 1)
    }
    #[inline]
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        let n = frame.0.checked_sub(FIRST).filter(|n| *n < self.0.len() as u64)?;
        NonZeroU32::new(n as u32 + 1).map(PageNo)
    }
}

impl PhysMem for NoMem {
    fn placement(&self) -> Placement {
        Placement::Sparse { frames: 1 << 40 }
    }
    fn extent_reserve(&self, _pages: u64) -> Result<Pfn, ExtentError> {
        Ok(Pfn(FIRST))
    }
    fn extent_release(&self, _base: Pfn, _pages: u64) {}
    fn zero(&self, _first: Pfn, _n: u32) -> Result<(), PopulateError> {
        Ok(())
    }
    fn discard(&self, _first: Pfn, _n: u32) {}
    fn copy(&self, _from: Pfn, _to: Pfn) {}
    fn read(&self, _f: Pfn, _off: usize, buf: &mut [u8]) {
        buf.fill(0);
    }
    fn write(&self, _f: Pfn, _off: usize, _buf: &[u8]) {}
}
