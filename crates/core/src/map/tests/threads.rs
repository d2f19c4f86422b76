//! Threads on one map: every operation in every thread, faults between them. Nothing
//! is known of the outcome but that the map stays sound, that nobody waits for ever
//! (the host's waits time out with a panic) and that nothing is left over. The seed is
//! printed by a failure.

use super::std;
use std::vec::Vec;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::Limits;
use super::fail::exec;
use super::oracle::{Op, ops};
use super::{check, check_empty, map, may, vm};
use crate::fault::Fault;
use machvm_hal::{Prot, RawAddr};

const THREADS: u8 = 4;
const OPS: usize = 4_000;

fn program(seed: u8) -> Vec<Op> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..OPS).map(|_| ops().new_tree(&mut runner).expect("a value").current()).collect()
}

#[test]
fn threads_leave_a_sound_map() {
    let first: u8 = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for round in 0..3 {
        let seed = first.wrapping_add(round * THREADS);
        std::println!("MACHVM_SEED={seed}, and the {THREADS} seeds from there");
        let vm = vm();
        let m = map(&vm);
        m.set_limits(Limits { stack_step: 2 << 12, ..Limits::default() }, &mut may());
        std::thread::scope(|s| {
            for t in 0..THREADS {
                let m = &m;
                s.spawn(move || {
                    for op in program(seed.wrapping_add(t)) {
                        match op {
                            Op::Write(p, _) | Op::Read(p) => {
                                let access = if matches!(op, Op::Read(_)) { Prot::R } else { Prot::W };
                                // Whether it is mapped depends on the others.
                                let _ = m.fault(&Fault { addr: RawAddr(p << 12), access }, &mut may());
                            }
                            op => {
                                exec(m, &op);
                            }
                        }
                    }
                });
            }
        });
        check(&m);
        m.clear(&mut may());
        check_empty(&vm);
    }
}
