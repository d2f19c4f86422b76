//! A machine with CPUs that remember what they can: whatever they may have walked, they
//! walked. Entry `page` of a root table stands for a page; its value counts up.
//!
//! A thread is a CPU ([`be`]); one thread can also be each CPU in turn, with interrupts
//! delivered at once.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::String;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

use machvm_arch::{Asid, Space, Tlb};
use machvm_arena::HeapChunks;
use machvm_hal::{CpuId, CpuSet, Invalidations, Pfn, Va, VaRange};

use crate::port::{Cpus, HwBits, Port, TableMem};
use crate::pte::X86L4;
use crate::seed::Bug;
use crate::system::{PmapId, System};
use crate::table::TableMd;

pub(super) const CPUS: usize = 4;
/// Pages that a user pmap has; as many of the kernel's are behind [`KERNEL`].
pub(super) const PAGES: u64 = 8;
const KERNEL: u64 = 256;
const FRAMES: usize = 64;

pub(super) struct Mem {
    words: Box<[[AtomicU64; 512]]>,
    md: Vec<TableMd>,
    free: Mutex<Vec<Pfn>>,
}

impl Mem {
    fn new() -> Self {
        Mem {
            words: (0..FRAMES).map(|_| [const { AtomicU64::new(0) }; 512]).collect(),
            md: (0..FRAMES).map(|_| TableMd::new()).collect(),
            free: Mutex::new((1..FRAMES as u64).map(Pfn).collect()),
        }
    }
    fn word(&self, table: Pfn, index: usize) -> &AtomicU64 {
        &self.words[table.0 as usize][index]
    }
}

/// Orders as `TableMem` promises and not more; the checks are SeqCst.
impl TableMem for Mem {
    fn load(&self, table: Pfn, index: usize) -> u64 {
        self.word(table, index).load(std::sync::atomic::Ordering::Acquire)
    }
    fn store(&self, table: Pfn, index: usize, raw: u64) {
        self.word(table, index).store(raw, std::sync::atomic::Ordering::Release);
    }
    fn swap(&self, table: Pfn, index: usize, raw: u64) -> u64 {
        self.word(table, index).swap(raw, std::sync::atomic::Ordering::AcqRel)
    }
    fn compare_exchange(&self, table: Pfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(table, index).compare_exchange(
            old,
            new,
            std::sync::atomic::Ordering::AcqRel,
            std::sync::atomic::Ordering::Acquire,
        )
    }
    fn alloc(&self) -> Option<Pfn> {
        self.free.lock().unwrap().pop()
    }
    fn free(&self, table: Pfn) {
        assert!(self.words[table.0 as usize].iter().all(|w| w.load(SeqCst) == 0), "given back dirty");
        self.free.lock().unwrap().push(table);
    }
    fn md(&self, table: Pfn) -> Option<&TableMd> {
        self.md.get(table.0 as usize)
    }
    fn has_frames(&self, pfn: Pfn, n: u64) -> bool {
        pfn.0 + n <= FRAMES as u64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    root: Pfn,
    value: u64,
}

/// One CPU's hardware.
#[derive(Default)]
struct Hw {
    /// 0: nothing yet.
    root: u64,
    asid: u16,
    user: BTreeMap<(u16, u64), Entry>,
    global: BTreeMap<u64, u64>,
}

/// What was executed.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) pages: AtomicU64,
    pub(super) spaces: AtomicU64,
    pub(super) alls: AtomicU64,
    pub(super) ipis: AtomicU64,
}

pub(super) struct Machine<const BROADCAST: bool> {
    mem: Mem,
    hw: [Mutex<Hw>; CPUS],
    asids: u32,
    bug: Option<Bug>,
    /// The kernel's root.
    kernel: AtomicU64,
    pending: [AtomicBool; CPUS],
    /// One thread is all CPUs.
    at_once: AtomicBool,
    pub(super) counts: Counts,
    violations: Mutex<Vec<String>>,
}

std::thread_local! {
    static ME: Cell<u16> = const { Cell::new(0) };
    static INTERRUPTS: Cell<bool> = const { Cell::new(true) };
    static HANDLER: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
    /// Called once, in the middle of the next switch.
    static IN_SWITCH: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// Called once, when this CPU waits for others.
    static IN_WAIT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// This thread is that CPU from now on.
pub(super) fn be(cpu: usize) -> CpuId {
    ME.set(cpu as u16);
    CpuId(cpu as u16)
}
pub(super) fn interrupts(on: bool) {
    INTERRUPTS.set(on);
}
pub(super) fn in_switch(f: impl FnOnce() + 'static) {
    IN_SWITCH.set(Some(Box::new(f)));
}
pub(super) fn in_wait(f: impl FnOnce() + 'static) {
    IN_WAIT.set(Some(Box::new(f)));
}
/// What this thread's CPUs do when interrupted.
pub(super) fn handle_with(f: impl Fn() + 'static) {
    HANDLER.set(Some(Rc::new(f)));
}

impl<const B: bool> Machine<B> {
    fn me(&self) -> usize {
        ME.get() as usize
    }
    fn hw(&self, cpu: usize) -> MutexGuard<'_, Hw> {
        self.hw[cpu].lock().unwrap()
    }
    fn violation(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }
    /// A point at which an interrupt comes if one is pending.
    pub(super) fn poll(&self) {
        if INTERRUPTS.get() && self.pending[self.me()].swap(false, SeqCst) {
            interrupts(false);
            self.handle();
            interrupts(true);
        }
    }
    fn handle(&self) {
        let handler = HANDLER.with_borrow(Clone::clone);
        handler.expect("a CPU without a handler is interrupted")();
    }
    /// The CPU walks every page that it can: of its root, and the kernel's.
    fn speculate(&self, hw: &mut Hw) {
        for page in 0..PAGES {
            let value = self.mem.load(Pfn(hw.root), page as usize);
            if hw.root != 0 && value != 0 {
                let new = Entry { root: Pfn(hw.root), value };
                hw.user.entry((hw.asid, page)).or_insert(new);
            }
            let kernel = Pfn(self.kernel.load(SeqCst));
            let value = self.mem.load(kernel, (KERNEL + page) as usize);
            if value != 0 {
                hw.global.entry(KERNEL + page).or_insert(value);
            }
        }
    }
    /// Runs `f` on the CPUs that an instruction reaches, after which they walk on.
    fn reached(&self, mut f: impl FnMut(&mut Hw)) {
        self.poll();
        for cpu in 0..CPUS {
            if B || cpu == self.me() {
                let mut hw = self.hw(cpu);
                f(&mut hw);
                self.speculate(&mut hw);
            }
        }
    }
    /// Is the number of `space` what the flags say? Returns it if there is something to do.
    fn number(&self, hw: &Hw, space: Space) -> Option<u16> {
        let Space::User { asid, current } = space else { return None };
        if current && !B {
            // INVLPG reaches what is loaded, whatever the caller thinks.
            assert_eq!(hw.asid, asid.0, "{space:?} is not loaded");
        }
        (current || B || self.asids > 1).then_some(asid.0)
    }
}

impl<const B: bool> Tlb for Machine<B> {
    const BROADCAST: bool = B;
    fn asids(&self) -> u32 {
        self.asids
    }
    fn publish(&self, _: Space, _: VaRange, _: bool) {}
    fn before(&self) {
        self.poll();
    }
    fn flush_range(&self, space: Space, range: VaRange, _walks: bool) {
        if range.pages() > Self::MAX_PAGES {
            return self.flush_space(space);
        }
        self.counts.pages.fetch_add(range.pages(), SeqCst);
        self.reached(|hw| {
            for va in range.iter() {
                if let Some(n) = self.number(hw, space) {
                    hw.user.remove(&(n, va.page()));
                } else if space == Space::Kernel {
                    hw.global.remove(&va.page());
                }
            }
        });
    }
    fn flush_space(&self, space: Space) {
        self.counts.spaces.fetch_add(1, SeqCst);
        self.reached(|hw| {
            if let Some(n) = self.number(hw, space) {
                hw.user.retain(|(a, _), _| *a != n);
            } else if space == Space::Kernel {
                hw.global.clear();
            }
        });
    }
    fn flush_all(&self) {
        self.counts.alls.fetch_add(1, SeqCst);
        self.reached(|hw| {
            hw.user.clear();
            hw.global.clear();
        });
    }
    fn after(&self) {
        self.poll();
    }
    fn spurious(&self, space: Space, va: Va) {
        if let Space::User { asid, .. } = space {
            self.hw(self.me()).user.remove(&(asid.0, va.page()));
        }
    }
    fn switch(&self, root: Pfn, asid: Asid, flush: bool) {
        self.poll();
        if let Some(f) = IN_SWITCH.take() {
            f();
        }
        let mut hw = self.hw(self.me());
        self.speculate(&mut hw);
        (hw.root, hw.asid) = (root.0, asid.0);
        if flush || self.asids == 1 {
            hw.user.retain(|(a, _), _| *a != asid.0);
        }
        if let Some((key, e)) = hw.user.iter().find(|((a, _), e)| *a == asid.0 && e.root != root) {
            self.violation(format!("CPU {} finds {e:?} at {key:?} under {root:?}", self.me()));
        }
        self.speculate(&mut hw);
        drop(hw);
        self.poll();
    }
}

impl<const B: bool> Cpus for Machine<B> {
    type Pin = ();
    fn current(&self) -> CpuId {
        CpuId(ME.get())
    }
    fn online(&self) -> CpuSet {
        CpuSet((1 << CPUS) - 1)
    }
    fn pin(&self) {}
    fn send_ipi(&self, to: CpuSet) {
        let me = self.me();
        assert!(to.0 >> me & 1 == 0, "a CPU interrupts itself");
        for cpu in (0..CPUS).filter(|c| to.0 >> c & 1 != 0) {
            self.counts.ipis.fetch_add(1, SeqCst);
            if self.at_once.load(SeqCst) {
                be(cpu);
                self.handle();
                be(me);
            } else {
                self.pending[cpu].store(true, SeqCst);
            }
        }
    }
    fn relax(&self) {
        if let Some(f) = IN_WAIT.take() {
            f();
        }
        self.poll();
        std::thread::yield_now();
    }
}

impl<const B: bool> Port for Machine<B> {
    type Format = X86L4;
    type Mem = Mem;
    type Tlb = Self;
    type Cpus = Self;
    type Chunks = HeapChunks;
    fn mem(&self) -> &Mem {
        &self.mem
    }
    fn tlb(&self) -> &Self {
        self
    }
    fn cpus(&self) -> &Self {
        self
    }
    fn chunks(&self) -> HeapChunks {
        HeapChunks::new()
    }
    fn hw_bits(&self) -> HwBits {
        HwBits::all()
    }
    fn kernel_range(&self) -> VaRange {
        VaRange::of_pages(Va::from_page(KERNEL), PAGES).unwrap()
    }
    fn seeded(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

/// A system on the machine, and what tests do with it.
pub(super) struct Rig<const B: bool>(pub(super) Arc<System<Machine<B>>>);

impl<const B: bool> Clone for Rig<B> {
    fn clone(&self) -> Self {
        Rig(self.0.clone())
    }
}

impl<const B: bool> Rig<B> {
    pub(super) fn new(asids: u32, bug: Option<Bug>) -> Self {
        let sys = System::new(Machine {
            mem: Mem::new(),
            hw: Default::default(),
            asids,
            bug,
            kernel: AtomicU64::new(0),
            pending: Default::default(),
            at_once: AtomicBool::new(true),
            counts: Counts::default(),
            violations: Mutex::default(),
        })
        .unwrap();
        let kernel = sys.pmap(sys.kernel_id()).root();
        sys.port().kernel.store(kernel.0, SeqCst);
        let rig = Rig(Arc::new(sys));
        (0..PAGES).for_each(|page| rig.write(rig.0.kernel_id(), page, 2));
        rig.handler();
        rig
    }
    /// This thread's CPUs answer for this system.
    pub(super) fn handler(&self) {
        let sys = self.0.clone();
        handle_with(move || sys.shootdown_interrupt());
    }
    /// Is every CPU a thread of its own?
    pub(super) fn threads(&self, yes: bool) {
        self.0.port().at_once.store(!yes, SeqCst);
    }
    pub(super) fn machine(&self) -> &Machine<B> {
        self.0.port()
    }
    /// A pmap with all pages.
    pub(super) fn pmap(&self) -> PmapId {
        let id = self.0.create_raw().unwrap();
        (0..PAGES).for_each(|page| self.write(id, page, 2));
        id
    }
    /// Drops the one reference.
    pub(super) fn destroy(&self, id: PmapId) {
        assert!(self.0.pmap(id).refs.put());
        self.0.destroy_raw(id);
    }
    fn slot(&self, id: PmapId, page: u64) -> (Pfn, usize) {
        let kernel = if id == self.0.kernel_id() { KERNEL } else { 0 };
        (self.0.pmap(id).root(), (kernel + page) as usize)
    }
    /// Even values: no table, for the walks of the system itself.
    pub(super) fn write(&self, id: PmapId, page: u64, value: u64) {
        let (root, i) = self.slot(id, page);
        self.machine().mem.store(root, i, value);
    }
    /// What the page has now, one up; for one caller a page at a time.
    pub(super) fn bump(&self, id: PmapId, page: u64) -> u64 {
        let (root, i) = self.slot(id, page);
        self.machine().mem.word(root, i).fetch_add(2, SeqCst) + 2
    }
    pub(super) fn range(&self, id: PmapId, page: u64, pages: u64) -> (u32, VaRange) {
        let (_, i) = self.slot(id, page);
        (id.raw(), VaRange::of_pages(Va::from_page(i as u64), pages).unwrap())
    }
    pub(super) fn shoot(&self, ranges: &[(u32, VaRange)]) {
        self.0.shoot(&Invalidations { ranges, all: false, walks: false });
    }
    /// Changes a page and takes the old translation away; everywhere, or a violation.
    pub(super) fn change(&self, id: PmapId, page: u64) {
        let value = self.bump(id, page);
        self.shoot(&[self.range(id, page, 1)]);
        self.check(id, page, value);
    }
    /// No CPU can use an older value.
    pub(super) fn check(&self, id: PmapId, page: u64, value: u64) {
        let (m, (root, i)) = (self.machine(), self.slot(id, page));
        for cpu in 0..CPUS {
            let hw = m.hw(cpu);
            let global = hw.global.get(&(i as u64)).copied();
            let user = hw.user.get(&(hw.asid, i as u64)).filter(|e| e.root == root && hw.root == root.0);
            if let Some(old) = user.map(|e| e.value).or(global).filter(|v| *v < value) {
                m.violation(format!("CPU {cpu} has {old} of {id:?} page {page}, which is {value}"));
            }
        }
    }
    /// What this CPU sees at a page of the pmap that it has loaded.
    pub(super) fn read(&self, page: u64) -> Option<u64> {
        let m = self.machine();
        let mut hw = m.hw(m.me());
        m.speculate(&mut hw);
        let root = Pfn(hw.root);
        let e = *hw.user.get(&(hw.asid, page))?;
        if e.root != root {
            m.violation(format!("CPU {} uses {e:?} under {root:?}", m.me()));
        }
        Some(e.value)
    }
    /// Everything that any CPU has of a root, loaded or not.
    pub(super) fn remembered(&self, root: Pfn) -> usize {
        let of = |c| self.machine().hw(c).user.values().filter(|e| e.root == root).count();
        (0..CPUS).map(of).sum()
    }
    /// Everything that this CPU has of users under a number.
    pub(super) fn under(&self, asid: u16) -> usize {
        let m = self.machine();
        m.hw(m.me()).user.keys().filter(|(a, _)| *a == asid).count()
    }
    /// The root and the number that this CPU's hardware has.
    pub(super) fn hardware(&self) -> (Pfn, u16) {
        let m = self.machine();
        let hw = m.hw(m.me());
        (Pfn(hw.root), hw.asid)
    }
    pub(super) fn violations(&self) -> Vec<String> {
        std::mem::take(&mut *self.machine().violations.lock().unwrap())
    }
    #[track_caller]
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.violations(), Vec::<String>::new());
    }
}
