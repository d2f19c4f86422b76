//! What stands behind addresses, in numbers: for `vm_region` and the page queries
//! (U22 to U25).

use core::ops::ControlFlow;
use machvm_arena::Handle;
use machvm_hal::{MaySleep, Pfn, Prot, Va, VaRange};

use super::entry::{EntryFlags, EntryInfo, Kind};
use super::tree::Tree;
use super::{CopyWhy, Map, MapInner};
use crate::object::{Census, Object};
use crate::platform::Platform;

/// How much of a region is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// What the entry and its object say: the cost does not depend on the size.
    Short,
    /// Every page too.
    Pages,
}

/// One entry, with what its object knows of it. A snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionFacts {
    /// The entry.
    pub entry: EntryInfo,
    /// References of the object; 0: there is none.
    pub references: u32,
    /// Entries of this map that name the object. Counted for shared objects only.
    pub aliases: u32,
    /// Others may see what is stored here, and the object has other users.
    pub shared: bool,
    /// Contents come from a pager, or are the machine's own.
    pub external: bool,
    /// The pages, if they were counted.
    pub pages: Census,
}

impl<P: Platform> Map<'_, P> {
    /// The first entry that ends above `va`.
    ///
    /// => no lock is held.
    pub fn region_from(&self, va: Va, detail: Detail, may: &mut MaySleep) -> Option<RegionFacts> {
        let inner = self.lock_read(may);
        let h = inner.tree.at_or_above(&self.vm.entries, va)?;
        let entry = self.info_of(h)?;
        Some(self.facts(&inner, entry, entry.range, detail, may))
    }

    /// As [`Map::region_from`], submaps looked through; and how deep the entry lies: 1 in a
    /// submap, else 0.
    ///
    /// => no lock is held.
    pub fn region_through(&self, va: Va, detail: Detail, may: &mut MaySleep) -> Option<(RegionFacts, u32)> {
        let inner = self.lock_read(may);
        loop {
            let seen = self.see_from(&inner, va, may)?;
            // Gone from a submap meanwhile: what is next is looked for again.
            let Some(seen) = seen else { continue };
            let (entry, depth) = (seen.info()?, u32::from(seen.view.is_some()));
            let of = seen.view.as_ref().map_or(&*inner, |(_, submap)| &**submap);
            return Some((self.facts(of, entry, entry.range, detail, may), depth));
        }
    }

    /// What is true of the part of the entry at `va` that lies in `within`. `None`:
    /// nothing is mapped at `va`.
    ///
    /// => no lock is held.
    pub fn facts_at(&self, va: Va, within: VaRange, may: &mut MaySleep) -> Option<RegionFacts> {
        let inner = self.lock_read(may);
        let seen = self.see(&inner, va, may)?;
        let entry = seen.info()?;
        let part = entry.range.intersect(within)?;
        let of = seen.view.as_ref().map_or(&*inner, |(_, submap)| &**submap);
        Some(self.facts(of, entry, part, Detail::Pages, may))
    }

    /// The frame of the page at `va`, if there is one in memory.
    ///
    /// => no lock is held; unless the page is wired the answer may be old at once.
    pub fn frame_at(&self, va: Va, may: &mut MaySleep) -> Option<Pfn> {
        let inner = self.lock_read(may);
        let seen = self.see(&inner, va, may)?;
        self.vm.object_frame(seen.entry.object.get()?, seen.pindex(va), may)
    }

    /// The entry at `va` and its object, with a reference of the caller's.
    ///
    /// => no lock is held.
    pub(crate) fn object_at(
        &self,
        va: Va,
        may: &mut MaySleep,
    ) -> Option<(EntryInfo, Option<Handle<Object>>)> {
        let inner = self.lock_read(may);
        let seen = self.see(&inner, va, may)?;
        let entry = seen.info()?;
        entry.object.inspect(|o| self.vm.object_reference(*o));
        Some((entry, entry.object))
    }

    fn facts(
        &self,
        inner: &MapInner,
        entry: EntryInfo,
        part: VaRange,
        detail: Detail,
        may: &mut MaySleep,
    ) -> RegionFacts {
        let mut f = RegionFacts {
            entry,
            references: 0,
            aliases: 0,
            shared: entry.kind == Kind::Foreign,
            external: entry.kind == Kind::Foreign,
            pages: Census::default(),
        };
        let Some(o) = entry.object else { return f };
        let about = self.vm.object_about(o, may);
        (f.references, f.external) = (about.references, about.external);
        f.shared = entry.flags.contains(EntryFlags::SHARED) && about.references > 1;
        if detail == Detail::Pages {
            f.pages = self.vm.object_census(o, entry.pindex(part.start()).0, part.pages(), may);
            f.aliases = if f.shared { self.count_aliases(inner, entry) } else { 1 };
        }
        f
    }

    fn count_aliases(&self, inner: &MapInner, entry: EntryInfo) -> u32 {
        let slab = &self.vm.entries;
        core::iter::successors(inner.tree.first(), |h| Tree::next(slab, *h))
            .filter(|h| slab.get(*h).object.get() == entry.object)
            .count() as u32
    }

    /// Is all of `range` memory with these rights? The first address where it is not,
    /// and why. Says nothing of the next moment.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// `Hole`, `Protection` or `Foreign`.
    pub fn check_access(&self, range: VaRange, need: Prot, may: &mut MaySleep) -> Result<(), (Va, CopyWhy)> {
        if range.start() < self.min() {
            return Err((range.start(), CopyWhy::Hole));
        }
        let inner = self.lock_read(may);
        let mut at = range.start();
        let found = self.each_part(&inner, range, may, &mut |part, _| {
            if part.range.start() > at {
                return ControlFlow::Break((at, CopyWhy::Hole));
            }
            match part.entry.kind() {
                Kind::Foreign => return ControlFlow::Break((at, CopyWhy::Foreign)),
                Kind::Object if part.entry.prot().contains(need) => {}
                _ => return ControlFlow::Break((at, CopyWhy::Protection)),
            }
            at = part.range.end();
            ControlFlow::Continue(())
        });
        match found {
            ControlFlow::Break(e) => Err(e),
            ControlFlow::Continue(()) if at < range.end() => Err((at, CopyWhy::Hole)),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// What a copy from or to `range` has to look out for.
    ///
    /// => no lock is held.
    pub(crate) fn sources_in(&self, range: VaRange, may: &mut MaySleep) -> Sources {
        let inner = self.lock_read(may);
        let mut all = Sources::default();
        let _ = self.each_part::<()>(&inner, range, may, &mut |part, may| {
            if let Some(o) = part.entry.object.get() {
                let wired = part.entry.wired.get() != 0;
                all.pager |= self.vm.object_has_pager(o, may);
                all.by_bytes |= self.vm.object_is_write_back(o) || wired;
                // What a submap has may be at several addresses.
                all.aliased |= part.entry.is_shared() || part.through;
                all.wired |= wired;
            }
            ControlFlow::Continue(())
        });
        all
    }
}

/// See [`Map::sources_in`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sources {
    /// Absent contents are a pager's.
    pub(crate) pager: bool,
    /// No snapshot: modified pages go back to a pager, so that what is absent could
    /// change, or the memory is wired and must not fault later (Z48).
    pub(crate) by_bytes: bool,
    /// The memory may be mapped elsewhere in the same map too.
    pub(crate) aliased: bool,
    /// Some of it is wired.
    pub(crate) wired: bool,
}
