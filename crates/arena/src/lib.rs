//! Typed slabs with stable 32-bit indices, reserve and commit, and no allocator.
//!
//! A [`Slab`] hands out [`Handle`]s. Its memory comes in chunks from a
//! [`ChunkSource`] (frames of a kernel, `mmap` on Linux) and is given back only
//! when the slab is dropped, so a handle that was once valid always names an
//! initialised `T` (type stability): a stale handle finds a recycled object, never
//! foreign memory. That is what lets lock-free lookups re-check identity after the
//! fact.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "std")]
extern crate std;

mod handle;
#[cfg(feature = "std")]
mod heap;
mod slab;
mod source;

pub use handle::{Handle, HandleField};
#[cfg(feature = "std")]
pub use heap::{Gate, HeapChunks};
pub use slab::{NoMemory, Reserved, Slab};
pub use source::{CHUNK_ALIGN, ChunkSource};
