//! Submaps under schedules that a seed decides, down to single calls of the machine, in both
//! placements. `MACHVM_SEED=n` runs one seed again, `MACHVM_LONG=n` so many.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use machvm::FaultError;
use machvm::map::SetProt;
use machvm_hal::{Pmap, RawAddr};
use machvm_model::Rng;

type Body<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Pages of the submap, and where it and its views are.
const N: u64 = 12;
const THERE: u64 = 0x500;
const VIEWS: [u64; 2] = [100, 700];

fn told<'a>(body: Body<'a>, c: Config) -> Body<'a> {
    Box::new(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            println!("MACHVM_SEED={}, sparse: {}", c.seed, c.sparse);
            resume_unwind(panic);
        }
    })
}

fn scheduled(test: impl Fn(&Vm<Machine>, u64, &dyn Fn(Vec<Body<'_>>))) {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse().ok());
    let seeds = match number("MACHVM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("MACHVM_LONG").unwrap_or(12),
    };
    for seed in seeds {
        for sparse in [true, false] {
            let c = Config { sparse, frames: 60, seed, forget: 9, ..Config::default() };
            let vm = Vm::new(Machine::new(c)).expect("memory");
            let done = catch_unwind(AssertUnwindSafe(|| {
                let host = vm.host();
                test(&vm, seed, &|bodies| {
                    host.set_preemption(2);
                    host.run_scheduled(bodies.into_iter().map(|b| told(b, c)).collect());
                    host.set_preemption(0);
                });
                check_quiet(&vm, []);
            }));
            if let Err(panic) = done {
                println!("MACHVM_SEED={seed}, sparse: {sparse}");
                std::mem::forget(vm);
                resume_unwind(panic);
            }
            assert_eq!((vm.live(), vm.submaps()), ([0; 6], 0), "left over after seed {seed}");
        }
    }
}

/// While programs fault in two views, one of which comes and goes, the submap's memory is
/// replaced, protected, deleted and paged out. When a change has returned, it is true on every
/// CPU: nothing deleted is translated, and nothing is written without the right.
#[test]
fn m20_z51_z103_changes_hold_when_they_return() {
    scheduled(|vm, seed, run| {
        let (a, b) = (Task::new(vm), Task::new(vm));
        let s = Task { map: Map::new_submap(vm, vm.platform().pmap(), pages(THERE, N)).expect("memory") };
        for (t, first) in [(&a, VIEWS[0]), (&b, VIEWS[1])] {
            t.map.insert(pages(first, N), Backing::Guard, &rw(), &mut may()).expect("free");
            t.map.submap(pages(first, N), &s.map, va(THERE), &mut may()).expect("a guard");
        }
        put(&s.map, THERE, N);
        let (a_, b_, s_) = (&a, &b, &s);
        // Page p holds 0 or a number that says p.
        let program = |t: &'_ Task<'_>, first: u64, salt: u64| {
            let mut rng = Rng::new(seed ^ salt);
            for k in 0..200 {
                let p = rng.below(N);
                let here = first + p;
                vm.host().preempt();
                let fine = |e: FaultError| {
                    let gone = e == FaultError::NoMapping(va(here)) || e == FaultError::Protection(va(here));
                    assert!(gone, "{e:?}");
                };
                if rng.one_in(2) {
                    let _ = t.store_word(at(here), salt << 32 | k << 8 | (p + 1)).map_err(fine);
                } else {
                    let got = t.load_word(at(here)).map_err(fine);
                    assert!(
                        got.is_err() || got == Ok(0) || got.is_ok_and(|v| v & 0xff == p + 1),
                        "page {p}: {got:?}"
                    );
                }
            }
        };
        let changer: Body<'_> = Box::new(move || {
            let mut rng = Rng::new(seed ^ 77);
            // No translation of these pages in a view has more than these rights.
            let seen = |first: u64, n: u64, most: Prot| {
                for p in first..first + n {
                    for (t, view) in [(a_, VIEWS[0]), (b_, VIEWS[1])] {
                        let here = t.map.pmap().extract(vm.page_array(), va(view + p));
                        assert!(
                            here.is_none_or(|(_, prot)| !most.is_empty() && most.contains(prot)),
                            "{here:?}"
                        );
                    }
                }
            };
            for _ in 0..25 {
                let first = rng.below(N);
                let n = 1 + rng.below((N - first).min(4));
                let there = pages(THERE + first, n);
                match rng.below(4) {
                    0 => {
                        s_.map.delete(there, &mut may()).expect("memory");
                        (0..10).for_each(|_| vm.host().preempt());
                        seen(first, n, Prot::NONE);
                    }
                    1 => {
                        let before = s_.map.entry_from(va(THERE + first), &mut may());
                        s_.map.protect(there, &SetProt::prot(Prot::R), &mut may()).expect("memory");
                        let read = || {
                            let mut all = [[0; 8]; N as usize];
                            for p in first..first + n {
                                let word = &mut all[p as usize];
                                let _ = s_.map.read_in_page(RawAddr(at(THERE + p)).0, word, &mut may());
                            }
                            all
                        };
                        seen(first, n, Prot::R);
                        let was = read();
                        (0..30).for_each(|_| vm.host().preempt());
                        assert_eq!(was, read(), "read-only memory changed, {before:?}");
                        s_.map.protect(there, &SetProt::prot(Prot::RW), &mut may()).expect("memory");
                    }
                    2 => {
                        s_.map.fixed(there, Backing::Anonymous, &rw(), &mut may()).expect("memory");
                    }
                    _ => {
                        vm.pageout(5, &mut may());
                    }
                }
            }
        });
        let viewer: Body<'_> = Box::new(move || {
            let r = pages(VIEWS[1] + 4, 3);
            for _ in 0..15 {
                b_.map.delete(r, &mut may()).expect("memory");
                b_.map.insert(r, Backing::Guard, &rw(), &mut may()).expect("free");
                (0..5).for_each(|_| vm.host().preempt());
                b_.map.submap(r, &s_.map, va(THERE + 4), &mut may()).expect("a guard");
                let copy = a_.map.copyin(pages(VIEWS[0], N), &mut may());
                drop(copy); // a hole, or a snapshot
            }
        });
        let fork: Body<'_> = Box::new(move || {
            for _ in 0..4 {
                let child = Task { map: a_.map.fork(vm.platform().pmap(), &mut may()).expect("memory") };
                for p in 0..N {
                    let _ = child.load_word(at(VIEWS[0] + p));
                }
            }
        });
        let (one, two): (Body<'_>, Body<'_>) =
            (Box::new(move || program(a_, VIEWS[0], 1)), Box::new(move || program(b_, VIEWS[1], 2)));
        run(vec![one, two, changer, viewer, fork]);
        check_quiet(vm, [&a, &b, &s]);
        drop((a, b, s));
    });
}
