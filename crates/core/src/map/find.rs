//! Finding space (M10) and inserting where there is some (M12, M13, M17).

use machvm_hal::{MaySleep, PAGE_SHIFT, Va, VaRange};

use super::entry::Attributes;
use super::insert::Backing;
use super::tree::Hole;
use super::{FindError, Map, MapInner};
use crate::page::RUN;
use crate::platform::Platform;

/// Holes that are large enough but do not fit the alignment, before a hole is looked
/// for that fits any alignment. Bounds the search; large enough that first fit stays
/// exact in maps that are not adversarial.
const EXACT_TRIES: u32 = 64;

/// From which end of the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The lowest place.
    LowestFirst,
    /// The highest place (Linux's layout).
    HighestFirst,
}

/// Where to look for space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Search {
    /// Not below this.
    pub min: Va,
    /// The end not above this (`max_addr`).
    pub max: Va,
    /// Alignment of the start in pages, a power of two; 1: any.
    pub align: u64,
    /// From which end.
    pub order: Order,
}

/// Where a new range goes (`VMFS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Exactly here, where nothing may be (`VMFS_NO_SPACE`; MAP_FIXED_NOREPLACE).
    At(Va),
    /// Exactly here, in place of what is there (`MAP_REMAP`; MAP_FIXED), unless some of it
    /// is permanent ([`EntryFlags::PERMANENT`](super::EntryFlags::PERMANENT)).
    Over(Va),
    /// Wherever there is space (`VMFS_ALIGNED_SPACE`); in the dense placement where
    /// superpages are possible, if there is space like that (`VMFS_OPTIMAL_SPACE`).
    Any(Search),
}

/// Addresses that are `phase` bytes, less than the alignment, behind a multiple of it.
#[derive(Clone, Copy)]
struct Align {
    /// The alignment, less one.
    mask: u64,
    phase: u64,
}

impl Align {
    /// The first at or above.
    fn up(self, va: u64) -> Option<u64> {
        va.checked_add(self.phase.wrapping_sub(va) & self.mask)
    }
    /// The last at or below.
    fn down(self, va: u64) -> Option<u64> {
        va.checked_sub(va.wrapping_sub(self.phase) & self.mask)
    }
}

impl<P: Platform> Map<'_, P> {
    /// A search of the whole map, lowest first.
    pub fn search(&self) -> Search {
        Search { min: self.min(), max: self.max(), align: 1, order: Order::LowestFirst }
    }

    /// Chooses a place and inserts there, under one lock hold (M12 `vm_map_find`).
    /// Gives the start.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`FindError`]; nothing changed.
    pub fn find(
        &self,
        place: Place,
        pages: u64,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<Va, FindError> {
        let search = match place {
            Place::At(va) => {
                let range = VaRange::of_pages(va, pages).ok_or(FindError::BadSize)?;
                return self.insert(range, backing, a, may).map(|()| va).map_err(FindError::Insert);
            }
            Place::Over(va) => {
                let range = VaRange::of_pages(va, pages).ok_or(FindError::BadSize)?;
                return self.fixed(range, backing, a, may).map(|()| va).map_err(FindError::Insert);
            }
            Place::Any(s) => s,
        };
        self.find_any(&search, pages, backing, a, may)
    }

    /// As [`Map::find`] with [`Place::Any`], at or above `hint` if there is space, else
    /// wherever the search allows (M13 `vm_map_find_min`). The two searches are two
    /// operations.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`FindError`]; nothing changed.
    pub fn find_min(
        &self,
        hint: Va,
        s: &Search,
        pages: u64,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<Va, FindError> {
        let near = Search { min: hint.max(s.min), ..*s };
        match self.find_any(&near, pages, backing, a, may) {
            Err(FindError::NoSpace) => self.find_any(s, pages, backing, a, may),
            done => done,
        }
    }

    fn find_any(
        &self,
        s: &Search,
        pages: u64,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<Va, FindError> {
        check_search(s, pages)?;
        if let Some(anywhere) = VaRange::of_pages(self.min(), pages) {
            match self.check_new(anywhere, backing, a) {
                Err(super::InsertError::Outside(_)) => return Err(FindError::NoSpace),
                other => other.map_err(FindError::Insert)?,
            }
        }
        let spare = self.edit(1, may);
        let mut edit = spare.map_err(|_| FindError::Insert(super::InsertError::NoMemory(s.min)))?;
        let phase = self.superpage_phase(s, pages, backing);
        let found = phase
            .and_then(|phase| self.hole_at_phase(&edit.inner, &Search { align: RUN, ..*s }, pages, phase))
            .or_else(|| self.find_hole(&edit.inner, s, pages))
            .ok_or(FindError::NoSpace);
        let done = found.and_then(|range| {
            edit.insert(range, backing, a, may).map(|()| range.start()).map_err(FindError::Insert)
        });
        edit.done(may);
        done
    }

    /// The first hole of `pages` in the order and between the limits of `s` (M10
    /// `vm_map_findspace`). It may be taken as soon as this returns.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn findspace(&self, s: &Search, pages: u64, may: &mut MaySleep) -> Result<Va, FindError> {
        check_search(s, pages)?;
        let inner = self.lock_read(may);
        self.find_hole(&inner, s, pages).map(VaRange::start).ok_or(FindError::NoSpace)
    }

    /// As [`Map::findspace`]; `s` is checked.
    ///
    /// => the map is at least read locked.
    pub(super) fn find_hole(&self, inner: &MapInner, s: &Search, pages: u64) -> Option<VaRange> {
        self.hole_at_phase(inner, s, pages, 0)
    }

    /// Where in a superpage a range should start so that large entries can map it (PM50
    /// `pmap_align_superpage`, `VMFS_OPTIMAL_SPACE`), in pages; `None`: it does not matter.
    /// The address has the phase of the object's pages, which have that of their frames.
    fn superpage_phase(&self, s: &Search, pages: u64, backing: Backing) -> Option<u64> {
        // Frames are tied to objects in the sparse placement, and smaller ranges hold no
        // superpage.
        if self.vm.frames.is_sparse() || pages < RUN || s.align > RUN {
            return None;
        }
        let phase = match backing {
            Backing::Anonymous => 0,
            Backing::Private(o, at) | Backing::Shared(o, at) => {
                at.0.wrapping_add(self.vm.object_color(o)) % RUN
            }
            Backing::Guard | Backing::Foreign(_) => return None,
        };
        // What was asked for comes first.
        (phase % s.align == 0).then_some(phase)
    }

    /// As [`Map::find_hole`] for a start that is `phase` pages behind a multiple of the
    /// alignment.
    fn hole_at_phase(&self, inner: &MapInner, s: &Search, pages: u64, phase: u64) -> Option<VaRange> {
        let within = VaRange::between(s.min.max(self.min()), s.max.min(self.max()))?;
        let bytes = pages.checked_mul(1 << PAGE_SHIFT).filter(|b| *b <= within.bytes())?;
        let place = Align { mask: (s.align << PAGE_SHIFT) - 1, phase: phase << PAGE_SHIFT };
        let start = match s.order {
            Order::LowestFirst => self.find_low(inner, within, bytes, place),
            Order::HighestFirst => self.find_high(inner, within, bytes, place),
        }?;
        VaRange::of_pages(start, pages)
    }

    fn find_low(&self, inner: &MapInner, within: VaRange, bytes: u64, place: Align) -> Option<Va> {
        let (slab, tree) = (&self.vm.entries, &inner.tree);
        let fit = |h: &Hole| {
            let start = place.up(h.start.max(within.start()).get())?;
            let end = start.checked_add(bytes)?;
            (end <= h.end.min(within.end()).get()).then(|| Va::from_page(start >> PAGE_SHIFT))
        };
        let mut hole = tree.hole_from(slab, within.start());
        for tries in 0u32.. {
            if let Some(va) = fit(&hole) {
                return Some(va);
            }
            if tries == EXACT_TRIES
                && let Some(sure) = tree.hole_above(slab, &hole, bytes.saturating_add(place.mask))
                && let Some(va) = fit(&sure)
            {
                return Some(va);
            }
            hole = tree.hole_above(slab, &hole, bytes).filter(|h| h.start < within.end())?;
        }
        None
    }

    fn find_high(&self, inner: &MapInner, within: VaRange, bytes: u64, place: Align) -> Option<Va> {
        let (slab, tree) = (&self.vm.entries, &inner.tree);
        let fit = |h: &Hole| {
            let start = place.down(h.end.min(within.end()).get().checked_sub(bytes)?)?;
            (start >= h.start.max(within.start()).get()).then(|| Va::from_page(start >> PAGE_SHIFT))
        };
        let mut hole = tree.hole_from(slab, within.end().sub(1));
        for tries in 0u32.. {
            if let Some(va) = fit(&hole) {
                return Some(va);
            }
            if tries == EXACT_TRIES
                && let Some(sure) = tree.hole_below(slab, &hole, bytes.saturating_add(place.mask))
                && let Some(va) = fit(&sure)
            {
                return Some(va);
            }
            hole = tree.hole_below(slab, &hole, bytes).filter(|h| h.end > within.start())?;
        }
        None
    }
}

/// What can be wrong with a search by itself.
pub(super) fn check_search(s: &Search, pages: u64) -> Result<(), FindError> {
    if pages == 0 || pages > u64::MAX >> PAGE_SHIFT {
        return Err(FindError::BadSize);
    }
    if !s.align.is_power_of_two() || s.align > 1 << (63 - PAGE_SHIFT) {
        return Err(FindError::BadAlignment);
    }
    Ok(())
}
