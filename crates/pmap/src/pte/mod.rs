//! Page-table entry formats, as pure functions over `u64`, on every host.
//!
//! An entry read from memory is a raw word first and a typed [`Pte`] after
//! [`Format::parse`]; [`Format::emit`] is its inverse on every word it gives. Level 1
//! is the level whose leaves map 4 KiB (one granule); the root is
//! [`Format::LEVELS`].
//!
//! Frames are 4 KiB whatever the granule: where it is larger ([`Format::GRANULE_SHIFT`]
//! 14 or 16) a table and a leaf at level 1 are four or sixteen frames, and `pfn` is the
//! first of them, so a multiple of 4 or 16.
//!
//! Every word that the hardware takes for invalid is [`Pte::Absent`], whatever its other
//! bits say, except the detached tables of formats without [`Format::UPPER_RIGHTS`].
//! There are no swap entries: what is not mapped is the map's business.
//!
//! Which bit is which, and where the manuals say so: `docs/pte.md`.

use machvm_hal::{Pfn, Prot};

pub use machvm_hal::pmap9::MemAttr;

/// A mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first frame, aligned to the size of the level.
    pub pfn: Pfn,
    /// Rights, never none; [`Prot::R`] always, except that formats which can express
    /// execute-only (AArch64 for user pages, RISC-V) give it back. The others add R.
    pub prot: Prot,
    /// Reachable from user mode.
    pub user: bool,
    /// Valid in every address space.
    pub global: bool,
    /// Used since this was cleared. Where the hardware does not set it, its absence
    /// makes the next access fault.
    pub accessed: bool,
    /// Written since this was cleared. A writable clean entry is one whose first write
    /// sets this, by hardware or by a fault. It may stay without [`Prot::W`] (write
    /// access was taken, the page has not been asked yet).
    pub dirty: bool,
    /// The pmap may not forget it (software bit).
    pub wired: bool,
    /// The page records it (software bit).
    pub managed: bool,
    /// One of a run of entries that the hardware may cache as one (AArch64 contiguous
    /// bit, Svnapot); see [`Format::contiguous_bits`]. `pfn` is this entry's own frame,
    /// except that a Svnapot word has no room for its low four bits: [`Format::emit`]
    /// takes any frame of the run, [`Format::parse`] gives the first, and
    /// [`Format::own_frame`] the right one.
    pub contiguous: bool,
    /// Caching.
    pub attr: MemAttr,
}

/// A pointer to the table one level down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// The table's frame.
    pub pfn: Pfn,
    /// What is below may be written. Cleared by a fork: write access below is the AND
    /// over the path.
    pub write: bool,
    /// The hardware does not see what is below (an invalid entry that keeps the frame
    /// in bits the hardware ignores): how a fork takes write access away where upper
    /// levels have no rights. Then `write` is false.
    pub detached: bool,
}

/// What an entry means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pte {
    /// Nothing.
    Absent,
    /// A table.
    Next(Next),
    /// A mapping.
    Leaf(Leaf),
}

/// One page-table format.
pub trait Format: 'static + Send + Sync + Sized {
    /// For people.
    const NAME: &'static str;
    /// Levels; the root's number.
    const LEVELS: u8;
    /// Bits of a physical address.
    const PHYSICAL_BITS: u32;
    /// log2 of the bytes one level-1 entry maps.
    const GRANULE_SHIFT: u32 = 12;
    /// Can an upper-level entry take write access away? If not, forks detach.
    const UPPER_RIGHTS: bool;
    /// The kernel has a root of its own (AArch64: TTBR1), else its upper entries are in
    /// every root.
    const SPLIT_ROOT: bool;
    /// Must an entry that changes between a table and a mapping, or its frame, be invalid
    /// and flushed in between (Arm ARM, "break-before-make")? Where it must, one CPU's
    /// flush reaches all.
    const BREAK_BEFORE_MAKE: bool = false;
    /// The highest level at which an entry can map memory (2: 2 MiB, 3: 1 GiB).
    const MAX_LEAF_LEVEL: u8;
    /// What one granule more adds to the raw word of a leaf. Not where
    /// [`Leaf::contiguous`] is Svnapot: there the words of a run are equal.
    const LEAF_STEP: u64;

    /// log2 of the entries of a table at `level`.
    fn index_bits(_level: u8) -> u32 {
        Self::GRANULE_SHIFT - 3
    }
    /// log2 of the bytes that one entry at `level` covers.
    fn shift(level: u8) -> u32 {
        Self::GRANULE_SHIFT + (u32::from(level) - 1) * (Self::GRANULE_SHIFT - 3)
    }
    /// Entries of a table at `level`.
    fn entries(level: u8) -> usize {
        1 << Self::index_bits(level)
    }
    /// Which entry of a table at `level` leads to `va`.
    fn index(va: u64, level: u8) -> usize {
        (va >> Self::shift(level)) as usize & (Self::entries(level) - 1)
    }
    /// Is it an address of this format, in the user or in the kernel half?
    fn canonical(va: u64) -> bool;
    /// Is it in the kernel half? Only for canonical addresses.
    fn is_kernel(va: u64) -> bool {
        va >> 63 != 0
    }
    /// log2 of the entries of a [`Leaf::contiguous`] run at `level`; 0: the format has
    /// none there. A run is aligned to its size, in addresses and in frames.
    fn contiguous_bits(_level: u8) -> u32 {
        0
    }
    /// The frame of a leaf that [`Format::parse`] found in entry `index` of its table.
    fn own_frame(leaf: &Leaf, _index: usize) -> Pfn {
        leaf.pfn
    }

    /// The meaning of a word at `level`. Words the hardware would fault on are
    /// [`Pte::Absent`], unless they are detached tables.
    fn parse(raw: u64, level: u8) -> Pte;
    /// The word of a meaning. Not for meanings the format cannot express: a leaf above
    /// [`Format::MAX_LEAF_LEVEL`] or one without rights, [`Prot::W`] without R, a
    /// detached table with [`Format::UPPER_RIGHTS`], an attached one without `write`
    /// where there are none, contiguous where there are no runs, an unaligned superpage
    /// or a frame beyond the format's addresses (debug assertions; in release builds a
    /// leaf without rights is an invalid word).
    fn emit(pte: Pte, level: u8) -> u64;
}

/// `bits` if `on`.
#[inline]
const fn when(on: bool, bits: u64) -> u64 {
    if on { bits } else { 0 }
}

/// Is `va` the sign extension of its low `bits` bits?
#[inline]
const fn sign_extended(va: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    ((va << unused) as i64 >> unused) as u64 == va
}

/// The debug assertions of [`Format::emit`]. `pa_bits`: width of a physical address.
#[inline]
fn assert_expressible<F: Format>(pte: &Pte, level: u8, pa_bits: u32) {
    debug_assert!((1..=F::LEVELS).contains(&level), "{} has no level {level}", F::NAME);
    let (pfn, log2) = match pte {
        Pte::Absent => return,
        Pte::Next(n) => {
            debug_assert!(level > 1, "no table below level 1: {n:?}");
            let expressible = if F::UPPER_RIGHTS { !n.detached } else { n.write != n.detached };
            debug_assert!(expressible, "{} has no such table: {n:?}", F::NAME);
            (n.pfn.0, F::GRANULE_SHIFT)
        }
        Pte::Leaf(l) => {
            debug_assert!(level <= F::MAX_LEAF_LEVEL, "{} maps nothing at level {level}: {l:?}", F::NAME);
            debug_assert!(!l.prot.is_empty(), "no rights: {l:?}");
            debug_assert!(l.prot.contains(Prot::R) || !l.prot.contains(Prot::W), "write-only: {l:?}");
            debug_assert!(!l.contiguous || F::contiguous_bits(level) != 0, "no runs at level {level}: {l:?}");
            (l.pfn.0, F::shift(level))
        }
    };
    debug_assert!(pfn >> (pa_bits - 12) == 0, "{}: frame {pfn:#x} needs more than {pa_bits} bits", F::NAME);
    debug_assert!(pfn.trailing_zeros() >= log2 - 12, "{}: frame {pfn:#x} unaligned at {level}", F::NAME);
}

mod aarch64;
mod riscv;
#[cfg(test)]
mod tests;
mod x86;

pub use aarch64::{Aarch64, Aarch64Granule16, Aarch64Granule64};
pub use riscv::{Sv39, Sv48, Sv57};
pub use x86::{X86L4, X86L5};
