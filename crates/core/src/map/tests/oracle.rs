//! Random operations against a flat oracle: a map from page to attributes and
//! contents that knows nothing of entries, objects or trees. proptest prints the
//! operations of a failure, shrunk, and its seed.

use super::std;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::{Advice, Attributes, EntryFlags, Inherit, Kind, Map};
use super::super::{
    Advise, AdviseError, Backing, CopyError, CopyWhy, FindError, GrowError, Holes, InsertError, Leave,
    Limits, MoveError, Order, Place, ProtectError, Search, SetProt, Side, StackError, StackShape, Wiring,
};
use super::world::World;
use super::{
    FIRST, LAST, bounds, cells, check, check_empty, infos, map, may, peek, poke, range, sketch, va, vm,
};
use machvm_hal::{Pindex, Prot, VaRange};

const STEP: u64 = 2;

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Anon,
    Guard,
    Foreign,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Where {
    At(u64),
    Over(u64),
    Low(u64),
    High(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Find(Where, u64, What, Attributes),
    Delete(u64, u64),
    Protect(u64, u64, SetProt),
    Inherit(u64, u64, Inherit),
    Advise(u64, u64, Advise),
    Stack(Where, StackShape, Attributes),
    Grow(u64),
    Fork(Vec<(bool, u64, u64)>),
    Move(u64, u64, u64, Leave),
    Extend(u64, u64),
    Copy(u64, u64, u64),
    Wire(u64, u64, bool),
    Write(u64, u64),
    Read(u64),
    Simplify(u64),
}

fn prots() -> impl Strategy<Value = Prot> {
    prop_oneof![3 => Just(Prot::RW), 1 => (0..8u8).prop_map(Prot::from_bits_truncate)]
}
fn inherits() -> impl Strategy<Value = Inherit> {
    prop_oneof![
        4 => Just(Inherit::Copy), 1 => Just(Inherit::Share), 1 => Just(Inherit::None), 1 => Just(Inherit::Zero)
    ]
}
fn attributes() -> impl Strategy<Value = Attributes> {
    let max = prop_oneof![4 => Just(Prot::ALL), 1 => prots()];
    let flags = prop_oneof![4 => Just(EntryFlags::empty()), 1 => Just(EntryFlags::NO_MERGE)];
    (prots(), max, inherits(), flags, 0..2u64).prop_map(|(prot, max, inherit, flags, tag)| Attributes {
        prot,
        max,
        inherit,
        advice: Advice::Normal,
        flags,
        tag,
    })
}
fn wheres() -> impl Strategy<Value = Where> {
    prop_oneof![
        4 => (FIRST..LAST).prop_map(Where::At),
        3 => (FIRST..LAST).prop_map(Where::Over),
        1 => (0..3u32).prop_map(|s| Where::Low(1 << s)),
        1 => (0..3u32).prop_map(|s| Where::High(1 << s)),
        1 => (FIRST - 2..LAST + 2).prop_map(Where::At),
    ]
}
fn advises() -> impl Strategy<Value = Advise> {
    prop_oneof![
        3 => Just(Advise::DontNeed),
        1 => Just(Advise::Free),
        1 => Just(Advise::Access(Advice::Random)),
        1 => Just(Advise::Access(Advice::Normal)),
        1 => any::<bool>().prop_map(|auto| Advise::Sync { auto }),
        1 => any::<bool>().prop_map(|include| Advise::Core { include }),
    ]
}
fn set_prots() -> impl Strategy<Value = SetProt> {
    let holes = prop_oneof![3 => Just(Holes::Skip), 1 => Just(Holes::Refuse)];
    let max = prop_oneof![5 => Just(None), 1 => prots().prop_map(Some)];
    let prot = prop_oneof![8 => prots().prop_map(Some), 1 => Just(None)];
    (prot, max, holes).prop_map(|(prot, max, holes)| SetProt { prot, max, holes })
}
pub(super) fn ops() -> impl Strategy<Value = Op> {
    let p = FIRST..LAST;
    let n = 1..10u64;
    let what = prop_oneof![8 => Just(What::Anon), 1 => Just(What::Guard), 1 => Just(What::Foreign)];
    let leave = prop_oneof![Just(Leave::Hole), Just(Leave::Zeroes)];
    let shape =
        (1..14u64, 0..5u64, 0..4u64).prop_map(|(pages, initial, guard)| StackShape { pages, initial, guard });
    let writes = prop::collection::vec((any::<bool>(), p.clone(), 1..1000u64), 0..12);
    prop_oneof![
        8 => (wheres(), 1..20u64, what, attributes()).prop_map(|(w, n, k, a)| Op::Find(w, n, k, a)),
        4 => (p.clone(), n.clone()).prop_map(|(s, n)| Op::Delete(s, n)),
        4 => (p.clone(), n.clone(), set_prots()).prop_map(|(s, n, x)| Op::Protect(s, n, x)),
        2 => (p.clone(), n.clone(), inherits()).prop_map(|(s, n, i)| Op::Inherit(s, n, i)),
        3 => (p.clone(), n.clone(), advises()).prop_map(|(s, n, a)| Op::Advise(s, n, a)),
        2 => (wheres(), shape, attributes()).prop_map(|(w, s, a)| Op::Stack(w, s, a)),
        3 => p.clone().prop_map(Op::Grow),
        1 => writes.prop_map(Op::Fork),
        3 => (p.clone(), n.clone(), p.clone(), leave).prop_map(|(s, n, d, l)| Op::Move(s, n, d, l)),
        2 => (p.clone(), n.clone()).prop_map(|(s, n)| Op::Extend(s, n)),
        3 => (p.clone(), n.clone(), p.clone()).prop_map(|(s, n, d)| Op::Copy(s, n, d)),
        2 => (p.clone(), n, any::<bool>()).prop_map(|(s, n, w)| Op::Wire(s, n, w)),
        12 => (p.clone(), 1..1000u64).prop_map(|(p, v)| Op::Write(p, v)),
        4 => p.clone().prop_map(Op::Read),
        1 => p.prop_map(Op::Simplify),
    ]
}

/// What is true of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    kind: Kind,
    a: Attributes,
    wired: bool,
    grows: bool,
    /// A child could see it once.
    shared: bool,
    /// Index in the file of a foreign page.
    file: u64,
    value: u64,
}

#[derive(Default)]
struct Oracle {
    pages: BTreeMap<u64, Page>,
}

impl Oracle {
    fn first_hole(&self, s: u64, e: u64) -> Option<u64> {
        (s..e).find(|p| !self.pages.contains_key(p))
    }
    fn first_taken(&self, s: u64, e: u64) -> Option<u64> {
        self.pages.range(s..e).next().map(|(p, _)| *p)
    }
    fn search(&self, n: u64, align: u64, order: Order) -> Option<u64> {
        let mut all = (FIRST..LAST)
            .filter(|s| s % align == 0 && s + n <= LAST && self.first_taken(*s, s + n).is_none());
        match order {
            Order::LowestFirst => all.next(),
            Order::HighestFirst => all.next_back(),
        }
    }
    fn insert(&self, s: u64, n: u64, guard: bool, a: &Attributes, over: bool) -> Result<(), InsertError> {
        if s < FIRST {
            return Err(InsertError::Outside(va(s)));
        }
        if s + n > LAST {
            return Err(InsertError::Outside(va(LAST)));
        }
        if !guard && !a.max.contains(a.prot) {
            return Err(InsertError::ExceedsMax(va(s)));
        }
        match self.first_taken(s, s + n) {
            Some(p) if !over => Err(InsertError::Occupied(va(p))),
            _ => Ok(()),
        }
    }
    /// The address, or the error of a placement.
    fn place(&self, w: Where, n: u64, guard: bool, a: &Attributes) -> Result<u64, FindError> {
        let (align, order) = match w {
            Where::At(s) => return self.insert(s, n, guard, a, false).map(|()| s).map_err(FindError::Insert),
            Where::Over(s) => {
                return self.insert(s, n, guard, a, true).map(|()| s).map_err(FindError::Insert);
            }
            Where::Low(align) => (align, Order::LowestFirst),
            Where::High(align) => (align, Order::HighestFirst),
        };
        if n > LAST - FIRST {
            return Err(FindError::NoSpace);
        }
        self.insert(FIRST, n, guard, a, true).map_err(FindError::Insert)?;
        self.search(n, align, order).ok_or(FindError::NoSpace)
    }
    fn fill(&mut self, s: u64, n: u64, kind: Kind, a: Attributes) {
        let a = if matches!(kind, Kind::Guard | Kind::StackGap) {
            Attributes { tag: a.tag, inherit: a.inherit, ..Attributes::guard() }
        } else {
            a
        };
        for p in s..s + n {
            let file = if kind == Kind::Foreign { p - s } else { 0 };
            let page = Page { kind, a, wired: false, grows: false, shared: false, file, value: 0 };
            self.pages.insert(p, page);
        }
    }
    /// The gap below `s` is nobody's any more.
    fn detach(&mut self, s: u64) {
        for p in (FIRST..s).rev() {
            match self.pages.get_mut(&p) {
                Some(g) if g.kind == Kind::StackGap && g.a.tag != u64::MAX => g.a.tag = u64::MAX,
                _ => return,
            }
        }
    }
    fn clamp(s: u64, n: u64) -> core::ops::Range<u64> {
        s..(s + n).min(LAST)
    }
}

pub(super) fn place(m: &Map<'_, World>, w: Where) -> Place {
    match w {
        Where::At(s) => Place::At(va(s)),
        Where::Over(s) => Place::Over(va(s)),
        Where::Low(align) => Place::Any(Search { align, ..m.search() }),
        Where::High(align) => Place::Any(Search { align, order: Order::HighestFirst, ..m.search() }),
    }
}

fn apply(m: &Map<'_, World>, o: &mut Oracle, op: &Op) {
    match op.clone() {
        Op::Find(w, n, what, a) => {
            let (backing, kind) = match what {
                What::Anon => (Backing::Anonymous, Kind::Object),
                What::Guard => (Backing::Guard, Kind::Guard),
                What::Foreign => (Backing::Foreign(Pindex(0)), Kind::Foreign),
            };
            let expected = o.place(w, n, kind == Kind::Guard, &a);
            let got = m.find(place(m, w), n, backing, &a, &mut may());
            assert_eq!(got, expected.map(va));
            if let Ok(s) = expected {
                let a = if kind == Kind::Guard { Attributes { inherit: Inherit::Copy, ..a } } else { a };
                if matches!(w, Where::Over(_)) {
                    o.detach(s);
                }
                o.fill(s, n, kind, a);
                if kind == Kind::Foreign {
                    m.pmap.own_mapping(range(s, s + n), a.prot);
                }
            }
        }
        Op::Delete(s, n) => {
            m.delete(range(s, s + n), &mut may()).expect("memory");
            o.detach(s);
            o.pages.retain(|p, _| !(s..s + n).contains(p));
        }
        Op::Protect(s, n, set) => protect(m, o, s, n, &set),
        Op::Inherit(s, n, i) => {
            m.inherit(range(s, s + n), i, &mut may()).expect("memory");
            for (_, p) in o.pages.range_mut(s..s + n) {
                if !(i == Inherit::Zero && matches!(p.kind, Kind::Guard | Kind::StackGap)) {
                    p.a.inherit = i;
                }
            }
        }
        Op::Advise(s, n, a) => advise(m, o, s, n, a),
        Op::Stack(w, shape, a) => stack(m, o, w, shape, a),
        Op::Grow(p) => grow(m, o, p),
        Op::Fork(writes) => fork(m, o, &writes),
        Op::Move(s, n, d, leave) => move_range(m, o, s, n, d, leave),
        Op::Extend(end, n) => extend(m, o, end, n),
        Op::Copy(s, n, d) => copy(m, o, s, n, d),
        Op::Wire(s, n, on) => {
            let r = range(s, s + n);
            if on {
                m.wire(r, Wiring::User, Holes::Skip, &mut may()).expect("memory");
            } else {
                m.unwire(r, Wiring::User, Holes::Skip, &mut may()).expect("memory");
            }
            for (_, p) in o.pages.range_mut(s..s + n) {
                if p.kind == Kind::Object && (!on || p.a.prot.intersects(Prot::R | Prot::X)) {
                    p.wired = on;
                }
            }
        }
        Op::Write(p, v) => {
            if let Some(page) =
                o.pages.get_mut(&p).filter(|p| p.kind == Kind::Object && p.a.prot.contains(Prot::W))
            {
                poke(m, p, v);
                page.value = v;
            }
        }
        Op::Read(p) => match o.pages.get(&p) {
            Some(page) if page.kind == Kind::Object && !page.a.prot.is_empty() => {
                assert_eq!(peek(m, p), page.value, "contents of page {p}");
            }
            Some(page) if page.kind == Kind::StackGap => {}
            _ => assert!(super::touch(m, p, Prot::R).is_err(), "page {p} is not readable"),
        },
        Op::Simplify(p) => m.simplify(va(p), &mut may()),
    }
}

fn protect(m: &Map<'_, World>, o: &mut Oracle, s: u64, n: u64, set: &SetProt) {
    let got = m.protect(range(s, s + n), set, &mut may());
    let guard = |p: &Page| matches!(p.kind, Kind::Guard | Kind::StackGap);
    let max = |p: &Page| set.max.map_or(p.a.max, |x| x & p.a.max);
    let refuse = set.holes == Holes::Refuse;
    let mut expected = Ok(());
    if set.prot.zip(set.max).is_some_and(|(p, m)| !m.contains(p)) {
        expected = Err(ProtectError::OutsideMax(va(s)));
    } else {
        for p in s..s + n {
            match o.pages.get(&p) {
                None if refuse => expected = Err(ProtectError::Hole(va(p))),
                Some(page) if !guard(page) && set.prot.is_some_and(|x| !max(page).contains(x)) => {
                    expected = Err(ProtectError::ExceedsMax(va(p)));
                }
                _ => continue,
            }
            break;
        }
    }
    assert_eq!(got, expected);
    if expected.is_ok() {
        for (_, p) in o.pages.range_mut(s..s + n).filter(|(_, p)| !guard(p)) {
            p.a.max = max(p);
            p.a.prot = set.prot.unwrap_or(p.a.prot) & p.a.max;
        }
    }
}

fn advise(m: &Map<'_, World>, o: &mut Oracle, s: u64, n: u64, a: Advise) {
    let drops = matches!(a, Advise::DontNeed | Advise::Free);
    let wired = o.pages.range(s..s + n).find(|(_, p)| p.kind == Kind::Object && p.wired).map(|(p, _)| *p);
    let got = m.madvise(range(s, s + n), a, &mut may());
    if let (true, Some(p)) = (drops, wired) {
        assert_eq!(got, Err(AdviseError::Wired(va(p))));
        return;
    }
    assert_eq!(got, Ok(o.first_hole(s, s + n).map(va)));
    for page in o.pages.range_mut(Oracle::clamp(s, n)).map(|(_, page)| page) {
        let counts = matches!(page.kind, Kind::Object | Kind::Foreign);
        match a {
            Advise::DontNeed | Advise::Free if page.kind == Kind::Object && !page.shared => page.value = 0,
            Advise::Access(x) if counts => page.a.advice = x,
            Advise::Sync { auto } if counts => page.a.flags.set(EntryFlags::NOSYNC, !auto),
            Advise::Core { include } if counts => page.a.flags.set(EntryFlags::NOCOREDUMP, !include),
            _ => {}
        }
    }
}

fn stack(m: &Map<'_, World>, o: &mut Oracle, w: Where, shape: StackShape, a: Attributes) {
    let got = m.stack(place(m, w), shape, &a, &mut may());
    if shape.guard >= shape.pages {
        assert_eq!(got, Err(StackError::BadGuard));
        return;
    }
    let expected = o.place(w, shape.pages, false, &a).map_err(StackError::Find);
    assert_eq!(got, expected.map(va));
    let Ok(s) = expected else { return };
    if matches!(w, Where::Over(_)) {
        o.detach(s);
    }
    let initial = if shape.initial == 0 { STEP } else { shape.initial }.min(shape.pages - shape.guard);
    let gap = shape.pages - initial;
    o.fill(s, gap, Kind::StackGap, Attributes { tag: shape.guard << 12, ..a });
    o.fill(s + gap, initial, Kind::Object, a);
    (s + gap..s + shape.pages).for_each(|p| o.pages.get_mut(&p).expect("filled").grows = true);
}

fn grow(m: &Map<'_, World>, o: &mut Oracle, p: u64) {
    // Where one gap entry ends and the next begins is not the oracle's knowledge.
    let all = infos(m);
    let gap = all.iter().find(|i| i.range.contains(va(p)) && i.kind == Kind::StackGap);
    let got = m.growstack(va(p), &mut may());
    let Some(gap) = gap else {
        let expected = if o.pages.contains_key(&p) { Ok(()) } else { Err(GrowError::NotMapped(va(p))) };
        assert_eq!(got, expected);
        return;
    };
    let start = gap.range.end().page();
    let lowest = gap.range.start().page() + (gap.attributes.tag >> 12);
    let stack = o.pages.get(&start).filter(|s| s.kind == Kind::Object && s.grows);
    let Some(&above) = stack.filter(|_| gap.attributes.tag != u64::MAX) else {
        assert_eq!(got, Err(GrowError::Detached(va(p))));
        return;
    };
    if p < lowest {
        assert_eq!(got, Err(GrowError::Guard(va(p))));
        return;
    }
    assert_eq!(got, Ok(()));
    let n = (start - p).max(STEP).min(start - lowest);
    (start - n..start).for_each(|p| {
        o.pages.insert(p, Page { value: 0, ..above });
    });
}

fn fork(m: &Map<'_, World>, o: &mut Oracle, writes: &[(bool, u64, u64)]) {
    let c = m.fork(m.vm.plat.pmap(), &mut may()).expect("memory");
    let mut child = Oracle::default();
    for (&p, page) in o.pages.iter_mut().filter(|(_, p)| p.a.inherit != Inherit::None) {
        let value = if page.a.inherit == Inherit::Zero { 0 } else { page.value };
        page.shared = page.kind == Kind::Object && (page.shared || page.a.inherit == Inherit::Share);
        let shared = page.shared && page.a.inherit == Inherit::Share;
        child.pages.insert(p, Page { wired: false, value, shared, ..*page });
        if page.kind == Kind::Foreign {
            c.pmap.own_mapping(range(p, p + 1), page.a.prot);
        }
    }
    // A gap whose stack does not come along is nobody's.
    for p in FIRST..LAST {
        let gap = child.pages.get(&p).is_some_and(|g| g.kind == Kind::StackGap);
        let stack = child.pages.get(&(p + 1));
        if gap && !stack.is_some_and(|s| s.kind == Kind::StackGap || s.kind == Kind::Object && s.grows) {
            child.detach(p + 1);
        }
    }
    compare(&c, &child);
    for &(to_child, p, v) in writes {
        let (target, oracle) = if to_child { (&c, &mut child) } else { (m, &mut *o) };
        let writable = |p: &&mut Page| p.kind == Kind::Object && p.a.prot.contains(Prot::W);
        let Some(page) = oracle.pages.get_mut(&p).filter(writable) else { continue };
        poke(target, p, v);
        page.value = v;
        if page.a.inherit == Inherit::Share {
            let other = if to_child { &mut *o } else { &mut child };
            other.pages.get_mut(&p).expect("shared").value = v;
        }
    }
    contents(&c, &child);
    contents(m, o);
}

fn move_range(m: &Map<'_, World>, o: &mut Oracle, s: u64, n: u64, d: u64, leave: Leave) {
    let got = m.move_range(range(s, s + n), va(d), leave, &mut may());
    let guard = |p: &u64| matches!(o.pages[p].kind, Kind::Guard | Kind::StackGap);
    let expected = if s + n > LAST {
        Err(MoveError::Hole(va(s)))
    } else if d + n > LAST {
        Err(MoveError::Insert(InsertError::Outside(va(d))))
    } else if s.max(d) < s.min(d) + n {
        Err(MoveError::Overlap(va(s.max(d))))
    } else if let Some(p) = o.first_hole(s, s + n) {
        Err(MoveError::Hole(va(p)))
    } else if let Some(p) = (s..s + n).find(guard) {
        Err(MoveError::Hole(va(p)))
    } else if let Some(p) = o.first_taken(d, d + n) {
        Err(MoveError::Insert(InsertError::Occupied(va(p))))
    } else {
        Ok(())
    };
    assert_eq!(got, expected);
    if expected.is_err() {
        return;
    }
    o.detach(s);
    for i in 0..n {
        let page = o.pages.remove(&(s + i)).expect("mapped");
        o.pages.insert(d + i, Page { grows: false, ..page });
        if page.kind == Kind::Foreign {
            // Its owner moves it.
            let (from, to) = (range(s + i, s + i + 1), range(d + i, d + i + 1));
            m.pmap.own_mapping(to, page.a.prot);
            m.pmap.forget_mapping(from);
        } else if leave == Leave::Zeroes {
            o.pages.insert(s + i, Page { grows: false, wired: false, shared: false, value: 0, ..page });
        }
    }
}

fn extend(m: &Map<'_, World>, o: &mut Oracle, end: u64, n: u64) {
    let got = m.extend(va(end), n, &mut may());
    let below = o.pages.get(&(end - 1)).copied();
    let expected = match below {
        _ if end + n > LAST => Err(MoveError::Insert(InsertError::Outside(va(LAST)))),
        None => Err(MoveError::Hole(va(end))),
        Some(b) => match o.first_taken(end, end + n) {
            // The same entry goes on, or another is there.
            Some(p)
                if p == end
                    && infos(m)
                        .iter()
                        .any(|i| i.range.contains(va(end)) && i.range.contains(va(end - 1))) =>
            {
                Err(MoveError::Insert(InsertError::Occupied(va(p))))
            }
            _ if matches!(b.kind, Kind::Guard | Kind::StackGap) => Err(MoveError::Hole(va(end))),
            Some(p) => Err(MoveError::Insert(InsertError::Occupied(va(p)))),
            None => Ok(()),
        },
    };
    assert_eq!(got, expected);
    if let (Ok(()), Some(b)) = (expected, below) {
        for i in 0..n {
            let file = if b.kind == Kind::Foreign { b.file + 1 + i } else { 0 };
            let shared = false;
            o.pages.insert(end + i, Page { value: 0, wired: false, grows: false, shared, file, ..b });
        }
        if b.kind == Kind::Foreign {
            m.pmap.own_mapping(range(end, end + n), b.a.prot);
        }
    }
}

fn copy_error(o: &Oracle, s: u64, n: u64, side: Side) -> Result<(), CopyError> {
    let failed = |at, why| Err(CopyError { side, at: va(at), why });
    if s + n > LAST {
        return failed(s, CopyWhy::Hole);
    }
    if let Some(p) = o.first_hole(s, s + n) {
        return failed(p, CopyWhy::Hole);
    }
    let access = if side == Side::Source { Prot::R } else { Prot::W };
    for (&p, page) in o.pages.range(s..s + n) {
        match page.kind {
            Kind::Guard | Kind::StackGap => return failed(p, CopyWhy::Protection),
            Kind::Foreign | Kind::Submap => return failed(p, CopyWhy::Foreign),
            Kind::Object if !page.a.prot.contains(access) => return failed(p, CopyWhy::Protection),
            Kind::Object if side == Side::Destination && page.wired => return failed(p, CopyWhy::Wired),
            Kind::Object => {}
        }
    }
    Ok(())
}

fn copy(m: &Map<'_, World>, o: &mut Oracle, s: u64, n: u64, d: u64) {
    let got = m.copy_range(range(s, s + n), m, va(d), &mut may());
    let expected = copy_error(o, s, n, Side::Source).and_then(|()| copy_error(o, d, n, Side::Destination));
    assert_eq!(got, expected);
    if expected.is_ok() {
        o.detach(d);
        let values: Vec<_> = o.pages.range(s..s + n).map(|(_, p)| p.value).collect();
        for ((_, p), v) in o.pages.range_mut(d..d + n).zip(values) {
            (p.value, p.shared) = (v, false);
        }
    }
}

/// Attributes of every page, and what must hold of any map.
fn compare(m: &Map<'_, World>, o: &Oracle) {
    check(m);
    let real: BTreeMap<_, _> = cells(m)
        .into_iter()
        .map(|(p, c)| {
            let file = if c.kind == Kind::Foreign { c.behind.1 } else { 0 };
            let (wired, grows, shared) = (c.wired != 0, c.grows, c.shared);
            (p, Page { kind: c.kind, a: c.a, wired, grows, shared, file, value: 0 })
        })
        .collect();
    let flat: BTreeMap<_, _> = o.pages.iter().map(|(p, page)| (*p, Page { value: 0, ..*page })).collect();
    assert_eq!(real, flat, "{}", sketch(m));
    let counted = flat.values().filter(|p| matches!(p.kind, Kind::Object | Kind::Foreign)).count();
    assert_eq!(m.size(&mut may()), (counted as u64) << 12, "invariant 3");
}

fn contents(m: &Map<'_, World>, o: &Oracle) {
    for (&p, page) in o.pages.iter().filter(|(_, p)| p.kind == Kind::Object && !p.a.prot.is_empty()) {
        assert_eq!(peek(m, p), page.value, "contents of page {p} in {}", sketch(m));
    }
}

fn run(ops: &[Op]) {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack_step: STEP << 12, ..Limits::default() }, &mut may());
    let mut o = Oracle::default();
    for op in ops {
        apply(&m, &mut o, op);
        compare(&m, &o);
    }
    contents(&m, &o);
    let whole: VaRange = bounds();
    m.delete(whole, &mut may()).expect("memory");
    check_empty(&vm);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_map_equals_a_flat_oracle(ops in prop::collection::vec(ops(), 1..70)) {
        run(&ops);
    }
}
