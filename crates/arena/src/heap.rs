//! Chunks from the heap, for tests and the software machine.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc, dealloc};

use crate::source::{CHUNK_ALIGN, ChunkSource};

/// Says whether memory may be had: what makes the k-th allocation fail in a test.
pub trait Gate: Sync {
    /// `false`: the caller is told that there is no memory. Called under spin locks.
    fn admit(&self) -> bool;
}

/// Memory of the process, through a gate if there is one.
#[derive(Clone, Copy, Default)]
pub struct HeapChunks {
    gate: Option<&'static dyn Gate>,
}

impl core::fmt::Debug for HeapChunks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HeapChunks(gate: {})", self.gate.is_some())
    }
}

impl HeapChunks {
    /// Without a gate.
    pub const fn new() -> Self {
        HeapChunks { gate: None }
    }
    /// Every object and every chunk passes `gate`.
    pub const fn gated(gate: &'static dyn Gate) -> Self {
        HeapChunks { gate: Some(gate) }
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), CHUNK_ALIGN).ok()
}

// SAFETY: 1: `alloc` with a layout that is not empty and aligned to CHUNK_ALIGN gives
// memory that is the caller's alone; 2: nothing here touches it.
unsafe impl ChunkSource for HeapChunks {
    fn chunk(&self, bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { alloc(layout(bytes)?) })
    }
    unsafe fn release(&self, ptr: NonNull<u8>, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: condition 1 of the caller: from chunk() with this layout.
            unsafe { dealloc(ptr.as_ptr(), layout) }
        }
    }
    fn admit(&self) -> bool {
        self.gate.is_none_or(Gate::admit)
    }
}
