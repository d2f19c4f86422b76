//! Where the pool's memory comes from.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// The system's side of the pool: hands out large pieces of memory.
///
/// Called with no lock held. A pool that is used from a signal handler needs a source
/// that may be called there, and whose regions may be dropped there.
pub trait RegionSource: Send + Sync {
    /// A piece of memory. Dropping it gives it back.
    type Region: AsRef<[u8]> + AsMut<[u8]> + Send;

    /// At least `bytes` bytes with any contents, or `None` when there are none.
    fn take(&self, bytes: usize) -> Option<Self::Region>;
}

/// Regions from the global allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap;

impl RegionSource for Heap {
    type Region = Box<[u8]>;

    fn take(&self, bytes: usize) -> Option<Box<[u8]>> {
        let mut v = Vec::new();
        v.try_reserve_exact(bytes).ok()?;
        v.resize(bytes, 0);
        Some(v.into_boxed_slice())
    }
}

impl RegionSource for fn(usize) -> Option<Box<[u8]>> {
    type Region = Box<[u8]>;

    fn take(&self, bytes: usize) -> Option<Box<[u8]>> {
        self(bytes)
    }
}
