//! The rows of the interface inventory, one by one.

use super::super::{
    Advise, AdviseError, Backing, DeleteError, FindError, GrowError, Holes, InsertError, Leave, Limits,
    LookupError, MapFlags, MoveError, Order, Place, ProtectError, Search, SetProt, StackError, StackShape,
    SyncError, WireError, Wiring,
};
use super::*;

const ANON: Backing = Backing::Anonymous;

fn put(m: &Map<'_, World>, s: u64, e: u64) {
    m.insert(range(s, e), ANON, &rw(), &mut may()).expect("free");
}
fn shape(pages: u64, initial: u64, guard: u64) -> StackShape {
    StackShape { pages, initial, guard }
}

#[test]
fn l01_timestamp_counts_exclusive_locks_only() {
    let vm = vm();
    let m = map(&vm);
    let t = m.timestamp();
    drop(m.lock_read(&mut may()));
    assert_eq!(m.timestamp(), t);
    let w = m.lock(&mut may());
    assert_eq!(m.timestamp(), t + 1);
    assert!(m.trylock().is_none() && m.trylock_read().is_none(), "L05, L06");
    let r = m.lock_downgrade(w);
    assert_eq!(m.timestamp(), t + 1, "L08");
    let w = m.lock_upgrade(r, &mut may()).expect("the only reader");
    assert_eq!(m.timestamp(), t + 2, "L07");
    drop(w);
    drop(m.trylock().expect("open"));
    assert_eq!(m.timestamp(), t + 3);
}

#[test]
fn l07_upgrade_fails_behind_a_writer_and_unlocks() {
    let vm = vm();
    let m = map(&vm);
    let first = m.lock_read(&mut may());
    let ready = std::sync::Barrier::new(2);
    std::thread::scope(|s| {
        let other = s.spawn(|| {
            let r = m.lock_read(&mut may());
            ready.wait();
            // Wins when the first reader leaves: it is the last one in.
            m.lock_upgrade(r, &mut may()).map(|w| w.version())
        });
        ready.wait();
        let mine = m.lock_upgrade(first, &mut may()).map(|w| w.version());
        let other = other.join().expect("no panic");
        assert!(mine.is_err() || other.is_err(), "both upgraded: {mine:?} {other:?}");
    });
    assert!(m.trylock().is_some(), "left fully unlocked (Z21)");
}

#[test]
fn m11_insert_errors_in_order() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    let ins = |s, e, b, a: &Attributes| m.insert(range(s, e), b, a, &mut may());
    // Z13: outside comes before occupied.
    assert_eq!(ins(29, LAST + 1, ANON, &rw()), Err(InsertError::Outside(va(LAST))));
    assert_eq!(ins(FIRST - 1, 25, ANON, &rw()), Err(InsertError::Outside(va(FIRST - 1))));
    assert_eq!(ins(18, 22, ANON, &rw()), Err(InsertError::Occupied(va(20))));
    assert_eq!(ins(25, 35, ANON, &rw()), Err(InsertError::Occupied(va(25))));
    // Z14.
    let beyond = Attributes { max: Prot::R, ..rw() };
    assert_eq!(ins(40, 41, ANON, &beyond), Err(InsertError::ExceedsMax(va(40))));
    m.modflags(MapFlags::WXORX, MapFlags::empty(), &mut may());
    assert_eq!(ins(40, 41, ANON, &Attributes::new(Prot::ALL)), Err(InsertError::WriteExecute(va(40))));
    m.set_limits(Limits { size: 11 << 12, ..Limits::default() }, &mut may());
    assert_eq!(ins(40, 42, ANON, &rw()), Err(InsertError::Limit(va(40))));
    assert_eq!(ins(40, 41, ANON, &rw()), Ok(()));
    // Guards are not counted (Z12).
    assert_eq!(ins(50, 60, Backing::Guard, &rw()), Ok(()));
    check(&m);
}

#[test]
fn z11_ranges_that_touch_the_bounds() {
    let vm = vm();
    let m = map(&vm);
    put(&m, LAST - 1, LAST);
    put(&m, FIRST, FIRST + 1);
    check(&m);
    let s = m.search();
    assert_eq!(m.findspace(&s, LAST - FIRST - 2, &mut may()), Ok(va(FIRST + 1)));
    assert_eq!(m.findspace(&s, LAST - FIRST - 1, &mut may()), Err(FindError::NoSpace));
    assert_eq!(m.findspace(&s, 0, &mut may()), Err(FindError::BadSize));
    assert_eq!(m.findspace(&s, u64::MAX, &mut may()), Err(FindError::BadSize));
    // A map that ends with the last page of the space.
    let top = u64::MAX >> 12;
    let whole = VaRange::between(va(1), va(top)).expect("a range");
    let m = Map::new(&vm, vm.plat.pmap(), whole);
    let a = Search { order: Order::HighestFirst, ..m.search() };
    assert_eq!(m.find(Place::Any(a), 1, ANON, &rw(), &mut may()), Ok(va(top - 1)));
    assert_eq!(m.findspace(&a, 1, &mut may()), Ok(va(top - 2)));
    check(&m);
}

#[test]
fn m11_coalesces_with_both_neighbours() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 30, 32);
    poke(&m, 30, 7);
    put(&m, 32, 34);
    put(&m, 28, 30);
    let i = infos(&m);
    assert_eq!(i.len(), 1, "one entry: {}", sketch(&m));
    assert_eq!((i[0].range, vm.live()[4]), (range(28, 34), 1));
    assert_eq!([peek(&m, 28), peek(&m, 30), peek(&m, 33)], [0, 7, 0]);
    // Different attributes: their own entry and object.
    m.insert(range(34, 36), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    assert_eq!((infos(&m).len(), vm.live()[4]), (2, 2));
    check(&m);
}

#[test]
fn z56_coalescing_never_shows_old_contents() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 30, 40);
    (30..40).for_each(|p| poke(&m, p, p));
    m.delete(range(35, 40), &mut may()).expect("memory");
    put(&m, 35, 45);
    assert_eq!(peek(&m, 34), 34);
    (35..45).for_each(|p| assert_eq!(peek(&m, p), 0));
    // Moved away and then extended: the indices behind belong to the moved part.
    m.move_range(range(35, 40), va(60), Leave::Hole, &mut may()).expect("free");
    poke(&m, 60, 99);
    put(&m, 35, 36);
    assert_eq!((peek(&m, 35), peek(&m, 60)), (0, 99));
    check(&m);
}

#[test]
fn m12_places() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    let find = |p, n| m.find(p, n, ANON, &rw(), &mut may());
    let low = m.search();
    assert_eq!(find(Place::At(va(29)), 2), Err(FindError::Insert(InsertError::Occupied(va(29)))));
    assert_eq!(find(Place::Any(Search { align: 3, ..low }), 1), Err(FindError::BadAlignment), "Z15");
    assert_eq!(find(Place::Any(low), 5), Ok(va(30)), "the hole below is too small");
    assert_eq!(find(Place::Any(low), 4), Ok(va(16)));
    assert_eq!(find(Place::Any(Search { align: 16, ..low }), 1), Ok(va(48)));
    assert_eq!(find(Place::Any(Search { order: Order::HighestFirst, ..low }), 2), Ok(va(78)));
    assert_eq!(find(Place::Any(Search { order: Order::HighestFirst, max: va(60), ..low }), 2), Ok(va(58)));
    assert_eq!(find(Place::Any(Search { min: va(36), max: va(47), ..low }), 11), Ok(va(36)));
    assert_eq!(find(Place::Any(Search { min: va(36), max: va(47), ..low }), 1), Err(FindError::NoSpace));
    assert_eq!(find(Place::Any(low), 100), Err(FindError::NoSpace));
    assert_eq!(find(Place::Over(va(25)), 2), Ok(va(25)));
    check(&m);
}

#[test]
fn m12_alignment_search_is_bounded_and_complete() {
    let vm = vm();
    let whole = range(0, 1 << 20);
    let m = Map::new(&vm, vm.plat.pmap(), whole);
    // 300 holes of 8 pages, none aligned to 8, then one aligned hole of 8.
    let guard = Attributes::new(Prot::NONE);
    for i in 0..300 {
        let s = if i == 0 { 0 } else { i * 16 + 9 - 16 + 8 };
        m.insert(range(s, i * 16 + 9), Backing::Guard, &guard, &mut may()).expect("free");
    }
    m.insert(range(299 * 16 + 17, 300 * 16 + 16), Backing::Guard, &guard, &mut may()).expect("free");
    m.insert(range(300 * 16 + 24, 1 << 20), Backing::Guard, &guard, &mut may()).expect("free");
    for order in [Order::LowestFirst, Order::HighestFirst] {
        let s = Search { align: 8, order, ..m.search() };
        assert_eq!(m.findspace(&s, 8, &mut may()), Ok(va(300 * 16 + 16)), "{order:?}");
    }
}

#[test]
fn m14_fixed_replaces_under_one_lock() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 40);
    (20..40).for_each(|p| poke(&m, p, p));
    let t = m.timestamp();
    m.fixed(range(25, 30), ANON, &Attributes::new(Prot::R), &mut may()).expect("memory");
    assert_eq!(m.timestamp(), t + 1);
    assert_eq!([peek(&m, 24), peek(&m, 25), peek(&m, 29), peek(&m, 30)], [24, 0, 0, 30]);
    check(&m);
    m.fixed(bounds(), Backing::Guard, &rw(), &mut may()).expect("memory");
    assert_eq!((infos(&m).len(), m.size(&mut may())), (1, 0));
    check(&m);
}

#[test]
fn m21_delete_takes_holes_and_drops_contents() {
    let vm = vm();
    let m = map(&vm);
    m.delete(bounds(), &mut may()).expect("empty is fine");
    m.delete(range(1, 3), &mut may()).expect("outside is fine (Z10)");
    put(&m, 20, 30);
    put(&m, 40, 50);
    (20..30).for_each(|p| poke(&m, p, 1));
    let before = vm.live()[0];
    m.delete(range(22, 45), &mut may()).expect("memory");
    assert_eq!(vm.live()[0], before - 8, "pages of the removed part are free");
    check(&m);
    m.clear(&mut may());
    check_empty(&vm);
}

#[test]
fn m21_delete_of_the_middle_needs_two_entries() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    let before = cells(&m);
    vm.plat.fuse.set(0);
    assert_eq!(m.delete(range(22, 24), &mut may()), Err(DeleteError::NoMemory(va(22))));
    assert_eq!(cells(&m), before);
}

#[test]
fn m23_check_protection_edges() {
    let vm = vm();
    let m = map(&vm);
    put(&m, FIRST, 20);
    m.insert(range(20, 22), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    let is = |s, e, p| m.check_protection(va(s), va(e), p, &mut may());
    assert!(is(FIRST, 22, Prot::R) && is(FIRST, 20, Prot::RW) && !is(FIRST, 21, Prot::RW));
    assert!(!is(FIRST, 23, Prot::NONE), "a hole");
    assert!(is(18, 18, Prot::ALL) && !is(30, 30, Prot::NONE), "an empty range asks for start");
    assert!(!is(FIRST - 1, 18, Prot::R) && !is(18, LAST + 1, Prot::R) && !is(20, 18, Prot::R));
}

#[test]
fn m30_protect_checks_before_it_changes() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    m.insert(range(24, 28), ANON, &Attributes { max: Prot::R, ..Attributes::new(Prot::R) }, &mut may())
        .expect("free");
    m.insert(range(28, 30), Backing::Guard, &rw(), &mut may()).expect("free");
    let before = cells(&m);
    let set = |s, e, set| m.protect(range(s, e), &set, &mut may());
    assert_eq!(set(20, 28, SetProt::prot(Prot::RW)), Err(ProtectError::ExceedsMax(va(24))));
    let both = SetProt { prot: Some(Prot::RW), max: Some(Prot::R), holes: Holes::Skip };
    assert_eq!(set(20, 22, both), Err(ProtectError::OutsideMax(va(20))));
    let strict = SetProt { holes: Holes::Refuse, ..SetProt::prot(Prot::R) };
    assert_eq!(set(22, 33, strict), Err(ProtectError::Hole(va(30))));
    assert_eq!(set(18, 22, strict), Err(ProtectError::Hole(va(18))));
    m.modflags(MapFlags::WXORX, MapFlags::empty(), &mut may());
    assert_eq!(set(20, 22, SetProt::prot(Prot::ALL)), Err(ProtectError::WriteExecute(va(20))));
    assert_eq!(cells(&m), before);
    // Holes and guards are passed over (Z07).
    assert_eq!(set(18, 40, SetProt::prot(Prot::R)), Ok(()));
    let max = SetProt { prot: None, max: Some(Prot::X | Prot::W), holes: Holes::Skip };
    assert_eq!(set(20, 22, max), Ok(()));
    let c = cells(&m);
    assert_eq!((c[&20].a.prot, c[&20].a.max), (Prot::NONE, Prot::W | Prot::X), "cut to the maximum");
    check(&m);
}

#[test]
fn n08_toggling_does_not_pile_up_entries() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 40);
    for i in 0..100 {
        let p = 20 + (i * 7) % 19;
        m.protect(range(p, p + 1), &SetProt::prot(Prot::R), &mut may()).expect("memory");
        m.protect(range(p, p + 1), &SetProt::prot(Prot::RW), &mut may()).expect("memory");
    }
    assert_eq!((infos(&m).len(), vm.live()[5]), (1, 1), "invariant 9: {}", sketch(&m));
    assert!(vm.object_is_private_sole(infos(&m)[0].object.expect("an object")), "merges drop references");
}

#[test]
fn m31_dontneed_drops_private_contents() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    (20..30).for_each(|p| poke(&m, p, p));
    assert_eq!(m.madvise(range(22, 25), Advise::DontNeed, &mut may()), Ok(None));
    assert_eq!([peek(&m, 21), peek(&m, 22), peek(&m, 24), peek(&m, 25)], [21, 0, 0, 25]);
    assert_eq!(m.madvise(range(25, 35), Advise::Free, &mut may()), Ok(Some(va(30))), "the hole");
    assert_eq!([peek(&m, 25), peek(&m, 29)], [0, 0]);
    assert_eq!(infos(&m).len(), 1, "no clips");
    check(&m);
    m.wire(range(20, 22), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    assert_eq!(m.madvise(range(16, 30), Advise::DontNeed, &mut may()), Err(AdviseError::Wired(va(20))));
}

#[test]
fn m32_inherit_does_not_touch_guards_with_zero() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    m.insert(range(24, 26), Backing::Guard, &rw(), &mut may()).expect("free");
    m.inherit(range(16, 40), Inherit::Zero, &mut may()).expect("memory");
    let c = cells(&m);
    assert_eq!((c[&20].a.inherit, c[&24].a.inherit), (Inherit::Zero, Inherit::Copy));
    check(&m);
}

#[test]
fn m33_wiring_nests_for_the_system_only() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    let wire = |s, e, who| m.wire(range(s, e), who, Holes::Refuse, &mut may());
    let unwire = |s, e, who| m.unwire(range(s, e), who, Holes::Refuse, &mut may());
    assert_eq!(wire(22, 24, Wiring::User), Ok(()));
    assert_eq!(wire(20, 24, Wiring::User), Ok(()), "again: no nesting");
    assert_eq!(wire(23, 26, Wiring::System), Ok(()));
    let wired = |p| cells(&m)[&p].wired;
    assert_eq!([wired(20), wired(22), wired(23), wired(25), wired(26)], [1, 1, 2, 1, 0]);
    assert_eq!(m.pmap.resident_count(), 6, "every page is resident");
    assert_eq!(unwire(20, 24, Wiring::System), Err(WireError::NotWired(va(20))));
    assert_eq!(unwire(16, 24, Wiring::User), Err(WireError::Hole(va(16))));
    assert_eq!(unwire(20, 30, Wiring::User), Ok(()));
    assert_eq!([wired(20), wired(23), wired(25)], [0, 1, 1]);
    assert_eq!(unwire(23, 26, Wiring::System), Ok(()));
    assert_eq!(infos(&m).len(), 1, "merged again: {}", sketch(&m));
    m.protect(range(28, 30), &SetProt::prot(Prot::NONE), &mut may()).expect("memory");
    assert_eq!(wire(26, 30, Wiring::User), Err(WireError::NoAccess(va(28))));
    assert_eq!(m.wire(range(16, 40), Wiring::User, Holes::Skip, &mut may()), Ok(()));
    assert_eq!([wired(27), wired(28)], [1, 0]);
    // Removing wired memory unwires it (M21).
    m.delete(range(16, 25), &mut may()).expect("memory");
    check(&m);
    drop(m);
    check_empty(&vm);
}

#[test]
fn m37_sync_wants_no_holes() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    put(&m, 26, 28);
    assert_eq!(m.sync(range(20, 28), false, &mut may()), Err(SyncError::Hole(va(24))));
    assert_eq!(m.sync(range(20, 24), false, &mut may()), Ok(()));
    assert_eq!(m.sync_entry(va(27), false, &mut may()), Ok(()));
    assert_eq!(m.sync_entry(va(25), false, &mut may()), Err(SyncError::Hole(va(25))));
    m.wire(range(21, 22), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    assert_eq!(m.sync(range(20, 24), true, &mut may()), Err(SyncError::Wired(va(21))));
}

#[test]
fn m50_lookup() {
    let vm = vm();
    let m = map(&vm);
    m.insert(range(20, 24), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    assert_eq!(m.lookup(va(19), Prot::R, &mut may()), Err(LookupError::Hole(va(19))));
    assert_eq!(m.lookup(va(23), Prot::W, &mut may()), Err(LookupError::Protection(va(23))));
    let i = m.lookup(va(23), Prot::R, &mut may()).expect("readable");
    assert_eq!(i.pindex(va(23)).0, i.offset.0 + 3);
    m.protect(range(20, 24), &SetProt::prot(Prot::NONE), &mut may()).expect("memory");
    assert_eq!(m.lookup(va(23), Prot::NONE, &mut may()), Err(LookupError::Protection(va(23))));
}

#[test]
fn m18_m19_stack_grows_to_its_guard() {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack_step: 2 << 12, ..Limits::default() }, &mut may());
    let stack = |p, s| m.stack(p, s, &rw(), &mut may());
    assert_eq!(stack(Place::At(va(40)), shape(4, 1, 4)), Err(StackError::BadGuard));
    assert_eq!(stack(Place::At(va(40)), shape(20, 1, 3)), Ok(va(40)));
    assert_eq!(m.size(&mut may()), 1 << 12);
    check(&m);
    let grow = |p| m.growstack(va(p), &mut may());
    assert_eq!(grow(30), Err(GrowError::NotMapped(va(30))));
    assert_eq!(grow(59), Ok(()), "already there (Z32)");
    assert_eq!(grow(58), Ok(()));
    assert_eq!(infos(&m)[1].range, range(57, 60), "by the step");
    // A fault in the gap grows by itself.
    poke(&m, 50, 5);
    assert_eq!(infos(&m)[1].range, range(50, 60), "further than the step");
    assert_eq!(peek(&m, 50), 5);
    check(&m);
    assert_eq!(grow(42), Err(GrowError::Guard(va(42))), "Z34");
    assert_eq!(grow(44), Ok(()));
    assert_eq!(grow(43), Ok(()));
    assert_eq!(infos(&m)[0].range, range(40, 43));
    assert_eq!(m.size(&mut may()), 17 << 12);
    // The gap keeps others out.
    let err = m.insert(range(39, 41), ANON, &rw(), &mut may());
    assert_eq!(err, Err(InsertError::Occupied(va(40))));
    check(&m);
}

#[test]
fn m19_limits_and_detached_gaps() {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack: 5 << 12, stack_step: 4 << 12, ..Limits::default() }, &mut may());
    m.stack(Place::At(va(40)), shape(20, 2, 1), &rw(), &mut may()).expect("free");
    assert_eq!(m.growstack(va(54), &mut may()), Err(GrowError::Limit(va(54))));
    assert_eq!(m.growstack(va(55), &mut may()), Ok(()));
    assert_eq!(infos(&m)[1].range, range(55, 60), "cut to the limit");
    m.set_limits(Limits::default(), &mut may());
    // Z35: the gap no longer touches its stack.
    m.delete(range(54, 55), &mut may()).expect("memory");
    assert_eq!(m.growstack(va(50), &mut may()), Err(GrowError::Detached(va(50))));
    check(&m);
}

#[test]
fn m19_clipped_stack_grows_with_its_lowest_part() {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack_step: 1 << 12, ..Limits::default() }, &mut may());
    m.stack(Place::At(va(40)), shape(20, 4, 1), &rw(), &mut may()).expect("free");
    m.protect(range(56, 58), &SetProt::prot(Prot::ALL), &mut may()).expect("memory");
    check(&m);
    poke(&m, 55, 3);
    assert_eq!(cells(&m)[&55].a.prot, Prot::ALL, "the new part is like the lowest");
    assert_eq!(peek(&m, 55), 3);
    check(&m);
}

#[test]
fn m61_fork_by_inheritance() {
    let vm = vm();
    let m = map(&vm);
    for (s, i) in [(20, Inherit::Copy), (24, Inherit::Share), (28, Inherit::None), (32, Inherit::Zero)] {
        m.insert(range(s, s + 2), ANON, &Attributes { inherit: i, ..rw() }, &mut may()).expect("free");
        poke(&m, s, s);
        poke(&m, s + 1, s);
    }
    m.insert(range(40, 42), Backing::Guard, &rw(), &mut may()).expect("free");
    m.stack(Place::At(va(50)), shape(10, 2, 1), &rw(), &mut may()).expect("free");
    poke(&m, 59, 9);
    m.wire(range(20, 22), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    let c = m.fork(vm.plat.pmap(), &mut may()).expect("memory");
    check(&m);
    check(&c);
    let (a, b) = (cells(&m), cells(&c));
    assert!((28..30).all(|p| !b.contains_key(&p)) && b.len() == a.len() - 2);
    assert!(
        b.iter().all(|(p, x)| x.a == a[p].a && x.kind == a[p].kind && x.wired == 0 && x.grows == a[p].grows)
    );
    assert_eq!([peek(&c, 20), peek(&c, 24), peek(&c, 32), peek(&c, 59)], [20, 24, 0, 9]);
    poke(&m, 20, 100);
    poke(&c, 21, 200);
    poke(&m, 24, 300);
    poke(&c, 25, 400);
    assert_eq!([peek(&m, 20), peek(&m, 21), peek(&c, 20), peek(&c, 21)], [100, 20, 20, 200]);
    assert_eq!([peek(&m, 24), peek(&m, 25), peek(&c, 24), peek(&c, 25)], [300, 400, 300, 400]);
    poke(&c, 52, 1);
    check(&c);
    drop(c);
    check(&m);
    drop(m);
    check_empty(&vm);
}

#[test]
fn m61_pieces_of_an_object_share_the_copy() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    (20..30).for_each(|p| poke(&m, p, p));
    m.protect(range(23, 25), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    let c = m.fork(vm.plat.pmap(), &mut may()).expect("memory");
    assert_eq!(vm.live()[4], 2, "one object each");
    (20..30).for_each(|p| assert_eq!(peek(&c, p), p));
    check(&c);
}

#[test]
fn z100_overlapping_copy_is_memmove() {
    for (from, to) in [(20, 22), (22, 20), (20, 20)] {
        let vm = vm();
        let m = map(&vm);
        put(&m, 20, 26);
        (20..26).for_each(|p| poke(&m, p, p));
        m.copy_range(range(from, from + 4), &m, va(to), &mut may()).expect("mapped");
        (0..4).for_each(|i| assert_eq!(peek(&m, to + i), from + i, "{from} -> {to}"));
        check(&m);
        poke(&m, to, 77);
        assert_eq!(peek(&m, to + 1), from + 1);
        drop(m);
        check_empty(&vm);
    }
}

#[test]
fn z104_copy_keeps_the_destinations_attributes() {
    let vm = vm();
    let (m, n) = (map(&vm), map(&vm));
    put(&m, 20, 24);
    m.protect(range(20, 24), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    let special = Attributes { inherit: Inherit::None, tag: 5, ..rw() };
    n.insert(range(40, 42), ANON, &special, &mut may()).expect("free");
    n.insert(range(42, 50), ANON, &rw(), &mut may()).expect("free");
    let before: Vec<_> = cells(&n).values().map(|c| c.a).collect();
    m.copy_range(range(20, 24), &n, va(41), &mut may()).expect("mapped");
    assert_eq!(cells(&n).values().map(|c| c.a).collect::<Vec<_>>(), before);
    check(&n);
    use super::super::{CopyError, CopyWhy, Side};
    let e = n.copy_range(range(40, 42), &m, va(20), &mut may());
    assert_eq!(e, Err(CopyError { side: Side::Destination, at: va(20), why: CopyWhy::Protection }));
    let e = m.copy_range(range(20, 26), &n, va(42), &mut may());
    assert_eq!(e, Err(CopyError { side: Side::Source, at: va(24), why: CopyWhy::Hole }));
}

#[test]
fn moves_keep_object_and_index() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 26);
    (20..26).for_each(|p| poke(&m, p, p));
    m.protect(range(22, 23), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    let before = cells(&m);
    let mv = |s, e, d, l| m.move_range(range(s, e), va(d), l, &mut may());
    assert_eq!(mv(20, 28, 40, Leave::Hole), Err(MoveError::Hole(va(26))));
    assert_eq!(mv(20, 24, 22, Leave::Hole), Err(MoveError::Overlap(va(22))));
    put(&m, 50, 51);
    assert_eq!(mv(20, 24, 48, Leave::Hole), Err(MoveError::Insert(InsertError::Occupied(va(50)))));
    assert_eq!(mv(21, 25, 40, Leave::Zeroes), Ok(()));
    let after = cells(&m);
    (21..25).for_each(|p| assert_eq!(after[&(p + 19)], before[&p], "moved whole"));
    (21..25).for_each(|p| assert_eq!((peek(&m, p + 19), peek(&m, p), after[&p].a), (p, 0, before[&p].a)));
    check(&m);
    assert_eq!(m.extend(va(26), 3, &mut may()), Ok(()));
    assert_eq!([peek(&m, 25), peek(&m, 26), peek(&m, 28)], [25, 0, 0]);
    assert_eq!(m.extend(va(35), 1, &mut may()), Err(MoveError::Hole(va(35))));
    assert_eq!(m.extend(va(29), 100, &mut may()), Err(MoveError::Insert(InsertError::Outside(va(LAST)))));
    check(&m);
    drop(m);
    check_empty(&vm);
}

#[test]
fn shared_objects_outlive_a_mapping() {
    let vm = vm();
    let m = map(&vm);
    let (o, at) = vm.object_allocate(4).expect("memory");
    vm.object_reference(o);
    m.insert(range(20, 24), Backing::Shared(o, at), &rw(), &mut may()).expect("free");
    poke(&m, 21, 21);
    m.delete(range(21, 22), &mut may()).expect("memory");
    vm.object_reference(o);
    m.insert(range(40, 44), Backing::Shared(o, at), &rw(), &mut may()).expect("free");
    assert_eq!(peek(&m, 41), 21, "not dropped with its mapping");
    m.madvise(range(40, 44), Advise::DontNeed, &mut may()).expect("memory");
    assert_eq!(peek(&m, 41), 21);
    check(&m);
    m.clear(&mut may());
    vm.object_deallocate(o, &mut may());
    check_empty(&vm);
}

#[test]
fn foreign_entries_are_places_only() {
    let vm = vm();
    let m = map(&vm);
    m.insert(range(20, 30), Backing::Foreign(Pindex(7)), &Attributes::new(Prot::R), &mut may())
        .expect("free");
    m.pmap.own_mapping(range(20, 30), Prot::R);
    m.protect(range(22, 24), &SetProt::prot(Prot::RW), &mut may()).expect("memory");
    check(&m);
    assert_eq!(cells(&m)[&25].behind, (None, 12));
    m.protect(range(22, 24), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    assert_eq!(infos(&m).len(), 1);
    m.delete(range(24, 26), &mut may()).expect("memory");
    check(&m);
    assert_eq!(m.pmap.resident_count(), 0);
}

#[test]
fn z23_delete_waits_for_a_wiring() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    std::thread::scope(|s| {
        let wirer = s.spawn(|| {
            for _ in 0..200 {
                m.wire(range(20, 28), Wiring::System, Holes::Skip, &mut may()).expect("memory");
                m.unwire(range(20, 28), Wiring::System, Holes::Skip, &mut may()).expect("wired");
            }
        });
        s.spawn(|| {
            for i in 0..200 {
                let p = 20 + i % 9;
                m.fixed(range(p, p + 2), ANON, &rw(), &mut may()).expect("memory");
                m.protect(range(p, p + 1), &SetProt::prot(Prot::RW), &mut may()).expect("memory");
            }
        });
        wirer.join().expect("no panic");
    });
    check(&m);
    m.delete(bounds(), &mut may()).expect("memory");
    check_empty(&vm);
}
