//! Commit accounting (decision 20): how much memory was promised.
//!
//! A promise is made when memory that is private and may be written is mapped, and kept by
//! who has it: an entry is charged for all of its pages or for none. When the memory
//! becomes shared its charge moves to the object, since that outlives the entry (Z62).
//! What is charged stays so until it is unmapped, whatever its protection becomes (Z61).
//! So the sum of the charges is what is reserved (invariant 8), under either policy.
//!
//! Not charged: files that modified pages go back to, foreign mappings, guards, and
//! snapshots that no map has ([`crate::map::MapCopy`]) until they are placed.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use machvm_arena::{Handle, NoMemory};

use crate::map::Entry;
use crate::object::Object;
use crate::platform::Platform;
use crate::vm::Vm;

/// How much may be promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitPolicy {
    /// Anything: a fault may find no memory.
    Overcommit,
    /// So many pages; what exceeds them is refused when it is mapped.
    Strict {
        /// Memory and swap, less what others need.
        pages: u64,
    },
}

/// The account.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Pages that may be reserved. \[a\], changed by the embedder
    limit: AtomicU64,
    /// Pages that are. \[a\]
    reserved: AtomicU64,
}

impl Default for Commit {
    fn default() -> Self {
        Commit { limit: AtomicU64::new(u64::MAX), reserved: AtomicU64::new(0) }
    }
}

impl<P: Platform> Vm<P> {
    /// Sets the policy; [`CommitPolicy::Overcommit`] at first. What is reserved already
    /// stays so, though it may be more than a new limit.
    pub fn set_commit_policy(&self, policy: CommitPolicy) {
        let limit = match policy {
            CommitPolicy::Overcommit => u64::MAX,
            CommitPolicy::Strict { pages } => pages,
        };
        self.commit.limit.store(limit, Relaxed);
    }

    /// Pages that are promised (Z61).
    pub fn committed(&self) -> u64 {
        self.commit.reserved.load(Relaxed)
    }

    /// Reserves `pages`, where `freed` that are reserved are about to be released.
    pub(crate) fn commit_take(&self, pages: u64, freed: u64) -> Result<(), NoMemory> {
        let limit = self.commit.limit.load(Relaxed);
        let fits = |now: u64| {
            let then = now.checked_add(pages)?;
            (pages <= freed || then - freed <= limit).then_some(then)
        };
        self.commit.reserved.fetch_update(Relaxed, Relaxed, fits).map(|_| ()).map_err(|_| NoMemory)
    }

    pub(crate) fn commit_release(&self, pages: u64) {
        if pages != 0 {
            let was = self.commit.reserved.fetch_sub(pages, Relaxed);
            debug_assert!(was >= pages, "more is released than was reserved");
        }
    }

    /// The entry ends: so does its charge.
    pub(crate) fn entry_uncharge(&self, e: &Entry) {
        if e.charged.get() != 0 {
            e.charged.set(0);
            self.commit_release(e.pages());
        }
    }

    /// The memory of an entry is shared from now on: its charge is the object's.
    ///
    /// => the map is write locked.
    pub(crate) fn entry_charge_to_object(&self, e: &Entry) {
        if let (Some(o), true) = (e.object.get(), e.charged.get() != 0) {
            e.charged.set(0);
            self.objects.get(o).charge.atomic().fetch_add(e.pages(), Relaxed);
        }
    }

    /// Undoes [`Vm::entry_charge_to_object`].
    ///
    /// => the map is write locked, and the memory is the entry's alone.
    pub(crate) fn entry_charge_from_object(&self, e: &Entry) {
        let Some(o) = e.object.get().filter(|_| e.charged.get() == 0) else { return };
        let less = |all: u64| all.checked_sub(e.pages());
        if self.objects.get(o).charge.atomic().fetch_update(Relaxed, Relaxed, less).is_ok() {
            e.charged.set(1);
        }
    }

    /// Nobody names the object any more.
    pub(crate) fn object_uncharge(&self, o: &Object) {
        self.commit_release(o.charge.atomic().swap(0, Relaxed));
    }

    /// Must memory of this object that may be written be charged? Not if it is `shared` and a
    /// charge of the object covers it, or if modified pages go back to a pager.
    pub(crate) fn object_needs_charge(&self, h: Handle<Object>, shared: bool) -> bool {
        let covered = shared && self.objects.get(h).charge.get() != 0;
        !covered && !self.object_is_write_back(h)
    }

    /// Invariant 8: what entries and objects are charged is what is reserved.
    ///
    /// => nothing runs in this system.
    #[doc(hidden)]
    pub fn check_commit(&self) -> Result<(), (u64, u64)> {
        let mut sum = 0;
        self.entries.for_each(|_, e| sum += if e.charged.get() != 0 { e.pages() } else { 0 });
        self.objects.for_each(|_, o| sum += o.charge.get());
        let reserved = self.committed();
        let none = self.entries.live() == 0 && self.objects.live() == 0;
        if sum == reserved && (!none || sum == 0) { Ok(()) } else { Err((sum, reserved)) }
    }
}
