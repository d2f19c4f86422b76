//! `vm_statistics`, `vm_cache_statistics` (U26, U27; part 1.4).

use super::Task;
use crate::platform::Platform;
use crate::vm::Vm;

/// `vm_statistics64`, with XNU's layout: frames by state, then counters that never fall. The
/// highest number stands for more.
///
/// `free + active + inactive + wire + throttled` are all frames, but for those that are
/// between two states on some thread.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmStatistics64 {
    /// Frames not in use.
    pub free_count: u32,
    /// In use.
    pub active_count: u32,
    /// Set aside, clean or waiting to be written.
    pub inactive_count: u32,
    /// Wired, and the embedder's own.
    pub wire_count: u32,
    /// Pages zero-filled on demand.
    pub zero_fill_count: u64,
    /// Set aside, and used again in time.
    pub reactivations: u64,
    /// Read from pagers.
    pub pageins: u64,
    /// Written to pagers.
    pub pageouts: u64,
    /// Faults.
    pub faults: u64,
    /// Of these, copied a page.
    pub cow_faults: u64,
    /// Looked up in a cache of objects: there is none.
    pub lookups: u64,
    /// As `lookups`.
    pub hits: u64,
    /// Thrown away because nobody needed them.
    pub purges: u64,
    /// Pages whose contents are volatile.
    pub purgeable_count: u32,
    /// Read ahead and not used yet: not told apart.
    pub speculative_count: u32,
    /// As `swapins`: what compresses is behind swap.
    pub decompressions: u64,
    /// As `swapouts`.
    pub compressions: u64,
    /// Read back from swap.
    pub swapins: u64,
    /// Written to swap.
    pub swapouts: u64,
    /// Frames that compressed pages take. The embedder's swap knows: 0 here.
    pub compressor_page_count: u32,
    /// Modified pages for which there is no room on swap.
    pub throttled_count: u32,
    /// Resident, with a pager behind them.
    pub external_page_count: u32,
    /// Resident, anonymous.
    pub internal_page_count: u32,
    /// Pages that are compressed. As `compressor_page_count`.
    pub total_uncompressed_pages_in_compressor: u64,
}

/// `vm_statistics`, with XNU's layout: the same in 32 bits. (Mach 3 has the size of a page
/// before it.)
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "see VmStatistics64")]
pub struct VmStatistics {
    pub free_count: u32,
    pub active_count: u32,
    /// Throttled ones are counted here.
    pub inactive_count: u32,
    pub wire_count: u32,
    pub zero_fill_count: u32,
    pub reactivations: u32,
    /// Swap is a pager too: both are counted here.
    pub pageins: u32,
    /// As `pageins`.
    pub pageouts: u32,
    pub faults: u32,
    pub cow_faults: u32,
    pub lookups: u32,
    pub hits: u32,
    pub purgeable_count: u32,
    pub purges: u32,
    pub speculative_count: u32,
}

/// `vm_cache_statistics` (U27): what there is of it without a cache of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStatistics {
    /// Objects kept without a reference: none are.
    pub cache_object_count: u64,
    /// Their pages.
    pub cache_count: u64,
    /// Pages on the active queue.
    pub active_count: u64,
    /// Clean pages set aside.
    pub inactive_count: u64,
    /// Modified pages waiting to be written.
    pub laundry_count: u64,
    /// Modified pages for which there is no room.
    pub unswappable_count: u64,
    /// Bytes of the system's own structures.
    pub own_bytes: u64,
}

/// The number, or the highest that fits.
fn peg(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl VmStatistics {
    /// Cut to 32 bits.
    pub fn from_64(s: &VmStatistics64) -> Self {
        VmStatistics {
            free_count: s.free_count,
            active_count: s.active_count,
            inactive_count: s.inactive_count.saturating_add(s.throttled_count),
            wire_count: s.wire_count,
            zero_fill_count: peg(s.zero_fill_count),
            reactivations: peg(s.reactivations),
            pageins: peg(s.pageins.saturating_add(s.swapins)),
            pageouts: peg(s.pageouts.saturating_add(s.swapouts)),
            faults: peg(s.faults),
            cow_faults: peg(s.cow_faults),
            lookups: 0,
            hits: 0,
            purgeable_count: s.purgeable_count,
            purges: peg(s.purges),
            speculative_count: 0,
        }
    }
}

impl<P: Platform> Vm<P> {
    /// The statistics of the system (U26), 64-bit. Looks at every page structure.
    ///
    /// => no lock is held.
    pub fn vm_statistics64(&self) -> VmStatistics64 {
        let s = self.statistics();
        let wired = self.count_wired();
        let resident = self.residents();
        let anonymous = s.frames_resident.saturating_sub(s.frames_taken).saturating_sub(resident.external);
        VmStatistics64 {
            free_count: peg(s.frame_limit.saturating_sub(s.frames_resident)),
            active_count: peg(s.active.saturating_sub(wired.active)),
            inactive_count: peg((s.inactive + s.laundry).saturating_sub(wired.aside)),
            wire_count: peg(wired.all + s.frames_taken),
            zero_fill_count: s.zero_fill,
            reactivations: s.reactivated,
            pageins: s.pageins,
            pageouts: s.pageouts,
            faults: s.faults,
            cow_faults: s.cow_copies,
            lookups: 0,
            hits: 0,
            purges: s.purges,
            purgeable_count: peg(resident.volatile),
            speculative_count: 0,
            decompressions: s.swapins,
            compressions: s.swapouts,
            swapins: s.swapins,
            swapouts: s.swapouts,
            compressor_page_count: 0,
            throttled_count: peg(s.unswappable.saturating_sub(wired.unswappable)),
            external_page_count: peg(resident.external),
            internal_page_count: peg(anonymous),
            total_uncompressed_pages_in_compressor: 0,
        }
    }
}

impl<P: Platform> Task<'_, '_, P> {
    /// The statistics of the system that the task belongs to (U26), 32-bit.
    ///
    /// => no lock is held.
    pub fn vm_statistics(&self) -> VmStatistics {
        VmStatistics::from_64(&self.vm_statistics64())
    }

    /// As [`Task::vm_statistics`], in 64 bits.
    ///
    /// => no lock is held.
    pub fn vm_statistics64(&self) -> VmStatistics64 {
        self.map.vm().vm_statistics64()
    }

    /// The frames that the system may use.
    pub fn frame_limit(&self) -> u64 {
        self.map.vm().frame_limit()
    }

    /// The page queues and the system's own memory (U27).
    ///
    /// => no lock is held.
    pub fn vm_cache_statistics(&self) -> CacheStatistics {
        let s = self.map.vm().statistics();
        CacheStatistics {
            cache_object_count: 0,
            cache_count: 0,
            active_count: s.active,
            inactive_count: s.inactive,
            laundry_count: s.laundry,
            unswappable_count: s.unswappable,
            own_bytes: s.own_bytes,
        }
    }
}
