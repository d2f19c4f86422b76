//! Counters (`vm_statistics`, part 1.4). Relaxed; each is exact, no two agree to
//! the instant.

use core::sync::atomic::Ordering::Relaxed;
use machvm_sync::Field64;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one `Vm`.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Field64,)* }

        /// A reading of the counters.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Frames that may be resident at once.
            pub frame_limit: u64,
            /// Frames resident now.
            pub frames_resident: u64,
            /// The most frames resident at one time.
            pub frames_peak: u64,
            /// Of the resident ones, the embedder's (page tables, buffers).
            pub frames_taken: u64,
            /// 2 MiB runs that are in use by, or set aside for, one window of an object.
            pub reservations: u64,
            /// Runs set aside so far.
            pub reservations_made: u64,
            /// Of these, given up before they were empty.
            pub reservations_broken: u64,
            /// Up to here the daemon frees (`v_free_target`).
            pub frame_target: u64,
            /// Below this many free frames the daemon is woken.
            pub frame_low: u64,
            /// Below this many free frames programs should wait (`v_free_min`).
            pub frame_min: u64,
            /// Frames that programs leave to page-out and pagers (`v_free_reserved`).
            pub frame_reserve: u64,
            /// Pages in use.
            pub active: u64,
            /// Of these, pages that are in memory for the first time, where the policy tells
            /// them apart.
            pub fresh: u64,
            /// Pages on the inactive queue.
            pub inactive: u64,
            /// Pages on the laundry queue.
            pub laundry: u64,
            /// Modified pages for which there was no room on swap.
            pub unswappable: u64,
            /// Map entries in use.
            pub map_entries: u64,
            /// Bytes of the core's own structures.
            pub own_bytes: u64,
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.atomic().load(Relaxed),)* ..Stats::default() }
            }
        }
    };
}

counters! {
    /// Faults handled.
    faults,
    /// Pages filled with zero.
    zero_fill,
    /// Pages mapped by faults (clusters count each page).
    mapped,
    /// Copy-on-write faults that copied a page.
    cow_copies,
    /// Pages copied at once, because they were wired or held when a copy was made.
    eager_copies,
    /// Write faults on pages that had been shared and whose last sharer asked.
    cow_reuse,
    /// Pages read from pagers.
    pageins,
    /// Pages written to pagers.
    pageouts,
    /// Pages read from swap.
    swapins,
    /// Pages written to swap.
    swapouts,
    /// Clean pages dropped.
    dropped,
    /// Pages unmapped to see whether they are used.
    deactivated,
    /// Unmapped pages that were used again in time.
    reactivated,
    /// Pages that page-out looked at (`v_pdpages`).
    scanned,
    /// Rounds of the page daemon (`v_pdwakeups`).
    daemon_wakeups,
    /// Of these, freed less than was asked for (`v_pdshortfalls`).
    daemon_shortfalls,
    /// Pages written because their frames were needed.
    laundered_short,
    /// Pages written before their turn came.
    laundered_ahead,
    /// Runs of pages in which page-out wrote (`v_swapout`, `v_vnodeout`).
    runs_written,
    /// Pages without room on swap that were tried again, when there was room.
    unswappable_retried,
    /// Times the embedder was asked to give memory back.
    lowmem_events,
    /// Tasks that were named to be ended for their memory.
    oom_victims,
    /// Object copies made.
    copies,
    /// Times a thread found no free frame.
    memory_waits,
    /// Pages thrown away because their contents were volatile.
    purges,
    /// Extents that could not be used again.
    extents_lost,
}

pub(crate) fn bump(f: &Field64, n: u64) {
    f.atomic().fetch_add(n, Relaxed);
}
