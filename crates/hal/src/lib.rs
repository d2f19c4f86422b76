//! The seam of machvm: what the machine-independent core knows of the world.
//!
//! The consumer defines the trait. Everything the core needs from a kernel, from
//! Linux or from a test machine is here: addresses that have been checked
//! ([`addr`]), waiting and waking ([`Host`]), frames ([`PhysMem`]), the
//! machine-dependent map ([`Pmap`], [`PmapPage`]), deferred invalidation
//! ([`Gather`]) and data sources ([`Pager`] with its [`ObjectControl`], [`Swap`]). Beside them, for who knows the
//! manual: [`pmap9`].
//!
//! What this crate is not: it holds no locks, allocates nothing, knows no
//! architecture and no page-table format.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
mod control;
mod gather;
mod host;
mod mem;
mod page_out;
mod pager;
mod pmap;
pub mod pmap9;
mod prot;

pub use addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Pfn, Pindex, RangeError, RawAddr, RawSize, Va, VaRange};
pub use control::{
    Attributes, ControlError, ControlId, CopyStrategy, LockRequest, ObjectControl, Return, SupplyError,
};
pub use gather::{Flush, Flushed, Gather, Invalidations, MAX_RANGES};
pub use host::{CpuId, CpuSet, Event, Host, MaySleep, Woken};
pub use mem::{ExtentError, PhysMem, Placement, PopulateError};
pub use page_out::{PageOut, PageOutSource};
pub use pager::{
    DeviceFrames, EachPage, HasPage, MAX_CLUSTER, MAX_RUN, PageIn, PageInSink, PageRun, Pager, PagerError,
    Supply, Swap, SwapError, SwapSlot,
};
pub use pmap::{
    EnterError, EnterFlags, PageArray, PageMd, PageNo, Pmap, PmapPage, RefMod, Region, RegionError, RemoveWhy,
};
pub use prot::Prot;
