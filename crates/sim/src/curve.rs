//! Curves: what each way of replacement does, over sizes of memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use machvm::pageout::Replacement;

use crate::lru::Stack;
use crate::memory::{Outcome, replay};
use crate::opt::{next_uses, optimum_of};
use crate::stream::Stream;

/// A way of replacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// A policy of the core.
    Policy(Replacement),
    /// Least recently used.
    Lru,
    /// Belady's optimum.
    Opt,
}

impl Engine {
    /// Every one: those of the core first.
    #[must_use]
    pub fn all() -> Vec<Engine> {
        Replacement::ALL.into_iter().map(Engine::Policy).chain([Engine::Lru, Engine::Opt]).collect()
    }
    /// What users call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Engine::Policy(r) => r.policy().name(),
            Engine::Lru => "lru",
            Engine::Opt => "opt",
        }
    }
    /// The one that users call so.
    #[must_use]
    pub fn named(name: &str) -> Option<Engine> {
        Engine::all().into_iter().find(|e| e.name() == name)
    }
}

/// What came of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Pages of memory.
    pub frames: u64,
    /// What was counted.
    pub outcome: Outcome,
}

/// What came of all sizes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Curve {
    /// Of which way.
    pub engine: Engine,
    /// One for each size, in the order asked for.
    pub points: Vec<Point>,
}

/// Sizes from `low` to `high`, `steps` to each doubling, both ends included.
#[must_use]
pub fn sizes(low: u64, high: u64, steps: u32) -> Vec<u64> {
    let (low, high) = (low.max(1), high.max(low.max(1)));
    let count = ((high as f64 / low as f64).log2() * f64::from(steps.max(1))).round().max(0.0) as u32;
    let ratio = (high as f64 / low as f64).powf(1.0 / f64::from(count.max(1)));
    let mut all: Vec<u64> =
        (0..count).map(|i| (low as f64 * ratio.powi(i as i32)).round() as u64).chain([high]).collect();
    all.dedup();
    all
}

/// One piece of work: of an engine (by its place), all sizes or one.
#[derive(Clone, Copy)]
struct Job {
    engine: usize,
    size: Option<usize>,
}

/// Replays a stream in each way with so many frames each. `daemon`: policies free pages when
/// the page daemon would; else when memory is full, as LRU and the optimum do. `progress` is
/// told how many of how many pieces are done, from any thread.
#[must_use]
pub fn curves(
    stream: &Stream,
    engines: &[Engine],
    frames: &[u64],
    daemon: bool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<Curve> {
    let jobs: Vec<Job> = (engines.iter().enumerate())
        .flat_map(|(engine, e)| match e {
            Engine::Lru => vec![Job { engine, size: None }],
            _ => (0..frames.len()).map(|i| Job { engine, size: Some(i) }).collect(),
        })
        .collect();
    let next =
        if engines.contains(&Engine::Opt) { next_uses(&stream.uses, stream.pages) } else { Vec::new() };
    let do_job = |job: Job| -> Vec<Outcome> {
        let size = job.size.map_or(0, |i| frames[i]);
        match engines[job.engine] {
            Engine::Policy(r) => vec![replay(stream, r.policy(), size, daemon)],
            Engine::Opt => vec![optimum_of(&stream.uses, &next, stream.pages, size)],
            Engine::Lru => {
                let stack = Stack::new(&stream.uses, stream.pages);
                frames.iter().map(|f| stack.outcome(*f)).collect()
            }
        }
    };
    let results: Vec<Mutex<Vec<Outcome>>> = jobs.iter().map(|_| Mutex::default()).collect();
    let (taken, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(i) = Some(taken.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < jobs.len()) {
            let outcome = do_job(jobs[i]);
            *results[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = outcome;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        }
    };
    std::thread::scope(|s| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
        (1..threads).for_each(|_| drop(s.spawn(work)));
        work();
    });
    let mut all: Vec<Curve> = engines.iter().map(|e| Curve { engine: *e, points: Vec::new() }).collect();
    for (job, outcomes) in jobs.iter().zip(results) {
        let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = job.size.unwrap_or(0);
        let points = outcomes.into_iter().enumerate();
        all[job.engine]
            .points
            .extend(points.map(|(i, outcome)| Point { frames: frames[first + i], outcome }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_both_ends_and_rise() {
        assert_eq!(sizes(16, 64, 1), [16, 32, 64]);
        assert_eq!(sizes(16, 16, 4), [16]);
        let many = sizes(3, 1000, 4);
        assert_eq!((many[0], many[many.len() - 1]), (3, 1000));
        assert!(many.is_sorted_by(|a, b| a < b), "{many:?}");
        assert_eq!(sizes(0, 0, 2), [1]);
    }
}
