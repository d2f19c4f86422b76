//! Races: rights taken away, memory replaced and maps in both directions, while
//! others copy. On the scheduled machine, where a seed decides the interleaving.
//! `MACHVM_SEED=n` runs one seed again, `MACHVM_LONG=n` that many.

use machvm::task::{RawFlags, VmFlags};
use machvm_hal::Prot;
use machvm_model::Config;

use crate::*;

type Body<'a> = Box<dyn FnOnce() + Send + 'a>;

fn seeds(default: u64) -> std::ops::RangeInclusive<u64> {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse().ok());
    match number("MACHVM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("MACHVM_LONG").unwrap_or(default),
    }
}

/// The body, which says what run it was in if it panics: the process ends with it.
fn told<'a>(body: Body<'a>, seed: u64, sparse: bool) -> Body<'a> {
    Box::new(move || {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
            println!("MACHVM_SEED={seed}, sparse: {sparse}");
            std::panic::resume_unwind(panic);
        }
    })
}

/// Runs `bodies` of a test on every seed, in both placements.
fn scheduled(n: u64, frames: u32, test: impl Fn(&Vm<Machine>, &dyn Fn(Vec<Body<'_>>))) {
    for seed in seeds(n) {
        for sparse in [true, false] {
            let vm = Vm::new(Machine::new(Config { sparse, frames, seed, forget: 7, ..Config::default() }));
            let vm = vm.expect("memory");
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let host = vm.host();
                test(&vm, &|bodies| {
                    host.set_preemption(5);
                    // The scheduler joins every thread before it returns.
                    host.run_scheduled(bodies.into_iter().map(|b| told(b, seed, sparse)).collect());
                    host.set_preemption(0);
                });
                check_quiet(&vm, []);
            }));
            if let Err(panic) = done {
                println!("MACHVM_SEED={seed}, sparse: {sparse}");
                std::mem::forget(vm);
                std::panic::resume_unwind(panic);
            }
            assert_eq!(vm.live(), [0; 6], "left over after seed {seed}");
        }
    }
}

#[test]
fn z103_nothing_is_written_where_the_right_is_gone() {
    scheduled(20, 100, |vm, run| {
        let (p, q) = (filled(vm, 8), filled(vm, 8));
        let (p_, q_) = (&p, &q);
        let writer: Body<'_> = Box::new(move || {
            for i in 0..30u64 {
                // Unaligned, so every byte goes through the right.
                let _ = xnu(p_).vm_write(a(BASE + 1), &xnu(q_), a(BASE + 2 + i), n(7 * P), &mut may());
                let _ = xnu(p_).vm_copy(a(BASE + 3 * P), n(3 * P + 9), a(BASE + 11), &mut may());
            }
        });
        let guard: Body<'_> = Box::new(move || {
            for _ in 0..40 {
                protect(p_, BASE, 8, Prot::R);
                let before = bytes(p_, BASE, 8 * P);
                // Whoever is about to write has the time to.
                (0..30).for_each(|_| vm.host().preempt());
                let after = bytes(p_, BASE, 8 * P);
                assert!(before == after, "read-only memory changed");
                protect(p_, BASE, 8, Prot::RW);
            }
        });
        run(vec![writer, guard]);
        check_quiet(vm, [&p, &q]);
        drop((p, q));
    });
}

#[test]
fn u16_never_half_a_page_of_another_object() {
    scheduled(20, 200, |vm, run| {
        let (p, q) = (program(vm), program(vm));
        let put = |p: &Program<'_>, byte: u8| {
            let over = RawFlags((VmFlags::OVERWRITE).bits());
            let at = BASE + (1 << 20);
            assert_eq!(xnu(p).vm_allocate(a(at), n(4 * P), FIXED, &mut may()), Ok(at));
            p.store(at, &[byte; 4 * P as usize]).expect("writable");
            // In one step over what is there.
            let r = xnu(p).vm_remap(a(BASE), n(4 * P), 0, over, &xnu(p), a(at), true, COPY, &mut may());
            assert_eq!(r.map(|r| r.address), Ok(BASE));
            assert_eq!(xnu(p).vm_deallocate(a(at), n(4 * P), &mut may()), Ok(()));
        };
        put(&p, 1);
        fill(&q, BASE, 8);
        let (p_, q_) = (&p, &q);
        let reader: Body<'_> = Box::new(move || {
            for i in 0..20u64 {
                // Every page of a read is of one object, at any offset.
                let done = xnu(p_).vm_read_overwrite(a(BASE), n(4 * P), &xnu(q_), a(BASE + i), &mut may());
                assert_eq!(done, Ok(4 * P));
                let got = bytes(q_, BASE + i, 4 * P);
                for page in got.chunks(P as usize) {
                    assert!(page.iter().all(|b| *b == page[0] && *b != 0), "two objects in one page");
                }
            }
        });
        let replacer: Body<'_> = Box::new(move || {
            (2..30).for_each(|byte| put(p_, byte));
        });
        run(vec![reader, replacer]);
        check_quiet(vm, [&p, &q]);
        drop((p, q));
    });
}

#[test]
fn u16_two_maps_in_both_directions_never_deadlock() {
    scheduled(20, 120, |vm, run| {
        let (p, q) = (filled(vm, 8), filled(vm, 8));
        let (p_, q_) = (&p, &q);
        let body = |from: &'_ Program<'_>, to: &'_ Program<'_>, shift: u64| {
            for i in 0..12u64 {
                let (src, dst) = (BASE + (i % 3) * P, BASE + (i % 2) * P + shift * (i % 5));
                let _ = xnu(from).vm_read_overwrite(a(src), n(4 * P), &xnu(to), a(dst), &mut may());
                let _ = xnu(to).vm_write(a(dst), &xnu(from), a(src), n(5 * P), &mut may());
                let read = xnu(from).vm_read(a(src), n(3 * P), &xnu(to), &mut may()).expect("readable");
                assert_eq!(xnu(to).vm_deallocate(a(read), n(3 * P), &mut may()), Ok(()));
                let _ = xnu(to).vm_remap(
                    a(BASE + (8 << 20)),
                    n(P),
                    0,
                    FIXED,
                    &xnu(from),
                    a(src),
                    i % 2 == 0,
                    COPY,
                    &mut may(),
                );
                let _ = xnu(to).vm_deallocate(a(BASE + (8 << 20)), n(P), &mut may());
            }
        };
        let threads: Vec<Body<'_>> = vec![
            Box::new(move || body(p_, q_, 0)),
            Box::new(move || body(q_, p_, 0)),
            Box::new(move || body(p_, q_, 7)),
            Box::new(move || body(q_, p_, 7)),
        ];
        run(threads);
        check_quiet(vm, [&p, &q]);
        drop((p, q));
    });
}

#[test]
fn u31_purging_against_use() {
    scheduled(20, 100, |vm, run| {
        let p = program(vm);
        let flags = RawFlags(VmFlags::PURGABLE.bits());
        assert_eq!(xnu(&p).vm_allocate(a(BASE), n(8 * P), flags, &mut may()), Ok(BASE));
        let p_ = &p;
        let user: Body<'_> = Box::new(move || {
            let t = xnu(p_);
            for round in 1..20u64 {
                let old = t.vm_purgable_control(a(BASE), 0, machvm::task::PurgableState(0), &mut may());
                let lost = old.expect("purgeable").0 & 3 == 2;
                for i in 0..8 {
                    let was = p_.load_word(BASE + i * P).expect("readable");
                    assert!(was == round - 1 || lost && was == 0, "{was} in round {round}, lost: {lost}");
                    p_.store_word(BASE + i * P, round).expect("writable");
                }
                if round % 3 == 0 {
                    drop(fork(p_));
                }
                t.vm_purgable_control(a(BASE), 0, machvm::task::PurgableState(1), &mut may())
                    .expect("purgeable");
            }
        });
        let daemon: Body<'_> = Box::new(move || {
            for _ in 0..60 {
                vm.purge_volatile(1, &mut may());
                vm.pageout(4, &mut may());
            }
        });
        run(vec![user, daemon]);
        check_quiet(vm, [&p]);
        drop(p);
    });
}
