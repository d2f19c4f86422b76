//! Which frame a page should get.

use crate::map::Entry;
use crate::object::Tree;
use crate::page::{At, RUN, RUN_ORDER, Wish};
use crate::platform::Platform;
use crate::vm::Vm;

use super::Place;

/// A mapping smaller than this does not get reservations: most of a run would lie
/// idle. An eighth of one, so that heaps that grow get there soon.
const WORTH: u64 = RUN / 8;

fn is_worth(entry: &Entry) -> bool {
    entry.pages() >= WORTH
}

impl<P: Platform> Vm<P> {
    /// The frame for page `index` of the object of a fault: its natural one, the one at
    /// its place in a reservation, or any. Gives an object its colour with the first page
    /// for which that matters (R07).
    ///
    /// => the object is write locked.
    pub(super) fn frame_for(&self, at: &Place<'_>, index: u64) -> At {
        let object = self.objects.get(at.object);
        if self.frames.is_sparse() {
            At::Frame(object.natural(index))
        } else if object.color().is_none() && !is_worth(at.entry) {
            At::Any
        } else {
            At::Near(Wish { object: at.object, place: index + object.color_at(at.va, at.index) })
        }
    }

    /// Page `first + k` of `[first, first + pages)`, all absent, has no reservation: should
    /// one be made? Not when a page next to these, in the same window, has a frame
    /// already: that one is not in the reservation, so it could never be full (R02).
    pub(super) fn is_fresh(&self, at: &Place<'_>, tree: &Tree, first: u64, pages: usize, k: u64) -> bool {
        let color = self.objects.get(at.object).color().unwrap_or(0);
        let window = |index: u64| (index + color) >> RUN_ORDER;
        let alone = |index: u64| {
            let resident = || self.tree_lookup(tree, index).0.and_then(|a| self.anons.get(a).page());
            window(index) != window(first + k) || resident().is_none()
        };
        is_worth(at.entry) && first.checked_sub(1).is_none_or(alone) && alone(first + pages as u64)
    }

    /// As [`Vm::is_fresh`] for a page that is copied: its neighbours will be too.
    pub(super) fn is_fresh_copy(&self, at: &Place<'_>) -> bool {
        is_worth(at.entry)
    }
}
