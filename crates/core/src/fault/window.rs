//! Steps as large as a superpage (decision 10), in the dense placement.
//!
//! When half of a reservation is in use, the rest of its window is filled with the next
//! fault, if there is memory to spare; and when all of a reservation is in use, its
//! pages are entered together. Both are fault-ahead, under the same rules as clusters:
//! what cannot be had is left out, and the page that faulted never depends on it.

use core::num::NonZeroU32;
use core::ops::Range;
use machvm_arena::Handle;
use machvm_hal::{PageNo, Pmap, Prot, Va};

use super::enter::writes_ahead;
use super::fill::ObjectGuard;
use super::{CLUSTER, MapGuard, Place, Step};
use crate::error::FaultError;
use crate::map::{Advice, Map};
use crate::object::{LEAF, Leaf, ObjectFlags, ObjectInner};
use crate::page::{Page, RUN, handle, number};
use crate::platform::Platform;

/// Pages of a window looked at before it is entered: a quarter of them must not be mapped,
/// or clusters do as well.
const SAMPLE: u64 = 16;

/// None taken yet.
const NO_PAGES: [PageNo; LEAF] = [PageNo(NonZeroU32::MIN); LEAF];

impl<'vm, P: Platform> Map<'vm, P> {
    /// The indices in the superpage around `at` that its entry and its leaf cover.
    fn window(at: &Place<'_>) -> Range<u64> {
        let (phase, in_leaf) = (at.va.page() % RUN, at.index % LEAF as u64);
        let below = phase.min(in_leaf).min(at.va.page() - at.start.page());
        let above = (RUN - phase).min(LEAF as u64 - in_leaf).min(at.end.page() - at.va.page());
        at.index - below..at.index + above
    }

    /// Should the window be filled now that it has these pages?
    pub(super) fn is_window_half_full(&self, at: &Place<'_>, pages: &[PageNo]) -> bool {
        let frames = &self.vm().frames;
        let frame = pages.first().map(|p| self.vm().pages.get(handle(*p)).pfn());
        let half = RUN as u32 / 2..RUN as u32;
        frame.is_some_and(|f| half.contains(&frames.run_populated(f)))
            && at.entry.advice() != Advice::Random
            && self.has_room_for_window()
    }

    /// Is there memory to spare for all of a window?
    pub(super) fn has_room_for_window(&self) -> bool {
        let frames = &self.vm().frames;
        !frames.is_sparse() && frames.free() > frames.target() + RUN
    }

    /// Places zero pages in every empty slot of the window and fills them, and `cluster`,
    /// of which `before` come before the page that faulted.
    ///
    /// => `cluster` is busy and in its slots.
    #[inline(never)] // its list of pages would be on the stack of every fault
    pub(super) fn fill_window(
        &self,
        at: &Place<'_>,
        before: u64,
        cluster: &[PageNo],
        map: MapGuard<'_, P>,
        object: ObjectGuard<'_, P>,
    ) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        let (mut list, window) = (NO_PAGES, Self::window(at));
        let n = self.place_holes(at, &window, &object, &mut list);
        // The next fault of a sequence comes at an end of the window.
        let start = at.va.page() - (at.index - window.start);
        at.entry.next_fault.set(match before {
            0 => start + (window.end - window.start),
            _ => start + CLUSTER as u64,
        });
        at.entry.cluster.set(CLUSTER as u32);
        drop((object, map));
        let done = vm.zero_run(cluster).map_err(|()| FaultError::NoMemory(at.va));
        // Whoever needs one of the others fills it again.
        let _ = vm.zero_run(&list[..n]);
        done.map(|()| Step::Again)
    }

    /// Busy pages for the empty slots of `window`, as many as can be had.
    fn place_holes(
        &self,
        at: &Place<'_>,
        window: &Range<u64>,
        object: &ObjectInner,
        list: &mut [PageNo; LEAF],
    ) -> usize {
        let vm = self.vm();
        // The cluster made the leaf this tree's own.
        let Some((leaf, _)) = vm.tree_leaf(&object.tree, at.index) else { return 0 };
        let slot = |index: u64| &leaf.slots[index as usize % LEAF];
        let empty = |index: &u64| slot(*index).get().is_none();
        let (mut index, mut n) = (window.start, 0);
        let unpaged = vm.objects.get(at.object).flags().contains(ObjectFlags::UNPAGED);
        while index < window.end {
            let hole = (index..window.end).take_while(empty).count();
            if hole == 0 {
                index += 1;
                continue;
            }
            let Ok(mut anons) = vm.anons.reserve(hole as u32) else { return n };
            let to = vm.frame_for(at, index);
            let got = vm.page_take_run(to, &mut list[n..n + hole], |_| false);
            for p in &list[n..n + got] {
                if let Some(a) = anons.take() {
                    vm.page_attach(handle(*p), a, at, index);
                    vm.anons.get(a).reset(Some(handle(*p)));
                    slot(index).set(Some(a));
                    if unpaged {
                        vm.keep_page(&object.tree, index, handle(*p));
                    }
                    index += 1;
                }
            }
            n += got;
            if got < hole {
                break;
            }
        }
        n
    }

    /// Is the page in a full reservation of which much is not mapped here with these rights?
    pub(super) fn is_window_due(&self, at: &Place<'_>, page: Handle<Page>, rights: Prot) -> bool {
        let vm = self.vm();
        let frame = vm.pages.get(page).pfn();
        let full = vm.frames.run_populated(frame) == RUN as u32 && frame.0 % RUN == at.va.page() % RUN;
        // One write does not make all of it modified; and what is being set aside should
        // stay unmapped until it is used.
        let single = at.access.contains(Prot::W) && !writes_ahead(self.vm(), at);
        if !full || single || vm.frames.free() < vm.frames.target() {
            return false;
        }
        let window = Self::window(at);
        let start = at.va.page() - (at.index - window.start);
        let absent = |page: &u64| {
            let here = self.pmap().extract(&vm.pages, Va::from_page(*page));
            here.is_none_or(|(_, had)| !had.contains(rights))
        };
        let sample = (start..start + (window.end - window.start)).step_by((RUN / SAMPLE) as usize);
        let enough = SAMPLE as usize / 4;
        sample.filter(absent).take(enough).count() == enough
    }

    /// Enters the pages of the window that can be mapped like `page`, on both sides of it
    /// as far as there is no gap.
    ///
    /// => as for `resident`.
    #[inline(never)] // as above
    pub(super) fn enter_window(
        &self,
        at: &Place<'_>,
        page: Handle<Page>,
        rights: Prot,
        map: MapGuard<'_, P>,
        object: ObjectGuard<'_, P>,
    ) -> Result<Step<'vm>, FaultError> {
        let (mut list, window) = (NO_PAGES, Self::window(at));
        // A page is at its place in the leaf.
        let place = |index: u64| index as usize % LEAF;
        list[place(at.index)] = number(page);
        let leaf = self.vm().tree_leaf(&object.tree, at.index);
        let mut take = |index: u64| {
            let got = leaf.and_then(|leaf| self.take_alike(at, index, leaf, rights, &object));
            list[place(index)] = got.map_or(list[place(index)], number);
            got.is_some()
        };
        let up = (at.index + 1..window.end).take_while(|i| take(*i)).count();
        let down = (window.start..at.index).rev().take_while(|i| take(*i)).count();
        let middle = place(at.index);
        let first: Va = at.va.sub(down as u64);
        self.enter_busy(at, page, first, &list[middle - down..=middle + up], rights, map, object)
    }

    /// The resident page at `index` in the leaf, to which the path may be shared; busy, if it may be mapped with
    /// exactly these rights.
    fn take_alike(
        &self,
        at: &Place<'_>,
        index: u64,
        (leaf, path): (&Leaf, bool),
        rights: Prot,
        object: &ObjectInner,
    ) -> Option<Handle<Page>> {
        let vm = self.vm();
        let a = leaf.slots[index as usize % LEAF].get()?;
        let p = vm.anons.get(a).page()?;
        vm.anon_busy_page(a, p).ok()?;
        let shared = path || vm.anons.get(a).is_shared();
        if vm.rights(at, object, a, p, shared, Prot::R) == rights {
            return Some(p);
        }
        vm.page_unbusy(p);
        None
    }
}
