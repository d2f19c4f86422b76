//! Table 3: instructions of the core as a map grows, counted by callgrind.

use std::process::{Command, ExitCode};

use machvm::Vm;
use machvm::fault::Fault;
use machvm::map::{Advice, Attributes, Backing, Map};
use machvm_hal::{MaySleep, Prot, RawAddr, Va, VaRange};

use crate::null::{Null, NullPmap};
use crate::row;
use crate::table::{self, goal};

const SIZES: [u64; 3] = [10, 1_000, 100_000];
const OPERATIONS: [&str; 3] = ["lookup", "insert+delete", "fault"];
/// Operations counted in one go; less than the pages of the smallest map.
const TIMES: u64 = 500;
/// Pages of an entry, and of the hole above it.
const PAGES: u64 = 64;

/// `measure OPERATION ENTRIES`: makes the map, then does it `TIMES` times.
pub(crate) fn measure(args: &[String]) -> ExitCode {
    let (Some(operation), Some(Ok(entries))) = (args.first(), args.get(1).map(|n| n.parse())) else {
        return ExitCode::from(2);
    };
    let vm = Vm::new(Null::default()).expect("a VM");
    let bounds = VaRange::between(Va::from_page(16), Va::from_page(1 << 35)).expect("bounds");
    let map = Map::new(&vm, NullPmap, bounds);
    let attributes = Attributes { advice: Advice::Random, ..Attributes::new(Prot::RW) };
    let mut may = MaySleep::claim();
    for i in 0..entries {
        let range = VaRange::of_pages(place(i), PAGES).expect("a range");
        map.insert(range, Backing::Anonymous, &attributes, &mut may).expect("inserted");
    }
    let targets: Vec<u64> = (0..TIMES).map(|i| (i * 7919 + 13) % entries).collect();
    // The first page of an object makes its radix leaf, which is not what grows.
    for t in &targets {
        fault(&map, place(*t), &mut may);
    }
    machvm_bench_counted(&map, operation, &attributes, &targets, &mut may);
    ExitCode::SUCCESS
}

fn place(entry: u64) -> Va {
    Va::from_page(1024 + entry * 2 * PAGES)
}

fn fault(map: &Map<'_, Null>, va: Va, may: &mut MaySleep) {
    map.fault(&Fault { addr: RawAddr(va.get()), access: Prot::W }, may).expect("resolved");
}

/// What callgrind counts; it finds the function by its name.
#[inline(never)]
#[unsafe(no_mangle)]
fn machvm_bench_counted(
    map: &Map<'_, Null>,
    operation: &str,
    attributes: &Attributes,
    targets: &[u64],
    may: &mut MaySleep,
) {
    for (i, t) in targets.iter().enumerate() {
        match operation {
            "lookup" => drop(map.lookup(place(*t), Prot::R, may).expect("mapped")),
            "insert+delete" => {
                let hole = VaRange::page(place(*t).add(PAGES + PAGES / 2));
                map.insert(hole, Backing::Anonymous, attributes, may).expect("inserted");
                map.delete(hole, may).expect("deleted");
            }
            // Each time another page.
            _ => fault(map, place(*t).add(1 + i as u64 % (PAGES - 1)), may),
        }
    }
}

/// Instructions of one operation, by callgrind.
fn count(operation: &str, entries: u64) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=machvm_bench_counted"])
        .arg(me)
        .args(["measure", operation, &entries.to_string()])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    let total = text.lines().find_map(|l| l.split_once("Collected :")?.1.trim().parse::<f64>().ok());
    match total {
        Some(n) if n > 0.0 => Ok(n / TIMES as f64),
        _ => Err(format!("valgrind counted nothing ({}): {}", out.status, text.lines().last().unwrap_or(""))),
    }
}

pub(crate) fn run() {
    let mut rows = vec![row!["instructions of one", "10 entries", "1,000", "100,000", "growth", "goal"]];
    for operation in OPERATIONS {
        let counts: Result<Vec<f64>, String> = SIZES.iter().map(|n| count(operation, *n)).collect();
        let counts = match counts {
            Ok(counts) => counts,
            Err(why) => return println!("3. Instructions: not possible here: {why}"),
        };
        // A logarithm grows by as much from 1,000 to 100,000 as from 10 to 1,000; what
        // hardly grows at all passes too.
        let (first, second) = (counts[1] - counts[0], counts[2] - counts[1]);
        let mut row = row![operation];
        row.extend(counts.iter().map(|n| format!("{n:.0}")));
        row.push(format!("{first:+.0}, {second:+.0}"));
        row.push(format!("second/first {}", goal(second / first.max(counts[0] / 5.0), 1.5)));
        rows.push(row);
    }
    table::print("3. Instructions of the core (callgrind, no platform)", &rows);
}
