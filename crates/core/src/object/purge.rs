//! Purgeable objects: contents that their owner can do without (U31, Z111).
//!
//! ```text
//!   NONVOLATILE <----> VOLATILE --(memory is short, or EMPTY is asked for)--> EMPTY
//!        ^                                                                      |
//!        +------------------- NONVOLATILE: tells that they are gone ------------+
//! ```
//! Under pressure whole objects are emptied, in the order that their owners gave:
//! group 0 before group 7, and in a group the first that became volatile, or the last
//! (LIFO). Wired pages stay until they are not wired.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, PmapPage, RemoveWhy};
use machvm_sync::Field64;

use super::{Object, ObjectFlags};
use crate::page::{FreeBatch, number};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Where a purgeable object is (`VM_PURGABLE_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purgeable {
    /// The contents count.
    NonVolatile = 0,
    /// They may go.
    Volatile = 1,
    /// They are gone.
    Empty = 2,
}

impl Purgeable {
    fn of(raw: u32) -> Self {
        match raw & 3 {
            1 => Purgeable::Volatile,
            2 => Purgeable::Empty,
            _ => Purgeable::NonVolatile,
        }
    }
}

/// Why the state of an object was neither changed nor told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PurgeError {
    /// It was not made purgeable.
    NotPurgeable,
}

/// Bits 8 to 10: the group. Bit 6: LIFO.
const GROUP: u32 = 7 << 8;
const LIFO: u32 = 1 << 6;

/// The volatile objects of a system.
#[derive(Debug, Default)]
pub(crate) struct Volatile {
    /// How many there are. \[a\]
    count: Field64,
    /// Times that one became volatile. \[a\]
    clock: Field64,
}

impl<P: Platform> Vm<P> {
    /// From now on the contents of the object may be declared volatile.
    ///
    /// => nobody else knows the object yet.
    pub(crate) fn object_make_purgeable(&self, h: Handle<Object>) {
        self.objects.get(h).flags.atomic().fetch_or(ObjectFlags::PURGEABLE.bits(), Relaxed);
    }

    /// The state of an object and the bits that were given with it.
    pub(crate) fn purge_state(&self, h: Handle<Object>, may: &mut MaySleep) -> Result<u32, PurgeError> {
        let object = self.objects.get(h);
        let _inner = object.lock.read(self.host(), may);
        let purgeable = object.flags().contains(ObjectFlags::PURGEABLE);
        purgeable.then(|| object.purge.get()).ok_or(PurgeError::NotPurgeable)
    }

    /// Sets the state; `bits` are group and order, kept while volatile. Gives the old
    /// state with its bits. VOLATILE on EMPTY stays EMPTY.
    ///
    /// => nothing is locked, and the caller has a reference.
    pub(crate) fn purge_set(
        &self,
        h: Handle<Object>,
        to: Purgeable,
        bits: u32,
        may: &mut MaySleep,
    ) -> Result<u32, PurgeError> {
        let object = self.objects.get(h);
        let old = {
            let _inner = object.lock.write(self.host(), may);
            if !object.flags().contains(ObjectFlags::PURGEABLE) {
                return Err(PurgeError::NotPurgeable);
            }
            let old = object.purge.get();
            match to {
                Purgeable::Volatile if Purgeable::of(old) == Purgeable::Empty => return Ok(old),
                Purgeable::Volatile => {
                    self.volatile_begin(object, bits);
                    object.purge.set(to as u32 | (bits & !3));
                }
                Purgeable::NonVolatile | Purgeable::Empty => {
                    self.volatile_end(object);
                    object.purge.set(to as u32);
                }
            }
            old
        };
        if to == Purgeable::Empty {
            self.object_empty(h, may);
        }
        Ok(old)
    }

    fn volatile_begin(&self, object: &Object, bits: u32) {
        let now = self.volatile.clock.atomic().fetch_add(1, Relaxed) & ((1 << 56) - 1);
        let turn = if bits & LIFO != 0 { (1 << 56) - 1 - now } else { now };
        let order = u64::from((bits & GROUP) >> 8) << 58 | turn << 1 | 1;
        if object.purge_order.atomic().swap(order, AcqRel) == 0 {
            self.volatile.count.atomic().fetch_add(1, Relaxed);
        }
    }

    /// The object is not volatile any more, if it was.
    pub(super) fn volatile_end(&self, object: &Object) {
        if object.purge_order.atomic().swap(0, AcqRel) != 0 {
            self.volatile.count.atomic().fetch_sub(1, Relaxed);
        }
    }

    /// Empties volatile objects, in their order, until `want` pages are free or none is
    /// volatile; gives how many it freed. For the page daemon, before it writes anything.
    ///
    /// => nothing is locked.
    pub fn purge_volatile(&self, want: u64, may: &mut MaySleep) -> u64 {
        let mut freed = 0;
        while freed < want {
            let Some(h) = self.next_volatile() else { break };
            let object = self.objects.get(h);
            let chosen = {
                let _inner = object.lock.write(self.host(), may);
                let chosen = object.purge_order.get() != 0;
                if chosen {
                    self.volatile_end(object);
                    object.purge.set(Purgeable::Empty as u32);
                }
                chosen
            };
            if chosen {
                freed += self.object_empty(h, may);
            }
            self.object_deallocate(h, may);
        }
        freed
    }

    /// The volatile object that goes first, with a reference.
    fn next_volatile(&self) -> Option<Handle<Object>> {
        if self.volatile.count.get() == 0 {
            return None;
        }
        let mut first: Option<(u64, Handle<Object>)> = None;
        self.objects.for_each(|h, o| {
            let order = o.purge_order.get();
            if order != 0 && first.is_none_or(|(f, _)| order < f) {
                first = Some((order, h));
            }
        });
        let (_, h) = first?;
        // Never from zero: then it is being ended (Z38).
        let refs = self.objects.get(h).refs.atomic();
        refs.fetch_update(AcqRel, Relaxed, |n| (n != 0).then_some(n + 1)).ok().map(|_| h)
    }

    /// Drops every page and swap slot of the object that is not wired; gives the pages.
    ///
    /// => nothing is locked, and the caller has a reference.
    fn object_empty(&self, h: Handle<Object>, may: &mut MaySleep) -> u64 {
        let object = self.objects.get(h);
        let (mut next, mut freed) = (0, 0);
        loop {
            let mut found = None;
            {
                let inner = object.lock.read(self.host(), may);
                self.tree_for_each(&inner.tree, next, u64::MAX - next, &mut |i, a| {
                    found = Some((i, a, self.anons.get(a).page()));
                    false
                });
            }
            let Some((index, anon, page)) = found else { break };
            let Some(p) = page else {
                let mut inner = object.lock.write(self.host(), may);
                let same = self.tree_lookup(&inner.tree, index).0 == Some(anon);
                if same && self.anons.get(anon).page().is_none() {
                    let mut batch = FreeBatch::new(self);
                    let _ = self.tree_clear(&mut inner.tree, index, 1, &mut batch);
                    next = index + 1;
                }
                continue;
            };
            match self.anon_busy_page(anon, p) {
                Ok(()) => match self.drop_page(h, (index, anon, p), may) {
                    Dropped::Yes => {
                        freed += 1;
                        next = index + 1;
                    }
                    Dropped::Wired => next = index + 1,
                    Dropped::Again => {}
                    Dropped::NoMemory => break,
                },
                Err(Some(busy)) => self.wait_page(busy, may),
                Err(None) => {}
            }
        }
        bump(&self.stats.purges, freed);
        freed
    }

    /// => `p` is busy; on return it is not.
    fn drop_page(
        &self,
        h: Handle<Object>,
        (index, anon, p): (u64, Handle<super::Anon>, Handle<crate::page::Page>),
        may: &mut MaySleep,
    ) -> Dropped {
        let (object, page) = (self.objects.get(h), self.pages.get(p));
        if page.is_kept() {
            self.page_unbusy(p);
            return Dropped::Wired;
        }
        let mut g = Gather::new();
        self.plat.pmap_page().page_remove(&self.pages, &[number(p)], RemoveWhy::Sample, &mut g);
        self.finish(g, may);
        let mut inner = object.lock.write(self.host(), may);
        let (now, path) = self.tree_lookup(&inner.tree, index);
        if now != Some(anon) {
            drop(inner);
            self.page_unbusy(p);
            return Dropped::Again;
        }
        let shared = path || self.anons.get(anon).is_shared();
        if shared && self.frames.is_sparse() && page.pfn() == object.natural(index) {
            // The copies keep it, but not at a frame that the next page here needs.
            drop(inner);
            return match self.page_to_stray(anon, p) {
                Ok(()) => Dropped::Again,
                Err(_) => Dropped::NoMemory,
            };
        }
        let done = {
            let mut batch = FreeBatch::new(self);
            self.tree_clear(&mut inner.tree, index, 1, &mut batch)
        };
        drop(inner);
        self.page_unbusy(p);
        if done.is_ok() { Dropped::Yes } else { Dropped::NoMemory }
    }
}

/// What became of one page.
enum Dropped {
    Yes,
    Wired,
    /// Something changed: look again.
    Again,
    /// A shared path could not be copied.
    NoMemory,
}
