//! Rows L01-L08, Z20 and Z21 of the sleeping read-write lock, with a real host.
#![cfg(not(loom))]

use machvm_hal::{Event, Host, MaySleep, Woken};
use machvm_sync::{Rank, RwSleep};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Event, ticket, woken.
type Waiter = (Event, u64, bool);

/// One queue under one lock.
#[derive(Default)]
struct StdHost {
    queue: Mutex<(u64, Vec<Waiter>)>,
    woken: Condvar,
    wakeups: AtomicU32,
}

impl StdHost {
    fn waiting(&self) -> usize {
        self.queue.lock().unwrap().1.len()
    }
    /// Until `n` threads sleep.
    fn until_waiting(&self, n: usize) {
        while self.waiting() != n {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Host for StdHost {
    type Ticket = u64;
    fn now_ns(&self) -> u64 {
        0
    }
    fn assert_wait(&self, ev: Event) -> u64 {
        let mut q = self.queue.lock().unwrap();
        q.0 += 1;
        let id = q.0;
        q.1.push((ev, id, false));
        id
    }
    fn thread_block(&self, id: u64, _: Option<u64>) -> Woken {
        let mut q = self.queue.lock().unwrap();
        while !q.1.iter().any(|w| w.1 == id && w.2) {
            q = self.woken.wait(q).unwrap();
        }
        q.1.retain(|w| w.1 != id);
        Woken::Event
    }
    fn cancel_wait(&self, id: u64) {
        self.queue.lock().unwrap().1.retain(|w| w.1 != id);
    }
    fn thread_wakeup(&self, ev: Event) {
        self.wakeups.fetch_add(1, Relaxed);
        self.queue.lock().unwrap().1.iter_mut().filter(|w| w.0 == ev).for_each(|w| w.2 = true);
        self.woken.notify_all();
    }
}

fn map() -> (StdHost, RwSleep<u32>) {
    (StdHost::default(), RwSleep::new(Rank::Map, 0))
}

#[test]
fn l01_write_excludes_and_counts() {
    let (h, l) = map();
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| (0..2000).for_each(|_| *l.write(&h, &mut MaySleep::claim()) += 1));
        }
    });
    assert_eq!((*l.try_read(&h).unwrap(), l.version()), (6000, 6000));
}

#[test]
fn l02_unlock_keeps_the_version_and_wakes_only_sleepers() {
    let (h, l) = map();
    drop(l.try_write(&h).unwrap());
    assert_eq!((l.version(), h.wakeups.load(Relaxed)), (1, 0));
    let g = l.try_write(&h).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| drop(l.read(&h, &mut MaySleep::claim())));
        h.until_waiting(1);
        drop(g);
    });
    assert_eq!((l.version(), h.wakeups.load(Relaxed)), (2, 1));
    drop(l.try_write(&h).unwrap());
    assert_eq!(h.wakeups.load(Relaxed), 1, "no mark stays behind");
}

#[test]
fn l03_readers_share_and_a_waiting_writer_holds_new_ones_back() {
    let (h, l) = map();
    let (a, b) = (l.try_read(&h).unwrap(), l.try_read(&h).unwrap());
    assert_eq!((*a, *b, l.version()), (0, 0, 0));
    std::thread::scope(|s| {
        s.spawn(|| *l.write(&h, &mut MaySleep::claim()) = 9);
        h.until_waiting(1);
        assert!(l.try_read(&h).is_none(), "the writer is not starved");
        drop(a);
        assert_eq!(*b, 0);
        drop(b);
    });
    assert_eq!(*l.try_read(&h).unwrap(), 9);
}

#[test]
fn l04_the_last_reader_wakes_the_writer() {
    let (h, l) = map();
    let (a, b) = (l.try_read(&h).unwrap(), l.try_read(&h).unwrap());
    std::thread::scope(|s| {
        let w = s.spawn(|| drop(l.write(&h, &mut MaySleep::claim())));
        h.until_waiting(1);
        drop(a);
        assert_eq!(h.wakeups.load(Relaxed), 0, "not the last one");
        drop(b);
        w.join().unwrap();
    });
    assert_eq!((h.wakeups.load(Relaxed), l.version()), (1, 1));
}

#[test]
fn l05_try_write_counts_only_when_it_succeeds() {
    let (h, l) = map();
    let r = l.try_read(&h).unwrap();
    assert!(l.try_write(&h).is_none());
    drop(r);
    assert_eq!(l.version(), 0);
    let w = l.try_write(&h).unwrap();
    assert!(l.try_write(&h).is_none());
    drop(w);
    assert_eq!(l.version(), 1);
}

#[test]
fn l06_try_read_says_yes_when_it_has_it() {
    let (h, l) = map();
    assert!(l.try_read(&h).is_some());
    let w = l.try_write(&h).unwrap();
    assert!(l.try_read(&h).is_none());
    drop(w);
    assert!(l.try_read(&h).is_some());
}

#[test]
fn l07_upgrade_of_the_only_reader_counts_one() {
    let (h, l) = map();
    let mut w = l.try_read(&h).unwrap().upgrade().expect("nobody else reads");
    *w += 1;
    assert!(l.try_read(&h).is_none());
    drop(w);
    assert_eq!(l.version(), 1);
}

#[test]
fn l07_failed_upgrade_leaves_it_unlocked() {
    let (h, l) = map();
    let (a, b) = (l.try_read(&h).unwrap(), l.try_read(&h).unwrap());
    assert!(a.upgrade().is_err());
    drop(b);
    assert!(l.try_write(&h).is_some(), "nobody holds it");
}

#[test]
fn l07_upgrade_wait_waits_for_readers() {
    let (h, l) = map();
    let other = l.try_read(&h).unwrap();
    std::thread::scope(|s| {
        let up = s.spawn(|| {
            let g = l.read(&h, &mut MaySleep::claim());
            g.upgrade_wait(&mut MaySleep::claim()).is_ok()
        });
        h.until_waiting(1);
        drop(other);
        assert!(up.join().unwrap(), "no writer came between");
    });
    assert_eq!(l.version(), 1);
}

#[test]
fn l08_downgrade_keeps_the_version_and_lets_readers_in() {
    let (h, l) = map();
    let w = l.try_write(&h).unwrap();
    std::thread::scope(|s| {
        let reader = s.spawn(|| *l.read(&h, &mut MaySleep::claim()));
        h.until_waiting(1);
        let r = w.downgrade();
        assert_eq!(reader.join().unwrap(), 0);
        assert_eq!((r.version(), l.version()), (1, 1));
        assert!(l.try_write(&h).is_none());
    });
    assert!(l.try_write(&h).is_some());
}

#[test]
fn z20_the_version_counts_exclusive_acquisitions_only() {
    let (h, l) = map();
    let may = &mut MaySleep::claim();
    drop(l.read(&h, may)); // 0
    drop(l.try_read(&h)); // 0
    drop(l.write(&h, may)); // 1
    drop(l.try_write(&h)); // 2
    drop(l.read(&h, may).upgrade()); // 3
    drop(l.write(&h, may).downgrade()); // 4
    assert_eq!(l.version(), 4);
    let seen = l.read(&h, may).version();
    assert_eq!(l.read(&h, may).version(), seen, "t after a read relock");
    assert_eq!(l.write(&h, may).version(), seen + 1, "t + 1 after a write relock");
}

#[test]
fn z21_both_upgraders_may_fail_and_neither_holds_it() {
    let (h, l) = map();
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                for _ in 0..2000 {
                    let may = &mut MaySleep::claim();
                    match l.read(&h, may).upgrade() {
                        Ok(mut g) => *g += 1,
                        Err(()) => *l.write(&h, may) += 1,
                    }
                }
            });
        }
    });
    assert_eq!(*l.try_write(&h).unwrap(), 4000);
    assert_eq!(h.waiting(), 0);
}

#[test]
#[cfg(all(debug_assertions, feature = "std"))]
#[should_panic(expected = "lock order: Map wanted")]
fn a_map_under_an_object_panics() {
    let (h, l) = map();
    let o = RwSleep::new(Rank::Object, ());
    let _o = o.try_write(&h);
    let _ = l.read(&h, &mut MaySleep::claim());
}

#[test]
fn a_second_map_is_asked_for_by_name() {
    let (h, parent) = map();
    let (_, child) = map();
    let may = &mut MaySleep::claim();
    let _p = parent.write(&h, may);
    let _c = child.write_second(&h, may);
}
