//! The map entry: one range with one set of attributes.

use core::sync::atomic::Ordering::Relaxed;

use machvm_arena::{Handle, HandleField};
use machvm_hal::{Pindex, Prot, Va, VaRange};
use machvm_sync::{Field32, Field64};

use super::submap::Body;
use crate::object::Object;

/// What a child of a fork gets (`VM_INHERIT_*`, row M32).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Inherit {
    /// The same memory.
    Share = 0,
    /// A copy-on-write copy.
    Copy = 1,
    /// Nothing.
    None = 2,
    /// Fresh zeroes.
    Zero = 3,
}

/// Expected order of access (`MADV_NORMAL`, `SEQUENTIAL`, `RANDOM`; row M31).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Advice {
    /// No particular order.
    Normal = 0,
    /// Ascending.
    Sequential = 1,
    /// No locality: fault one page at a time.
    Random = 2,
}

/// What stands behind an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// An object.
    Object = 0,
    /// Reserved and unaccessible (`MAP_CREATE_GUARD`).
    Guard = 1,
    /// A guard that the stack above it may grow into (`STACK_GAP_DN`).
    StackGap = 2,
    /// A mapping of the machine's own that the core only keeps the place of (a
    /// shared file in Linux's page cache, a device).
    Foreign = 3,
    /// A part of another map, which is looked up there ([`super::Map::submap`]).
    Submap = 4,
}

bitflags::bitflags! {
    /// Entry flags (`eflags`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EntryFlags: u32 {
        /// `NOSYNC`.
        const NOSYNC = 1;
        /// `NOCOREDUMP`.
        const NOCOREDUMP = 2;
        /// `GROWS_DOWN`.
        const GROWS_DOWN = 4;
        /// `USER_WIRED`: one of the wirings is the user's mlock.
        const USER_WIRED = 8;
        /// Being wired or unwired (`IN_TRANSITION`).
        const IN_TRANSITION = 0x10;
        /// Somebody waits for the end of the transition.
        const NEEDS_WAKEUP = 0x20;
        /// Never merged with a neighbour.
        const NO_MERGE = 0x40;
        /// Others may see the same memory: other entries, a memory entry, another process.
        /// Set by the system on every entry that covers such indices of an object, and kept
        /// as long as the entry names the object (decision 17). A part that others see is an
        /// entry of its own.
        const SHARED = 0x80;
        /// Free for the embedder: kept, compared when merging, not interpreted.
        const USER1 = 0x100;
        /// As [`EntryFlags::USER1`].
        const USER2 = 0x200;
        /// As [`EntryFlags::USER1`].
        const USER3 = 0x400;
        /// As [`EntryFlags::USER1`].
        const USER4 = 0x800;
        /// `VM_FLAGS_PERMANENT`: nothing takes its place, and a deallocation by a task takes
        /// its rights and leaves it.
        const PERMANENT = 0x1000;
        /// `VM_BEHAVIOR_RSEQNTL`: access is expected downwards. Kept; the fault finds the
        /// direction itself.
        const REVERSED = 0x2000;
        /// `VM_BEHAVIOR_ZERO_WIRED_PAGES`: wired contents are zeroed when they are let go.
        const ZERO_WIRED = 0x4000;
        /// `NO_CHARGE`: nothing is reserved for it (MAP_NORESERVE).
        const NO_CHARGE = 0x8000;
        /// What a caller may ask for when it inserts.
        const CALLER = 0xff43;
    }
}

/// What a new entry is like. The `cow` argument of the C functions is taken apart
/// here: MAP_INHERIT_SHARE is `inherit`, MAP_DISABLE_SYNCER and _COREDUMP are
/// `flags`, guards and stacks are [`super::Backing`] and [`super::Map::stack`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Current protection.
    pub prot: Prot,
    /// The most that the protection may become; contains `prot` (Z14).
    pub max: Prot,
    /// What a child gets.
    pub inherit: Inherit,
    /// Expected order of access.
    pub advice: Advice,
    /// Those of [`EntryFlags::CALLER`]; others are ignored.
    pub flags: EntryFlags,
    /// For the embedder: kept, compared when entries merge, not interpreted.
    pub tag: u64,
}

impl Attributes {
    /// Private memory with this protection, any maximum, `VM_INHERIT_DEFAULT`.
    pub const fn new(prot: Prot) -> Self {
        Attributes {
            prot,
            max: Prot::ALL,
            inherit: Inherit::Copy,
            advice: Advice::Normal,
            flags: EntryFlags::empty(),
            tag: 0,
        }
    }
    /// A guard: no rights now or ever.
    pub(super) const fn guard() -> Self {
        Attributes { max: Prot::NONE, ..Attributes::new(Prot::NONE) }
    }
}

/// A piece of a map as a caller sees it: a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryInfo {
    /// Where.
    pub range: VaRange,
    /// What stands behind it.
    pub kind: Kind,
    /// Attributes; of `flags` only those a caller may set.
    pub attributes: Attributes,
    /// Every flag.
    pub flags: EntryFlags,
    /// Wirings.
    pub wired: u32,
    /// The object.
    pub object: Option<Handle<Object>>,
    /// Index in the object (of a foreign entry: in its file) of the first page.
    pub offset: Pindex,
}

impl EntryInfo {
    /// Index in the object of the page at `va`.
    pub fn pindex(&self, va: Va) -> Pindex {
        self.offset.add(va.page() - self.range.start().page())
    }
}

/// One entry. Every field is guarded by the map lock \[m\]; `cluster` and
/// `next_fault` are hints that the fault also writes under the read lock.
#[derive(Debug, Default)]
pub struct Entry {
    /// First byte. \[m\]
    pub(crate) start: Field64,
    /// One past the last byte. \[m\]
    pub(crate) end: Field64,
    /// Page index in the object, or a foreign entry's file, of the first page; of a
    /// submap the page number of the first address shown; of a guard 0. \[m\]
    pub(crate) offset: Field64,
    /// The object; one reference is the entry's. \[m\]
    pub(crate) object: HandleField<Object>,
    /// The submap; one reference is the entry's. \[m\]
    pub(crate) submap: HandleField<Body>,
    /// prot 0..3, max 4..7, inherit 8..10, advice 12..14, kind 16..19. \[m\]
    pub(crate) bits: Field32,
    /// [`EntryFlags`]; [`EntryFlags::SHARED`] is also set under the read lock. \[m\]
    pub(crate) flags: Field32,
    /// Wirings. \[m\]
    pub(crate) wired: Field32,
    /// For the embedder; of a stack gap the guard size in bytes (`next_read`). \[m\]
    pub(crate) tag: Field64,
    /// Page number where a sequential fault is expected next: a hint. Of a submap: its
    /// version when the machine was told of its regions \[m\].
    pub(crate) next_fault: Field64,
    /// Size of the last fault cluster, in pages. Hint.
    pub(crate) cluster: Field32,
    /// 1: its pages are reserved ([`crate::commit`]). \[m\]
    pub(crate) charged: Field32,
    /// Which wiring put the entry in transition. \[m\]
    pub(super) wirer: Field32,
    /// During a fork: the child's copy of the object. \[m\]
    pub(super) twin: HandleField<Object>,
    /// The tree's and the list's links. \[m\]
    pub(crate) links: super::tree::Links,
}

impl Entry {
    pub(crate) fn range(&self) -> Option<VaRange> {
        VaRange::between(self.start(), self.end())
    }
    pub(crate) fn start(&self) -> Va {
        Va::from_page(self.start.get() >> 12)
    }
    pub(crate) fn end(&self) -> Va {
        Va::from_page(self.end.get() >> 12)
    }
    pub(crate) fn pages(&self) -> u64 {
        (self.end.get() - self.start.get()) >> 12
    }
    /// Index in the object of the page at `va`.
    pub(crate) fn pindex(&self, va: Va) -> Pindex {
        Pindex(self.offset.get() + (va.page() - self.start().page()))
    }
    fn field(&self, shift: u32, width: u32) -> u8 {
        ((self.bits.get() >> shift) & ((1 << width) - 1)) as u8
    }
    fn set_field(&self, shift: u32, width: u32, v: u8) {
        let mask = ((1 << width) - 1) << shift;
        self.bits.set((self.bits.get() & !mask) | (u32::from(v) << shift));
    }
    pub(crate) fn prot(&self) -> Prot {
        Prot::from_bits_truncate(self.field(0, 3))
    }
    pub(crate) fn set_prot(&self, p: Prot) {
        self.set_field(0, 3, p.bits());
    }
    pub(crate) fn max(&self) -> Prot {
        Prot::from_bits_truncate(self.field(4, 3))
    }
    pub(crate) fn set_max(&self, p: Prot) {
        self.set_field(4, 3, p.bits());
    }
    pub(crate) fn inherit(&self) -> Inherit {
        match self.field(8, 2) {
            0 => Inherit::Share,
            1 => Inherit::Copy,
            2 => Inherit::None,
            _ => Inherit::Zero,
        }
    }
    pub(crate) fn set_inherit(&self, i: Inherit) {
        self.set_field(8, 2, i as u8);
    }
    pub(crate) fn advice(&self) -> Advice {
        match self.field(12, 2) {
            1 => Advice::Sequential,
            2 => Advice::Random,
            _ => Advice::Normal,
        }
    }
    pub(crate) fn set_advice(&self, a: Advice) {
        self.set_field(12, 2, a as u8);
    }
    pub(crate) fn kind(&self) -> Kind {
        match self.field(16, 3) {
            0 => Kind::Object,
            1 => Kind::Guard,
            2 => Kind::StackGap,
            3 => Kind::Foreign,
            _ => Kind::Submap,
        }
    }
    pub(crate) fn set_kind(&self, k: Kind) {
        self.set_field(16, 3, k as u8);
    }
    /// Wired, or just being wired or unwired: what is entered may not be forgotten.
    pub(crate) fn keeps_mappings(&self) -> bool {
        self.wired.get() != 0 || self.flags().contains(EntryFlags::IN_TRANSITION)
    }
    pub(crate) fn flags(&self) -> EntryFlags {
        EntryFlags::from_bits_truncate(self.flags.get())
    }
    pub(crate) fn set_flags(&self, f: EntryFlags) {
        self.flags.set(f.bits());
    }
    pub(super) fn insert_flags(&self, f: EntryFlags) {
        self.set_flags(self.flags() | f);
    }
    /// Others may see this memory from now on. The object is marked too.
    ///
    /// => the map is at least read locked, and the entry covers nothing else.
    pub(super) fn mark_shared(&self) {
        self.flags.atomic().fetch_or(EntryFlags::SHARED.bits(), Relaxed);
    }
    /// May others see this memory? If not, no other entry names the same indices.
    pub(crate) fn is_shared(&self) -> bool {
        self.flags().contains(EntryFlags::SHARED)
    }
    pub(super) fn remove_flags(&self, f: EntryFlags) {
        self.set_flags(self.flags() - f);
    }
    /// Does the entry take part in the map's size?
    pub(super) fn counts(&self) -> bool {
        matches!(self.kind(), Kind::Object | Kind::Foreign | Kind::Submap)
    }
    /// Of a submap: its version when the regions of this view were made.
    pub(super) fn made_at(&self) -> u64 {
        self.next_fault.get()
    }
    pub(super) fn set_made_at(&self, version: u64) {
        self.next_fault.set(version);
    }
    /// What comes next begins anew: faults before a copy do not foretell those after it.
    ///
    /// => the map is write locked, and the entry is memory's.
    pub(super) fn forget_faults(&self) {
        self.next_fault.set(0);
        self.cluster.set(0);
    }
    /// An entry as new, for `range`.
    pub(super) fn reset(&self, range: VaRange, kind: Kind, a: &Attributes) {
        self.start.set(range.start().get());
        self.end.set(range.end().get());
        self.offset.set(0);
        self.object.set(None);
        self.submap.set(None);
        self.bits.set(0);
        self.set_kind(kind);
        self.set_attributes(a);
        self.wired.set(0);
        self.next_fault.set(0);
        self.cluster.set(0);
        self.charged.set(0);
        self.wirer.set(0);
        self.twin.set(None);
    }
    fn set_attributes(&self, a: &Attributes) {
        self.set_prot(a.prot);
        self.set_max(a.max);
        self.set_inherit(a.inherit);
        self.set_advice(a.advice);
        self.set_flags(a.flags & EntryFlags::CALLER);
        self.tag.set(a.tag);
    }
    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            prot: self.prot(),
            max: self.max(),
            inherit: self.inherit(),
            advice: self.advice(),
            flags: self.flags() & EntryFlags::CALLER,
            tag: self.tag.get(),
        }
    }
    /// Takes over everything but the bounds, the links and the object's reference.
    pub(super) fn copy_from(&self, e: &Entry) {
        self.offset.set(e.offset.get());
        self.object.set(e.object.get());
        self.submap.set(e.submap.get());
        self.bits.set(e.bits.get());
        self.flags.set(e.flags.get());
        self.wired.set(e.wired.get());
        self.tag.set(e.tag.get());
        self.next_fault.set(e.next_fault.get());
        self.cluster.set(e.cluster.get());
        self.charged.set(e.charged.get());
        self.wirer.set(e.wirer.get());
        self.twin.set(e.twin.get());
    }
    /// The attributes that two entries must share to be one (N09), the object left
    /// aside.
    pub(super) fn alike(&self, e: &Entry) -> bool {
        let never = EntryFlags::GROWS_DOWN | EntryFlags::IN_TRANSITION | EntryFlags::NO_MERGE;
        self.bits.get() == e.bits.get()
            && self.flags.get() == e.flags.get()
            && !self.flags().intersects(never)
            && self.wired.get() == e.wired.get()
            && self.charged.get() == e.charged.get()
            && self.tag.get() == e.tag.get()
    }
    /// May this entry and `above` be one (N09)?
    pub(super) fn mergeable(&self, above: &Entry) -> bool {
        let contiguous = self.offset.get().wrapping_add(self.pages()) == above.offset.get();
        self.end.get() == above.start.get()
            && self.kind() != Kind::Submap
            && self.alike(above)
            && self.object.get() == above.object.get()
            && (contiguous || matches!(self.kind(), Kind::Guard | Kind::StackGap))
    }
}
