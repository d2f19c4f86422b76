//! The `machvm` command.
#![forbid(unsafe_code)]

mod ask;
mod sim;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Parser, Subcommand};
use machvm_linux::run::{self, Options, Replacement, RunError, StatsTo, SwapPlaces, parse_size, parse_swap};

/// Our own failures, as `env` and `timeout` do it.
const FAILURE: u8 = 125;
/// Chooses Linux's own memory instead of ours, for telling apart whose fault a
/// failure is.
const SPACE_VARIABLE: &str = "MACHVM_SPACE";

/// The Mach/BSD virtual memory system, under an unmodified Linux program.
#[derive(Parser)]
#[command(name = "machvm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a program on machvm's virtual memory.
    ///
    /// Input, output, exit status, death by signal, environment and descriptors are the
    /// program's own. machvm's own exit statuses: 2 wrong usage, 125 machvm failed, 126 the
    /// program cannot be executed, 127 there is no such program.
    Run(RunArgs),
    /// Lists the objects of a running program's memory, and its external pagers: sizes, what
    /// is resident, modified and paged out, errors.
    Objects(Which),
    /// Lists the places of swap of a running program, or changes them:
    /// `machvm swap RUN on PLACE[,SETTING...]`, `machvm swap RUN off NAME`.
    Swap(SwapArgs),
    /// Replays a trace of `machvm run --trace` with other sizes of memory, through the policies of
    /// `machvm run --policy`, LRU and Belady's optimum; prints how many references miss, and
    /// draws curves.
    Sim(sim::SimArgs),
}

#[derive(Args)]
struct Which {
    /// The process id, or the socket that was given to `machvm run --control`.
    #[arg(value_name = "RUN")]
    run: String,
}

#[derive(Args)]
struct SwapArgs {
    #[command(flatten)]
    which: Which,
    /// list (as without one), on PLACE as for `machvm run --swap`, or off NAME.
    #[arg(trailing_var_arg = true, value_name = "REQUEST")]
    request: Vec<String>,
}

#[derive(Args)]
struct RunArgs {
    /// Limit of the program's resident memory, such as 64M or 1G.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Where pages go when memory is short: a list of lz4[:MAX] and zstd[:MAX] (compressed pools),
    /// file:PATH:SIZE, file:DIRECTORY:SIZE, dev:DEVICE, pager:SOCKET[:MAX] (another process),
    /// redis://HOST/PREFIX, s3://BUCKET/PREFIX, opendal+fs:///DIRECTORY (docs/remote.md); or none. Earlier ones are filled first.
    /// Settings follow their place: prio=N, level=N (zstd), plain (no encryption), force (devices),
    /// max=SIZE, cluster=PAGES, cache=SIZE, wait=SECONDS (servers).
    #[arg(long, value_name = "PLACE[,SETTING...][,PLACE...]", default_value = "lz4", value_parser = parse_swap)]
    swap: Vec<SwapPlaces>,
    /// How pages that go are chosen: clock (second chance), or s3fifo, which keeps what is in
    /// use through long reads.
    #[arg(long, value_name = "clock|s3fifo", default_value = "clock", value_parser = parse_policy)]
    policy: Replacement,
    /// Records how the program uses its memory, for `machvm sim`.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How often a second each page in memory is unmapped while that is recorded, so that uses are
    /// seen that make no fault; 0 for never. At most 20,000 pages are, a second.
    #[arg(long, value_name = "TIMES", default_value = "1", value_parser = parse_sample, requires = "trace")]
    sample: u32,
    /// Prints statistics after the program's end, to standard error or to FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    stats: Option<Option<PathBuf>>,
    /// Prints the program's memory map at its end, to where the statistics go.
    #[arg(long)]
    maps: bool,
    /// Answers `machvm objects` and `machvm swap` at this socket, instead of
    /// $XDG_RUNTIME_DIR/machvm/PID.sock.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// The program and its arguments, after `--`.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM [ARG]")]
    program: Vec<OsString>,
}

fn parse_policy(text: &str) -> Result<Replacement, String> {
    Replacement::named(text).ok_or_else(|| format!("{text:?} is no way to choose pages: use clock or s3fifo"))
}

fn parse_sample(text: &str) -> Result<u32, String> {
    let times: Option<f64> = text.parse().ok().filter(|t| (0.0..=1000.0).contains(t));
    let wrong = || format!("{text:?} is no number of times a second: write 0 to 1000, such as 0.5");
    times.map(|t| (t * 1000.0).round() as u32).ok_or_else(wrong)
}

fn options(args: &RunArgs) -> Options {
    Options {
        memory: args.memory,
        swap: args.swap.iter().flat_map(|places| places.0.clone()).collect(),
        policy: args.policy,
        trace: args.trace.clone(),
        sample: args.sample,
        stats: args.stats.as_ref().map(|file| file.clone().map_or(StatsTo::Stderr, StatsTo::File)),
        maps: args.maps,
        native: is_native(),
        control: args.control.clone(),
    }
}

/// Is it Linux's own memory that was asked for?
fn is_native() -> bool {
    std::env::var_os(SPACE_VARIABLE).is_some_and(|value| value == "native")
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            return explain(&error);
        }
    };
    let answer = match cli.command {
        Command::Run(args) if args.trace.is_some() && is_native() => {
            eprintln!(
                "machvm: --trace records machvm's memory, and {SPACE_VARIABLE}=native chooses Linux's: leave one out"
            );
            return ExitCode::from(2);
        }
        Command::Run(args) => {
            let Err(error) = start(&args);
            eprintln!("machvm: {error}");
            return ExitCode::from(u8::try_from(error.status()).unwrap_or(FAILURE));
        }
        Command::Objects(which) => ask::ask(&which.run, "objects"),
        Command::Sim(args) => sim::sim(&args),
        Command::Swap(args) => ask::ask(&args.which.run, &format!("swap {}", args.request.join(" "))),
    };
    match answer {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("machvm: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// One sentence for a wrong value; for the rest, what clap shows.
fn explain(error: &clap::Error) -> ExitCode {
    let sentence = std::error::Error::source(error);
    match (sentence, error.get(ContextKind::InvalidArg)) {
        (Some(sentence), Some(argument)) if error.kind() == ErrorKind::ValueValidation => {
            eprintln!("machvm: {argument}: {sentence}");
        }
        _ => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn start(args: &RunArgs) -> Result<std::convert::Infallible, RunError> {
    let (program, rest) = args.program.split_first().unwrap_or((const { &OsString::new() }, &[]));
    run::run(options(args), program, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<RunArgs, clap::Error> {
        Cli::try_parse_from(["machvm", "run"].iter().chain(line)).map(|cli| match cli.command {
            Command::Run(args) => args,
            Command::Objects(_) | Command::Sim(_) | Command::Swap(_) => {
                unreachable!("the line begins with run")
            }
        })
    }

    #[test]
    fn the_command_line_is_what_the_manual_says() {
        let args =
            parse(&["--memory", "64M", "--swap", "lz4:1G", "--stats", "--maps", "--", "ls", "-l"]).unwrap();
        assert_eq!(args.program, ["ls", "-l"]);
        let options = options(&args);
        assert_eq!(options.memory, Some(64 << 20));
        assert_eq!(options.swap, [run::SwapTier::new(run::SwapPlace::Lz4 { max: Some(1 << 30) })]);
        assert_eq!(options.stats, Some(StatsTo::Stderr));
        assert!(options.maps);
        let args = parse(&["--stats=out", "ls", "--color"]).unwrap();
        assert_eq!(args.stats, Some(Some("out".into())));
        assert_eq!(args.policy, Replacement::Clock);
        let args = parse(&["--policy", "s3fifo", "ls"]).unwrap();
        assert_eq!(args.policy, Replacement::S3Fifo);
        let args = parse(&["--stats=out", "ls", "--color"]).unwrap();
        assert_eq!(args.program, ["ls", "--color"]);
    }

    #[test]
    fn wrong_usage_names_the_value_and_the_way_out() {
        for (line, says) in [
            (&["--memory", "64Q", "--", "ls"][..], "64Q"),
            (&["--swap", "zram", "--", "ls"], "zram"),
            (&["--swap", "lz4:x", "--", "ls"], "\"x\""),
            (&["--policy", "lru", "--", "ls"], "use clock or s3fifo"),
            (&["--trace", "t", "--sample", "often", "--", "ls"], "\"often\""),
            (&["--sample", "2", "--", "ls"], "--trace"),
            (&["--memory=", "ls"], "\"\" is not a size"),
            (&["--memroy", "64M", "ls"], "--memroy"),
            (&[], "PROGRAM"),
        ] {
            let error = parse(line).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
