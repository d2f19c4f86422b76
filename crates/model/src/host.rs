//! Threads: one at a time, in an order that a seed decides, or real ones.
//!
//! In the *scheduled* mode exactly one thread runs. It hands over when it blocks, and
//! at every call of the machine with a chance that the test sets, so a seed decides
//! the interleaving down to single calls. Time stands still except when everybody
//! waits: then it jumps to the first deadline. When there is none, that is a deadlock
//! and a panic that says who waits for what.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machvm_hal::{CpuId, Event, Host, Woken};

use crate::rng::Rng;

thread_local! {
    /// This thread's number in the host that runs it; 0: the test's own thread.
    static ME: Cell<usize> = const { Cell::new(0) };
    /// The host in which this thread may take frames of the reserve; 0: none.
    static PRIVILEGED: Cell<usize> = const { Cell::new(0) };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Run,
    Blocked { deadline: Option<u64> },
    Ended,
}

#[derive(Debug)]
struct Thread {
    doing: Doing,
    waits_for: Option<Event>,
    woken: bool,
    turn: Arc<Condvar>,
}

#[derive(Debug)]
struct Inner {
    threads: Vec<Thread>,
    current: usize,
    now: u64,
    rng: Rng,
    /// Waits that ended at their deadline, by class of event (its top four bits).
    timeouts: HashMap<u64, u64>,
    /// Waiters of the threaded mode.
    queues: HashMap<u64, Vec<Arc<Waiter>>>,
}

#[derive(Debug, Default)]
struct Waiter {
    woken: Mutex<bool>,
    cv: Condvar,
}

/// See the module text.
#[derive(Debug)]
pub struct ModelHost {
    inner: Mutex<Inner>,
    threaded: AtomicBool,
    /// One in so many calls of the machine hands over; 0: none.
    preempt: AtomicU64,
    start: Instant,
}

fn thread() -> Thread {
    Thread { doing: Doing::Run, waits_for: None, woken: false, turn: Arc::default() }
}

/// A place in a queue.
#[derive(Debug)]
pub struct Ticket(Option<(Event, Arc<Waiter>)>);

impl ModelHost {
    /// A host of one thread.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            threads: vec![thread()],
            current: 0,
            now: 1,
            rng: Rng::new(seed),
            timeouts: HashMap::new(),
            queues: HashMap::new(),
        };
        ModelHost {
            inner: Mutex::new(inner),
            threaded: AtomicBool::new(false),
            preempt: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over at one in `n` calls of the machine.
    pub fn set_preemption(&self, n: u64) {
        self.preempt.store(n, SeqCst);
    }

    /// Waits that ended by their deadline for events whose top four bits are `class`.
    /// A test in which something always wakes expects none.
    pub fn timeouts(&self, class: u64) -> u64 {
        self.lock().timeouts.get(&class).copied().unwrap_or(0)
    }

    /// Runs the closures as threads of which one runs at a time; returns when all
    /// have ended.
    ///
    /// A thread that panics, or a deadlock, ends the process.
    pub fn run_scheduled<'a>(&self, bodies: Vec<Box<dyn FnOnce() + Send + 'a>>) {
        let first = {
            let mut s = self.lock();
            s.threads.truncate(1);
            s.threads[0].doing = Doing::Ended;
            s.threads.extend(bodies.iter().map(|_| thread()));
            let n = bodies.len() as u64;
            1 + s.rng.below(n) as usize
        };
        self.lock().current = first;
        std::thread::scope(|scope| {
            for (i, body) in bodies.into_iter().enumerate() {
                scope.spawn(move || self.run_one(i + 1, body));
            }
        });
        let mut s = self.lock();
        s.threads.truncate(1);
        s.threads[0].doing = Doing::Run;
        s.current = 0;
    }

    fn run_one(&self, me: usize, body: Box<dyn FnOnce() + Send + '_>) {
        ME.set(me);
        self.wait_turn(me, self.lock());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let mut s = self.lock();
        s.threads[me].doing = Doing::Ended;
        if done.is_err() {
            // The others hold locks and wait for a turn that would never come: unwinding
            // them would panic in destructors. The panic's message is out.
            std::process::exit(101);
        }
        if s.threads.iter().any(|t| t.doing != Doing::Ended) {
            Self::hand_over(&mut s);
        }
    }

    /// Runs the closures as real threads.
    pub fn run_threaded<'a>(&self, bodies: Vec<Box<dyn FnOnce() + Send + 'a>>) {
        self.threaded.store(true, SeqCst);
        std::thread::scope(|scope| {
            for body in bodies {
                scope.spawn(body);
            }
        });
        self.threaded.store(false, SeqCst);
    }

    /// Chooses who runs next and tells him.
    fn hand_over(s: &mut Inner) {
        loop {
            let ready: Vec<usize> =
                (0..s.threads.len()).filter(|i| s.threads[*i].doing == Doing::Run).collect();
            if !ready.is_empty() {
                let next = *s.rng.pick(&ready);
                s.current = next;
                s.threads[next].turn.notify_all();
                return;
            }
            let due = s.threads.iter().enumerate().filter_map(|(i, t)| match t.doing {
                Doing::Blocked { deadline: Some(d) } => Some((d, i)),
                _ => None,
            });
            let Some((at, who)) = due.min() else {
                let all: Vec<String> = s
                    .threads
                    .iter()
                    .enumerate()
                    .filter(|(_, t)| t.doing != Doing::Ended)
                    .map(|(i, t)| format!("thread {i} waits for {:x?}", t.waits_for))
                    .collect();
                panic!("deadlock: {}", all.join(", "));
            };
            s.now = s.now.max(at);
            s.threads[who].doing = Doing::Run;
        }
    }

    fn wait_turn(&self, me: usize, mut s: MutexGuard<'_, Inner>) {
        let turn = s.threads[me].turn.clone();
        while s.current != me {
            s = turn.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The number of the thread that calls; 0: the test's own.
    pub(crate) fn me() -> usize {
        ME.get()
    }
    /// Do real threads run?
    pub(crate) fn is_threaded(&self) -> bool {
        self.threaded.load(SeqCst)
    }

    /// A call of the machine: here another thread may come in between.
    ///
    /// => no spin lock is held.
    #[track_caller]
    pub fn preempt(&self) {
        machvm_sync::assert_may_sleep();
        let n = self.preempt.load(SeqCst);
        if n == 0 || self.threaded.load(SeqCst) {
            return;
        }
        let mut s = self.lock();
        if !s.rng.one_in(n) {
            return;
        }
        let me = ME.get();
        Self::hand_over(&mut s);
        self.wait_turn(me, s);
    }
}

impl Host for ModelHost {
    type Ticket = Ticket;

    /// Each scheduled thread has a CPU of its own; the threads of the system share some.
    fn cpu(&self) -> CpuId {
        if self.threaded.load(SeqCst) {
            let stack = 0u8;
            CpuId((std::ptr::from_ref(&stack).addr() >> 16) as u16)
        } else {
            CpuId(ME.get() as u16)
        }
    }
    fn is_privileged(&self) -> bool {
        PRIVILEGED.get() == std::ptr::from_ref(self).addr()
    }
    fn set_privileged(&self, on: bool) -> bool {
        let was = self.is_privileged();
        PRIVILEGED.set(if on { std::ptr::from_ref(self).addr() } else { 0 });
        was
    }

    fn now_ns(&self) -> u64 {
        if self.threaded.load(SeqCst) { self.start.elapsed().as_nanos() as u64 } else { self.lock().now }
    }

    fn assert_wait(&self, ev: Event) -> Ticket {
        let mut s = self.lock();
        if self.threaded.load(SeqCst) {
            let w = Arc::new(Waiter::default());
            s.queues.entry(ev.0).or_default().push(w.clone());
            return Ticket(Some((ev, w)));
        }
        let t = &mut s.threads[ME.get()];
        assert!(t.waits_for.is_none(), "a thread waits for two events");
        t.waits_for = Some(ev);
        t.woken = false;
        Ticket(None)
    }

    fn thread_block(&self, t: Ticket, deadline_ns: Option<u64>) -> Woken {
        if let Some((ev, w)) = t.0 {
            return self.block_threaded(ev, &w, deadline_ns);
        }
        let me = ME.get();
        let mut s = self.lock();
        if !s.threads[me].woken {
            s.threads[me].doing = Doing::Blocked { deadline: deadline_ns };
            Self::hand_over(&mut s);
            self.wait_turn(me, s);
            s = self.lock();
        }
        s.threads[me].doing = Doing::Run;
        let ev = s.threads[me].waits_for.take();
        if s.threads[me].woken {
            return Woken::Event;
        }
        *s.timeouts.entry(ev.map_or(0, |e| e.0 >> 60)).or_default() += 1;
        Woken::TimedOut
    }

    fn cancel_wait(&self, t: Ticket) {
        let mut s = self.lock();
        match t.0 {
            Some((ev, w)) => Self::leave(&mut s, ev, &w),
            None => s.threads[ME.get()].waits_for = None,
        }
    }

    fn thread_wakeup(&self, ev: Event) {
        let mut s = self.lock();
        for w in s.queues.remove(&ev.0).unwrap_or_default() {
            *w.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
            w.cv.notify_all();
        }
        for t in s.threads.iter_mut().filter(|t| t.waits_for == Some(ev)) {
            t.woken = true;
            if matches!(t.doing, Doing::Blocked { .. }) {
                t.doing = Doing::Run;
            }
        }
    }
}

impl ModelHost {
    fn leave(s: &mut Inner, ev: Event, w: &Arc<Waiter>) {
        if let Some(q) = s.queues.get_mut(&ev.0) {
            q.retain(|x| !Arc::ptr_eq(x, w));
            if q.is_empty() {
                s.queues.remove(&ev.0);
            }
        }
    }

    fn block_threaded(&self, ev: Event, w: &Arc<Waiter>, deadline_ns: Option<u64>) -> Woken {
        // Nothing in a test takes half a minute: no answer by then is a lost wake-up.
        let patience = Instant::now() + Duration::from_secs(30);
        let until = deadline_ns.map(|d| self.start + Duration::from_nanos(d));
        let mut woken = w.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*woken {
            let now = Instant::now();
            if until.is_some_and(|u| u <= now) {
                drop(woken);
                let mut s = self.lock();
                Self::leave(&mut s, ev, w);
                *s.timeouts.entry(ev.0 >> 60).or_default() += 1;
                return Woken::TimedOut;
            }
            assert!(now < patience, "nobody wakes {ev:x?}");
            let wait = until.unwrap_or(patience).saturating_duration_since(now);
            woken = w.cv.wait_timeout(woken, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        Woken::Event
    }
}
