//! Physical memory as the core sees it, and the placement seam.

use crate::addr::Pfn;

/// How frames are given to pages (the seam between bare metal and Linux).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Frames `[first, first + frames)` exist; any frame serves any page.
    Dense {
        /// The first frame.
        first: Pfn,
        /// How many follow.
        frames: u32,
    },
    /// A frame number is tied to an object and an index for ever; only the number
    /// of *resident* frames is limited, to `frames`.
    Sparse {
        /// Frames that may be resident at once.
        frames: u64,
    },
}

/// No run of frame numbers is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentError;

/// The machine refused memory for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PopulateError;

/// Access to physical frames. The implementor holds the `unsafe`; the core
/// forbids it.
///
/// Contents are read and written only while the caller owns the page (busy) or holds it.
/// Zeroing, copying and what page-out reads happen while no mapping allows writing, so
/// nothing races with them, but for copies of pages that are wired or held: these may be
/// written meanwhile. Those, and bytes that one task writes into another's memory, may meet
/// a program's own stores, as two processors' stores do: an implementation makes that
/// harmless.
pub trait PhysMem: Sync {
    /// The placement in force; constant.
    fn placement(&self) -> Placement;

    /// Sparse: takes a run of frame numbers for an object; nothing is resident.
    ///
    /// # Errors
    /// [`ExtentError`] when the number space is used up.
    fn extent_reserve(&self, pages: u64) -> Result<Pfn, ExtentError>;
    /// Sparse: gives a run back. None of its frames is resident.
    fn extent_release(&self, base: Pfn, pages: u64);

    /// Makes `n` frames from `first` resident and zero.
    ///
    /// => sparse: none of them is resident. Dense: they are allocated.
    ///
    /// # Errors
    /// [`PopulateError`] when the machine has no memory; nothing is resident then.
    fn zero(&self, first: Pfn, n: u32) -> Result<(), PopulateError>;
    /// Makes `n` frames resident with undefined contents (to be overwritten whole).
    ///
    /// # Errors
    /// As [`PhysMem::zero`].
    fn prepare(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        self.zero(first, n)
    }
    /// Sparse: the frames are no longer resident; every mapping of them is gone.
    /// Dense: nothing to do.
    fn discard(&self, first: Pfn, n: u32);

    /// Copies a whole frame. `to` is resident.
    fn copy(&self, from: Pfn, to: Pfn);
    /// Copies `n` frames, each to the one as far behind `to`. The two runs do not overlap,
    /// and the frames of `to` are resident.
    fn copy_run(&self, from: Pfn, to: Pfn, n: u32) {
        (0..u64::from(n)).for_each(|i| self.copy(from.add(i), to.add(i)));
    }
    /// Reads `buf.len()` bytes at `off`; the range lies inside the frame.
    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]);
    /// Writes `buf` at `off`; the range lies inside the frame.
    fn write(&self, f: Pfn, off: usize, buf: &[u8]);
}
