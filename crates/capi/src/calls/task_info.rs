//! `task_info` (U35).
//!
//! The memory of this process's task is the window's and, as far as Linux tells, the rest
//! of the process's: sizes by mapping, and what is resident by kind. Peaks are not kept: they
//! are told as what is now.
#![allow(non_camel_case_types, missing_docs, reason = "the names are those of the headers")]

use machvm::task::{PageQueryError, TaskVmInfo};
use machvm_hal::PAGE_SIZE;

use super::{code, task_of, with};
use crate::info::{ints, put};
use crate::kr;
use crate::outside::USER_END;
use crate::outside::maps::Maps;
use crate::ports::TaskPort;
use crate::totals::{narrow, signed};
use crate::types::{kern_return_t, mach_msg_type_number_t, mach_port_t};

pub const TASK_BASIC_INFO_32: u32 = 4;
pub const TASK_BASIC_INFO_64: u32 = 5;
pub const TASK_BASIC2_INFO_32: u32 = 6;
/// As [`TASK_BASIC_INFO_64`].
pub const TASK_BASIC_INFO_64_2: u32 = 18;
pub const MACH_TASK_BASIC_INFO: u32 = 20;
pub const TASK_VM_INFO: u32 = 22;
/// As [`TASK_VM_INFO`], with the purgeable memory counted.
pub const TASK_VM_INFO_PURGEABLE: u32 = 23;

/// `POLICY_TIMESHARE`.
const TIMESHARE: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct time_value {
    pub seconds: i32,
    pub microseconds: i32,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct task_basic_info_32 {
    pub suspend_count: i32,
    pub virtual_size: u32,
    pub resident_size: u32,
    pub user_time: time_value,
    pub system_time: time_value,
    pub policy: i32,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct task_basic_info_64 {
    pub suspend_count: i32,
    pub virtual_size: u64,
    pub resident_size: u64,
    pub user_time: time_value,
    pub system_time: time_value,
    pub policy: i32,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct mach_task_basic_info {
    pub virtual_size: u64,
    pub resident_size: u64,
    pub resident_size_max: u64,
    pub user_time: time_value,
    pub system_time: time_value,
    pub policy: i32,
    pub suspend_count: i32,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct task_vm_info {
    pub virtual_size: u64,
    pub region_count: i32,
    pub page_size: i32,
    pub resident_size: u64,
    pub resident_size_peak: u64,
    pub device: u64,
    pub device_peak: u64,
    pub internal: u64,
    pub internal_peak: u64,
    pub external: u64,
    pub external_peak: u64,
    pub reusable: u64,
    pub reusable_peak: u64,
    pub purgeable_volatile_pmap: u64,
    pub purgeable_volatile_resident: u64,
    pub purgeable_volatile_virtual: u64,
    pub compressed: u64,
    pub compressed_peak: u64,
    pub compressed_lifetime: u64,
    /// Since revision 1.
    pub phys_footprint: u64,
    /// Since revision 2.
    pub min_address: u64,
    pub max_address: u64,
    /// Since revision 3.
    pub ledger_phys_footprint_peak: i64,
    /// Purgeable memory, and what it is used for: there are no ledgers.
    pub ledgers: [i64; 20],
    /// Since revision 4: there is no limit, which is told as 0.
    pub limit_bytes_remaining: u64,
    /// Since revision 5: not counted by task.
    pub decompressions: i32,
    /// Since revision 6: as `decompressions`.
    pub ledger_swapins: i64,
}

/// The counts by which the revisions of [`task_vm_info`] are told, from 0 on.
pub const VM_INFO_REVISIONS: [u32; 7] = {
    let all = ints::<task_vm_info>();
    [all - 53, all - 51, all - 47, all - 5, all - 3, all - 2, all]
};

/// What a call fills.
#[expect(clippy::large_enum_variant, reason = "it lives for one call")]
enum Told {
    Basic32(task_basic_info_32),
    Basic64(task_basic_info_64),
    Basic(mach_task_basic_info),
    Vm(task_vm_info),
}

/// What is resident of the process beside the VM's frames, which are shared memory to
/// Linux: anonymous, of files, on swap; in bytes.
fn resident_outside() -> [u64; 3] {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["RssAnon:", "RssFile:", "VmSwap:"].map(|name| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    })
}

/// What the task has, outside the window too.
fn memory(port: &TaskPort) -> Result<TaskVmInfo, kern_return_t> {
    let mut m = with(port, |t, may| Ok::<_, PageQueryError>(t.vm_info(may)))?;
    if port.own {
        for mapping in Maps::within(0, u64::MAX).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)? {
            m.virtual_size += mapping.bytes();
            m.region_count += 1;
        }
        let [anonymous, files, swapped] = resident_outside();
        m.resident_size += anonymous + files;
        m.internal += anonymous;
        m.external += files;
        m.compressed += swapped;
        m.phys_footprint += anonymous + swapped;
        (m.min_address, m.max_address) = (PAGE_SIZE, USER_END);
    }
    Ok(m)
}

/// The time that the task's threads have used: user's and system's. Other tasks have none.
fn times(port: &TaskPort) -> [time_value; 2] {
    if !port.own {
        return Default::default();
    }
    // SAFETY: all zeroes is a usage, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = core::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime].map(|t| time_value {
        seconds: i32::try_from(t.tv_sec).unwrap_or(i32::MAX),
        microseconds: t.tv_usec as i32,
    })
}

fn vm_info(m: &TaskVmInfo, purgeable: bool) -> task_vm_info {
    let counted = |n: u64| if purgeable { n } else { 0 };
    task_vm_info {
        virtual_size: m.virtual_size,
        region_count: signed(m.region_count.into()),
        page_size: PAGE_SIZE as i32,
        resident_size: m.resident_size,
        resident_size_peak: m.resident_size,
        internal: m.internal,
        internal_peak: m.internal,
        external: m.external,
        external_peak: m.external,
        purgeable_volatile_pmap: counted(m.purgeable_volatile_resident),
        purgeable_volatile_resident: counted(m.purgeable_volatile_resident),
        purgeable_volatile_virtual: counted(m.purgeable_volatile_virtual),
        compressed: m.compressed,
        compressed_peak: m.compressed,
        compressed_lifetime: m.compressed,
        phys_footprint: m.phys_footprint,
        min_address: m.min_address,
        max_address: m.max_address,
        ledger_phys_footprint_peak: i64::try_from(m.phys_footprint).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

fn told(port: &TaskPort, flavor: u32, room: u32) -> Result<(Told, u32), kern_return_t> {
    let fits = |n: u32| if n <= room { Ok(n) } else { Err(kr::KERN_INVALID_ARGUMENT) };
    let [user_time, system_time] = times(port);
    let policy = TIMESHARE;
    Ok(match flavor {
        TASK_BASIC_INFO_32 | TASK_BASIC2_INFO_32 => {
            let need = fits(ints::<task_basic_info_32>())?;
            let m = memory(port)?;
            let (virtual_size, resident_size) = (narrow(m.virtual_size), narrow(m.resident_size));
            let suspend_count = 0;
            let info = task_basic_info_32 {
                suspend_count,
                virtual_size,
                resident_size,
                user_time,
                system_time,
                policy,
            };
            (Told::Basic32(info), need)
        }
        TASK_BASIC_INFO_64 | TASK_BASIC_INFO_64_2 => {
            let need = fits(ints::<task_basic_info_64>())?;
            let TaskVmInfo { virtual_size, resident_size, .. } = memory(port)?;
            let suspend_count = 0;
            let info = task_basic_info_64 {
                suspend_count,
                virtual_size,
                resident_size,
                user_time,
                system_time,
                policy,
            };
            (Told::Basic64(info), need)
        }
        MACH_TASK_BASIC_INFO => {
            let need = fits(ints::<mach_task_basic_info>())?;
            let TaskVmInfo { virtual_size, resident_size, .. } = memory(port)?;
            let info = mach_task_basic_info {
                virtual_size,
                resident_size,
                resident_size_max: resident_size,
                user_time,
                system_time,
                policy,
                suspend_count: 0,
            };
            (Told::Basic(info), need)
        }
        TASK_VM_INFO | TASK_VM_INFO_PURGEABLE => {
            let need = VM_INFO_REVISIONS.into_iter().filter(|n| *n <= room).max();
            let need = need.ok_or(kr::KERN_INVALID_ARGUMENT)?;
            (Told::Vm(vm_info(&memory(port)?, flavor == TASK_VM_INFO_PURGEABLE)), need)
        }
        _ => return Err(kr::KERN_INVALID_ARGUMENT),
    })
}

/// Tells of a task's memory, by flavour (U35). Where a structure has revisions the count
/// decides how much is told.
///
/// # Safety
/// 1. `count` is null or good for a load and a store; `info` is null or good for storing
///    `*count` ints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn task_info(
    target: mach_port_t,
    flavor: u32,
    info: *mut i32,
    count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    if info.is_null() || count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let room = unsafe { *count };
    code(task_of(target).and_then(|port| told(&port, flavor, room)).map(|(told, need)| {
        // SAFETY: 1; `need` ints fit.
        unsafe {
            match told {
                Told::Basic32(i) => put(info, &i, need),
                Told::Basic64(i) => put(info, &i, need),
                Told::Basic(i) => put(info, &i, need),
                Told::Vm(i) => put(info, &i, need),
            }
            count.write(need);
        }
    }))
}
