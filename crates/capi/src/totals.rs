//! The structures of statistics, with XNU's layout, and what Linux knows for them.
#![allow(non_camel_case_types, missing_docs, reason = "the names are those of the headers")]

use machvm::task::{VmStatistics, VmStatistics64};
use machvm_hal::PAGE_SIZE;

/// `HOST_VM_INFO`, `HOST_VM_INFO64`, `HOST_BASIC_INFO`.
pub const HOST_VM_INFO: i32 = 2;
pub const HOST_VM_INFO64: i32 = 4;
pub const HOST_BASIC_INFO: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_statistics {
    pub free_count: u32,
    pub active_count: u32,
    pub inactive_count: u32,
    pub wire_count: u32,
    pub zero_fill_count: u32,
    pub reactivations: u32,
    pub pageins: u32,
    pub pageouts: u32,
    pub faults: u32,
    pub cow_faults: u32,
    pub lookups: u32,
    pub hits: u32,
    /// Since revision 1.
    pub purgeable_count: u32,
    pub purges: u32,
    /// Since revision 2.
    pub speculative_count: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct vm_statistics64 {
    pub free_count: u32,
    pub active_count: u32,
    pub inactive_count: u32,
    pub wire_count: u32,
    pub zero_fill_count: u64,
    pub reactivations: u64,
    pub pageins: u64,
    pub pageouts: u64,
    pub faults: u64,
    pub cow_faults: u64,
    pub lookups: u64,
    pub hits: u64,
    pub purges: u64,
    pub purgeable_count: u32,
    pub speculative_count: u32,
    /// Since revision 1.
    pub decompressions: u64,
    pub compressions: u64,
    pub swapins: u64,
    pub swapouts: u64,
    pub compressor_page_count: u32,
    pub throttled_count: u32,
    pub external_page_count: u32,
    pub internal_page_count: u32,
    pub total_uncompressed_pages_in_compressor: u64,
}

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
pub(crate) fn bounded(mut s: VmStatistics64) -> VmStatistics64 {
    if s.free_count > u64::from(u32::MAX) {
        s.free_count = linux_pages().1;
    }
    s
}

impl From<VmStatistics> for vm_statistics {
    fn from(s: VmStatistics) -> Self {
        vm_statistics {
            free_count: s.free_count,
            active_count: s.active_count,
            inactive_count: s.inactive_count,
            wire_count: s.wire_count,
            zero_fill_count: s.zero_fill_count,
            reactivations: s.reactivations,
            pageins: s.pageins,
            pageouts: s.pageouts,
            faults: s.faults,
            cow_faults: s.cow_faults,
            lookups: s.lookups,
            hits: s.hits,
            purgeable_count: s.purgeable_count,
            purges: s.purges,
            speculative_count: s.speculative_count,
        }
    }
}

impl From<VmStatistics64> for vm_statistics64 {
    fn from(s: VmStatistics64) -> Self {
        vm_statistics64 {
            free_count: narrow(s.free_count),
            active_count: narrow(s.active_count),
            inactive_count: narrow(s.inactive_count),
            wire_count: narrow(s.wire_count),
            zero_fill_count: s.zero_fill_count,
            reactivations: s.reactivations,
            pageins: s.pageins,
            pageouts: s.pageouts,
            faults: s.faults,
            cow_faults: s.cow_faults,
            lookups: s.lookups,
            hits: s.hits,
            purges: s.purges,
            purgeable_count: narrow(s.purgeable_count),
            speculative_count: narrow(s.speculative_count),
            decompressions: s.swapins,
            compressions: s.swapouts,
            swapins: s.swapins,
            swapouts: s.swapouts,
            compressor_page_count: 0,
            throttled_count: narrow(s.throttled_count),
            external_page_count: narrow(s.external_page_count),
            internal_page_count: narrow(s.internal_page_count),
            total_uncompressed_pages_in_compressor: 0,
        }
    }
}
