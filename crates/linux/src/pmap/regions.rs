//! Which ranges are ours, and how many VMAs Linux keeps for them.
//!
//! Neighbours that continue each other in the file with the same protection are one
//! piece here, as they are one VMA there. Used on the cold paths only (a map entry
//! comes, goes or changes its protection); it may allocate.

use std::collections::BTreeMap;

use machvm_hal::{Pfn, Prot, Va, VaRange};

/// A run of pages mapped from a run of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    end: u64,
    first: u64,
    prot: Prot,
}

/// A part of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) range: VaRange,
    pub(super) first: Pfn,
    pub(super) prot: Prot,
}

/// The pieces of one pmap, by first page.
#[derive(Debug, Default)]
pub(super) struct Regions(BTreeMap<u64, Piece>);

impl Regions {
    /// Number of pieces.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The parts of pieces in `range`, ascending.
    pub(super) fn parts(&self, range: VaRange) -> Vec<Part> {
        let (from, to) = (range.start().page(), range.end().page());
        let before = self.0.range(..from).next_back();
        let part = |(&start, p): (&u64, &Piece)| {
            let s = start.max(from);
            let range = VaRange::between(Va::from_page(s), Va::from_page(p.end.min(to)))?;
            Some(Part { range, first: Pfn(p.first + (s - start)), prot: p.prot })
        };
        before.into_iter().chain(self.0.range(from..to)).filter_map(part).collect()
    }

    /// The frame and the protection at an address.
    pub(super) fn at(&self, va: Va) -> Option<(Pfn, Prot)> {
        let (start, p) = self.0.range(..=va.page()).next_back()?;
        (va.page() < p.end).then_some((Pfn(p.first + (va.page() - start)), p.prot))
    }

    /// Is every page of `range` in a piece?
    pub(super) fn cover(&self, range: VaRange) -> bool {
        self.parts(range).iter().map(|p| p.range.pages()).sum::<u64>() == range.pages()
    }

    /// Adds a run; joins it with its neighbours.
    ///
    /// => nothing of it is in a piece.
    pub(super) fn insert(&mut self, part: Part) {
        let (mut start, mut new) = (
            part.range.start().page(),
            Piece { end: part.range.end().page(), first: part.first.0, prot: part.prot },
        );
        if let Some((&s, left)) = self.0.range(..start).next_back()
            && left.end == start
            && left.prot == new.prot
            && left.first + (start - s) == new.first
        {
            (start, new.first) = (s, left.first);
        }
        if let Some(right) = self.0.get(&new.end).copied()
            && right.prot == new.prot
            && new.first + (new.end - start) == right.first
        {
            self.0.remove(&new.end);
            new.end = right.end;
        }
        self.0.insert(start, new);
    }

    /// Takes everything in `range` out; what was there.
    pub(super) fn take(&mut self, range: VaRange) -> Vec<Part> {
        let parts = self.parts(range);
        for p in &parts {
            let (s, e) = (p.range.start().page(), p.range.end().page());
            let Some((&start, &piece)) = self.0.range(..=s).next_back() else { continue };
            self.0.remove(&start);
            if start < s {
                self.0.insert(start, Piece { end: s, ..piece });
            }
            if e < piece.end {
                self.0.insert(e, Piece { first: piece.first + (e - start), ..piece });
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, pages: u64) -> VaRange {
        VaRange::of_pages(Va::from_page(start), pages).expect("range")
    }
    fn part(start: u64, pages: u64, first: u64, prot: Prot) -> Part {
        Part { range: range(start, pages), first: Pfn(first), prot }
    }

    #[test]
    fn neighbours_join_when_linux_would_join_them() {
        let mut r = Regions::default();
        r.insert(part(10, 5, 100, Prot::RW));
        r.insert(part(20, 5, 110, Prot::RW));
        r.insert(part(15, 5, 105, Prot::RW));
        assert_eq!(r.len(), 1);
        r.insert(part(25, 5, 115, Prot::R));
        assert_eq!(r.len(), 2, "another protection");
        r.insert(part(30, 5, 0, Prot::R));
        assert_eq!(r.len(), 3, "another place in the file");
        assert!(r.cover(range(10, 25)) && !r.cover(range(10, 26)));
    }

    #[test]
    fn what_is_taken_is_cut_out() {
        let mut r = Regions::default();
        r.insert(part(10, 10, 100, Prot::RW));
        assert_eq!(r.take(range(13, 4)), [part(13, 4, 103, Prot::RW)]);
        let at = [9, 12, 13, 19, 20].map(|page| r.at(Va::from_page(page)).map(|(f, _)| f.0));
        assert_eq!(at, [None, Some(102), None, Some(109), None]);
        assert_eq!(r.parts(range(0, 100)), [part(10, 3, 100, Prot::RW), part(17, 3, 107, Prot::RW)]);
        assert_eq!(r.take(range(12, 6)).len(), 2);
        assert_eq!(r.parts(range(0, 100)), [part(10, 2, 100, Prot::RW), part(18, 2, 108, Prot::RW)]);
        r.insert(part(12, 6, 102, Prot::RW));
        assert_eq!(r.len(), 1);
    }
}
