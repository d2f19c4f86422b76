//! What Linux remembers of a range that the core has no word for.

use std::collections::BTreeMap;

use machvm_hal::{Va, VaRange};

/// Bits of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mark(pub(super) u8);

impl Mark {
    /// VM_LOCKED: locked, or to be locked as soon as it may be accessed.
    pub(super) const LOCKED: u8 = 1;
    /// VM_LOCKONFAULT: locked pages come when they are touched.
    pub(super) const ON_FAULT: u8 = 2;
    /// MADV_DONTFORK.
    pub(super) const DONT_FORK: u8 = 4;
    /// MADV_WIPEONFORK.
    pub(super) const WIPE_ON_FORK: u8 = 8;
    /// MAP_DROPPABLE.
    pub(super) const DROPPABLE: u8 = 0x10;

    pub(super) fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

/// Marks by range; a range without marks is not kept. Neighbours with equal marks
/// are one.
#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<u64, (u64, Mark)>);

impl Marks {
    /// The marks at an address.
    pub(super) fn at(&self, va: Va) -> Mark {
        match self.0.range(..=va.get()).next_back() {
            Some((_, &(end, mark))) if end > va.get() => mark,
            _ => Mark::default(),
        }
    }

    /// The part of `range` at its start that has the same marks, and these.
    pub(super) fn first(&self, range: VaRange) -> (VaRange, Mark) {
        let (at, mark) = (range.start(), self.at(range.start()));
        let end = match self.0.range(..=at.get()).next_back() {
            Some((_, &(end, _))) if end > at.get() => end,
            _ => self.0.range(at.get()..).next().map_or(u64::MAX, |(&start, _)| start),
        };
        let end = Va::from_page(end >> machvm_hal::PAGE_SHIFT).min(range.end());
        (VaRange::between(at, end).unwrap_or(range), mark)
    }

    /// The parts of `range` by marks, ascending, without gaps.
    pub(super) fn parts(&self, range: VaRange) -> Vec<(VaRange, Mark)> {
        let (mut at, end) = (range.start().get(), range.end().get());
        let mut parts = Vec::new();
        let mut push = |from: u64, to: u64, mark| {
            let page = |at: u64| Va::from_page(at >> machvm_hal::PAGE_SHIFT);
            if let Some(r) = VaRange::between(page(from), page(to)) {
                parts.push((r, mark));
            }
        };
        let before = self.0.range(..at).next_back();
        for (&s, &(e, mark)) in before.into_iter().chain(self.0.range(at..end)) {
            let (s, e) = (s.max(at), e.min(end));
            if e > s {
                push(at, s, Mark::default());
                push(s, e, mark);
                at = e;
            }
        }
        push(at, end, Mark::default());
        parts
    }

    /// Takes the marks of `range` out.
    pub(super) fn clear(&mut self, range: VaRange) {
        let (from, to) = (range.start().get(), range.end().get());
        if let Some((&s, &(e, mark))) = self.0.range(..from).next_back()
            && e > from
        {
            self.0.insert(s, (from, mark));
            if e > to {
                self.0.insert(to, (e, mark));
            }
        }
        while let Some((&s, &(e, mark))) = self.0.range(from..to).next() {
            self.0.remove(&s);
            if e > to {
                self.0.insert(to, (e, mark));
            }
        }
    }

    /// Sets and then clears bits everywhere in `range`.
    pub(super) fn change(&mut self, range: VaRange, set: u8, clear: u8) {
        for (part, mark) in self.parts(range) {
            self.put(part, Mark((mark.0 | set) & !clear));
        }
    }

    fn put(&mut self, range: VaRange, mark: Mark) {
        self.clear(range);
        if mark == Mark::default() {
            return;
        }
        let (mut from, mut to) = (range.start().get(), range.end().get());
        if let Some((&s, &(e, m))) = self.0.range(..from).next_back()
            && e == from
            && m == mark
        {
            from = s;
        }
        if let Some(&(e, m)) = self.0.get(&to)
            && m == mark
        {
            self.0.remove(&to);
            to = e;
        }
        self.0.insert(from, (to, mark));
    }

    /// The marks of `from` go to the range of the same size at `to`.
    pub(super) fn copy(&mut self, from: VaRange, to: Va) {
        for (part, mark) in self.parts(from) {
            let at = to.add(part.start().page() - from.start().page());
            if let Some(target) = VaRange::of_pages(at, part.pages()) {
                self.put(target, mark);
            }
        }
    }

    /// Bytes with the bits.
    pub(super) fn bytes(&self, bits: u8) -> u64 {
        self.0.iter().filter(|(_, (_, m))| m.has(bits)).map(|(s, (e, _))| e - s).sum()
    }

    /// Bytes of `range` with the bits.
    pub(super) fn bytes_in(&self, range: VaRange, bits: u8) -> u64 {
        self.parts(range).iter().filter(|(_, m)| m.has(bits)).map(|(r, _)| r.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, pages: u64) -> VaRange {
        VaRange::of_pages(Va::from_page(start), pages).expect("range")
    }

    #[test]
    fn marks_follow_a_flat_oracle() {
        let seed = 0x5eed_u64;
        let mut rng = seed;
        let mut next = |n: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % n
        };
        let (mut marks, mut flat) = (Marks::default(), [0_u8; 64]);
        for step in 0..5000 {
            let start = next(60);
            let (r, n) = (range(start, 1 + next(64 - start)), start as usize);
            let m = r.pages() as usize;
            let (set, clear) = (1 << next(5), 1 << next(5));
            match next(4) {
                0 => {
                    marks.clear(r);
                    flat[n..n + m].fill(0);
                }
                1 => {
                    let to = next(65 - r.pages());
                    let moved = flat[n..n + m].to_vec();
                    if (to as usize) >= n + m || (to as usize) + m <= n {
                        marks.copy(r, Va::from_page(to));
                        flat[to as usize..to as usize + m].copy_from_slice(&moved);
                    }
                }
                _ => {
                    marks.change(r, set, clear);
                    flat[n..n + m].iter_mut().for_each(|b| *b = (*b | set) & !clear);
                }
            }
            for (i, want) in flat.iter().enumerate() {
                assert_eq!(marks.at(Va::from_page(i as u64)).0, *want, "seed {seed} step {step} page {i}");
            }
            assert_eq!(marks.first(r).1, marks.at(r.start()), "seed {seed} step {step}");
            let same = marks.first(r).0.iter().all(|va| marks.at(va) == marks.at(r.start()));
            assert!(same, "seed {seed} step {step}");
            let all: u64 = marks.parts(range(0, 64)).iter().map(|(r, _)| r.pages()).sum();
            assert_eq!(all, 64, "seed {seed} step {step}");
            let locked = flat.iter().filter(|b| **b & 1 != 0).count() as u64;
            assert_eq!(marks.bytes(1), locked << 12, "seed {seed} step {step}");
        }
    }
}
