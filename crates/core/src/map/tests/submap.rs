//! M20 `vm_map_submap` (vm_map_submap(9)), and what looks through one.

use super::super::{
    Advise, Backing, CopyError, CopyWhy, Detail, FindError, Holes, InheritError, InsertError, Leave,
    MoveError, Need, ProtectError, SetProt, Side, SubmapError, SyncError, Take, WireError, Wiring,
};
use super::*;
use crate::FaultError;

const ANON: Backing = Backing::Anonymous;

fn put(m: &Map<'_, World>, s: u64, e: u64) {
    m.insert(range(s, e), ANON, &rw(), &mut may()).expect("free");
}
/// A submap for the pages from 1000 on.
fn sub(vm: &Vm<World>) -> Map<'_, World> {
    Map::new_submap(vm, vm.plat.pmap(), range(1000, 1100)).expect("memory")
}
/// `m` shows the submap's pages from `first` on at `[s, e)`.
fn show<'vm>(m: &Map<'vm, World>, s: u64, e: u64, sub: &Map<'vm, World>, first: u64) {
    m.insert(range(s, e), Backing::Guard, &rw(), &mut may()).expect("free");
    m.submap(range(s, e), sub, va(first), &mut may()).expect("a guard");
}
fn end(vm: &Vm<World>) {
    check_empty(vm);
    assert_eq!(vm.submaps(), 0, "submaps left over");
}

#[test]
fn m20_one_whole_entry_without_contents() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    put(&m, 20, 30);
    let make = |a, b, first| m.submap(range(a, b), &s, va(first), &mut may());
    assert_eq!(make(20, 29, 1000), Err(SubmapError::NotWhole(va(20))));
    assert_eq!(make(20, 31, 1000), Err(SubmapError::NotWhole(va(20))));
    assert_eq!(make(40, 41, 1000), Err(SubmapError::NotWhole(va(40))), "nothing there");
    assert_eq!(make(20, 30, 1091), Err(SubmapError::Beyond(va(1091))));
    assert_eq!(make(20, 30, 999), Err(SubmapError::Beyond(va(999))));
    poke(&m, 22, 1);
    assert_eq!(make(20, 30, 1000), Err(SubmapError::InUse(va(20))), "it has contents");
    m.fixed(range(20, 30), ANON, &rw(), &mut may()).expect("memory");
    m.wire(range(20, 30), Wiring::System, Holes::Refuse, &mut may()).expect("memory");
    assert_eq!(make(20, 30, 1000), Err(SubmapError::InUse(va(20))), "wired");
    m.fixed(range(20, 30), Backing::Foreign(Pindex(0)), &rw(), &mut may()).expect("memory");
    assert_eq!(make(20, 30, 1000), Err(SubmapError::InUse(va(20))), "the machine's own");
    m.fixed(range(20, 30), ANON, &rw(), &mut may()).expect("memory");
    assert_eq!(m.submap(range(20, 30), &m, va(20), &mut may()), Err(SubmapError::NotShowable(va(20))));
    let before = cells(&m);
    assert_eq!((before.len(), s.views()), (10, 0), "nothing changed");
    assert_eq!(make(20, 30, 1000), Ok(()));
    assert_eq!((infos(&m)[0].kind, s.views(), m.size(&mut may())), (Kind::Submap, 1, 10 << 12));
    assert_eq!(make(20, 30, 1000), Err(SubmapError::InUse(va(20))), "it is one already");
    // One level: what can be shown shows nothing.
    let other = sub(&vm);
    put(&s, 1000, 1001);
    put(&other, 1000, 1001);
    assert_eq!(
        other.submap(range(1000, 1001), &s, va(1000), &mut may()),
        Err(SubmapError::NotShowable(va(1000)))
    );
    check(&m);
    drop((m, s, other));
    end(&vm);
}

#[test]
fn m20_faults_look_through_and_enter_here() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1010);
    put(&m, 30, 31);
    assert_eq!(touch(&m, 20, Prot::R), Err(FaultError::NoMapping(va(20))), "nothing in the submap yet");
    put(&s, 1008, 1014);
    s.insert(range(1016, 1040), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    (1008..1014).for_each(|p| poke(&s, p, p));
    assert_eq!([peek(&m, 20), peek(&m, 23)], [1010, 1013]);
    assert_eq!(touch(&m, 24, Prot::R), Err(FaultError::NoMapping(va(24))), "a hole in the submap");
    assert_eq!(touch(&m, 26, Prot::W), Err(FaultError::Protection(va(26))), "the submap's protection");
    assert_eq!((peek(&m, 26), peek(&m, 29)), (0, 0));
    poke(&m, 21, 7);
    assert_eq!(peek(&s, 1011), 7, "the same memory");
    check(&m);
    check(&s);
    // Nothing is entered beyond the view, though the submap's entries go on there.
    let mine = m.pmap.id;
    let machine = vm.plat.machine();
    assert!(machine.mapped.keys().filter(|k| k.0 == mine).all(|k| (20..30).contains(&k.1)));
    drop(machine);
    // A later change of the submap is seen, the regions are made again.
    put(&s, 1014, 1016);
    poke(&m, 24, 24);
    assert_eq!((peek(&s, 1014), peek(&m, 20)), (24, 1010));
    check(&m);
    drop((m, s));
    end(&vm);
}

#[test]
fn m20_changes_take_translations_out_of_every_view() {
    let vm = vm();
    let (m, n, s) = (map(&vm), map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    show(&n, 40, 50, &s, 1000);
    show(&n, 60, 65, &s, 1002);
    put(&s, 1000, 1010);
    (0..10).for_each(|p| poke(&m, 20 + p, p));
    assert_eq!([peek(&n, 45), peek(&n, 63), peek(&n, 47)], [5, 5, 7]);
    s.protect(range(1004, 1006), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    for (who, page) in [(&m, 24), (&m, 25), (&n, 45), (&n, 63)] {
        assert_eq!(touch(who, page, Prot::W), Err(FaultError::Protection(va(page))));
        assert!(who.pmap.extract(vm.page_array(), va(page)).is_none_or(|(_, p)| !p.contains(Prot::W)));
    }
    check(&m);
    check(&n);
    s.delete(range(1005, 1006), &mut may()).expect("memory");
    for (who, page) in [(&m, 25), (&n, 45), (&n, 63)] {
        assert!(who.pmap.extract(vm.page_array(), va(page)).is_none(), "page {page} is still translated");
        assert_eq!(touch(who, page, Prot::R), Err(FaultError::NoMapping(va(page))));
    }
    assert_eq!([peek(&m, 24), peek(&n, 64)], [4, 6]);
    // Contents dropped in the submap are zero everywhere.
    s.madvise(range(1006, 1010), Advise::DontNeed, &mut may()).expect("memory");
    assert_eq!([peek(&m, 26), peek(&n, 46), peek(&n, 64)], [0, 0, 0]);
    // Moved inside the submap.
    s.move_range(range(1000, 1002), va(1020), Leave::Hole, &mut may()).expect("free");
    assert_eq!(touch(&m, 20, Prot::R), Err(FaultError::NoMapping(va(20))));
    check(&m);
    check(&n);
    drop((m, n, s));
    end(&vm);
}

#[test]
fn m20_deleting_a_view_drops_its_reference_only() {
    let vm = vm();
    let (m, n, s) = (map(&vm), map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    show(&n, 40, 50, &s, 1000);
    put(&s, 1000, 1010);
    (0..10).for_each(|p| poke(&m, 20 + p, p));
    assert_eq!(peek(&n, 43), 3);
    // A piece out of the middle: two views remain.
    m.delete(range(22, 24), &mut may()).expect("memory");
    assert_eq!(s.views(), 3);
    assert_eq!(touch(&m, 22, Prot::R), Err(FaultError::NoMapping(va(22))));
    assert_eq!([peek(&m, 21), peek(&m, 24), peek(&m, 29), peek(&n, 43)], [1, 4, 9, 3]);
    check(&m);
    put(&m, 22, 24);
    assert_eq!(peek(&m, 22), 0);
    // The map that made the submap goes first: what is shown stays.
    drop(s);
    assert_eq!((vm.submaps(), peek(&n, 43), peek(&m, 24)), (1, 3, 4));
    m.clear(&mut may());
    assert_eq!((vm.submaps(), peek(&n, 49)), (1, 9));
    n.delete(range(40, 50), &mut may()).expect("memory");
    assert_eq!(vm.submaps(), 0);
    assert_eq!(vm.live()[4], 0, "its objects went with it");
    drop((m, n));
    end(&vm);
}

#[test]
fn m20_a_failed_cut_keeps_the_views() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    let before = cells(&m);
    vm.plat.fuse.set(0);
    assert!(m.delete(range(22, 24), &mut may()).is_err());
    assert_eq!((cells(&m), s.views()), (before, 1));
    check(&m);
    drop((m, s));
    end(&vm);
}

#[test]
fn m20_attributes_are_the_submaps_business() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    put(&m, 16, 20);
    show(&m, 20, 30, &s, 1000);
    put(&s, 1000, 1010);
    let before = cells(&m);
    // M30: ARG, before anything changes.
    assert_eq!(
        m.protect(range(16, 25), &SetProt::prot(Prot::R), &mut may()),
        Err(ProtectError::Submap(va(20)))
    );
    assert_eq!(
        m.set_maximum(range(22, 23), Prot::R, Holes::Skip, &mut may()),
        Err(ProtectError::Submap(va(22)))
    );
    // U21: COPY of a submap is ARG, M32; sharing and leaving out are fine.
    assert_eq!(m.inherit(range(16, 30), Inherit::Copy, &mut may()), Err(InheritError::Submap(va(20))));
    assert_eq!(m.inherit(range(16, 30), Inherit::Zero, &mut may()), Err(InheritError::Submap(va(20))));
    assert_eq!(cells(&m), before);
    // M33: a submap is wired as a map of its own.
    assert_eq!(
        m.wire(range(16, 30), Wiring::User, Holes::Refuse, &mut may()),
        Err(WireError::Submap(va(20)))
    );
    assert_eq!(m.wire(range(16, 30), Wiring::User, Holes::Skip, &mut may()), Ok(()));
    assert_eq!((cells(&m)[&16].wired, cells(&m)[&20].wired, cells(&s)[&1000].wired), (1, 0, 0));
    // M31: submaps are skipped, they are not holes.
    assert_eq!(m.madvise(range(20, 30), Advise::Core { include: false }, &mut may()), Ok(None));
    assert_eq!(cells(&m)[&20], before[&20]);
    poke(&m, 21, 5);
    assert_eq!(m.madvise(range(20, 30), Advise::DontNeed, &mut may()), Ok(None));
    assert_eq!(peek(&m, 21), 5);
    // Not moved, and not extended.
    assert_eq!(m.move_range(range(20, 30), va(50), Leave::Hole, &mut may()), Err(MoveError::Hole(va(20))));
    assert_eq!(m.extend(va(30), 2, &mut may()), Err(MoveError::Hole(va(30))));
    assert_eq!(m.insert(range(29, 31), ANON, &rw(), &mut may()), Err(InsertError::Occupied(va(29))));
    check(&m);
    drop((m, s));
    end(&vm);
}

#[test]
fn m20_queries_look_through() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    put(&m, 16, 20);
    show(&m, 20, 30, &s, 1005);
    put(&s, 1000, 1010);
    s.insert(range(1010, 1014), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    // M23.
    let is = |a, b, p| m.check_protection(va(a), va(b), p, &mut may());
    assert!(is(16, 25, Prot::RW) && is(16, 29, Prot::R) && !is(16, 26, Prot::RW));
    assert!(!is(20, 30, Prot::NONE), "page 29 is a hole of the submap");
    assert!(is(28, 28, Prot::ALL) && !is(29, 29, Prot::NONE), "an empty range asks for start");
    // M50: with the addresses of the map asked.
    let i = m.lookup(va(27), Prot::R, &mut may()).expect("readable");
    assert_eq!((i.range, i.kind), (range(25, 29), Kind::Object));
    let there = s.lookup(va(1012), Prot::R, &mut may()).expect("readable");
    assert_eq!((i.object, i.pindex(va(27))), (there.object, there.pindex(va(1012))));
    let i = m.lookup(va(21), Prot::W, &mut may()).expect("writable");
    assert_eq!(i.range, range(20, 25), "cut to the view");
    // M37: a hole inside the submap is a hole.
    assert_eq!(m.sync(range(16, 30), false, &mut may()), Err(SyncError::Hole(va(29))));
    assert_eq!(m.sync(range(16, 29), false, &mut may()), Ok(()));
    assert_eq!(m.sync_entry(va(27), false, &mut may()), Ok(()));
    s.wire(range(1010, 1011), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    assert_eq!(m.sync(range(20, 29), true, &mut may()), Err(SyncError::Wired(va(25))));
    // N06 and U24.
    let mut at = va(16);
    let mut all = Vec::new();
    while let Some((e, depth)) = m.entry_through(at, &mut may()) {
        all.push((e.range, depth));
        at = e.range.end();
    }
    assert_eq!(all, [(range(16, 20), 0), (range(20, 25), 1), (range(25, 26), 1), (range(26, 29), 1)]);
    let (f, depth) = m.region_through(va(24), Detail::Pages, &mut may()).expect("a region");
    assert_eq!((f.entry.range, depth), (range(20, 25), 1));
    assert_eq!(m.region_from(va(24), Detail::Short, &mut may()).map(|f| f.entry.kind), Some(Kind::Submap));
    drop((m, s));
    end(&vm);
}

#[test]
fn m20_copies_are_taken_through_a_submap() {
    let vm = vm();
    let (m, n, s) = (map(&vm), map(&vm), sub(&vm));
    put(&m, 16, 20);
    show(&m, 20, 30, &s, 1000);
    show(&n, 50, 60, &s, 1000);
    put(&s, 1000, 1010);
    s.protect(range(1004, 1006), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    (16..20).for_each(|p| poke(&m, p, p));
    (0..4).for_each(|p| poke(&n, 50 + p, 100 + p));
    poke(&m, 21, 201);
    // M63: from both sides of the boundary. The copy stays as it is, whoever writes.
    put(&m, 60, 70);
    m.copy_range(range(18, 26), &m, va(60), &mut may()).expect("readable");
    poke(&m, 20, 1);
    poke(&n, 51, 2);
    poke(&s, 1002, 3);
    assert_eq!((60..66).map(|p| peek(&m, p)).collect::<Vec<_>>(), [18, 19, 100, 201, 102, 103]);
    assert_eq!([peek(&m, 20), peek(&m, 21), peek(&m, 22)], [1, 2, 3]);
    // M66: the submap's entries are not this map's to change; bytes can be written.
    let copy = m.copy_range(range(60, 64), &m, va(18), &mut may());
    assert_eq!(copy, Err(CopyError { side: Side::Destination, at: va(20), why: CopyWhy::Shared }));
    m.write_in_page(22 << 12, &77u64.to_le_bytes(), &mut may()).expect("writable");
    assert_eq!((peek(&n, 52), peek(&m, 62)), (77, 100));
    assert_eq!(
        m.write_in_page(24 << 12, &[1], &mut may()),
        Err(FaultError::Protection(va(24))),
        "by the submap's rights"
    );
    let mut byte = [9];
    m.read_in_page(22 << 12, &mut byte, &mut may()).expect("readable");
    assert_eq!(byte, [77]);
    // U07: sharing goes through as well.
    let need = Need { prot: Prot::RW, max: Prot::RW };
    let taken = m.extract(range(20, 24), Take::Share, need, &mut may()).expect("all of it");
    let mut pieces = taken.pieces;
    n.copyout(super::super::Place::At(va(16)), &mut pieces, |a| a, &mut may()).expect("free");
    drop(pieces);
    poke(&n, 17, 55);
    assert_eq!((peek(&m, 21), peek(&s, 1001)), (55, 55));
    let hole = m.copyin(range(26, 34), &mut may()).map(drop);
    assert_eq!(hole, Err(CopyError { side: Side::Source, at: va(30), why: CopyWhy::Hole }));
    check(&m);
    check(&n);
    check(&s);
    drop((m, n, s));
    end(&vm);
}

#[test]
fn m61_children_share_submaps() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    show(&m, 40, 45, &s, 1000);
    m.inherit(range(40, 45), Inherit::None, &mut may()).expect("memory");
    put(&s, 1000, 1010);
    poke(&m, 23, 3);
    let child = m.fork(vm.plat.pmap(), &mut may()).expect("memory");
    assert_eq!(s.views(), 3);
    poke(&child, 23, 4);
    assert_eq!((peek(&m, 23), peek(&s, 1003)), (4, 4));
    assert_eq!(touch(&child, 40, Prot::R), Err(FaultError::NoMapping(va(40))));
    // A submap itself can be copied; the copy is a map of its own.
    let copy = s.fork(vm.plat.pmap(), &mut may()).expect("memory");
    poke(&m, 23, 5);
    poke(&copy, 1003, 6);
    assert_eq!([peek(&child, 23), peek(&copy, 1003), peek(&s, 1003)], [5, 6, 5]);
    check(&child);
    check(&m);
    drop((m, child, copy, s));
    end(&vm);
}

#[test]
fn m20_a_wired_submap_takes_no_faults_in_its_views() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    put(&s, 1000, 1010);
    s.wire(range(1002, 1004), Wiring::System, Holes::Refuse, &mut may()).expect("memory");
    poke(&m, 22, 2);
    assert_eq!(peek(&s, 1002), 2);
    s.unwire(range(1002, 1004), Wiring::System, Holes::Refuse, &mut may()).expect("wired");
    assert_eq!(peek(&m, 22), 2);
    s.wire(range(1005, 1006), Wiring::System, Holes::Refuse, &mut may()).expect("memory");
    poke(&m, 25, 5);
    s.delete(range(1005, 1006), &mut may()).expect("memory");
    assert_eq!(touch(&m, 25, Prot::R), Err(FaultError::NoMapping(va(25))));
    check(&m);
    drop((m, s));
    end(&vm);
}

#[test]
fn m20_a_machine_without_room_for_regions() {
    let vm = vm();
    let (m, s) = (map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    put(&s, 1000, 1004);
    s.insert(range(1004, 1008), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    vm.plat.fuse.set(1);
    assert_eq!(touch(&m, 21, Prot::R), Err(FaultError::NoMemory(va(21))), "the second region is refused");
    assert!(vm.plat.fuse.blown());
    check(&m);
    assert_eq!(peek(&m, 21), 0);
    check(&m);
    drop((m, s));
    end(&vm);
}

#[test]
fn k05_suballoc_finds_space_and_makes_a_submap() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 16, 20);
    let s = m.suballoc(vm.plat.pmap(), m.search(), 10, &mut may()).expect("space");
    assert_eq!((s.min(), s.max(), s.views()), (va(20), va(30), 1), "the addresses are the same");
    put(&s, 22, 25);
    poke(&m, 22, 1);
    assert_eq!(peek(&s, 22), 1);
    let none = m.suballoc(vm.plat.pmap(), m.search(), 100, &mut may()).map(drop);
    assert_eq!(none, Err(FindError::NoSpace));
    check(&m);
    // vm_map_submap(9): deleting the range ends it.
    m.delete(range(20, 30), &mut may()).expect("memory");
    assert_eq!(s.views(), 0);
    drop((m, s));
    end(&vm);
}

/// kmap_alloc_wait, kmap_free_wakeup: nobody sleeps through what was given back.
#[test]
fn k06_space_is_waited_for() {
    let vm = vm();
    let m = map(&vm);
    let s = m.suballoc(vm.plat.pmap(), m.search(), 8, &mut may()).expect("space");
    let one = |n| s.find_wait(&s.search(), n, ANON, &rw(), &mut may());
    assert_eq!(one(9), Err(FindError::NoSpace), "larger than the submap");
    assert_eq!(one(0), Err(FindError::BadSize));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let at = one(3).expect("sooner or later");
                    assert_eq!(peek(&s, at.page()), 0, "fresh");
                    poke(&s, at.page(), 1);
                    let r = VaRange::of_pages(at, 3).expect("inside");
                    s.delete_and_wakeup(r, &mut may()).expect("memory");
                }
            });
        }
    });
    assert_eq!(s.entry_count(&mut may()), 0);
    check(&s);
    drop((m, s));
    end(&vm);
}

/// Two parents fault and change their views while the submap changes: nothing deadlocks, and
/// afterwards nothing is translated that the submap does not have.
#[test]
fn z22_z26_views_and_submap_change_at_once() {
    let vm = vm();
    let (m, n, s) = (map(&vm), map(&vm), sub(&vm));
    show(&m, 20, 30, &s, 1000);
    show(&n, 40, 50, &s, 1000);
    put(&s, 1000, 1010);
    let threads = |s: &Map<'_, World>| {
        std::thread::scope(|scope| {
            for (who, at) in [(&m, 20), (&n, 40)] {
                scope.spawn(move || {
                    for i in 0..600 {
                        let page = at + i % 10;
                        // It may be gone, or read-only, at this moment.
                        let f =
                            Fault { addr: RawAddr(page << 12), access: [Prot::R, Prot::W][i as usize % 2] };
                        let _ = who.fault(&f, &mut may());
                        if i % 50 == 49 {
                            let _ = who.copyin(range(at, at + 4), &mut may()).map(drop);
                        }
                    }
                });
            }
            scope.spawn(|| {
                for i in 0..200 {
                    let r = range(1000 + i % 9, 1002 + i % 9);
                    match i % 4 {
                        0 => s.delete(r, &mut may()).expect("memory"),
                        1 => s.fixed(r, ANON, &rw(), &mut may()).expect("memory"),
                        2 => s.protect(r, &SetProt::prot(Prot::R), &mut may()).expect("memory"),
                        _ => s.protect(r, &SetProt::prot(Prot::RW), &mut may()).expect("memory"),
                    }
                }
            });
            scope.spawn(|| {
                for _ in 0..100 {
                    n.delete(range(44, 46), &mut may()).expect("memory");
                    n.insert(range(44, 46), Backing::Guard, &rw(), &mut may()).expect("free");
                    n.submap(range(44, 46), s, va(1004), &mut may()).expect("a guard");
                }
            });
        });
    };
    threads(&s);
    check(&m);
    check(&n);
    check(&s);
    drop((m, n, s));
    end(&vm);
}
