//! Where machvm's pages come from and go to.
//!
//! * [`Pool`]: swap in memory. Pages are compressed with LZ4, pages that repeat one
//!   word cost nothing; never more memory than it was allowed.
//! * [`Tiers`]: swap in several places by priority, in memory and on files and devices;
//!   contents move between them. A [`Tier`] is such a place.
//! * [`NoSwap`]: swap that keeps nothing.
//! * [`FilePager`]: an object whose data is a file.
//! * [`DevicePager`], [`SgPager`]: memory of devices, which is mapped as it is.
//! * [`DeadPager`]: refuses everything.
//! * [`external`]: objects, and swap, whose pager is another process.
//! * `remote`, with the feature of that name: swap and objects on a server.
//!
//! None of them takes a lock of the virtual memory system, and all are called with
//! none held. Neither [`Pool`] nor [`FilePager`] allocates on the way of a request:
//! buffers are on the stack (at most 40 KiB) and the pool's memory comes from its
//! [`RegionSource`].
//!
//! Without the feature `std` there is only [`Pool`], with LZ4: all that a kernel needs to bring
//! is an allocator and a [`RegionSource`].
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod chain;
mod class;
mod codec;
#[cfg(feature = "std")]
mod dead;
#[cfg(feature = "std")]
mod device;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod external;
#[cfg(feature = "std")]
mod file;
mod frames;
mod handle;
mod none;
mod pool;
mod region;
#[cfg(all(target_os = "linux", feature = "remote"))]
pub mod remote;
mod shard;
mod slot;
mod stats;
mod sum;
#[cfg(test)]
mod tests;
#[cfg(all(feature = "std", target_os = "linux"))]
mod tier;

pub use codec::Codec;
#[cfg(feature = "std")]
pub use dead::DeadPager;
#[cfg(feature = "std")]
pub use device::{Device, DeviceError, DevicePager, Devices, SgPager};
#[cfg(feature = "std")]
pub use file::{FileId, FilePager, FileTraffic, Seen, WriteError};
pub use none::NoSwap;
pub use pool::Pool;
pub use region::{Heap, RegionSource};
pub use slot::SLOT_BITS;
pub use stats::PoolStats;
#[cfg(all(feature = "std", target_os = "linux"))]
pub use tier::{
    Block, Buffer, Disk, DiskError, Done, EachRead, FileBlock, Memory, OffError, OnError, Opened, PageBytes,
    PageId, Place, Source, Speed, Tier, TierError, TierInfo, TierStats, Tiers, TiersStats,
};
