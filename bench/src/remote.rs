//! Table 13: pages to and from a Redis server, beside what `redis-benchmark` gets out of the same
//! server with values of the same size.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use machvm_hal::{Swap, SwapSlot};
use machvm_pagers::Tiers;
use machvm_pagers::remote::{Engine, Hooks, Patience, RemotePlace, RemoteTier, TierOptions};

use crate::row;
use crate::servers::Redis;
use crate::swap::{Page, Part, Random, page};
use crate::table::{self, Samples};

const PAGES: usize = 16384;
/// Pages read one by one.
const READS: usize = 2048;
/// Requests of `redis-benchmark`, and keys that they are about.
const REQUESTS: &str = "8192";
const KEYS: &str = "1024";
const WRITERS: usize = 4;

/// Clusters in a second: out, in with the pages of a run together, in at random; pages a cluster
/// really had, and bytes of a value.
struct Ours {
    out: f64,
    runs: f64,
    random: f64,
    keys: u64,
    bytes: u64,
}

fn ours(redis: &Redis, pages: &[Page], cluster: usize) -> Result<Ours, String> {
    redis.ask(&["FLUSHALL"])?;
    let place = RemotePlace::parse(&format!("redis://127.0.0.1:{}/bench", redis.port))?;
    let engine = Engine::open(&place, Patience::default(), Hooks::default())?;
    // What is compared is the server: nothing is to be found on the way.
    let cache = TierOptions::LEAST_CACHE;
    let options = TierOptions { cluster, cache, writers: WRITERS, ..TierOptions::default() };
    let tier = Arc::new(RemoteTier::open(&place, engine, options)?);
    let tiers = Tiers::new();
    tiers.on(Box::new(Arc::clone(&tier)), 0).map_err(|e| e.to_string())?;
    let mut slots: Vec<Option<SwapSlot>> = vec![None; pages.len()];
    let others: u64 = size_of_database(redis)?;
    let begun = Instant::now();
    for (part, slots) in pages.chunks(32).zip(slots.chunks_mut(32)) {
        if tiers.put_run(&Part(part), slots) != part.len() {
            return Err("it does not take a page".into());
        }
    }
    tiers.drain().map_err(|(_, e)| format!("{e:?}"))?;
    let out = begun.elapsed().as_secs_f64();
    let keys = size_of_database(redis)? - others;
    let bytes = value_size(redis)?;
    let slots: Vec<SwapSlot> = slots.into_iter().flatten().collect();
    let mut wrong = 0;
    let begun = Instant::now();
    for (part, pages) in slots.chunks(cluster).zip(pages.chunks(cluster)) {
        tiers.get_run(part, &mut |i, read| wrong += usize::from(read.ok() != Some(&pages[i])));
    }
    let runs = begun.elapsed().as_secs_f64();
    let (mut r, mut to) = (Random::new(), [0; 4096]);
    let begun = Instant::now();
    for _ in 0..READS {
        let n = r.below(pages.len());
        wrong += usize::from(tiers.get(slots[n], &mut to).is_err() || to != pages[n]);
    }
    let random = begun.elapsed().as_secs_f64();
    tier.end(std::time::Duration::from_secs(10));
    if wrong != 0 {
        return Err(format!("{wrong} pages were wrong"));
    }
    let of = |n: u64, seconds: f64| n as f64 / seconds;
    Ok(Ours { out: of(keys, out), runs: of(keys, runs), random: of(READS as u64, random), keys, bytes })
}

fn size_of_database(redis: &Redis) -> Result<u64, String> {
    redis.ask(&["DBSIZE"])?.parse().map_err(|_| "DBSIZE is no number".into())
}

/// The middle one of some.
fn value_size(redis: &Redis) -> Result<u64, String> {
    let mut sizes = Vec::new();
    for _ in 0..101 {
        let key = redis.ask(&["RANDOMKEY"])?;
        sizes.push(redis.ask(&["STRLEN", &key])?.parse().unwrap_or(0));
    }
    sizes.sort_unstable();
    Ok(sizes[50])
}

/// Requests in a second.
fn benchmark(redis: &Redis, what: &str, bytes: u64, clients: usize) -> Result<f64, String> {
    let mut c = Command::new("redis-benchmark");
    c.args([
        "-h",
        "127.0.0.1",
        "-p",
        &redis.port.to_string(),
        "--csv",
        "-n",
        REQUESTS,
        "-r",
        KEYS,
        "-t",
        what,
    ]);
    c.args(["-d", &bytes.to_string(), "-c", &clients.to_string()]);
    let out = c.output().map_err(|e| format!("redis-benchmark: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("\"{what}\"")));
    let rate = line.and_then(|l| l.split(',').nth(1)).and_then(|n| n.trim_matches('"').parse().ok());
    rate.ok_or_else(|| format!("redis-benchmark said {text:?}"))
}

/// One size of clusters.
fn compare(redis: &Redis, pages: &[Page], cluster: usize) -> Result<[Vec<String>; 3], String> {
    let mut s = Samples::default();
    let (mut keys, mut bytes) = (0, 0);
    for _ in 0..table::rounds(5) {
        let o = ours(redis, pages, cluster)?;
        (keys, bytes) = (o.keys, o.bytes);
        s.add("out", o.out);
        s.add("runs", o.runs);
        s.add("random", o.random);
        // The same number of requests at a time.
        s.add("set", benchmark(redis, "set", bytes, WRITERS)?);
        s.add("get", benchmark(redis, "get", bytes, 1)?);
    }
    let name = format!("{cluster}, {:.1} KiB", bytes as f64 / 1024.0);
    let pages_of_key = pages.len() as f64 / keys as f64;
    let row = |what: &str, a: &str, peer: &str, b: &'static str, pages: f64| {
        let (ours, theirs) = (s.median(a), s.median(b));
        let mib = ours * pages / 256.0;
        row![
            name,
            what,
            format!("{ours:.0}"),
            format!("{mib:.0}"),
            peer,
            format!("{theirs:.0}"),
            format!("{:.2}", s.ratio(a, b))
        ]
    };
    Ok([
        row("page-out", "out", "SET, 4 clients", "set", pages_of_key),
        row("page-in, whole clusters", "runs", "GET, 1 client", "get", pages_of_key),
        row("page-in, random pages", "random", "GET, 1 client", "get", 1.0),
    ])
}

pub(crate) fn run() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let title = format!(
        "13. Redis on this machine: clusters a second, encrypted, {} MiB, a quarter of it noise; beside redis-benchmark with\n    \
         values of the same size and as many requests at a time (medians of {}, in turn; load {})",
        PAGES / 256,
        table::rounds(5),
        load.trim()
    );
    let dir = std::env::temp_dir().join(format!("machvm-bench-redis-{}", std::process::id()));
    if let Err(why) = fs::create_dir(&dir).map_err(|e| e.to_string()).and_then(|()| table_of(&title, &dir)) {
        println!("{title}: not possible here: {why}");
    }
    let _ = fs::remove_dir_all(&dir);
}

fn table_of(title: &str, dir: &Path) -> Result<(), String> {
    let redis = Redis::new(dir)?;
    let mut r = Random::new();
    let pages: Vec<Page> = (0..PAGES).map(|i| page(&mut r, i % 4 == 3)).collect();
    let mut rows = vec![row!["pages, value", "", "ours/s", "MiB/s", "peer", "peer's/s", "ours/peer"]];
    for cluster in [16, 64] {
        rows.extend(compare(&redis, &pages, cluster)?);
    }
    table::print(title, &rows);
    Ok(())
}
