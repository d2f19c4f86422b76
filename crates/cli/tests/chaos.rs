//! Runs whose swap is damaged, cut, stopped and killed under them: every page is right or a memory
//! error that names it; nothing hangs, and nothing is left over.
//!
//! `MACHVM_SEED=n` replays the choice of what is damaged.

mod common;

use common::pager::Pager;
use common::survivor::Run;
use common::{NEVER, PAGE, number, scratch};
use std::collections::HashSet;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// xorshift64*: the seed is all there is to replay.
struct Random(u64);
impl Random {
    fn new() -> Random {
        let given = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("MACHVM_SEED={seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }
}

/// Bits of the swap file turn while the program waits: with encryption and without.
#[test]
fn z81_bits_that_turn_in_a_swap_file_cost_their_pages() {
    let mut r = Random::new();
    for how in ["", ",plain"] {
        let dir = scratch(&format!("chaos-bits-{}", how.trim_start_matches(',')));
        let run = Run::survivor("4M", &[&format!("file:{}:32M{how}", dir.display())], 12);
        let file = run.swap_file(&dir);
        let size = file.metadata().expect("metadata").len();
        assert_eq!(size, 32 << 20);
        let hit: HashSet<u64> = (0..200).map(|_| 1 + r.below(2500)).collect();
        for page in &hit {
            let (at, mut byte) = (page * PAGE + r.below(PAGE), [0]);
            file.read_exact_at(&mut byte, at).expect("read");
            byte[0] ^= 1 << r.below(8);
            file.write_all_at(&byte, at).expect("written");
        }
        file.sync_all().expect("written");
        let told = run.finish();
        told.nothing_is_wrong();
        let n = told.lost.len();
        assert!(n != 0 && n <= hit.len(), "{n} pages lost, {} hit: {told:?}", hit.len());
        assert!(number(&told.stats, "pages that could not be read back") >= n as u64, "{told:?}");
        std::fs::remove_dir_all(dir).expect("removed");
    }
}

/// The end of the swap file is cut off, and pages are written there again.
#[test]
fn z81_a_swap_file_that_is_cut_costs_what_was_there() {
    let dir = scratch("chaos-cut");
    let run = Run::survivor("4M", &[&format!("file:{}:32M", dir.display())], 12);
    let file = run.swap_file(&dir);
    file.set_len(5 << 20).expect("cut");
    let told = run.finish();
    told.nothing_is_wrong();
    let n = told.lost.len();
    assert!(n != 0 && n < 3072 - 512, "{n} pages lost: {told:?}");
    std::fs::remove_dir_all(dir).expect("removed");
}

/// A pager that does not answer for a while costs time.
#[test]
fn z116_a_pager_that_pauses_costs_time_only() {
    let pager = Pager::in_c();
    let run = Run::survivor("4M", &[&pager.place(256)], 12);
    pager.signal("-STOP");
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(1500));
            pager.signal("-CONT");
        });
        let told = run.finish();
        told.nothing_is_wrong();
        assert_eq!(told.lost.len(), 0, "{told:?}");
    });
}

/// A pager that is killed, and one that is started in its place and knows nothing: what it had is
/// lost, nothing else, and it is used again.
#[test]
fn z116_a_pager_that_comes_back_without_its_data_costs_what_it_had() {
    let socket = scratch("chaos").join("comes-back");
    let pager = Pager::in_c_at(&socket);
    let run = Run::survivor("4M", &["lz4:1M,prio=9", &pager.place(256)], 8);
    drop(pager);
    let _pager = Pager::in_c_at(&socket);
    let told = run.finish();
    told.nothing_is_wrong();
    let n = told.lost.len();
    assert!(n != 0 && n <= 2048 - 512, "{n} pages lost: {told:?}");
    let name = socket.display();
    assert!(number(&told.stats, &format!("{name}: pages written")) > n as u64, "{told:?}");
}

/// Runs that are killed leave a pager no worse: it is there for the next, with all its room.
#[test]
fn z116_runs_that_are_killed_leave_their_pager_alone() {
    let pager = Pager::in_c();
    let resident = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", pager.child.id())).expect("it runs");
        statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("pages")
    };
    let mut after = Vec::new();
    for _ in 0..4 {
        let mut run = Run::survivor("3M", &[&pager.place(256)], 16);
        run.child.kill().expect("killed");
        run.ended();
        // What it was asked to keep goes with the connection.
        let end = Instant::now() + NEVER;
        while after.first().is_some_and(|first| resident() > first + 1000) {
            assert!(Instant::now() < end, "{} pages at first, {} now", after[0], resident());
            std::thread::sleep(Duration::from_millis(10));
        }
        after.push(resident());
    }
    let told = Run::survivor("3M", &[&pager.place(256)], 16).finish();
    told.nothing_is_wrong();
    assert_eq!(told.lost.len(), 0, "{told:?}");
}

/// A run that is killed while it pages: no process of it is left, and neither is its socket once
/// the next one has begun.
#[test]
fn s13_a_run_that_is_killed_leaves_no_process() {
    let dir = scratch("chaos-killed");
    let spec = format!("lz4:1M,file:{}:64M", dir.join("swap").display());
    let mut run = Run::survivor("4M", &[&spec], 16);
    let pid = run.child.id();
    let group: Vec<_> = children(pid);
    run.input.take().expect("open").write_all(b"x").expect("it goes on");
    run.child.kill().expect("killed");
    run.ended();
    for child in group {
        let end = Instant::now() + NEVER;
        while Path::new(&format!("/proc/{child}")).exists() {
            assert!(Instant::now() < end, "process {child} of the run {pid} goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 0);
    let told = Run::survivor("4M", &[&spec], 8).finish();
    told.nothing_is_wrong();
    std::fs::remove_dir_all(dir).expect("removed");
}

fn children(pid: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    let numbers = all.filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok());
    let parent = |n: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{n}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1).and_then(|p| p.parse::<u32>().ok())
    };
    numbers.filter(|n| parent(n) == Some(pid)).collect()
}
