//! Numbers as callers give them, and the one place where each is checked.
//!
//! Addresses and sizes are [`RawAddr`] and [`RawSize`]; the types here are the rest.
//! None has arithmetic.

use machvm_hal::{PAGE_MASK, PAGE_SIZE, Prot, RangeError, RawAddr, RawSize, Va, VaRange};

use super::personality::{Overflow, Personality, Rounding};
use crate::map::Inherit;

/// A `vm_prot_t`, with the flags that some calls take in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawProt(pub u32);

impl RawProt {
    /// `VM_PROT_COPY`: a private copy that may be written (a debugger's store).
    pub const COPY: u32 = 0x10;
    /// `VM_PROT_IS_MASK`: the most that is wanted; what can be had is enough.
    pub const IS_MASK: u32 = 0x40;

    /// The rights, if nothing but rights and `extra` is set.
    pub(super) fn check(self, extra: u32) -> Option<Prot> {
        let rights = Prot::from_bits(u8::try_from(self.0 & !extra).ok()?)?;
        Some(rights)
    }
    pub(super) fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

impl From<Prot> for RawProt {
    fn from(p: Prot) -> Self {
        RawProt(u32::from(p.bits()))
    }
}

/// A `vm_inherit_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawInherit(pub u32);

impl RawInherit {
    pub(super) fn check(self, how: &Personality) -> Option<Inherit> {
        match self.0 {
            0 => Some(Inherit::Share),
            1 => Some(Inherit::Copy),
            2 => Some(Inherit::None),
            3 if how.inherit_zero => Some(Inherit::Zero),
            _ => None,
        }
    }
}

impl From<Inherit> for RawInherit {
    fn from(i: Inherit) -> Self {
        RawInherit(i as u32)
    }
}

bitflags::bitflags! {
    /// `VM_FLAGS_*` with their XNU values.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct VmFlags: u32 {
        /// Wherever there is room; without it the address is meant.
        const ANYWHERE = 1;
        /// The contents may be declared volatile.
        const PURGABLE = 2;
        /// Kept for callers; there is no 4 GiB rule here.
        const CHUNK_4GB = 4;
        /// Kept for callers: places are not randomised.
        const RANDOM_ADDR = 8;
        /// Kept for callers.
        const NO_CACHE = 0x10;
        /// Kept for callers: code is not signed here.
        const RESILIENT_CODESIGN = 0x20;
        /// Kept for callers.
        const RESILIENT_MEDIA = 0x40;
        /// The range stays occupied when it is deallocated.
        const PERMANENT = 0x80;
        /// Kept for callers.
        const TPRO = 0x1000;
        /// With an address: in place of what is there.
        const OVERWRITE = 0x4000;
        /// Large pages of any size.
        const SUPERPAGE_ANY = 0x1_0000;
        /// Large pages of 2 MiB.
        const SUPERPAGE_2MB = 0x2_0000;
        /// Give the address of the first byte, not of its page.
        const RETURN_DATA_ADDR = 0x10_0000;
        /// As `RETURN_DATA_ADDR`, to a multiple of 4 KiB: a page.
        const RETURN_4K_DATA_ADDR = 0x80_0000;
        /// What users of XNU may give `vm_allocate`.
        const XNU_ALLOCATE = Self::ANYWHERE.bits() | Self::PURGABLE.bits() | Self::CHUNK_4GB.bits()
            | Self::RANDOM_ADDR.bits() | Self::NO_CACHE.bits() | Self::PERMANENT.bits()
            | Self::TPRO.bits() | Self::OVERWRITE.bits() | Self::SUPERPAGE_ANY.bits()
            | Self::SUPERPAGE_2MB.bits();
        /// And `vm_map`.
        const XNU_MAP = Self::XNU_ALLOCATE.bits() | Self::RETURN_DATA_ADDR.bits()
            | Self::RETURN_4K_DATA_ADDR.bits();
        /// And for an entry of a range that is mapped as one.
        const XNU_MAP_RANGE = Self::ANYWHERE.bits() | Self::OVERWRITE.bits()
            | Self::RETURN_DATA_ADDR.bits() | Self::RETURN_4K_DATA_ADDR.bits();
        /// And `vm_remap`.
        const XNU_REMAP = Self::ANYWHERE.bits() | Self::RANDOM_ADDR.bits() | Self::OVERWRITE.bits()
            | Self::RETURN_DATA_ADDR.bits() | Self::RESILIENT_CODESIGN.bits()
            | Self::RESILIENT_MEDIA.bits();
    }
}

impl VmFlags {
    /// Large pages of some size.
    pub(super) fn superpages(self) -> bool {
        self.intersects(VmFlags::SUPERPAGE_ANY | VmFlags::SUPERPAGE_2MB)
    }
    /// The address of data is wanted.
    pub(super) fn data_address(self) -> bool {
        self.intersects(VmFlags::RETURN_DATA_ADDR | VmFlags::RETURN_4K_DATA_ADDR)
    }
    /// What of `addr` the address that is given back keeps: where in a page the data begins,
    /// if that is wanted, and in units of 4 KiB nothing.
    pub(super) fn in_page(self, addr: u64) -> u64 {
        let bytes = self.data_address() && !self.contains(VmFlags::RETURN_4K_DATA_ADDR);
        if bytes { addr & PAGE_MASK } else { 0 }
    }
}

/// The `flags` of a call that makes a mapping: [`VmFlags`], and a tag in the top byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawFlags(pub u32);

impl RawFlags {
    /// The flags and, where the call takes one, the tag. `None`: a flag is not among
    /// `known`.
    pub(super) fn check(self, known: VmFlags, tags: bool) -> Option<(VmFlags, u64)> {
        let (bits, tag) = if tags { (self.0 & 0xff_ffff, self.0 >> 24) } else { (self.0, 0) };
        let flags = VmFlags::from_bits(bits).filter(|f| known.contains(*f))?;
        Some((flags, u64::from(tag)))
    }
}

impl From<VmFlags> for RawFlags {
    fn from(f: VmFlags) -> Self {
        RawFlags(f.bits())
    }
}

/// A range as an attribute call sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Span {
    /// Nothing to do.
    Nothing,
    /// These pages.
    Pages(VaRange),
    /// It wraps.
    Wraps,
}

/// The pages that `[addr, addr + size)` touches.
pub(super) fn span(addr: RawAddr, size: RawSize, overflow: Overflow) -> Span {
    match (VaRange::check(addr, size), overflow) {
        (Ok(r), _) => Span::Pages(r),
        (Err(RangeError::Empty), _) | (Err(_), Overflow::Clamp) => Span::Nothing,
        (Err(_), Overflow::Refuse) => Span::Wraps,
    }
}

/// The pages of a fixed range. `None`: it wraps, or rounds to nothing.
pub(super) fn fixed(addr: RawAddr, size: RawSize, rounding: Rounding) -> Option<VaRange> {
    match rounding {
        Rounding::Covering => VaRange::check(addr, size).ok(),
        Rounding::Separate => {
            // What follows the address must fit too, or the caller's end wrapped.
            addr.0.checked_add(size.0)?;
            let range = VaRange::of_pages(Va::containing(addr), pages(size)?)?;
            Some(range)
        }
    }
}

/// A size in pages, rounded up. `None`: zero, or it does not fit.
pub(super) fn pages(size: RawSize) -> Option<u64> {
    let n = size.0.checked_add(PAGE_MASK)? / PAGE_SIZE;
    (n != 0).then_some(n)
}
