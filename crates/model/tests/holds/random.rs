//! Everything at once, against flat memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use machvm_model::{Contents, WORDS};

use crate::common::{Plan, World, seeds_or};
use crate::*;

/// What is held, and what its pages hold.
struct Io<'vm> {
    held: Held<'static, 'vm, Machine>,
    pages: Vec<Contents>,
    write: bool,
}

/// Pages held at once.
const MOST: usize = 12;

fn hold_some<'vm>(w: &mut World<'vm>, ios: &mut Vec<Io<'vm>>) {
    let i = w.rng.below(w.tasks.len() as u64) as usize;
    let n = 1 + w.rng.below(5);
    let first = w.rng.below(w.plan.window - n);
    let r = common::pages(w.plan.base + first, n);
    let write = w.rng.one_in(2);
    let (t, o) = &w.tasks[i];
    let access = if write { Prot::RW } else { Prot::R };
    let allowed = r.iter().all(|va| o.pages.get(&va.page()).is_some_and(|p| p.prot.contains(access)));
    if ios.iter().map(|io| io.pages.len()).sum::<usize>() + n as usize > MOST {
        return;
    }
    let places: &'static mut [HeldPage] = Vec::leak((0..n).map(|_| HeldPage::default()).collect());
    w.log.push(format!("task {i}: hold {r:?} {access:?}"));
    match hold(t, r, access, places) {
        Ok(held) => {
            assert!(allowed, "held without the right");
            let pages = r.iter().map(|va| o.pages[&va.page()].contents.clone()).collect();
            ios.push(Io { held, pages, write });
        }
        Err(e) => assert!(!allowed, "{e:?}"),
    }
}

fn io_step<'vm>(w: &mut World<'vm>, ios: &mut Vec<Io<'vm>>) {
    if ios.is_empty() || w.rng.one_in(4) {
        return hold_some(w, ios);
    }
    let k = w.rng.below(ios.len() as u64) as usize;
    let io = &ios[k];
    let (page, slot) = (w.rng.below(io.pages.len() as u64) as usize, w.rng.below(WORDS as u64) as usize);
    let off = page * P as usize + slot * (P as usize / WORDS);
    if io.write && w.rng.one_in(2) {
        w.next += 1;
        let word = w.next | 1 << 50;
        w.log.push(format!("device: write {word:#x} to word {slot} of page {page} of hold {k}"));
        io.held.write(off, &word.to_le_bytes()).expect("held");
        io.pages[page].borrow_mut()[slot] = word;
    } else if w.rng.one_in(2) {
        let mut b = [0; 8];
        io.held.read(off, &mut b).expect("held");
        let want = io.pages[page].borrow()[slot];
        assert_eq!(u64::from_le_bytes(b), want, "word {slot} of page {page} of hold {k}");
    } else {
        w.log.push(format!("let go of hold {k}"));
        drop(ios.swap_remove(k));
    }
}

/// Gives the pages that were copied at once.
fn random(seed: u64, c: Config, share: bool, ops: u32) -> u64 {
    let vm = Vm::new(Machine::new(c)).expect("memory");
    let plan = Plan { base: 0, window: 60, keep: 0, share, tasks: 4, wired: 10 };
    let mut w = World::new(&vm, plan, seed);
    let mut ios = Vec::new();
    let done = catch_unwind(AssertUnwindSafe(|| {
        for n in 0..ops {
            w.step();
            io_step(&mut w, &mut ios);
            w.check();
            if n % 40 == 39 {
                w.note_round(n);
                w.verify();
            }
        }
        w.verify();
    }));
    if let Err(panic) = done {
        println!("MACHVM_SEED={seed} {c:?} {plan:?}: after");
        w.log.iter().for_each(|l| println!("  {l}"));
        std::mem::forget((w, ios));
        std::panic::resume_unwind(panic);
    }
    // Tasks and holds end in any order.
    while !w.tasks.is_empty() || !ios.is_empty() {
        if w.rng.one_in(2) && !ios.is_empty() {
            ios.pop();
        } else {
            w.tasks.pop();
        }
        w.check();
    }
    drop(w);
    check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "left over, MACHVM_SEED={seed} {c:?}");
    vm.statistics().eager_copies
}

#[test]
fn holds_against_everything() {
    let mut copied = 0;
    for seed in seeds_or(6, 20) {
        for (sparse, share) in [(true, false), (false, false), (true, true), (false, true)] {
            let c = Config { sparse, frames: 90, forget: 9, seed, ..Config::default() };
            copied += random(seed, c, share, 300);
        }
    }
    assert!(copied > 0, "nothing was held over a copy");
}

#[test]
fn holds_against_everything_on_tables() {
    let mut copied = 0;
    for seed in seeds_or(1, 20) {
        for c in (Config { frames: 90, forget: 40, seed, ..Config::default() }).every_format() {
            copied += random(seed, c, seed % 2 == 0, 200);
        }
    }
    assert!(copied > 0, "nothing was held over a copy");
}
