//! The recorded traces of `traces/`: whole, small, and replayed as they were recorded.

use std::path::{Path, PathBuf};

use machvm::pageout::Replacement;
use machvm_sim::{Engine, Stream, as_recorded, curves, replay};

fn traces() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces");
    let all = std::fs::read_dir(dir).expect("the directory").map(|f| f.expect("a file").path());
    let mut all: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == "trace")).collect();
    all.sort();
    assert!(all.len() >= 3, "{all:?}");
    all
}

// Issue 6, 5: page-ins within 2 % at the recorded size. And the pages are the same: with the other
// policy they are not.
#[test]
fn recorded_traces_replay_as_they_were_recorded() {
    for path in traces() {
        let trace = machvm_trace::read(&path).expect("a trace");
        let (summary, frames) = (trace.summary.expect("it ended well"), trace.header.frames);
        let live = Replacement::named(trace.header.word("policy")).expect("a policy");
        let stream = Stream::new(&trace.events);
        let [ours, other] =
            [live, if live == Replacement::Clock { Replacement::S3Fifo } else { Replacement::Clock }]
                .map(|r| as_recorded(&stream, r.policy(), frames));
        assert_eq!(trace.cut, None);
        assert!(
            ours.replayed.page_ins.abs_diff(summary.page_ins) * 50 <= summary.page_ins,
            "{}: {summary:?}, {ours:?}",
            path.display()
        );
        assert!(ours.same * 100 >= ours.came * 95, "{}: {ours:?}", path.display());
        assert!(other.same * 100 < ours.came * 90, "{}: {other:?}", path.display());
        // Without anything of page-out from the trace.
        let alone = replay(&stream, live.policy(), frames, true).page_ins;
        assert!(
            alone.abs_diff(summary.page_ins) * 20 <= summary.page_ins,
            "{}: {summary:?}, alone {alone}",
            path.display()
        );
    }
}

#[test]
fn nothing_is_better_than_the_optimum_on_recorded_traces() {
    for path in traces() {
        let stream = Stream::new(&machvm_trace::read(&path).expect("a trace").events);
        let footprint = u64::from(stream.footprint);
        let frames = [footprint / 8, footprint / 3, footprint / 2, footprint];
        let all = curves(&stream, &Engine::all(), &frames, true, &|_, _| {});
        let best = all.iter().find(|c| c.engine == Engine::Opt).expect("the optimum");
        for curve in &all {
            for (p, best) in curve.points.iter().zip(&best.points) {
                assert!(p.outcome.misses >= best.outcome.misses, "{}: {curve:?}", path.display());
                assert!(p.outcome.misses >= u64::from(stream.pages), "first uses miss");
            }
        }
    }
}
