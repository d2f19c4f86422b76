//! Random work on page-table pmaps, with an oracle: what the pmap was told, page by
//! page, and what programs did.
//!
//! A [`World`] is a machine of one format, a [`System`], some pmaps and some pages.
//! [`World::step`] does one random operation and compares: the pmap's own view, the
//! walker's, the oracle's, what is known of each page's use, and the counts. What does
//! not agree comes back as text; what the machine saw is in its reports. So a test can
//! ask that a correct pmap gives neither, and that a seeded mistake gives one.
//!
//! A pmap is a cache: write access may be missing (a fork took it from more than it
//! was asked to, promotion took it from a clean page). Everything else must be there.

mod access;
mod compare;
mod edit;
mod enter;
mod spaces;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use machvm_arena::Gate;
use machvm_hal::{
    CpuId, EnterError, EnterFlags, Gather, MaySleep, PageArray, PageMd, PageNo, Pfn, Pmap, PmapPage, Prot,
    RefMod, RemoveWhy, Va, VaRange,
};
use machvm_pmap::{Bug, HwBits, Port, PtPmap, System};

use crate::hw::{Access, Config, Hw, HwFormat, HwPort, Mistake, Mode, Rights};
use crate::rng::Rng;

/// Pages in a region that one superpage maps.
const REGION: u64 = 512;
/// Windows of an address space that are used: two of them side by side, one far away.
const WINDOWS: [u64; 3] = [512, 1024, 1 << 20];

type Sys<F> = Arc<System<HwPort<F>>>;

/// Page `n` is frame `first + n - 1`.
#[derive(Debug)]
pub struct Pages {
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
        let n = frame.0.checked_sub(self.first.0).filter(|n| *n < self.md.len() as u64)?;
        NonZeroU32::new(n as u32 + 1).map(PageNo)
    }
}

/// Makes records and pmap structures scarce.
#[derive(Debug, Default)]
pub struct Shortage {
    /// So many are had, the last of them not; 0: all are.
    left: AtomicU64,
    fired: AtomicBool,
}

impl Gate for Shortage {
    fn admit(&self) -> bool {
        let last = self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)) == Ok(1);
        self.fired.fetch_or(last, SeqCst);
        !last
    }
}

/// What the oracle knows of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    page: PageNo,
    prot: Prot,
    wired: bool,
}

/// What the oracle knows of a page's use since it was last cleared.
#[derive(Clone, Copy, Default, Debug)]
struct Used {
    /// Must be reported: a program did it.
    referenced: bool,
    modified: bool,
    /// May be reported: the pmap was told of a write, or cannot tell.
    may_modified: bool,
}

/// An address space.
struct Space<F: HwFormat> {
    pmap: PtPmap<HwPort<F>, Sys<F>>,
    root: Pfn,
    told: BTreeMap<u64, Told>,
    /// CPUs that have it loaded.
    on: Vec<u16>,
}

/// A gather that is finished later, and what depends on it.
struct Open {
    /// When it was opened.
    seq: u64,
    gather: Gather,
    space: Option<usize>,
    range: VaRange,
    /// Addresses that may not be entered before.
    gone: Vec<(usize, u64)>,
    /// Pages that may not be touched before.
    pages: Vec<PageNo>,
}

/// See the module text.
pub struct World<F: HwFormat> {
    hw: Arc<Hw>,
    sys: Sys<F>,
    pages: Pages,
    spaces: Vec<Option<Space<F>>>,
    used: Vec<Used>,
    open: Vec<Open>,
    seq: u64,
    rng: Rng,
    /// What fails, if something may.
    shortage: Option<&'static Shortage>,
    /// Times that something was not to be had.
    pub refused: u64,
    /// Superpages seen.
    pub promoted: u64,
    /// The last operation, its space and its CPU.
    pub last: (&'static str, usize, u16),
    /// Operations done, by name.
    pub done: BTreeMap<&'static str, u64>,
}

/// What a step found wrong.
pub type Wrong = String;

impl<F: HwFormat> std::fmt::Debug for World<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("last", &self.last)
            .field("open", &self.open.len())
            .field("done", &self.done)
            .field("promoted", &self.promoted)
            .finish_non_exhaustive()
    }
}

impl<F: HwFormat> World<F> {
    /// A machine as `config` says, with these mistakes in the pmap.
    ///
    /// # Panics
    /// The machine has no memory for the kernel's root.
    pub fn new(config: Config, bugs: &[Bug]) -> Self {
        Self::build(config, bugs, None)
    }
    /// As [`World::new`] without mistakes; now and then a table or a record is not to be
    /// had.
    ///
    /// # Panics
    /// As [`World::new`].
    pub fn with_shortages(config: Config) -> Self {
        Self::build(config, &[], Some(Box::leak(Box::default())))
    }

    fn build(config: Config, bugs: &[Bug], shortage: Option<&'static Shortage>) -> Self {
        let port = HwPort::<F>::gated(config, shortage.map(|s| s as &dyn Gate));
        port.seed(bugs);
        let hw = port.hw().clone();
        let sys = Arc::new(System::new(port).expect("memory for the kernel's root"));
        let handler = Arc::downgrade(&sys);
        hw.set_ipi_handler(move |_| {
            if let Some(sys) = handler.upgrade() {
                sys.shootdown_interrupt();
            }
        });
        let kernel = PtPmap::kernel(sys.clone());
        hw.set_kernel_root(kernel.root());
        let n = config.frames;
        let pages =
            Pages { first: Pfn(config.first_frame()), md: (0..n).map(|_| PageMd::default()).collect() };
        let mut w = World {
            hw,
            sys,
            pages,
            spaces: (0..4).map(|_| None).collect(),
            used: vec![Used::default(); n as usize],
            open: Vec::new(),
            seq: 0,
            rng: Rng::new(config.seed),
            shortage,
            refused: 0,
            promoted: 0,
            last: ("", 0, 0),
            done: BTreeMap::new(),
        };
        (0..3).for_each(|i| w.create(i));
        w
    }
    /// The flush sequences make this mistake from now on.
    pub fn seed_sequences(&self, m: Mistake) {
        self.sys.port().seed_sequences(m);
    }
    /// The machine.
    pub fn hw(&self) -> &Arc<Hw> {
        &self.hw
    }

    fn create(&mut self, at: usize) {
        if let Ok(pmap) = PtPmap::create(self.sys.clone()) {
            let root = pmap.root();
            self.hw.space_begins(root);
            self.spaces[at] = Some(Space { pmap, root, told: BTreeMap::new(), on: Vec::new() });
        }
    }

    fn space(&self, s: usize) -> &Space<F> {
        self.spaces[s].as_ref().expect("a live space")
    }
    fn told(&mut self, s: usize) -> &mut BTreeMap<u64, Told> {
        &mut self.spaces[s].as_mut().expect("a live space").told
    }
    fn page(&self, i: u64) -> PageNo {
        PageNo(NonZeroU32::new(i as u32 + 1).expect("not zero"))
    }
    fn used(&mut self, p: PageNo) -> &mut Used {
        &mut self.used[p.0.get() as usize - 1]
    }
    fn a_page(&mut self) -> PageNo {
        let n = self.pages.md.len() as u64;
        // Few pages, so that they have several mappings; or any.
        let i = if self.rng.one_in(3) { self.rng.below(n) } else { self.rng.below(12) };
        self.page(i)
    }
    fn a_va(&mut self) -> Va {
        let window = *self.rng.pick(&WINDOWS);
        let at = if self.rng.one_in(4) { self.rng.below(REGION) } else { self.rng.below(24) };
        Va::from_page(window + at)
    }
    fn a_range(&mut self) -> VaRange {
        let start = self.a_va();
        let n = match self.rng.below(8) {
            0 => REGION,
            1 => self.rng.range(1, REGION),
            2 => 2 * REGION,
            _ => self.rng.range(1, 9),
        };
        let start =
            if n >= REGION && self.rng.one_in(2) { Va::from_page(start.page() & !511) } else { start };
        VaRange::of_pages(start, n).expect("far from the top")
    }
    fn a_prot(&mut self) -> Prot {
        *self.rng.pick(&[Prot::R, Prot::RW, Prot::RW, Prot::RW, Prot::R | Prot::X, Prot::ALL])
    }

    /// One random operation, and the comparison.
    ///
    /// # Errors
    /// What does not agree.
    pub fn step(&mut self) -> Result<(), Wrong> {
        let live: Vec<usize> = (0..self.spaces.len()).filter(|i| self.spaces[*i].is_some()).collect();
        let Some(s) = (!live.is_empty()).then(|| *self.rng.pick(&live)) else {
            self.create(0);
            return Ok(());
        };
        let cpu = self.rng.below(u64::from(self.hw.config().cpus)) as u16;
        let hw = self.hw.clone();
        self.arm();
        hw.on_cpu(cpu, || {
            let what = self.rng.below(100);
            let name = match what {
                0..24 => self.enter(s)?,
                24..36 => self.remove(s),
                36..44 => self.protect(s),
                44..50 => self.protect_copy(s),
                50..53 => self.unwire(s),
                53..58 => self.page_remove(),
                58..62 => self.page_write_protect(),
                62..67 => self.page_clear()?,
                67..86 => self.access(cpu, s)?,
                86..91 => self.load(cpu, s),
                91..93 => self.fill_window(s)?,
                93..96 => self.finish_one(),
                96..98 => self.create_or_destroy(s)?,
                _ => {
                    self.hw.disturb(4);
                    "disturb"
                }
            };
            *self.done.entry(name).or_default() += 1;
            self.last = (name, s, cpu);
            Ok::<(), Wrong>(())
        })?;
        self.disarm();
        self.compare(s)
    }

    /// Finishes a gather now, or keeps it open as another thread would.
    fn settle(
        &mut self,
        g: Gather,
        space: Option<usize>,
        range: VaRange,
        gone: Vec<(usize, u64)>,
        pages: Vec<PageNo>,
    ) {
        let seq = self.next_seq();
        let o = Open { seq, gather: g, space, range, gone, pages };
        if self.open.len() < 3 && self.rng.one_in(4) {
            self.open.push(o);
        } else {
            self.finish(o);
        }
    }
    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
    fn finish(&mut self, o: Open) {
        let since = self.hw.now();
        let _ = o.gather.finish(&*self.sys, &mut MaySleep::claim());
        // What a later one took away is not this one's to flush; what earlier ones did is.
        if let Some(s) = o.space
            && let Some(sp) = &self.spaces[s]
            && self.open.iter().all(|other| other.seq < o.seq)
        {
            self.hw.check_flushed(Some(sp.root), o.range, since);
        }
        if self.open.is_empty() {
            self.hw.check_quiet();
        }
    }
    fn finish_one(&mut self) -> &'static str {
        if !self.open.is_empty() {
            let i = self.rng.below(self.open.len() as u64) as usize;
            let o = self.open.swap_remove(i);
            self.finish(o);
        }
        "finish"
    }
    fn finish_if(&mut self, f: impl Fn(&Open) -> bool) {
        while let Some(i) = self.open.iter().position(&f) {
            let o = self.open.swap_remove(i);
            self.finish(o);
        }
    }
    /// As whoever holds a page busy has: nobody else's gather is about it.
    fn own_page(&mut self, p: PageNo) {
        self.finish_if(|o| o.pages.contains(&p));
    }

    /// Something was not to be had in the last operation: superpages that could not be
    /// broken may be gone. Nothing wired is.
    fn forget_lost(&mut self) {
        for sp in self.spaces.iter_mut().flatten() {
            sp.told.retain(|va, t| t.wired || sp.pmap.extract(&self.pages, Va::from_page(*va)).is_some());
        }
    }

    /// From here on, at most one thing is not to be had.
    fn arm(&mut self) {
        if let Some(short) = self.shortage
            && self.rng.one_in(3)
        {
            let k = 1 + self.rng.below(4);
            if self.rng.one_in(2) {
                self.hw.fail_table_alloc(k, false);
            } else {
                short.left.store(k, SeqCst);
            }
        }
    }
    fn disarm(&mut self) {
        let Some(short) = self.shortage else { return };
        self.hw.fail_table_alloc(0, false);
        short.left.store(0, SeqCst);
        if short.fired.swap(false, SeqCst) {
            self.refused += 1;
            self.forget_lost();
        }
    }
}

impl<F: HwFormat> Drop for World<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a failed run leaves would only panic again.
            std::mem::forget(std::mem::take(&mut self.spaces));
            std::mem::forget(std::mem::take(&mut self.open));
        }
    }
}
