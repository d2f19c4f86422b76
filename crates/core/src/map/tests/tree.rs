//! The tree against a sorted list.

use super::std;
use std::collections::BTreeMap;
use std::vec::Vec;

use machvm_arena::{HeapChunks, Slab};
use machvm_hal::Va;
use proptest::prelude::*;

use super::super::tree::Tree;
use super::{Entry, FIRST, LAST, va};

type Slots = Slab<Entry, HeapChunks>;

#[derive(Clone, Debug)]
enum Op {
    /// Insert `[0, 1)` where it is free.
    Insert(u64, u64),
    /// Remove what covers the page.
    Remove(u64),
    /// Move the bounds of what covers the page, as far as the neighbours allow.
    Resize(u64, i64, i64),
    /// Cut what covers the page in front of the page.
    Split(u64),
    /// Make one of what covers the page and what touches it from above; the lower one stays, or the upper.
    Join(u64, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let page = FIRST..LAST;
    let op = prop_oneof![
        4 => (page.clone(), 1..6u64).prop_map(|(p, n)| Op::Insert(p, n)),
        2 => page.clone().prop_map(Op::Remove),
        2 => (page.clone(), -3..4i64, -3..4i64).prop_map(|(p, a, b)| Op::Resize(p, a, b)),
        3 => page.clone().prop_map(Op::Split),
        3 => (page, any::<bool>()).prop_map(|(p, low)| Op::Join(p, low)),
    ];
    prop::collection::vec(op, 1..120)
}

/// Holes of the list, `[start, end)`.
fn holes(list: &BTreeMap<u64, u64>) -> Vec<(u64, u64)> {
    let mut at = FIRST;
    let mut all = Vec::new();
    for (&s, &e) in list {
        all.push((at, s));
        at = e;
    }
    all.push((at, LAST));
    all
}

fn compare(tree: &Tree, slab: &Slots, list: &BTreeMap<u64, u64>) {
    tree.check(slab).expect("a sound tree");
    assert_eq!(tree.count() as usize, list.len());
    let walk: Vec<_> = core::iter::successors(tree.first(), |h| Tree::next(slab, *h))
        .map(|h| (slab.get(h).start().page(), slab.get(h).end().page()))
        .collect();
    assert_eq!(walk, list.iter().map(|(s, e)| (*s, *e)).collect::<Vec<_>>());
    let back: Vec<_> = core::iter::successors(tree.last(), |h| Tree::prev(slab, *h))
        .map(|h| slab.get(h).start().page())
        .collect();
    assert_eq!(back, list.keys().rev().copied().collect::<Vec<_>>());
    // Up, and in an order without one: a look begins where the last one was.
    let (low, count) = (FIRST - 2, LAST + 4 - FIRST);
    let strewn = (0..count).map(|i| low + i * 7919 % count);
    for page in (low..low + count).chain(strewn) {
        let floor = tree.floor(slab, va(page)).map(|h| slab.get(h).start().page());
        assert_eq!(floor, list.range(..=page).next_back().map(|(s, _)| *s), "N05 at {page}");
        let above = tree.at_or_above(slab, va(page)).map(|h| slab.get(h).start().page());
        assert_eq!(above, list.iter().find(|(_, e)| **e > page).map(|(s, _)| *s));
    }
    for bytes in [1u64, 2, 3, 5, 8] {
        let all: Vec<_> = holes(list);
        let large = |h: &&(u64, u64)| h.1 - h.0 >= bytes;
        // Upwards from the lowest address, then downwards from the highest.
        let mut hole = tree.hole_from(slab, va(FIRST));
        let mut up = Vec::new();
        loop {
            if hole.end.page() - hole.start.page() >= bytes {
                up.push((hole.start.page(), hole.end.page()));
            }
            match tree.hole_above(slab, &hole, bytes << 12) {
                Some(h) => hole = h,
                None => break,
            }
        }
        let first = tree.hole_from(slab, va(FIRST)).start.page();
        let reachable: Vec<_> = all.iter().filter(large).filter(|h| h.0 >= first).copied().collect();
        assert_eq!(up, reachable, "holes of {bytes} upwards");
        let mut down = Vec::new();
        let mut hole = tree.hole_from(slab, va(LAST - 1));
        loop {
            if hole.end.page() - hole.start.page() >= bytes {
                down.push((hole.start.page(), hole.end.page()));
            }
            match tree.hole_below(slab, &hole, bytes << 12) {
                Some(h) => hole = h,
                None => break,
            }
        }
        assert_eq!(down, all.iter().rev().filter(large).copied().collect::<Vec<_>>(), "downwards");
    }
}

fn run(ops: &[Op]) {
    let slab = Slots::new(HeapChunks::new(), 1000);
    let mut tree = Tree::new(va(FIRST), va(LAST));
    let mut list = BTreeMap::new();
    for op in ops {
        match *op {
            Op::Insert(s, n) => {
                let e = s + n;
                if e > LAST || list.iter().any(|(a, b)| *a < e && s < *b) {
                    continue;
                }
                let h = slab.alloc().expect("room");
                slab.get(h).start.set(s << 12);
                slab.get(h).end.set(e << 12);
                tree.insert(&slab, h);
                list.insert(s, e);
            }
            Op::Remove(p) => {
                if let Some(h) = tree.containing(&slab, va(p)) {
                    list.remove(&slab.get(h).start().page());
                    tree.remove(&slab, h);
                    slab.free(h);
                }
            }
            Op::Resize(p, a, b) => {
                let Some(h) = tree.containing(&slab, va(p)) else { continue };
                let (s, e) = (slab.get(h).start().page(), slab.get(h).end().page());
                list.remove(&s);
                let low = list.range(..s).next_back().map_or(FIRST, |(_, e)| *e);
                let high = list.range(s..).next().map_or(LAST, |(s, _)| *s);
                let s = s.saturating_add_signed(a).clamp(low, high - 1);
                let e = e.saturating_add_signed(b).clamp(s + 1, high);
                tree.resize(&slab, h, va(s), va(e));
                list.insert(s, e);
            }
            Op::Split(p) => {
                let Some(h) = tree.containing(&slab, va(p)) else { continue };
                let (s, e) = (slab.get(h).start().page(), slab.get(h).end().page());
                if s == p {
                    continue;
                }
                let upper = slab.alloc().expect("room");
                slab.get(upper).start.set(p << 12);
                slab.get(upper).end.set(e << 12);
                tree.split(&slab, h, va(p), upper);
                list.insert(s, p);
                list.insert(p, e);
            }
            Op::Join(p, keep_low) => {
                let Some(low) = tree.containing(&slab, va(p)) else { continue };
                let (s, e) = (slab.get(low).start().page(), slab.get(low).end().page());
                let (Some(high), Some(&end)) = (Tree::next(&slab, low), list.get(&e)) else { continue };
                let (keep, gone) = if keep_low { (low, high) } else { (high, low) };
                tree.join(&slab, (low, high), keep);
                slab.free(gone);
                list.remove(&e);
                list.insert(s, end);
            }
        }
        compare(&tree, &slab, &list);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// N03, N04, N05 and invariants 1 and 2; on failure proptest prints the operations.
    #[test]
    fn n03_tree_equals_a_sorted_list(ops in ops()) {
        run(&ops);
    }
}

/// Lookup grows as the logarithm: the height of a tree of 100,000 entries, filled in
/// ascending order (the worst for an unbalanced one).
#[test]
fn n05_height_is_logarithmic() {
    let slab = Slots::new(HeapChunks::new(), 200_000);
    let mut tree = Tree::new(va(0), Va::from_page(1 << 30));
    let mut all = Vec::new();
    for i in 0..100_000u64 {
        let h = slab.alloc().expect("room");
        slab.get(h).start.set((2 * i) << 12);
        slab.get(h).end.set((2 * i + 1) << 12);
        tree.insert(&slab, h);
        all.push(h);
    }
    // 1.44 log2(100,000) is 24.
    assert!(tree.height_of_all(&slab) <= 24);
    tree.check(&slab).expect("sound");
    for h in all.iter().step_by(2) {
        tree.remove(&slab, *h);
    }
    tree.check(&slab).expect("sound after removing every second");
    assert!(tree.height_of_all(&slab) <= 23);
}
