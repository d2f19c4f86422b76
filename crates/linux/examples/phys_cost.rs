//! What reading, writing and discarding frames costs on this machine, in
//! nanoseconds a page: the figures in the text of `phys`.
//!
//! Run with `cargo run --release -p machvm-linux --example phys_cost`.

use machvm_hal::{Pfn, PhysMem};
use machvm_linux::phys::LinuxMem;
use std::time::Instant;

const PAGES: u32 = 8192;
const REPEATS: usize = 9;

/// Median nanoseconds a page of `op` over runs of `run` pages.
fn median(base: Pfn, run: u32, mut before: impl FnMut(), mut op: impl FnMut(Pfn, u32)) -> f64 {
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            before();
            let start = Instant::now();
            for i in (0..PAGES).step_by(run as usize) {
                op(base.add(u64::from(i)), run);
            }
            start.elapsed().as_nanos() as f64 / f64::from(PAGES)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mem = LinuxMem::new(u64::from(PAGES))?;
    let base = mem.extent_reserve(u64::from(PAGES)).map_err(|_| "no frame numbers")?;
    let page = [1u8; 4096];
    // One byte makes a hole resident.
    let fill = || (0..u64::from(PAGES)).for_each(|i| mem.write(base.add(i), 0, &[0]));
    let empty = || mem.discard(base, PAGES);
    println!("{:24} {:>8} {:>8} {:>8}", "ns/page in runs of", 1, 16, 512);
    let row = |name: &str, cost: &dyn Fn(u32) -> f64| {
        println!("{name:24} {:8.0} {:8.0} {:8.0}", cost(1), cost(16), cost(512));
    };
    row("discard", &|n| median(base, n, fill, |f, n| mem.discard(f, n)));
    let one = |name: &str, cost: f64| println!("{name:24} {cost:8.0}");
    let mut buf = [0u8; 4096];
    one("read", median(base, 1, fill, |f, _| mem.read(f, 0, &mut buf)));
    one("write", median(base, 1, fill, |f, _| mem.write(f, 0, &page)));
    one("write into a hole", median(base, 1, empty, |f, _| mem.write(f, 0, &page)));
    one("copy", median(base, 1, fill, |f, _| mem.copy(f, base)));
    Ok(())
}
