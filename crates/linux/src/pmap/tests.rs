//! The pmap against the real kernel: every access below is a load or a store of
//! this process, and a reader thread resolves its fault as the core would.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;

use machvm_hal::{
    EnterError, EnterFlags, Gather, PageArray, PageMd, PageNo, Pfn, PhysMem, Pmap, PmapPage, Prot, RefMod,
    Region, RegionError, RemoveWhy, Va, VaRange,
};

use super::{Config, LinuxPmap, LinuxPv, Window};
use crate::phys::LinuxMem;
use crate::uffd::{Fault, Mode, page_of};

/// Pages of one object: page `i + 1` is frame `base + i`.
struct Pages {
    base: Pfn,
    md: Vec<PageMd>,
}

impl PageArray for Pages {
    fn md(&self, page: PageNo) -> &PageMd {
        &self.md[page.0.get() as usize - 1]
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        self.base.add(u64::from(page.0.get()) - 1)
    }
    fn page_at(&self, _frame: Pfn) -> Option<PageNo> {
        None
    }
}

fn page(i: u64) -> PageNo {
    PageNo(NonZeroU32::new(i as u32 + 1).expect("not zero"))
}

fn list(range: core::ops::Range<u64>) -> Vec<PageNo> {
    range.map(page).collect()
}

struct World {
    mem: LinuxMem,
    pv: LinuxPv,
    pmap: LinuxPmap,
    pages: Pages,
    /// Faults read, in order.
    faults: Mutex<Vec<Fault>>,
    stop: AtomicBool,
}

const SHARED: Config = Config { mode: Mode::Blocking, nonblocking: true, dont_fork: true };

impl World {
    /// An object of `n` pages and a pmap with a window four times as large.
    fn new(n: u64) -> Self {
        let mem = LinuxMem::new(1 << 20).expect("memfd");
        let pv = LinuxPv::new(&mem, SHARED).expect("userfaultfd");
        let pmap = pv.pmap(Window::Reserve(4 * n.next_multiple_of(512))).expect("pmap");
        let base = mem.extent_reserve(n).expect("numbers");
        let md = (0..n).map(|_| PageMd::default()).collect();
        let (faults, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        World { mem, pv, pmap, pages: Pages { base, md }, faults, stop }
    }
    /// Page `i` of the window.
    fn va(&self, i: u64) -> Va {
        self.pmap.window().start().add(i)
    }
    fn range(&self, i: u64, n: u64) -> VaRange {
        VaRange::of_pages(self.va(i), n).expect("range")
    }
    /// Maps `n` pages of the object from its page `first` at page `i` of the window.
    fn insert(&self, i: u64, n: u64, first: u64, prot: Prot) -> Result<(), RegionError> {
        self.pmap.region_insert(self.range(i, n), Region { first: self.pages.base.add(first), prot })
    }
    fn enter(&self, va: Va, run: &[PageNo], prot: Prot, access: Prot, flags: EnterFlags) {
        self.try_enter(va, run, prot, access, flags).expect("entered");
    }
    fn try_enter(
        &self,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
    ) -> Result<(), EnterError> {
        let mut g = Gather::new();
        let r = self.pmap.enter(&self.pages, va, run, prot, access, flags, &mut g);
        assert!(g.is_empty());
        r
    }
    fn refmod(&self, i: u64) -> RefMod {
        self.pv.page_refmod(&self.pages, page(i))
    }
    fn take_faults(&self) -> Vec<Fault> {
        core::mem::take(&mut self.faults.lock().expect("lock"))
    }
    fn destroy(self) {
        self.pmap.region_remove(&self.pages, self.pmap.window(), &mut Gather::new());
        assert_eq!(self.pmap.resident_count(), 0);
        let (pmap, pv) = (self.pmap, self.pv);
        drop(pmap);
        assert_eq!((pv.table_bytes(), pv.vmas().0), (0, 0), "nothing left over");
        let mapped = self.pages.md.iter().any(|m| m.pv.load(Ordering::Relaxed) != 0);
        assert!(!mapped, "records left over");
    }

    /// Runs `body`; meanwhile a thread gives every fault to `resolve` and wakes.
    fn with_reader(&self, resolve: impl Fn(&Self, Fault) + Sync, body: impl FnOnce()) {
        std::thread::scope(|s| {
            let reader = s.spawn(|| {
                while !self.stop.load(Ordering::Relaxed) {
                    let fd = self.pv.uffd().as_fd().as_raw_fd();
                    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                    // SAFETY: one pollfd.
                    unsafe { libc::poll(&raw mut p, 1, 10) };
                    let none = Fault { address: 0, write: false, protected: false, minor: false, tid: 0 };
                    let mut got = [none; 4];
                    let n = self.pv.uffd().read_faults(&mut got).expect("read");
                    for f in &got[..n] {
                        self.faults.lock().expect("lock").push(*f);
                        resolve(self, *f);
                        self.pmap.wake(VaRange::page(page_of(f.address)));
                    }
                }
            });
            let r = std::panic::catch_unwind(core::panic::AssertUnwindSafe(body));
            self.stop.store(true, Ordering::Relaxed);
            reader.join().expect("reader");
            self.stop.store(false, Ordering::Relaxed);
            if let Err(e) = r {
                std::panic::resume_unwind(e);
            }
        });
    }
}

/// The object's page 0 lies at page 0 of the window; one page per fault; a read
/// enters read-only.
fn simple(w: &World, f: Fault) {
    let va = page_of(f.address);
    let i = va.page() - w.pmap.window().start().page();
    if !f.minor && !f.protected {
        w.mem.zero(w.pages.base.add(i), 1).expect("memory");
    }
    let access = if f.write { Prot::RW } else { Prot::R };
    w.enter(va, &[page(i)], access, access, EnterFlags::empty());
}

fn store(va: Va, value: u64) {
    let p = core::ptr::with_exposed_provenance_mut::<u64>(va.get() as usize);
    // SAFETY: a region of the test, writable; nobody else uses the word.
    unsafe { p.write_volatile(value) };
}
fn load(va: Va) -> u64 {
    let p = core::ptr::with_exposed_provenance::<u64>(va.get() as usize);
    // SAFETY: as above, readable.
    unsafe { p.read_volatile() }
}

#[test]
fn faults_bring_pages_and_tell_reading_from_writing() {
    let w = World::new(16);
    w.insert(0, 16, 0, Prot::RW).expect("region");
    w.with_reader(simple, || {
        assert_eq!(load(w.va(3)), 0);
        assert_eq!(w.refmod(3), RefMod::REFERENCED);
        assert_eq!(w.pmap.extract(&w.pages, w.va(3)), Some((page(3), Prot::R)));
        store(w.va(3), 7);
        assert_eq!(w.refmod(3), RefMod::all());
        assert_eq!(w.pmap.extract(&w.pages, w.va(3)), Some((page(3), Prot::RW)));
        store(w.va(4), 8);
        assert_eq!((load(w.va(3)), load(w.va(4))), (7, 8));
        let kinds: Vec<_> = w.take_faults().iter().map(|f| (f.write, f.protected, f.minor)).collect();
        assert_eq!(kinds, [(false, false, false), (true, true, false), (true, false, false)]);
    });
    let mut buf = [0; 8];
    w.mem.read(w.pages.base.add(3), 0, &mut buf);
    assert_eq!(u64::from_ne_bytes(buf), 7, "the frame is the memory");
    assert_eq!((w.pmap.resident_count(), w.mem.resident_frames().expect("fstat")), (2, 2));
    w.destroy();
}

#[test]
fn removed_pages_come_back_with_their_contents() {
    let w = World::new(16);
    w.insert(0, 16, 0, Prot::RW).expect("region");
    w.with_reader(simple, || {
        (0..16).for_each(|i| store(w.va(i), i + 1));
        w.take_faults();
        w.pmap.remove(&w.pages, w.range(2, 5), &mut Gather::new());
        assert_eq!(w.pmap.resident_count(), 11);
        assert!((0..16).all(|i| load(w.va(i)) == i + 1));
        let f = w.take_faults();
        assert!(f.len() == 5 && f.iter().all(|f| f.minor && !f.write), "{f:?}");
    });
    w.destroy();
}

#[test]
fn clearing_modified_traps_the_next_write() {
    let w = World::new(2);
    w.insert(0, 2, 0, Prot::RW).expect("region");
    w.with_reader(simple, || {
        store(w.va(0), 1);
        assert_eq!(w.pv.page_clear(&w.pages, page(0), RefMod::all(), &mut Gather::new()), RefMod::all());
        assert_eq!(load(w.va(0)), 1);
        assert_eq!(w.refmod(0), RefMod::empty(), "the read needed no fault");
        w.take_faults();
        store(w.va(0), 2);
        assert_eq!(w.take_faults().len(), 1);
        assert_eq!(w.refmod(0), RefMod::all());
        // A second write protection without a write in between finds nothing to do.
        w.pv.page_write_protect(&w.pages, &list(0..2), &mut Gather::new());
        w.pv.page_write_protect(&w.pages, &list(0..2), &mut Gather::new());
        assert_eq!(w.pmap.extract(&w.pages, w.va(0)), Some((page(0), Prot::R)));
    });
    w.destroy();
}

#[test]
fn runs_cross_windows_and_prefaulted_pages_are_not_referenced() {
    let w = World::new(1024);
    w.insert(0, 1024, 0, Prot::RW).expect("region");
    w.mem.zero(w.pages.base, 1024).expect("memory");
    w.enter(w.va(200), &list(200..712), Prot::R, Prot::R, EnterFlags::PREFAULT);
    assert_eq!(w.pmap.resident_count(), 512);
    w.with_reader(simple, || {
        assert!((200..712).all(|i| load(w.va(i)) == 0));
        assert_eq!(w.take_faults().len(), 0);
        assert!((200..712).all(|i| w.refmod(i) == RefMod::empty()));
        // Entering a larger run over it adds rights and pages, in pieces.
        w.enter(w.va(100), &list(100..900), Prot::RW, Prot::RW, EnterFlags::empty());
        assert_eq!(w.pmap.resident_count(), 800);
        (100..900).for_each(|i| store(w.va(i), i));
        assert_eq!(w.take_faults().len(), 0);
        w.pmap.protect(&w.pages, w.range(0, 1024), Prot::R, &mut Gather::new());
        assert!((100..900).all(|i| load(w.va(i)) == i));
        assert_eq!(w.take_faults().len(), 0);
        (500..520).for_each(|i| store(w.va(i), 0));
        let f = w.take_faults();
        assert!(f.len() == 20 && f.iter().all(|f| f.protected), "{f:?}");
    });
    w.destroy();
}

#[test]
fn one_page_mapped_at_five_places_is_reached_at_all() {
    let w = World::new(512);
    for k in 0..4 {
        w.insert(512 * k, 512, 0, Prot::RW).expect("region");
    }
    let other = w.pv.pmap(Window::Reserve(512)).expect("pmap");
    let hole = other.window();
    let region = Region { first: w.pages.base, prot: Prot::RW };
    other.region_insert(hole, region).expect("region");
    w.mem.zero(w.pages.base, 512).expect("memory");
    let run = list(0..512);
    for k in 0..4 {
        w.enter(w.va(512 * k), &run, Prot::RW, Prot::RW, EnterFlags::empty());
    }
    let (rw, none) = (Prot::RW, EnterFlags::empty());
    other.enter(&w.pages, hole.start(), &run, rw, rw, none, &mut Gather::new()).expect("entered");
    store(w.va(5), 55);
    assert!((0..4).all(|k| load(w.va(512 * k + 5)) == 55) && load(hole.start().add(5)) == 55);

    w.pv.page_write_protect(&w.pages, &list(3..8), &mut Gather::new());
    for k in 0..4 {
        assert_eq!(w.pmap.extract(&w.pages, w.va(512 * k + 4)), Some((page(4), Prot::R)));
        assert_eq!(w.pmap.extract(&w.pages, w.va(512 * k + 8)), Some((page(8), Prot::RW)));
    }
    let resolve = |w: &World, f: Fault| {
        let va = page_of(f.address);
        let i = (va.page() - w.pmap.window().start().page()) % 512;
        assert!(f.protected || f.minor);
        w.enter(va, &[page(i)], rw, rw, none);
    };
    w.with_reader(resolve, || {
        (0..4).for_each(|k| store(w.va(512 * k + 5), k));
        assert!(w.take_faults().iter().all(|f| f.protected));
        w.pv.page_remove(&w.pages, &list(0..8), RemoveWhy::Sample, &mut Gather::new());
        assert_eq!((w.pmap.resident_count(), other.resident_count()), (4 * 504, 504));
        assert!((0..4).all(|k| load(w.va(512 * k + 5)) == 3));
        let f = w.take_faults();
        assert!(f.len() == 4 && f.iter().all(|f| f.minor), "{f:?}");
    });
    w.pv.page_remove(&w.pages, &run, RemoveWhy::Free, &mut Gather::new());
    assert_eq!((w.pmap.resident_count(), other.resident_count()), (0, 0));
    w.mem.discard(w.pages.base, 512);
    assert_eq!(w.mem.resident_frames().expect("fstat"), 0);
    w.with_reader(simple, || assert_eq!(load(w.va(5)), 0));
    assert!(w.take_faults().iter().all(|f| !f.minor), "a hole, not a page");
    other.region_remove(&w.pages, hole, &mut Gather::new());
    drop(other);
    w.destroy();
}

/// The mappings of the file in the window of the pmap, as Linux lists them.
fn linux_vmas(w: &World) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let window = w.pmap.window();
    let inside = |l: &&str| {
        let start = l.split('-').next().and_then(|a| u64::from_str_radix(a, 16).ok());
        l.contains("memfd:machvm") && start.is_some_and(|a| window.contains(page_of(a)))
    };
    maps.lines().filter(inside).count() as u64
}

#[test]
fn vmas_merge_and_are_counted() {
    let w = World::new(512);
    for i in [1, 0, 3, 2] {
        w.insert(128 * i, 128, 128 * i, Prot::RW).expect("region");
    }
    let check = |n| assert_eq!((linux_vmas(&w), w.pv.vmas().0), (n, 2 * n));
    check(1);
    let g = &mut Gather::new();
    w.pmap.region_protect(&w.pages, w.range(100, 50), Prot::RW, Prot::R, g).expect("protected");
    check(3);
    w.pmap.region_protect(&w.pages, w.range(100, 50), Prot::R, Prot::RW, g).expect("protected");
    check(1);
    w.pmap.region_remove(&w.pages, w.range(10, 1), g);
    check(2);
    let uncovered = w.pmap.region_protect(&w.pages, w.range(0, 20), Prot::RW, Prot::R, g);
    assert_eq!(uncovered, Err(RegionError));
    check(2);
    w.insert(10, 1, 10, Prot::RW).expect("region");
    check(1);
    w.destroy();
}

#[test]
fn regions_that_meet_others_or_leave_the_window_are_refused() {
    let w = World::new(512);
    w.insert(0, 16, 0, Prot::RW).expect("region");
    assert_eq!(w.insert(15, 2, 15, Prot::RW), Err(RegionError));
    let beyond = VaRange::of_pages(w.pmap.window().end().sub(1), 2).expect("range");
    let region = Region { first: w.pages.base, prot: Prot::RW };
    assert_eq!(w.pmap.region_insert(beyond, region), Err(RegionError));
    let whole = w.pv.pmap(Window::Whole).expect("pmap");
    assert_eq!(whole.region_insert(w.range(0, 1), region), Err(RegionError), "not ours");
    assert_eq!(w.pv.vmas().0, 2);
    drop(whole);
    w.destroy();
}

#[test]
fn without_a_reservation_regions_take_free_addresses_and_leave_holes() {
    let w = World::new(512);
    let whole = w.pv.pmap(Window::Whole).expect("pmap");
    let region = Region { first: w.pages.base, prot: Prot::RW };
    // Addresses that were free a moment ago; other tests may be faster.
    let free = (0..100).find_map(|_| {
        let range = w.pv.pmap(Window::Reserve(512)).expect("pmap").window();
        whole.region_insert(range, region).is_ok().then_some(range)
    });
    let range = free.expect("free addresses");
    w.mem.zero(w.pages.base, 512).expect("memory");
    let g = &mut Gather::new();
    let (rw, none) = (Prot::RW, EnterFlags::empty());
    whole.enter(&w.pages, range.start(), &list(0..512), rw, rw, none, g).expect("entered");
    store(range.start().add(511), 9);
    assert_eq!((load(range.start().add(511)), w.pv.vmas().0), (9, 1));
    whole.region_remove(&w.pages, range, g);
    assert_eq!((whole.resident_count(), w.pv.vmas().0), (0, 0));
    drop(whole);
    w.destroy();
}

#[test]
fn protection_is_the_regions_and_survives_without_rights() {
    let w = World::new(4);
    w.insert(0, 4, 0, Prot::NONE).expect("region");
    let g = &mut Gather::new();
    w.pmap.region_protect(&w.pages, w.range(0, 4), Prot::NONE, Prot::RW, g).expect("protected");
    w.with_reader(simple, || {
        store(w.va(0), 5);
        w.pmap.region_protect(&w.pages, w.range(0, 4), Prot::RW, Prot::NONE, g).expect("protected");
        // Page-out works on what nobody may access.
        w.pv.page_write_protect(&w.pages, &[page(0)], g);
        w.pmap.region_protect(&w.pages, w.range(0, 4), Prot::NONE, Prot::RW, g).expect("protected");
        w.take_faults();
        assert_eq!(load(w.va(0)), 5);
        assert_eq!(w.take_faults().len(), 0);
        store(w.va(0), 6);
        assert!(w.take_faults().iter().all(|f| f.protected));
    });
    w.destroy();
}

#[test]
fn entering_is_idempotent_when_linux_forgot() {
    let w = World::new(4);
    w.insert(0, 4, 0, Prot::RW).expect("region");
    w.with_reader(simple, || {
        (0..4).for_each(|i| store(w.va(i), i));
        w.take_faults();
        // SAFETY: a region of the test; its contents are the memfd's.
        unsafe { crate::sys::madvise(w.va(1).get(), 4096, libc::MADV_DONTNEED) }.expect("madvise");
        assert_eq!((load(w.va(1)), w.take_faults().len()), (1, 1));
        assert_eq!(w.pmap.resident_count(), 4);
        // And when it did not forget, nothing happens.
        w.enter(w.va(0), &list(0..4), Prot::RW, Prot::RW, EnterFlags::empty());
        assert!((0..4).all(|i| load(w.va(i)) == i));
    });
    w.destroy();
}

#[test]
fn enter_reports_what_it_could_not_do_and_keeps_the_rest() {
    let w = World::new(1024);
    w.insert(0, 8, 0, Prot::RW).expect("region");
    w.mem.zero(w.pages.base, 4).expect("memory");
    // Pages 4..8 were prepared and never written; they become zero pages. Pages from
    // 8 on have no region.
    let (rw, none) = (Prot::RW, EnterFlags::empty());
    let r = w.try_enter(w.va(0), &list(0..8), rw, rw, none);
    assert_eq!((r, w.mem.resident_frames().expect("fstat")), (Ok(()), 8));
    let r = w.try_enter(w.va(6), &list(6..700), rw, rw, none);
    assert!(matches!(r, Err(EnterError::Foreign(_))), "{r:?}");
    assert_eq!(w.pmap.resident_count(), 8, "nothing beyond the region");
    assert!(w.pages.md[8..].iter().all(|m| m.pv.load(Ordering::Relaxed) == 0));
    let r = w.try_enter(w.va(2), &[page(2), page(900), page(4)], rw, rw, none);
    assert_eq!(r, Err(EnterError::Displaced(w.va(3))));
    assert_eq!((w.pmap.extract(&w.pages, w.va(3)), w.pmap.resident_count()), (None, 7));
    w.destroy();
}

#[test]
fn wired_is_kept_apart_from_rights() {
    let w = World::new(4);
    w.insert(0, 4, 0, Prot::RW).expect("region");
    w.mem.zero(w.pages.base, 4).expect("memory");
    w.enter(w.va(0), &list(0..4), Prot::RW, Prot::RW, EnterFlags::WIRED);
    w.pmap.unwire(&w.pages, w.range(0, 4), &mut Gather::new());
    assert_eq!(w.pmap.extract(&w.pages, w.va(0)), Some((page(0), Prot::RW)));
    w.destroy();
}

struct SetOnDrop<'a>(&'a AtomicBool);
impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two threads count up words in pages that a third evicts at random: protect, copy
/// out, look again, remove, punch. A write that slips through is a lost count.
#[test]
fn no_write_is_lost_while_pages_come_and_go() {
    const PAGES: u64 = 24;
    const EVICTIONS: u64 = 3_000;
    let w = World::new(PAGES);
    w.insert(0, PAGES, 0, Prot::RW).expect("region");
    // What the core calls busy; inside it the contents of an absent page.
    let busy: Vec<Mutex<Option<[u8; 4096]>>> = (0..PAGES).map(|_| Mutex::new(Some([0; 4096]))).collect();
    let resolve = |w: &World, f: Fault| {
        let va = page_of(f.address);
        let i = va.page() - w.pmap.window().start().page();
        let mut away = busy[i as usize].lock().expect("busy");
        if let Some(contents) = away.take() {
            w.mem.prepare(w.pages.base.add(i), 1).expect("memory");
            w.mem.write(w.pages.base.add(i), 0, &contents);
        }
        let access = if f.write { Prot::RW } else { Prot::R };
        w.enter(va, &[page(i)], access, access, EnterFlags::empty());
    };
    let counts = [AtomicU64::new(0), AtomicU64::new(0)];
    let done = AtomicBool::new(false);
    w.with_reader(resolve, || {
        std::thread::scope(|s| {
            let counter = |who: u64| {
                let (w, done, counts) = (&w, &done, &counts);
                move || {
                    let mut seed = 0x9e37_79b9 + who;
                    while !done.load(Ordering::Relaxed) {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        let at = w.va(seed % PAGES).get() + 8 * who;
                        let p = core::ptr::with_exposed_provenance_mut::<u64>(at as usize);
                        // SAFETY: this thread's own word of a writable region.
                        unsafe { p.write_volatile(p.read_volatile() + 1) };
                        counts[who as usize].fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            let counters = [s.spawn(counter(0)), s.spawn(counter(1))];
            let evictor = s.spawn(|| {
                let _stop = SetOnDrop(&done); // also when an assertion fails
                let (mut seed, mut left) = (77u64, EVICTIONS);
                while left != 0 {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    let i = seed % PAGES;
                    let mut away = busy[i as usize].lock().expect("busy");
                    if away.is_some() {
                        continue;
                    }
                    let (mut copy, mut again) = ([0; 4096], [0; 4096]);
                    w.pv.page_write_protect(&w.pages, &[page(i)], &mut Gather::new());
                    w.mem.read(w.pages.base.add(i), 0, &mut copy);
                    if seed & 64 == 0 {
                        std::thread::yield_now();
                    }
                    w.pv.page_remove(&w.pages, &[page(i)], RemoveWhy::Free, &mut Gather::new());
                    w.mem.read(w.pages.base.add(i), 0, &mut again);
                    assert!(copy == again, "page {i} was written while protected");
                    w.mem.discard(w.pages.base.add(i), 1);
                    *away = Some(copy);
                    left -= 1;
                }
            });
            for c in counters {
                c.join().expect("counter");
            }
            evictor.join().expect("evictor");
        });
        let sum = |who: u64| -> u64 {
            (0..PAGES)
                .map(|i| {
                    let at = (w.va(i).get() + 8 * who) as usize;
                    // SAFETY: a word of a readable region; nobody writes now.
                    unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() }
                })
                .sum()
        };
        assert_eq!([sum(0), sum(1)], counts.map(AtomicU64::into_inner));
    });
    assert!(w.take_faults().len() as u64 > EVICTIONS / 2);
    w.destroy();
}

/// Signal mode: the fault is resolved in the faulting thread's SIGBUS handler.
mod signal {
    use super::*;
    use std::sync::OnceLock;

    struct Signalled {
        mem: LinuxMem,
        pv: LinuxPv,
        pmap: LinuxPmap,
        pages: Pages,
        faults: AtomicU64,
    }
    static WORLD: OnceLock<Signalled> = OnceLock::new();

    extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes both; this is x86-64 Linux's context.
        let (at, error) = unsafe {
            let context = &*context.cast::<libc::ucontext_t>();
            ((*info).si_addr() as u64, context.uc_mcontext.gregs[libc::REG_ERR as usize])
        };
        let Some(w) = WORLD.get() else { std::process::abort() };
        let va = page_of(at);
        if !w.pmap.window().contains(va) {
            std::process::abort();
        }
        let i = va.page() - w.pmap.window().start().page();
        let (write, present) = (error & 2 != 0, error & 1 != 0);
        let md = w.pages.md(page(i));
        if !present && md.bits.load(Ordering::Relaxed) == 0 && w.mem.zero(w.pages.base.add(i), 1).is_err() {
            std::process::abort();
        }
        let access = if write { Prot::RW } else { Prot::R };
        let g = &mut Gather::new();
        if w.pmap.enter(&w.pages, va, &[page(i)], access, access, EnterFlags::empty(), g).is_err() {
            std::process::abort();
        }
        w.faults.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn faults_are_resolved_in_the_handler() {
        const N: u64 = 64;
        let mem = LinuxMem::new(1 << 20).expect("memfd");
        let config = Config { mode: Mode::Signal, nonblocking: true, dont_fork: true };
        let pv = LinuxPv::new(&mem, config).expect("userfaultfd");
        let pmap = pv.pmap(Window::Reserve(512)).expect("pmap");
        let base = mem.extent_reserve(N).expect("numbers");
        let md = (0..N).map(|_| PageMd::default()).collect();
        let range = VaRange::of_pages(pmap.window().start(), N).expect("range");
        pmap.region_insert(range, Region { first: base, prot: Prot::RW }).expect("region");
        let world = Signalled { mem, pv, pmap, pages: Pages { base, md }, faults: AtomicU64::new(0) };
        assert!(WORLD.set(world).is_ok());
        let Some(w) = WORLD.get() else { panic!("just set") };
        // SAFETY: a handler for a signal that nothing else in this test program uses.
        unsafe {
            let mut act: libc::sigaction = core::mem::zeroed();
            act.sa_sigaction = on_sigbus as *const () as usize;
            act.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigfillset(&raw mut act.sa_mask);
            assert_eq!(libc::sigaction(libc::SIGBUS, &raw const act, core::ptr::null_mut()), 0);
        }
        let faults = || w.faults.swap(0, Ordering::Relaxed);
        range.iter().for_each(|va| assert_eq!(load(va), 0));
        assert_eq!(faults(), N);
        range.iter().for_each(|va| store(va, va.page()));
        assert_eq!(faults(), N, "writes to pages that were read");
        let all = list(0..N);
        w.pv.page_write_protect(&w.pages, &all, &mut Gather::new());
        assert!(range.iter().all(|va| load(va) == va.page()));
        assert_eq!(faults(), 0);
        w.pmap.remove(&w.pages, range, &mut Gather::new());
        range.iter().for_each(|va| store(va, va.page() + 1));
        assert_eq!(faults(), N);
        assert!(range.iter().all(|va| load(va) == va.page() + 1));
        // The kernel's own access fails instead of waiting.
        w.pmap.remove(&w.pages, range, &mut Gather::new());
        let text = core::ptr::with_exposed_provenance::<libc::c_void>(range.start().get() as usize);
        let pipe = std::io::pipe().expect("pipe");
        // SAFETY: eight bytes of a readable region.
        let n = unsafe { libc::write(pipe.1.as_raw_fd(), text, 8) };
        assert_eq!((n, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
        w.pmap.region_remove(&w.pages, range, &mut Gather::new());
        assert_eq!(w.pmap.resident_count(), 0);
    }
}
