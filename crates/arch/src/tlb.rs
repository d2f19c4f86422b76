//! What a pmap asks of the machine.

use machvm_hal::{Pfn, Va, VaRange};

/// The hardware's address-space number (PCID, ASID). Zero where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Asid(pub u16);

/// Which translations a flush names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// A user address space. `current`: it is loaded on this CPU now, which some
    /// instructions need.
    User {
        /// Its number.
        asid: Asid,
        /// See above.
        current: bool,
    },
    /// The kernel's: global translations, valid under every number.
    Kernel,
}

/// Invalidation and switching on the CPU that calls; on machines with
/// [`Tlb::BROADCAST`] invalidation reaches all CPUs.
///
/// The order for taking rights away: write the tables, [`Tlb::before`], any number
/// of `flush_*`, [`Tlb::after`]. When `after` returns, the CPU (or all of them) has
/// nothing of what was named. On machines without broadcast the caller runs the
/// sequence on each CPU concerned.
pub trait Tlb: Sync {
    /// Does one CPU's flush reach all?
    const BROADCAST: bool;

    /// Numbers there are: `0..asids()`; 1: the machine tells spaces apart by flushing.
    fn asids(&self) -> u32;

    /// This CPU's table writes that made entries of `range` valid are seen by its walks
    /// from here on. `walks`: entries above the leaves too (a table was linked or
    /// attached). Complete by itself. Other CPUs may still fault once, see
    /// [`Tlb::spurious`]. Not for entries that were valid before.
    fn publish(&self, space: Space, range: VaRange, walks: bool);

    /// Earlier table writes are visible to every walker before the invalidations that
    /// follow.
    fn before(&self);
    /// Invalidates what is named in `range`. `walks`: also what is remembered of the
    /// tables on the way to its pages, which is enough for a table that went away when
    /// `range` holds a page it led to. More than [`Tlb::MAX_PAGES`] pages are the whole
    /// space.
    fn flush_range(&self, space: Space, range: VaRange, walks: bool);
    /// Invalidates everything of a space, tables on the way included.
    fn flush_space(&self, space: Space);
    /// Invalidates everything of every space, global translations included.
    fn flush_all(&self);
    /// The invalidations are complete.
    fn after(&self);

    /// This CPU alone forgets the page and the way to it: it faulted where the tables
    /// allow the access. Complete by itself.
    fn spurious(&self, space: Space, va: Va);

    /// This CPU walks from `root` from now on, under `asid`. `flush`: what it knew under
    /// that number is forgotten, also what it learned up to the moment of the switch
    /// (the number may be the one in use). Where there is one number only, always.
    fn switch(&self, root: Pfn, asid: Asid, flush: bool);

    /// Pages flushed one by one; above that the whole space is.
    const MAX_PAGES: u64 = 64;
}
