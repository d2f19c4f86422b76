//! Frames, translations and the walker: one state behind one lock, so that every
//! access is atomic and every check sees all of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machvm_hal::{PAGE_SIZE, PageArray, PageNo, Pfn, Prot, RefMod, Va, VaRange};

use crate::host::ModelHost;
use crate::inject::Injector;
use crate::machine::Config;
use crate::rng::Rng;

/// What never-written bytes of a frame hold: garbage, so that a missing zeroing shows.
pub(crate) const GARBAGE: u8 = 0xa5;

/// In `PageMd::pv`: a translation of the page was removed and perhaps not flushed.
const PENDING: u64 = 1 << 32;

pub(crate) type Frame = Box<[u8; PAGE_SIZE as usize]>;

/// One translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pte {
    pub(crate) page: PageNo,
    pub(crate) pfn: Pfn,
    pub(crate) prot: Prot,
    pub(crate) wired: bool,
}

/// A region as the core announced it: `[start, end)` in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RegionEntry {
    pub(crate) end: u64,
    pub(crate) first: Pfn,
    pub(crate) prot: Prot,
}

#[derive(Debug, Default)]
pub(crate) struct Space {
    pub(crate) ptes: BTreeMap<u64, Pte>,
    pub(crate) regions: BTreeMap<u64, RegionEntry>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sparse: bool,
    pub(crate) reference_bits: bool,
    /// Resident (sparse) or allocated and filled (dense) frames.
    pub(crate) frames: HashMap<u64, Frame>,
    /// Next unused frame number (sparse).
    pub(crate) next_extent: u64,
    /// Extents given back, by size.
    pub(crate) extents: HashMap<u64, Vec<u64>>,
    pub(crate) spaces: HashMap<u32, Space>,
    /// All translations of a page.
    pub(crate) mappings: HashMap<u32, Vec<(u32, u64)>>,
    /// Translations taken away or weakened and not flushed yet: still usable.
    pub(crate) stale: HashMap<(u32, u64), Pte>,
    pub(crate) next_space: u32,
    pub(crate) rng: Rng,
}

/// How a program touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access<'a> {
    /// Writes these bytes.
    Store(&'a [u8]),
    /// Reads for execution.
    Fetch,
}

/// The machine's memory and MMU.
#[derive(Debug)]
pub struct Hardware {
    state: Mutex<State>,
    pub(crate) host: Arc<ModelHost>,
    pub(crate) inject: &'static Injector,
    /// One enter in so many makes the pmap forget some mapping; 0: never.
    pub(crate) forget: u64,
}

impl Hardware {
    pub(crate) fn new(host: Arc<ModelHost>, inject: &'static Injector, c: Config) -> Self {
        let state = State {
            sparse: c.sparse,
            reference_bits: c.reference_bits,
            frames: HashMap::new(),
            next_extent: 1 << 20,
            extents: HashMap::new(),
            spaces: HashMap::new(),
            mappings: HashMap::new(),
            stale: HashMap::new(),
            next_space: 1,
            rng: Rng::new(c.seed),
        };
        Hardware { state: Mutex::new(state), host, inject, forget: c.forget }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames that hold contents now.
    pub fn resident(&self) -> u64 {
        self.state().frames.len() as u64
    }
    /// Translations that were taken away and not flushed.
    pub fn stale(&self) -> usize {
        self.state().stale.len()
    }

    /// One access inside a page, as the CPU would do it: through the translation, or
    /// through a stale one. `None`: it faults.
    pub fn load<A: PageArray>(
        &self,
        pages: &A,
        space: u32,
        va: Va,
        off: usize,
        buf: &mut [u8],
    ) -> Option<()> {
        let mut s = self.state();
        let pte = s.walk(pages, space, va, Prot::R)?;
        buf.copy_from_slice(&s.frame(pte.pfn, "loaded from")[off..off + buf.len()]);
        Some(())
    }

    /// As [`Hardware::load`].
    pub fn touch<A: PageArray>(
        &self,
        pages: &A,
        space: u32,
        va: Va,
        off: usize,
        access: Access<'_>,
    ) -> Option<()> {
        let mut s = self.state();
        match access {
            Access::Store(data) => {
                let pte = s.walk(pages, space, va, Prot::W)?;
                s.frame(pte.pfn, "stored to")[off..off + data.len()].copy_from_slice(data);
            }
            Access::Fetch => {
                let pte = s.walk(pages, space, va, Prot::X)?;
                s.frame(pte.pfn, "executed");
            }
        }
        Some(())
    }
}

impl State {
    /// The contents of a frame that must be there.
    pub(crate) fn frame(&mut self, f: Pfn, what: &str) -> &mut [u8; PAGE_SIZE as usize] {
        match self.frames.get_mut(&f.0) {
            Some(frame) => frame,
            None => panic!("frame {:#x} is {what} but not resident", f.0),
        }
    }

    fn walk<A: PageArray>(&mut self, pages: &A, space: u32, va: Va, need: Prot) -> Option<Pte> {
        let live = self.spaces.get(&space).and_then(|s| s.ptes.get(&va.page()).copied());
        let stale = self.stale.get(&(space, va.page())).copied();
        // A CPU may have either in its TLB.
        let order = if self.rng.one_in(2) { [stale, live] } else { [live, stale] };
        let pte = order.into_iter().flatten().find(|p| p.prot.contains(need))?;
        let mut bits = if self.reference_bits { RefMod::REFERENCED } else { RefMod::empty() };
        if need.contains(Prot::W) {
            bits |= RefMod::MODIFIED;
        }
        pages.md(pte.page).bits.fetch_or(bits.bits(), std::sync::atomic::Ordering::SeqCst);
        Some(pte)
    }

    /// Stores what the core sees of a page's mappings: how many there are, and whether
    /// some that are gone may still be in a TLB. The second stays until the page's
    /// mappings are removed (a flush does not know pages).
    pub(crate) fn count<A: PageArray>(&self, pages: &A, page: PageNo) {
        let live = self.mappings.get(&page.0.get()).map_or(0, |l| l.len() as u64);
        let pending = self.stale.values().any(|p| p.page == page);
        pages
            .md(page)
            .pv
            .store(live | if pending { PENDING } else { 0 }, std::sync::atomic::Ordering::SeqCst);
    }

    /// Takes a translation out of the table; it stays usable until flushed.
    pub(crate) fn unmap<A: PageArray>(
        &mut self,
        pages: &A,
        space: u32,
        page: u64,
        stale: bool,
    ) -> Option<Pte> {
        let pte = self.spaces.get_mut(&space)?.ptes.remove(&page)?;
        if stale {
            self.note_stale(space, page, pte);
        }
        self.forget_mapping(pages, pte.page, space, page);
        Some(pte)
    }

    pub(crate) fn note_stale(&mut self, space: u32, page: u64, pte: Pte) {
        let slot = self.stale.entry((space, page)).or_insert(pte);
        if slot.pfn == pte.pfn {
            slot.prot |= pte.prot;
        } else {
            panic!("page {page:#x} of space {space}: two frames in flight, {slot:?} and {pte:?}");
        }
    }

    fn forget_mapping<A: PageArray>(&mut self, pages: &A, page: PageNo, space: u32, va: u64) {
        let list = self.mappings.get_mut(&page.0.get()).expect("a mapping without a record");
        list.retain(|m| *m != (space, va));
        if list.is_empty() {
            self.mappings.remove(&page.0.get());
        }
        self.count(pages, page);
    }

    pub(crate) fn map<A: PageArray>(&mut self, pages: &A, space: u32, va: u64, pte: Pte) {
        let list = self.mappings.entry(pte.page.0.get()).or_default();
        list.push((space, va));
        self.count(pages, pte.page);
        self.spaces.get_mut(&space).expect("a live space").ptes.insert(va, pte);
    }

    /// The region that contains a page.
    pub(crate) fn region(&self, space: u32, page: u64) -> Option<(u64, RegionEntry)> {
        let (start, r) = self.spaces.get(&space)?.regions.range(..=page).next_back()?;
        (page < r.end).then_some((*start, *r))
    }

    /// Cuts regions at a page.
    pub(crate) fn cut_region(&mut self, space: u32, at: u64) {
        if let Some((start, r)) = self.region(space, at)
            && start != at
        {
            let regions = &mut self.spaces.get_mut(&space).expect("a live space").regions;
            regions.insert(start, RegionEntry { end: at, ..r });
            regions.insert(at, RegionEntry { first: r.first.add(at - start), ..r });
        }
    }

    /// The regions inside a range that was cut at both ends.
    pub(crate) fn regions_in(&mut self, space: u32, range: VaRange) -> Vec<u64> {
        self.cut_region(space, range.start().page());
        self.cut_region(space, range.end().page());
        let regions = &self.spaces.get(&space).expect("a live space").regions;
        regions.range(range.start().page()..range.end().page()).map(|(s, _)| *s).collect()
    }
}
