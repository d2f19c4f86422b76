//! Swap on Redis, S3 and a directory: whatever happens to the server, a page comes back as
//! it was, or not at all.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use super::super::runtime::Hooks;
use super::super::tests::servers::{NEVER, Proxy, Redis, S3, Scratch, until};
use super::super::{Engine, Patience};
use super::*;

/// A deadline that a test waits for.
const SHORT: Patience = Patience { attempt: Duration::from_millis(500), whole: Duration::from_secs(1) };
/// One that no test reaches unless something hangs.
const LONG: Patience = Patience { attempt: Duration::from_secs(2), whole: NEVER };

fn small() -> TierOptions {
    let again = Duration::ZERO;
    TierOptions { max: 64 << 20, cluster: 8, cache: 1 << 20, again, ..TierOptions::default() }
}

fn open(url: &str, patience: Patience, options: TierOptions) -> Arc<RemoteTier> {
    let place = RemotePlace::parse(url).expect(url);
    let engine = Engine::open(&place, patience, Hooks::default()).expect("the server answers");
    Arc::new(RemoteTier::open(&place, engine, options).expect("it can be used"))
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
}

/// Contents of their own for every number, which do not compress away.
fn page(n: u64) -> PageBytes {
    let mut r = Random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut page = [0; PAGE];
    for word in page.as_chunks_mut::<8>().0.iter_mut().step_by(2) {
        *word = r.next().to_le_bytes();
    }
    page
}

struct Pages(Vec<PageBytes>);
impl PageRun for Pages {
    fn pages(&self) -> usize {
        self.0.len()
    }
    fn read(&self, i: usize, to: &mut PageBytes) {
        *to = self.0[i];
    }
}

fn put(tier: &Arc<RemoteTier>, from: u64, n: u64) -> (Vec<Option<Place>>, Result<(), TierError>) {
    let ids: Vec<_> = (from..from + n).map(PageId).collect();
    let mut places = vec![None; n as usize];
    let done = tier.put_run(&Pages((from..from + n).map(page).collect()), &ids, &mut places);
    (places, done)
}

/// Puts, reads and frees pages; everything must come back. Gives what is there at the end.
fn use_it(tier: &Arc<RemoteTier>, r: &mut Random, first: u64, steps: usize) -> HashMap<u64, Place> {
    let mut there: HashMap<u64, Place> = HashMap::new();
    let (mut next, mut got) = (first, [0; PAGE]);
    for step in 0..steps {
        match r.below(8) {
            0..3 => {
                let n = 1 + r.below(24) as u64;
                let (places, done) = put(tier, next, n);
                assert_eq!(done, Ok(()), "step {step}");
                there.extend((next..).zip(places.into_iter().flatten()));
                next += n;
            }
            3..5 => {
                let some: Vec<u64> = there.keys().copied().filter(|_| r.below(6) == 0).collect();
                for id in some.iter().take(12) {
                    tier.free(PageId(*id), there.remove(id).expect("there"));
                }
            }
            _ => {
                let mut some: Vec<_> = there.iter().map(|(id, p)| (*id, *p)).collect();
                some.sort_unstable_by_key(|(id, _)| *id);
                for _ in 0..some.len().min(6) {
                    let (id, place) = some[r.below(some.len())];
                    assert_eq!(tier.get(PageId(id), place, &mut got), Ok(()), "page {id}, step {step}");
                    assert!(got == page(id), "page {id}, step {step}");
                }
            }
        }
    }
    there
}

/// All that is there is read, and freed.
fn all_right(tier: &Arc<RemoteTier>, there: &HashMap<u64, Place>) {
    let mut got = [0; PAGE];
    for (id, place) in there {
        assert_eq!(tier.get(PageId(*id), *place, &mut got), Ok(()), "page {id}");
        assert!(got == page(*id), "page {id}");
        assert_eq!(tier.get(PageId(id + 1_000_000), *place, &mut got), Err(TierError::Lost), "not its page");
        tier.free(PageId(*id), *place);
        assert_eq!(tier.get(PageId(*id), *place, &mut got), Err(TierError::Lost), "freed");
    }
    assert_eq!(tier.stats().pages, 0);
}

fn seed() -> u64 {
    let text = std::env::var("MACHVM_SEED").ok();
    let seed = text.and_then(|s| s.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()) << 20 | 77);
    println!("MACHVM_SEED={seed} replays this");
    seed
}

fn behaves(url: &str, keys: &dyn Fn() -> usize, steps: usize) {
    let mut r = Random(seed() | 1);
    for encrypt in [true, false] {
        let tier = open(url, LONG, TierOptions { encrypt, ..small() });
        let there = use_it(&tier, &mut r, 1, steps);
        tier.drain().expect("written");
        let s = tier.stats();
        assert_eq!((s.in_flight, s.errors, s.damaged), (0, [0, 0], 0));
        assert!(s.writes > 0 && keys() > 0, "{s:?}");
        all_right(&tier, &there);
        drop(tier);
        assert_eq!(keys(), 0, "something is left");
    }
}

#[test]
fn s07_s14_a_directory_keeps_pages() {
    let dir = Scratch::new("tier");
    behaves(&dir.url(), &|| dir.files().len(), 400);
}

#[test]
fn s07_s14_redis_keeps_pages() {
    let redis = Redis::new();
    behaves(&redis.url("swap/here"), &|| redis.keys() as usize, 400);
}

#[test]
fn s07_s14_s3_keeps_pages() {
    if !S3::has_keys("remote::tier::tests::s07_s14_s3_keeps_pages") {
        return;
    }
    let s3 = S3::new();
    behaves(&s3.url("swap"), &|| s3.keys(), 120);
}

/// z80: its write fails, so the page is kept; when the server is back it is written.
#[test]
fn z80_a_server_that_is_killed_and_started_again_loses_nothing() {
    let mut redis = Redis::new();
    let mut r = Random(seed() | 1);
    let tier = open(&redis.url("x"), LONG, small());
    let mut there = use_it(&tier, &mut r, 1, 150);
    for round in 1..4 {
        redis.kill();
        // They wait for it, or are in memory.
        let more = std::thread::scope(|s| {
            let (tier, r) = (&tier, &mut r);
            let user = s.spawn(move || use_it(tier, r, round * 100_000, 150));
            std::thread::sleep(Duration::from_millis(50));
            redis.restart();
            user.join().expect("right")
        });
        there.extend(more);
    }
    tier.drain().expect("written");
    all_right(&tier, &there);
    drop(tier);
    assert_eq!(redis.keys(), 0);
}

/// Answers are cut, late, and wrong: what is read is right all the same.
#[test]
fn s08_bad_connections_lose_nothing() {
    let redis = Redis::new();
    let mut r = Random(seed() | 1);
    let proxy = Proxy::new(redis.address(), r.next());
    let url = format!("redis://127.0.0.1:{}/p", proxy.port);
    let tier = open(&url, LONG, small());
    proxy.harm.cut.store(40, SeqCst);
    proxy.harm.delay[1].store(30, SeqCst);
    proxy.harm.delay[0].store(50, SeqCst);
    let there = use_it(&tier, &mut r, 1, 150);
    assert!(proxy.harm.done.load(SeqCst) > 0, "no harm was done");
    proxy.harm.cut.store(0, SeqCst);
    proxy.harm.delay[0].store(0, SeqCst);
    tier.drain().expect("written");
    all_right(&tier, &there);
    drop(tier);
    assert_eq!(redis.keys(), 0);
}

/// A byte wrong on its way costs another read, and never gives wrong contents.
#[test]
fn s06_what_is_garbled_is_never_taken_for_the_page() {
    let redis = Redis::new();
    let proxy = Proxy::new(redis.address(), seed());
    let url = format!("redis://127.0.0.1:{}/p", proxy.port);
    let tier = open(&url, Patience { attempt: SHORT.attempt, whole: NEVER }, small());
    let (places, done) = put(&tier, 1, 800);
    assert_eq!(done, Ok(()));
    tier.drain().expect("written");
    proxy.harm.garble.store(3, SeqCst);
    let (mut right, mut got) = (0, [0; PAGE]);
    for (id, place) in (1..).zip(&places).step_by(8) {
        match tier.get(PageId(id), place.expect("kept"), &mut got) {
            Ok(()) => {
                assert!(got == page(id), "page {id}");
                right += 1;
            }
            // Found out; wrong three times, or an answer that says there is nothing.
            Err(e) => assert_eq!(e, TierError::Lost, "page {id}"),
        }
    }
    proxy.harm.garble.store(0, SeqCst);
    assert!(proxy.harm.done.load(SeqCst) > 0 && right > 0, "{right} pages were right");
    for (id, place) in (1..).zip(&places).step_by(8) {
        // It was not the server's fault.
        assert_eq!(tier.get(PageId(id), place.expect("kept"), &mut got), Ok(()), "page {id}");
        assert!(got == page(id), "page {id}");
    }
}

/// z80, s09: away for longer than it is waited for, pages are refused, what was taken is kept
/// and offered to others; and it goes on when the server is back.
#[test]
fn z80_a_server_that_is_away_takes_no_more_and_keeps_what_it_took() {
    let mut redis = Redis::new();
    let tier = open(&redis.url("x"), SHORT, small());
    let (places, done) = put(&tier, 1, 64);
    assert_eq!(done, Ok(()));
    tier.drain().expect("written");
    redis.kill();
    let (more, refused) = put(&tier, 1000, 4000);
    assert_eq!(refused, Err(TierError::Full));
    let kept: HashMap<u64, Place> = (1000..).zip(more).filter_map(|(id, p)| Some((id, p?))).collect();
    assert!((100..4000).contains(&kept.len()), "{} pages were taken", kept.len());
    assert!(tier.drain().is_err());
    let mut ids = [PageId(0); 32];
    assert_eq!(tier.stranded(&mut ids), 32);
    assert!(ids.iter().all(|id| kept.contains_key(&id.0)));
    let mut got = [0; PAGE];
    for (id, place) in &kept {
        assert_eq!(tier.get(PageId(*id), *place, &mut got), Ok(()), "page {id}, not yet written");
        assert!(got == page(*id));
    }
    // What is only there is an error, now and not after a long time.
    while tier.shared.state().evict(&tier.shared.pool) {}
    let begun = Instant::now();
    assert!(matches!(tier.get(PageId(1), places[0].expect("kept"), &mut got), Err(TierError::Io(_))));
    assert!(begun.elapsed() < NEVER);
    redis.restart();
    until("it is written", || tier.drain().is_ok());
    for (id, place) in (1..).zip(&places) {
        assert_eq!(tier.get(PageId(id), place.expect("kept"), &mut got), Ok(()), "page {id}");
        assert!(got == page(id));
        tier.free(PageId(id), place.expect("kept"));
    }
    all_right(&tier, &kept);
}

#[test]
fn nothing_readable_reaches_the_server_and_what_is_changed_there_is_found() {
    for encrypt in [true, false] {
        let dir = Scratch::new("tier");
        let tier = open(&dir.url(), LONG, TierOptions { encrypt, ..small() });
        let mut secret = page(1);
        let words = b"the key of the house is under the mat";
        secret[100..100 + words.len()].copy_from_slice(words);
        let mut places = [None; 16];
        let ids: Vec<_> = (1..17).map(PageId).collect();
        let pages = Pages((0..16).map(|i| if i == 0 { secret } else { page(i + 1) }).collect());
        tier.put_run(&pages, &ids, &mut places).expect("room");
        tier.drain().expect("written");
        let clusters: Vec<_> =
            dir.files().into_iter().filter(|f| f.display().to_string().contains("/runs/")).collect();
        assert_eq!(clusters.len(), 2);
        let text: Vec<u8> = clusters.iter().flat_map(|f| std::fs::read(f).expect("there")).collect();
        assert_eq!(text.windows(words.len()).any(|w| w == words), !encrypt);
        let mut got = [0; PAGE];
        let mut try_again = |what: &str, right: bool| {
            while tier.shared.state().evict(&tier.shared.pool) {}
            for (id, place) in ids.iter().zip(places) {
                let wanted = if right { Ok(()) } else { Err(TierError::Lost) };
                assert_eq!(tier.get(*id, place.expect("kept"), &mut got), wanted, "{what}, page {id:?}");
            }
        };
        try_again("as it was", true);
        let [a, b] = [0, 1].map(|i| std::fs::read(&clusters[i]).expect("there"));
        let write = |i: usize, bytes: &[u8]| std::fs::write(&clusters[i], bytes).expect("written");
        write(0, &b);
        write(1, &a);
        try_again("one for the other", false);
        for (i, good) in [(0, &a), (1, &b)] {
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 1;
            write(i, &bad);
        }
        try_again("a bit", false);
        write(0, &a[..a.len() / 2]);
        write(1, &[]);
        try_again("cut off", false);
        clusters.iter().for_each(|c| std::fs::remove_file(c).expect("there"));
        try_again("gone", false);
        write(0, &a);
        write(1, &b);
        try_again("mended", true);
    }
}

/// All pages of a cluster that is gone are errors after one request for it.
#[test]
fn s06_what_is_gone_is_not_asked_for_once_for_each_page() {
    let dir = Scratch::new("tier");
    let tier = open(&dir.url(), LONG, TierOptions { again: NEVER, ..small() });
    let (places, done) = put(&tier, 1, 16);
    assert_eq!(done, Ok(()));
    tier.drain().expect("written");
    while tier.shared.state().evict(&tier.shared.pool) {}
    let is_cluster = |f: &std::path::PathBuf| f.display().to_string().contains("/runs/");
    dir.files().into_iter().filter(is_cluster).for_each(|f| std::fs::remove_file(f).expect("there"));
    let mut got = [0; PAGE];
    for (id, place) in (1..).zip(places) {
        assert_eq!(tier.get(PageId(id), place.expect("kept"), &mut got), Err(TierError::Lost), "page {id}");
    }
    assert_eq!(tier.stats().reads, 2, "for two clusters");
}

/// s09: clusters of which little is wanted are emptied, by moving what is.
#[test]
fn s09_a_tier_of_sparse_clusters_goes_on() {
    let dir = Scratch::new("tier");
    let tiers = crate::Tiers::new();
    // 64 pages; the last one of every cluster stays.
    tiers.on(Box::new(open(&dir.url(), LONG, TierOptions { max: 64 << 12, ..small() })), 0).expect("one");
    let (mut kept, mut got) = (Vec::new(), [0; PAGE]);
    for n in 0..2000u64 {
        let slot = loop {
            match tiers.put(&page(n)) {
                Ok(slot) => break slot,
                Err(_) => assert!(tiers.settle() > 0, "page {n}: no room, and nothing can be moved"),
            }
        };
        if n % 40 == 39 && kept.len() < 40 {
            kept.push((n, slot));
        } else {
            tiers.drain().expect("written");
            tiers.free(slot);
        }
        if n % 16 == 0 {
            tiers.settle();
        }
    }
    for (n, slot) in kept {
        assert_eq!(tiers.get(slot, &mut got), Ok(()), "page {n}");
        assert!(got == page(n));
    }
    assert_eq!(tiers.stats().lost, 0);
}

/// s13: the next run of this machine deletes what one left that was killed.
#[test]
fn s13_nothing_is_left_of_a_run_that_is_killed() {
    let redis = Redis::new();
    let dir = Scratch::new("tier");
    for (url, keys) in [
        (redis.url("a"), &(|| redis.keys() as usize) as &dyn Fn() -> usize),
        (dir.url(), &|| dir.files().len()),
    ] {
        let dead = open(&url, LONG, small());
        put(&dead, 1, 200).1.expect("room");
        dead.drain().expect("written");
        let live = open(&url, LONG, small());
        let (places, done) = put(&live, 1, 200);
        assert_eq!(done, Ok(()));
        live.drain().expect("written");
        // As if it was killed: its socket is closed, and nothing is deleted.
        let before = keys();
        dead.tasks.lock().unwrap().drain(..).for_each(|t| t.abort());
        until("its tasks end", || Arc::strong_count(&dead.shared) == 1);
        drop(dead);
        assert_eq!(keys(), before);
        let next = open(&url, LONG, small());
        // Of 25 clusters and a record of each of the two, and of the third.
        until("it is cleaned up", || keys() == 25 + 2);
        let mut got = [0; PAGE];
        while live.shared.state().evict(&live.shared.pool) {}
        for (id, place) in (1..).zip(&places) {
            assert_eq!(
                live.get(PageId(id), place.expect("kept"), &mut got),
                Ok(()),
                "page {id} of the other"
            );
        }
        drop((next, live));
        assert_eq!(keys(), 0);
    }
}
