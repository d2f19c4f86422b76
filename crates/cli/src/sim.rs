//! `machvm sim`: replaying a trace (`docs/traces.md`).

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use machvm_linux::run::{Replacement, parse_size};
use machvm_sim::{Chart, Engine, Format, Stream, as_recorded, csv, curves, replay, size_text, sizes, table};
use machvm_trace::{Header, Summary, Trace};

/// Sizes for each doubling, when nobody says.
const STEPS: u32 = 4;
/// More sizes than anybody looks at.
const MOST_SIZES: usize = 1000;

#[derive(Args)]
pub(crate) struct SimArgs {
    /// Who chooses the pages that go: all, or a list of clock, s3fifo, lru (exactly), and opt (Belady's
    /// optimum).
    #[arg(long, value_name = "all|NAME[,NAME...]", default_value = "all", value_parser = parse_engines)]
    policy: Engines,
    /// Sizes of memory: one, a list, or from..to, with four steps to each doubling or as many as
    /// /STEPS says. Without it: from a thirty-second of what the program used to all of it.
    #[arg(long, value_name = "SIZE[,SIZE...]|SIZE..SIZE[/STEPS]", value_parser = parse_memory)]
    memory: Option<Memory>,
    /// Without a page daemon: pages go when memory is full, as with lru and opt, and not some
    /// ahead.
    #[arg(long)]
    no_daemon: bool,
    /// Draws the miss-ratio curves as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draws them as PNG.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Writes the figures as comma-separated values.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// What `machvm run --trace FILE` recorded.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
}

#[derive(Clone)]
struct Engines(Vec<Engine>);

fn parse_engines(text: &str) -> Result<Engines, String> {
    if text == "all" {
        return Ok(Engines(Engine::all()));
    }
    let one = |name| {
        Engine::named(name).ok_or_else(|| {
            let names: Vec<&str> = Engine::all().into_iter().map(Engine::name).collect();
            format!("{name:?} is no way to choose pages: use all, or some of {}", names.join(", "))
        })
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(Engines)
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Memory {
    List(Vec<u64>),
    Range(u64, u64, u32),
}

fn parse_memory(text: &str) -> Result<Memory, String> {
    let Some((low, high)) = text.split_once("..") else {
        return text.split(',').map(parse_size).collect::<Result<_, _>>().map(Memory::List);
    };
    let (high, steps) = match high.split_once('/') {
        Some((high, steps)) => {
            let number = steps.parse().ok().filter(|n| (1..=64).contains(n));
            let wrong = || format!("{steps:?} is no number of steps for each doubling: write 1 to 64");
            (high, number.ok_or_else(wrong)?)
        }
        None => (high, STEPS),
    };
    let (low, high) = (parse_size(low)?, parse_size(high)?);
    if low > high {
        return Err(format!("{text:?} goes down: write the smaller size first"));
    }
    Ok(Memory::Range(low, high, steps))
}

impl SimArgs {
    /// Pages of each size.
    fn frames(&self, stream: &Stream, page_size: u64) -> Result<Vec<u64>, String> {
        let pages = |bytes: u64| match bytes / page_size {
            0 => Err(format!("a memory of {bytes} bytes is less than a page, which has {page_size}")),
            pages => Ok(pages),
        };
        let mut frames = match &self.memory {
            Some(Memory::List(all)) => all.iter().map(|b| pages(*b)).collect::<Result<Vec<_>, _>>()?,
            Some(Memory::Range(low, high, steps)) => sizes(pages(*low)?, pages(*high)?, *steps),
            None => {
                let most = u64::from(stream.footprint).max(1);
                sizes((most / 32).max(64).min(most), most, STEPS)
            }
        };
        frames.sort_unstable();
        frames.dedup();
        if frames.len() > MOST_SIZES {
            return Err(format!("{} sizes are too many: at most {MOST_SIZES}", frames.len()));
        }
        Ok(frames)
    }
}

/// Does what was asked; the text is the answer.
///
/// # Errors
/// One sentence.
pub(crate) fn sim(args: &SimArgs) -> Result<String, String> {
    let name = args.trace.display();
    let trace = machvm_trace::read(&args.trace).map_err(|e| format!("{name} {e}"))?;
    if let Some(cut) = trace.cut {
        eprintln!(
            "machvm: {name} is cut off: {} of its {} bytes are whole, and what they say is used",
            cut.good, cut.bytes
        );
    }
    let stream = Stream::new(&trace.events);
    if stream.references == 0 {
        return Err(format!("{name} has nothing to replay: no page was used"));
    }
    let page_size = trace.header.page_size;
    if !page_size.is_power_of_two() || page_size < 512 {
        return Err(format!("{name} says that a page has {page_size} bytes, which no page has"));
    }
    let frames = args.frames(&stream, page_size)?;
    let progress = Progress::new();
    let results =
        curves(&stream, &args.policy.0, &frames, !args.no_daemon, &|done, of| progress.show(done, of));
    progress.end();
    let mut text = about(&trace, &stream);
    text += &table(&stream, &results, page_size);

    let files = [(&args.svg, Format::Svg), (&args.png, Format::Png)];
    let (title, subtitle) = captions(&trace, &stream);
    let chart = Chart {
        title: &title,
        subtitle: &subtitle,
        curves: &results,
        references: stream.references,
        page_size,
        recorded: Some(trace.header.frames).filter(|frames| *frames != 0),
    };
    for (path, format) in files {
        if let Some(path) = path {
            chart.write(path, format).map_err(|e| format!("cannot draw {}: {e}", path.display()))?;
        }
    }
    if let Some(path) = &args.csv {
        std::fs::write(path, csv(&stream, &results, page_size))
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(text)
}

fn pages_text(pages: u64, header: &Header) -> String {
    size_text(pages * header.page_size)
}

/// How the trace was recorded, and whether the simulator agrees with what ran.
fn about(trace: &Trace, stream: &Stream) -> String {
    let header = &trace.header;
    let mut text = format!("program    {}\n", header.word("program"));
    let memory = match header.frames {
        0 => "with as much memory as it used".to_string(),
        frames => format!("in {} under {}", pages_text(frames, header), header.word("policy")),
    };
    let _ = writeln!(
        text,
        "recorded   {memory}, each page sampled {} times a second{}",
        header.sample as f64 / 1000.0,
        if trace.summary.is_some() { "" } else { "; it was killed, or goes on" }
    );
    let _ = writeln!(
        text,
        "pages      {} references to {} pages, {} at one time",
        stream.references,
        stream.pages,
        pages_text(stream.footprint.into(), header)
    );
    if let (Some(summary), Some(policy)) = (&trace.summary, Replacement::named(header.word("policy")))
        && header.frames != 0
    {
        text += &agreement(summary, header, stream, policy);
    }
    text.push('\n');
    text
}

fn agreement(live: &Summary, header: &Header, stream: &Stream, policy: Replacement) -> String {
    let (policy, frames) = (policy.policy(), header.frames);
    let off = |replayed: u64| match live.page_ins {
        0 => 0.0,
        live => 100.0 * (replayed as f64 - live as f64) / live as f64,
    };
    let same = as_recorded(stream, policy, frames);
    let (then, alone) = (same.replayed.page_ins, replay(stream, policy, frames, true).page_ins);
    format!(
        "page-ins   {} when it ran; replayed: {then} with page-out when it was ({:+.2} %, {:.1} % the same \
         pages),\n           {alone} with a page daemon that is never late ({:+.2} %)\n",
        live.page_ins,
        off(then),
        100.0 * same.same as f64 / same.came.max(1) as f64,
        off(alone)
    )
}

/// For the chart: the program, and what is known of the trace.
fn captions(trace: &Trace, stream: &Stream) -> (String, String) {
    const LONGEST: usize = 70;
    let program = trace.header.word("program");
    let mut title: String = program.chars().take(LONGEST).collect();
    if title.len() < program.len() {
        title.push('…');
    }
    let subtitle = format!(
        "{} references to {} of memory, each page sampled {} times a second",
        stream.references,
        pages_text(stream.footprint.into(), &trace.header),
        trace.header.sample as f64 / 1000.0
    );
    (title, subtitle)
}

/// What is done so far, on a terminal, when it takes long.
struct Progress {
    began: Instant,
    shown: Mutex<Option<Instant>>,
}

impl Progress {
    fn new() -> Progress {
        Progress { began: Instant::now(), shown: Mutex::new(None) }
    }
    fn show(&self, done: usize, of: usize) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = shown.map_or(self.began, |then| then).elapsed() > PATIENCE;
        if due && std::io::stderr().is_terminal() {
            *shown = Some(Instant::now());
            eprint!("\rreplayed {done} of {of}: {} s", self.began.elapsed().as_secs());
        }
    }
    fn end(&self) {
        if self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_a_list_or_a_range() {
        assert_eq!(parse_memory("64M"), Ok(Memory::List(vec![64 << 20])));
        assert_eq!(parse_memory("16M,1G"), Ok(Memory::List(vec![16 << 20, 1 << 30])));
        assert_eq!(parse_memory("16M..1G"), Ok(Memory::Range(16 << 20, 1 << 30, STEPS)));
        assert_eq!(parse_memory("16M..1G/8"), Ok(Memory::Range(16 << 20, 1 << 30, 8)));
        for (text, says) in
            [("1G..16M", "goes down"), ("16M..", "\"\""), ("16M..1G/0", "1 to 64"), ("16Q", "16Q")]
        {
            let error = parse_memory(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn policies_are_all_or_a_list() {
        assert_eq!(parse_engines("all").unwrap().0, Engine::all());
        assert_eq!(parse_engines("opt,clock").unwrap().0.len(), 2);
        let error = parse_engines("mru").err().unwrap();
        assert!(error.contains("clock, s3fifo, lru, opt"), "{error}");
    }
}
