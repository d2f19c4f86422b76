//! Many threads in four tasks: on the scheduled machine, where a seed decides the
//! interleaving down to single calls of the machine, and as real threads.
//! `MACHVM_SEED=n` runs one seed again, `MACHVM_LONG=n` n seeds (or n times the work).

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::{Plan, World};
use machvm::{Platform, Vm};
use machvm_hal::PhysMem;
use machvm_model::{Config, Machine, Oracle, Task, check_quiet};

const WINDOW: u64 = 90;
const TASKS: usize = 4;

/// What one thread does: random operations in its own window of a task that it shares
/// with others, and in copies of that task.
fn worker<'vm>(vm: &'vm Vm<Machine>, task: Arc<Task<'vm>>, k: u64, plan: Plan, seed: u64, ops: u64) -> u64 {
    let plan = Plan { base: k * WINDOW, window: WINDOW, keep: 1, ..plan };
    let mut w = World::new(vm, plan, seed ^ (k << 32));
    w.tasks = vec![(task, Oracle::default())];
    let done = catch_unwind(AssertUnwindSafe(|| {
        for n in 0..ops {
            w.step();
            if n % 64 == 63 {
                w.verify_contents();
            }
        }
        w.verify_contents();
    }));
    if let Err(panic) = done {
        let place = vm.platform().mem().placement();
        println!("MACHVM_SEED={seed}, thread {k}: {plan:?} {place:?}");
        w.log.iter().for_each(|l| println!("  {k}: {l}"));
        std::mem::forget(w);
        std::panic::resume_unwind(panic);
    }
    w.map_ops
}

fn run(c: Config, plan: Plan, threads: u64, ops: u64, preempt: u64) -> u64 {
    let vm = Vm::new(Machine::new(c)).expect("memory");
    let tasks: Vec<_> = (0..TASKS).map(|_| Arc::new(Task::new(&vm))).collect();
    let host = vm.platform().host();
    let done = AtomicU64::new(0);
    let (vm_, done_) = (&vm, &done);
    let bodies: Vec<Box<dyn FnOnce() + Send>> = (0..threads)
        .map(|k| {
            let task = tasks[k as usize % TASKS].clone();
            Box::new(move || {
                done_.fetch_add(worker(vm_, task, k, plan, c.seed, ops), Relaxed);
            }) as Box<dyn FnOnce() + Send>
        })
        .collect();
    if preempt == 0 {
        host.run_threaded(bodies);
    } else {
        host.set_preemption(preempt);
        host.run_scheduled(bodies);
        host.set_preemption(0);
        // Class 1 is a busy page, 3 limbo, 0 a lock or a wiring: always woken.
        for class in [0, 1, 3] {
            assert_eq!(host.timeouts(class), 0, "lost wake-up, class {class}, seed {}", c.seed);
        }
    }
    check_quiet(&vm, tasks.iter().map(|t| &**t));
    drop(tasks);
    check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "left over after seed {}", c.seed);
    done.into_inner()
}

fn long() -> Option<u64> {
    std::env::var("MACHVM_LONG").ok().and_then(|s| s.parse().ok())
}
fn seeds(n: u64) -> Vec<u64> {
    match std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(s) => vec![s],
        None => (1..=long().unwrap_or(n)).collect(),
    }
}

fn scheduled(sparse: bool, share: bool) {
    for seed in seeds(10) {
        let frames = 64 + (seed % 4) as u32 * 40;
        let c =
            Config { sparse, frames, forget: 9, reference_bits: seed % 2 == 0, seed, ..Config::default() };
        let plan = Plan { base: 0, window: WINDOW, keep: 1, share, tasks: 3, wired: 4 };
        run(c, plan, 6, 60, 1 + seed % 5);
    }
}

#[test]
fn scheduled_sparse() {
    scheduled(true, false);
}
#[test]
fn scheduled_dense() {
    scheduled(false, false);
}
#[test]
fn scheduled_sparse_shared() {
    scheduled(true, true);
}
#[test]
fn scheduled_dense_shared() {
    scheduled(false, true);
}

/// Issue 2, "What must be seen to work", 3.
fn real(sparse: bool) {
    let mut total = 0;
    let seed = machvm_model::seed_from_env(std::process::id().into());
    println!("MACHVM_SEED={seed}");
    for threads in [2, 4, 8] {
        let c = Config { sparse, frames: 300, forget: 50, seed, ..Config::default() };
        let plan = Plan { base: 0, window: WINDOW, keep: 1, share: threads == 4, tasks: 3, wired: 8 };
        total += run(c, plan, threads, 42_000 / threads * long().unwrap_or(1), 0);
    }
    println!("{total} map operations");
    assert!(total >= 50_000, "{total} map operations");
}

#[test]
fn real_threads_sparse() {
    real(true);
}
#[test]
fn real_threads_dense() {
    real(false);
}
