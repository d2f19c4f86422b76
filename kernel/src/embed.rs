//! The VM in this kernel: everything that machvm asks of a machine.
//!
//! This file is the worked example of `docs/embedding.md`: who waits and who wakes ([`Host`]), frames ([`PhysMem`]),
//! page tables and CPUs for the pmap ([`Port`]), and the sum of it ([`Platform`]).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use machvm::page::FrameClass;
use machvm::pageout::{OutOfMemory, TaskSize};
use machvm::{PagerId, Platform, Vm};
use machvm_arena::ChunkSource;
use machvm_hal::{
    CpuId, CpuSet, Event, ExtentError, Flush as _, Host, Invalidations, MaySleep, PAGE_SIZE, Pager, Pfn,
    PhysMem, Placement, PopulateError, RawAddr, Va, VaRange, Woken,
};
use machvm_pmap::{Cpus, HwBits, Port, PtPmap, System, TableMd, TableMem};

use crate::arch::{self, direct};
use crate::lock::NoInterrupts;
use crate::memory::{self, Layout};
use crate::{kva, oom, sched, swap};

/// This kernel.
pub(crate) struct Kernel {
    managed: arch::Span,
}
/// Its pmaps.
pub(crate) type Pmaps = System<KernelPort>;
/// One of them.
pub(crate) type Pmap = PtPmap<KernelPort, &'static Pmaps>;

static VM: AtomicPtr<Vm<Kernel>> = AtomicPtr::new(core::ptr::null_mut());
static PMAPS: AtomicPtr<Pmaps> = AtomicPtr::new(core::ptr::null_mut());

/// The VM, once it is there.
#[inline]
pub(crate) fn vm() -> Option<&'static Vm<Kernel>> {
    // SAFETY: null, or what `start` put there for ever.
    unsafe { VM.load(Ordering::Acquire).as_ref() }
}
/// The VM. => after the start.
#[inline]
pub(crate) fn the_vm() -> &'static Vm<Kernel> {
    vm().expect("the VM is there")
}
/// The pmaps. => after the start.
#[inline]
pub(crate) fn pmaps() -> &'static Pmaps {
    // SAFETY: as above.
    unsafe { PMAPS.load(Ordering::Acquire).as_ref() }.expect("the pmaps are there")
}

/// Makes the pmaps and the VM.
///
/// => once, with nothing else running.
pub(crate) fn start(layout: &Layout) {
    let managed = layout.managed;
    let frames = (layout.all.end - layout.all.start) / PAGE_SIZE;
    let bytes = frames * size_of::<TableMd>() as u64;
    let at = memory::early(bytes).expect("memory for the structures of tables");
    let md = direct(at).cast::<TableMd>();
    for i in 0..frames as usize {
        // SAFETY: early memory of that size, ours alone.
        unsafe { md.add(i).write(TableMd::new()) };
    }
    // SAFETY: written above; never given back.
    let md = unsafe { core::slice::from_raw_parts(md, frames as usize) };
    let first = layout.all.start / PAGE_SIZE;
    let mem = Tables { md, first, spare: AtomicU64::new(0), taken: AtomicU64::new(0) };
    let system = System::new(KernelPort { mem, tlb: arch::make_tlb(), cpus: KernelCpus });
    let system = leak(system.expect("memory for the kernel's root"));
    PMAPS.store(system, Ordering::Release);
    give_entries(pmaps());
    let vm = leak(Vm::new(Kernel { managed }).expect("memory for the page structures"));
    // Page tables, and what else the kernel needs to finish a fault.
    (*vm_ref(vm)).set_frame_reserve(256.min((managed.end - managed.start) / PAGE_SIZE / 16));
    VM.store(vm, Ordering::Release);
}

/// The kernel's half of new pmaps has what the kernel mapped itself.
fn give_entries(system: &'static Pmaps) {
    let root = PtPmap::kernel(system).root();
    for (index, word) in arch::kernel_entries() {
        system.port().mem().store(root, index, word);
    }
    arch::use_kernel_root(root);
}

/// Pmaps that have nothing to do with the others, for the self-test. They live for ever, and where the kernel's half has
/// a root of its own theirs is walked, until [`use_own_pmaps`].
pub(crate) fn more_pmaps() -> Option<&'static Pmaps> {
    let Tables { md, first, .. } = *pmaps().port().mem();
    let mem = Tables { md, first, spare: AtomicU64::new(0), taken: AtomicU64::new(0) };
    let system = System::new(KernelPort { mem, tlb: arch::make_tlb(), cpus: KernelCpus }).ok()?;
    let system = alloc::boxed::Box::leak(alloc::boxed::Box::new(system));
    give_entries(system);
    Some(system)
}

fn vm_ref(vm: *mut Vm<Kernel>) -> &'static Vm<Kernel> {
    // SAFETY: leaked by `start`.
    unsafe { &*vm }
}

/// Early memory for something that lives for ever.
fn leak<T>(value: T) -> *mut T {
    let at = memory::early(size_of::<T>() as u64).expect("memory at the start");
    let p = direct(at).cast::<T>();
    // SAFETY: page-aligned memory of that size, ours alone.
    unsafe { p.write(value) };
    p
}

impl Host for Kernel {
    type Ticket = sched::Ticket;

    fn cpu(&self) -> CpuId {
        CpuId(arch::here().number)
    }
    fn now_ns(&self) -> u64 {
        arch::now_ns()
    }
    fn assert_wait(&self, ev: Event) -> sched::Ticket {
        sched::assert_wait(ev)
    }
    fn thread_block(&self, t: sched::Ticket, deadline_ns: Option<u64>) -> Woken {
        sched::block(t, deadline_ns)
    }
    fn cancel_wait(&self, t: sched::Ticket) {
        sched::cancel(t);
    }
    fn thread_wakeup(&self, ev: Event) {
        sched::wakeup(ev);
    }
    fn is_privileged(&self) -> bool {
        sched::current().is_privileged()
    }
    fn set_privileged(&self, on: bool) -> bool {
        sched::current().privileged.swap(on, Ordering::Relaxed)
    }
}

impl PhysMem for Kernel {
    fn placement(&self) -> Placement {
        let first = Pfn(self.managed.start / PAGE_SIZE);
        Placement::Dense { first, frames: ((self.managed.end - self.managed.start) / PAGE_SIZE) as u32 }
    }
    fn extent_reserve(&self, _pages: u64) -> Result<Pfn, ExtentError> {
        Err(ExtentError)
    }
    fn extent_release(&self, _base: Pfn, _pages: u64) {}
    fn zero(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        (0..u64::from(n)).for_each(|i| arch::zero_page(first.add(i)));
        Ok(())
    }
    fn prepare(&self, _first: Pfn, _n: u32) -> Result<(), PopulateError> {
        Ok(())
    }
    fn discard(&self, _first: Pfn, _n: u32) {}
    fn copy(&self, from: Pfn, to: Pfn) {
        arch::copy_page(from, to);
    }
    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        assert!(off + buf.len() <= PAGE_SIZE as usize);
        // SAFETY: inside the frame; a program that writes meanwhile gives old or new bytes, and nothing looks at
        // them as anything but bytes.
        unsafe { direct(f.byte()).add(off).copy_to_nonoverlapping(buf.as_mut_ptr(), buf.len()) }
    }
    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        assert!(off + buf.len() <= PAGE_SIZE as usize);
        // SAFETY: as `read`.
        unsafe { direct(f.byte()).add(off).copy_from_nonoverlapping(buf.as_ptr(), buf.len()) }
    }
}

/// Chunks of slabs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks;

// SAFETY: 1. fresh pages that nobody else is given. 2. nothing here touches them.
unsafe impl ChunkSource for Chunks {
    fn chunk(&self, bytes: usize) -> Option<NonNull<u8>> {
        NonNull::new(match vm() {
            None => direct(memory::early(bytes as u64)?),
            Some(_) => kva::allocate((bytes as u64).div_ceil(PAGE_SIZE))?,
        })
    }
    unsafe fn release(&self, _ptr: NonNull<u8>, _bytes: usize) {
        // Slabs here live for ever.
    }
}

/// What the pmap asks of the machine.
pub(crate) struct KernelPort {
    mem: Tables,
    tlb: arch::NativeTlb,
    cpus: KernelCpus,
}

impl Port for KernelPort {
    type Format = arch::Format;
    type Mem = Tables;
    type Tlb = arch::NativeTlb;
    type Cpus = KernelCpus;
    type Chunks = Chunks;

    fn mem(&self) -> &Tables {
        &self.mem
    }
    fn tlb(&self) -> &arch::NativeTlb {
        &self.tlb
    }
    fn cpus(&self) -> &KernelCpus {
        &self.cpus
    }
    fn chunks(&self) -> Chunks {
        Chunks
    }
    fn hw_bits(&self) -> HwBits {
        arch::hw_bits()
    }
    fn kernel_range(&self) -> VaRange {
        let start = Va::containing(RawAddr(arch::PMAP_SPACE));
        VaRange::of_pages(start, 1 << 20).unwrap_or(VaRange::page(start))
    }
}

/// Frames that hold page tables.
pub(crate) struct Tables {
    md: &'static [TableMd],
    /// The frame that the first of them is about.
    first: u64,
    /// One table of zeroes in reserve; 0: none.
    spare: AtomicU64,
    /// Frames taken for tables and not given back; of the VM's, but for a few early ones.
    taken: AtomicU64,
}

impl Tables {
    fn entry(&self, table: Pfn, index: usize) -> &AtomicU64 {
        debug_assert!(index < 512);
        // SAFETY: a frame that the pmap owns as a table, in the direct map; words are aligned.
        unsafe { &*direct(table.byte()).cast::<AtomicU64>().add(index) }
    }
}

impl TableMem for Tables {
    fn load(&self, table: Pfn, index: usize) -> u64 {
        self.entry(table, index).load(Ordering::Acquire)
    }
    fn store(&self, table: Pfn, index: usize, raw: u64) {
        self.entry(table, index).store(raw, Ordering::Release);
    }
    fn swap(&self, table: Pfn, index: usize, raw: u64) -> u64 {
        self.entry(table, index).swap(raw, Ordering::AcqRel)
    }
    fn compare_exchange(&self, table: Pfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.entry(table, index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
    fn alloc(&self) -> Option<Pfn> {
        match self.spare.swap(0, Ordering::AcqRel) {
            0 => memory::zeroed_frame(FrameClass::System).inspect(|_| {
                self.taken.fetch_add(1, Ordering::Relaxed);
            }),
            pfn => Some(Pfn(pfn)),
        }
    }
    fn free(&self, table: Pfn) {
        let old = self.spare.swap(table.0, Ordering::AcqRel);
        if old != 0
            && let Some(vm) = vm()
        {
            // Early frames are not the VM's: they are lost, and few.
            if vm.frame_give_back(Pfn(old)).is_ok() {
                self.taken.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
    fn md(&self, table: Pfn) -> Option<&TableMd> {
        self.md.get(usize::try_from(table.0.checked_sub(self.first)?).ok()?)
    }
    fn has_frames(&self, pfn: Pfn, n: u64) -> bool {
        let end = self.first + self.md.len() as u64;
        pfn.0 >= self.first && pfn.0.checked_add(n).is_some_and(|e| e <= end)
    }
    fn direct(&self, frame: Pfn) -> Option<Va> {
        Va::aligned(RawAddr(direct(frame.byte()) as u64))
    }
}

/// The CPUs.
pub(crate) struct KernelCpus;

impl Cpus for KernelCpus {
    type Pin = NoInterrupts;

    fn current(&self) -> CpuId {
        CpuId(arch::here().number)
    }
    fn online(&self) -> CpuSet {
        CpuSet(sched::online())
    }
    fn pin(&self) -> NoInterrupts {
        NoInterrupts::new()
    }
    fn send_ipi(&self, to: CpuSet) {
        arch::send_shootdown(to.0);
    }
    fn relax(&self) {
        arch::relax();
    }
    fn sync_icache(&self, frame: Pfn) {
        arch::sync_icache(frame);
    }
}

impl Platform for Kernel {
    type Host = Kernel;
    type Mem = Kernel;
    type Pmap = Pmap;
    type PmapPage = Pmaps;
    type Flush = Pmaps;
    type Chunks = Chunks;

    fn host(&self) -> &Kernel {
        self
    }
    fn mem(&self) -> &Kernel {
        self
    }
    fn pmap_page(&self) -> &Pmaps {
        pmaps()
    }
    fn flush(&self) -> &Pmaps {
        pmaps()
    }
    fn chunks(&self) -> Chunks {
        Chunks
    }
    fn pager(&self, id: PagerId) -> Option<&dyn Pager> {
        crate::fs::pager(id).map(|p| p as &dyn Pager)
    }
    fn pager_used(&self, id: PagerId) {
        crate::fs::pager_used(id);
    }
    fn pager_unused(&self, id: PagerId) {
        crate::fs::pager_unused(id);
    }
    fn swap(&self) -> Option<&dyn machvm_hal::Swap> {
        swap::get().map(|s| s as &dyn machvm_hal::Swap)
    }
    fn memory_low(&self) {
        sched::wakeup(sched::LOW_MEMORY);
    }
    fn lowmem(&self) {
        swap::tidy();
    }
    fn for_each_task(&self, f: &mut dyn FnMut(TaskSize)) {
        oom::for_each_task(f);
    }
    fn out_of_memory(&self, report: &OutOfMemory) -> bool {
        oom::out_of_memory(report)
    }
}

/// Nobody wakes it: the daemon waits for time to go by.
const DAEMON_PAUSE: Event = Event(0x12);

/// The page daemon, for ever: a thread of the kernel.
pub(crate) fn daemon() -> ! {
    let mut may = MaySleep::claim();
    loop {
        let seen = sched::wakeups(sched::LOW_MEMORY);
        // Nobody is preempted in the kernel: those who want the memory have their turn.
        while the_vm().pageout_to_target(&mut may) != 0 {
            sched::yield_now();
        }
        swap::tidy();
        if the_vm().memory_is_low() {
            // There is nothing to free now. Somebody may end, or swap get room.
            let ticket = sched::assert_wait(DAEMON_PAUSE);
            sched::block(ticket, Some(arch::now_ns() + 10_000_000));
        } else {
            sched::sleep_unless(sched::LOW_MEMORY, seen, None);
        }
    }
}

/// This CPU walks no program's addresses from now on. => interrupts are off.
pub(crate) fn unload_pmap(cpu: CpuId) {
    pmaps().activate(pmaps().kernel_id(), cpu);
}

/// After [`more_pmaps`]: the kernel's half is again that of [`pmaps`]. => nothing of theirs is in use.
pub(crate) fn use_own_pmaps() {
    arch::use_kernel_root(PtPmap::kernel(pmaps()).root());
    unload_pmap(CpuId(arch::here().number));
    forget_translations();
}

/// This CPU, which just came online, has no translations of before. => interrupts are off.
pub(crate) fn forget_translations() {
    machvm_arch::Tlb::flush_all(pmaps().port().tlb());
}

/// Every CPU forgets all translations; so each has executed a barrier. => no spin lock is held.
pub(crate) fn interrupt_everybody() {
    pmaps().flush(&Invalidations { ranges: &[], all: true, walks: true });
}

/// Frames that page tables have, and whether there is a spare one.
pub(crate) fn tables() -> (u64, bool) {
    let mem = pmaps().port().mem();
    let spare = mem.spare.load(Ordering::Relaxed) != 0;
    (mem.taken.load(Ordering::Relaxed) - u64::from(spare), spare)
}

/// Bytes of memory that the VM manages, and those free.
pub(crate) fn memory_bytes(vm: &Vm<Kernel>) -> (u64, u64) {
    let (m, s) = (vm.host().managed, vm.statistics());
    (m.end - m.start, s.frame_limit.saturating_sub(s.frames_resident) * PAGE_SIZE)
}
