//! Chunks from the heap, counted, and failing on request.

use machvm_arena::{CHUNK_ALIGN, ChunkSource};
use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What the source did so far.
#[derive(Default)]
pub(crate) struct Count {
    pub(crate) asked: AtomicUsize,
    pub(crate) out: AtomicUsize,
    /// The request (from one) that fails; zero for none.
    pub(crate) fail_at: AtomicUsize,
}

#[derive(Clone, Copy)]
pub(crate) struct Heap<'a>(pub(crate) &'a Count);

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, CHUNK_ALIGN).expect("a chunk's size")
}

// SAFETY: fresh memory of the allocator, of the size and alignment asked for.
unsafe impl ChunkSource for Heap<'_> {
    fn chunk(&self, bytes: usize) -> Option<NonNull<u8>> {
        assert!(bytes != 0 && bytes.is_multiple_of(CHUNK_ALIGN));
        if self.0.asked.fetch_add(1, Relaxed) + 1 == self.0.fail_at.load(Relaxed) {
            return None;
        }
        // SAFETY: `bytes` is not zero.
        let ptr = NonNull::new(unsafe { alloc(layout(bytes)) })?;
        // Contents are any: what reads them before writing shows.
        // SAFETY: `bytes` of fresh memory.
        unsafe { ptr.as_ptr().write_bytes(0xa5, bytes) };
        self.0.out.fetch_add(bytes, Relaxed);
        Some(ptr)
    }
    unsafe fn release(&self, ptr: NonNull<u8>, bytes: usize) {
        self.0.out.fetch_sub(bytes, Relaxed);
        // SAFETY: from chunk() with the same size (condition 1).
        unsafe { dealloc(ptr.as_ptr(), layout(bytes)) };
    }
}
