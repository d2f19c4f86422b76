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

    // ------------------------------------------------------------------ gathers

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

    // ------------------------------------------------------------------ operations

    fn enter(&mut self, s: usize) -> Result<&'static str, Wrong> {
        let va = self.a_va();
        let n = if self.rng.one_in(3) { self.rng.range(1, 17) } else { 1 };
        let first = if self.rng.one_in(2) {
            // Where a superpage could be.
            let region = self.rng.below(self.pages.md.len() as u64 / REGION) * REGION;
            self.page(region + va.page() % REGION)
        } else {
            self.a_page()
        };
        let left = self.pages.md.len() as u64 - u64::from(first.0.get()) + 1;
        let run: Vec<PageNo> =
            (0..n.min(left)).map(|i| self.page(u64::from(first.0.get()) - 1 + i)).collect();
        let prot = self.a_prot();
        let access = *self.rng.pick(&[Prot::R, prot]);
        let mut flags = EnterFlags::empty();
        // Where memory may end in the middle, whether a page was wired could not be told.
        let single = n == 1 || self.shortage.is_none();
        flags.set(EnterFlags::WIRED, single && self.rng.one_in(8));
        flags.set(EnterFlags::PREFAULT, n > 1 && self.rng.one_in(2));
        self.enter_run(s, va, &run, prot, access & (Prot::RW | Prot::X), flags)?;
        Ok("enter")
    }

    /// Enters as the fault does: what was displaced is flushed, then again.
    fn enter_run(
        &mut self,
        s: usize,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
    ) -> Result<(), Wrong> {
        for (i, p) in run.iter().enumerate() {
            self.own_page(*p);
            let at = va.page() + i as u64;
            self.finish_if(|o| o.gone.contains(&(s, at)));
        }
        let mut done = 0;
        for _ in 0..4 * run.len() + 8 {
            let at = va.add(done as u64);
            let mut g = Gather::new();
            let sp = self.space(s);
            let r = sp.pmap.enter(&self.pages, at, &run[done..], prot, access, flags, &mut g);
            let upto = match r {
                Ok(()) => run.len(),
                Err(EnterError::Displaced(v) | EnterError::Foreign(v)) => (v.page() - va.page()) as usize,
                Err(EnterError::NoMemory) => done,
            };
            let mut gone = Vec::new();
            for (i, page) in run.iter().enumerate().take(upto).skip(done) {
                self.entered(s, va.add(i as u64).page(), *page, prot, access, flags);
            }
            if let Err(EnterError::Displaced(v)) = r {
                if self.told(s).remove(&v.page()).is_none() {
                    return Err(format!("{v:?} is displaced but nothing was there"));
                }
                gone.push((s, v.page()));
            }
            // What came is not promised to be flushed, what was displaced is.
            let (space, at) = match r {
                Err(EnterError::Displaced(v)) => (Some(s), v),
                _ => (None, va),
            };
            self.finish(Open {
                seq: u64::MAX,
                gather: g,
                space,
                range: VaRange::page(at),
                gone,
                pages: Vec::new(),
            });
            match r {
                Ok(()) => return Ok(()),
                Err(EnterError::NoMemory) if self.shortage.is_none() => {
                    return Err(format!("{va:?}: no memory, and nothing was short"));
                }
                Err(EnterError::NoMemory) => return self.entered_some(s, va, &run[done..], done),
                Err(EnterError::Displaced(_) | EnterError::Foreign(_)) => done = upto,
            }
        }
        Err(format!("{va:?}: entering {} pages does not end", run.len()))
    }

    fn entered(&mut self, s: usize, va: u64, page: PageNo, prot: Prot, access: Prot, flags: EnterFlags) {
        let wired = flags.contains(EnterFlags::WIRED);
        let hw = self.sys.port().hw_bits();
        let told = self.told(s).entry(va).or_insert(Told { page, prot: prot.hardware(), wired });
        if told.page == page {
            told.prot |= prot.hardware();
            told.wired |= wired;
        } else {
            // Only a mistake enters over another page without saying so.
            *told = Told { page, prot: prot.hardware(), wired };
        }
        let told_of_write = access.contains(Prot::W) && !flags.contains(EnterFlags::PREFAULT);
        if prot.contains(Prot::W) && (told_of_write || wired && !hw.contains(HwBits::DIRTY)) {
            self.used(page).may_modified = true;
        }
    }

    /// Entering ended for want of memory: the first pages are entered, whole, and the rest
    /// is as it was.
    fn entered_some(&mut self, s: usize, va: Va, run: &[PageNo], done: usize) -> Result<(), Wrong> {
        let mut ended = false;
        for (i, page) in run.iter().enumerate() {
            let at = va.add((done + i) as u64);
            let had = self.space(s).told.get(&at.page()).copied();
            let got = self.space(s).pmap.extract(&self.pages, at);
            let new = had.is_none() && got.is_some();
            if new && (ended || got.is_some_and(|(p, _)| p != *page)) {
                return Err(format!("{at:?}: {got:?} after memory was short before it"));
            }
            ended |= got.is_none_or(|(p, _)| p != *page);
            if let Some((p, prot)) = got
                && p == *page
            {
                let told = self.told(s).entry(at.page()).or_insert(Told { page: p, prot, wired: false });
                told.prot |= prot;
                self.used(p).may_modified = true;
            }
        }
        Ok(())
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

    fn remove(&mut self, s: usize) -> &'static str {
        let range = self.a_range();
        let mut g = Gather::new();
        self.space(s).pmap.remove(&self.pages, range, &mut g);
        let mut gone: Vec<(usize, u64)> = Vec::new();
        self.told(s).retain(|va, _| {
            let inside = range.contains(Va::from_page(*va));
            if inside {
                gone.push((s, *va));
            }
            !inside
        });
        self.settle(g, Some(s), range, gone, Vec::new());
        "remove"
    }

    fn protect(&mut self, s: usize) -> &'static str {
        let (range, prot) =
            (self.a_range(), *self.rng.pick(&[Prot::R, Prot::R | Prot::X, Prot::RW, Prot::NONE]));
        let mut g = Gather::new();
        self.space(s).pmap.protect(&self.pages, range, prot, &mut g);
        let mut gone = Vec::new();
        self.told(s).retain(|va, t| {
            if range.contains(Va::from_page(*va)) {
                t.prot &= prot;
                if prot.is_empty() {
                    gone.push((s, *va));
                    return false;
                }
            }
            true
        });
        self.settle(g, Some(s), range, gone, Vec::new());
        "protect"
    }

    fn protect_copy(&mut self, s: usize) -> &'static str {
        let (range, whole) = (self.a_range(), self.rng.one_in(2));
        let mut g = Gather::new();
        self.space(s).pmap.protect_copy(&self.pages, range, whole, &mut g);
        for (_, t) in self.told(s).range_mut(range.start().page()..range.end().page()) {
            t.prot -= Prot::W;
        }
        self.settle(g, Some(s), range, Vec::new(), Vec::new());
        "protect_copy"
    }

    fn unwire(&mut self, s: usize) -> &'static str {
        let range = self.a_range();
        let mut g = Gather::new();
        self.space(s).pmap.unwire(&self.pages, range, &mut g);
        for (_, t) in self.told(s).range_mut(range.start().page()..range.end().page()) {
            t.wired = false;
        }
        self.settle(g, None, range, Vec::new(), Vec::new());
        "unwire"
    }

    /// Every mapping of some pages goes, and their frames get a new use.
    fn page_remove(&mut self) -> &'static str {
        let list: Vec<PageNo> = (0..self.rng.range(1, 4)).map(|_| self.a_page()).collect();
        list.iter().for_each(|p| self.own_page(*p));
        let mut g = Gather::new();
        self.sys.page_remove(&self.pages, &list, RemoveWhy::Free, &mut g);
        let mut gone = Vec::new();
        for (i, sp) in self.spaces.iter_mut().enumerate() {
            let Some(sp) = sp else { continue };
            sp.told.retain(|va, t| {
                let it = list.contains(&t.page);
                if it {
                    gone.push((i, *va));
                }
                !it
            });
        }
        if self.rng.one_in(2) {
            let range = VaRange::page(Va::from_page(1));
            self.finish(Open { seq: u64::MAX, gather: g, space: None, range, gone, pages: list.clone() });
            for p in &list {
                // Now it is nobody's: nothing may lead to it.
                let f = self.pages.pfn(*p);
                self.hw.release(f);
                self.hw.claim(f);
            }
        } else {
            self.settle(g, None, VaRange::page(Va::from_page(1)), gone, list);
        }
        "page_remove"
    }

    fn page_write_protect(&mut self) -> &'static str {
        let list: Vec<PageNo> = (0..self.rng.range(1, 4)).map(|_| self.a_page()).collect();
        list.iter().for_each(|p| self.own_page(*p));
        let mut g = Gather::new();
        self.sys.page_write_protect(&self.pages, &list, &mut g);
        for t in self.spaces.iter_mut().flatten().flat_map(|sp| sp.told.values_mut()) {
            if list.contains(&t.page) {
                t.prot -= Prot::W;
            }
        }
        self.finish(Open {
            seq: u64::MAX,
            gather: g,
            space: None,
            range: VaRange::page(Va::ZERO),
            gone: Vec::new(),
            pages: list,
        });
        "page_write_protect"
    }

    fn page_clear(&mut self) -> Result<&'static str, Wrong> {
        let p = self.a_page();
        self.own_page(p);
        let clear = *self.rng.pick(&[RefMod::REFERENCED, RefMod::MODIFIED, RefMod::all()]);
        self.check_use(p)?;
        let mut g = Gather::new();
        let was = self.sys.page_clear(&self.pages, p, clear, &mut g);
        // What happens before the flush may be lost by right, so nothing does.
        self.finish(Open {
            seq: u64::MAX,
            gather: g,
            space: None,
            range: VaRange::page(Va::ZERO),
            gone: Vec::new(),
            pages: vec![p],
        });
        let used = *self.used(p);
        if used.modified && !was.contains(RefMod::MODIFIED) {
            return Err(format!("{p:?} was written, page_clear says {was:?}"));
        }
        let hw = self.sys.port().hw_bits();
        let wired =
            self.spaces.iter().flatten().flat_map(|sp| sp.told.values()).any(|t| t.page == p && t.wired);
        let u = self.used(p);
        if clear.contains(RefMod::REFERENCED) {
            u.referenced = false;
        }
        if clear.contains(RefMod::MODIFIED) {
            *u = Used { modified: false, may_modified: wired && !hw.contains(HwBits::DIRTY), ..*u };
        }
        Ok("page_clear")
    }

    /// A program's access, with the fault that the map would resolve.
    fn access(&mut self, cpu: u16, s: usize) -> Result<&'static str, Wrong> {
        self.switch(cpu, s);
        let va = match self.rng.below(3) {
            0 => self.a_va(),
            _ => {
                let list: Vec<u64> = self.space(s).told.keys().copied().collect();
                if list.is_empty() { self.a_va() } else { Va::from_page(*self.rng.pick(&list)) }
            }
        };
        let what = *self.rng.pick(&[Access::Read, Access::Write, Access::Write, Access::Exec]);
        let need = match what {
            Access::Read => Prot::R,
            Access::Write => Prot::W,
            Access::Exec => Prot::X,
        };
        for _ in 0..64 {
            let told = self.space(s).told.get(&va.page()).copied();
            // What another thread took away may be used until it has flushed.
            let pending = self.open.iter().any(|o| o.space.is_none_or(|x| x == s));
            match self.hw.access(va.get(), what, Mode::User) {
                Ok(frame) => {
                    let Some(page) = self.pages.page_at(frame) else {
                        return Err(format!("{what:?} at {va:?} reached frame {frame:?}"));
                    };
                    match told {
                        Some(t) if t.page == page && t.prot.contains(need) => {}
                        _ if pending => {}
                        other => return Err(format!("{what:?} at {va:?} reached {page:?}, told {other:?}")),
                    }
                    let live = told.is_some_and(|t| t.page == page);
                    let u = self.used(page);
                    u.referenced |= live;
                    u.modified |= what == Access::Write;
                    return Ok("access");
                }
                Err(_) => {
                    let Some(t) = told.filter(|t| t.prot.contains(need)) else { return Ok("fault") };
                    self.enter_run(s, va, &[t.page], t.prot, need, EnterFlags::empty())?;
                }
            }
        }
        // For the trace.
        self.hw.check_agrees(self.space(s).root, va.get(), None, Rights::USER);
        Err(format!(
            "{what:?} at {va:?} of space {s} faults for ever, told {:?}",
            self.space(s).told.get(&va.page())
        ))
    }

    /// Fills a window so that it becomes a superpage, and writes all of it.
    fn fill_window(&mut self, s: usize) -> Result<&'static str, Wrong> {
        let window = *self.rng.pick(&WINDOWS);
        let region = self.rng.below(self.pages.md.len() as u64 / REGION) * REGION;
        let prot = *self.rng.pick(&[Prot::RW, Prot::R]);
        let flags = if self.shortage.is_none() && self.rng.one_in(6) {
            EnterFlags::WIRED
        } else {
            EnterFlags::empty()
        };
        for i in (0..REGION).step_by(16) {
            let run: Vec<PageNo> = (i..i + 16).map(|j| self.page(region + j)).collect();
            self.enter_run(s, Va::from_page(window + i), &run, prot, prot - Prot::X, flags)?;
        }
        let root = self.space(s).root;
        if self.hw.translate(root, window << 12).is_some_and(|t| t.level > 1) {
            self.promoted += 1;
        }
        Ok("fill")
    }

    /// The CPU runs the space from now on.
    fn switch(&mut self, cpu: u16, s: usize) {
        if self.space(s).on.contains(&cpu) {
            return;
        }
        self.unload(cpu);
        let sp = self.spaces[s].as_mut().expect("a live space");
        sp.pmap.activate(CpuId(cpu));
        sp.on.push(cpu);
    }
    fn unload(&mut self, cpu: u16) {
        for sp in self.spaces.iter_mut().flatten() {
            if sp.on.contains(&cpu) {
                sp.pmap.deactivate(CpuId(cpu));
                sp.on.retain(|c| *c != cpu);
            }
        }
    }
    fn load(&mut self, cpu: u16, s: usize) -> &'static str {
        if self.rng.one_in(4) {
            self.unload(cpu);
            "deactivate"
        } else {
            self.switch(cpu, s);
            "activate"
        }
    }

    fn create_or_destroy(&mut self, s: usize) -> Result<&'static str, Wrong> {
        if let Some(free) = self.spaces.iter().position(Option::is_none)
            && self.rng.one_in(2)
        {
            self.create(free);
            return Ok("create");
        }
        self.destroy(s)?;
        Ok("destroy")
    }

    fn destroy(&mut self, s: usize) -> Result<(), Wrong> {
        self.finish_if(|_| true);
        for cpu in self.space(s).on.clone() {
            self.hw.clone().on_cpu(cpu, || self.unload(cpu));
        }
        let mut g = Gather::new();
        let whole = VaRange::between(Va::from_page(1), Va::from_page(1 << 25)).expect("not empty");
        self.space(s).pmap.remove(&self.pages, whole, &mut g);
        self.finish(Open {
            seq: u64::MAX,
            gather: g,
            space: Some(s),
            range: whole,
            gone: Vec::new(),
            pages: Vec::new(),
        });
        let left = self.space(s).pmap.resident_count();
        if left != 0 {
            return Err(format!("{left} pages resident in an empty pmap"));
        }
        let root = self.space(s).root;
        self.spaces[s] = None;
        self.hw.space_ends(root);
        Ok(())
    }

    // ------------------------------------------------------------------ comparison

    fn check_use(&mut self, p: PageNo) -> Result<(), Wrong> {
        let got = self.sys.page_refmod(&self.pages, p);
        let u = *self.used(p);
        if u.modified && !got.contains(RefMod::MODIFIED) {
            return Err(format!("{p:?} was written, but says {got:?}"));
        }
        if u.referenced && !got.contains(RefMod::REFERENCED) {
            return Err(format!("{p:?} was used, but says {got:?}"));
        }
        // Several pages of a superpage cannot be told apart once it is written (Q03); they
        // were all written, or it would not be writable.
        if got.contains(RefMod::MODIFIED) && !u.modified && !u.may_modified {
            return Err(format!("{p:?} was not written, but says {got:?}"));
        }
        Ok(())
    }

    fn compare(&mut self, s: usize) -> Result<(), Wrong> {
        if self.spaces[s].is_none() {
            return Ok(());
        }
        for _ in 0..3 {
            let p = self.a_page();
            self.check_use(p)?;
        }
        let mut at: Vec<u64> = (0..3).map(|_| self.a_va().page()).collect();
        let told: Vec<u64> = self.space(s).told.keys().copied().collect();
        if !told.is_empty() {
            at.extend((0..3).map(|_| *self.rng.pick(&told)));
        }
        let sp = self.space(s);
        for va in at {
            let got = sp.pmap.extract(&self.pages, Va::from_page(va));
            match (got, sp.told.get(&va)) {
                (None, None) => {}
                (Some((page, prot)), Some(t)) if page == t.page && t.prot.contains(prot) => {
                    // A detached window grants nothing until a fault attaches it.
                    let without = if F::UPPER_RIGHTS { t.prot - Prot::W } else { Prot::NONE };
                    if !prot.contains(without) {
                        return Err(format!("space {s} page {va:#x}: {prot:?}, told {t:?}"));
                    }
                    let frame = self.pages.pfn(page);
                    let rights = user_rights(prot);
                    let want = (!rights.is_empty()).then_some((frame, rights));
                    self.agrees(sp, va, want);
                }
                (got, told) => return Err(format!("space {s} page {va:#x}: {got:?}, told {told:?}")),
            }
        }
        let (resident, wired) = (sp.pmap.resident_count(), sp.pmap.wired_count());
        let told_wired = sp.told.values().filter(|t| t.wired).count() as u64;
        if (resident != sp.told.len() as u64 || wired != told_wired) {
            return Err(format!(
                "space {s}: resident {resident}, wired {wired}; told {} and {told_wired}",
                sp.told.len()
            ));
        }
        Ok(())
    }

    /// The walker, which shares no code with the pmap's formats, says the same. Where the
    /// hardware does not note use, it shows no right that would fault to be noted.
    fn agrees(&self, sp: &Space<F>, va: u64, want: Option<(Pfn, Rights)>) {
        let hw = self.sys.port().hw_bits();
        let got = self.hw.translate(sp.root, va << 12);
        let mut care = Rights::USER;
        if !hw.contains(HwBits::DIRTY) && got.is_none_or(|t| !t.rights.contains(Rights::UW)) {
            care -= Rights::UW;
        }
        if !hw.contains(HwBits::ACCESSED) && got.is_none_or(|t| !t.accessed) {
            return;
        }
        self.hw.check_agrees(sp.root, va << 12, want, care);
    }

    /// Finishes what is open, takes everything out and looks for what is left over.
    ///
    /// # Errors
    /// What is left over.
    pub fn end(&mut self) -> Result<(), Wrong> {
        self.finish_if(|_| true);
        for s in 0..self.spaces.len() {
            if self.spaces[s].is_some() {
                self.destroy(s)?;
            }
        }
        for i in 0..self.pages.md.len() as u64 {
            let p = self.page(i);
            let mut g = Gather::new();
            self.sys.page_remove(&self.pages, &[p], RemoveWhy::Free, &mut g);
            let _ = g.finish(&*self.sys, &mut MaySleep::claim());
            let left = self.pages.md(p).pv.load(std::sync::atomic::Ordering::SeqCst);
            if left != 0 {
                return Err(format!("{p:?} looks mapped at the end: {left:#x}"));
            }
        }
        Ok(())
    }
}

fn user_rights(prot: Prot) -> Rights {
    let mut r = Rights::empty();
    r.set(Rights::UR, prot.contains(Prot::R));
    r.set(Rights::UW, prot.contains(Prot::W));
    r.set(Rights::UX, prot.contains(Prot::X));
    r
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
