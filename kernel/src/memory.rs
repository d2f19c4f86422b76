//! Physical memory before and beside the VM.
//!
//! ```text
//! kernel | initrd ... | early: TableMd, page structures | managed by the VM ............ | (initrd)
//! ```
//! The largest range of memory is the VM's, but for its beginning, which is handed out here until the VM is there. After
//! that the kernel takes frames from the VM like everybody else.

use core::sync::atomic::{AtomicU64, Ordering};

use machvm::page::FrameClass;
use machvm_hal::{PAGE_SIZE, Pfn};

use crate::arch::{self, BootInfo, Span};
use crate::embed::vm;

/// Next free early byte, and the end of the early part.
static EARLY: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

unsafe extern "C" {
    #[link_name = "__kernel_end"]
    safe static KERNEL_END: u8;
}

/// How memory is divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The VM's frames.
    pub(crate) managed: Span,
    /// From the first byte of memory to the one behind all of it.
    pub(crate) all: Span,
}

const fn round_up(n: u64) -> u64 {
    (n + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

/// Bytes of structures that a frame takes before the VM is there: its page structure and its table structure.
const PER_FRAME: u64 = 256;
/// What the start needs besides.
const START: u64 = 4 << 20;

/// Divides the largest range of memory, and sets the early part up, which has `more` bytes than the start needs.
///
/// => once.
pub(crate) fn divide(info: &BootInfo, more: u64) -> Layout {
    let ranges = &info.memory[..info.ranges];
    let all = Span {
        start: ranges.iter().map(|r| r.start & !(PAGE_SIZE - 1)).min().unwrap_or(0),
        end: ranges.iter().map(|r| r.end).max().unwrap_or(0),
    };
    let kernel_end = round_up(&raw const KERNEL_END as u64 - arch::KVA);
    let mut best = Span::default();
    for r in ranges {
        let mut r = Span { start: round_up(r.start), end: r.end & !(PAGE_SIZE - 1) };
        if r.start < kernel_end {
            r.start = kernel_end.min(r.end);
        }
        // The initial file system stays: the larger part beside it is used.
        if let Some(i) = info.initrd
            && i.start < r.end
            && i.end > r.start
        {
            let (low, high) = (i.start.saturating_sub(r.start), r.end.saturating_sub(i.end));
            if low >= high { r.end = i.start & !(PAGE_SIZE - 1) } else { r.start = round_up(i.end) }
        }
        if r.end.saturating_sub(r.start) > best.end - best.start {
            best = r;
        }
    }
    let early = START + more + (best.end - best.start) / PAGE_SIZE * PER_FRAME;
    assert!(best.end - best.start > 2 * early, "too little memory: {ranges:?}");
    let split = round_up(best.start + early);
    EARLY[0].store(best.start, Ordering::Relaxed);
    EARLY[1].store(split, Ordering::Relaxed);
    Layout { managed: Span { start: split, end: best.end }, all }
}

/// `bytes` of early memory, page-aligned, with any contents. Gives its physical address.
///
/// => before other CPUs run, or for what is left over: only one caller at a time.
pub(crate) fn early(bytes: u64) -> Option<u64> {
    let at = EARLY[0].load(Ordering::Relaxed);
    let next = at.checked_add(round_up(bytes)).filter(|n| *n <= EARLY[1].load(Ordering::Relaxed))?;
    EARLY[0].store(next, Ordering::Relaxed);
    Some(at)
}

/// Frames of the VM's that the kernel has for ever: stacks, heap, slabs, buffers.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// The kernel has `n` more frames of the VM's for ever.
pub(crate) fn keep(n: u64) {
    if vm().is_some() {
        KEPT.fetch_add(n, Ordering::Relaxed);
    }
}
/// How many it has.
pub(crate) fn kept() -> u64 {
    KEPT.load(Ordering::Relaxed)
}

/// A frame of zeroes for the kernel: early, or the VM's.
pub(crate) fn zeroed_frame(class: FrameClass) -> Option<Pfn> {
    let f = match vm() {
        Some(vm) => vm.frame_take_wired(class)?,
        None => Pfn(early(PAGE_SIZE)? / PAGE_SIZE),
    };
    arch::zero_page(f);
    Some(f)
}
