//! Runs whose memory is kept by a server that is killed and started again under them: with all
//! that it had nothing is lost; with nothing, what only it had is a memory error that names the
//! page, and all else is right (row Z80).

#![cfg(feature = "remote")]

mod common;

use common::number;
use common::servers::{Redis, S3, until};
use common::survivor::{Run, Told};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What the program has; it gets half of that in memory.
const MIB: u64 = 8;
const MEMORY: &str = "4M";
/// Clusters that the server has when the program has filled its pages, at the least.
const CLUSTERS: u64 = 20;

/// With the smallest cache: much is at the server. A run waits longer for that than the test does.
fn started(url: &str) -> Run {
    Run::survivor_with(MEMORY, &[&format!("{url},cache=1M,cluster=16,wait=180")], MIB, &S3::ENV)
}

/// Pages are lost, but those only that were at a server that lost all.
fn lost_what_was_there(told: &Told) {
    told.nothing_is_wrong();
    let n = told.lost.len() as u64;
    // What is in memory is not lost.
    assert!(n != 0 && n <= MIB * 256 - 512, "{n} pages lost: {told:?}");
    let lost = number(&told.stats, "pages that could not be read back");
    assert!(lost >= n, "{told:?}");
}

/// While the program looks at its pages and writes them anew.
#[test]
fn z80_a_redis_that_is_killed_again_and_again_costs_time_only() {
    let mut redis = Redis::new();
    let run = started(&redis.url("swap"));
    until("pages are there", || redis.keys() > CLUSTERS);
    let done = AtomicBool::new(false);
    let (told, killed) = std::thread::scope(|s| {
        let killer = s.spawn(|| {
            let mut killed = 0;
            while killed == 0 || !done.load(Relaxed) && killed < 20 {
                redis.restart();
                killed += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            killed
        });
        let told = run.finish();
        done.store(true, Relaxed);
        (told, killer.join().expect("no panic"))
    });
    told.nothing_is_wrong();
    assert_eq!(told.lost.len(), 0, "killed {killed} times: {told:?}");
    assert_eq!(redis.keys(), 0, "nothing is left there");
}

#[test]
fn z80_a_redis_that_comes_back_with_nothing_costs_what_it_had() {
    let mut redis = Redis::forgetful();
    let run = started(&redis.url("swap"));
    until("pages are there", || redis.keys() > CLUSTERS);
    redis.restart();
    lost_what_was_there(&run.finish());
    assert_eq!(redis.keys(), 0, "nothing is left there");
}

/// Keys that are deleted, and values that are overwritten, by somebody else.
#[test]
fn z80_keys_that_others_spoil_cost_their_pages() {
    let redis = Redis::new();
    let run = started(&redis.url("swap"));
    until("pages are there", || redis.keys() > CLUSTERS);
    let mut spoilt = 0;
    let keys = redis.all_keys();
    for (i, key) in keys.iter().filter(|key| key.contains("runs/")).enumerate() {
        match i % 6 {
            0 => redis.ask(&["DEL", key]),
            1 => redis.ask(&["SETRANGE", key, "100", "spoilt"]),
            2 => redis.ask(&["SET", key, ""]),
            _ => continue,
        }
        .expect("it answers");
        spoilt += 1;
    }
    assert!(spoilt > 3, "{keys:?}");
    let told = run.finish();
    told.nothing_is_wrong();
    let n = told.lost.len();
    assert!(n != 0 && n <= 16 * spoilt, "{n} pages lost, {spoilt} keys spoilt: {told:?}");
}

#[test]
fn z80_an_s3_server_that_comes_back_with_nothing_costs_what_it_had() {
    let mut s3 = S3::new();
    let run = started(&s3.url("swap"));
    until("pages are there", || s3.keys() as u64 > CLUSTERS);
    s3.restart();
    lost_what_was_there(&run.finish());
    assert_eq!(s3.keys(), 0, "nothing is left there");
}
