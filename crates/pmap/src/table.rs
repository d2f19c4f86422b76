//! The structure beside each frame that may hold a page table.
//!
//! Entries of level-1 tables are guarded by the table's own lock; entries of upper
//! tables, and which tables there are, by the pmap's. A walk down takes no lock: it
//! ends at a frame that *was* the table it looks for, takes that frame's lock and asks
//! whether it still is ([`TableMd::is`]). That is enough because these structures
//! never move and never go away, and a table that is taken out loses its identity
//! under the same lock (it is *stray*).

use machvm_hal::Pfn;
use machvm_sync::{Field32, Field64, Rank, Spin, SpinGuard};

use crate::system::PmapId;

/// Who a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ident {
    pub(crate) pmap: PmapId,
    /// The first address it translates.
    pub(crate) va: u64,
    /// 1: its entries map pages.
    pub(crate) level: u8,
    /// Kept aside under a superpage: no walk leads here.
    pub(crate) deposited: bool,
}

/// What is known of a frame that is, was or may be a page table. 40 bytes.
///
/// Letters: \[T\] the table's lock, \[P\] the lock of the pmap it belongs to.
#[derive(Debug)]
pub struct TableMd {
    lock: Spin<()>,
    /// First virtual page number << 8 | deposited << 7 | level; 0: no table. \[T\] and
    /// \[P\] to write
    ident: Field64,
    /// The pmap. \[T\] and \[P\] to write
    pmap: Field32,
    /// Entries in use. Level 1: \[T\]; above: \[P\]
    pub(crate) children: Field32,
    /// Wired mappings and held pages below. Level 1: \[T\]; above: \[P\]
    pub(crate) eager: Field32,
    /// Next table on a list of dead tables, or 0. The list's owner
    pub(crate) link: Field64,
}

const DEPOSITED: u64 = 1 << 7;

impl Default for TableMd {
    fn default() -> Self {
        Self::new()
    }
}

impl TableMd {
    /// Of a frame that is no table.
    #[must_use]
    pub fn new() -> Self {
        TableMd {
            lock: Spin::new(Rank::Table, ()),
            ident: Field64::new(0),
            pmap: Field32::new(0),
            children: Field32::new(0),
            eager: Field32::new(0),
            link: Field64::new(0),
        }
    }

    #[track_caller]
    #[inline]
    pub(crate) fn lock(&self) -> SpinGuard<'_, ()> {
        self.lock.lock()
    }
    #[track_caller]
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<SpinGuard<'_, ()>> {
        self.lock.try_lock()
    }

    /// Is it a table now, and whose?
    #[inline]
    pub(crate) fn ident(&self) -> Option<Ident> {
        let word = self.ident.get();
        let pmap = PmapId::from_raw(self.pmap.get())?;
        (word != 0).then_some(Ident {
            pmap,
            va: (word >> 8) << 12,
            level: word as u8 & 0x7f,
            deposited: word & DEPOSITED != 0,
        })
    }
    /// Is it the level-1 table of `pmap` that begins at `va`, and in use?
    ///
    /// => the table's lock or the pmap's is held, else the answer is old.
    #[inline]
    pub(crate) fn is_leaf(&self, pmap: PmapId, va: u64) -> bool {
        self.ident.get() == (va >> 12) << 8 | 1 && self.pmap.get() == pmap.raw()
    }
    /// Becomes a table, or what it is changes.
    ///
    /// => nobody else reaches it, or both locks are held.
    #[inline]
    pub(crate) fn set_ident(&self, id: Ident) {
        let deposited = if id.deposited { DEPOSITED } else { 0 };
        self.pmap.set(id.pmap.raw());
        self.ident.set((id.va >> 12) << 8 | deposited | u64::from(id.level));
    }
    /// Becomes stray.
    ///
    /// => both locks are held.
    #[inline]
    pub(crate) fn clear_ident(&self) {
        self.ident.set(0);
        self.children.set(0);
        self.eager.set(0);
    }

    #[inline]
    pub(crate) fn next(&self) -> Option<Pfn> {
        Some(self.link.get()).filter(|n| *n != 0).map(Pfn)
    }
    #[inline]
    pub(crate) fn set_next(&self, n: Option<Pfn>) {
        self.link.set(n.map_or(0, |n| n.0));
    }
}
