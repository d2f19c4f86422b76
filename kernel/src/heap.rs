//! The kernel's heap: talc over kernel addresses that grow as needed.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use machvm_hal::PAGE_SIZE;
use machvm_sync::Rank;
use talc::{OomHandler, Span, Talc};

use crate::kva;
use crate::lock::IrqSpin;

/// The heap grows by this many pages at least.
const STEP: u64 = 64;

/// Bytes in use.
static USED: AtomicU64 = AtomicU64::new(0);

/// Bytes of the heap that are in use.
pub(crate) fn used() -> u64 {
    USED.load(Ordering::Relaxed)
}

struct Grow;

impl OomHandler for Grow {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let pages = ((layout.size() + layout.align()) as u64).div_ceil(PAGE_SIZE) + 1;
        // When memory is short, no more than is needed.
        let grown = [pages.max(STEP), pages].into_iter().find_map(|n| Some((n, kva::allocate(n)?)));
        let (n, start) = grown.ok_or(())?;
        // SAFETY: fresh memory that nobody else uses and that stays mapped.
        unsafe { talc.claim(Span::from_base_size(start, (n * PAGE_SIZE) as usize)) }.map(|_| ())
    }
}

struct Heap(IrqSpin<Talc<Grow>>);

#[global_allocator]
static HEAP: Heap = Heap(IrqSpin::new(Rank::PageQueue, Talc::new(Grow)));

// SAFETY: talc keeps the allocator's contract; the lock makes calls take turns.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not zero, says the caller's contract.
        let p = unsafe { self.0.lock().malloc(layout) };
        if p.is_ok() {
            USED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
        p.map_or(null_mut(), |p| p.as_ptr())
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        if let Some(p) = core::ptr::NonNull::new(p) {
            // SAFETY: `p` came from `alloc` with this layout.
            unsafe { self.0.lock().free(p, layout) }
            USED.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        }
    }
}
