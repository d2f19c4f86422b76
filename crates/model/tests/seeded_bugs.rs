//! The checks find mistakes: each of [`Bug::ALL`] and each [`Mistake`] of the flush
//! sequences is seeded into every format that can make it, and within a bounded number
//! of steps the run of `page_tables.rs` fails. Where one of the machine's checks found
//! it, the same run is silent without that check for at least one mistake: no check is
//! there for show.
//!
//! x86-64 has no barriers in its sequences and RISC-V none that a flush depends on, so
//! the mistakes with barriers are AArch64's.

use machvm_model::hw::{Checks, Config, HwFormat, Mistake};
use machvm_model::pt::World;
use machvm_pmap::Bug;
use machvm_pmap::pte::{Aarch64, Sv39, Sv48, Sv57, X86L4, X86L5};

/// Steps of one run.
const STEPS: u64 = 4_000;
/// Runs, with seeds from 1.
const RUNS: u64 = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seeded {
    Pmap(Bug),
    Sequence(Mistake),
}

/// How a mistake came out.
struct Found {
    run: u64,
    step: u64,
    /// The machine's checks that said so.
    checks: Checks,
    /// The comparison with the oracle, or an assertion of the pmap itself, said so.
    oracle: Option<String>,
}

/// One run with a mistake. `None`: nobody noticed.
fn run<F: HwFormat>(seed: u64, what: Seeded, checks: Checks) -> Option<Found> {
    let mut c = Config::new(F::ARCH, seed);
    let bug = match what {
        Seeded::Pmap(b) => vec![b],
        Seeded::Sequence(_) => Vec::new(),
    };
    c.trace = 0;
    let mut w = World::<F>::new(c, &bug);
    if let Seeded::Sequence(m) = what {
        w.seed_sequences(m);
    }
    w.hw().set_checks(checks);
    for step in 1..=STEPS + 1 {
        let go = || if step > STEPS { w.end() } else { w.step() };
        let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(go));
        let oracle = match went {
            Ok(r) => r.err(),
            Err(_) => Some("an assertion".to_string()),
        };
        let found = w.hw().reports().iter().fold(Checks::empty(), |a, r| a | r.kind.check());
        if oracle.is_some() || !found.is_empty() {
            // What is left of it would only trip over itself.
            std::mem::forget(w);
            return Some(Found { run: seed, step, checks: found, oracle });
        }
    }
    None
}

/// Can this format make the mistake?
fn can<F: HwFormat>(what: Seeded) -> bool {
    let (arm, x86) = (F::ARCH.is_arm(), F::ARCH.is_x86());
    match what {
        // Invalidation reaches every CPU by itself.
        Seeded::Pmap(Bug::LocalFlushOnly | Bug::CpusReadEarly) => !arm,
        Seeded::Pmap(_) | Seeded::Sequence(Mistake::WrongPage) => true,
        // INVLPG names no number.
        Seeded::Sequence(Mistake::WrongNumber) => !x86,
        Seeded::Sequence(_) => arm,
    }
}

fn all() -> Vec<Seeded> {
    let sequences = [
        Mistake::WrongPage,
        Mistake::WrongNumber,
        Mistake::NoBarrierBefore,
        Mistake::NoBarrierAfter,
        Mistake::NotBroadcast,
        Mistake::LastLevelOnly,
    ];
    Bug::ALL.into_iter().map(Seeded::Pmap).chain(sequences.into_iter().map(Seeded::Sequence)).collect()
}

fn all_are_caught<F: HwFormat>() {
    let mut missed = Vec::new();
    let mut needed = Checks::empty();
    for what in all().into_iter().filter(|w| can::<F>(*w)) {
        let Some(f) = (1..=RUNS).find_map(|seed| run::<F>(seed, what, Checks::all())) else {
            missed.push(what);
            continue;
        };
        println!("{} {what:?}: run {}, step {}, {:?} {:?}", F::NAME, f.run, f.step, f.checks, f.oracle);
        if !f.checks.is_empty() && run::<F>(f.run, what, Checks::all() - f.checks).is_none() {
            needed |= f.checks;
        }
    }
    assert!(missed.is_empty(), "{}: nobody noticed {missed:?} in {RUNS} runs of {STEPS} steps", F::NAME);
    let mut must = Checks::FLUSHED;
    must.set(Checks::BREAK_BEFORE_MAKE, F::BREAK_BEFORE_MAKE);
    assert!(needed.contains(must), "{}: no mistake goes unnoticed without {:?}", F::NAME, must - needed);
}

macro_rules! formats {
    ($($name:ident: $format:ty;)*) => {$(
        #[test]
        fn $name() {
            // The seeded assertions are expected; their messages would bury the rest.
            std::panic::set_hook(Box::new(|info| {
                if std::thread::current().name().is_some() && info.location().is_some_and(|l| l.file().contains("tests/")) {
                    eprintln!("{info}");
                }
            }));
            all_are_caught::<$format>();
        }
    )*};
}
formats! {
    x86_64_four_levels: X86L4;
    x86_64_five_levels: X86L5;
    aarch64: Aarch64;
    sv39: Sv39;
    sv48: Sv48;
    sv57: Sv57;
}
