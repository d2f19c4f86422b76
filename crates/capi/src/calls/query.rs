//! `mach_vm_page_query`, `mach_vm_page_info`, `mach_vm_page_range_query` (U25).

use machvm::task::{Disposition, PageQueryError, RegionError};
use machvm_hal::{PAGE_MASK, PAGE_SIZE, RawAddr, RawSize, VaRange};

use super::{code, here, task_of, with};
use crate::info::{self, ints, put};
use crate::kr::{self, Code};
use crate::outside::maps::Maps;
use crate::outside::{self, Part, pages};
use crate::ports::TaskPort;
use crate::regions;
use crate::transfer;
use crate::types::{
    kern_return_t, mach_msg_type_number_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t,
};

/// Pages that are asked about at once.
const CHUNK: u64 = 1024;

/// The dispositions of the pages in `[start, end)` of Linux's memory.
fn around(start: u64, end: u64, out: &mut Vec<Disposition>) -> Result<(), kern_return_t> {
    let mut at = start;
    for m in Maps::within(start, end).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)? {
        let gap = (m.start - at) / PAGE_SIZE;
        out.resize(out.len() + gap as usize, Disposition::empty());
        pages::dispositions(&m, m.start, m.end, out);
        at = m.end;
    }
    out.resize(out.len() + ((end - at) / PAGE_SIZE) as usize, Disposition::empty());
    Ok(())
}

/// The dispositions of `n` pages from `start` on, which do not wrap.
fn dispositions(port: &TaskPort, start: u64, n: u64) -> Result<Vec<Disposition>, kern_return_t> {
    let mut all = Vec::with_capacity(n as usize);
    let within = |address: u64, size: u64, all: &mut Vec<Disposition>| {
        let before = all.len();
        all.resize(before + (size / PAGE_SIZE) as usize, Disposition::empty());
        let (to, range) = (&mut all[before..], (RawAddr(address), RawSize(size)));
        with(port, |t, may| t.vm_page_range_query(range.0, range.1, to, may)).map(drop)
    };
    if !port.own {
        within(start, n * PAGE_SIZE, &mut all)?;
        return Ok(all);
    }
    for part in outside::parts(start, n * PAGE_SIZE) {
        match part {
            Part::Inside(address, size) => within(address, size, &mut all)?,
            Part::Outside(start, end) => around(start, end, &mut all)?,
        }
    }
    Ok(all)
}

/// What is known of the page at `address`, and how many name its object.
fn page(port: &TaskPort, address: u64) -> Result<(Disposition, u32), kern_return_t> {
    if outside::touches(port, address, 1) {
        let d = dispositions(port, address & !PAGE_MASK, 1)?;
        let mapped = outside::check(address, address + 1, machvm_hal::Prot::NONE).is_ok();
        return Ok((d[0], u32::from(mapped)));
    }
    with(port, |t, may| Ok::<_, PageQueryError>(t.vm_page_query(RawAddr(address), may)))
}

/// Tells what is known of one page: `VM_PAGE_QUERY_PAGE_*` (U25). Nothing mapped: 0.
///
/// # Safety
/// 1. `disposition` and `ref_count` are null or good for a store.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_page_query(
    target: mach_port_t,
    offset: mach_vm_address_t,
    disposition: *mut i32,
    ref_count: *mut i32,
) -> kern_return_t {
    if disposition.is_null() || ref_count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    code(task_of(target).and_then(|port| page(&port, offset)).map(|(d, n)| {
        // SAFETY: 1.
        unsafe {
            disposition.write(d.bits().cast_signed());
            ref_count.write(n.cast_signed());
        }
    }))
}

/// As [`mach_vm_page_query`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_map_page_query(
    target: mach_port_t,
    offset: vm_address_t,
    disposition: *mut i32,
    ref_count: *mut i32,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { mach_vm_page_query(target, offset as u64, disposition, ref_count) }
}

fn page_info(port: &TaskPort, address: u64) -> Result<info::vm_page_info_basic, kern_return_t> {
    let (d, refs) = page(port, address)?;
    let mut info = info::vm_page_info_basic {
        disposition: d.bits().cast_signed(),
        ref_count: refs.cast_signed(),
        ..Default::default()
    };
    let region = regions::find(
        port,
        address,
        |t, a, may| t.vm_region_recurse_short(a, may).map(|(r, i, _)| (r, i)),
        |m| m.short(),
    );
    match region {
        Ok(r) if r.start <= address => {
            info.object_id = r.info.object_id.into();
            info.offset = r.info.offset + ((address - r.start) & !PAGE_MASK);
        }
        // Nothing is mapped there, which is an answer, too.
        Ok(_) => {}
        Err(e) if e == RegionError::None(address).code(here().1) => {}
        Err(e) => return Err(e),
    }
    Ok(info)
}

/// What [`mach_vm_page_query`] tells, and which page of which object it is.
///
/// # Safety
/// 1. `info_count` is null or good for a load and a store; `info` is null or good for
///    storing `*info_count` ints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_page_info(
    target: mach_port_t,
    address: mach_vm_address_t,
    flavor: i32,
    info: *mut i32,
    info_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    let need = ints::<info::vm_page_info_basic>();
    if info.is_null() || info_count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let room = unsafe { *info_count };
    let got = task_of(target).and_then(|port| {
        if flavor != info::VM_PAGE_INFO_BASIC || room < need {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        page_info(&port, address)
    });
    code(got.map(|page| {
        // SAFETY: 1; `need` ints fit.
        unsafe {
            put(info, &page, need);
            info_count.write(need);
        }
    }))
}

/// Fills `*count` ints at `dispositions`, or as many as the range has pages, and says how
/// many (U25). The ints may be anywhere in the process.
///
/// # Safety
/// 1. `count` is null or good for a load and a store.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_page_range_query(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    dispositions_at: mach_vm_address_t,
    count: *mut mach_vm_size_t,
) -> kern_return_t {
    if count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let room = unsafe { *count };
    let query = || {
        let port = task_of(target)?;
        if size == 0 {
            return Ok(0);
        }
        let range = VaRange::check(RawAddr(address), RawSize(size));
        let range = range.map_err(|_| PageQueryError::Wraps(address).code(here().1))?;
        let n = range.pages().min(room);
        let mut done = 0;
        while done < n {
            let now = (n - done).min(CHUNK);
            let all = dispositions(&port, range.start().get() + done * PAGE_SIZE, now)?;
            let ints: Vec<u8> = all.iter().flat_map(|d| d.bits().to_ne_bytes()).collect();
            let to = dispositions_at.checked_add(done * 4).ok_or(kr::KERN_INVALID_ADDRESS)?;
            transfer::store(to, &ints).map_err(|e| e.code(here().1))?;
            done += now;
        }
        Ok(n)
    };
    // SAFETY: 1.
    unsafe { super::give(count, query()) }
}
