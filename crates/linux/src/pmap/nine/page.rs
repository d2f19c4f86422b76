//! What starts from pages: every mapping of one, in every pmap.

use core::sync::atomic::Ordering;

use machvm_hal::pmap9::{Frame, PMAP_TS_REFERENCED_MAX};
use machvm_hal::{PageArray, PageNo, Prot, RefMod, VaRange};

use super::super::pv::{self, Mapping};
use super::super::shadow::{Entry, Locked};
use super::super::{Mmu, Space, index};

impl Mmu {
    fn mappings<A: PageArray>(&self, pages: &A, page: PageNo) -> Vec<Mapping> {
        let md = pages.md(page);
        if !self.mapped(pages, page) {
            return Vec::new();
        }
        pv::lock(md, &self.records, 0).all()
    }

    pub(super) fn mapped<A: PageArray>(&self, pages: &A, page: PageNo) -> bool {
        pages.md(page).pv.load(Ordering::Acquire) != 0
    }

    pub(super) fn mapped_in<A: PageArray>(&self, pages: &A, page: PageNo, id: u32) -> bool {
        self.mappings(pages, page).iter().any(|m| m.id() == id)
    }

    /// Each mapping of the page, with its leaf locked.
    ///
    /// => the page is busy: nobody adds one.
    fn each<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        mut f: impl FnMut(&Space, &mut Locked<'_>, Mapping, Entry),
    ) {
        for m in self.mappings(pages, page) {
            let Some(space) = self.spaces.lookup(m.id()) else { continue };
            // No leaf, or not this page: gone since.
            let Some(mut leaf) = self.tables.lock(&space.root, m.id(), m.va()) else { continue };
            if let Some(entry) = Entry::of(leaf.pte(index(m.va()))).filter(|e| e.frame == Frame::Page(page)) {
                f(space, &mut leaf, m, entry);
            }
        }
    }

    /// The entries of the page's mappings, without a lock.
    pub(super) fn entries<'a, A: PageArray>(
        &'a self,
        pages: &A,
        page: PageNo,
    ) -> impl Iterator<Item = Entry> + use<'a, A> {
        self.mappings(pages, page).into_iter().filter_map(move |m| {
            let space = self.spaces.lookup(m.id())?;
            let entry = Entry::of(self.tables.peek(&space.root, m.id(), m.va())?)?;
            (entry.frame == Frame::Page(page)).then_some(entry)
        })
    }

    pub(super) fn page_take<A: PageArray>(&self, pages: &A, page: PageNo) {
        self.each(pages, page, |space, leaf, m, entry| {
            self.zap(VaRange::page(m.va()));
            self.drop_entry(pages, space, leaf, m, entry);
        });
    }

    /// Takes the right to write.
    pub(super) fn page_read_only<A: PageArray>(&self, pages: &A, page: PageNo) {
        self.each(pages, page, |_, leaf, m, old| {
            if old.dirty {
                self.trap_writes(VaRange::page(m.va()));
                self.harvest(pages, Entry { used: false, ..old }, false);
            }
            let new = Entry { rights: old.rights - Prot::W, dirty: false, ..old };
            leaf.set(index(m.va()), new.pte());
        });
    }

    /// Is this known of the page, or of a mapping?
    pub(super) fn page_knows<A: PageArray>(&self, pages: &A, page: PageNo, what: RefMod) -> bool {
        let noted = || pages.md(page).bits.load(Ordering::Acquire) & what.bits() != 0;
        let shows = |e: Entry| if what == RefMod::MODIFIED { e.dirty } else { e.used };
        // A mapping that goes meanwhile has told the page before.
        noted() || self.entries(pages, page).any(shows) || noted()
    }

    /// The page's own note, which goes.
    fn take_note<A: PageArray>(&self, pages: &A, page: PageNo, what: RefMod) -> bool {
        pages.md(page).bits.fetch_and(!what.bits(), Ordering::AcqRel) & what.bits() != 0
    }

    /// What it was. Wired mappings stay writable, and the page modified.
    pub(super) fn page_clear_modified<A: PageArray>(&self, pages: &A, page: PageNo) -> bool {
        let mut was = false;
        self.each(pages, page, |_, leaf, m, old| {
            was |= old.dirty;
            if old.dirty && !old.wired {
                self.trap_writes(VaRange::page(m.va()));
                leaf.set(index(m.va()), Entry { dirty: false, ..old }.pte());
            }
        });
        self.take_note(pages, page, RefMod::MODIFIED) | was
    }

    /// As [`PMAP_TS_REFERENCED_MAX`] says, or all of them.
    pub(super) fn page_clear_referenced<A: PageArray>(&self, pages: &A, page: PageNo, most: u32) -> u32 {
        let mut found = u32::from(self.take_note(pages, page, RefMod::REFERENCED));
        self.each(pages, page, |_, leaf, m, old| {
            if !old.used || found >= most {
                return;
            }
            found += 1;
            if !old.wired {
                self.zap(VaRange::page(m.va()));
                self.harvest(pages, Entry { used: false, ..old }, false);
                leaf.set(index(m.va()), Entry { used: false, dirty: false, ..old }.pte());
            }
        });
        found
    }

    pub(super) fn page_ts_referenced<A: PageArray>(&self, pages: &A, page: PageNo) -> u32 {
        self.page_clear_referenced(pages, page, PMAP_TS_REFERENCED_MAX)
    }
}
