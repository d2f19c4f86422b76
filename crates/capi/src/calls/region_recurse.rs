//! `vm_region_recurse` (U24). The tasks of the library have no submaps, so every region of
//! theirs, and every mapping of Linux's, is found at depth 0.

use machvm::task::{ShortInfo, SubmapInfo};

use super::region::{pages, prot, wirings};
use super::{code, task_of};
use crate::info::{self, SUBMAP_INFO_VERSIONS, ints, put};
use crate::kr;
use crate::outside::maps::Mapping;
use crate::regions;
use crate::types::{
    kern_return_t, mach_msg_type_number_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, natural_t,
    vm_address_t, vm_size_t,
};

fn short(s: &ShortInfo) -> info::vm_region_submap_short_info_64 {
    info::vm_region_submap_short_info_64 {
        protection: prot(s.protection),
        max_protection: prot(s.max_protection),
        inheritance: s.inheritance as u32,
        offset: s.offset,
        user_tag: s.user_tag,
        ref_count: s.ref_count,
        shadow_depth: s.shadow_depth,
        external_pager: s.external_pager.into(),
        share_mode: s.share_mode as u8,
        is_submap: s.is_submap.into(),
        behavior: s.behavior as i32,
        object_id: s.object_id,
        user_wired_count: wirings(s.user_wired_count),
    }
}

fn full(i: &SubmapInfo) -> info::vm_region_submap_info_64 {
    let (s, p) = (&i.short, &i.pages);
    info::vm_region_submap_info_64 {
        protection: prot(s.protection),
        max_protection: prot(s.max_protection),
        inheritance: s.inheritance as u32,
        offset: s.offset,
        user_tag: s.user_tag,
        pages_resident: pages(p.pages_resident),
        pages_shared_now_private: pages(p.pages_shared_now_private),
        pages_swapped_out: pages(p.pages_swapped_out),
        pages_dirtied: pages(p.pages_dirtied),
        ref_count: s.ref_count,
        shadow_depth: s.shadow_depth,
        external_pager: s.external_pager.into(),
        share_mode: s.share_mode as u8,
        is_submap: s.is_submap.into(),
        behavior: s.behavior as i32,
        object_id: s.object_id,
        user_wired_count: wirings(s.user_wired_count),
        pages_reusable: pages(p.pages_reusable),
        object_id_full: s.object_id.into(),
    }
}

fn narrow(i: &SubmapInfo) -> info::vm_region_submap_info {
    let f = full(i);
    info::vm_region_submap_info {
        protection: f.protection,
        max_protection: f.max_protection,
        inheritance: f.inheritance,
        offset: f.offset as u32, // the low bits, as the header says
        user_tag: f.user_tag,
        pages_resident: f.pages_resident,
        pages_shared_now_private: f.pages_shared_now_private,
        pages_swapped_out: f.pages_swapped_out,
        pages_dirtied: f.pages_dirtied,
        ref_count: f.ref_count,
        shadow_depth: f.shadow_depth,
        external_pager: f.external_pager,
        share_mode: f.share_mode,
        is_submap: f.is_submap,
        behavior: f.behavior,
        object_id: f.object_id,
        user_wired_count: f.user_wired_count,
    }
}

/// What a call fills.
enum Filled {
    Short(info::vm_region_submap_short_info_64),
    Full(info::vm_region_submap_info_64),
    Narrow(info::vm_region_submap_info),
}

/// How a call describes a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Wide,
    Narrow,
}

/// => as [`mach_vm_region_recurse`], with the narrow form that of `vm_region_recurse`.
///
/// # Safety
/// 1. As [`mach_vm_region_recurse`].
unsafe fn recurse(
    target: mach_port_t,
    (address, size, depth): (*mut u64, *mut u64, *mut natural_t),
    form: Form,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    if address.is_null() || size.is_null() || depth.is_null() || info.is_null() || info_count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let (addr, room, wanted) = unsafe { (*address, *info_count, *depth) };
    let result = task_of(target).and_then(|port| {
        let counts = [ints::<info::vm_region_submap_short_info_64>()].into_iter().chain(SUBMAP_INFO_VERSIONS);
        let need = match form {
            Form::Narrow => Some(ints::<info::vm_region_submap_info>()).filter(|n| *n <= room),
            // The largest that there is room for.
            Form::Wide => counts.filter(|n| *n <= room).max(),
        };
        let need = need.ok_or(kr::KERN_INVALID_ARGUMENT)?;
        if form == Form::Wide && need < SUBMAP_INFO_VERSIONS[0] {
            let r = regions::find(
                &port,
                addr,
                |t, a, may| t.vm_region_recurse_short_to(a, wanted, may).map(|(r, i, depth)| (r, (i, depth))),
                |m| (m.short(), 0),
            )?;
            return Ok((r.start, r.size, r.info.1, Filled::Short(short(&r.info.0)), need));
        }
        let r = regions::find(
            &port,
            addr,
            |t, a, may| t.vm_region_recurse_to(a, wanted, may).map(|(r, i, depth)| (r, (i, depth))),
            |m: &Mapping| (m.submap(), 0),
        )?;
        let filled = match form {
            Form::Wide => Filled::Full(full(&r.info.0)),
            Form::Narrow => Filled::Narrow(narrow(&r.info.0)),
        };
        Ok((r.start, r.size, r.info.1, filled, need))
    });
    code(result.map(|(start, bytes, reached, filled, need)| {
        // SAFETY: 1; `need` ints fit.
        unsafe {
            address.write(start);
            size.write(bytes);
            depth.write(reached);
            match filled {
                Filled::Short(i) => put(info, &i, need),
                Filled::Full(i) => put(info, &i, need),
                Filled::Narrow(i) => put(info, &i, need),
            }
            info_count.write(need);
        }
    }))
}

/// Describes the region that contains `*address`, or the next above it (U24). The number
/// of ints decides what is told: the short form, which counts no pages, or one of the
/// versions of the long one.
///
/// # Safety
/// 1. `address`, `size`, `depth` and `info_count` are null or good for a load and a store;
///    `info` is null or good for storing `*info_count` ints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_region_recurse(
    target: mach_port_t,
    address: *mut mach_vm_address_t,
    size: *mut mach_vm_size_t,
    depth: *mut natural_t,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { recurse(target, (address, size, depth), Form::Wide, info, info_count) }
}

/// As [`mach_vm_region_recurse`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_region_recurse_64(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: *mut vm_size_t,
    depth: *mut natural_t,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_region_recurse(target, address.cast(), size.cast(), depth, info, info_count) }
}

/// As [`mach_vm_region_recurse`], with the structure whose offset has 32 bits.
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_region_recurse(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: *mut vm_size_t,
    depth: *mut natural_t,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    // SAFETY: 1; the types are equally wide.
    unsafe { recurse(target, (address.cast(), size.cast(), depth), Form::Narrow, info, info_count) }
}
