//! The structures of statistics, with XNU's layout (two of them are the core's own), and what
//! Linux knows for them.
#![allow(non_camel_case_types, missing_docs, reason = "the names are those of the headers")]

pub use machvm::task::{VmStatistics as vm_statistics, VmStatistics64 as vm_statistics64};
use machvm_hal::PAGE_SIZE;

/// `HOST_VM_INFO`, `HOST_VM_INFO64`, `HOST_BASIC_INFO`.
pub const HOST_VM_INFO: i32 = 2;
pub const HOST_VM_INFO64: i32 = 4;
pub const HOST_BASIC_INFO: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_cache_statistics {
    pub cache_object_count: i32,
    pub cache_count: i32,
    pub active_tmp_count: i32,
    pub inactive_tmp_count: i32,
    pub active_perm_count: i32,
    pub inactive_perm_count: i32,
    pub dirty_count: i32,
    pub laundry_count: i32,
    pub writeback_count: i32,
    pub slab_count: i32,
    pub slab_reclaim_count: i32,
}

#[repr(C, packed(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct host_basic_info {
    pub max_cpus: i32,
    pub avail_cpus: i32,
    pub memory_size: u32,
    pub cpu_type: i32,
    pub cpu_subtype: i32,
    pub cpu_threadtype: i32,
    pub physical_cpu: i32,
    pub physical_cpu_max: i32,
    pub logical_cpu: i32,
    pub logical_cpu_max: i32,
    pub max_mem: u64,
}

/// The number, or the most that fits.
pub(crate) fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
/// As [`narrow`], with a sign.
pub(crate) fn signed(n: u64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// What Linux says of its memory, in pages: all, and what programs could still have.
pub(crate) fn linux_pages() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let pages = |kib: Option<u64>| kib.unwrap_or(0) * 1024 / PAGE_SIZE;
    (pages(field("MemTotal:")), pages(field("MemAvailable:")))
}

/// The statistics, with what is free where the VM may use all that Linux has.
pub(crate) fn bounded(mut s: vm_statistics64) -> vm_statistics64 {
    if s.free_count == u32::MAX {
        s.free_count = narrow(linux_pages().1);
    }
    s
}
