//! Addresses, ranges and indices. A value of these types has been checked.
//!
//! `Raw*` types are what a caller outside the core hands in. They have no
//! arithmetic: the only ways forward are [`VaRange::check`] and
//! [`VaRange::check_aligned`], once, at the edge.

use core::num::NonZeroU64;

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The offset bits of an address.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;

/// An address as it came from outside: any value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawAddr(pub u64);
/// A size in bytes as it came from outside: any value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawSize(pub u64);

/// A page-aligned virtual address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Va(u64);

/// A physical frame number (not an address). 64 bits: in the sparse placement
/// it is an offset in a space of many terabytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Pfn(pub u64);

/// A page index inside an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Pindex(pub u64);

/// A non-empty, page-aligned range that does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VaRange {
    start: Va,
    pages: NonZeroU64,
}

/// Why [`VaRange::check`] refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// The size is zero. What that means differs per call (Z03).
    Empty,
    /// The rounded end lies beyond the last address (Z01).
    Wraps,
    /// The start is not page aligned ([`VaRange::check_aligned`] only).
    Unaligned,
}

impl Va {
    /// The lowest address.
    pub const ZERO: Va = Va(0);

    /// The page that contains `a`: rounds down.
    pub const fn containing(a: RawAddr) -> Self {
        Va(a.0 & !PAGE_MASK)
    }
    /// `None` when `a` is not page aligned.
    pub const fn aligned(a: RawAddr) -> Option<Self> {
        if a.0 & PAGE_MASK == 0 { Some(Va(a.0)) } else { None }
    }
    /// From a page number.
    pub const fn from_page(page: u64) -> Self {
        Va(page << PAGE_SHIFT)
    }
    /// The address in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The page number.
    pub const fn page(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }
    /// `pages` further up. The caller knows that it does not wrap.
    #[must_use]
    pub const fn add(self, pages: u64) -> Self {
        Va(self.0 + (pages << PAGE_SHIFT))
    }
    /// `pages` further down. The caller knows that it does not wrap.
    #[must_use]
    pub const fn sub(self, pages: u64) -> Self {
        Va(self.0 - (pages << PAGE_SHIFT))
    }
}

impl core::fmt::Debug for Va {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Pfn {
    /// The frame `n` after this one.
    #[must_use]
    pub const fn add(self, n: u64) -> Self {
        Pfn(self.0 + n)
    }
    /// Byte offset of the frame's first byte in physical memory.
    pub const fn byte(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

impl Pindex {
    /// The index `n` after this one.
    #[must_use]
    pub const fn add(self, n: u64) -> Self {
        Pindex(self.0 + n)
    }
}

impl VaRange {
    /// Rounds `[addr, addr + size)` outwards to pages (Z02: the end is rounded,
    /// not the size).
    ///
    /// # Errors
    /// [`RangeError::Empty`] for size zero, [`RangeError::Wraps`] when the rounded
    /// end does not fit 64 bits.
    pub const fn check(addr: RawAddr, size: RawSize) -> Result<Self, RangeError> {
        if size.0 == 0 {
            return Err(RangeError::Empty);
        }
        let start = addr.0 & !PAGE_MASK;
        let Some(end) = addr.0.checked_add(size.0) else {
            return Err(RangeError::Wraps);
        };
        let Some(end) = end.checked_add(PAGE_MASK) else {
            return Err(RangeError::Wraps);
        };
        let end = end & !PAGE_MASK;
        match NonZeroU64::new((end - start) >> PAGE_SHIFT) {
            Some(pages) => Ok(VaRange { start: Va(start), pages }),
            None => Err(RangeError::Wraps),
        }
    }

    /// As [`VaRange::check`], but an unaligned start is refused instead of rounded
    /// (the rule of `mmap`, `munmap` and `mprotect`).
    ///
    /// # Errors
    /// [`RangeError::Unaligned`], then those of [`VaRange::check`].
    pub const fn check_aligned(addr: RawAddr, size: RawSize) -> Result<Self, RangeError> {
        if addr.0 & PAGE_MASK != 0 {
            return Err(RangeError::Unaligned);
        }
        Self::check(addr, size)
    }

    /// `[start, end)`; `None` when empty or reversed.
    pub const fn between(start: Va, end: Va) -> Option<Self> {
        if end.0 <= start.0 {
            return None;
        }
        match NonZeroU64::new((end.0 - start.0) >> PAGE_SHIFT) {
            Some(pages) => Some(VaRange { start, pages }),
            None => None,
        }
    }
    /// `pages` from `start`; `None` when zero or when it wraps.
    pub const fn of_pages(start: Va, pages: u64) -> Option<Self> {
        let Some(bytes) = pages.checked_mul(PAGE_SIZE) else { return None };
        if start.0.checked_add(bytes).is_none() {
            return None;
        }
        match NonZeroU64::new(pages) {
            Some(pages) => Some(VaRange { start, pages }),
            None => None,
        }
    }
    /// The one page at `va`.
    pub const fn page(va: Va) -> Self {
        VaRange { start: va, pages: NonZeroU64::MIN }
    }
    /// First address.
    pub const fn start(self) -> Va {
        self.start
    }
    /// One past the last address.
    pub const fn end(self) -> Va {
        Va(self.start.0 + (self.pages.get() << PAGE_SHIFT))
    }
    /// Number of pages, at least one.
    pub const fn pages(self) -> u64 {
        self.pages.get()
    }
    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        self.pages.get() << PAGE_SHIFT
    }
    /// Is `va` inside?
    pub const fn contains(self, va: Va) -> bool {
        self.start.0 <= va.0 && va.0 < self.end().0
    }
    /// The common part.
    pub const fn intersect(self, other: VaRange) -> Option<VaRange> {
        let s = if self.start.0 > other.start.0 { self.start } else { other.start };
        let (a, b) = (self.end(), other.end());
        VaRange::between(s, if a.0 < b.0 { a } else { b })
    }
    /// Every page address, ascending.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Va> {
        (0..self.pages.get()).map(move |i| self.start.add(i))
    }
}

impl core::fmt::Debug for VaRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start.0, self.end().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z01_top_of_space_does_not_wrap_to_zero() {
        assert_eq!(VaRange::check(RawAddr(u64::MAX - 10), RawSize(5)), Err(RangeError::Wraps));
        assert_eq!(VaRange::check(RawAddr(u64::MAX), RawSize(1)), Err(RangeError::Wraps));
        assert_eq!(VaRange::check(RawAddr(1), RawSize(u64::MAX)), Err(RangeError::Wraps));
    }

    #[test]
    fn z02_the_end_is_rounded_not_the_size() {
        let r = VaRange::check(RawAddr(0x1fff), RawSize(2)).expect("fits");
        assert_eq!((r.start().get(), r.end().get()), (0x1000, 0x3000));
    }

    #[test]
    fn z03_zero_size_is_told_apart() {
        assert_eq!(VaRange::check(RawAddr(0x1001), RawSize(0)), Err(RangeError::Empty));
        assert_eq!(VaRange::check_aligned(RawAddr(0x1001), RawSize(0)), Err(RangeError::Unaligned));
    }
}
