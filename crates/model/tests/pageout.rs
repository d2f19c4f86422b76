//! Page-out under control (D rows). `MACHVM_SEED=n` runs one seed of the soak again;
//! `MACHVM_LONG=n` makes it n times as many seeds, each longer, `MACHVM_SOAK=s` as many as fit in s
//! seconds.

mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use common::{at, may, pages, policy_of, seeds_of_soak, seeds_or};
use machvm::map::{Advise, Attributes, Backing, Holes, Wiring};
use machvm::object::Object;
use machvm::page::PageQueue;
use machvm::pageout::{Replacement, Shortage, TaskSize};
use machvm::{FaultError, Vm};
use machvm_arena::Handle;
use machvm_hal::{Host, PAGE_SIZE, Pindex, Prot};
use machvm_model::{Config, Machine, Point, Rng, Task, check_quiet};

/// Every kind of machine, with both policies.
fn with(c: Config, test: impl Fn(&Vm<Machine>)) {
    c.every_kind().map(Config::calm).for_each(|c| policies(c, &test));
}
/// Machines without page tables, in both placements.
fn flat(c: Config, test: impl Fn(&Vm<Machine>)) {
    [true, false].into_iter().for_each(|sparse| policies(Config { sparse, ..c }, &test));
}
fn policies(c: Config, test: &impl Fn(&Vm<Machine>)) {
    for policy in Replacement::ALL {
        let c = Config { policy, ..c };
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}
fn both(frames: u32, test: impl Fn(&Vm<Machine>)) {
    with(Config { frames, ..Config::default() }, test);
}
fn task(vm: &Vm<Machine>, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    t.map.insert(pages(0, n), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    t
}
fn store(t: &Task<'_>, of: std::ops::Range<u64>) {
    of.for_each(|p| t.store_word(at(p), p + 1).expect("store"));
}
fn loads(t: &Task<'_>, of: std::ops::Range<u64>) {
    of.for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1), "page {p}"));
}
fn free(vm: &Vm<Machine>) -> u64 {
    let s = vm.statistics();
    s.frame_limit - s.frames_resident
}
/// What a daemon does when it is woken.
fn daemon(vm: &Vm<Machine>) {
    while vm.pageout_to_target(&mut may()) != 0 {}
}

// vm_pageout(9): the daemon frees when memory is low, above the low mark, and not far above the
// target; then it rests.
#[test]
fn d01_the_daemon_frees_and_rests() {
    both(512, |vm| {
        let t = task(vm, 1200);
        let s = vm.statistics();
        assert_eq!(vm.pageout_to_target(&mut may()), 0, "nothing is short");
        assert_eq!(vm.statistics().daemon_wakeups, 0);
        for p in 0..1200 {
            t.store_word(at(p), p + 1).expect("store");
            if vm.memory_is_low() {
                daemon(vm);
                let now = free(vm);
                assert!((s.frame_low..=2 * s.frame_target).contains(&now), "{now} of {s:?}");
            }
        }
        let end = vm.statistics();
        assert!(end.daemon_wakeups > 10 && end.memory_waits == 0, "{end:?}");
        assert!(end.swapouts > 500 && end.scanned >= end.swapouts && end.deactivated >= end.swapouts);
        loads(&t, 0..1200);
    });
}

/// Two programs and the daemon, interleaved; contents are verified all the time.
fn soak(seed: u64, c: Config, steps: u64) {
    let vm = Vm::new(Machine::new(c)).expect("memory");
    let s = vm.statistics();
    let left = AtomicU64::new(2);
    let (vm_, left_) = (&vm, &left);
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for k in 0..2 {
        bodies.push(Box::new(move || {
            let t = task(vm_, 700);
            let mut rng = Rng::new(seed * 2 + k);
            let mut want = vec![0; 700];
            for n in 0..steps {
                // A window that wanders, and now and then anything.
                let p = if rng.one_in(8) { rng.below(700) } else { (n / 40 * 7 + rng.below(60)) % 700 };
                if rng.one_in(2) {
                    want[p as usize] = n + 1;
                    t.store_word(at(p), n + 1).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
                } else {
                    assert_eq!(t.load_word(at(p)), Ok(want[p as usize]), "seed {seed}, step {n}, page {p}");
                }
            }
            for p in 0..700 {
                assert_eq!(t.load_word(at(p)), Ok(want[p as usize]), "seed {seed}, page {p}");
            }
            left_.fetch_sub(1, SeqCst);
        }));
    }
    bodies.push(Box::new(move || {
        let host = vm_.host();
        while left_.load(SeqCst) != 0 {
            if vm_.memory_is_low() {
                daemon(vm_);
                // While no program ends, nobody else frees much.
                let now = free(vm_);
                let ends = left_.load(SeqCst) != 2;
                assert!(ends || now <= 2 * s.frame_target + 64, "seed {seed}: {now} frames are free");
            }
            host.preempt();
        }
    }));
    vm.host().set_preemption(2 + seed % 6);
    vm.host().run_scheduled(bodies);
    vm.host().set_preemption(0);
    let end = vm.statistics();
    assert!(end.swapouts > 300 && end.daemon_wakeups > 10, "seed {seed}: {end:?}");
    check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "seed {seed}: left over");
    assert_eq!(vm.platform().mem_swap().map_or(0, |s| s.kept()), 0, "seed {seed}: swap left over");
}

#[test]
fn d02_soak_under_pressure() {
    let long = ["MACHVM_LONG", "MACHVM_SOAK"].iter().any(|v| std::env::var_os(v).is_some());
    for seed in seeds_of_soak(2, 20) {
        let c = Config { frames: 256, seed, policy: policy_of(seed), ..Config::default() };
        for c in [c, Config { sparse: false, reference_bits: false, policy: policy_of(seed + 2), ..c }] {
            println!("MACHVM_SEED={seed} {c:?}");
            soak(seed, c, if long { 20_000 } else { 3000 });
        }
    }
}

/// What the object behind the first page of a task has on which queue.
fn queue_of(t: &Task<'_>, page: u64) -> Option<PageQueue> {
    let vm = t.map.vm();
    let mut of: Option<(Handle<Object>, u64)> = None;
    t.map.for_each_entry(|e| of = e.object.map(|o| (o, e.offset.0)), &mut may());
    let (o, first) = of?;
    let r = vm.vm_page_lookup(o, Pindex(first + page), &mut may())?;
    vm.vm_page_queue(r.page)
}

// vm_pageout_laundry_worker(): in the background modified pages are written ahead and stay; in a
// shortfall they are written and freed.
#[test]
fn d06_written_ahead_and_in_a_shortfall() {
    both(512, |vm| {
        let t = task(vm, 1600);
        for p in 0..1600 {
            t.store_word(at(p), p + 1).expect("store");
            if vm.memory_is_low() {
                daemon(vm);
            }
        }
        let s = vm.statistics();
        assert!(s.laundered_ahead > 0 && s.laundered_short > 0, "{s:?}");
        // What was written ahead waits, clean.
        assert!(s.inactive > 0, "{s:?}");
        // Idle, with memory free, nothing is written.
        t.map.delete(pages(0, 1000), &mut may()).expect("delete");
        let before = vm.statistics().swapouts;
        daemon(vm);
        assert_eq!(vm.statistics().swapouts, before);
        loads(&t, 1000..1600);
    });
}

// vm_pageout_cluster(): neighbours go out together, whatever the order of their use.
#[test]
fn d07_neighbours_go_out_together() {
    both(600, |vm| {
        let t = task(vm, 256);
        let mut order: Vec<u64> = (0..256).collect();
        let mut rng = Rng::new(7);
        (0..256).for_each(|i| order.swap(i, rng.below(256) as usize));
        order.iter().for_each(|p| t.store_word(at(*p), p + 1).expect("store"));
        while vm.pageout(1000, &mut may()) != 0 {}
        let s = vm.statistics();
        assert_eq!(s.swapouts, 256);
        assert!(s.runs_written <= 256 / 16, "{} runs", s.runs_written);
        loads(&t, 0..256);
    });
}

// As d07, to a pager: runs of consecutive pages; and what becomes of pages that cannot be written
// (vm_pageout_flush: they stay modified and in use).
#[test]
fn d07_d08_runs_to_a_pager_and_their_errors() {
    both(300, |vm| {
        let (id, file) = vm.platform().add_pager(vec![0; 64 * PAGE_SIZE as usize]);
        let (o, first) = vm.object_from_pager(64, id, 0, true, &mut may()).expect("object");
        let t = Task::new(vm);
        let shared = Backing::Shared(o, first);
        t.map.insert(pages(0, 64), shared, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        store(&t, 0..64);
        vm.platform().inject().arm(Point::PageOut as u32, 1, true);
        assert_eq!(vm.pageout(1000, &mut may()), 0);
        assert!(vm.platform().inject().disarm() >= 64);
        let s = vm.statistics();
        assert_eq!((s.pageouts, s.unswappable), (0, 0));
        assert_eq!(queue_of(&t, 5), Some(PageQueue::Active), "modified, and in use");
        loads(&t, 0..64);
        // One error is of its page only.
        vm.platform().inject().arm(Point::PageOut as u32, 9, false);
        while vm.pageout(1000, &mut may()) != 0 {}
        vm.platform().inject().disarm();
        let after = vm.statistics();
        assert_eq!(after.pageouts, 64);
        assert!(after.runs_written - s.runs_written <= 8, "{} runs", after.runs_written);
        let data = file.bytes();
        assert!((0..64).all(|p| data[p * PAGE_SIZE as usize] == p as u8 + 1));
        loads(&t, 0..64);
    });
}

// Pages that a CPU gathers on their way to a queue (P19, `vm_batchqueue`) are there for page-out,
// for who frees them, and for who counts.
#[test]
fn p19_gathered_pages_are_found() {
    both(256, |vm| {
        let t = task(vm, 100);
        for (first, n) in [(0, 5), (5, 1), (6, 30)] {
            store(&t, first..first + n);
            let s = vm.statistics();
            assert!(s.active >= first + n && s.active == s.frames_resident, "{s:?}");
        }
        store(&t, 36..40);
        t.map.delete(pages(33, 7), &mut may()).expect("delete");
        store(&t, 40..43);
        t.map.wire(pages(40, 2), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        let mut out = 0;
        while out < 34 {
            let n = vm.pageout(100, &mut may());
            assert!(n != 0, "{out} of 34 pages went");
            out += n;
        }
        t.map.unwire(pages(40, 2), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        loads(&t, 0..33);
        loads(&t, 40..43);
    });
}

// The same by several CPUs at once, of which each frees what others gathered.
#[test]
fn p19_gathered_pages_of_other_cpus() {
    for seed in seeds_or(8, 200) {
        let c = Config { frames: 96, seed, policy: policy_of(seed), ..Config::default() };
        let vm = Vm::new(Machine::new(c)).expect("memory");
        let t = task(&vm, 120);
        let (vm_, t_) = (&vm, &t);
        let worker = |n: u64| {
            Box::new(move || {
                let mut rng = Rng::new(seed * 8 + n);
                for _ in 0..60 {
                    let p = n * 40 + rng.below(40);
                    t_.store_word(at(p), p + 1).expect("store");
                    let other = (n + 1) % 3 * 40 + rng.below(36);
                    t_.map.madvise(pages(other, 4), Advise::DontNeed, &mut may()).expect("advice");
                    vm_.host().preempt();
                }
            }) as Box<dyn FnOnce() + Send>
        };
        vm.host().set_preemption(1 + seed % 5);
        vm.host().run_scheduled((0..3).map(worker).collect());
        vm.host().set_preemption(0);
        drop(t);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, seed {seed}");
    }
}

// The unswappable queue: looked at again when room came back, and only then (Z79).
#[test]
fn d09_z79_unswappable_pages_wait_for_room() {
    with(Config { frames: 128, swap: Some(40), ..Config::default() }, |vm| {
        let (t, other) = (task(vm, 120), Task::new(vm));
        store(&t, 0..120);
        let rw = Attributes::new(Prot::RW);
        other.map.insert(pages(200, 60), Backing::Anonymous, &rw, &mut may()).expect("insert");
        (200..240).for_each(|p| other.store_word(at(p), p + 1).expect("store"));
        while vm.pageout(1000, &mut may()) != 0 {}
        let s = vm.statistics();
        assert!(s.unswappable > 0, "{s:?}");
        // The daemon does not try these again for nothing.
        let puts = || vm.platform().inject().chances(Point::SwapPut);
        daemon(vm);
        let before = puts();
        (0..20).for_each(|_| daemon(vm));
        assert_eq!(puts(), before, "it spins");
        // Room comes back with memory that is not wanted any more.
        let retried = vm.statistics().unswappable_retried;
        vm.swap_room_came(10);
        vm.pageout(10, &mut may());
        assert!(vm.statistics().unswappable_retried >= retried + 10);
        let kept = vm.platform().mem_swap().expect("swap").kept();
        assert_eq!(kept, 40, "full still");
        t.map.delete(pages(0, 60), &mut may()).expect("delete");
        while vm.pageout(1000, &mut may()) != 0 {}
        (200..240).for_each(|p| assert_eq!(other.load_word(at(p)), Ok(p + 1)));
        loads(&t, 60..120);
    });
}

// vm_pageout_oom(): the largest that may go is named, once until it is gone (Z97).
#[test]
fn d10_z97_the_largest_task_is_named_once() {
    flat(Config { frames: 64, swap: Some(10), ..Config::default() }, |vm| {
        let t = task(vm, 200);
        let size = |id, resident, swapped, protected| TaskSize { id, resident, swapped, protected };
        let tasks =
            [size(1, 90, 90, true), size(2, 20, 7, false), size(3, 4, 30, false), size(4, 9, 1, false)];
        let machine = vm.platform();
        // It ends nobody: the fault fails, and says so each time.
        machine.set_tasks(&tasks, false);
        let stored = (0..200).take_while(|p| t.store_word(at(*p), p + 1).is_ok()).count() as u64;
        assert!((64..=74).contains(&stored), "{stored} pages fit");
        let told = machine.take_out_of_memory();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].victim, told[0].tasks), (Some(tasks[2]), 4));
        assert_eq!((told[0].why, told[0].limit), (Shortage::Swap, 64));
        assert!(told[0].unswappable > 0);
        assert_eq!(vm.statistics().oom_victims, 0);
        // It ends the victim, which takes its time: nobody else is named meanwhile.
        machine.set_tasks(&tasks, true);
        assert!(matches!(t.store_word(at(stored), 1), Err(FaultError::NoMemory(_))));
        assert_eq!(machine.take_out_of_memory().len(), 1);
        assert!(matches!(t.store_word(at(stored), 1), Err(FaultError::NoMemory(_))));
        assert_eq!(machine.take_out_of_memory().len(), 0, "one pending");
        assert_eq!(vm.statistics().oom_victims, 1);
        // It is gone: the next largest.
        machine.set_tasks(&[tasks[0], tasks[1], tasks[3]], true);
        assert!(matches!(t.store_word(at(stored), 1), Err(FaultError::NoMemory(_))));
        let told = machine.take_out_of_memory();
        assert_eq!(told.iter().map(|r| r.victim).collect::<Vec<_>>(), [Some(tasks[1])]);
        // Nobody may go.
        machine.set_tasks(&tasks[..1], true);
        assert!(matches!(t.store_word(at(stored), 1), Err(FaultError::NoMemory(_))));
        assert_eq!(machine.take_out_of_memory()[0].victim, None);
        machine.set_tasks(&[], false);
        t.map.delete(pages(0, 20), &mut may()).expect("delete");
        loads(&t, 20..stored);
    });
}

// The victim is gone and its memory is there: what page-out could not do while it was on its way out is no sign any
// more, and nobody else is named for it.
#[test]
fn d10_nobody_else_goes_when_the_victim_is_gone() {
    flat(Config { frames: 64, swap: Some(10), ..Config::default() }, |vm| {
        let (t, hog) = (task(vm, 40), task(vm, 200));
        let size = |id, resident| TaskSize { id, resident, swapped: 0, protected: false };
        let machine = vm.platform();
        store(&t, 0..4);
        machine.set_tasks(&[size(1, 4), size(2, 60)], true);
        assert!((0..200).any(|p| hog.store_word(at(p), p + 1).is_err()));
        assert_eq!(machine.take_out_of_memory()[0].victim, Some(size(2, 60)));
        for _ in 0..1000 {
            vm.pageout(8, &mut may());
        }
        hog.map.delete(pages(0, 200), &mut may()).expect("delete");
        machine.set_tasks(&[size(1, 4)], true);
        store(&t, 4..40);
        assert!(machine.take_out_of_memory().is_empty(), "named with memory to spare");
        loads(&t, 0..40);
    });
}

// A program that needs more than there is, and uses what it has all the while: what is read back
// from swap and changed makes room for one page to be written, which is no sign of memory.
#[test]
fn d10_thrashing_ends() {
    flat(Config { frames: 256, swap: Some(120), ..Config::default() }, |vm| {
        let (id, _file) = vm.platform().add_pager(vec![7; 150 * PAGE_SIZE as usize]);
        let (text, first) = vm.object_from_pager(150, id, 0, true, &mut may()).expect("object");
        let t = task(vm, 1000);
        let shared = Backing::Shared(text, first);
        t.map.insert(pages(2000, 150), shared, &Attributes::new(Prot::R), &mut may()).expect("insert");
        let mut rng = Rng::new(5);
        let mut grow = |p: u64| {
            t.store_word(at(p), p + 1)?;
            for _ in 0..400 {
                t.load_word(at(2000 + rng.below(150)))?;
                let old = rng.below(p + 1);
                t.store_word(at(old), old + 1)?;
            }
            Ok::<_, FaultError>(())
        };
        let stored = (0..1000).take_while(|p| grow(*p).is_ok()).count() as u64;
        let s = vm.statistics();
        assert!((256..=376).contains(&stored), "{stored} pages fit: {s:?}");
        // It went on for some time, and not until the last page was full.
        assert!((200..2500).contains(&s.memory_waits), "{stored} pages fit: {s:?}");
    });
}

// The vm_lowmem event: when the daemon falls short, and not again for ten seconds.
#[test]
fn d11_lowmem_is_told_now_and_then() {
    with(Config { frames: 64, swap: None, ..Config::default() }, |vm| {
        let t = task(vm, 60);
        store(&t, 0..56);
        for _ in 0..30 {
            assert_eq!(vm.pageout_to_target(&mut may()), 0);
        }
        assert_eq!((vm.platform().lowmem_events(), vm.statistics().lowmem_events), (1, 1));
        assert!(vm.statistics().daemon_shortfalls >= 1);
        let host = vm.host();
        let ticket = host.assert_wait(machvm_hal::Event(0xf << 56));
        host.thread_block(ticket, Some(host.now_ns() + 10_000_000_001));
        vm.pageout_to_target(&mut may());
        assert_eq!(vm.platform().lowmem_events(), 2);
        loads(&t, 0..56);
    });
}

// vm_map_deactivate(): what a task is not to keep goes before what others use.
#[test]
fn d12_a_range_that_is_set_aside_goes_first() {
    both(400, |vm| {
        let (t, other) = (task(vm, 100), task(vm, 100));
        store(&t, 0..100);
        store(&other, 0..100);
        t.map.deactivate(pages(0, 100), &mut may());
        (0..100).for_each(|p| assert_eq!(queue_of(&t, p), Some(PageQueue::Laundry), "page {p}"));
        assert_eq!(vm.pageout(100, &mut may()), 100);
        (0..100).for_each(|p| assert!(queue_of(&t, p).is_none() && queue_of(&other, p).is_some()));
        loads(&other, 0..100);
        loads(&t, 0..100);
    });
}

// vm_pageout_page() of Mach 3 moves a page aside while its pager has it; here it stays in its
// place, busy, and who needs it meanwhile waits: contents are seen once, before or after.
#[test]
fn d13_a_page_that_is_written_stays_in_its_place() {
    for seed in seeds_or(6, 60) {
        let c = Config { frames: 64, seed, policy: policy_of(seed), ..Config::default() };
        let vm = Vm::new(Machine::new(c)).expect("memory");
        let (id, file) = vm.platform().add_pager(vec![0; 16 * PAGE_SIZE as usize]);
        let (o, first) = vm.object_from_pager(16, id, 0, true, &mut may()).expect("object");
        let t = Task::new(&vm);
        let shared = Backing::Shared(o, first);
        t.map.insert(pages(0, 16), shared, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        let (vm_, t_) = (&vm, &t);
        let writer = move || {
            for n in 1..=30 {
                for p in 0..16 {
                    t_.store_word(at(p), n * 100 + p).expect("store");
                    assert_eq!(t_.load_word(at(p)), Ok(n * 100 + p), "seed {seed}, round {n}, page {p}");
                }
            }
        };
        let daemon = move || {
            for _ in 0..120 {
                vm_.pageout(16, &mut may());
                vm_.host().preempt();
            }
        };
        vm.host().set_preemption(1 + seed % 5);
        vm.host().run_scheduled(vec![Box::new(writer), Box::new(daemon)]);
        vm.host().set_preemption(0);
        assert!(vm.statistics().pageouts > 16, "seed {seed}");
        while vm.pageout(16, &mut may()) != 0 {}
        let data = file.bytes();
        (0..16).for_each(|p| assert_eq!(data[p * PAGE_SIZE as usize], (3000 + p) as u8, "seed {seed}"));
        drop(t);
        check_quiet(&vm, []);
    }
}

// A copy reads what its parent has in memory while there is no frame to be had: in the dense
// placement, where tasks can share a frame.
#[test]
fn z82_a_forked_task_reads_what_is_resident_in_exhausted_memory() {
    let c = Config { frames: 64, swap: None, ..Config::default() };
    for c in c.every_kind().filter(|c| !c.sparse) {
        policies(c.calm(), &|vm| {
            let t = task(vm, 64);
            store(&t, 0..64);
            let child = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
            loads(&child, 0..64);
            loads(&t, 0..64);
            assert!(matches!(child.store_word(at(1), 7), Err(FaultError::NoMemory(_))));
            loads(&child, 0..64);
        });
    }
}

// Targets (VM_METER).
#[test]
fn d14_targets_and_gauges() {
    both(2048, |vm| {
        let s = vm.statistics();
        assert_eq!((s.frame_low, s.frame_target, s.frame_min, s.frame_reserve), (32, 64, 8, 0));
        vm.set_frame_reserve(5);
        assert_eq!(vm.statistics().frame_reserve, 5);
        let t = task(vm, 40);
        store(&t, 0..40);
        let s = vm.statistics();
        assert!(s.active == 40 && s.fresh <= s.active && s.inactive + s.laundry + s.unswappable == 0);
    });
}

// Wired memory: the daemon finds nothing, and says so at once instead of going round for ever.
#[test]
fn d03_all_wired_is_no_livelock() {
    both(200, |vm| {
        let t = task(vm, 190);
        store(&t, 0..190);
        t.map.wire(pages(0, 190), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        assert_eq!(vm.pageout(100, &mut may()), 0);
        (0..50).for_each(|_| daemon(vm));
        let s = vm.statistics();
        assert!(s.scanned < 50 * 8 * 200, "it went round {} pages", s.scanned);
        t.map.unwire(pages(0, 190), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        assert!(vm.pageout(100, &mut may()) >= 100);
        loads(&t, 0..190);
    });
}

// vm_page_alloc(9), page daemon class: a pager that faults while pages are written gets a frame of
// the reserve, and does not wait for page-out (Z82, Z83).
#[test]
fn z82_z83_the_reserve_is_for_those_that_page_out() {
    with(Config { frames: 64, swap: None, ..Config::default() }, |vm| {
        vm.set_frame_reserve(6);
        let t = task(vm, 100);
        let stored = (0..100).take_while(|p| t.store_word(at(*p), p + 1).is_ok()).count() as u64;
        assert_eq!(stored, 58, "programs leave the reserve");
        let waits = vm.statistics().memory_waits;
        assert!(!vm.host().set_privileged(true));
        // Two are left to interrupts.
        (0..4).for_each(|n| t.store_word(at(stored + n), stored + n + 1).expect("store"));
        assert_eq!(t.store_word(at(stored + 4), 1), Err(FaultError::NoMemory(common::va(stored + 4))));
        assert_eq!(vm.pageout(10, &mut may()), 0, "page-out in page-out");
        assert!(vm.host().set_privileged(false));
        assert!(vm.statistics().memory_waits < waits + 20, "it waited");
        assert!(matches!(t.store_word(at(stored + 4), 1), Err(FaultError::NoMemory(_))));
        loads(&t, 0..stored + 4);
    });
}

// Swap that fails at every k-th write, with either policy: nothing is lost.
#[test]
fn d08_z80_swap_errors_at_k() {
    for k in 1..40 {
        for policy in Replacement::ALL {
            let c = Config { frames: 96, seed: k, policy, sparse: k % 2 == 0, ..Config::default() };
            let vm = Vm::new(Machine::new(c)).expect("memory");
            let t = task(&vm, 300);
            vm.platform().inject().arm(Point::SwapPut as u32, k, k % 3 == 0);
            let stored = (0..300).take_while(|p| t.store_word(at(*p), p + 1).is_ok()).count() as u64;
            vm.platform().inject().disarm();
            assert!(stored == 300 || k % 3 == 0, "k {k}: {stored}");
            loads(&t, 0..stored);
            store(&t, stored..300);
            loads(&t, 0..300);
            check_quiet(&vm, [&t]);
        }
    }
}
