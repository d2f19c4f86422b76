//! Rows of the inventory that concern physical memory (Y) and superpage reservations
//! (R), as programs on the whole system see them. Dense placement.
//! `MACHVM_SEED=n` runs one seed of the random ones again, `MACHVM_LONG=n` n seeds.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Plan, World, may};
use machvm::map::{Attributes, Backing, Order, Place, Search};
use machvm::page::{Contig, FrameClass, NotTaken};
use machvm::{FaultError, Platform, Vm};
use machvm_hal::{PAGE_SIZE, PageArray, Pfn, Pindex, Pmap, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Task, check_quiet};

/// Pages of a window, frames of a run.
const RUN: u64 = 512;
/// The first page of a window.
const BASE: u64 = 16 * RUN;

fn vm(frames: u32) -> Vm<Machine> {
    Vm::new(Machine::new(Config { sparse: false, frames, ..Config::default() })).expect("memory")
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn rw() -> Attributes {
    Attributes::new(Prot::RW)
}
/// A task with anonymous memory from page `first` on.
fn task(vm: &Vm<Machine>, first: u64, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    insert(&t, first, n);
    t
}
fn insert(t: &Task<'_>, first: u64, n: u64) {
    let range = VaRange::of_pages(va(first), n).expect("fits");
    t.map.insert(range, Backing::Anonymous, &rw(), &mut may()).expect("insert");
}
fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
fn store(t: &Task<'_>, page: u64) {
    t.store_word(va(page).get(), page + 1).expect("store");
}
fn load(t: &Task<'_>, page: u64) -> u64 {
    t.load_word(va(page).get()).expect("load")
}
/// The frame that is mapped there.
fn frame(t: &Task<'_>, page: u64) -> u64 {
    let array = t.map.vm().page_array();
    let (no, _) = t.map.pmap().extract(array, va(page)).expect("mapped");
    array.pfn(no).0
}
/// Are the frames of these pages one run, each at the place its address has?
fn is_run(t: &Task<'_>, first: u64, n: u64) -> bool {
    let base = frame(t, first);
    base % RUN == first % RUN && (0..n).all(|i| frame(t, first + i) == base + i)
}
fn end(vm: &Vm<Machine>) {
    check_quiet(vm, []);
    assert_eq!(vm.live(), [0; 6], "left over");
    assert_eq!(vm.statistics().reservations, 0);
}

#[test]
fn r02_faults_in_any_order_give_contiguous_frames() {
    let vm = vm(3000);
    let t = task(&vm, 0, 2 * RUN);
    // 167 has no factor in common with the size: every page once.
    for i in 0..2 * RUN {
        store(&t, i * 167 % (2 * RUN));
    }
    assert!(is_run(&t, 0, RUN) && is_run(&t, RUN, RUN));
    assert!(vm.reservation_is_full(Pfn(frame(&t, 7))));
    assert_eq!((vm.statistics().reservations, vm.statistics().reservations_made), (2, 2));
    (0..2 * RUN).for_each(|p| assert_eq!(load(&t, p), p + 1));
    check_quiet(&vm, [&t]);
    drop(t);
    end(&vm);
}

#[test]
fn r02_small_mappings_get_none() {
    let vm = vm(3000);
    let tasks: Vec<_> = (0..40).map(|_| task(&vm, 5, 60)).collect();
    tasks.iter().for_each(|t| (5..65).for_each(|p| store(t, p)));
    assert_eq!(vm.statistics().reservations_made, 0);
    let large = task(&vm, 0, RUN);
    (0..RUN).for_each(|p| store(&large, p));
    assert!(is_run(&large, 0, RUN), "there was room for it");
    drop((tasks, large));
    end(&vm);
}

#[test]
fn r02_a_heap_that_grows_gets_there() {
    let vm = vm(3000);
    let t = Task::new(&vm);
    for part in 0..RUN / 8 {
        insert(&t, 2 * RUN + part * 32, 32);
        (0..32).for_each(|p| store(&t, 2 * RUN + part * 32 + p));
    }
    assert!((3..6).all(|w| is_run(&t, w * RUN, RUN)), "every window but the first");
    drop(t);
    end(&vm);
}

/// R07: a mapping may start anywhere, and an object be mapped from any index on: what
/// counts is where in a superpage the address is.
#[test]
fn r07_virtual_and_physical_alignment_agree() {
    let vm = vm(4000);
    for first in [RUN - 3, 2 * RUN + 77, 5] {
        let t = task(&vm, first, 2 * RUN);
        (first..first + 2 * RUN).for_each(|p| store(&t, p));
        let inner = first.next_multiple_of(RUN);
        assert!(is_run(&t, inner, RUN), "from page {first} on");
        assert!(is_run(&t, first, inner - first), "up to there");
        // A copy is where the original is.
        let child = fork(&t);
        (first..first + 2 * RUN).for_each(|p| store(&child, p));
        assert!(is_run(&child, inner, RUN), "a copy from page {first} on");
        drop((t, child));
        end(&vm);
    }
    let (o, at) = vm.object_allocate(3 * RUN).expect("object");
    let t = Task::new(&vm);
    let range = VaRange::of_pages(va(100), 2 * RUN).expect("fits");
    let from = Pindex(at.0 + 13);
    t.map.insert(range, Backing::Private(o, from), &rw(), &mut may()).expect("insert");
    (100..100 + 2 * RUN).for_each(|p| store(&t, p));
    assert!(is_run(&t, RUN, RUN), "an index of another phase");
    drop(t);
    end(&vm);
}

#[test]
fn r07_a_pager_s_pages_are_placed_too() {
    let vm = vm(3000);
    let pages = 2 * RUN;
    let data: Vec<u8> = (0..pages).flat_map(|p| [p as u8; PAGE_SIZE as usize]).collect();
    let (id, _) = vm.platform().add_pager(data);
    let (o, at) = vm.object_from_pager(pages, id, 0, false, &mut may()).expect("object");
    let t = Task::new(&vm);
    let place = Place::Any(Search { min: va(1), ..t.map.search() });
    let start = t.map.find(place, pages, Backing::Private(o, at), &rw(), &mut may()).expect("room");
    let first = start.page() - BASE;
    (first..first + pages).for_each(|p| assert_eq!(load(&t, p) as u8, (p - first) as u8));
    assert!(is_run(&t, first, RUN) && is_run(&t, first + RUN, RUN));
    drop(t);
    end(&vm);
}

#[test]
fn pm50_large_mappings_are_aligned_where_there_is_room() {
    let vm = vm(1000);
    let t = Task::new(&vm);
    let any = |order, min, max, align| Place::Any(Search { min, max, align, order });
    let (low, high) = (va(1), va(100 * RUN + 7));
    let find =
        |place, pages, backing| t.map.find(place, pages, backing, &rw(), &mut may()).map(|v| v.page() - BASE);
    let up = any(Order::LowestFirst, low, high, 1);
    let down = any(Order::HighestFirst, low, high, 1);
    assert_eq!(find(up, RUN - 1, Backing::Anonymous), Ok(1), "too small to matter");
    assert_eq!(find(up, RUN, Backing::Anonymous), Ok(RUN));
    assert_eq!(find(down, 2 * RUN + 9, Backing::Anonymous), Ok(97 * RUN), "from the other end");
    let guard = find(up, RUN, Backing::Guard);
    assert_eq!(guard, Ok(2 * RUN), "next to the last one");
    let asked = any(Order::LowestFirst, low, high, 4 * RUN);
    assert_eq!(find(asked, RUN, Backing::Anonymous), Ok(4 * RUN), "what is asked for comes first");
    // The object's index 21 has the phase of page 21.
    let (o, at) = vm.object_allocate(2 * RUN).expect("object");
    let from = Pindex(at.0 + 21);
    assert_eq!(find(up, RUN, Backing::Private(o, from)), Ok(5 * RUN + 21));
    // No aligned place is left between 6 and 8 windows: any will do.
    let tight = any(Order::LowestFirst, va(6 * RUN + 30), va(8 * RUN - 1), 1);
    assert_eq!(find(tight, RUN + 40, Backing::Anonymous), Ok(6 * RUN + 30));
    drop(t);
    end(&vm);
    // Linux's layout stays as it is.
    let vm = Vm::new(Machine::new(Config::default())).expect("memory");
    let t = Task::new(&vm);
    let got = t.map.find(
        any(Order::LowestFirst, va(1), va(90 * RUN), 1),
        4 * RUN,
        Backing::Anonymous,
        &rw(),
        &mut may(),
    );
    assert_eq!(got, Ok(va(1)));
}

#[test]
fn copies_go_to_the_reservation_of_who_writes() {
    let vm = vm(4000);
    let t = task(&vm, 0, RUN);
    (0..RUN).for_each(|p| store(&t, p));
    let old: Vec<u64> = (0..RUN).map(|p| frame(&t, p)).collect();
    let child = fork(&t);
    (0..RUN).rev().for_each(|p| child.store_word(va(p).get(), 9).expect("store"));
    assert!(is_run(&child, 0, RUN), "the child's copies are a run");
    // Now the parent is alone with the old ones, and writes them where they are.
    (0..RUN).for_each(|p| store(&t, p));
    assert!((0..RUN).all(|p| frame(&t, p) == old[p as usize]));
    check_quiet(&vm, [&t, &child]);
    drop(child);
    // The other way round: the child keeps the old ones, and the parent's places are
    // taken by them.
    let child = fork(&t);
    (0..RUN).for_each(|p| store(&t, p));
    assert!((0..RUN).all(|p| frame(&t, p) != old[p as usize]));
    assert!((0..RUN).all(|p| load(&child, p) == p + 1));
    check_quiet(&vm, [&t, &child]);
    drop((t, child));
    end(&vm);
}

#[test]
fn r06_the_last_who_has_the_pages_takes_the_run_over() {
    let vm = vm(3000);
    let t = task(&vm, 0, RUN);
    (0..RUN).for_each(|p| store(&t, p));
    let base = frame(&t, 0);
    let child = fork(&t);
    drop(t);
    assert!(vm.reservation_is_full(Pfn(base)), "it outlives its object");
    store(&child, 5);
    assert_eq!(frame(&child, 5), base + 5, "not copied");
    // What is dropped and comes back finds its place again: the run is the child's.
    let hole = VaRange::of_pages(va(100), 50).expect("fits");
    child.map.madvise(hole, machvm::map::Advise::DontNeed, &mut may()).expect("advise");
    assert!(!vm.reservation_is_full(Pfn(base)));
    (0..RUN).for_each(|p| store(&child, p));
    assert!(is_run(&child, 0, RUN) && vm.reservation_is_full(Pfn(base)));
    assert_eq!(vm.statistics().reservations_made, 1);
    drop(child);
    end(&vm);
}

#[test]
fn r05_reservations_are_broken_before_anything_is_paged_out() {
    let vm = vm(4 * RUN as u32);
    let t = task(&vm, 0, 8 * RUN);
    // One page in each window, more windows than runs.
    (0..8).for_each(|w| store(&t, w * RUN));
    let s = vm.statistics();
    assert!(s.reservations_made >= 3, "{s:?}");
    let single = task(&vm, 8 * RUN, 60);
    // Nearly every frame, in windows of which some have been broken.
    let room = 4 * RUN - vm.live()[0] - 60;
    let mut n = 0;
    while n < room {
        let w = n % 8;
        store(&t, w * RUN + 1 + n / 8);
        n += 1;
    }
    (8 * RUN..8 * RUN + 40).for_each(|p| store(&single, p));
    let s = vm.statistics();
    assert!(s.reservations_broken >= 1, "{s:?}");
    assert_eq!((s.deactivated, s.swapouts, s.memory_waits), (0, 0, 0), "free frames were left: {s:?}");
    check_quiet(&vm, [&t, &single]);
    drop((t, single));
    end(&vm);
}

#[test]
fn r02_a_window_of_single_frames_gets_no_reservation_in_its_middle() {
    let vm = vm(4 * RUN as u32 - 256);
    // Whole runs: 0x200..0x800, three of them. All are taken while the first pages come.
    let runs: Vec<Pfn> = core::iter::from_fn(|| {
        vm.contig_take(&Contig { align: RUN, ..Contig::anywhere(RUN) }, FrameClass::Normal)
    })
    .collect();
    assert!(!runs.is_empty());
    let t = task(&vm, 0, RUN);
    (0..100).for_each(|p| store(&t, p));
    runs.iter().for_each(|f| assert_eq!(vm.contig_give_back(*f, RUN), Ok(())));
    (100..RUN).for_each(|p| store(&t, p));
    assert_eq!(vm.statistics().reservations_made, 0, "it could not become full");
    drop(t);
    end(&vm);
}

/// Decision 10: half a window is enough to fill it, and a full one is entered at once.
#[test]
fn d10_half_a_window_fills_the_rest() {
    let vm = vm(3000);
    let t = task(&vm, 0, 2 * RUN);
    let order: Vec<u64> = (0..RUN).map(|i| i * 167 % RUN).collect();
    order[..RUN as usize / 2 - 1].iter().for_each(|p| store(&t, *p));
    let before = vm.statistics();
    assert!(before.zero_fill < RUN / 2 + 20, "{before:?}");
    order[RUN as usize / 2 - 1..].iter().for_each(|p| store(&t, *p));
    let s = vm.statistics();
    assert_eq!((s.zero_fill, t.map.pmap().resident_count()), (RUN, RUN), "not a page of the next window");
    assert!(s.faults - before.faults <= 3, "{} faults", s.faults - before.faults);
    assert!(is_run(&t, 0, RUN));
    (0..RUN).for_each(|p| assert_eq!(load(&t, p), p + 1));
    check_quiet(&vm, [&t]);
    drop(t);
    end(&vm);
}

#[test]
fn d10_a_sequence_goes_on_behind_the_window() {
    let vm = vm(5000);
    let t = task(&vm, 3, 4 * RUN);
    let faults = |pages: &mut dyn Iterator<Item = u64>| {
        let before = vm.statistics().faults;
        pages.for_each(|p| store(&t, p));
        vm.statistics().faults - before
    };
    let first = faults(&mut (3..RUN));
    let next = faults(&mut (RUN..2 * RUN));
    assert!(next <= RUN / 2 / 16 + 2, "{next} faults, after {first}");
    let down = faults(&mut (2 * RUN..4 * RUN).rev());
    assert!(down <= 2 * (RUN / 2 / 16 + 2) + 4, "{down} faults downwards");
    (3..4 * RUN).for_each(|p| assert_eq!(load(&t, p), p + 1));
    check_quiet(&vm, [&t]);
    drop(t);
    end(&vm);
}

#[test]
fn d10_no_large_fill_where_it_would_be_a_guess() {
    let vm = vm(3000);
    // A quarter of the pages; then all of them, one by one, because the program said so.
    let t = task(&vm, 0, 2 * RUN);
    (0..RUN).step_by(4).for_each(|p| store(&t, p));
    assert_eq!(vm.statistics().zero_fill, RUN / 4);
    let range = VaRange::of_pages(va(RUN), RUN).expect("fits");
    t.map
        .madvise(range, machvm::map::Advise::Access(machvm::map::Advice::Random), &mut may())
        .expect("advise");
    (RUN..2 * RUN - 1).for_each(|p| store(&t, p));
    assert_eq!(vm.statistics().zero_fill, RUN / 4 + RUN - 1);
    drop(t);
    end(&vm);
    // Memory is short: the frames that are left are worth more.
    let vm = self::vm(RUN as u32 + 600);
    let t = task(&vm, 0, 3 * RUN);
    (0..RUN - 16).for_each(|p| store(&t, RUN + p));
    let other = task(&vm, 0, RUN);
    let before = vm.statistics().zero_fill;
    let touched: Vec<u64> = (0..RUN).step_by(2).chain([1]).collect();
    touched.iter().for_each(|p| store(&other, *p));
    assert_eq!(vm.statistics().zero_fill - before, touched.len() as u64);
    check_quiet(&vm, [&t, &other]);
    drop((t, other));
    end(&vm);
}

#[test]
fn d10_only_what_the_entry_covers() {
    let vm = vm(3000);
    let t = task(&vm, 0, RUN);
    let upper = VaRange::of_pages(va(400), RUN - 400).expect("fits");
    let read = machvm::map::SetProt::prot(Prot::R);
    t.map.protect(upper, &read, &mut may()).expect("protect");
    (0..400).for_each(|p| store(&t, p));
    assert_eq!(vm.statistics().zero_fill, 400, "the other entry's pages are its own business");
    (400..RUN).for_each(|p| assert_eq!(load(&t, p), 0));
    assert!(is_run(&t, 0, RUN), "but they are in the same run");
    assert_eq!(t.store_word(va(400).get(), 1), Err(FaultError::Protection(va(400))));
    check_quiet(&vm, [&t]);
    drop(t);
    end(&vm);
}

#[test]
fn d10_a_child_reads_a_full_window_with_one_fault() {
    let vm = vm(3000);
    let t = task(&vm, 0, RUN);
    (0..RUN).for_each(|p| store(&t, p));
    let child = fork(&t);
    let faults = vm.statistics().faults;
    (0..RUN).rev().for_each(|p| assert_eq!(load(&child, p), p + 1));
    assert_eq!(vm.statistics().faults - faults, 1);
    let array = vm.page_array();
    let rights = |t: &Task<'_>, p| t.map.pmap().extract(array, va(p)).map(|(_, prot)| prot);
    assert!((0..RUN).all(|p| rights(&child, p).is_some_and(|r| !r.contains(Prot::W))), "shared pages");
    // A page of its own does not become the others' again.
    child.store_word(va(77).get(), 5).expect("store");
    assert_eq!((load(&t, 77), load(&child, 77), load(&child, 78)), (78, 5, 79));
    check_quiet(&vm, [&t, &child]);
    drop((t, child));
    end(&vm);
}

#[test]
fn y06_classes_of_requests() {
    let vm = vm(64);
    vm.set_frame_reserve(10);
    let t = task(&vm, 0, 63);
    let mut n = 0;
    while vm.live()[0] < 54 {
        store(&t, n);
        n += 1;
    }
    assert_eq!(vm.frame_take_wired(FrameClass::Normal), None, "the reserve is not for everybody");
    let system: Vec<Pfn> = core::iter::from_fn(|| vm.frame_take_wired(FrameClass::System)).collect();
    assert_eq!(system.len(), 8);
    let last: Vec<Pfn> = core::iter::from_fn(|| vm.frame_take_wired(FrameClass::Interrupt)).collect();
    assert_eq!(last.len(), 2);
    assert_eq!((vm.frames_taken(), vm.statistics().frames_taken), (10, 10));
    check_quiet(&vm, [&t]);
    // Page-out works around them.
    (0..63).for_each(|p| store(&t, p));
    assert!(vm.live()[0] <= 54);
    (0..63).for_each(|p| assert_eq!(load(&t, p), p + 1));
    for f in system.iter().chain(&last) {
        assert_eq!(vm.frame_give_back(*f), Ok(()));
    }
    assert_eq!(vm.frame_give_back(last[0]), Err(NotTaken(last[0])), "twice");
    assert_eq!(vm.frame_give_back(Pfn(3)), Err(NotTaken(Pfn(3))), "no such frame");
    let page = Pfn(frame(&t, 62));
    assert_eq!(vm.frame_give_back(page), Err(NotTaken(page)), "a program's");
    drop(t);
    end(&vm);
}

#[test]
fn y06_all_frames_lent_is_out_of_memory_not_a_hang() {
    let vm = vm(40);
    let lent: Vec<Pfn> = core::iter::from_fn(|| vm.frame_take_wired(FrameClass::Normal)).collect();
    assert_eq!(lent.len(), 40);
    let t = task(&vm, 0, 3);
    assert_eq!(t.store_word(va(0).get(), 1), Err(FaultError::NoMemory(va(0))));
    lent.iter().for_each(|f| assert_eq!(vm.frame_give_back(*f), Ok(())));
    store(&t, 0);
    drop(t);
    end(&vm);
}

#[test]
fn y04_runs_for_the_embedder_beside_programs() {
    let vm = vm(3000);
    let t = task(&vm, 0, 3 * RUN);
    (0..3 * RUN).step_by(7).for_each(|p| store(&t, p));
    let want = Contig { align: 16, boundary: 256, high: Pfn(2000), ..Contig::anywhere(100) };
    let got = vm.contig_take(&want, FrameClass::Normal).expect("a run");
    assert!(got.0.is_multiple_of(16) && got.0 + 100 <= 2000 && got.0 / 256 == (got.0 + 99) / 256);
    check_quiet(&vm, [&t]);
    assert_eq!(vm.contig_take(&Contig::anywhere(3000), FrameClass::Interrupt), None, "not that many");
    assert_eq!(vm.contig_take(&Contig { align: 3, ..want }, FrameClass::Normal), None);
    assert_eq!(vm.contig_take(&Contig::anywhere(u64::MAX), FrameClass::Normal), None);
    (0..3 * RUN).for_each(|p| store(&t, p));
    (0..3 * RUN).for_each(|p| assert_eq!(load(&t, p), p + 1));
    // In two parts, and not twice.
    assert_eq!(vm.contig_give_back(got, 40), Ok(()));
    assert_eq!(vm.contig_give_back(got, 100), Err(NotTaken(got)));
    assert_eq!(vm.contig_give_back(got.add(40), 61), Err(NotTaken(got.add(100))));
    assert_eq!(vm.contig_give_back(got.add(40), 60), Ok(()));
    drop(t);
    end(&vm);
}

#[test]
fn the_sparse_placement_has_no_frames_to_lend() {
    let vm = Vm::new(Machine::new(Config::default())).expect("memory");
    assert_eq!(vm.frame_take_wired(FrameClass::Interrupt), None);
    assert_eq!(vm.contig_take(&Contig::anywhere(1), FrameClass::Interrupt), None);
    assert_eq!(vm.frame_give_back(Pfn(256)), Err(NotTaken(Pfn(256))));
    assert!(!vm.reservation_is_full(Pfn(256)));
    assert_eq!((vm.frames_taken(), vm.statistics().reservations), (0, 0));
}

fn seeds(default: u64) -> std::ops::RangeInclusive<u64> {
    let number = |name| std::env::var(name).ok().and_then(|s: String| s.parse().ok());
    match number("MACHVM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("MACHVM_LONG").unwrap_or(default),
    }
}

/// Some task gets fresh memory all over its window, and writes nearly all of it.
fn whole(w: &mut World<'_>) {
    let i = w.rng.below(w.tasks.len() as u64) as usize;
    let all = common::pages(w.plan.base, w.plan.window);
    let (t, o) = &mut w.tasks[i];
    t.map.fixed(all, Backing::Anonymous, &rw(), &mut may()).expect("fixed");
    o.map(all, Prot::RW, Prot::ALL);
    (0..4).for_each(|_| w.store(i, all));
}

/// Random operations in windows of several runs while the embedder takes frames and
/// gives them back.
fn random(frames: u32, share: bool) {
    for seed in seeds(2) {
        let vm =
            Vm::new(Machine::new(Config { sparse: false, frames, forget: 9, seed, ..Config::default() }));
        let vm = vm.expect("memory");
        let plan = Plan { base: 0, window: 3 * RUN, keep: 0, share, tasks: 3, wired: 40 };
        let mut w = World::new(&vm, plan, seed);
        let mut lent: Vec<(Pfn, u64)> = Vec::new();
        let done = catch_unwind(AssertUnwindSafe(|| {
            for n in 0..250 {
                if n % 50 == 0 {
                    whole(&mut w);
                }
                w.step();
                if n % 5 == 0 {
                    let frames = 1 + w.rng.below(60);
                    let want = Contig { align: 1 << w.rng.below(5), ..Contig::anywhere(frames) };
                    if w.rng.one_in(2) || lent.len() > 4 {
                        for (f, n) in lent.drain(..) {
                            assert_eq!(vm.contig_give_back(f, n), Ok(()));
                        }
                    } else if let Some(f) = vm.contig_take(&want, FrameClass::Normal) {
                        lent.push((f, frames));
                    }
                }
                w.check();
                if n % 64 == 63 {
                    w.verify();
                }
            }
            w.verify();
            lent.drain(..).for_each(|(f, n)| assert_eq!(vm.contig_give_back(f, n), Ok(())));
        }));
        if let Err(panic) = done {
            println!("MACHVM_SEED={seed} {plan:?} {frames} frames: after");
            w.log.iter().for_each(|l| println!("  {l}"));
            std::mem::forget(w);
            std::panic::resume_unwind(panic);
        }
        let s = vm.statistics();
        assert!(s.reservations_made > 0, "{s:?}");
        drop(w);
        end(&vm);
    }
}

#[test]
fn r01_to_r07_random_with_room() {
    random(8000, false);
}
#[test]
fn r01_to_r07_random_short_of_frames() {
    random(1100, false);
}
#[test]
fn r01_to_r07_random_shared() {
    random(1600, true);
}

/// One thread: stores in its pages of a shared task, in copies of it, with frames lent
/// and contents dropped in between. Its own pages hold what it stored last.
fn worker<'vm>(vm: &'vm Vm<Machine>, task: &Task<'vm>, me: u64, threads: u64, seed: u64, rounds: u64) {
    let mut rng = machvm_model::Rng::new(seed * 31 + me);
    let mut last = vec![0; 3 * RUN as usize];
    // Interleaved, so that every window is everybody's.
    let mine: Vec<u64> = (0..3 * RUN).filter(|p| p % threads == me).collect();
    let check = |t: &Task<'_>, last: &[u64], p: u64| assert_eq!(load(t, p), last[p as usize], "page {p}");
    for round in 1..=rounds {
        let n = 1 + rng.below(mine.len() as u64);
        for _ in 0..n {
            let p = *rng.pick(&mine);
            last[p as usize] = round << 32 | p;
            task.store_word(va(p).get(), last[p as usize]).expect("store");
        }
        match rng.below(4) {
            0 => {
                let child = fork(task);
                for p in mine.iter().step_by(3) {
                    child.store_word(va(*p).get(), 1).expect("store");
                    check(task, &last, *p);
                }
                mine.iter().skip(1).step_by(3).for_each(|p| check(&child, &last, *p));
            }
            1 => {
                let want = Contig { align: 1 << rng.below(6), ..Contig::anywhere(1 + rng.below(40)) };
                if let Some(f) = vm.contig_take(&want, FrameClass::Normal) {
                    mine.iter().step_by(5).for_each(|p| check(task, &last, *p));
                    assert_eq!(vm.contig_give_back(f, want.frames), Ok(()));
                }
            }
            2 => {
                for p in mine.iter().filter(|_| rng.one_in(4)) {
                    let page = VaRange::of_pages(va(*p), 1).expect("fits");
                    task.map.madvise(page, machvm::map::Advise::DontNeed, &mut may()).expect("advise");
                    last[*p as usize] = 0;
                }
            }
            _ => {
                vm.pageout(rng.below(60), &mut may());
            }
        }
    }
    mine.iter().for_each(|p| check(task, &last, *p));
}

fn threads(frames: u32, count: u64, rounds: u64, preempt: u64, seed: u64) {
    let c = Config { sparse: false, frames, forget: 50, seed, ..Config::default() };
    let vm = Vm::new(Machine::new(c)).expect("memory");
    let t = task(&vm, 0, 3 * RUN);
    let host = vm.platform().host();
    let (vm_, t_) = (&vm, &t);
    let bodies: Vec<Box<dyn FnOnce() + Send>> = (0..count)
        .map(|me| Box::new(move || worker(vm_, t_, me, count, seed, rounds)) as Box<dyn FnOnce() + Send>)
        .collect();
    println!("MACHVM_SEED={seed}");
    if preempt == 0 {
        host.run_threaded(bodies);
    } else {
        host.set_preemption(preempt);
        host.run_scheduled(bodies);
        host.set_preemption(0);
    }
    check_quiet(&vm, [&t]);
    let s = vm.statistics();
    assert!(s.reservations_made > 0, "{s:?}");
    drop(t);
    end(&vm);
}

#[test]
fn r01_to_r07_threads_in_a_scheduled_machine() {
    for seed in seeds(3) {
        threads(1700 + 700 * (seed as u32 % 2), 3, 6, 1 + seed % 5, seed);
    }
}
#[test]
fn r01_to_r07_real_threads() {
    for seed in seeds(2) {
        threads(1700 + 1500 * (seed as u32 % 2), 4, 12, 0, seed);
    }
}
