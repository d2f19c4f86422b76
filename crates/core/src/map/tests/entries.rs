//! More rows of vm_map(9): locks and waiting, entries, spaces found, copies.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use super::super::{
    Advise, Backing, CopyError, CopyWhy, FindError, Holes, InsertError, Limits, LookupError, MapFlags, Order,
    Place, Search, SetProt, Side, StackShape, WireError, Wiring,
};
use super::*;
use crate::FaultError;
use machvm_hal::Woken;

const ANON: Backing = Backing::Anonymous;

fn put(m: &Map<'_, World>, s: u64, e: u64) {
    m.insert(range(s, e), ANON, &rw(), &mut may()).expect("free");
}
fn protect(m: &Map<'_, World>, s: u64, e: u64, p: Prot) {
    m.protect(range(s, e), &SetProt::prot(p), &mut may()).expect("memory");
}

/// vm_map_create(9), vm_map_init(9), vm_map_min and the others of vm_map(9).
#[test]
fn m02_m03_m06_maps_are_values_with_bounds() {
    let vm = vm();
    let m = map(&vm);
    assert_eq!((m.min(), m.max(), m.entry_count(&mut may())), (va(FIRST), va(LAST), 0));
    assert_eq!((m.size(&mut may()), m.flags(&mut may()), m.timestamp()), (0, MapFlags::empty(), 0));
    assert_eq!(m.modflags(MapFlags::WXORX, MapFlags::all(), &mut may()), MapFlags::WXORX, "set wins");
    let valid = |s, e| m.range_valid(va(s), va(e));
    assert!(valid(FIRST, LAST) && valid(20, 20) && valid(LAST, LAST), "equal bounds are valid");
    assert!(!valid(FIRST - 1, 20) && !valid(20, LAST + 1) && !valid(21, 20));
    assert_eq!(m.range_check(range(1, 20)), Some(range(FIRST, 20)), "Z10, M70");
    assert_eq!(m.range_check(range(1, FIRST)), None);
    assert!(core::ptr::eq(m.vm(), &vm) && m.pmap().id == 0);
    drop(m);
    check_empty(&vm);
}

/// vm_map_lock(9), vm_map_timestamp: who finds the same number knows that nobody changed it.
#[test]
fn l15_verify_is_no_when_a_writer_came() {
    let vm = vm();
    let m = map(&vm);
    let t = m.timestamp();
    drop(m.lock_read(&mut may()));
    assert!(m.verify(t, &mut may()).is_some(), "readers do not count");
    put(&m, 20, 21);
    assert!(m.verify(t, &mut may()).is_none());
    assert!(m.trylock().is_some(), "and nothing is locked");
    let looked = m.lookup(va(20), Prot::R, &mut may()).map(|_| m.timestamp()).expect("there");
    assert!(m.verify(looked, &mut may()).is_some());
}

/// vm_map_unlock_and_wait, vm_map_wakeup: Z24, no wake-up between unlock and sleep is lost.
#[test]
fn l10_l11_z24_unlock_and_wait() {
    let vm = vm();
    let m = map(&vm);
    let room = AtomicU64::new(0);
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let mut waits = 0;
                loop {
                    let guard = m.lock(&mut may());
                    if room.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                        break;
                    }
                    assert_eq!(m.unlock_and_wait(guard, None, &mut may()), Woken::Event);
                    assert!(m.trylock_read().is_none_or(|_| true), "the map is not locked by us");
                    waits += 1;
                    assert!(waits < 1000);
                }
            });
        }
        for _ in 0..2 {
            thread::yield_now();
            let guard = m.lock(&mut may());
            room.fetch_add(1, SeqCst);
            drop(guard);
            m.wakeup();
        }
    });
    assert_eq!(room.load(SeqCst), 0);
}

/// vm_map_wait_busy, vm_map_entry_wait; Z25, Z27: a fork waits for wirings, its child is not
/// wired, and no entry is left half way.
#[test]
fn l12_l13_l16_z25_z27_fork_and_clips_against_wirings() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 40);
    let done = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            for i in 0..150 {
                let r = range(20 + i % 10, 30 + i % 10);
                m.wire(r, Wiring::System, Holes::Refuse, &mut may()).expect("memory");
                m.unwire(r, Wiring::System, Holes::Refuse, &mut may()).expect("wired");
            }
            done.store(true, SeqCst);
        });
        s.spawn(|| {
            while !done.load(SeqCst) {
                let child = m.fork(vm.plat.pmap(), &mut may()).expect("memory");
                let busy = EntryFlags::IN_TRANSITION | EntryFlags::NEEDS_WAKEUP;
                for i in infos(&child) {
                    assert!(i.wired == 0 && !i.flags.intersects(busy), "{i:?}");
                }
                m.wait_busy(&mut may());
            }
        });
        s.spawn(|| {
            // Clips inside what is being wired wait for it; nothing is merged over it.
            for i in 0.. {
                if done.load(SeqCst) {
                    break;
                }
                protect(&m, 22 + i % 15, 23 + i % 15, if i % 2 == 0 { Prot::R } else { Prot::RW });
            }
        });
    });
    protect(&m, 20, 40, Prot::RW);
    assert!(infos(&m).iter().all(|i| i.wired == 0));
    check(&m);
    drop(m);
    check_empty(&vm);
}

/// Z29: what appears in a hole while a wiring with holes goes on is left alone.
#[test]
fn z29_newcomers_in_holes_are_not_wired() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    put(&m, 28, 32);
    thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..100 {
                m.wire(range(20, 32), Wiring::System, Holes::Skip, &mut may()).expect("memory");
                m.unwire(range(20, 32), Wiring::System, Holes::Skip, &mut may()).expect("no holes wanted");
            }
        });
        s.spawn(|| {
            for _ in 0..100 {
                m.fixed(range(24, 28), ANON, &Attributes::new(Prot::R), &mut may()).expect("memory");
                m.delete(range(24, 28), &mut may()).expect("memory");
            }
        });
    });
    check(&m);
    assert!(infos(&m).iter().all(|i| i.wired == 0), "{}", sketch(&m));
    drop(m);
    check_empty(&vm);
}

/// vm_map_lookup_entry: the entry, or the one just below; any address.
#[test]
fn n05_the_entry_or_the_one_below() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    m.insert(range(30, 32), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    let at = |p| m.entry_at_or_below(va(p), &mut may()).map(|e| e.range);
    assert_eq!([at(0), at(19), at(20), at(23)], [None, None, Some(range(20, 24)), Some(range(20, 24))]);
    assert_eq!([at(24), at(29), at(30)], [Some(range(20, 24)), Some(range(20, 24)), Some(range(30, 32))]);
    assert_eq!([at(LAST), at(1 << 40)], [Some(range(30, 32)); 2], "outside the map, too");
}

/// vm_map_entry_first, succ, pred; vm_map_print and the walker for user space.
#[test]
fn n06_n13_walks_in_both_directions() {
    let vm = vm();
    let m = map(&vm);
    [(20, 22), (30, 32), (40, 42)].iter().for_each(|(s, e)| put(&m, *s, *e));
    let all: Vec<_> = infos(&m).iter().map(|i| i.range).collect();
    let mut up = Vec::new();
    let mut at = m.min();
    while let Some(e) = m.entry_from(at, &mut may()) {
        up.push(e.range);
        at = e.range.end();
        // Not safe in C: the entry goes while we walk.
        m.delete(e.range, &mut may()).expect("memory");
    }
    assert_eq!(up, all);
    up.iter().for_each(|r| put(&m, r.start().page(), r.end().page()));
    let mut down = Vec::new();
    let mut below = Some(m.max());
    while let Some(e) = below.and_then(|va| m.entry_at_or_below(va, &mut may())) {
        down.insert(0, e.range);
        below = e.range.start().page().checked_sub(1).map(Va::from_page);
    }
    assert_eq!(down, all);
}

/// vm_map_entry_resize: whoever grows or shrinks an entry repairs the gap beside it (Z31).
#[test]
fn n04_z31_moved_bounds_keep_the_gaps_right() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 30, 32);
    // Upwards, downwards, cut at either end, cut in two.
    put(&m, 32, 40);
    put(&m, 24, 30);
    assert_eq!(infos(&m).len(), 1, "one entry that grew at both ends");
    m.delete(range(24, 26), &mut may()).expect("memory");
    m.delete(range(38, 40), &mut may()).expect("memory");
    m.delete(range(30, 31), &mut may()).expect("memory");
    let find = |min, n| m.findspace(&Search { min: va(min), ..m.search() }, n, &mut may());
    assert_eq!(find(16, 10), Ok(va(16)));
    assert_eq!(find(17, 10), Ok(va(38)));
    assert_eq!(find(20, 1), Ok(va(20)));
    assert_eq!(find(26, 1), Ok(va(30)));
    assert_eq!(find(26, 2), Ok(va(38)));
    check(&m);
}

/// vm_map_clip_start, vm_map_clip_end: nothing where a boundary is already; both halves name
/// the object.
#[test]
fn n07_n09_n10_clips_and_merges() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    poke(&m, 25, 5);
    m.inherit(range(23, 26), Inherit::Share, &mut may()).expect("memory");
    let i = infos(&m);
    assert_eq!(i.iter().map(|i| i.range).collect::<Vec<_>>(), [range(20, 23), range(23, 26), range(26, 30)]);
    assert!(i.iter().all(|e| e.object == i[0].object), "one object behind all");
    assert!(i.windows(2).all(|w| w[0].offset.0 + w[0].range.pages() == w[1].offset.0));
    // At boundaries that are there nothing is cut.
    m.inherit(range(23, 26), Inherit::None, &mut may()).expect("memory");
    assert_eq!(infos(&m).len(), 3);
    // Not alike, so not merged, whoever asks.
    m.simplify(va(24), &mut may());
    assert_eq!(infos(&m).len(), 3);
    m.inherit(range(23, 26), Inherit::Copy, &mut may()).expect("memory");
    assert_eq!(infos(&m).len(), 1, "alike again");
    // Each attribute for itself keeps neighbours apart.
    m.madvise(range(23, 26), Advise::Sync { auto: false }, &mut may()).expect("memory");
    assert_eq!(infos(&m).len(), 3);
    m.madvise(range(23, 26), Advise::Sync { auto: true }, &mut may()).expect("memory");
    m.wire(range(20, 23), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    assert_eq!(infos(&m).len(), 2, "the wiring");
    m.unwire(range(20, 23), Wiring::User, Holes::Refuse, &mut may()).expect("wired");
    let alone = Attributes { flags: EntryFlags::NO_MERGE, ..rw() };
    m.insert(range(30, 32), ANON, &alone, &mut may()).expect("free");
    assert_eq!((infos(&m).len(), peek(&m, 25)), (2, 5));
    check(&m);
}

/// vm_map_entry_create and dispose: a map can be emptied without memory, and what was cut
/// for nothing is put together again.
#[test]
fn n01_n02_entries_are_reserved_before_and_freed_after() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    protect(&m, 24, 26, Prot::R);
    let before = (cells(&m), vm.live());
    for k in 0..2 {
        vm.plat.fuse.set(k);
        let cut = m.protect(range(22, 28), &SetProt::prot(Prot::NONE), &mut may());
        if vm.plat.fuse.blown() {
            assert!(cut.is_err());
            assert_eq!((cells(&m), vm.live()), before);
        }
    }
    vm.plat.fuse.set(0);
    m.clear(&mut may());
    assert!(!vm.plat.fuse.blown(), "nothing was asked for");
    check_empty(&vm);
}

/// vm_map_findspace(9): where the search begins counts; the last fit ends at the map's end.
#[test]
fn m10_findspace_begins_where_it_is_told() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    put(&m, 40, 60);
    let find = |min, n| m.findspace(&Search { min: va(min), ..m.search() }, n, &mut may());
    assert_eq!(find(0, 4), Ok(va(16)), "below the map: from its lowest address");
    assert_eq!(find(18, 4), Ok(va(30)));
    assert_eq!(find(25, 10), Ok(va(30)), "inside an entry");
    assert_eq!(find(31, 10), Ok(va(60)));
    assert_eq!((find(60, 20), find(60, 21)), (Ok(va(60)), Err(FindError::NoSpace)));
    assert_eq!(
        (find(79, 1), find(80, 1), find(200, 1)),
        (Ok(va(79)), Err(FindError::NoSpace), Err(FindError::NoSpace))
    );
    assert_eq!(m.entry_count(&mut may()), 2, "nothing was inserted");
}

/// vm_map_find_min, vm_map_find_aligned, vm_map_alignspace, vm_map_find_space.
#[test]
fn m13_m16_m17_hints_and_alignment() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    let min = |hint, n| m.find_min(va(hint), &m.search(), n, Backing::Guard, &rw(), &mut may());
    assert_eq!(min(25, 4), Ok(va(30)), "at or above the hint");
    assert_eq!(min(78, 4), Ok(va(16)), "no space there: from the bottom");
    assert_eq!(min(78, 60), Err(FindError::NoSpace));
    let align =
        |align, n| m.find(Place::Any(Search { align, ..m.search() }), n, Backing::Guard, &rw(), &mut may());
    assert_eq!([align(16, 2), align(16, 2)], [Ok(va(48)), Ok(va(64))]);
    assert_eq!(align(16, 2), Err(FindError::NoSpace), "the next would wrap, or is taken");
    let order = Order::HighestFirst;
    assert_eq!(m.findspace(&Search { order, align: 8, ..m.search() }, 6, &mut may()), Ok(va(72)));
    check(&m);
}

/// vm_map_remove: clamps; vm_map_delete of an empty range does nothing.
#[test]
fn m22_remove_clamps_to_the_map() {
    let vm = vm();
    let m = map(&vm);
    put(&m, FIRST, 20);
    put(&m, 70, LAST);
    m.delete(range(0, 18), &mut may()).expect("memory");
    m.delete(range(75, 1000), &mut may()).expect("memory");
    assert_eq!(infos(&m).iter().map(|i| i.range).collect::<Vec<_>>(), [range(18, 20), range(70, 75)]);
    m.delete(range(1000, 2000), &mut may()).expect("memory");
    check(&m);
}

/// Z12: guards are not in the size, but the growth of a stack is.
#[test]
fn z12_guards_are_no_part_of_the_size() {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { size: 4 << 12, stack_step: 1 << 12, ..Limits::default() }, &mut may());
    m.insert(range(20, 40), Backing::Guard, &rw(), &mut may()).expect("any number of guards");
    let shape = StackShape { pages: 20, initial: 2, guard: 1 };
    m.stack(Place::At(va(50)), shape, &rw(), &mut may()).expect("two pages");
    assert_eq!(m.size(&mut may()), 2 << 12);
    put(&m, 40, 41);
    assert_eq!(m.insert(range(44, 46), ANON, &rw(), &mut may()), Err(InsertError::Limit(va(44))));
    poke(&m, 67, 1);
    assert_eq!(touch(&m, 66, Prot::W), Err(FaultError::NoMapping(va(66))), "the limit stops the stack");
    check(&m);
}

/// Z32: the second of two threads that fault in one gap finds it grown.
#[test]
fn z32_two_threads_grow_one_stack() {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack_step: 1 << 12, ..Limits::default() }, &mut may());
    let shape = StackShape { pages: 40, initial: 1, guard: 1 };
    m.stack(Place::At(va(30)), shape, &rw(), &mut may()).expect("free");
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                (31..69).rev().for_each(|p| m.growstack(va(p), &mut may()).expect("grown, or there already"))
            });
        }
    });
    assert_eq!(infos(&m).last().expect("a stack").range, range(31, 70));
    check(&m);
}

/// Z36: the new part of a wired stack is wired; Z37: where a limit stops it, nothing moved.
#[test]
fn z36_z37_wired_stacks_and_limits() {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack_step: 2 << 12, ..Limits::default() }, &mut may());
    let shape = StackShape { pages: 30, initial: 2, guard: 1 };
    m.stack(Place::At(va(40)), shape, &rw(), &mut may()).expect("free");
    m.wire(range(68, 70), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    m.growstack(va(67), &mut may()).expect("room");
    assert_eq!(infos(&m).last().map(|i| (i.range, i.wired)), Some((range(66, 70), 1)));
    assert_eq!(m.pmap.resident_count(), 4, "the new pages are there");
    let before = cells(&m);
    m.set_limits(Limits { stack: 5 << 12, ..Limits::default() }, &mut may());
    assert!(m.growstack(va(60), &mut may()).is_err());
    assert_eq!(cells(&m), before);
    check(&m);
    drop(m);
    check_empty(&vm);
}

/// vm_map_unwire: VM_MAP_WIRE_*; vm_map_wire with VM_MAP_WIRE_WRITE.
#[test]
fn m33_m34_wire_for_writing_and_unwire() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    m.insert(range(24, 28), ANON, &Attributes::new(Prot::R), &mut may()).expect("free");
    let wire = |s, e, need, holes| m.wire_for(range(s, e), need, Wiring::User, holes, &mut may());
    assert_eq!(wire(20, 28, Prot::W, Holes::Refuse), Err(WireError::NoAccess(va(24))));
    assert_eq!(wire(20, 28, Prot::W, Holes::Skip), Ok(()));
    assert_eq!((cells(&m)[&20].wired, cells(&m)[&24].wired), (1, 0), "skipped silently");
    assert_eq!(wire(20, 28, Prot::R, Holes::Refuse), Ok(()));
    assert_eq!(cells(&m)[&24].wired, 1);
    let unwire = |s, e, who, holes| m.unwire(range(s, e), who, holes, &mut may());
    assert_eq!(unwire(22, 30, Wiring::User, Holes::Refuse), Err(WireError::Hole(va(28))));
    assert_eq!(unwire(22, 30, Wiring::System, Holes::Skip), Ok(()), "the user's are not the system's");
    assert_eq!(unwire(16, 40, Wiring::User, Holes::Skip), Ok(()));
    assert_eq!(unwire(20, 28, Wiring::User, Holes::Refuse), Ok(()), "not wired by the user: fine");
    assert_eq!(unwire(20, 28, Wiring::System, Holes::Refuse), Err(WireError::NotWired(va(20))));
    assert!(infos(&m).iter().all(|i| i.wired == 0));
    check(&m);
}

/// vm_map_lookup, vm_map_lookup_locked, vm_map_lookup_done (vm_map_lookup(9)).
#[test]
fn m50_m51_m52_m54_lookups_that_hold() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    poke(&m, 21, 1);
    assert_eq!(m.lookup_held(va(30), Prot::R, &mut may()).map(drop), Err(LookupError::Hole(va(30))));
    assert_eq!(m.lookup_held(va(20), Prot::X, &mut may()).map(drop), Err(LookupError::Protection(va(20))));
    assert!(m.trylock().is_some(), "after an error nothing is locked");
    let object = infos(&m)[0].object;
    let l = m.lookup_held(va(21), Prot::W, &mut may()).expect("writable");
    assert_eq!((l.prot, l.wired, l.pindex, l.object), (Prot::RW, false, l.entry.pindex(va(21)), object));
    assert!(m.trylock().is_none() && m.trylock_read().is_some(), "read locked");
    let t = l.timestamp();
    drop(l);
    assert!(m.verify(t, &mut may()).is_some() && m.trylock().is_some());
    // What a copy shares may not be written as it is.
    let child = m.fork(vm.plat.pmap(), &mut may()).expect("memory");
    assert_eq!(m.lookup_held(va(21), Prot::R, &mut may()).expect("readable").prot, Prot::R);
    assert_eq!(m.lookup_held(va(22), Prot::R, &mut may()).expect("readable").prot, Prot::RW, "never touched");
    drop(child);
    m.wire(range(20, 22), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
    assert!(m.lookup_held(va(20), Prot::R, &mut may()).expect("readable").wired, "Z93");
    assert!(matches!(m.try_lookup(va(20), Prot::R), Some(Ok(_))));
    assert!(matches!(m.try_lookup(va(50), Prot::R), Some(Err(LookupError::Hole(_)))));
    let w = m.lock(&mut may());
    assert!(m.try_lookup(va(20), Prot::R).is_none(), "it does not wait");
    drop(w);
}

/// Mach's vm_map_copyin with src_destroy, copyout, copy_discard, copy_copy (copy objects).
#[test]
fn m63_m65_m67_copies_are_taken_moved_and_placed() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 30);
    (20..30).for_each(|p| poke(&m, p, p));
    let failed = m.copyin_destroy(range(25, 35), &mut may()).map(drop);
    assert_eq!(failed, Err(CopyError { side: Side::Source, at: va(30), why: CopyWhy::Hole }));
    assert_eq!(infos(&m).len(), 1, "nothing changed");
    let mut copy = m.copyin_destroy(range(22, 26), &mut may()).expect("readable");
    assert_eq!(infos(&m).iter().map(|i| i.range).collect::<Vec<_>>(), [range(20, 22), range(26, 30)]);
    check(&m);
    let mut moved = copy.take();
    assert_eq!((copy.pages(), moved.pages()), (0, 4), "the old handle is empty");
    assert_eq!(
        m.copyout(Place::Any(m.search()), &mut copy, |a| a, &mut may()),
        Ok(Va::ZERO),
        "nothing to place"
    );
    // No space: the copy is still the caller's.
    let at = |p| Place::At(va(p));
    assert_eq!(
        m.copyout(at(28), &mut moved, |a| a, &mut may()),
        Err(FindError::Insert(InsertError::Occupied(va(28))))
    );
    assert_eq!(moved.pages(), 4);
    assert_eq!(m.copyout(at(40), &mut moved, |a| a, &mut may()), Ok(va(40)));
    assert_eq!((40..44).map(|p| peek(&m, p)).collect::<Vec<_>>(), [22, 23, 24, 25]);
    let discarded = m.copyin(range(40, 44), &mut may()).expect("readable");
    drop(discarded);
    check(&m);
    drop((m, copy, moved));
    check_empty(&vm);
}

/// vm_map_copy_overwrite: all of the destination, or nothing; vm_map_copy_entry.
#[test]
fn m60_m66_overwrite_replaces_contents_only() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    (20..24).for_each(|p| poke(&m, p, p));
    m.insert(range(40, 42), ANON, &Attributes { tag: 1, ..rw() }, &mut may()).expect("free");
    m.insert(range(42, 45), ANON, &Attributes { tag: 2, ..rw() }, &mut may()).expect("free");
    let before = cells(&m);
    let copy = || m.copyin(range(20, 24), &mut may()).expect("readable");
    let hole = CopyError { side: Side::Destination, at: va(45), why: CopyWhy::Hole };
    assert_eq!(m.overwrite(va(42), copy(), &mut may()), Err(hole));
    assert_eq!(cells(&m), before);
    assert_eq!(m.overwrite(va(41), copy(), &mut may()), Ok(()));
    assert_eq!((41..45).map(|p| peek(&m, p)).collect::<Vec<_>>(), [20, 21, 22, 23]);
    assert!((40..45).all(|p| cells(&m)[&p].a == before[&p].a), "Z104");
    // The source stays; either side copies when it is written.
    poke(&m, 42, 5);
    poke(&m, 20, 6);
    assert_eq!([peek(&m, 21), peek(&m, 41), peek(&m, 42)], [21, 20, 5]);
    check(&m);
}

/// vm_map_remap_extract; vm_map_coalesce_entry and the wired counts of Mach.
#[test]
fn m68_m69_extract_keeps_attributes() {
    use super::super::{Need, Take};
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    m.insert(range(24, 26), ANON, &Attributes { max: Prot::R, ..Attributes::new(Prot::R) }, &mut may())
        .expect("free");
    let need = |prot, max| Need { prot, max };
    let no = m.extract(range(20, 26), Take::Share, need(Prot::R, Prot::RW), &mut may()).map(drop);
    assert_eq!(no, Err(CopyError { side: Side::Source, at: va(24), why: CopyWhy::Protection }));
    let e = m.extract(range(22, 26), Take::Copy, need(Prot::R, Prot::R), &mut may()).expect("readable");
    assert_eq!((e.prot, e.max, e.pieces.pages()), (Prot::R, Prot::R, 4), "what all have");
    drop(e);
    check(&m);
    drop(m);
    check_empty(&vm);
}

/// vm_fault_disable_pagefaults: Z96, nothing is resolved and nothing sleeps.
#[test]
fn f10_z96_faults_switched_off() {
    let vm = vm();
    let m = map(&vm);
    put(&m, 20, 24);
    poke(&m, 20, 1);
    let saved = world::faults_off(true);
    let nested = world::faults_off(true);
    assert_eq!(touch(&m, 21, Prot::R), Err(FaultError::Protection(va(21))), "at once");
    assert_eq!(m.read_in_page(21 << 12, &mut [0], &mut may()), Ok(()), "absent memory is zero: no fault");
    assert_eq!(m.write_in_page(21 << 12, &[0], &mut may()), Err(FaultError::Protection(va(21))));
    world::faults_off(nested);
    assert_eq!(touch(&m, 21, Prot::R), Err(FaultError::Protection(va(21))), "they nest");
    world::faults_off(saved);
    assert_eq!(peek(&m, 21), 0);
}
