//! Kernel addresses mapped page by page: slabs' chunks, the heap, stacks. What was mapped stays; stacks are used again.

use machvm::page::FrameClass;
use machvm_hal::{PAGE_SIZE, Pfn, PhysMem as _};
use machvm_sync::{Rank, Spin};

use crate::arch::{self, VSPACE};
use crate::embed::{the_vm, vm};
use crate::lock::NoInterrupts;
use crate::memory::{keep, zeroed_frame};

/// The next free address.
static NEXT: Spin<u64> = Spin::new(Rank::Leaf, VSPACE);

/// Frames that are taken together: each but the last names the next in its first bytes.
struct Frames {
    first: Pfn,
    left: u64,
}

impl Frames {
    /// `None`: there are not so many; those that there were are free again.
    fn take(n: u64) -> Option<Self> {
        let mut all = Frames { first: Pfn(0), left: 0 };
        while all.left < n {
            let Some(f) = the_vm().frame_take_wired(FrameClass::System) else {
                for f in all.by_ref() {
                    let given = the_vm().frame_give_back(f);
                    debug_assert!(given.is_ok(), "a frame that was taken is not ours: {given:?}");
                }
                return None;
            };
            the_vm().host().write(f, 0, &all.first.0.to_ne_bytes());
            all = Frames { first: f, left: all.left + 1 };
        }
        Some(all)
    }
}

impl Iterator for Frames {
    type Item = Pfn;

    fn next(&mut self) -> Option<Pfn> {
        self.left = self.left.checked_sub(1)?;
        let (f, mut next) = (self.first, [0; 8]);
        the_vm().host().read(f, 0, &mut next);
        self.first = Pfn(u64::from_ne_bytes(next));
        Some(f)
    }
}

/// `pages` pages, contiguous in the kernel's addresses, zero, with an unmapped page before them. `None`: no memory.
/// The reserve that page tables are taken from is larger than what the largest piece needs; if it is used up all the
/// same, what was mapped is lost.
pub(crate) fn allocate(pages: u64) -> Option<*mut u8> {
    let _off = NoInterrupts::new();
    // All of them first: a large piece that cannot be had must not take what there is.
    let mut frames = match vm() {
        Some(_) => Some(Frames::take(pages)?),
        None => None,
    };
    let start = {
        let mut next = NEXT.lock();
        let start = *next + PAGE_SIZE;
        *next = start + pages * PAGE_SIZE;
        start
    };
    for i in 0..pages {
        let frame = match &mut frames {
            Some(frames) => frames.next().inspect(|f| arch::zero_page(*f))?,
            None => zeroed_frame(FrameClass::System)?,
        };
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
