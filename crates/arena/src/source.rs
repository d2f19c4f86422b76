//! Where the memory of slabs comes from.

use core::ptr::NonNull;

/// Alignment of every chunk, in bytes.
pub const CHUNK_ALIGN: usize = 4096;

/// Gives memory in large pieces.
///
/// # Safety
/// An implementation promises that
/// 1. `chunk(n)` returns memory that is valid for reads and writes of `n` bytes,
///    aligned to [`CHUNK_ALIGN`], and used by nobody else until `release`;
/// 2. it does not touch that memory itself.
pub unsafe trait ChunkSource: Copy + Send + Sync {
    /// `bytes` of memory with any contents; `None` when there is none.
    ///
    /// => the slab's lock is held (`Rank::Slab`): takes only locks above it and waits
    ///    for nothing.
    fn chunk(&self, bytes: usize) -> Option<NonNull<u8>>;
    /// Asked before each object is handed out or reserved; `false` is
    /// [`crate::NoMemory`]. For tests: real sources always say yes.
    ///
    /// => as for `chunk`.
    #[inline]
    fn admit(&self) -> bool {
        true
    }
    /// Gives a chunk back.
    ///
    /// # Safety
    /// 1. `ptr` came from `chunk(bytes)` of this source and was not released since.
    /// 2. Nobody uses the memory any more.
    unsafe fn release(&self, ptr: NonNull<u8>, bytes: usize);
}
