//! Table 9: page replacement on recorded traces (`traces/`), beside LRU and the optimum.

use std::path::{Path, PathBuf};

use machvm::pageout::Replacement;
use machvm_sim::{Curve, Engine, Stream, as_recorded, curves, size_text};
use machvm_trace::Trace;

use crate::row;
use crate::table;

/// Memory, as parts of what the program used.
const PARTS: [(u64, u64); 5] = [(1, 8), (1, 4), (1, 2), (5, 8), (3, 4)];

fn traces() -> Result<Vec<PathBuf>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces");
    let files = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut all: Vec<PathBuf> = files.filter_map(|f| Some(f.ok()?.path())).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "trace"));
    all.sort();
    if all.is_empty() { Err(format!("{}: no traces", dir.display())) } else { Ok(all) }
}

/// Misses of a curve at each size, and how many times the optimum's they are.
fn line(curve: &Curve, best: &Curve, references: u64) -> Vec<String> {
    let cell = |(p, best): (&machvm_sim::Point, &machvm_sim::Point)| {
        let misses = p.outcome.misses as f64;
        format!("{:.1} % ({:.2})", 100.0 * misses / references as f64, misses / best.outcome.misses as f64)
    };
    let mut row = vec![format!("  {}", curve.engine.name())];
    row.extend(curve.points.iter().zip(&best.points).map(cell));
    row
}

/// Whether the simulator agrees with the run.
fn agreement(trace: &Trace, stream: &Stream) -> String {
    let header = &trace.header;
    let (Some(summary), Some(r)) = (&trace.summary, Replacement::named(header.word("policy"))) else {
        return "not recorded to its end".into();
    };
    let ours = as_recorded(stream, r.policy(), header.frames);
    format!(
        "{} under {}: {} page-ins, replayed {} ({:+.2} %, {:.1} % the same pages)",
        size_text(header.frames * header.page_size),
        header.word("policy"),
        summary.page_ins,
        ours.replayed.page_ins,
        100.0 * (ours.replayed.page_ins as f64 / summary.page_ins as f64 - 1.0),
        100.0 * ours.same as f64 / ours.came as f64,
    )
}

pub(crate) fn run() -> Result<(), String> {
    println!("9. Page replacement on recorded traces: references that miss (and times the optimum's misses)");
    for path in traces()? {
        let trace = machvm_trace::read(&path).map_err(|e| format!("{} {e}", path.display()))?;
        let stream = Stream::new(&trace.events);
        let footprint = u64::from(stream.footprint);
        let frames = PARTS.map(|(part, of)| footprint * part / of);
        for daemon in [true, false] {
            let all = curves(&stream, &Engine::all(), &frames, daemon, &|_, _| {});
            let best = all.iter().find(|c| c.engine == Engine::Opt).ok_or("there is no optimum")?;
            let mut header = row![if daemon { "with the page daemon" } else { "full memory" }];
            header.extend(frames.map(|f| size_text(f * trace.header.page_size)));
            let mut rows = vec![header];
            rows.extend(all.iter().map(|c| line(c, best, stream.references)));
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let title = format!(
                "   {name}: {} references to {}; recorded in {}",
                stream.references,
                size_text(footprint * trace.header.page_size),
                agreement(&trace, &stream)
            );
            table::print(if daemon { &title } else { "" }, &rows);
        }
    }
    Ok(())
}
