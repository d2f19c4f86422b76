//! A platform for the tests of the map: frames in a hash map, a pmap that is a
//! table and checks what it is told, and one gate in front of everything that can be
//! refused.

use super::std;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::{Condvar, Mutex};
use std::vec::Vec;

use machvm_arena::{Gate, HeapChunks};
use machvm_hal::{
    EnterError, EnterFlags, Event, ExtentError, Flush, Gather, Host, Invalidations, PageArray, PageNo, Pfn,
    PhysMem, Placement, Pmap, PmapPage, PopulateError, Prot, RefMod, Region, RegionError, RemoveWhy, Va,
    VaRange, Woken,
};

use crate::Platform;

/// Refuses the k-th request, once.
#[derive(Debug)]
pub(crate) struct Fuse(AtomicI64);

impl Fuse {
    /// Refuse the `k`-th request from now on, from zero. Negative: none.
    pub(crate) fn set(&self, k: i64) {
        self.0.store(k, SeqCst);
    }
    /// Was a request refused since [`Fuse::set`]?
    pub(crate) fn blown(&self) -> bool {
        self.0.load(SeqCst) == -1
    }
}
impl Gate for Fuse {
    fn admit(&self) -> bool {
        // -1: blown, below: not armed.
        self.0.load(SeqCst) < 0 || self.0.fetch_sub(1, SeqCst) != 0
    }
}

std::thread_local! {
    static FAULTS_OFF: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
}
/// Switches this thread's faults; gives how they were.
pub(crate) fn faults_off(off: bool) -> bool {
    FAULTS_OFF.replace(off)
}

/// Waiting by one condition variable.
#[derive(Default)]
pub(crate) struct TestHost {
    woken: Mutex<HashMap<Event, u64>>,
    change: Condvar,
}

impl Host for TestHost {
    type Ticket = (Event, u64);
    fn now_ns(&self) -> u64 {
        0
    }
    fn assert_wait(&self, ev: Event) -> Self::Ticket {
        (ev, *self.woken.lock().expect("host").entry(ev).or_default())
    }
    fn thread_block(&self, (ev, seen): Self::Ticket, _deadline_ns: Option<u64>) -> Woken {
        let mut woken = self.woken.lock().expect("host");
        while woken.get(&ev).copied().unwrap_or_default() == seen {
            let long = core::time::Duration::from_secs(30);
            let (guard, timeout) = self.change.wait_timeout(woken, long).expect("host");
            assert!(!timeout.timed_out(), "nobody woke {ev:?}");
            woken = guard;
        }
        Woken::Event
    }
    fn cancel_wait(&self, _: Self::Ticket) {}
    fn faults_disabled(&self) -> bool {
        FAULTS_OFF.get()
    }
    fn thread_wakeup(&self, ev: Event) {
        *self.woken.lock().expect("host").entry(ev).or_default() += 1;
        self.change.notify_all();
    }
}

/// One page's translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapped {
    pub(crate) page: PageNo,
    pub(crate) pfn: Pfn,
    pub(crate) prot: Prot,
}

/// What a frame holds.
type Frame = Box<[u8; 4096]>;

/// Everything the machine knows.
#[derive(Default)]
pub(crate) struct Machine {
    frames: HashMap<u64, Frame>,
    extents: BTreeMap<u64, u64>,
    /// By pmap and page: first frame and protection of the region.
    pub(crate) regions: BTreeMap<(u64, u64), (Pfn, Prot)>,
    pub(crate) mapped: BTreeMap<(u64, u64), Mapped>,
    modified: HashMap<PageNo, bool>,
}

/// Locked, also after a panic of a test: what follows it may be shrinking.
fn locked(m: &Mutex<Machine>) -> std::sync::MutexGuard<'_, Machine> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The platform.
pub(crate) struct World {
    host: TestHost,
    machine: Arc<Mutex<Machine>>,
    pub(crate) fuse: &'static Fuse,
    pmaps: AtomicU64,
}

impl World {
    pub(crate) fn new() -> Self {
        World {
            host: TestHost::default(),
            machine: Arc::default(),
            fuse: Box::leak(Box::new(Fuse(AtomicI64::new(-2)))),
            pmaps: AtomicU64::new(0),
        }
    }
    pub(crate) fn pmap(&self) -> TestPmap {
        let id = self.pmaps.fetch_add(1, SeqCst);
        TestPmap { id, machine: Arc::clone(&self.machine), fuse: self.fuse }
    }
    pub(crate) fn machine(&self) -> std::sync::MutexGuard<'_, Machine> {
        locked(&self.machine)
    }
}

impl Platform for World {
    type Host = TestHost;
    type Mem = World;
    type Pmap = TestPmap;
    type PmapPage = World;
    type Flush = World;
    type Chunks = HeapChunks;
    fn host(&self) -> &TestHost {
        &self.host
    }
    fn mem(&self) -> &World {
        self
    }
    fn pmap_page(&self) -> &World {
        self
    }
    fn flush(&self) -> &World {
        self
    }
    fn chunks(&self) -> HeapChunks {
        HeapChunks::gated(self.fuse)
    }
}

impl Flush for World {
    fn flush(&self, _what: &Invalidations<'_>) {}
}

impl PhysMem for World {
    fn placement(&self) -> Placement {
        Placement::Sparse { frames: 1 << 20 }
    }
    fn extent_reserve(&self, pages: u64) -> Result<Pfn, ExtentError> {
        if !self.fuse.admit() {
            return Err(ExtentError);
        }
        let mut m = self.machine();
        let base = m.extents.last_key_value().map_or(1 << 20, |(b, n)| b + n);
        m.extents.insert(base, pages);
        Ok(Pfn(base))
    }
    fn extent_release(&self, base: Pfn, pages: u64) {
        assert_eq!(self.machine().extents.remove(&base.0), Some(pages), "an extent that was not given");
    }
    fn zero(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        let mut m = self.machine();
        for f in first.0..first.0 + u64::from(n) {
            assert_eq!(m.frames.insert(f, Box::new([0; 4096])), None, "frame {f:#x} is resident");
        }
        Ok(())
    }
    fn discard(&self, first: Pfn, n: u32) {
        let mut m = self.machine();
        for f in first.0..first.0 + u64::from(n) {
            assert!(m.frames.remove(&f).is_some(), "frame {f:#x} is not resident");
            assert!(m.mapped.values().all(|t| t.pfn.0 != f), "frame {f:#x} is mapped");
        }
    }
    fn copy(&self, from: Pfn, to: Pfn) {
        let mut m = self.machine();
        let data = m.frames[&from.0].clone();
        *m.frames.get_mut(&to.0).expect("resident") = data;
    }
    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.machine().frames[&f.0][off..off + buf.len()]);
    }
    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        let mut m = self.machine();
        m.frames.get_mut(&f.0).expect("resident")[off..off + buf.len()].copy_from_slice(buf);
    }
}

impl PmapPage for World {
    fn page_write_protect<A: PageArray>(&self, _: &A, list: &[PageNo], _: &mut Gather) {
        let mut m = self.machine();
        m.mapped.values_mut().filter(|t| list.contains(&t.page)).for_each(|t| t.prot -= Prot::W);
    }
    fn page_remove<A: PageArray>(&self, _: &A, list: &[PageNo], _: RemoveWhy, _: &mut Gather) {
        self.machine().mapped.retain(|_, t| !list.contains(&t.page));
    }
    fn page_refmod<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod {
        self.page_clear(pages, page, RefMod::empty(), &mut Gather::new())
    }
    fn page_clear<A: PageArray>(&self, _: &A, page: PageNo, clear: RefMod, _: &mut Gather) -> RefMod {
        let mut m = self.machine();
        let modified = m.modified.entry(page).or_default();
        let was = *modified;
        *modified &= !clear.contains(RefMod::MODIFIED);
        if was { RefMod::MODIFIED } else { RefMod::empty() }
    }
}

/// A table of translations and regions that does what a pmap of the sparse placement
/// does, and panics when the map says something wrong.
pub(crate) struct TestPmap {
    pub(crate) id: u64,
    machine: Arc<Mutex<Machine>>,
    fuse: &'static Fuse,
}

impl TestPmap {
    fn keys(&self, range: VaRange) -> core::ops::Range<(u64, u64)> {
        (self.id, range.start().page())..(self.id, range.end().page())
    }
    /// For a mapping of the machine's own, as its owner would make it.
    pub(crate) fn own_mapping(&self, range: VaRange, prot: Prot) {
        let mut m = locked(&self.machine);
        range.iter().for_each(|va| {
            m.regions.insert((self.id, va.page()), (Pfn(0), prot));
        });
    }
}

impl TestPmap {
    /// The owner of a mapping of the machine's own takes it away.
    pub(crate) fn forget_mapping(&self, range: VaRange) {
        let mut m = locked(&self.machine);
        range.iter().for_each(|va| {
            m.regions.remove(&(self.id, va.page()));
        });
    }
}

impl Pmap for TestPmap {
    fn enter<A: PageArray>(
        &self,
        pages: &A,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        _: EnterFlags,
        _: &mut Gather,
    ) -> Result<(), EnterError> {
        let mut m = locked(&self.machine);
        for (i, &page) in run.iter().enumerate() {
            let va = va.add(i as u64);
            let pfn = pages.pfn(page);
            let (natural, allowed) = m.regions[&(self.id, va.page())];
            assert!(allowed.hardware().contains(prot), "more rights than the region at {va:?}");
            if pfn != natural {
                return Err(EnterError::Foreign(va));
            }
            m.mapped.insert((self.id, va.page()), Mapped { page, pfn, prot });
            if access.contains(Prot::W) || prot.contains(Prot::W) {
                m.modified.insert(page, true);
            }
        }
        Ok(())
    }
    fn remove<A: PageArray>(&self, _: &A, range: VaRange, _: &mut Gather) {
        let mut m = locked(&self.machine);
        let keys: Vec<_> = m.mapped.range(self.keys(range)).map(|(k, _)| *k).collect();
        keys.iter().for_each(|k| {
            m.mapped.remove(k);
        });
    }
    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, g: &mut Gather) {
        if prot.is_empty() {
            return self.remove(pages, range, g);
        }
        let mut m = locked(&self.machine);
        m.mapped.range_mut(self.keys(range)).for_each(|(_, t)| t.prot &= prot.hardware());
    }
    fn unwire<A: PageArray>(&self, _: &A, _: VaRange, _: &mut Gather) {}
    fn extract<A: PageArray>(&self, _pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        let m = locked(&self.machine);
        m.mapped.get(&(self.id, va.page())).map(|t| (t.page, t.prot))
    }
    fn resident_count(&self) -> u64 {
        locked(&self.machine).mapped.keys().filter(|k| k.0 == self.id).count() as u64
    }
    fn has_regions(&self) -> bool {
        true
    }
    fn region_insert(&self, range: VaRange, region: Region) -> Result<(), RegionError> {
        if !self.fuse.admit() {
            return Err(RegionError);
        }
        let mut m = locked(&self.machine);
        assert!(m.mapped.range(self.keys(range)).next().is_none(), "{range:?} is mapped");
        assert!(m.regions.range(self.keys(range)).next().is_none(), "{range:?} has a region");
        for (i, va) in range.iter().enumerate() {
            m.regions.insert((self.id, va.page()), (region.first.add(i as u64), region.prot));
        }
        Ok(())
    }
    fn region_remove<A: PageArray>(&self, pages: &A, range: VaRange, g: &mut Gather) {
        self.remove(pages, range, g);
        let mut m = locked(&self.machine);
        let keys: Vec<_> = m.regions.range(self.keys(range)).map(|(k, _)| *k).collect();
        keys.iter().for_each(|k| {
            m.regions.remove(k);
        });
    }
    fn region_protect<A: PageArray>(
        &self,
        pages: &A,
        range: VaRange,
        old: Prot,
        new: Prot,
        g: &mut Gather,
    ) -> Result<(), RegionError> {
        if !self.fuse.admit() {
            return Err(RegionError);
        }
        {
            let mut m = locked(&self.machine);
            for va in range.iter() {
                let r = m.regions.get_mut(&(self.id, va.page())).expect("a region to protect");
                assert_eq!(r.1, old, "old protection at {va:?}");
                r.1 = new;
            }
        }
        if !new.contains(old) {
            self.protect(pages, range, new, g);
        }
        Ok(())
    }
}
