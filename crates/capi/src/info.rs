//! The structures that calls about regions and pages fill, with XNU's layout.
//!
//! To the calls they are arrays of int, so nothing in them is aligned to more. Names and
//! meanings are those of the headers (`include/mach/vm_region.h`).
#![allow(non_camel_case_types, missing_docs, reason = "the names are those of the headers")]

use crate::types::{boolean_t, memory_object_offset_t, vm_behavior_t, vm_inherit_t, vm_prot_t};

pub const VM_REGION_BASIC_INFO_64: i32 = 9;
pub const VM_REGION_BASIC_INFO: i32 = 10;
/// As `VM_REGION_EXTENDED_INFO`, without its last field.
pub const VM_REGION_EXTENDED_INFO__LEGACY: i32 = 11;
pub const VM_REGION_TOP_INFO: i32 = 12;
pub const VM_REGION_EXTENDED_INFO: i32 = 13;
pub const VM_PAGE_INFO_BASIC: i32 = 1;

/// How many ints a structure is.
pub const fn ints<T>() -> u32 {
    (size_of::<T>() / 4) as u32
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_basic_info_64 {
    pub protection: vm_prot_t,
    pub max_protection: vm_prot_t,
    pub inheritance: vm_inherit_t,
    pub shared: boolean_t,
    pub reserved: boolean_t,
    pub offset: memory_object_offset_t,
    pub behavior: vm_behavior_t,
    pub user_wired_count: u16,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_basic_info {
    pub protection: vm_prot_t,
    pub max_protection: vm_prot_t,
    pub inheritance: vm_inherit_t,
    pub shared: boolean_t,
    pub reserved: boolean_t,
    pub offset: u32,
    pub behavior: vm_behavior_t,
    pub user_wired_count: u16,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_extended_info {
    pub protection: vm_prot_t,
    pub user_tag: u32,
    pub pages_resident: u32,
    pub pages_shared_now_private: u32,
    pub pages_swapped_out: u32,
    pub pages_dirtied: u32,
    pub ref_count: u32,
    pub shadow_depth: u16,
    pub external_pager: u8,
    pub share_mode: u8,
    pub pages_reusable: u32,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_top_info {
    pub obj_id: u32,
    pub ref_count: u32,
    pub private_pages_resident: u32,
    pub shared_pages_resident: u32,
    pub share_mode: u8,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_submap_info {
    pub protection: vm_prot_t,
    pub max_protection: vm_prot_t,
    pub inheritance: vm_inherit_t,
    pub offset: u32,
    pub user_tag: u32,
    pub pages_resident: u32,
    pub pages_shared_now_private: u32,
    pub pages_swapped_out: u32,
    pub pages_dirtied: u32,
    pub ref_count: u32,
    pub shadow_depth: u16,
    pub external_pager: u8,
    pub share_mode: u8,
    pub is_submap: boolean_t,
    pub behavior: vm_behavior_t,
    pub object_id: u32,
    pub user_wired_count: u16,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_submap_info_64 {
    pub protection: vm_prot_t,
    pub max_protection: vm_prot_t,
    pub inheritance: vm_inherit_t,
    pub offset: memory_object_offset_t,
    pub user_tag: u32,
    pub pages_resident: u32,
    pub pages_shared_now_private: u32,
    pub pages_swapped_out: u32,
    pub pages_dirtied: u32,
    pub ref_count: u32,
    pub shadow_depth: u16,
    pub external_pager: u8,
    pub share_mode: u8,
    pub is_submap: boolean_t,
    pub behavior: vm_behavior_t,
    pub object_id: u32,
    pub user_wired_count: u16,
    /// Since version 1.
    pub pages_reusable: u32,
    /// Since version 2.
    pub object_id_full: u64,
}

/// The counts by which the versions of [`vm_region_submap_info_64`] are told.
pub const SUBMAP_INFO_VERSIONS: [u32; 3] = [
    ints::<vm_region_submap_info_64>() - 3,
    ints::<vm_region_submap_info_64>() - 2,
    ints::<vm_region_submap_info_64>(),
];

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_region_submap_short_info_64 {
    pub protection: vm_prot_t,
    pub max_protection: vm_prot_t,
    pub inheritance: vm_inherit_t,
    pub offset: memory_object_offset_t,
    pub user_tag: u32,
    pub ref_count: u32,
    pub shadow_depth: u16,
    pub external_pager: u8,
    pub share_mode: u8,
    pub is_submap: boolean_t,
    pub behavior: vm_behavior_t,
    pub object_id: u32,
    pub user_wired_count: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_page_info_basic {
    pub disposition: i32,
    pub ref_count: i32,
    pub object_id: u64,
    pub offset: memory_object_offset_t,
    pub depth: i32,
    pub __pad: i32,
}

/// Stores the first `count` ints of a structure.
///
/// # Safety
/// 1. `out` is good for storing `count` ints.
pub(crate) unsafe fn put<T: Copy>(out: *mut i32, info: &T, count: u32) {
    let bytes = (count as usize * 4).min(size_of::<T>());
    // SAFETY: 1, and no more than the structure has. It may be copied as bytes.
    unsafe { core::ptr::copy_nonoverlapping((&raw const *info).cast::<u8>(), out.cast::<u8>(), bytes) };
}
