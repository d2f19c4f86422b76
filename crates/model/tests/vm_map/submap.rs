//! M20 on machines that keep translations: what changes in a submap is gone from every map
//! that shows it, on every CPU. `check_quiet` compares the translations with the entries.

use super::*;
use machvm::FaultError;
use machvm::map::{Advise, Holes, Inherit, SetProt, Wiring};
use machvm::task::{Personality, Task as Calls, VmProtectError};
use machvm_hal::{PAGE_SIZE, Pmap, RawAddr, RawSize};
use machvm_model::Rng;

/// First page of the submap.
const THERE: u64 = 0x500;

fn sub(vm: &Vm<Machine>) -> Task<'_> {
    let map = Map::new_submap(vm, vm.platform().pmap(), pages(THERE, 0x1000)).expect("memory");
    Task { map }
}
fn show<'vm>(t: &Task<'vm>, first: u64, n: u64, s: &Task<'vm>, from: u64) {
    t.map.insert(pages(first, n), Backing::Guard, &rw(), &mut may()).expect("free");
    t.map.submap(pages(first, n), &s.map, va(from), &mut may()).expect("a guard");
}

#[test]
fn m20_two_tasks_see_one_submap() {
    let c = Config { frames: 200, ..Config::default() };
    each(c, |vm| {
        let (a, b, s) = (Task::new(vm), task(vm, 8), sub(vm));
        show(&a, 100, 32, &s, THERE + 4);
        show(&b, 300, 16, &s, THERE);
        put(&s.map, THERE, 24);
        for p in 0..20 {
            a.store_word(at(100 + p), p).expect("store");
        }
        (0..12).for_each(|p| assert_eq!(b.load_word(at(304 + p)), Ok(p), "page {p}"));
        assert_eq!(a.load_word(at(120)), Err(FaultError::NoMapping(va(120))), "the submap ends there");
        check_quiet(vm, [&a, &b, &s]);
        s.map.protect(pages(THERE + 6, 4), &SetProt::prot(Prot::R), &mut may()).expect("memory");
        for (t, first) in [(&a, 102), (&b, 306)] {
            (0..4).for_each(|p| assert_eq!(t.load_word(at(first + p)), Ok(2 + p)));
            assert_eq!(t.store_word(at(first), 1), Err(FaultError::Protection(va(first))));
        }
        check_quiet(vm, [&a, &b, &s]);
        s.map.delete(pages(THERE + 8, 4), &mut may()).expect("memory");
        for (t, first) in [(&a, 104), (&b, 308)] {
            assert!(t.map.pmap().extract(vm.page_array(), va(first)).is_none());
            assert_eq!(t.load_word(at(first)), Err(FaultError::NoMapping(va(first))));
        }
        put(&s.map, THERE + 8, 4);
        (0..4).for_each(|p| assert_eq!(b.load_word(at(308 + p)), Ok(0)));
        check_quiet(vm, [&a, &b, &s]);
        s.map.madvise(pages(THERE, 24), Advise::DontNeed, &mut may()).expect("memory");
        (0..8).for_each(|p| assert_eq!(a.load_word(at(100 + p)), Ok(0)));
        check_quiet(vm, [&a, &b, &s]);
        // Page-out reaches the views too.
        a.store_word(at(101), 77).expect("store");
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!((a.map.pmap().resident_count(), b.load_word(at(305))), (0, Ok(77)));
        check_quiet(vm, [&a, &b, &s]);
    });
}

#[test]
fn m20_copies_of_a_submap_stay_as_they_were() {
    let c = Config { frames: 300, ..Config::default() };
    each(c, |vm| {
        let (a, b, s) = (task(vm, 40), Task::new(vm), sub(vm));
        show(&a, 100, 20, &s, THERE);
        show(&b, 100, 20, &s, THERE);
        put(&s.map, THERE, 20);
        (0..20).for_each(|p| b.store_word(at(100 + p), 50 + p).expect("store"));
        assert_eq!(a.load_word(at(107)), Ok(57));
        a.map.copy_range(pages(104, 10), &a.map, va(3), &mut may()).expect("readable");
        // Both had the pages writable a moment ago.
        (0..20).for_each(|p| b.store_word(at(100 + p), 90 + p).expect("store"));
        a.store_word(at(110), 1).expect("store");
        (0..10).for_each(|p| assert_eq!(a.load_word(at(3 + p)), Ok(54 + p), "page {p} of the copy"));
        assert_eq!((b.load_word(at(110)), b.load_word(at(111))), (Ok(1), Ok(101)));
        check_quiet(vm, [&a, &b, &s]);
        // The submap is forked: its views must lose write access, too.
        let fork = Task { map: s.map.fork(vm.platform().pmap(), &mut may()).expect("memory") };
        (0..20).for_each(|p| a.store_word(at(100 + p), 200 + p).expect("store"));
        assert_eq!((fork.load_word(at(THERE + 11)), b.load_word(at(111))), (Ok(101), Ok(211)));
        check_quiet(vm, [&a, &b, &s, &fork]);
        // A child of `a` shows it as well.
        a.map.inherit(pages(0, 40), Inherit::None, &mut may()).expect("memory");
        let child = Task { map: a.map.fork(vm.platform().pmap(), &mut may()).expect("memory") };
        child.store_word(at(105), 5).expect("store");
        assert_eq!(
            (b.load_word(at(105)), child.load_word(at(3))),
            (Ok(5), Err(FaultError::NoMapping(va(3))))
        );
        check_quiet(vm, [&a, &b, &s, &fork, &child]);
    });
}

/// U20, U22, U24, U14 to U16 where a task shows a submap.
#[test]
fn u24_region_recurse_goes_into_submaps() {
    let c = Config { frames: 200, ..Config::default() };
    each(c, |vm| {
        let (a, s) = (task(vm, 8), sub(vm));
        show(&a, 100, 20, &s, THERE);
        put(&s.map, THERE + 2, 8);
        a.store_word(at(103), 9).expect("store");
        let t = Calls::new(&a.map, &Personality::XNU);
        let plain = t.vm_region_basic(RawAddr(at(50)), &mut may()).expect("a region");
        assert_eq!((plain.0, plain.1.reserved), (pages(100, 20), true));
        let (r, info, depth) = t.vm_region_recurse_to(RawAddr(at(50)), 0, &mut may()).expect("a region");
        assert_eq!((r, info.short.is_submap, depth), (pages(100, 20), true, 0));
        let (r, info, depth) = t.vm_region_recurse(RawAddr(at(50)), &mut may()).expect("a region");
        assert_eq!((r, info.short.is_submap, depth), (pages(102, 8), false, 1));
        assert_eq!((info.short.protection, info.pages.pages_resident >= 1), (Prot::RW, true));
        let (r, _, depth) = t.vm_region_recurse_short(RawAddr(at(3)), &mut may()).expect("a region");
        assert_eq!((r, depth), (pages(0, 8), 0));
        assert!(t.vm_region_recurse(RawAddr(at(110)), &mut may()).is_err(), "nothing above, in or behind it");
        let page = RawSize(PAGE_SIZE);
        let prot = machvm::task::RawProt(1);
        assert_eq!(
            t.vm_protect(RawAddr(at(103)), page, false, prot, &mut may()),
            Err(VmProtectError::Submap(va(103)))
        );
        // Contents move through it in both directions.
        assert_eq!(t.vm_copy(RawAddr(at(103)), page, RawAddr(at(1)), &mut may()), Ok(()));
        assert_eq!(a.load_word(at(1)), Ok(9));
        a.store_word(at(2), 33).expect("store");
        assert_eq!(t.vm_copy(RawAddr(at(2)), RawSize(4 * PAGE_SIZE), RawAddr(at(104)), &mut may()), Ok(()));
        assert_eq!((a.load_word(at(104)), s.load_word(at(THERE + 4))), (Ok(33), Ok(33)));
        check_quiet(vm, [&a, &s]);
    });
}

#[test]
fn m20_wired_submaps() {
    let c = Config { frames: 200, ..Config::default() };
    each(c, |vm| {
        let (a, s) = (Task::new(vm), sub(vm));
        show(&a, 100, 20, &s, THERE);
        put(&s.map, THERE, 20);
        s.map.wire(pages(THERE + 3, 4), Wiring::System, Holes::Refuse, &mut may()).expect("memory");
        (0..20).for_each(|p| a.store_word(at(100 + p), p).expect("store"));
        while vm.pageout(1000, &mut may()) != 0 {}
        (3..7).for_each(|p| assert!(a.map.is_resident(va(100 + p), &mut may()), "page {p} is wired"));
        (3..7).for_each(|p| assert_eq!(a.load_word(at(100 + p)), Ok(p)));
        check_quiet(vm, [&a, &s]);
        s.map.unwire(pages(THERE + 3, 4), Wiring::System, Holes::Refuse, &mut may()).expect("wired");
        check_quiet(vm, [&a, &s]);
        // Speculation may note use of a page once more; not for ever.
        (0..10).for_each(|_| while vm.pageout(1000, &mut may()) != 0 {});
        assert_eq!(vm.live()[0], 0, "nothing is wired any more");
        (0..20).for_each(|p| assert_eq!(a.load_word(at(100 + p)), Ok(p)));
    });
}

/// Random changes of a submap that two tasks show, against plain words.
#[test]
fn m20_random_changes() {
    let c = Config { frames: 64, ..Config::default() };
    let seeds = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()).map_or(1..=4, |s| s..=s);
    for seed in seeds {
        each(Config { seed, ..c }, |vm| {
            println!("replay with MACHVM_SEED={seed}");
            let mut rng = Rng::new(seed);
            let (a, b, s) = (Task::new(vm), Task::new(vm), sub(vm));
            const N: u64 = 40;
            show(&a, 100, N, &s, THERE);
            show(&b, 700, N, &s, THERE);
            // Of each page: mapped, writable, the word in it.
            let mut want: [Option<(bool, u64)>; N as usize] = [None; N as usize];
            for step in 0..300 {
                let first = rng.below(N);
                let n = 1 + rng.below((N - first).min(6));
                let there = pages(THERE + first, n);
                let span = first as usize..(first + n) as usize;
                match rng.below(8) {
                    0 => {
                        s.map.fixed(there, Backing::Anonymous, &rw(), &mut may()).expect("memory");
                        want[span].fill(Some((true, 0)));
                    }
                    1 => {
                        s.map.delete(there, &mut may()).expect("memory");
                        want[span].fill(None);
                    }
                    2 => {
                        let writable = rng.one_in(2);
                        let set = SetProt::prot(if writable { Prot::RW } else { Prot::R });
                        s.map.protect(there, &set, &mut may()).expect("memory");
                        want[span].iter_mut().flatten().for_each(|p| p.0 = writable);
                    }
                    3 => {
                        s.map.madvise(there, Advise::DontNeed, &mut may()).expect("memory");
                        want[span].iter_mut().flatten().for_each(|p| p.1 = 0);
                    }
                    4 => {
                        vm.pageout(n, &mut may());
                    }
                    _ => {
                        for p in span {
                            let (t, base) = if rng.one_in(2) { (&a, 100) } else { (&b, 700) };
                            let here = base + p as u64;
                            let expected = match want[p] {
                                None => Err(FaultError::NoMapping(va(here))),
                                Some((false, _)) => Err(FaultError::Protection(va(here))),
                                Some((true, _)) => Ok(()),
                            };
                            assert_eq!(
                                t.store_word(at(here), step + 1),
                                expected,
                                "step {step}, seed {seed}"
                            );
                            if expected.is_ok() {
                                want[p] = Some((true, step + 1));
                            }
                        }
                    }
                }
                for (p, w) in want.iter().enumerate() {
                    let (t, base) = if rng.one_in(2) { (&a, 100) } else { (&b, 700) };
                    let here = base + p as u64;
                    let expected = w.map(|(_, v)| v).ok_or(FaultError::NoMapping(va(here)));
                    assert_eq!(t.load_word(at(here)), expected, "step {step}, seed {seed}");
                }
                if step % 16 == 0 {
                    check_quiet(vm, [&a, &b, &s]);
                }
            }
            check_quiet(vm, [&a, &b, &s]);
        });
    }
}

/// F04 through a view: what is held is the submap's memory, and outlives its place there.
#[test]
fn f04_holds_go_through_views() {
    use machvm::fault::{Absent, HeldPage};
    let c = Config { frames: 200, ..Config::default() };
    each(c, |vm| {
        let (a, b, s) = (Task::new(vm), Task::new(vm), sub(vm));
        show(&a, 100, 8, &s, THERE);
        show(&b, 300, 8, &s, THERE);
        put(&s.map, THERE, 6);
        b.store_word(at(302), 7).expect("store");
        let mut list: [HeldPage; 4] = Default::default();
        let two = RawSize(2 * PAGE_SIZE);
        let hold = a.map.fault_quick_hold_pages(
            RawAddr(at(102)),
            two,
            Prot::W,
            Absent::Fault,
            &mut list,
            &mut may(),
        );
        let held = hold.expect("writable");
        let mut word = [0; 8];
        assert_eq!((held.read(0, &mut word), word[0]), (Some(()), 7));
        assert_eq!(held.write(PAGE_SIZE as usize, &[9]), Some(()));
        assert_eq!((b.load_word(at(303)), s.load_word(at(THERE + 3))), (Ok(9), Ok(9)));
        s.map.delete(pages(THERE + 2, 2), &mut may()).expect("memory");
        assert_eq!(b.load_word(at(302)), Err(FaultError::NoMapping(va(302))));
        assert_eq!((held.read(0, &mut word), word[0]), (Some(()), 7), "held pages stay");
        drop(held);
        let mut list: [HeldPage; 4] = Default::default();
        let hole = a.map.fault_quick_hold_pages(
            RawAddr(at(101)),
            two,
            Prot::R,
            Absent::Fault,
            &mut list,
            &mut may(),
        );
        assert!(hole.is_err(), "a hole of the submap");
        drop(hole);
        check_quiet(vm, [&a, &b, &s]);
    });
}
