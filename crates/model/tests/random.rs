//! Random operations of a few tasks against the oracle, everything checked after each.
//! `MACHVM_SEED=n` runs one seed again; `MACHVM_LONG=n` runs n seeds of each kind, of page
//! tables 40 n.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Plan, World, policy_of, seeds_or};
use machvm::Vm;
use machvm_model::{Config, Machine};

fn one(seed: u64, c: Config, plan: Plan, ops: u32) {
    let c = Config { policy: policy_of(seed), ..c };
    let vm = Vm::new(Machine::new(c)).expect("memory");
    let mut w = World::new(&vm, plan, seed);
    let done = catch_unwind(AssertUnwindSafe(|| {
        for n in 0..ops {
            w.step();
            w.check();
            if n % 64 == 63 {
                w.note_round(n);
                w.verify();
            }
        }
        w.verify();
    }));
    if let Err(panic) = done {
        println!("MACHVM_SEED={seed} {c:?} {plan:?}: after");
        w.log.iter().for_each(|l| println!("  {l}"));
        std::mem::forget(w);
        std::panic::resume_unwind(panic);
    }
    drop(w);
    if std::env::var_os("MACHVM_LONG").is_some() {
        println!("seed {seed}: {:?}", vm.statistics());
    }
    machvm_model::check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "left over after seed {seed}");
    assert_eq!(vm.platform().mem_swap().map_or(0, |s| s.kept()), 0, "swap left over after seed {seed}");
}

fn seeds(default: u64) -> Vec<u64> {
    if let Some(s) = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()) {
        return vec![s];
    }
    let n = std::env::var("MACHVM_LONG").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    (1..=n).collect()
}

/// On page tables of every format, with and without hardware that notes use.
fn run_tables(frames: u32, share: bool) {
    for seed in seeds_or(2, 40) {
        for c in (Config { frames, forget: 50, seed, ..Config::default() }).every_format() {
            let plan = Plan { base: 0, window: 300, keep: 0, share, tasks: 4, wired: u64::from(frames) / 4 };
            one(seed, c, plan, 200);
        }
    }
}

fn run(sparse: bool, frames: u32, share: bool) {
    for seed in seeds(12) {
        let c =
            Config { sparse, frames, forget: 7, reference_bits: seed % 2 == 0, seed, ..Config::default() };
        one(
            seed,
            c,
            Plan { base: 0, window: 300, keep: 0, share, tasks: 4, wired: u64::from(frames) / 4 },
            400,
        );
    }
}

#[test]
fn sparse_private() {
    run(true, 72, false);
}
#[test]
fn dense_private() {
    run(false, 72, false);
}
#[test]
fn sparse_shared() {
    run(true, 72, true);
}
#[test]
fn dense_shared() {
    run(false, 72, true);
}
#[test]
fn sparse_roomy() {
    run(true, 4096, false);
}
#[test]
fn dense_roomy() {
    run(false, 4096, false);
}
#[test]
fn tables_private() {
    run_tables(72, false);
}
#[test]
fn tables_shared() {
    run_tables(72, true);
}
#[test]
fn tables_roomy() {
    run_tables(2048, false);
}
