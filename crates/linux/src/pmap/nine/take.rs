//! Taking mappings and rights away, by address.

use core::sync::atomic::Ordering;

use machvm_hal::pmap9::Frame;
use machvm_hal::{Gather, PageArray, Prot, RefMod, Va, VaRange};

use super::super::pv::{self, Mapping};
use super::super::shadow::{Entry, Locked, Pte, WINDOW};
use super::super::{Mmu, Pmap, Space, index, runs, sub};
use super::Ops;

/// The entries of a window, or of the part of it that is asked about.
type Entries = [Option<Entry>; WINDOW as usize];

impl Space {
    /// A mapping is wired now, or is not.
    pub(super) fn count_wired(&self, was: bool, is: bool) {
        match (was, is) {
            (false, true) => self.wired.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.wired.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Mmu {
    /// What an entry knew of its page's use is the page's from now on; `written` as well.
    ///
    /// => Linux can no longer add to it; the entry changes after this.
    pub(super) fn harvest<A: PageArray>(&self, pages: &A, entry: Entry, written: bool) {
        let Frame::Page(page) = entry.frame else { return };
        let mut bits = RefMod::empty();
        bits.set(RefMod::REFERENCED, entry.used);
        bits.set(RefMod::MODIFIED, entry.dirty || written);
        pages.md(page).bits.fetch_or(bits.bits(), Ordering::Relaxed);
    }

    /// Forgets a mapping of a page that Linux has forgotten.
    pub(super) fn drop_entry<A: PageArray>(
        &self,
        pages: &A,
        space: &Space,
        leaf: &mut Locked<'_>,
        mapping: Mapping,
        entry: Entry,
    ) {
        self.harvest(pages, entry, false);
        leaf.set(index(mapping.va()), Pte::NONE);
        if let Frame::Page(page) = entry.frame {
            pv::lock(pages.md(page), &self.records, 0).remove(mapping);
        }
        space.count_wired(entry.wired, false);
        space.resident.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<A: PageArray> Ops<'_, A> {
    /// Calls `f` with each window's locked leaf, its first address in the range and the
    /// entries from there on.
    fn windows(&self, range: VaRange, mut f: impl FnMut(&mut Locked<'_>, Va, usize, &Entries)) {
        self.pm.mmu.tables.for_each_window(self.pm.root(), range, |part| {
            let (va, n) = (part.start(), part.pages() as usize);
            let Some(mut leaf) = self.pm.lock(va) else { return };
            if leaf.present() == 0 {
                return;
            }
            let entry = |i| if i < n { Entry::of(leaf.pte(index(va) + i)) } else { None };
            let entries: Entries = core::array::from_fn(entry);
            f(&mut leaf, va, n, &entries);
        });
    }

    /// Removes the mappings of the range that `which` names.
    pub(super) fn take(&self, range: VaRange, which: impl Fn(Entry) -> bool) {
        let mmu = &self.pm.mmu;
        let managed = |e: Entry| matches!(e.frame, Frame::Page(_));
        self.windows(range, |leaf, va, n, entries| {
            let wanted = |i: usize| entries[i].filter(|e| which(*e));
            runs(n, |i| wanted(i).is_some_and(managed), |i, n| mmu.zap(sub(va, i, n)));
            runs(n, |i| wanted(i).is_some_and(|e| !managed(e)), |i, n| self.unmap_plain(sub(va, i, n)));
            for i in 0..n {
                if let Some(entry) = wanted(i) {
                    let mapping = Mapping::new(self.pm.id(), va.add(i as u64));
                    mmu.drop_entry(self.pages, self.pm.space(), leaf, mapping, entry);
                }
            }
        });
    }

    /// Takes away every right beyond `prot`, which has R.
    pub(super) fn restrict(&self, range: VaRange, prot: Prot) {
        let mmu = &self.pm.mmu;
        let mut unexecutable: Vec<VaRange> = Vec::new();
        self.windows(range, |leaf, va, n, entries| {
            let loses = |i: usize| entries[i].filter(|e| !prot.contains(e.rights));
            let page = |e: Entry| matches!(e.frame, Frame::Page(_));
            let trap = |i| !prot.contains(Prot::W) && loses(i).is_some_and(|e| e.dirty && page(e));
            runs(n, trap, |i, n| mmu.trap_writes(sub(va, i, n)));
            let fetched = |i| {
                !prot.contains(Prot::X) && loses(i).is_some_and(|e| page(e) && e.rights.contains(Prot::X))
            };
            runs(n, fetched, |i, n| unexecutable.push(sub(va, i, n)));
            for i in 0..n {
                let Some(old) = loses(i) else { continue };
                let rights = old.rights & prot;
                if !page(old) {
                    self.protect_plain(VaRange::page(va.add(i as u64)), rights);
                }
                let dirty = old.dirty && rights.contains(Prot::W);
                mmu.harvest(self.pages, Entry { used: false, dirty: false, ..old }, old.dirty && !dirty);
                leaf.set(index(va) + i, Entry { rights, dirty, ..old }.pte());
            }
        });
        for run in unexecutable {
            // Refused when splitting the region makes more VMAs than Linux has: then the
            // mappings go, which takes the right away too.
            let done = self.pm.region_protect(self.pages, run, Prot::ALL, Prot::RW, &mut Gather::new());
            if done.is_err() {
                self.take(run, |_| true);
            }
        }
    }

    /// The mappings are no longer wired.
    pub(super) fn unwire(&self, range: VaRange) {
        self.windows(range, |leaf, va, n, entries| {
            for (i, e) in entries[..n].iter().enumerate() {
                if let Some(old) = e.filter(|e| e.wired) {
                    self.pm.space().count_wired(true, false);
                    leaf.set(index(va) + i, Entry { wired: false, ..old }.pte());
                }
            }
        });
    }

    /// Forgets use, and modification too or moves it to the page. Wired mappings stay.
    pub(super) fn advise(&self, range: VaRange, forget_writes: bool) {
        let mmu = &self.pm.mmu;
        self.windows(range, |leaf, va, n, entries| {
            let plain = |e: &Entry| e.used && !e.wired && matches!(e.frame, Frame::Page(_));
            let idle = |i: usize| entries[i].filter(plain);
            runs(n, |i| idle(i).is_some(), |i, n| mmu.zap(sub(va, i, n)));
            for i in 0..n {
                let Some(old) = idle(i) else { continue };
                let new = Entry { used: false, dirty: false, ..old };
                mmu.harvest(self.pages, new, old.dirty && !forget_writes);
                leaf.set(index(va) + i, new.pte());
            }
        });
    }

    /// Gives back tables and regions of the range in which nothing is mapped.
    ///
    /// => nobody enters anything in it meanwhile.
    pub(super) fn trim(&self, range: VaRange) {
        let parts = self.pm.space().regions.lock().parts(range);
        for part in parts {
            let start = part.range.start();
            let mut spare: Vec<VaRange> = Vec::new();
            let absent = |i: usize| self.peek(start.add(i as u64)).is_none();
            runs(part.range.pages() as usize, absent, |i, n| spare.push(sub(start, i, n)));
            for run in spare {
                self.pm.with_regions(|r| r.take(run));
                self.pm.unmap(run);
            }
        }
        self.pm.mmu.tables.prune(self.pm.root(), range);
    }
}
