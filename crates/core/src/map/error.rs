//! What each operation can return. Every error names the address at fault; numbers
//! (`kern_return_t`, errno) are made of these elsewhere.

use machvm_arena::NoMemory;
use machvm_hal::{PagerError, Va};

use crate::error::FaultError;

/// Why nothing was inserted (M11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// Not inside the map (`KERN_INVALID_ADDRESS`). Tested before `Occupied` (Z13).
    Outside(Va),
    /// Something is mapped here (`KERN_NO_SPACE`).
    Occupied(Va),
    /// The protection is not part of the maximum (`KERN_INVALID_ARGUMENT`, Z14).
    ExceedsMax(Va),
    /// Write and execute together, and the map refuses that (`MAP_WXORX`).
    WriteExecute(Va),
    /// The map would be larger than its limit (`KERN_NO_SPACE`; RLIMIT_AS).
    Limit(Va),
    /// No memory for an entry or an object, or more than may be promised
    /// ([`crate::CommitPolicy`]; `KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// The machine has no structure for another region (Linux: `vm.max_map_count`).
    Machine(Va),
}

/// Why no place was found (M12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindError {
    /// No hole is large enough between the limits (`KERN_NO_SPACE`).
    NoSpace,
    /// The alignment is not a power of two (Z15).
    BadAlignment,
    /// The size is zero or wraps.
    BadSize,
    /// The place was found, the insertion refused.
    Insert(InsertError),
}

/// Why nothing was removed (M21).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteError {
    /// No memory for the entry that a cut through the middle of one makes.
    NoMemory(Va),
}

/// Why protections did not change (M30).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtectError {
    /// The address is not mapped, and holes were to be refused.
    Hole(Va),
    /// Beyond the maximum protection (`KERN_PROTECTION_FAILURE`).
    ExceedsMax(Va),
    /// Both given, and the protection is not part of the maximum
    /// (`KERN_OUT_OF_BOUNDS`).
    OutsideMax(Va),
    /// Write and execute together, and the map refuses that.
    WriteExecute(Va),
    /// A submap: its entries have the protections (`KERN_INVALID_ARGUMENT`).
    Submap(Va),
    /// No memory for an entry, or more would be writable than may be promised. Entries
    /// below the address keep what was reserved for them (Z61).
    NoMemory(Va),
    /// The machine has no structure for another region.
    Machine(Va),
}

/// Why nothing was made a submap (M20).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmapError {
    /// The map to be shown was not made for that, belongs to another system, or the one
    /// that is to show it can itself be shown (`KERN_INVALID_ARGUMENT`).
    NotShowable(Va),
    /// The submap has no such addresses (`KERN_INVALID_ARGUMENT`).
    Beyond(Va),
    /// The range is not exactly one entry (`KERN_INVALID_ARGUMENT`).
    NotWhole(Va),
    /// The entry has contents, or is wired (`KERN_INVALID_ARGUMENT`).
    InUse(Va),
}

/// Why the inheritance did not change (M32).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InheritError {
    /// A submap is shared or left out (`KERN_INVALID_ARGUMENT`).
    Submap(Va),
    /// No memory for an entry.
    NoMemory(Va),
}

/// Why advice was not taken (M31).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdviseError {
    /// Contents are to be dropped, and the memory is wired.
    Wired(Va),
    /// No memory for an entry, or to separate shared contents: what lies below the
    /// address has been done.
    NoMemory(Va),
}

/// Why the range was not cleaned (M37).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncError {
    /// Not mapped (`KERN_INVALID_ADDRESS`). Nothing was done.
    Hole(Va),
    /// To be invalidated, but wired by the user (`KERN_INVALID_ARGUMENT`). Nothing
    /// was done.
    Wired(Va),
    /// The pager failed on an entry at this address; the rest was done.
    Pager(Va, PagerError),
}

/// Why there is no stack (M18).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackError {
    /// The guard leaves no room (`KERN_INVALID_ARGUMENT`).
    BadGuard,
    /// No place for it.
    Find(FindError),
}

/// Why the stack did not grow (M19).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrowError {
    /// Nothing is mapped at the address (`KERN_FAILURE`).
    NotMapped(Va),
    /// The gap does not touch its stack any more (`KERN_FAILURE`, Z35).
    Detached(Va),
    /// Inside the guard below the stack (`KERN_NO_SPACE`, Z34).
    Guard(Va),
    /// The stack, or the map, would be larger than its limit (`KERN_NO_SPACE`), or more would
    /// be promised than may be.
    Limit(Va),
}

/// Why there is no child (M61).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForkError {
    /// No memory to copy the entry at this address, or more than may be promised.
    NoMemory(Va),
    /// The machine has no structure for the child's region at this address.
    Machine(Va),
}

/// Which side of a copy an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The memory read.
    Source,
    /// The memory written.
    Destination,
}

/// Why nothing was copied (M63, M66).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyError {
    /// Whose fault it is.
    pub side: Side,
    /// Where.
    pub at: Va,
    /// What.
    pub why: CopyWhy,
}

/// See [`CopyError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyWhy {
    /// Not mapped (`KERN_INVALID_ADDRESS`).
    Hole,
    /// Not readable, or not writable (`KERN_PROTECTION_FAILURE`).
    Protection,
    /// The machine's own mapping: copy the bytes instead.
    Foreign,
    /// A wired or held destination cannot get other pages: copy the bytes instead.
    Wired,
    /// Others see the destination too, or it is a submap: write the bytes into it instead.
    Shared,
    /// No memory for entries or objects.
    NoMemory,
    /// The machine has no structure for another region.
    Machine,
}

/// Why nothing was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveError {
    /// The source is not mapped here, or is a guard or a submap.
    Hole(Va),
    /// The two ranges overlap.
    Overlap(Va),
    /// The destination refused.
    Insert(InsertError),
}

/// Why nothing was (un)wired (M33, M34).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// Not mapped, or a guard (`KERN_INVALID_ADDRESS`).
    Hole(Va),
    /// No right to wire by (`KERN_INVALID_ADDRESS`).
    NoAccess(Va),
    /// Not wired by the system (`KERN_INVALID_ARGUMENT`).
    NotWired(Va),
    /// A submap: it is wired as a map of its own (`KERN_INVALID_ARGUMENT`).
    Submap(Va),
    /// No memory for an entry.
    NoMemory(Va),
    /// A page could not be had.
    Fault(FaultError),
}

/// Why an address did not resolve (M50).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupError {
    /// Not mapped (`KERN_INVALID_ADDRESS`).
    Hole(Va),
    /// Mapped, but not for this access (`KERN_PROTECTION_FAILURE`).
    Protection(Va),
}

macro_rules! no_memory {
    ($($error:ident)*) => {$(
        impl $error {
            /// A slab was empty while working at `va`.
            pub(super) fn no_memory(va: Va) -> impl FnOnce(NoMemory) -> Self {
                move |NoMemory| $error::NoMemory(va)
            }
        }
    )*};
}
no_memory!(InsertError DeleteError ProtectError InheritError AdviseError ForkError WireError);
