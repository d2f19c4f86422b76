//! Two programs and the page daemon under pressure, while everything below the core fails at random:
//! swap, frames, structures, mappings. An error names the page that was touched, the same access
//! succeeds when it is tried again, nothing is wrong and nothing is left over.
//!
//! `MACHVM_SEED=n` runs one seed again; `MACHVM_LONG=n` runs n times as many, each longer.

mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use common::{at, may, pages, policy_of, seeds_of_soak, va};
use machvm::map::{Attributes, Backing};
use machvm::{FaultError, Vm};
use machvm_hal::Prot;
use machvm_model::{Config, Machine, Point, Rng, Task, check_quiet};

/// Pages of each program; together several times the memory.
const PAGES: u64 = 500;

/// What may fail, one or several at a time.
const POINTS: [u32; 7] = [
    Point::SwapPut as u32,
    Point::SwapGet as u32,
    Point::SwapPut as u32 | Point::SwapGet as u32,
    Point::Zero as u32 | Point::Prepare as u32,
    Point::Enter as u32 | Point::Table as u32 | Point::Record as u32,
    Point::Object as u32 | Point::Extent as u32,
    u32::MAX,
];

/// How often an access that failed is tried again: every failure is armed once.
const TRIES: u32 = 200;

/// Tries until it succeeds; how often it did not.
fn insist<T>(vm: &Vm<Machine>, page: u64, mut go: impl FnMut() -> Result<T, FaultError>) -> (T, u32) {
    for failed in 0..TRIES {
        match go() {
            Ok(t) => return (t, failed),
            Err(e) => assert_eq!(e.va(), va(page), "the error names another page: {e:?}"),
        }
        // Somebody must be able to go on.
        vm.host().preempt();
    }
    panic!("page {page} fails for ever")
}

/// A program; gives how many of its accesses failed at first.
fn program(vm: &Vm<Machine>, seed: u64, k: u64, steps: u64) -> u64 {
    let t = Task::new(vm);
    let inject = vm.platform().inject();
    let mut rng = Rng::new(seed * 2 + k);
    let made = || t.map.insert(pages(0, PAGES), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may());
    while made().is_err() {
        vm.host().preempt();
    }
    let mut want = vec![0; PAGES as usize];
    let mut failures = 0;
    for n in 0..steps {
        if rng.one_in(6) {
            let points = POINTS[rng.below(POINTS.len() as u64) as usize];
            inject.arm(points, 1 + rng.below(12), false);
        }
        // A window that wanders, and now and then anything.
        let p = if rng.one_in(5) { rng.below(PAGES) } else { (n / 40 * 7 + rng.below(60)) % PAGES };
        if rng.one_in(2) {
            want[p as usize] = n + 1;
            failures += u64::from(insist(vm, p, || t.store_word(at(p), n + 1)).1);
        } else {
            let (word, failed) = insist(vm, p, || t.load_word(at(p)));
            assert_eq!(word, want[p as usize], "seed {seed}, step {n}, page {p}");
            failures += u64::from(failed);
        }
    }
    for p in 0..PAGES {
        assert_eq!(insist(vm, p, || t.load_word(at(p))).0, want[p as usize], "seed {seed}, page {p}");
    }
    failures
}

fn soak(seed: u64, c: Config, steps: u64) -> u64 {
    let vm = Vm::new(Machine::new(c)).expect("memory");
    let (left, failures) = (AtomicU64::new(2), AtomicU64::new(0));
    let (vm_, left_, failures_) = (&vm, &left, &failures);
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for k in 0..2 {
        bodies.push(Box::new(move || {
            failures_.fetch_add(program(vm_, seed, k, steps), SeqCst);
            left_.fetch_sub(1, SeqCst);
        }));
    }
    bodies.push(Box::new(move || {
        while left_.load(SeqCst) != 0 {
            if vm_.memory_is_low() {
                // Until it frees nothing more: with errors that may be at once.
                while vm_.pageout_to_target(&mut may()) != 0 {}
            }
            vm_.host().preempt();
        }
    }));
    vm.host().set_preemption(2 + seed % 6);
    vm.host().run_scheduled(bodies);
    vm.host().set_preemption(0);
    vm.platform().inject().disarm();
    let end = vm.statistics();
    assert!(end.swapouts > 200, "seed {seed}: {end:?}");
    check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "seed {seed}: left over");
    assert_eq!(vm.platform().mem_swap().map_or(0, |s| s.kept()), 0, "seed {seed}: swap left over");
    failures.into_inner()
}

#[test]
fn d02_z80_z81_soak_while_everything_fails_now_and_then() {
    let long = ["MACHVM_LONG", "MACHVM_SOAK"].iter().any(|v| std::env::var_os(v).is_some());
    let mut failures = 0;
    for seed in seeds_of_soak(3, 30) {
        let c = Config { frames: 256, seed, policy: policy_of(seed), ..Config::default() };
        for c in [c, Config { sparse: false, reference_bits: false, policy: policy_of(seed + 2), ..c }] {
            println!("MACHVM_SEED={seed} {c:?}");
            failures += soak(seed, c, if long { 20_000 } else { 2500 });
        }
    }
    assert_ne!(failures, 0, "nothing ever failed");
}
