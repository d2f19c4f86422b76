//! Model checks of the protocols in `LOCKING.md`, which names these tests.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p machvm-sync`
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use machvm_hal::{Event, Host, MaySleep, Woken};
use machvm_sync::{Busy, Holds, Rank, Refs, RwSleep, Spin};

/// The reference host: one queue under one lock.
///
/// With `hasty`, a wake-up that sees nobody registered does not take the lock. That
/// look is relaxed, so such a host finds a waiter only if the word the waiter marked
/// carried the registration along: the locks' own orderings are on trial. A host for
/// conditions in plain memory must not be hasty.
struct LoomHost {
    hasty: bool,
    registered: AtomicU32,
    queue: Mutex<Vec<Waiter>>,
    woken: Condvar,
}

struct Waiter {
    event: Event,
    id: usize,
    woken: bool,
}

impl LoomHost {
    fn new(hasty: bool) -> Self {
        LoomHost {
            hasty,
            registered: AtomicU32::new(0),
            queue: Mutex::new(Vec::new()),
            woken: Condvar::new(),
        }
    }
}

impl Host for LoomHost {
    type Ticket = usize;

    fn now_ns(&self) -> u64 {
        0
    }
    fn assert_wait(&self, event: Event) -> usize {
        let mut q = self.queue.lock().unwrap();
        let id = q.iter().map(|w| w.id + 1).max().unwrap_or(0);
        q.push(Waiter { event, id, woken: false });
        if self.hasty {
            self.registered.fetch_add(1, Relaxed);
        }
        id
    }
    fn thread_block(&self, id: usize, _: Option<u64>) -> Woken {
        let mut q = self.queue.lock().unwrap();
        while !q.iter().any(|w| w.id == id && w.woken) {
            q = self.woken.wait(q).unwrap();
        }
        drop(q);
        self.cancel_wait(id);
        Woken::Event
    }
    fn cancel_wait(&self, id: usize) {
        if self.hasty {
            self.registered.fetch_sub(1, Relaxed);
        }
        self.queue.lock().unwrap().retain(|w| w.id != id);
    }
    fn thread_wakeup(&self, event: Event) {
        if self.hasty && self.registered.load(Relaxed) == 0 {
            return;
        }
        let mut q = self.queue.lock().unwrap();
        q.iter_mut().filter(|w| w.event == event).for_each(|w| w.woken = true);
        drop(q);
        self.woken.notify_all();
    }
}

/// Bounds the preemptions of each schedule, for the tests whose full space is too
/// large to finish; two already contain the races named in the literature, three
/// leaves room.
fn bounded(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(preemptions);
    b.check(f);
}

/// Memory that loom watches for unordered access.
struct Plain(UnsafeCell<u32>);
// SAFETY: for loom to judge: an unordered access panics, and that is the test.
unsafe impl Sync for Plain {}
// SAFETY: plain data.
unsafe impl Send for Plain {}
impl Plain {
    fn new() -> Self {
        Plain(UnsafeCell::new(0))
    }
    fn add(&self, n: u32) {
        // SAFETY: loom panics on overlap before the access is made.
        self.0.with_mut(|p| unsafe { *p += n });
    }
    fn get(&self) -> u32 {
        // SAFETY: as in add.
        self.0.with(|p| unsafe { *p })
    }
}

#[test]
fn spin_excludes() {
    loom::model(|| {
        let l = Arc::new(Spin::new(Rank::Free, 0));
        let other = {
            let l = l.clone();
            thread::spawn(move || *l.lock() += 1)
        };
        if let Some(mut g) = l.try_lock() {
            *g += 1;
        } else {
            *l.lock() += 1;
        }
        other.join().unwrap();
        assert_eq!(*l.lock(), 2);
    });
}

struct Page {
    busy: Busy,
    /// What busy protects.
    contents: Plain,
    /// What the owner of the page does before it lets go.
    owners: Plain,
    freed: AtomicU32,
    host: LoomHost,
}

const PAGE: Event = Event(0x1000);

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Page {
            busy: Busy::new(),
            contents: Plain::new(),
            owners: Plain::new(),
            freed: AtomicU32::new(0),
            host: LoomHost::new(true),
        })
    }
    /// What every busy holder does in the end.
    fn release(&self) {
        let mut r = self.busy.unlock();
        if r.wake {
            self.host.thread_wakeup(PAGE);
        }
        if r.orphan {
            self.free();
            r = self.busy.unlock();
            assert!(!r.orphan);
            if r.wake {
                self.host.thread_wakeup(PAGE);
            }
        }
    }
    /// => the caller holds it busy, and the owner is done with it.
    fn free(&self) {
        self.contents.add(1);
        self.owners.add(1);
        self.freed.fetch_add(1, Relaxed);
    }
    /// One wait of a thread that found it busy.
    fn wait(&self) {
        let t = self.host.assert_wait(PAGE);
        if self.busy.mark_waiting() {
            self.host.thread_block(t, None);
        } else {
            self.host.cancel_wait(t);
        }
    }
}

#[test]
fn busy_two_lockers() {
    loom::model(|| {
        let p = Page::new();
        let other = {
            let p = p.clone();
            thread::spawn(move || {
                let got = p.busy.try_lock();
                if got {
                    p.contents.add(1);
                    p.release();
                }
                u32::from(got)
            })
        };
        let mut got = 0;
        if p.busy.try_lock() {
            p.contents.add(1);
            p.release();
            got = 1;
        }
        got += other.join().unwrap();
        assert!(got >= 1, "somebody gets a free page");
        assert!(p.busy.try_lock());
        assert_eq!(p.contents.get(), got);
    });
}

#[test]
fn busy_waiter_against_unlock() {
    loom::model(|| {
        let p = Page::new();
        assert!(p.busy.try_lock());
        let waiter = {
            let p = p.clone();
            thread::spawn(move || {
                while !p.busy.try_lock() {
                    p.wait(); // a lost wake-up is a deadlock, which loom reports
                }
                assert_eq!(p.contents.get(), 1);
                p.release();
            })
        };
        p.contents.add(1);
        p.release();
        waiter.join().unwrap();
        assert!(!p.busy.is_busy());
    });
}

#[test]
fn busy_orphan_against_unlock() {
    loom::model(|| {
        let p = Page::new();
        assert!(p.busy.try_lock());
        let holder = {
            let p = p.clone();
            thread::spawn(move || {
                p.contents.add(1);
                p.release();
            })
        };
        p.owners.add(1);
        if !p.busy.orphan() {
            p.free();
            p.release();
        }
        holder.join().unwrap();
        assert_eq!(p.freed.load(Relaxed), 1, "freed exactly once");
        assert!(!p.busy.is_busy());
    });
}

#[test]
fn busy_waiter_orphan_unlock() {
    bounded(3, || {
        let p = Page::new();
        assert!(p.busy.try_lock());
        let holder = {
            let p = p.clone();
            thread::spawn(move || {
                p.contents.add(1);
                p.release();
            })
        };
        let waiter = {
            let p = p.clone();
            thread::spawn(move || p.wait())
        };
        p.owners.add(1);
        if !p.busy.orphan() {
            p.free();
            p.release();
        }
        holder.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(p.freed.load(Relaxed), 1);
        assert!(!p.busy.is_busy());
    });
}

/// Nobody gets in between the holder that learns of the orphan and the end of it.
#[test]
fn busy_third_party_orphan_unlock() {
    bounded(3, || {
        let p = Page::new();
        assert!(p.busy.try_lock());
        let user = |p: &Arc<Page>, held: bool| {
            let p = p.clone();
            thread::spawn(move || {
                if held || p.busy.try_lock() {
                    p.contents.add(1); // unordered with the free, if that is not alone
                    p.release();
                }
            })
        };
        let (holder, third) = (user(&p, true), user(&p, false));
        p.owners.add(1);
        if !p.busy.orphan() {
            p.free();
            p.release();
        }
        holder.join().unwrap();
        third.join().unwrap();
        assert_eq!(p.freed.load(Relaxed), 1);
        assert!(!p.busy.is_busy());
    });
}

/// Sharers read while nobody writes; the last of them frees what became an orphan.
#[test]
fn busy_sharers_against_orphan() {
    bounded(3, || {
        let p = Page::new();
        assert!(p.busy.try_share() && p.busy.try_share());
        let sharer = |p: &Arc<Page>| {
            let p = p.clone();
            thread::spawn(move || {
                p.contents.get();
                if p.busy.unshare().orphan {
                    p.free();
                    p.release();
                }
            })
        };
        let (a, b) = (sharer(&p), sharer(&p));
        p.owners.add(1);
        if !p.busy.orphan() {
            p.free();
            p.release();
        }
        a.join().unwrap();
        b.join().unwrap();
        assert_eq!(p.freed.load(Relaxed), 1);
        assert!(!p.busy.is_busy());
    });
}

/// Who upgrades sees the others done; who downgrades lets sharers see what it wrote.
#[test]
fn busy_upgrade_against_unshare() {
    loom::model(|| {
        let p = Page::new();
        assert!(p.busy.try_share() && p.busy.try_share());
        let other = {
            let p = p.clone();
            thread::spawn(move || {
                let seen = p.contents.get();
                let r = p.busy.unshare();
                assert!(!r.orphan && !r.wake);
                // Again, if it is free to be shared.
                if p.busy.try_share() {
                    assert!(p.contents.get() >= seen);
                    let _ = p.busy.unshare();
                }
            })
        };
        if p.busy.try_upgrade() {
            p.contents.add(1);
            assert!(!p.busy.downgrade());
        }
        let _ = p.busy.unshare();
        other.join().unwrap();
        assert!(!p.busy.is_busy());
    });
}

#[test]
fn refs_end_once() {
    loom::model(|| {
        let r = Arc::new((Refs::new(2), Plain::new(), Plain::new()));
        let other = {
            let r = r.clone();
            thread::spawn(move || {
                r.1.add(1);
                let last = r.0.put();
                if last {
                    r.2.add(1);
                }
                u32::from(last)
            })
        };
        r.2.add(1);
        let last = r.0.put();
        if last {
            r.1.add(1);
        }
        assert_eq!(u32::from(last) + other.join().unwrap(), 1);
    });
}

#[test]
fn refs_try_get_against_last_put() {
    loom::model(|| {
        let r = Arc::new((Refs::new(1), AtomicU32::new(0)));
        let other = {
            let r = r.clone();
            thread::spawn(move || {
                if r.0.try_get() && r.0.put() {
                    r.1.fetch_add(1, Relaxed);
                }
            })
        };
        if r.0.put() {
            r.1.fetch_add(1, Relaxed);
        }
        other.join().unwrap();
        assert_eq!(r.1.load(Relaxed), 1, "destroyed exactly once");
        assert!(!r.0.try_get());
    });
}

#[test]
fn refs_revive_against_try_get() {
    loom::model(|| {
        let r = Arc::new((Refs::new(0), Plain::new()));
        let other = {
            let r = r.clone();
            thread::spawn(move || {
                if r.0.try_get() {
                    assert_eq!(r.1.get(), 1, "the finder sees the object made");
                    assert!(!r.0.put());
                }
            })
        };
        r.1.add(1);
        r.0.revive();
        other.join().unwrap();
        assert!(r.0.put());
    });
}

/// Owner and holder let go at once: one of them frees, and sees what the other did.
#[test]
fn holds_abandon_against_last_put() {
    loom::model(|| {
        let h = Arc::new((Holds::new(), Plain::new(), Plain::new()));
        h.0.get(1);
        let holder = {
            let h = h.clone();
            thread::spawn(move || {
                h.1.add(1);
                let last = h.0.put(1);
                if last {
                    h.2.add(1);
                }
                u32::from(last)
            })
        };
        h.2.add(1);
        let last = h.0.abandon();
        if last {
            h.1.add(1);
        }
        assert_eq!(u32::from(last) + holder.join().unwrap(), 1);
    });
}

/// A copy takes a hold beside one that ends, while the owner looks whether it may free.
#[test]
fn holds_try_get_against_put_and_abandon() {
    loom::model(|| {
        let h = Arc::new((Holds::new(), AtomicU32::new(0)));
        h.0.get(1);
        let freed = |h: &(Holds, AtomicU32)| h.1.fetch_add(1, Relaxed);
        let copier = {
            let h = h.clone();
            thread::spawn(move || {
                if h.0.try_get() {
                    assert_eq!(h.1.load(Relaxed), 0, "freed while held");
                    if h.0.put(1) {
                        freed(&h);
                    }
                }
            })
        };
        let holder = {
            let h = h.clone();
            thread::spawn(move || {
                if h.0.put(1) {
                    freed(&h);
                }
            })
        };
        if h.0.abandon() {
            freed(&h);
        }
        copier.join().unwrap();
        holder.join().unwrap();
        assert_eq!(h.1.load(Relaxed), 1, "freed exactly once");
    });
}

/// The contract of `Host`, for a condition that is not part of any lock word.
#[test]
fn event_wait_loses_nothing() {
    loom::model(|| {
        let s = Arc::new((LoomHost::new(false), AtomicU32::new(0)));
        let waiter = {
            let s = s.clone();
            thread::spawn(move || {
                loop {
                    let t = s.0.assert_wait(PAGE);
                    if s.1.load(Relaxed) != 0 {
                        s.0.cancel_wait(t);
                        break;
                    }
                    s.0.thread_block(t, None);
                }
            })
        };
        s.1.store(1, Relaxed);
        s.0.thread_wakeup(PAGE);
        waiter.join().unwrap();
    });
}

struct Rw {
    host: LoomHost,
    lock: RwSleep<u32>,
}

impl Rw {
    fn new() -> Arc<Self> {
        Arc::new(Rw { host: LoomHost::new(true), lock: RwSleep::new(Rank::Map, 0) })
    }
    fn with(rw: &Arc<Self>, f: impl FnOnce(&Rw, &mut MaySleep) + Send + 'static) -> thread::JoinHandle<()> {
        let rw = rw.clone();
        thread::spawn(move || f(&rw, &mut MaySleep::claim()))
    }
}

#[test]
fn rw_excludes() {
    loom::model(|| {
        let rw = Rw::new();
        let reader = Rw::with(&rw, |rw, _| {
            if let Some(g) = rw.lock.try_read(&rw.host) {
                assert!(*g <= 1);
            }
        });
        if let Some(mut g) = rw.lock.try_write(&rw.host) {
            *g += 1;
        }
        reader.join().unwrap();
        assert!(*rw.lock.try_read(&rw.host).unwrap() <= 1);
    });
}

#[test]
fn rw_writer_is_woken() {
    loom::model(|| {
        let rw = Rw::new();
        let reading = rw.lock.try_read(&rw.host).unwrap();
        let writer = Rw::with(&rw, |rw, may| *rw.lock.write(&rw.host, may) += 1);
        assert_eq!(*reading, 0);
        drop(reading);
        writer.join().unwrap();
        assert_eq!(*rw.lock.try_read(&rw.host).unwrap(), 1);
    });
}

#[test]
fn rw_reader_is_woken() {
    loom::model(|| {
        let rw = Rw::new();
        let mut writing = rw.lock.try_write(&rw.host).unwrap();
        let reader = Rw::with(&rw, |rw, may| assert_eq!(*rw.lock.read(&rw.host, may), 1));
        *writing += 1;
        drop(writing);
        reader.join().unwrap();
        assert!(rw.lock.try_write(&rw.host).is_some(), "no mark stays behind");
    });
}

#[test]
fn rw_downgrade_lets_readers_in() {
    loom::model(|| {
        let rw = Rw::new();
        let mut writing = rw.lock.try_write(&rw.host).unwrap();
        let reader = Rw::with(&rw, |rw, may| assert_eq!(*rw.lock.read(&rw.host, may), 1));
        *writing += 1;
        let reading = writing.downgrade();
        reader.join().unwrap(); // it got in while we read, or this deadlocks
        assert_eq!(*reading, 1);
        drop(reading);
        assert!(rw.lock.try_write(&rw.host).is_some());
    });
}

#[test]
fn rw_two_waiters() {
    bounded(2, || {
        let rw = Rw::new();
        let reading = rw.lock.try_read(&rw.host).unwrap();
        let writer = Rw::with(&rw, |rw, may| *rw.lock.write(&rw.host, may) += 1);
        let reader = Rw::with(&rw, |rw, may| assert!(*rw.lock.read(&rw.host, may) <= 1));
        drop(reading);
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(*rw.lock.try_write(&rw.host).unwrap(), 1);
    });
}

#[test]
fn rw_two_upgrades() {
    bounded(3, || {
        let rw = Rw::new();
        fn bump(rw: &Rw, may: &mut MaySleep) {
            let g = rw.lock.read(&rw.host, may);
            let seen = *g;
            match g.upgrade() {
                Ok(mut g) => {
                    assert_eq!(*g, seen, "nobody wrote between the read and the upgrade");
                    *g += 1;
                }
                // Not held any more: taking it again must not deadlock.
                Err(()) => *rw.lock.write(&rw.host, may) += 1,
            }
        }
        let other = Rw::with(&rw, bump);
        bump(&rw, &mut MaySleep::claim());
        other.join().unwrap();
        assert_eq!(*rw.lock.try_read(&rw.host).unwrap(), 2);
        assert_eq!(rw.lock.version(), 2);
    });
}

#[test]
fn rw_upgrade_wait() {
    bounded(3, || {
        let rw = Rw::new();
        fn bump(rw: &Rw, may: &mut MaySleep) {
            loop {
                let g = rw.lock.read(&rw.host, may);
                let seen = *g;
                if let Ok(mut g) = g.upgrade_wait(may) {
                    assert_eq!(*g, seen, "a writer came between and was not noticed");
                    *g += 1;
                    return;
                }
            }
        }
        let other = Rw::with(&rw, bump);
        bump(&rw, &mut MaySleep::claim());
        other.join().unwrap();
        assert_eq!(*rw.lock.try_read(&rw.host).unwrap(), 2);
    });
}

#[test]
fn rw_version_equality_proves_no_writer() {
    loom::model(|| {
        let rw = Rw::new();
        let writer = Rw::with(&rw, |rw, _| {
            if let Some(mut g) = rw.lock.try_write(&rw.host) {
                *g += 1;
            }
        });
        if let Some(g) = rw.lock.try_read(&rw.host) {
            let (version, seen) = (g.version(), *g);
            drop(g);
            if let Some(g) = rw.lock.try_read(&rw.host) {
                assert_eq!(g.version() == version, *g == seen);
            }
        }
        writer.join().unwrap();
    });
}

/// A fault step takes the lock by try and its loop does the waiting.
#[test]
fn rw_arm_wait() {
    loom::model(|| {
        let rw = Rw::new();
        let writing = rw.lock.try_write(&rw.host).unwrap();
        let other = Rw::with(&rw, |rw, _| {
            while rw.lock.try_read(&rw.host).is_none() {
                let t = rw.host.assert_wait(rw.lock.event());
                if rw.lock.arm_wait() {
                    rw.host.thread_block(t, None);
                } else {
                    rw.host.cancel_wait(t);
                }
            }
        });
        drop(writing);
        other.join().unwrap();
    });
}
