//! `vm_region` and its flavours (U22, U23).

use machvm::task::{BasicInfo, ExtendedInfo, TopInfo};
use machvm_hal::Prot;

use super::{code, task_of};
use crate::info::{self, ints, put};
use crate::kr;
use crate::outside::maps::Mapping;
use crate::ports;
use crate::regions::{self, Region};
use crate::types::{
    kern_return_t, mach_msg_type_number_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t,
    vm_prot_t, vm_size_t,
};

/// What is asked, with what it fills.
enum Flavor {
    Basic64(info::vm_region_basic_info_64),
    Basic(info::vm_region_basic_info),
    /// Whole, or without its last field.
    Extended(info::vm_region_extended_info),
    Top(info::vm_region_top_info),
}

impl Flavor {
    /// `wide`: `VM_REGION_BASIC_INFO` means the structure of 64 bits.
    fn of(flavor: i32, wide: bool) -> Option<(Flavor, u32)> {
        Some(match flavor {
            info::VM_REGION_BASIC_INFO if !wide => {
                (Flavor::Basic(Default::default()), ints::<info::vm_region_basic_info>())
            }
            info::VM_REGION_BASIC_INFO | info::VM_REGION_BASIC_INFO_64 => {
                (Flavor::Basic64(Default::default()), ints::<info::vm_region_basic_info_64>())
            }
            info::VM_REGION_EXTENDED_INFO => {
                (Flavor::Extended(Default::default()), ints::<info::vm_region_extended_info>())
            }
            info::VM_REGION_EXTENDED_INFO__LEGACY => {
                (Flavor::Extended(Default::default()), ints::<info::vm_region_extended_info>() - 1)
            }
            info::VM_REGION_TOP_INFO => (Flavor::Top(Default::default()), ints::<info::vm_region_top_info>()),
            _ => return None,
        })
    }
}

pub(super) fn prot(p: Prot) -> vm_prot_t {
    vm_prot_t::from(p.bits())
}
/// A number of pages in 32 bits, the highest standing for more.
pub(super) fn pages(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
pub(super) fn wirings(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

fn basic_of(m: &Mapping) -> BasicInfo {
    let s = m.short();
    BasicInfo {
        protection: s.protection,
        max_protection: s.max_protection,
        inheritance: s.inheritance,
        shared: m.shared,
        reserved: false,
        offset: s.offset,
        behavior: s.behavior,
        user_wired_count: 0,
    }
}

fn basic_64(b: &BasicInfo) -> info::vm_region_basic_info_64 {
    info::vm_region_basic_info_64 {
        protection: prot(b.protection),
        max_protection: prot(b.max_protection),
        inheritance: b.inheritance as u32,
        shared: b.shared.into(),
        reserved: b.reserved.into(),
        offset: b.offset,
        behavior: b.behavior as i32,
        user_wired_count: wirings(b.user_wired_count),
    }
}

fn basic(b: &BasicInfo) -> info::vm_region_basic_info {
    info::vm_region_basic_info {
        protection: prot(b.protection),
        max_protection: prot(b.max_protection),
        inheritance: b.inheritance as u32,
        shared: b.shared.into(),
        reserved: b.reserved.into(),
        offset: b.offset as u32, // the low bits, as the header says
        behavior: b.behavior as i32,
        user_wired_count: wirings(b.user_wired_count),
    }
}

fn extended(e: &ExtendedInfo) -> info::vm_region_extended_info {
    info::vm_region_extended_info {
        protection: prot(e.protection),
        user_tag: e.user_tag,
        pages_resident: pages(e.pages_resident),
        pages_shared_now_private: pages(e.pages_shared_now_private),
        pages_swapped_out: pages(e.pages_swapped_out),
        pages_dirtied: pages(e.pages_dirtied),
        ref_count: e.ref_count,
        shadow_depth: e.shadow_depth,
        external_pager: e.external_pager.into(),
        share_mode: e.share_mode as u8,
        pages_reusable: pages(e.pages_reusable),
    }
}

fn top(t: &TopInfo) -> info::vm_region_top_info {
    info::vm_region_top_info {
        obj_id: t.obj_id,
        ref_count: t.ref_count,
        private_pages_resident: pages(t.private_pages_resident),
        shared_pages_resident: pages(t.shared_pages_resident),
        share_mode: t.share_mode as u8,
    }
}

fn region(target: mach_port_t, addr: u64, flavor: &mut Flavor) -> Result<Region<()>, kern_return_t> {
    let port = task_of(target)?;
    fn done<T>(r: Region<T>, f: impl FnOnce(&T)) -> Region<()> {
        f(&r.info);
        Region { start: r.start, size: r.size, info: () }
    }
    Ok(match flavor {
        Flavor::Basic64(to) => {
            let r = regions::find(&port, addr, |t, a, may| t.vm_region_basic(a, may), basic_of)?;
            done(r, |b| *to = basic_64(b))
        }
        Flavor::Basic(to) => {
            let r = regions::find(&port, addr, |t, a, may| t.vm_region_basic(a, may), basic_of)?;
            done(r, |b| *to = basic(b))
        }
        Flavor::Extended(to) => {
            let r = regions::find(&port, addr, |t, a, may| t.vm_region_extended(a, may), Mapping::extended)?;
            done(r, |e| *to = extended(e))
        }
        Flavor::Top(to) => {
            let r = regions::find(&port, addr, |t, a, may| t.vm_region_top(a, may), Mapping::top)?;
            done(r, |i| *to = top(i))
        }
    })
}

/// The region at or above `*address` (U23). Below the wanted number of ints nothing is
/// told; more are fine, and `*info_count` becomes what was filled.
///
/// # Safety
/// 1. `address`, `size`, `info_count` and `object_name` are null or good for a load and a
///    store; `info` is null or good for storing `*info_count` ints.
unsafe fn describe(
    target: mach_port_t,
    (address, size): (*mut u64, *mut u64),
    (flavor, wide): (i32, bool),
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
    object_name: *mut mach_port_t,
) -> kern_return_t {
    if address.is_null() || size.is_null() || info.is_null() || info_count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let (addr, room) = unsafe { (*address, *info_count) };
    let result = task_of(target).and_then(|_| {
        let (mut flavor, need) = Flavor::of(flavor, wide).ok_or(kr::KERN_INVALID_ARGUMENT)?;
        if room < need {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        Ok((region(target, addr, &mut flavor)?, flavor, need))
    });
    code(result.map(|(r, flavor, need)| {
        // SAFETY: 1; `need` ints fit.
        unsafe {
            address.write(r.start);
            size.write(r.size);
            match flavor {
                Flavor::Basic64(i) => put(info, &i, need),
                Flavor::Basic(i) => put(info, &i, need),
                Flavor::Extended(i) => put(info, &i, need),
                Flavor::Top(i) => put(info, &i, need),
            }
            info_count.write(need);
            if !object_name.is_null() {
                object_name.write(ports::NULL);
            }
        }
    }))
}

/// Describes the region that contains `*address`, or the next above it (U23).
///
/// # Safety
/// 1. `address`, `size`, `info_count` and `object_name` are null or good for a load and a
///    store; `info` is null or good for storing `*info_count` ints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_region(
    target: mach_port_t,
    address: *mut mach_vm_address_t,
    size: *mut mach_vm_size_t,
    flavor: i32,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
    object_name: *mut mach_port_t,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { describe(target, (address, size), (flavor, true), info, info_count, object_name) }
}

/// As [`mach_vm_region`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_region_64(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: *mut vm_size_t,
    flavor: i32,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
    object_name: *mut mach_port_t,
) -> kern_return_t {
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_region(target, address.cast(), size.cast(), flavor, info, info_count, object_name) }
}

/// As [`mach_vm_region`], with the offset of `VM_REGION_BASIC_INFO` in 32 bits (U22).
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_region(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: *mut vm_size_t,
    flavor: i32,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
    object_name: *mut mach_port_t,
) -> kern_return_t {
    let place = (address.cast(), size.cast());
    // SAFETY: 1; the types are equally wide.
    unsafe { describe(target, place, (flavor, false), info, info_count, object_name) }
}
