//! Reading trees of tables, as memory has them and without touching anything.

use super::cpu::{Cached, CachedTable, Mark};
use super::state::{Origin, State, Use, WORDS};
use super::walk::{Arch, Entry, LeafEntry, Rights};

/// What the tables say about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The frame of the page.
    pub pfn: u64,
    /// Rights, the AND over the path.
    pub rights: Rights,
    /// Level of the entry.
    pub level: u8,
    /// Used.
    pub accessed: bool,
    /// Written: a write goes through without changing the entry.
    pub dirty: bool,
    /// Valid in every space.
    pub global: bool,
    /// Memory type, in the architecture's own numbers.
    pub attr: u8,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// At an entry that is not valid, at this level.
    Nothing,
    /// At the table of the level it was to go to.
    Table { table: u32, mask: Rights },
    /// At memory.
    Leaf { leaf: LeafEntry, level: u8 },
}

/// What a walk from a cached pointer is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lead {
    /// Does it find more than the tables give?
    More,
    /// Another frame than the one that the tables map?
    Elsewhere,
    /// Any memory?
    Anywhere,
}

/// The rights that a whole path gives.
pub(crate) fn finish(arch: Arch, rights: Rights) -> Rights {
    if arch.is_x86() && rights.contains(Rights::UR) {
        // SMEP.
        rights - Rights::KX
    } else {
        rights
    }
}

impl LeafEntry {
    /// The frame of a page that it maps.
    pub(crate) fn frame(&self, vpn: u64) -> u64 {
        self.pfn | vpn & ((1 << self.run) - 1)
    }
}

impl State {
    /// Walks from a table down to the table at level `to` (0: to the memory).
    #[inline]
    pub(crate) fn descend(&self, root: u32, va: u64, to: u8) -> End {
        self.descend_from(root, self.mmu.arch.levels(), Rights::all(), va, to)
    }

    #[inline]
    pub(crate) fn descend_from(&self, table: u32, level: u8, mask: Rights, va: u64, to: u8) -> End {
        let (mut table, mut level, mut mask) = (table, level, mask);
        let mut global = false;
        while level > to {
            match self.mmu.decode(self.word(u64::from(table), Arch::index(va, level)), level) {
                Entry::Invalid | Entry::Reserved => return End::Nothing,
                Entry::Next(n) => {
                    if !self.exists(n.table) {
                        return End::Nothing;
                    }
                    (table, mask, global) = (n.table as u32, mask & n.mask, global | n.global);
                    level -= 1;
                }
                Entry::Leaf(mut leaf) => {
                    leaf.rights = finish(self.mmu.arch, leaf.rights & mask);
                    leaf.global |= global;
                    return End::Leaf { leaf, level };
                }
            }
        }
        End::Table { table, mask }
    }

    /// What the tables of a root say.
    pub(crate) fn translate(&self, root: u32, va: u64) -> Option<Translation> {
        if !self.mmu.arch.canonical(va) {
            return None;
        }
        match self.descend(root, va, 0) {
            End::Leaf { leaf, level } => Some(Translation {
                pfn: leaf.frame(va >> 12),
                rights: leaf.rights,
                level,
                accessed: leaf.accessed,
                dirty: leaf.dirty,
                global: leaf.global,
                attr: leaf.attr,
            }),
            _ => None,
        }
    }

    /// Does the translation give more than the tables do, for some page of
    /// `[start, end)`? Which.
    pub(crate) fn excess(&self, cpu: usize, e: &Cached, start: u64, end: u64) -> Option<u64> {
        if e.mark.contains(Mark::NOTHING) {
            return None;
        }
        let (start, end) = (start.max(e.vpn), end.min(e.vpn + (1 << e.log2)));
        let Some(root) = self.root_of(e.origin, cpu) else {
            // The kernel's root is not known: nothing can be said. A space that is gone
            // allows nothing.
            return (e.origin != Origin::KERNEL && start < end).then_some(start);
        };
        let mut vpn = start;
        while vpn < end {
            let End::Leaf { leaf, level } = self.descend(root, vpn << 12, 0) else { return Some(vpn) };
            if leaf.frame(vpn) != e.frame(vpn) || exceeds(e, &leaf) {
                return Some(vpn);
            }
            // The rest of the entry is like this page.
            let size = 9 * (level - 1);
            vpn = ((vpn >> size) + 1) << size;
        }
        None
    }

    /// Could a walk from the cached pointer give more than the tables do?
    pub(crate) fn excess_table(&self, cpu: usize, e: &CachedTable, start: u64, end: u64) -> Option<u64> {
        self.lead(cpu, e, start, end, Lead::More)
    }

    /// The first page of `[start, end)` for which a walk from the cached pointer finds what
    /// is asked for, if the pointer is not what the tables say.
    pub(crate) fn lead(&self, cpu: usize, e: &CachedTable, start: u64, end: u64, what: Lead) -> Option<u64> {
        let (start, end) = (start.max(e.vpn), end.min(e.vpn + (1 << e.log2())));
        let root = self.root_of(e.origin, cpu);
        if let Some(root) = root
            && let End::Table { table, mask } = self.descend(root, e.vpn << 12, e.level)
            && table == e.table
            && mask.contains(e.mask)
        {
            return None;
        }
        if root.is_none() && e.origin == Origin::KERNEL {
            return None;
        }
        let dead = self.frames.get(e.table as usize).is_none_or(|f| f.used != Use::Table);
        if dead {
            return (what == Lead::More).then_some(start);
        }
        self.lead_below(root, e.table, e.level, e.mask, (e.vpn, start, end), what)
    }

    fn lead_below(
        &self,
        root: Option<u32>,
        table: u32,
        level: u8,
        mask: Rights,
        (base, start, end): (u64, u64, u64),
        what: Lead,
    ) -> Option<u64> {
        let step = 1u64 << (9 * (level - 1));
        let from = start.max(base).saturating_sub(base) / step;
        for i in from..WORDS as u64 {
            let vpn = base + i * step;
            if vpn >= end {
                break;
            }
            let raw = self.word(u64::from(table), i as usize);
            if raw == 0 {
                continue;
            }
            match self.mmu.decode(raw, level) {
                Entry::Invalid | Entry::Reserved => {}
                Entry::Next(n) if self.exists(n.table) => {
                    let at = (vpn, start, end);
                    let found = self.lead_below(root, n.table as u32, level - 1, mask & n.mask, at, what);
                    if found.is_some() {
                        return found;
                    }
                }
                Entry::Next(_) => {}
                Entry::Leaf(mut l) => {
                    l.rights = finish(self.mmu.arch, l.rights & mask);
                    let first = vpn.max(start);
                    let end = end.min(vpn + step);
                    if let Some(at) = (first..end).find(|v| self.differs(root, &l, *v, what)) {
                        return Some(at);
                    }
                }
            }
        }
        None
    }

    /// Is a leaf found on a stale way what is asked for?
    fn differs(&self, root: Option<u32>, l: &LeafEntry, vpn: u64, what: Lead) -> bool {
        let now = root.map(|r| self.descend(r, vpn << 12, 0));
        match (what, now) {
            (Lead::Anywhere, _) => true,
            (_, Some(End::Leaf { leaf, .. })) if leaf.frame(vpn) == l.frame(vpn) => {
                what == Lead::More && more(l.rights, l.dirty, &leaf)
            }
            (_, Some(End::Leaf { .. })) => true,
            _ => what == Lead::More,
        }
    }
}

fn exceeds(e: &Cached, now: &LeafEntry) -> bool {
    more(e.rights, e.mark.contains(Mark::DIRTY), now)
}

/// Writing without a look at the table counts only if the table allows it without being
/// changed; writing through a clean translation looks first.
fn more(rights: Rights, dirty: bool, now: &LeafEntry) -> bool {
    let mut had = rights;
    if !dirty {
        had -= Rights::WRITE;
    }
    let mut has = now.rights;
    if !now.dirty {
        has -= Rights::WRITE;
    }
    !has.contains(had)
}
