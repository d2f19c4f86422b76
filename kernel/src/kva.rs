//! Kernel addresses mapped page by page: slabs' chunks, the heap, stacks. What was mapped stays; stacks are used again.

use machvm::page::FrameClass;
use machvm_hal::PAGE_SIZE;
use machvm_sync::{Rank, Spin};

use crate::arch::{self, VSPACE};
use crate::lock::NoInterrupts;
use crate::memory::{keep, zeroed_frame};

/// The next free address.
static NEXT: Spin<u64> = Spin::new(Rank::Leaf, VSPACE);

/// `pages` pages, contiguous in the kernel's addresses, zero, with an unmapped page before them. `None`: no memory;
/// what was had is lost, which is little: the caller is out of memory.
pub(crate) fn allocate(pages: u64) -> Option<*mut u8> {
    let _off = NoInterrupts::new();
    let start = {
        let mut next = NEXT.lock();
        let start = *next + PAGE_SIZE;
        *next = start + pages * PAGE_SIZE;
        start
    };
    for i in 0..pages {
        let frame = zeroed_frame(FrameClass::System)?;
        keep(1);
        // The tables on the way are shared by neighbours: one at a time.
        let _one = TABLES.lock();
        let mut table = || zeroed_frame(FrameClass::Interrupt).inspect(|_| keep(1)).map(|f| f.byte());
        arch::map_kernel_page(start + i * PAGE_SIZE, frame, &mut table)?;
    }
    Some(start as *mut u8)
}

/// Taken around changes of the kernel's own tables.
static TABLES: Spin<()> = Spin::new(Rank::Slab, ());
