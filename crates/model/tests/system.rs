//! The whole system on page tables of every format: four CPUs, trees of tasks, memory
//! for a quarter of what they use, superpages. Everything is checked against the oracle,
//! the walker and the hardware's own checks.
//! `MACHVM_SEED=n` runs one seed again; `MACHVM_LONG=n` runs 20 n of each kind.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use common::{Plan, World, may, policy_of, seeds_or};
use machvm::map::{Advise, Attributes, Backing, Holes, Inherit, SetProt, Wiring};
use machvm::{Platform, Vm};
use machvm_hal::{Event, Host, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Oracle, Task, check_quiet};

/// Pages that one superpage maps.
const RUN: u64 = 512;
/// The first page of an aligned window.
const BASE: u64 = 16 * RUN;

fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn at(page: u64) -> u64 {
    va(page).get()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
fn machine(c: Config) -> Vm<Machine> {
    Vm::new(Machine::new(c)).expect("memory")
}
fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
/// Superpages that the walker finds.
fn superpages(t: &Task<'_>) -> usize {
    let p = t.map.pmap().tables().expect("page tables");
    p.mapped().iter().filter(|m| m.pages == RUN).count()
}

/// Nothing is left over: no structures, no swap, no tables but the kernel's and those
/// kept for next time.
fn finished(vm: &Vm<Machine>, what: &str) {
    check_quiet(vm, []);
    assert_eq!(vm.live(), [0; 6], "{what}: left over");
    assert_eq!(vm.platform().mem_swap().map_or(0, |s| s.kept()), 0, "{what}: swap left over");
    let t = vm.platform().tables().expect("page tables");
    assert_eq!(t.spaces(), 0, "{what}: address spaces");
    let cpus = u64::from(t.hw().config().cpus);
    // The kernel's root, an empty one, and one table of zeroes on each CPU.
    assert!(t.hw().tables_in_use() <= 2 + cpus, "{what}: {} tables left", t.hw().tables_in_use());
}

/// Runs the test of a seed, and says how to run it again if it fails.
fn replay<'vm>(w: &mut World<'vm>, seed: u64, c: &Config, mut f: impl FnMut(&mut World<'vm>)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| f(w))) {
        println!("MACHVM_SEED={seed} {c:?} {:?}: after", w.plan);
        w.log.iter().for_each(|l| println!("  {l}"));
        std::mem::forget(std::mem::take(&mut w.tasks));
        std::panic::resume_unwind(panic);
    }
}

/// Children of children that end in any order, each with its own view of what was
/// copied; a quarter of what they use fits.
fn trees(share: bool) {
    for seed in seeds_or(1, 20) {
        for c in (Config { frames: 150, forget: 60, seed, ..Config::default() }).every_format() {
            let vm = machine(c);
            let plan = Plan { base: 0, window: 160, keep: 0, share, tasks: 8, wired: 24 };
            let mut w = World::new(&vm, plan, seed);
            replay(&mut w, seed, &c, |w| {
                for n in 0..160 {
                    if n % 40 == 0 {
                        // All of a window in use, so that what is copied is worth it.
                        let i = w.rng.below(w.tasks.len() as u64) as usize;
                        w.refill(i, common::pages(0, 160));
                    }
                    w.step();
                    if n % 5 == 0 && !w.tasks.is_empty() {
                        let i = w.rng.below(w.tasks.len() as u64) as usize;
                        w.fork(i);
                    }
                    w.check();
                    if n % 80 == 79 {
                        w.verify();
                    }
                }
                w.verify();
                // The rest ends in any order.
                while !w.tasks.is_empty() {
                    let i = w.rng.below(w.tasks.len() as u64) as usize;
                    drop(w.tasks.swap_remove(i));
                    w.check();
                }
            });
            drop(w);
            let s = vm.statistics();
            assert!(s.cow_copies > 0 && s.swapouts > 0, "nothing was copied or paged out: {s:?}");
            finished(&vm, &format!("seed {seed} {c:?}"));
        }
    }
}

#[test]
fn trees_of_tasks() {
    trees(false);
}
#[test]
fn trees_of_tasks_that_share() {
    trees(true);
}

/// Where all threads meet now and then, and the last one to come checks a quiet system.
struct Meeting<'vm> {
    vm: &'vm Vm<Machine>,
    threads: usize,
    inside: Mutex<Inside<'vm>>,
}

#[derive(Default)]
struct Inside<'vm> {
    here: usize,
    round: u64,
    tasks: Vec<Arc<Task<'vm>>>,
}

const MET: Event = Event(0xe << 60);

impl<'vm> Meeting<'vm> {
    fn inside(&self) -> std::sync::MutexGuard<'_, Inside<'vm>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// => scheduled threads: who waits does not run.
    fn meet(&self, tasks: impl IntoIterator<Item = Arc<Task<'vm>>>) {
        let host = self.vm.platform().host();
        let mut s = self.inside();
        let round = s.round;
        for t in tasks {
            if !s.tasks.iter().any(|x| Arc::ptr_eq(x, &t)) {
                s.tasks.push(t);
            }
        }
        s.here += 1;
        if s.here == self.threads {
            let tasks = std::mem::take(&mut s.tasks);
            (s.here, s.round) = (0, round + 1);
            drop(s);
            check_quiet(self.vm, tasks.iter().map(|t| &**t));
            host.thread_wakeup(MET);
            return;
        }
        drop(s);
        loop {
            let ticket = host.assert_wait(MET);
            if self.inside().round != round {
                host.cancel_wait(ticket);
                return;
            }
            host.thread_block(ticket, None);
        }
    }
}

const ROUNDS: u64 = 4;
const WINDOW: u64 = 90;

/// Six threads in four tasks and their children, and a page-out daemon, interleaved at
/// every call of the machine.
fn schedule(seed: u64, c: Config, share: bool) {
    let c = Config { policy: policy_of(seed + 1), ..c };
    let vm = machine(c);
    let tasks: Vec<_> = (0..4).map(|_| Arc::new(Task::new(&vm))).collect();
    let meeting = Meeting { vm: &vm, threads: 7, inside: Mutex::default() };
    let (vm_, meeting_) = (&vm, &meeting);
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for k in 0..6 {
        let task = tasks[k as usize % 4].clone();
        bodies.push(Box::new(move || {
            let plan = Plan { base: k * WINDOW, window: WINDOW, keep: 1, share, tasks: 3, wired: 4 };
            let mut w = World::new(vm_, plan, seed ^ (k << 32));
            w.tasks = vec![(task, Oracle::default())];
            replay(&mut w, seed, &c, |w| {
                for _ in 0..ROUNDS {
                    (0..12).for_each(|_| w.step());
                    w.verify_contents();
                    meeting_.meet(w.tasks.iter().map(|(t, _)| t.clone()));
                }
            });
        }));
    }
    bodies.push(Box::new(move || {
        for _ in 0..ROUNDS {
            for n in 0..20 {
                vm_.pageout(1 + (seed + n) % 16, &mut may());
                vm_.platform().host().preempt();
            }
            meeting_.meet([]);
        }
    }));
    let host = vm.platform().host();
    host.set_preemption(1 + seed % 4);
    host.run_scheduled(bodies);
    host.set_preemption(0);
    for class in [0, 1, 3] {
        assert_eq!(host.timeouts(class), 0, "lost wake-up, class {class}, seed {seed}");
    }
    assert!(vm.statistics().swapouts > 0);
    drop(meeting);
    check_quiet(&vm, tasks.iter().map(|t| &**t));
    drop(tasks);
    finished(&vm, &format!("seed {seed} {c:?}"));
}

fn schedules(share: bool) {
    for seed in seeds_or(1, 20) {
        for c in (Config { frames: 130, forget: 40, seed, ..Config::default() }).every_format() {
            schedule(seed, c, share);
        }
    }
}

#[test]
fn schedules_with_page_out() {
    schedules(false);
}
#[test]
fn schedules_with_page_out_that_share() {
    schedules(true);
}

// ---------------------------------------------------------------------- superpages

/// A machine with room, in every format.
fn roomy(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for seed in seeds_or(1, 5) {
        for c in (Config { frames, seed, ..Config::default() }).every_format() {
            println!("MACHVM_SEED={seed} {c:?}");
            let vm = machine(c);
            test(&vm);
            finished(&vm, &format!("seed {seed} {c:?}"));
        }
    }
}

/// A task with `n` aligned windows, all of it written: word p of page p.
fn filled(vm: &Vm<Machine>, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    let rw = Attributes::new(Prot::RW);
    t.map.insert(pages(0, n * RUN), Backing::Anonymous, &rw, &mut may()).expect("insert");
    fill(&t, n, 0);
    assert!(superpages(&t) as u64 == n, "{} superpages for {n} windows", superpages(&t));
    check_quiet(vm, [&t]);
    t
}
fn fill(t: &Task<'_>, n: u64, more: u64) {
    (0..n * RUN).for_each(|p| t.store_word(at(p), p + more).expect("store"));
}
fn expect(t: &Task<'_>, range: std::ops::Range<u64>, want: impl Fn(u64) -> u64) {
    for p in range {
        assert_eq!(t.load_word(at(p)), Ok(want(p)), "page {p} of {t:?}");
    }
}

#[test]
fn q01_filling_a_window_makes_a_superpage() {
    roomy(2048, |vm| {
        let t = filled(vm, 2);
        expect(&t, 0..2 * RUN, |p| p);
        assert_eq!(superpages(&t), 2);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn q01_reading_a_window_makes_one_too() {
    roomy(1024, |vm| {
        let t = Task::new(vm);
        let rw = Attributes::new(Prot::RW);
        t.map.insert(pages(0, RUN), Backing::Anonymous, &rw, &mut may()).expect("insert");
        expect(&t, 0..RUN, |_| 0);
        let read = superpages(&t);
        check_quiet(vm, [&t]);
        fill(&t, 1, 3);
        assert_eq!((read, superpages(&t)), (1, 1), "after reading, after writing");
        expect(&t, 0..RUN, |p| p + 3);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn q07_part_of_a_superpage_is_unmapped() {
    roomy(1024, |vm| {
        let t = filled(vm, 1);
        t.map.delete(pages(100, 50), &mut may()).expect("delete");
        assert_eq!(superpages(&t), 0);
        check_quiet(vm, [&t]);
        expect(&t, 0..100, |p| p);
        expect(&t, 150..RUN, |p| p);
        assert!(t.load_word(at(120)).is_err());
        let rw = Attributes::new(Prot::RW);
        t.map.insert(pages(100, 50), Backing::Anonymous, &rw, &mut may()).expect("insert");
        expect(&t, 100..150, |_| 0);
        check_quiet(vm, [&t]);
        t.map.delete(pages(0, RUN), &mut may()).expect("delete");
        check_quiet(vm, [&t]);
    });
}

#[test]
fn q07_a_superpage_is_protected_whole_and_in_part() {
    roomy(1024, |vm| {
        let t = filled(vm, 1);
        t.map.protect(pages(0, RUN), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        check_quiet(vm, [&t]);
        expect(&t, 0..RUN, |p| p);
        assert!(t.store_word(at(7), 1).is_err());
        t.map.protect(pages(0, RUN), &SetProt::prot(Prot::RW), &mut may()).expect("protect");
        fill(&t, 1, 1000);
        assert_eq!(superpages(&t), 1, "written again");
        t.map.protect(pages(10, 20), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        check_quiet(vm, [&t]);
        assert!(t.store_word(at(15), 1).is_err());
        t.store_word(at(9), 5).expect("store");
        expect(&t, 10..RUN, |p| p + 1000);
        t.map.protect(pages(30, 20), &SetProt::prot(Prot::NONE), &mut may()).expect("protect");
        check_quiet(vm, [&t]);
        assert!(t.load_word(at(31)).is_err());
        expect(&t, 50..RUN, |p| p + 1000);
    });
}

#[test]
fn q08_superpages_are_copied_on_write_both_ways() {
    roomy(3000, |vm| {
        let t = filled(vm, 1);
        let child = fork(&t);
        check_quiet(vm, [&t, &child]);
        // The child reads all of it: a superpage of its own, of the same frames.
        expect(&child, 0..RUN, |p| p);
        check_quiet(vm, [&t, &child]);
        let grandchild = fork(&child);
        child.store_word(at(3), 33).expect("store");
        t.store_word(at(4), 44).expect("store");
        grandchild.store_word(at(511), 55).expect("store");
        check_quiet(vm, [&t, &child, &grandchild]);
        expect(&t, 0..RUN, |p| if p == 4 { 44 } else { p });
        expect(&child, 0..RUN, |p| if p == 3 { 33 } else { p });
        expect(&grandchild, 0..RUN, |p| if p == 511 { 55 } else { p });
        drop(child);
        check_quiet(vm, [&t, &grandchild]);
        fill(&t, 1, 7);
        expect(&grandchild, 0..RUN, |p| if p == 511 { 55 } else { p });
        check_quiet(vm, [&t, &grandchild]);
        drop(t);
        fill(&grandchild, 1, 9);
        expect(&grandchild, 0..RUN, |p| p + 9);
        check_quiet(vm, [&grandchild]);
    });
}

#[test]
fn q08_a_parent_writes_all_and_its_superpage_comes_back() {
    roomy(2048, |vm| {
        let t = filled(vm, 1);
        let child = fork(&t);
        drop(child);
        fill(&t, 1, 5);
        expect(&t, 0..RUN, |p| p + 5);
        assert_eq!(superpages(&t), 1, "the same frames, the same rights");
        check_quiet(vm, [&t]);
    });
}

#[test]
fn q08_shared_superpages() {
    roomy(2048, |vm| {
        let t = filled(vm, 1);
        t.map.inherit(pages(0, RUN), Inherit::Share, &mut may()).expect("inherit");
        let twin = fork(&t);
        fill(&twin, 1, 50);
        assert_eq!((superpages(&t), superpages(&twin)), (1, 1));
        expect(&t, 0..RUN, |p| p + 50);
        check_quiet(vm, [&t, &twin]);
        t.map.delete(pages(1, 1), &mut may()).expect("delete");
        check_quiet(vm, [&t, &twin]);
        vm.pageout(40, &mut may());
        expect(&twin, 0..RUN, |p| p + 50);
        check_quiet(vm, [&t, &twin]);
    });
}

#[test]
fn q09_pages_of_a_superpage_are_paged_out() {
    roomy(700, |vm| {
        let t = filled(vm, 1);
        let other = Task::new(vm);
        let rw = Attributes::new(Prot::RW);
        other.map.insert(pages(0, 900), Backing::Anonymous, &rw, &mut may()).expect("insert");
        for p in 0..900 {
            other.store_word(at(p), p + 7).expect("store");
            if p % 100 == 0 {
                check_quiet(vm, [&t, &other]);
            }
        }
        assert_eq!(superpages(&t), 0);
        assert!(vm.statistics().swapouts > 0);
        expect(&t, 0..RUN, |p| p);
        expect(&other, 0..900, |p| p + 7);
        check_quiet(vm, [&t, &other]);
        drop(other);
        fill(&t, 1, 8);
        expect(&t, 0..RUN, |p| p + 8);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn q10_wiring_in_a_superpage() {
    roomy(1300, |vm| {
        let t = filled(vm, 1);
        t.map.wire(pages(5, 9), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        check_quiet(vm, [&t]);
        assert_eq!(t.map.pmap().tables().expect("page tables").wired_count(), 9);
        let child = fork(&t);
        check_quiet(vm, [&t, &child]);
        t.store_word(at(6), 66).expect("store");
        assert_eq!(child.load_word(at(6)), Ok(6));
        while vm.pageout(1000, &mut may()) != 0 {}
        check_quiet(vm, [&t, &child]);
        assert!((5..14).all(|p| t.map.is_resident(va(p), &mut may())));
        t.map.unwire(pages(5, 9), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        assert_eq!(t.map.pmap().tables().expect("page tables").wired_count(), 0);
        drop(child);
        // All of it wired, and all of it unwired.
        fill(&t, 1, 2);
        t.map.wire(pages(0, RUN), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        check_quiet(vm, [&t]);
        assert_eq!(t.map.pmap().tables().expect("page tables").wired_count(), RUN);
        t.map.unwire(pages(100, 50), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        check_quiet(vm, [&t]);
        assert_eq!(t.map.pmap().tables().expect("page tables").wired_count(), RUN - 50);
        while vm.pageout(1000, &mut may()) != 0 {}
        check_quiet(vm, [&t]);
        expect(&t, 0..RUN, |p| p + 2);
        t.map.delete(pages(0, 200), &mut may()).expect("delete");
        check_quiet(vm, [&t]);
    });
}

#[test]
fn q07_contents_of_part_of_a_superpage_are_dropped() {
    roomy(1024, |vm| {
        let t = filled(vm, 1);
        t.map.madvise(pages(256, 64), Advise::DontNeed, &mut may()).expect("dontneed");
        check_quiet(vm, [&t]);
        expect(&t, 0..256, |p| p);
        expect(&t, 256..320, |_| 0);
        expect(&t, 320..RUN, |p| p);
        fill(&t, 1, 1);
        check_quiet(vm, [&t]);
        t.map.madvise(pages(0, RUN), Advise::Free, &mut may()).expect("free");
        check_quiet(vm, [&t]);
    });
}

/// Random operations of tasks whose windows are superpages now and then.
#[test]
fn random_work_on_superpages() {
    for seed in seeds_or(1, 20) {
        for c in (Config { frames: 3000, seed, ..Config::default() }).every_format() {
            let vm = machine(c);
            let plan = Plan { base: 0, window: 600, keep: 0, share: seed % 2 == 0, tasks: 3, wired: 200 };
            let mut w = World::new(&vm, plan, seed);
            let mut seen = 0;
            replay(&mut w, seed, &c, |w| {
                for round in 0..5 {
                    let i = w.rng.below(w.tasks.len() as u64) as usize;
                    // Pages 2 to 514 of the window are aligned.
                    w.refill(i, common::pages(2, RUN));
                    seen += superpages(&w.tasks[i].0);
                    w.check();
                    w.fork(i);
                    for _ in 0..12 {
                        w.step();
                        w.check();
                    }
                    w.note_round(round);
                    w.verify();
                }
            });
            drop(w);
            assert!(seen > 0, "no superpage, seed {seed} {c:?}");
            finished(&vm, &format!("seed {seed} {c:?}"));
        }
    }
}
