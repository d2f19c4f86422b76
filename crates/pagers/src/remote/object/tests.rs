//! One writer, many readers, and those who only believe that they may write.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use super::super::place::RemotePlace;
use super::super::runtime::Hooks;
use super::super::tests::servers::{NEVER, Proxy, Redis, S3, Scratch};
use super::super::{Engine, Patience};
use super::*;

/// A lease that a test waits out, and one that it never does.
const SHORT: Duration = Duration::from_millis(400);
const PAGES: u64 = 700;

fn options(encrypt: bool) -> ObjectOptions {
    ObjectOptions {
        key: encrypt.then_some([42; 32]),
        cluster: 4,
        lease: NEVER,
        wait: Duration::ZERO,
        dirty: 64 * PAGE,
        cache: 64 * PAGE,
    }
}

fn engine(url: &str) -> Arc<Engine> {
    let patience = Patience { attempt: Duration::from_secs(2), whole: NEVER };
    let place = RemotePlace::parse(url).expect(url);
    Engine::open(&place, patience, Hooks::default()).expect("the server answers")
}

/// The contents of a page after its `round`th write.
fn page(n: u64, round: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut x = (n << 20 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in page.as_chunks_mut::<8>().0.iter_mut().step_by(3) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x.to_le_bytes();
    }
    page
}

fn write(object: &RemoteObject, pages: impl IntoIterator<Item = u64>, round: u64) {
    pages.into_iter().for_each(|n| object.write(n * PAGE as u64, &page(n, round)).expect("written"));
}

/// Every page is as after the round that `round` gives; 0: never written.
fn check(object: &RemoteObject, round: impl Fn(u64) -> u64) {
    let mut data = vec![0; 16 * PAGE];
    for first in (0..PAGES).step_by(16) {
        let n = (PAGES - first).min(16) as usize;
        object.read(first * PAGE as u64, &mut data[..n * PAGE]).expect("read");
        for (k, got) in data[..n * PAGE].as_chunks::<PAGE>().0.iter().enumerate() {
            let n = first + k as u64;
            let wanted = if round(n) == 0 { [0; PAGE] } else { page(n, round(n)) };
            assert!(*got == wanted, "page {n} is not as after round {}", round(n));
        }
    }
}

/// What an object goes through, with everything gone at its end.
fn life(url: &str, keys: &dyn Fn() -> usize) {
    let e = engine(url);
    for encrypt in [true, false] {
        let options = options(encrypt);
        RemoteObject::create(&e, "o", PAGES * PAGE as u64, &options).expect("made");
        let again = RemoteObject::create(&e, "o", PAGE as u64, &options);
        assert_eq!(again, Err(ObjectError::Exists("o".into())));
        let o = RemoteObject::open(&e, "o", options.clone()).expect("opened");
        check(&o, |_| 0);
        write(&o, (0..PAGES).filter(|n| n % 3 == 0), 1);
        let first = |n: u64| u64::from(n.is_multiple_of(3));
        check(&o, first);
        o.snapshot("one").expect("made");
        assert_eq!(o.snapshot("one"), Err(ObjectError::Exists("one".into())));
        write(&o, 0..PAGES / 2, 2);
        let second = |n: u64| if n < PAGES / 2 { 2 } else { first(n) };
        o.snapshot("two").expect("made");
        o.write(8 * PAGE as u64 + 10, b"in the middle").expect("written");
        o.write(8 * PAGE as u64 + 10, &page(8, 2)[10..23]).expect("written");
        write(&o, 100..200, 3);
        let third = |n: u64| if (100..200).contains(&n) { 3 } else { second(n) };
        check(&o, third);
        assert!(matches!(RemoteObject::open(&e, "o", options.clone()), Err(ObjectError::Held { .. })));
        o.close().expect("committed");
        // Another time, perhaps on another machine.
        let o = RemoteObject::open(&e, "o", options.clone()).expect("opened");
        check(&o, third);
        for (name, round) in [("one", &first as &dyn Fn(u64) -> u64), ("two", &second)] {
            let s = RemoteObject::open_snapshot(&e, "o", name, options.clone()).expect("opened");
            check(&s, round);
            assert_eq!(s.write(0, &[1]), Err(ObjectError::ReadOnly));
        }
        assert_eq!(RemoteObject::snapshots(&e, "o", &options).expect("listed"), ["one", "two"]);
        let before = keys();
        o.drop_snapshot("one").expect("dropped");
        assert!(keys() < before, "what only it had is deleted");
        let gone = RemoteObject::open_snapshot(&e, "o", "one", options.clone());
        assert_eq!(gone.err(), Some(ObjectError::Unknown("o/one".into())));
        check(&o, third);
        let two = RemoteObject::open_snapshot(&e, "o", "two", options.clone()).expect("opened");
        check(&two, second);
        assert_eq!(
            o.write(PAGES * PAGE as u64 - 1, &[1, 2]),
            Err(ObjectError::Beyond(PAGES * PAGE as u64 - 1))
        );
        if encrypt {
            let other = ObjectOptions { key: Some([43; 32]), ..options.clone() };
            let s = RemoteObject::open_snapshot(&e, "o", "two", other);
            assert!(matches!(s, Err(ObjectError::Damaged(_))), "{s:?}");
        }
        drop(o);
        RemoteObject::delete(&e, "o", options.clone()).expect("deleted");
        assert_eq!(keys(), 0, "something is left");
        assert_eq!(RemoteObject::open(&e, "o", options).err(), Some(ObjectError::Unknown("o".into())));
    }
}

#[test]
fn g07_an_object_in_a_directory() {
    let dir = Scratch::new("object");
    life(&dir.url(), &|| dir.files().len());
}

#[test]
fn g07_an_object_on_redis() {
    let redis = Redis::new();
    life(&redis.url("o"), &|| redis.keys() as usize);
}

#[test]
fn g07_an_object_on_s3() {
    if S3::has_keys("remote::object::tests::g07_an_object_on_s3") {
        let s3 = S3::new();
        life(&s3.url("o"), &|| s3.keys());
    }
}

/// Only what was committed is there after a crash, and nothing else is left.
#[test]
fn e11_a_crash_leaves_the_last_commit() {
    let redis = Redis::new();
    let e = engine(&redis.url("o"));
    let options = ObjectOptions { lease: SHORT, wait: NEVER, ..options(true) };
    RemoteObject::create(&e, "o", PAGES * PAGE as u64, &options).expect("made");
    for round in 1..5 {
        let o = RemoteObject::open(&e, "o", options.clone()).expect("opened");
        check(&o, |n| if n < 400 { round - 1 } else { 0 });
        write(&o, 0..400, round);
        o.commit().expect("committed");
        // More than may wait: some of it is on the server.
        write(&o, 200..500, 99);
        // As if it was killed: nothing is tidied, and the lease is not given up.
        o.renewer.lock().unwrap().take().expect("it renews").abort();
    }
    let o = RemoteObject::open(&e, "o", options.clone()).expect("opened");
    o.close().expect("committed");
    let o = RemoteObject::open(&e, "o", options.clone()).expect("opened");
    // Head, lease, 3 leaves (clusters 0 to 174: one of them) and 100 clusters.
    check(&o, |n| if n < 400 { 4 } else { 0 });
    assert_eq!(redis.keys(), 2 + 1 + 100);
    drop(o);
    RemoteObject::delete(&e, "o", options).expect("deleted");
    assert_eq!(redis.keys(), 0);
}

/// The old writer is held up so long that another takes over: what he does then is refused,
/// and what he sent and comes late is never seen.
#[test]
fn e10_late_writes_of_a_lost_lease_are_refused() {
    let redis = Redis::new();
    let proxy = Proxy::new(redis.address(), 1);
    let slow = engine(&format!("redis://127.0.0.1:{}/o", proxy.port));
    let e = engine(&redis.url("o"));
    let options = ObjectOptions { lease: SHORT, wait: NEVER, ..options(true) };
    RemoteObject::create(&e, "o", PAGES * PAGE as u64, &options).expect("made");
    let old = RemoteObject::open(&slow, "o", options.clone()).expect("opened");
    write(&old, 0..100, 1);
    old.commit().expect("committed");
    write(&old, 0..50, 2);
    proxy.harm.stall.store(true, SeqCst);
    let new = RemoteObject::open(&e, "o", options.clone()).expect("taken over");
    check(&new, |n| u64::from(n < 100));
    write(&new, 50..150, 3);
    new.commit().expect("committed");
    proxy.harm.stall.store(false, SeqCst);
    let lost = old.commit().expect_err("refused");
    assert_eq!(lost, ObjectError::LeaseLost { epoch: 1, now: 2 });
    assert_eq!(old.write(0, &[1]), Err(lost.clone()));
    assert_eq!(old.snapshot("late"), Err(lost.clone()));
    assert_eq!(old.read(0, &mut [0]), Err(lost));
    drop(old);
    let now = |n: u64| if (50..150).contains(&n) { 3 } else { u64::from(n < 50) };
    check(&new, now);
    new.close().expect("it has the lease still");
    let again = RemoteObject::open(&e, "o", options).expect("opened");
    check(&again, now);
}

/// He who holds the lease and whose server is away for long goes on when it is back.
#[test]
fn e11_a_server_that_is_killed_and_started_again() {
    let mut redis = Redis::new();
    let e = engine(&redis.url("o"));
    let options = options(true);
    RemoteObject::create(&e, "o", PAGES * PAGE as u64, &options).expect("made");
    let o = RemoteObject::open(&e, "o", options.clone()).expect("opened");
    for round in 1..4 {
        write(&o, 0..200, round);
        redis.kill();
        std::thread::scope(|s| {
            let writer = s.spawn(|| {
                write(&o, 200..400, round);
                o.commit()
            });
            std::thread::sleep(Duration::from_millis(50));
            redis.restart();
            writer.join().expect("no panic").expect("committed");
        });
        check(&o, |n| if n < 400 { round } else { 0 });
    }
    drop(o);
    RemoteObject::delete(&e, "o", options).expect("deleted");
    assert_eq!(redis.keys(), 0);
}

/// In the process that [`z118_a_snapshot_is_shared_by_processes`] starts.
fn read_for_ever(url: &str) {
    let e = engine(url);
    let s = RemoteObject::open_snapshot(&e, "o", "s", options(true)).expect("opened");
    check(&s, |n| u64::from(n < 300));
    println!("read once");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a pipe");
    // Again, from the server.
    let s = RemoteObject::open_snapshot(&e, "o", "s", options(true)).expect("opened");
    check(&s, |n| u64::from(n < 300));
}

/// Four processes read a snapshot while one writes.
#[test]
fn z118_a_snapshot_is_shared_by_processes() {
    const URL: &str = "MACHVM_TEST_SNAPSHOT";
    if let Ok(url) = std::env::var(URL) {
        return read_for_ever(&url);
    }
    let redis = Redis::new();
    let url = redis.url("o");
    let e = engine(&url);
    RemoteObject::create(&e, "o", PAGES * PAGE as u64, &options(true)).expect("made");
    let o = RemoteObject::open(&e, "o", options(true)).expect("opened");
    write(&o, 0..300, 1);
    o.snapshot("s").expect("made");
    let program = std::env::current_exe().expect("its name");
    let mut readers: Vec<_> = (0..4)
        .map(|_| {
            let mut c = Command::new(&program);
            c.args([
                "--exact",
                "remote::object::tests::z118_a_snapshot_is_shared_by_processes",
                "--nocapture",
            ]);
            c.env(URL, &url).stdin(Stdio::piped()).stdout(Stdio::piped());
            c.spawn().expect("it starts")
        })
        .collect();
    for round in 2..6 {
        write(&o, 0..PAGES, round);
        o.commit().expect("committed");
    }
    for reader in &mut readers {
        drop(reader.stdin.take());
    }
    for reader in readers {
        let done = reader.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && said.contains("read once"), "{said}");
    }
    check(&o, |_| 5);
    drop(o);
    RemoteObject::delete(&e, "o", options(true)).expect("deleted");
    assert_eq!(redis.keys(), 0);
}

/// Two who open at once: one of them has it, and the other is told who.
#[test]
fn one_of_many_gets_the_lease() {
    let dir = Scratch::new("object");
    let e = engine(&dir.url());
    RemoteObject::create(&e, "o", PAGE as u64, &options(false)).expect("made");
    let all: Vec<_> = std::thread::scope(|s| {
        let open = || RemoteObject::open(&e, "o", options(false));
        let threads: Vec<_> = (0..6).map(|_| s.spawn(open)).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(all.iter().filter(|o| o.is_ok()).count(), 1);
    let me = format!("process {} on ", std::process::id());
    for held in all.iter().filter_map(|o| o.as_ref().err()) {
        assert!(matches!(held, ObjectError::Held { who, .. } if who.starts_with(&me)), "{held}");
    }
}

/// g05, g07: as the core uses it.
#[test]
fn g05_g07_an_object_is_a_pager() {
    use machvm_hal::{PageIn, PageInSink, PageNo, Pager as _, PagerError, Supply};
    type Answer = Option<(usize, Result<Supply, PagerError>)>;
    struct Sink(Mutex<(Vec<u8>, Answer)>);
    impl PageInSink for Sink {
        fn fill(&self, page: PageNo, off: usize, data: &[u8]) {
            let at = (page.0.get() as usize - 1) * PAGE + off;
            self.0.lock().unwrap().0[at..at + data.len()].copy_from_slice(data);
        }
        fn complete(&self, _: &[PageNo], got: usize, how: Result<Supply, PagerError>) {
            self.0.lock().unwrap().1 = Some((got, how));
        }
    }
    let dir = Scratch::new("object");
    let e = engine(&dir.url());
    let options = options(true);
    RemoteObject::create(&e, "o", 10 * PAGE as u64, &options).expect("made");
    let o = Arc::new(RemoteObject::open(&e, "o", options.clone()).expect("opened"));
    let pager = RemotePager::new(Arc::clone(&o)).expect("threads");
    for n in 0..10 {
        assert_eq!(pager.page_out(n * PAGE as u64, &page(n, 7)), Ok(()));
    }
    assert_eq!(pager.page_out(10 * PAGE as u64, &page(0, 0)), Err(PagerError::Beyond));
    pager.commit().expect("committed");
    let numbers: Vec<_> = (1..17).map(|n| PageNo(std::num::NonZeroU32::new(n).unwrap())).collect();
    let ask = |at: u64, n: usize| {
        let sink = Sink(Mutex::new((vec![0; 16 * PAGE], None)));
        pager.page_in(PageIn::new(&sink, &numbers[..n], at));
        sink.0.into_inner().unwrap()
    };
    let (data, how) = ask(2 * PAGE as u64, 16);
    assert_eq!(how, Some((8, Ok(Supply::Clean))));
    assert!((0..8).all(|k| data[k * PAGE..(k + 1) * PAGE] == page(2 + k as u64, 7)));
    assert_eq!(ask(10 * PAGE as u64, 1).1, Some((0, Err(PagerError::Beyond))));
    // Its data is damaged: an error, and no wrong page.
    drop((pager, o));
    // When the last thread has ended.
    let o = RemoteObject::open(&e, "o", ObjectOptions { wait: NEVER, ..options }).expect("given up");
    for file in dir.files().iter().filter(|f| f.display().to_string().contains("/d/")) {
        let mut bytes = std::fs::read(file).expect("there");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(file, bytes).expect("written");
    }
    assert!(matches!(o.read(0, &mut [0]), Err(ObjectError::Damaged(_))));
}
