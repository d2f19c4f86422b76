//! The mappings of a page (`pv` list).
//!
//! The first record is inline in the page ([`PageMd::pv`]); further ones are linked
//! from [`PageMd::more`]. The list is locked by a bit of [`PageMd::bits`]; it has
//! the place of rank 50 in the lock order: a leaf's lock may be held, nothing but a
//! slab's is taken under it. A record comes and goes together with its leaf entry,
//! under the leaf's lock, so who goes from page to leaf reads a record, drops this
//! lock, locks the leaf and looks whether the entry still names the page.

use core::sync::atomic::Ordering;

use machvm_arena::{NoMemory, Slab};
use machvm_hal::{PageMd, Va};
use machvm_sync::{Field32, Field64};

use crate::chunk::LinuxChunks;

/// The lock bit in [`PageMd::bits`].
const LOCK: u32 = 1 << 8;
/// In a record: the mapping may be writable. Set when it becomes so; cleared by
/// whoever finds that it is not, or makes it so, so it can be out of date in one
/// direction only.
const MAY_WRITE: u64 = 1 << 39;

/// A mapping: pmap number, page address, and the hint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping(u64);

impl Mapping {
    pub(super) const fn new(id: u32, va: Va) -> Self {
        Mapping(((id as u64) << 40) | va.page())
    }
    pub(super) const fn id(self) -> u32 {
        (self.0 >> 40) as u32
    }
    pub(super) const fn va(self) -> Va {
        Va::from_page(self.0 & (MAY_WRITE - 1))
    }
    const fn key(self) -> u64 {
        self.0 & !MAY_WRITE
    }
}

/// A mapping beyond the first.
#[derive(Default)]
pub(super) struct Record {
    mapping: Field64,
    next: Field32,
}

/// The records of all pages.
pub(super) type Records = Slab<Record, LinuxChunks>;

/// The locked list of one page.
pub(super) struct List<'a> {
    md: &'a PageMd,
    records: &'a Records,
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        // Release: the next holder sees the list.
        self.md.bits.fetch_and(!LOCK, Ordering::Release);
    }
}

/// Locks the list of a page, and sets `refmod` bits on the way.
pub(super) fn lock<'a>(md: &'a PageMd, records: &'a Records, refmod: u32) -> List<'a> {
    let mut turn = 0u32;
    // Acquire: we see what the last holder did.
    while md.bits.fetch_or(LOCK | refmod, Ordering::Acquire) & LOCK != 0 {
        while md.bits.load(Ordering::Relaxed) & LOCK != 0 {
            turn = turn.saturating_add(1);
            if turn > 64 {
                std::thread::yield_now();
            }
            core::hint::spin_loop();
        }
    }
    List { md, records }
}

impl List<'_> {
    /// The words that hold mappings, first to last.
    fn words(&self) -> impl Iterator<Item = Word<'_>> {
        let mut next = self.md.more.load(Ordering::Relaxed);
        let first = (self.md.pv.load(Ordering::Relaxed) != 0).then_some(Word::Inline(&self.md.pv));
        first.into_iter().chain(core::iter::from_fn(move || {
            let record = self.records.lookup(next)?;
            next = record.next.get();
            Some(Word::Record(record))
        }))
    }

    /// Adds a mapping that is not in the list.
    pub(super) fn add(&self, m: Mapping, write: bool) -> Result<(), NoMemory> {
        let word = m.key() | if write { MAY_WRITE } else { 0 };
        if self.md.pv.load(Ordering::Relaxed) == 0 {
            self.md.pv.store(word, Ordering::Relaxed);
            return Ok(());
        }
        let handle = self.records.alloc()?;
        let record = self.records.get(handle);
        record.mapping.set(word);
        record.next.set(self.md.more.load(Ordering::Relaxed));
        self.md.more.store(handle.get(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes a mapping out; nothing if it is not in.
    pub(super) fn remove(&self, m: Mapping) {
        let inline = Mapping(self.md.pv.load(Ordering::Relaxed)).key() == m.key();
        let mut link: &core::sync::atomic::AtomicU32 = &self.md.more;
        loop {
            let raw = link.load(Ordering::Relaxed);
            let Some(record) = self.records.lookup(raw) else {
                // The end. An inline mapping without a successor to take its place:
                if inline {
                    self.md.pv.store(0, Ordering::Relaxed);
                }
                return;
            };
            if inline || Mapping(record.mapping.get()).key() == m.key() {
                if inline {
                    self.md.pv.store(record.mapping.get(), Ordering::Relaxed);
                }
                link.store(record.next.get(), Ordering::Relaxed);
                if let Some(raw) = core::num::NonZeroU32::new(raw) {
                    self.records.free(machvm_arena::Handle::from_raw(raw));
                }
                return;
            }
            link = record.next.atomic();
        }
    }

    /// Marks a mapping as writable, or as certainly not.
    pub(super) fn set_may_write(&self, m: Mapping, may: bool) {
        if let Some(word) = self.words().find(|w| Mapping(w.get()).key() == m.key()) {
            word.set(m.key() | if may { MAY_WRITE } else { 0 });
        }
    }

    /// The first mapping; with `may_write`, the first that may be writable.
    pub(super) fn first(&self, may_write: bool) -> Option<Mapping> {
        self.words().map(|w| w.get()).find(|w| !may_write || w & MAY_WRITE != 0).map(Mapping)
    }

    /// All mappings.
    pub(super) fn all(&self) -> Vec<Mapping> {
        self.words().map(|w| Mapping(w.get())).collect()
    }

    /// Is the mapping in the list (and, with `may_write`, perhaps writable)?
    pub(super) fn has(&self, m: Mapping, may_write: bool) -> bool {
        self.words()
            .map(|w| w.get())
            .any(|w| Mapping(w).key() == m.key() && (!may_write || w & MAY_WRITE != 0))
    }
}

/// Where a mapping is kept.
enum Word<'a> {
    Inline(&'a core::sync::atomic::AtomicU64),
    Record(&'a Record),
}

impl Word<'_> {
    fn get(&self) -> u64 {
        match self {
            Word::Inline(w) => w.load(Ordering::Relaxed),
            Word::Record(r) => r.mapping.get(),
        }
    }
    fn set(&self, word: u64) {
        match self {
            Word::Inline(w) => w.store(word, Ordering::Relaxed),
            Word::Record(r) => r.mapping.set(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Random additions and removals against a map.
    #[test]
    fn the_list_is_a_set_of_mappings() {
        let (md, records) = (PageMd::default(), Records::new(LinuxChunks, 1000));
        let mut seed = 0x1234_5678_9abc_def1u64;
        println!("seed {seed:#x}");
        let mut model = BTreeMap::new();
        for _ in 0..20_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let m = Mapping::new(1 + (seed >> 8) as u32 % 3, Va::from_page((seed >> 16) % 5));
            let list = lock(&md, &records, 0);
            match (seed % 3, model.contains_key(&m.key())) {
                (0, false) => {
                    list.add(m, seed & 64 != 0).expect("memory");
                    model.insert(m.key(), seed & 64 != 0);
                }
                (1, _) => {
                    list.remove(m);
                    model.remove(&m.key());
                }
                (2, true) => {
                    list.set_may_write(m, seed & 64 != 0);
                    model.insert(m.key(), seed & 64 != 0);
                }
                _ => {}
            }
            assert_eq!(list.words().count(), model.len());
            assert!(
                model.iter().all(|(k, w)| list.has(Mapping(*k), false) && list.has(Mapping(*k), true) == *w)
            );
            assert_eq!(list.first(true).is_some(), model.values().any(|w| *w));
        }
        for k in model.keys() {
            lock(&md, &records, 0).remove(Mapping(*k));
        }
        assert_eq!((md.pv.load(Ordering::Relaxed), md.more.load(Ordering::Relaxed)), (0, 0));
        assert_eq!((md.bits.load(Ordering::Relaxed), records.live()), (0, 0));
    }
}
