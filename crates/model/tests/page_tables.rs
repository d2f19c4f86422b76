//! Random operations on page-table pmaps of every format, on hardware that does
//! everything the manuals allow: no check finds anything, and pmap, walker and oracle
//! agree.
//!
//! `MACHVM_SEED` runs one seed again, `MACHVM_STEPS` sets the length, `MACHVM_TRACE` how
//! much of what happened is shown.

use machvm_model::hw::{Config, HwFormat};
use machvm_model::pt::World;
use machvm_model::seed_from_env;
use machvm_pmap::pte::{Aarch64, Sv39, Sv48, Sv57, X86L4, X86L5};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

/// 20,000, and 1,000,000 in `cargo xtask long`.
fn steps() -> u64 {
    let usual = if std::env::var_os("MACHVM_LONG").is_some() { 1_000_000 } else { 20_000 };
    number("MACHVM_STEPS").unwrap_or(usual)
}

fn run<F: HwFormat>(seed: u64, bits: bool) {
    run_world(seed, bits, steps(), |c| World::<F>::new(c, &[]));
}

/// As [`run`], where now and then a table, a record or a structure is not to be had: never
/// is anything half done, and nothing wired is lost.
fn run_short<F: HwFormat>(seed: u64) {
    let refused = run_world(seed, true, steps() / 2, World::<F>::with_shortages);
    assert!(refused > 20, "{}: memory was short {refused} times only", F::NAME);
}

fn run_world<F: HwFormat>(seed: u64, bits: bool, steps: u64, make: impl Fn(Config) -> World<F>) -> u64 {
    let mut left = steps;
    let mut refused = 0;
    let mut seed = seed_from_env(seed);
    // A fresh machine now and then: other choices of numbers and instructions.
    while left > 0 {
        let n = left.min(10_000);
        let mut c = Config::new(F::ARCH, seed);
        if !bits {
            c = c.without_updates();
        }
        c.trace = number("MACHVM_TRACE").map_or(c.trace, |n| n as usize);
        let mut w = make(c);
        for step in 0..n {
            if let Err(wrong) = w.step() {
                panic!(
                    "{}, hardware bits {bits}, MACHVM_SEED={seed}, step {step}, {w:?}: {wrong}\n{}",
                    F::NAME,
                    w.hw().explain()
                );
            }
            assert!(
                w.hw().found() == 0,
                "{}, hardware bits {bits}, MACHVM_SEED={seed}, step {step}, {w:?}:\n{}",
                F::NAME,
                w.hw().explain()
            );
        }
        assert!(n < 10_000 || w.promoted > 0, "{}: no superpage in {n} steps: {w:?}", F::NAME);
        w.end().unwrap_or_else(|wrong| panic!("{}, MACHVM_SEED={seed}, at the end: {wrong}", F::NAME));
        w.hw().assert_clean();
        refused += w.refused;
        left -= n;
        seed += 1;
    }
    refused
}

macro_rules! short {
    ($($name:ident: $format:ty, $seed:expr;)*) => {$(
        #[test]
        fn $name() {
            run_short::<$format>($seed);
        }
    )*};
}
short! {
    x86_64_four_levels_short: X86L4, 2100;
    x86_64_five_levels_short: X86L5, 2200;
    aarch64_short: Aarch64, 2300;
    sv39_short: Sv39, 2500;
    sv48_short: Sv48, 2700;
    sv57_short: Sv57, 2900;
}

macro_rules! formats {
    ($($name:ident: $format:ty, $bits:expr, $seed:expr;)*) => {$(
        #[test]
        fn $name() {
            run::<$format>($seed, $bits);
        }
    )*};
}
formats! {
    x86_64_four_levels: X86L4, true, 100;
    x86_64_five_levels: X86L5, true, 200;
    aarch64_with_bits: Aarch64, true, 300;
    aarch64_without_bits: Aarch64, false, 400;
    sv39_with_bits: Sv39, true, 500;
    sv39_without_bits: Sv39, false, 600;
    sv48_with_bits: Sv48, true, 700;
    sv48_without_bits: Sv48, false, 800;
    sv57_with_bits: Sv57, true, 900;
    sv57_without_bits: Sv57, false, 1000;
}
