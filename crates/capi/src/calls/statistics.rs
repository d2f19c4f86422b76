//! `vm_statistics`, `host_statistics`, `vm_cache_statistics`, `host_info` (U26, U27).
//!
//! Swap is a compressed pool in memory, so compressions are page-outs to it, and what the
//! pool takes is the compressor's.

use machvm_hal::PAGE_SIZE;

use super::host::host_of;
use super::{code, give, here, task_of};
use crate::info::{ints, put};
use crate::kr;
use crate::totals::{self, bounded, linux_pages, narrow, signed};
use crate::types::{kern_return_t, mach_msg_type_number_t, mach_port_t};

/// Makes a call of the system, inside the VM.
fn system<T>(
    call: impl FnOnce(&machvm::task::Task<'_, 'static, machvm_linux::library::Hosted>) -> T,
) -> Result<T, kern_return_t> {
    let (world, how) = here();
    let _inside = world.inside().ok_or(kr::KERN_FAILURE)?;
    Ok(call(&world.own().mach(how)))
}

fn narrow_statistics() -> Result<totals::vm_statistics, kern_return_t> {
    let s = system(|t| t.vm_statistics64())?;
    Ok(totals::vm_statistics::from_64(&bounded(s)))
}

fn wide_statistics() -> Result<totals::vm_statistics64, kern_return_t> {
    let s = system(|t| t.vm_statistics64())?;
    let mut wide = bounded(s);
    let all = here().0.vm().statistics().map_err(|_| kr::KERN_FAILURE)?;
    if let Some(pool) = all.pool {
        wide.compressor_page_count = narrow(pool.pool_bytes.div_ceil(PAGE_SIZE));
        wide.total_uncompressed_pages_in_compressor = pool.pages;
    }
    Ok(wide)
}

/// Mach 3's form (U26).
///
/// # Safety
/// 1. `statistics` is null or good for a store.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_statistics(
    target: mach_port_t,
    statistics: *mut totals::vm_statistics,
) -> kern_return_t {
    if statistics.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    unsafe { give(statistics, task_of(target).and_then(|_| narrow_statistics())) }
}

/// The page queues and the system's own memory (U27). Memory of tasks is temporary in
/// Mach's sense: it ends with them.
///
/// # Safety
/// 1. `statistics` is null or good for a store.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_cache_statistics(
    target: mach_port_t,
    statistics: *mut totals::vm_cache_statistics,
) -> kern_return_t {
    if statistics.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let told = task_of(target).and_then(|_| system(|t| t.vm_cache_statistics())).map(|s| {
        totals::vm_cache_statistics {
            cache_object_count: signed(s.cache_object_count),
            cache_count: signed(s.cache_count),
            active_tmp_count: signed(s.active_count),
            inactive_tmp_count: signed(s.inactive_count),
            dirty_count: signed(s.laundry_count + s.unswappable_count),
            laundry_count: signed(s.laundry_count),
            slab_count: signed(s.own_bytes.div_ceil(PAGE_SIZE)),
            ..Default::default()
        }
    });
    // SAFETY: 1.
    unsafe { give(statistics, told) }
}

/// What a call about the host fills.
enum Told {
    Narrow(totals::vm_statistics),
    Wide(totals::vm_statistics64),
    Basic(totals::host_basic_info),
}

/// The largest of `counts` that there is room for.
///
/// # Errors
/// `KERN_FAILURE`: none.
fn revision(counts: &[u32], room: u32) -> Result<u32, kern_return_t> {
    counts.iter().copied().filter(|n| *n <= room).max().ok_or(kr::KERN_FAILURE)
}

/// Stores what `ask` tells for `*count` ints of room.
///
/// # Safety
/// 1. `count` is null or good for a load and a store; `info` is null or good for storing
///    `*count` ints.
unsafe fn tell(
    info: *mut i32,
    count: *mut mach_msg_type_number_t,
    ask: impl FnOnce(u32) -> Result<(Told, u32), kern_return_t>,
) -> kern_return_t {
    if info.is_null() || count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let room = unsafe { *count };
    code(ask(room).map(|(told, need)| {
        // SAFETY: 1; `need` ints fit.
        unsafe {
            match told {
                Told::Narrow(i) => put(info, &i, need),
                Told::Wide(i) => put(info, &i, need),
                Told::Basic(i) => put(info, &i, need),
            }
            count.write(need);
        }
    }))
}

/// `HOST_VM_INFO`, in one of its revisions.
fn vm_info(room: u32) -> Result<(Told, u32), kern_return_t> {
    let all = ints::<totals::vm_statistics>();
    let need = revision(&[all - 3, all - 1, all], room)?;
    Ok((Told::Narrow(narrow_statistics()?), need))
}

/// The system's statistics by flavour (U26). The count decides how much is told.
///
/// # Safety
/// 1. `count` is null or good for a load and a store; `info` is null or good for storing
///    `*count` ints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn host_statistics(
    host: mach_port_t,
    flavor: i32,
    info: *mut i32,
    count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    let ask = |room| {
        host_of(host)?;
        match flavor {
            totals::HOST_VM_INFO => vm_info(room),
            _ => Err(kr::KERN_INVALID_ARGUMENT),
        }
    };
    // SAFETY: 1.
    unsafe { tell(info, count, ask) }
}

/// As [`host_statistics`], with the wide flavours, too.
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn host_statistics64(
    host: mach_port_t,
    flavor: i32,
    info: *mut i32,
    count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    let ask = |room| {
        host_of(host)?;
        match flavor {
            totals::HOST_VM_INFO64 => {
                let all = ints::<totals::vm_statistics64>();
                let need = revision(&[all - 14, all], room)?;
                Ok((Told::Wide(wide_statistics()?), need))
            }
            totals::HOST_VM_INFO => vm_info(room),
            _ => Err(kr::KERN_INVALID_ARGUMENT),
        }
    };
    // SAFETY: 1.
    unsafe { tell(info, count, ask) }
}

/// `CPU_TYPE_X86_64` or `CPU_TYPE_ARM64`, and the subtype for all of them.
const CPU: (i32, i32) = if cfg!(target_arch = "aarch64") { (0x0100_000c, 0) } else { (0x0100_0007, 3) };
/// Members of the first version of [`totals::host_basic_info`].
const BASIC_OLD: u32 = 5;

fn basic_info() -> Result<totals::host_basic_info, kern_return_t> {
    // SAFETY: they only ask.
    let (there, online) =
        unsafe { (libc::sysconf(libc::_SC_NPROCESSORS_CONF), libc::sysconf(libc::_SC_NPROCESSORS_ONLN)) };
    let (there, online) =
        (i32::try_from(there).unwrap_or(1).max(1), i32::try_from(online).unwrap_or(1).max(1));
    let limit = system(|t| t.frame_limit())?;
    let bytes = limit.min(linux_pages().0.max(1)) * PAGE_SIZE;
    Ok(totals::host_basic_info {
        max_cpus: there,
        avail_cpus: online,
        memory_size: bytes.min(1 << 31) as u32,
        cpu_type: CPU.0,
        cpu_subtype: CPU.1,
        cpu_threadtype: 0,
        physical_cpu: online,
        physical_cpu_max: there,
        logical_cpu: online,
        logical_cpu_max: there,
        max_mem: bytes,
    })
}

/// Tells of the machine: `HOST_BASIC_INFO`. Its memory is what the VM may use.
///
/// # Safety
/// 1. As [`host_statistics`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn host_info(
    host: mach_port_t,
    flavor: i32,
    info: *mut i32,
    count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    let ask = |room| {
        host_of(host)?;
        if flavor != totals::HOST_BASIC_INFO {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        let need = revision(&[BASIC_OLD, ints::<totals::host_basic_info>()], room)?;
        Ok((Told::Basic(basic_info()?), need))
    };
    // SAFETY: 1.
    unsafe { tell(info, count, ask) }
}
