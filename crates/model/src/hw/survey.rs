//! Everything that a root maps, and what frames are in use: for checks of whole systems.

use machvm_hal::{Pfn, Va};

use super::hardware::Hw;
use super::state::{State, Use};
use super::tree::{Translation, finish};
use super::walk::{Arch, Entry, Rights};

/// One entry that maps memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// First address.
    pub va: Va,
    /// Pages that it maps.
    pub pages: u64,
    /// Of the first page.
    pub translation: Translation,
}

impl Hw {
    /// What the tables of a root map below the kernel's half, ascending; read without side
    /// effects.
    pub fn mapped(&self, root: Pfn) -> Vec<Mapped> {
        let s = self.state();
        let mut list = Vec::new();
        s.survey(root.0, s.mmu.arch.levels(), Rights::all(), 0, &mut list);
        list
    }
    /// Memory frames in use.
    pub fn frames_in_use(&self) -> u64 {
        let s = self.state();
        s.frames.iter().filter(|f| f.used == Use::Data).count() as u64
    }
    /// Frames that are page tables now.
    pub fn tables_in_use(&self) -> u64 {
        let s = self.state();
        s.frames.iter().filter(|f| f.used == Use::Table).count() as u64
    }
}

impl State {
    fn survey(&self, table: u64, level: u8, mask: Rights, va: u64, list: &mut Vec<Mapped>) {
        let span = 1u64 << Arch::shift(level);
        // Where there is one root, its upper half is the kernel's.
        let shared = level == self.mmu.arch.levels() && !self.mmu.arch.is_arm();
        for index in 0..if shared { 256 } else { 512 } {
            let raw = self.word(table, index);
            let at = va + index as u64 * span;
            if raw == 0 {
                continue;
            }
            match self.mmu.decode(raw, level) {
                Entry::Next(n) if self.exists(n.table) => {
                    self.survey(n.table, level - 1, mask & n.mask, at, list);
                }
                Entry::Leaf(l) => list.push(Mapped {
                    va: Va::from_page(at >> 12),
                    pages: span >> 12,
                    translation: Translation {
                        pfn: l.pfn,
                        rights: finish(self.mmu.arch, l.rights & mask),
                        level,
                        accessed: l.accessed,
                        dirty: l.dirty,
                        global: l.global,
                        attr: l.attr,
                    },
                }),
                Entry::Invalid | Entry::Reserved | Entry::Next(_) => {}
            }
        }
    }
}
