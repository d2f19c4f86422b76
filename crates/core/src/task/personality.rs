//! Where the systems differ: one table. Code asks a field, never a name.
//!
//! A field says what the interface does, not who does it; `docs/mach.md` lists the rows
//! of the inventory behind each.

use machvm_hal::PAGE_SIZE;

use super::raw::VmFlags;
use crate::map::{Holes, Wiring};

/// How an unaligned fixed range becomes pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// The address is truncated and the size rounded, each for itself: the last page may
    /// be lost (Z02). Kept where programs see it.
    Separate,
    /// Every page that the range touches.
    Covering,
}

/// What becomes of `addr + size` that does not fit (Z05, Z10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// An error.
    Refuse,
    /// The range is cut to the map; what wraps is empty, which is no error.
    Clamp,
}

/// What an operation on no bytes does (Z03).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zero {
    /// Nothing, successfully.
    Nothing,
    /// It is an error.
    Refuse,
}

/// A protection that is not part of the maximum, in a new mapping (Z14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beyond {
    /// An error.
    Refuse,
    /// Accepted: the maximum grows.
    Widen,
}

/// Rights asked for that a memory entry does not have (U05, U06).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryRights {
    /// An error, unless the protection is marked as a mask.
    Refuse,
    /// The mapping gets the common ones.
    Reduce,
}

/// A part of an entry that was made of a range, `MAP_MEM_VM_COPY` or `MAP_MEM_VM_SHARE`
/// (U06, U09).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeEntries {
    /// Can be mapped, and be an entry; of copies there are no parts as entries.
    Parts,
    /// Is not to be had: whoever maps a part that there is maps all, and gets the address
    /// of the first page. Only flags that say where are taken.
    Whole,
}

/// What an unaligned transfer is (U15, U16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alignment {
    /// As good as any other.
    Any,
    /// Refused, after the source was looked at.
    Strict,
}

/// Which masks `vm_map` takes (Z15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Masks {
    /// Low bits: an alignment.
    Low,
    /// Low bits, and a run of high ones: an upper limit.
    LowAndHigh,
}

/// `vm_wire` (Z124).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WirePolicy {
    /// One flag for the user, so that the last call wins, or a count.
    pub who: Wiring,
    /// Most wirings of one entry.
    pub most: u32,
    /// Do holes behind the first address end a call that lets go?
    pub unwire_holes: Holes,
    /// Bytes that a caller without privilege may wire in one task; `None`: the limit is
    /// the embedder's.
    pub unprivileged: Option<u64>,
}

/// Which parts of `vm_msync` there are (U29).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Msync {
    /// All.
    Full,
    /// None: a range that is not empty is an error.
    Stub,
}

/// One system's choices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Personality {
    /// For messages only.
    pub name: &'static str,
    /// Flags that `vm_allocate` takes.
    pub allocate_flags: VmFlags,
    /// Flags that `vm_map` takes.
    pub map_flags: VmFlags,
    /// Flags that `vm_remap` takes.
    pub remap_flags: VmFlags,
    /// Do the first two take a tag in the top byte?
    pub tags: bool,
    /// Fixed ranges of `vm_allocate` and sources of `vm_remap`.
    pub rounding: Rounding,
    /// May memory be asked for at address 0?
    pub page_zero: bool,
    /// `vm_deallocate`, `vm_protect`, `vm_inherit`.
    pub overflow: Overflow,
    /// `vm_deallocate` of bytes that do not wrap, the last of them in the last page there is,
    /// whose end does.
    pub deallocate_to_end: Overflow,
    /// `vm_deallocate` of no bytes.
    pub deallocate_zero: Zero,
    /// `vm_allocate` of no bytes.
    pub allocate_zero: Zero,
    /// `vm_protect` (Z07).
    pub protect_holes: Holes,
    /// Is `VM_PROT_COPY` known?
    pub protect_copy: bool,
    /// Is there an inheritance of zeroes?
    pub inherit_zero: bool,
    /// New mappings.
    pub beyond_max: Beyond,
    /// Mappings of memory entries.
    pub entry_rights: EntryRights,
    /// Mappings and children of memory entries.
    pub range_entries: RangeEntries,
    /// The `mask` of `vm_map`.
    pub masks: Masks,
    /// `vm_copy` and `vm_write`.
    pub alignment: Alignment,
    /// Transfers of fewer bytes go through a buffer; 0: none do.
    pub buffered_below: u64,
    /// In such a transfer, a page without rights counts as not mapped.
    pub buffer_hides_rights: bool,
    /// `vm_wire`.
    pub wire: WirePolicy,
    /// `vm_msync`.
    pub msync: Msync,
}

const FLAG: WirePolicy =
    WirePolicy { who: Wiring::User, most: u32::MAX, unwire_holes: Holes::Refuse, unprivileged: None };

impl Personality {
    /// Mach 3.0 and GNU Mach.
    pub const MACH3: Personality = Personality {
        name: "Mach 3",
        allocate_flags: VmFlags::ANYWHERE,
        map_flags: VmFlags::ANYWHERE,
        remap_flags: VmFlags::ANYWHERE,
        tags: false,
        rounding: Rounding::Separate,
        page_zero: true,
        overflow: Overflow::Clamp,
        deallocate_to_end: Overflow::Clamp,
        deallocate_zero: Zero::Nothing,
        allocate_zero: Zero::Nothing,
        protect_holes: Holes::Skip,
        protect_copy: false,
        inherit_zero: false,
        beyond_max: Beyond::Widen,
        entry_rights: EntryRights::Reduce,
        range_entries: RangeEntries::Parts,
        masks: Masks::LowAndHigh,
        alignment: Alignment::Strict,
        buffered_below: 0,
        buffer_hides_rights: false,
        wire: WirePolicy { unprivileged: Some(8 << 20), ..FLAG },
        msync: Msync::Stub,
    };

    /// XNU: what the C library does.
    pub const XNU: Personality = Personality {
        name: "XNU",
        allocate_flags: VmFlags::XNU_ALLOCATE,
        map_flags: VmFlags::XNU_MAP,
        remap_flags: VmFlags::XNU_REMAP,
        tags: true,
        rounding: Rounding::Separate,
        page_zero: false,
        overflow: Overflow::Refuse,
        deallocate_to_end: Overflow::Clamp,
        deallocate_zero: Zero::Nothing,
        allocate_zero: Zero::Nothing,
        protect_holes: Holes::Refuse,
        protect_copy: true,
        inherit_zero: false,
        beyond_max: Beyond::Refuse,
        entry_rights: EntryRights::Refuse,
        range_entries: RangeEntries::Whole,
        masks: Masks::Low,
        alignment: Alignment::Any,
        buffered_below: 2 * PAGE_SIZE,
        buffer_hides_rights: true,
        wire: WirePolicy { who: Wiring::System, most: 65_535, unwire_holes: Holes::Skip, unprivileged: None },
        msync: Msync::Full,
    };

    /// FreeBSD's `vm_map(9)` behind the same calls.
    pub const FREEBSD: Personality = Personality {
        name: "FreeBSD",
        allocate_flags: VmFlags::ANYWHERE.union(VmFlags::OVERWRITE),
        map_flags: VmFlags::ANYWHERE.union(VmFlags::OVERWRITE),
        remap_flags: VmFlags::ANYWHERE.union(VmFlags::OVERWRITE),
        tags: false,
        rounding: Rounding::Covering,
        page_zero: true,
        overflow: Overflow::Refuse,
        deallocate_to_end: Overflow::Refuse,
        deallocate_zero: Zero::Nothing,
        allocate_zero: Zero::Nothing,
        protect_holes: Holes::Skip,
        protect_copy: false,
        inherit_zero: true,
        beyond_max: Beyond::Refuse,
        entry_rights: EntryRights::Refuse,
        range_entries: RangeEntries::Parts,
        masks: Masks::Low,
        alignment: Alignment::Any,
        buffered_below: 0,
        buffer_hides_rights: false,
        wire: FLAG,
        msync: Msync::Full,
    };

    /// UVM (NetBSD, OpenBSD).
    pub const UVM: Personality = Personality { name: "UVM", ..Personality::FREEBSD };

    /// POSIX: ranges of nothing and holes in protections are errors.
    pub const POSIX: Personality = Personality {
        name: "POSIX",
        deallocate_zero: Zero::Refuse,
        allocate_zero: Zero::Refuse,
        protect_holes: Holes::Refuse,
        inherit_zero: false,
        ..Personality::FREEBSD
    };

    /// Every one, for tests and tables.
    pub const ALL: [&'static Personality; 5] = [
        &Personality::MACH3,
        &Personality::XNU,
        &Personality::FREEBSD,
        &Personality::UVM,
        &Personality::POSIX,
    ];
}
