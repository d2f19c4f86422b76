//! `pmap(9)`: the machine-dependent interface under the names of its manual pages.
//!
//! Who knows OpenBSD's, NetBSD's or FreeBSD's `pmap(9)` finds each function here under
//! its name, with Rust types; `docs/pmap.md` is the table from manual to method, with
//! the differences. The core does not use this: it uses [`crate::Pmap`], where what is
//! to be flushed is a value.
//!
//! [`PmapMachine`] is the machine (the kernel's mappings, and everything that starts
//! from a page), [`Pmap9`] one address space, [`PmapBootstrap`] what has a meaning only
//! where a kernel boots. A value of these types holds what the functions need besides
//! their arguments: the page array and the way to physical memory.
//!
//! # When the hardware obeys
//!
//! *Lazy* methods ([`Pmap9::pmap_enter`], `pmap_remove`, `pmap_protect`, `pmap_unwire`,
//! [`PmapMachine::pmap_kenter_pa`], `pmap_kremove`, `pmap_qenter`, `pmap_qremove`) may
//! leave old translations in use until [`Pmap9::pmap_update`] of the pmap they changed
//! returns (contract rule 8, Z130). *Immediate* ones have done their work everywhere
//! when they return; those that wait for other CPUs take [`crate::MaySleep`]. Page tables are
//! given back only after the flush, whenever that is.
//!
//! # Lock state
//!
//! Unless a method says otherwise: the caller holds no spin lock, has the page busy
//! (methods that name pages and are not questions), and keeps others from changing the
//! same addresses (methods that name addresses; the map's lock does). Questions about
//! pages are right at some moment of the call; they are exact while the page is busy
//! and no mapping of it allows writing.

mod machine;
mod space;

use crate::addr::{PAGE_MASK, PAGE_SHIFT, Pfn, RawAddr, Va};
use crate::pmap::PageNo;
use crate::prot::Prot;

pub use machine::{PmapBootstrap, PmapMachine, QuickPage};
pub use space::Pmap9;

bitflags::bitflags! {
    /// `flags` of [`Pmap9::pmap_enter`]: how, in the manuals' bits, and in the low bits
    /// the kind of access that caused it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PmapFlags: u32 {
        /// Because of a read.
        const ACCESS_READ = 1;
        /// Because of a write: the page is modified from now on.
        const ACCESS_WRITE = 2;
        /// Because of a fetch.
        const ACCESS_EXECUTE = 4;
        /// The mapping stays until it is removed or unwired, and no access to it
        /// faults: pass every access that may come (contract rule 6).
        const PMAP_WIRED = 0x10;
        /// FreeBSD's name for [`PmapFlags::PMAP_WIRED`], where it is 0x200.
        const PMAP_ENTER_WIRED = Self::PMAP_WIRED.bits();
        /// Give an error where otherwise a failure panics.
        const PMAP_CANFAIL = 0x20;
        /// FreeBSD's name: its error is KERN_RESOURCE_SHORTAGE. Nothing here sleeps for
        /// memory, so it is the same.
        const PMAP_ENTER_NOSLEEP = Self::PMAP_CANFAIL.bits();
        /// A large mapping that is never broken up (FreeBSD; [`Pmap9::pmap_enter_psind`]).
        const PMAP_ENTER_LARGEPAGE = 0x400;
        /// A large mapping does not displace small ones (FreeBSD;
        /// [`Pmap9::pmap_enter_psind`]).
        const PMAP_ENTER_NOREPLACE = 0x800;
        /// Uncached, strictly ordered: device registers.
        const PMAP_NOCACHE = 1 << 24;
        /// Write combining.
        const PMAP_WRITE_COMBINE = 1 << 25;
    }

    /// What [`Pmap9::pmap_mincore`] says, in FreeBSD's bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Mincore: u32 {
        /// A page is mapped there.
        const INCORE = 1;
        /// Used through this mapping.
        const REFERENCED = 2;
        /// Written through this mapping.
        const MODIFIED = 4;
        /// Used, however.
        const REFERENCED_OTHER = 8;
        /// Written, however.
        const MODIFIED_OTHER = 0x10;
        /// By a superpage of size index 1.
        const PSIND1 = 0x20;
        /// By one of size index 2.
        const PSIND2 = 0x40;
    }
}

impl PmapFlags {
    /// The kind of access in the low bits.
    pub const fn access(self) -> Prot {
        Prot::from_bits_truncate(self.bits() as u8)
    }
    /// With a kind of access.
    #[must_use]
    pub const fn accessed_by(self, access: Prot) -> Self {
        self.union(PmapFlags::from_bits_truncate(access.bits() as u32))
    }
    /// How the mapping is cached.
    pub const fn attr(self) -> MemAttr {
        if self.contains(PmapFlags::PMAP_NOCACHE) {
            MemAttr::Device
        } else if self.contains(PmapFlags::PMAP_WRITE_COMBINE) {
            MemAttr::WriteCombining
        } else {
            MemAttr::WriteBack
        }
    }
}

/// How a mapping is cached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum MemAttr {
    /// Ordinary memory.
    #[default]
    WriteBack,
    /// Write combining (x86-64), normal non-cacheable (Arm), `NC` (Svpbmt).
    WriteCombining,
    /// Uncached and strictly ordered: device registers.
    Device,
}

/// A physical address in bytes (`paddr_t`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysAddr(pub u64);

impl PhysAddr {
    /// The address `at` of a page that is the frame `pfn`.
    pub const fn new(pfn: Pfn, at: RawAddr) -> Self {
        PhysAddr(pfn.byte() | at.0 & PAGE_MASK)
    }
    /// The frame it lies in.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl core::fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PhysAddr({:#x})", self.0)
    }
}

/// What a mapping leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A page: the mapping is *managed* (recorded, its use noted).
    Page(PageNo),
    /// A frame of a device, or memory that is nobody's page: the mapping is
    /// *unmanaged*. Functions that start from pages do not reach it (Z137).
    Unmanaged(Pfn),
}

impl From<PageNo> for Frame {
    fn from(page: PageNo) -> Self {
        Frame::Page(page)
    }
}

/// What was short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// A frame for a page table.
    Table,
    /// Memory for the record of a mapping (`pv_entry`).
    Record,
    /// Something the operating system below did not give.
    Host,
}

/// Why [`Pmap9::pmap_enter`] failed. An older mapping of *another* page at the address
/// is gone, one of the same page is as it was (Z134).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnterFailed {
    /// `ENOMEM`, `KERN_RESOURCE_SHORTAGE`.
    NoMemory {
        /// Where.
        va: Va,
        /// Of what.
        short: Shortage,
    },
    /// This machine cannot map this frame at this address: no such memory, or (sparse
    /// placement) not the natural frame.
    Foreign {
        /// Where.
        va: Va,
    },
}

/// Why [`Pmap9::pmap_enter_psind`] failed; nothing changed, except that small mappings may
/// be gone when memory was short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargeFailed {
    /// The machine has no pages of this size index here.
    NoSuchSize {
        /// As asked.
        psind: u8,
    },
    /// Address or first frame is not a multiple of the size.
    Unaligned {
        /// The address.
        va: Va,
        /// The frame.
        pfn: Pfn,
    },
    /// The frames are not consecutive pages of the page array.
    NotContiguous {
        /// The first that is not.
        pfn: Pfn,
    },
    /// `KERN_FAILURE`: small mappings are there, and they may not be displaced or are
    /// wired.
    Occupied {
        /// The first of them.
        va: Va,
    },
    /// `KERN_NO_SPACE`: a large mapping is there already.
    AlreadyLarge {
        /// Its first address.
        va: Va,
    },
    /// `KERN_RESOURCE_SHORTAGE`.
    NoMemory {
        /// Of what.
        short: Shortage,
    },
}

/// No memory for a pmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PmapCreateFailed;

/// Why [`PmapMachine::pmap_page_set_memattr`] refused; nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemAttrFailed {
    /// The machine has no such mode (`pmap_is_valid_memattr` is false).
    Unsupported(MemAttr),
    /// Mappings of the page have the old mode.
    Mapped(PageNo),
}

/// Advice of [`Pmap9::pmap_advise`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// `MADV_DONTNEED`: not needed soon. Forgets use; modified moves to the page.
    DontNeed,
    /// `MADV_FREE`: the contents may be lost. Forgets use and modification in the
    /// mappings of the range.
    Free,
}

/// What [`Pmap9::pmap_mincore`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InCore {
    /// The bits; [`Mincore::INCORE`] always.
    pub bits: Mincore,
    /// Where the page is; the manual's `*pap`.
    pub pa: PhysAddr,
    /// `true`: the mapping is managed and does not itself show both used and written,
    /// so the caller may ask the page (when the manual sets `*pap`).
    pub ask_page: bool,
}

/// What [`Pmap9::pmap_extract_and_hold`] gives; goes back to [`Pmap9::pmap_unhold`].
#[must_use = "the window stays held until pmap_unhold"]
#[derive(PartialEq, Eq, Debug)]
pub struct Held {
    va: Va,
    page: PageNo,
    counted: bool,
}

impl Held {
    /// For implementations. `counted`: the pmap keeps count of the hold.
    pub const fn new(va: Va, page: PageNo, counted: bool) -> Self {
        Held { va, page, counted }
    }
    /// The address it was found at.
    pub const fn va(&self) -> Va {
        self.va
    }
    /// The page.
    pub const fn page(&self) -> PageNo {
        self.page
    }
    /// See [`Held::new`].
    pub const fn counted(&self) -> bool {
        self.counted
    }
}

/// `struct pmap_statistics`, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PmapStatistics {
    /// Pages mapped; page tables are not counted.
    pub resident_count: u64,
    /// Of those, wired.
    pub wired_count: u64,
}

/// A run of physical memory (`vm_physseg`): `[start, end)` exists, `[avail_start,
/// avail_end)` of it will be pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysSegment {
    /// First frame.
    pub start: Pfn,
    /// One past the last.
    pub end: Pfn,
    /// First that is free.
    pub avail_start: Pfn,
    /// One past the last that is free.
    pub avail_end: Pfn,
}

impl PhysSegment {
    /// All of it free.
    pub const fn new(start: Pfn, end: Pfn) -> Self {
        PhysSegment { start, end, avail_start: start, avail_end: end }
    }
    /// Free frames.
    pub const fn available(&self) -> u64 {
        self.avail_end.0.saturating_sub(self.avail_start.0)
    }
    /// Takes `n` frames from the front: no page is both stolen and free (Z149).
    pub fn take(&mut self, n: u64) -> Option<Pfn> {
        let first = self.avail_start;
        if self.available() < n {
            return None;
        }
        self.avail_start = first.add(n);
        Some(first)
    }
}

/// `PMAP_TS_REFERENCED_MAX`: what [`PmapMachine::pmap_ts_referenced`] gives at most.
pub const PMAP_TS_REFERENCED_MAX: u32 = 5;

/// `pmap_align_superpage` (PM50): the lowest address from `va` on that has the phase of
/// `offset` (both in bytes) in superpages of `1 << shift` bytes, if `size` bytes there
/// hold a whole superpage; else `va`.
#[must_use]
pub const fn pmap_align_superpage(offset: u64, va: Va, size: u64, shift: u32) -> Va {
    let (span, at) = (1u64 << shift, va.get());
    let mask = span - 1;
    let phase = offset & mask;
    // From the phase to the first whole superpage.
    let head = (span - phase) & mask;
    if size < span || size - head < span || at & mask == phase {
        return va;
    }
    let Some(up) = (at & !mask).checked_add(if at & mask < phase { phase } else { span + phase }) else {
        return va;
    };
    match Va::aligned(RawAddr(up)) {
        Some(up) => up,
        None => va,
    }
}

#[cfg(test)]
mod tests;
