//! `vm_region` and `vm_region_recurse` (U22 to U24).
//!
//! The plain forms describe a submap as one region; the recursive ones look into it, where
//! everything is at depth 1. Neighbours that are alike may be one region or several.

use machvm_hal::{MaySleep, PAGE_SHIFT, Prot, RawAddr, Va, VaRange};

use super::Task;
use super::behavior::Behavior;
use crate::map::{Detail, Inherit, Kind, RegionFacts};
use crate::platform::Platform;

/// Why there is no region to tell of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionError {
    /// Nothing is mapped at or above the address (Mach 3: `KERN_NO_SPACE`; XNU:
    /// `KERN_INVALID_ADDRESS`; Z06).
    None(u64),
}

/// How memory is shared (`SM_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ShareMode {
    /// Some page is shared with a copy until it is written.
    Cow = 1,
    /// Nobody else sees it.
    Private = 2,
    /// Nothing was ever written, and nobody else sees it.
    Empty = 3,
    /// Other maps see it.
    Shared = 4,
    /// Only this map sees it, at several places.
    PrivateAliased = 6,
    /// Other maps see it, and this one at several places.
    SharedAliased = 7,
}

/// `VM_REGION_BASIC_INFO` and `_64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BasicInfo {
    /// Current protection.
    pub protection: Prot,
    /// Maximum protection.
    pub max_protection: Prot,
    /// What a child gets.
    pub inheritance: Inherit,
    /// Others see the same memory.
    pub shared: bool,
    /// It is a submap.
    pub reserved: bool,
    /// Byte offset in the object.
    pub offset: u64,
    /// Expected access.
    pub behavior: Behavior,
    /// Wirings.
    pub user_wired_count: u32,
}

/// `VM_REGION_EXTENDED_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the structure")]
pub struct ExtendedInfo {
    pub protection: Prot,
    pub user_tag: u32,
    pub pages_resident: u64,
    /// Resident pages that a write would copy.
    pub pages_shared_now_private: u64,
    pub pages_swapped_out: u64,
    pub pages_dirtied: u64,
    pub ref_count: u32,
    /// There are no shadow chains: 1 below a copy, else 0.
    pub shadow_depth: u16,
    pub external_pager: bool,
    pub share_mode: ShareMode,
    /// Nothing is set aside for reuse in place: 0.
    pub pages_reusable: u64,
}

/// `VM_REGION_TOP_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the structure")]
pub struct TopInfo {
    pub obj_id: u32,
    pub ref_count: u32,
    pub private_pages_resident: u64,
    pub shared_pages_resident: u64,
    pub share_mode: ShareMode,
}

/// `vm_region_submap_short_info_64`: what costs nothing to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the structure")]
pub struct ShortInfo {
    pub protection: Prot,
    pub max_protection: Prot,
    pub inheritance: Inherit,
    pub offset: u64,
    pub user_tag: u32,
    pub ref_count: u32,
    pub shadow_depth: u16,
    pub external_pager: bool,
    pub share_mode: ShareMode,
    pub is_submap: bool,
    pub behavior: Behavior,
    pub object_id: u32,
    pub user_wired_count: u32,
}

/// `vm_region_submap_info_64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubmapInfo {
    /// What the short form says.
    pub short: ShortInfo,
    /// The pages.
    pub pages: ExtendedInfo,
}

/// The tag as the interface has it.
fn tag(f: &RegionFacts) -> u32 {
    (f.entry.attributes.tag & 0xff) as u32
}

impl ShareMode {
    /// Of facts whose pages were counted, or not: then copies are not seen.
    fn of(f: &RegionFacts, counted: bool) -> ShareMode {
        match f.entry.kind {
            Kind::Guard | Kind::StackGap | Kind::Submap => return ShareMode::Empty,
            Kind::Foreign => return ShareMode::Shared,
            Kind::Object => {}
        }
        if f.shared {
            return match f.aliases {
                n if n == f.references => ShareMode::PrivateAliased,
                n if n > 1 => ShareMode::SharedAliased,
                _ => ShareMode::Shared,
            };
        }
        if f.pages.copied != 0 {
            ShareMode::Cow
        } else if counted && f.pages.slots == 0 && !f.external {
            ShareMode::Empty
        } else {
            ShareMode::Private
        }
    }
}

fn short(f: &RegionFacts, counted: bool) -> ShortInfo {
    let a = &f.entry.attributes;
    ShortInfo {
        protection: a.prot,
        max_protection: a.max,
        inheritance: a.inherit,
        offset: f.entry.offset.0 << PAGE_SHIFT,
        user_tag: tag(f),
        ref_count: f.references,
        shadow_depth: u16::from(f.pages.copied != 0),
        external_pager: f.external,
        share_mode: ShareMode::of(f, counted),
        is_submap: f.entry.kind == Kind::Submap,
        behavior: Behavior::of(a),
        object_id: f.entry.object.map_or(0, |o| o.get()),
        user_wired_count: f.entry.wired,
    }
}

fn extended(f: &RegionFacts) -> ExtendedInfo {
    ExtendedInfo {
        protection: f.entry.attributes.prot,
        user_tag: tag(f),
        pages_resident: f.pages.resident,
        pages_shared_now_private: f.pages.copied,
        pages_swapped_out: f.pages.swapped,
        pages_dirtied: f.pages.dirty,
        ref_count: f.references,
        shadow_depth: u16::from(f.pages.copied != 0),
        external_pager: f.external,
        share_mode: ShareMode::of(f, true),
        pages_reusable: 0,
    }
}

impl<P: Platform> Task<'_, '_, P> {
    fn facts(&self, addr: RawAddr, detail: Detail, may: &mut MaySleep) -> Result<RegionFacts, RegionError> {
        let facts = self.map.region_from(Va::containing(addr), detail, may);
        facts.ok_or(RegionError::None(addr.0))
    }

    /// The region that contains `addr`, or the next above (U22, U23).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_basic(
        &self,
        addr: RawAddr,
        may: &mut MaySleep,
    ) -> Result<(VaRange, BasicInfo), RegionError> {
        let f = self.facts(addr, Detail::Short, may)?;
        let s = short(&f, false);
        let info = BasicInfo {
            protection: s.protection,
            max_protection: s.max_protection,
            inheritance: s.inheritance,
            shared: f.shared,
            reserved: s.is_submap,
            offset: s.offset,
            behavior: s.behavior,
            user_wired_count: s.user_wired_count,
        };
        Ok((f.entry.range, info))
    }

    /// As [`Task::vm_region_basic`], with every page counted.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_extended(
        &self,
        addr: RawAddr,
        may: &mut MaySleep,
    ) -> Result<(VaRange, ExtendedInfo), RegionError> {
        let f = self.facts(addr, Detail::Pages, may)?;
        Ok((f.entry.range, extended(&f)))
    }

    /// As [`Task::vm_region_basic`]: what the object behind it is, and whose its pages
    /// are.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_top(
        &self,
        addr: RawAddr,
        may: &mut MaySleep,
    ) -> Result<(VaRange, TopInfo), RegionError> {
        let f = self.facts(addr, Detail::Pages, may)?;
        let theirs = if f.shared { f.pages.resident } else { f.pages.copied };
        let info = TopInfo {
            obj_id: f.entry.object.map_or(0, |o| o.get()),
            ref_count: f.references,
            private_pages_resident: f.pages.resident.saturating_sub(theirs),
            shared_pages_resident: theirs,
            share_mode: ShareMode::of(&f, true),
        };
        Ok((f.entry.range, info))
    }

    /// The recursive form (U24), counted, as deep as there are submaps. The third value is
    /// the depth reached.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_recurse(
        &self,
        addr: RawAddr,
        may: &mut MaySleep,
    ) -> Result<(VaRange, SubmapInfo, u32), RegionError> {
        self.vm_region_recurse_to(addr, u32::MAX, may)
    }

    /// As [`Task::vm_region_recurse`], not deeper than `depth`: what lies deeper is
    /// described by the submap (`is_submap`).
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_recurse_to(
        &self,
        addr: RawAddr,
        depth: u32,
        may: &mut MaySleep,
    ) -> Result<(VaRange, SubmapInfo, u32), RegionError> {
        let (f, reached) = self.facts_to(addr, depth, Detail::Pages, may)?;
        Ok((f.entry.range, SubmapInfo { short: short(&f, true), pages: extended(&f) }, reached))
    }

    /// The recursive form (U24), short, as deep as there are submaps.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_recurse_short(
        &self,
        addr: RawAddr,
        may: &mut MaySleep,
    ) -> Result<(VaRange, ShortInfo, u32), RegionError> {
        self.vm_region_recurse_short_to(addr, u32::MAX, may)
    }

    /// As [`Task::vm_region_recurse_short`], not deeper than `depth`.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn vm_region_recurse_short_to(
        &self,
        addr: RawAddr,
        depth: u32,
        may: &mut MaySleep,
    ) -> Result<(VaRange, ShortInfo, u32), RegionError> {
        let (f, reached) = self.facts_to(addr, depth, Detail::Short, may)?;
        Ok((f.entry.range, short(&f, false), reached))
    }

    fn facts_to(
        &self,
        addr: RawAddr,
        depth: u32,
        detail: Detail,
        may: &mut MaySleep,
    ) -> Result<(RegionFacts, u32), RegionError> {
        if depth == 0 {
            return Ok((self.facts(addr, detail, may)?, 0));
        }
        let facts = self.map.region_through(Va::containing(addr), detail, may);
        facts.ok_or(RegionError::None(addr.0))
    }
}
