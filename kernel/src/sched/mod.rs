//! Threads: who runs, who waits for what.
//!
//! One lock, with interrupts off, over the queue of ready threads and the hash of waiting ones; both are lists through
//! the threads themselves, so nothing here asks for memory. The kernel is not preempted: a thread of it runs until it
//! waits or yields. Programs are, whenever an interrupt finds that another thread should run.

mod thread;

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use alloc::sync::Arc;
use machvm_hal::{CpuId, Event, Woken};

use crate::arch;
use crate::lock::NoInterrupts;
use crate::process::Process;

use thread::{Inner, State};
pub(crate) use thread::{Thread, new_id};

/// What wakes the page daemon.
pub(crate) const LOW_MEMORY: Event = Event(0x10);

/// Ticks that a thread may run while others wait.
pub(crate) const SLICE: u32 = 2;
const BUCKETS: usize = 64;

/// A place in the queue of an event: a thread has one at a time.
pub(crate) struct Ticket(());

struct Sched {
    locked: AtomicBool,
    lists: UnsafeCell<Lists>,
}
struct Lists {
    first: *mut Thread,
    last: *mut Thread,
    waiting: [*mut Thread; BUCKETS],
    /// Waiting threads with a deadline.
    deadlines: u32,
    stacks: u64,
}
// SAFETY: the lists are touched with `locked` taken.
unsafe impl Sync for Sched {}

static SCHED: Sched = Sched {
    locked: AtomicBool::new(false),
    lists: UnsafeCell::new(Lists {
        first: null_mut(),
        last: null_mut(),
        waiting: [null_mut(); BUCKETS],
        deadlines: 0,
        stacks: 0,
    }),
};
static IDLE: [AtomicPtr<Thread>; crate::MAX_CPUS] = [const { AtomicPtr::new(null_mut()) }; crate::MAX_CPUS];
static ONLINE: AtomicU64 = AtomicU64::new(0);
/// A thread that ended on this CPU and whose stack nobody stands on any more.
static DEAD: [AtomicPtr<Thread>; crate::MAX_CPUS] = [const { AtomicPtr::new(null_mut()) }; crate::MAX_CPUS];

impl Sched {
    /// => interrupts are off until `unlock`.
    #[expect(clippy::mut_from_ref, reason = "the lock makes it the only one")]
    fn lock(&self) -> &mut Lists {
        while self.locked.swap(true, Ordering::Acquire) {
            arch::relax();
        }
        // SAFETY: locked.
        unsafe { &mut *self.lists.get() }
    }
    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }
    fn with<R>(&self, f: impl FnOnce(&mut Lists) -> R) -> R {
        let _off = NoInterrupts::new();
        let r = f(self.lock());
        self.unlock();
        r
    }
}

fn bucket(event: u64) -> usize {
    (event.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % BUCKETS
}

/// The thread that runs.
pub(crate) fn current() -> &'static Thread {
    // SAFETY: the running thread lives while it runs; references of it do not outlive it by convention: they are
    // never kept across its end.
    unsafe { &*arch::here().current.load(Ordering::Relaxed) }
}
/// The process of the thread that runs. => it has one.
pub(crate) fn process() -> &'static Arc<Process> {
    current().process.as_ref().expect("a program's thread")
}

/// The CPUs that run.
pub(crate) fn online() -> u64 {
    ONLINE.load(Ordering::Acquire)
}

fn push(l: &mut Lists, t: *mut Thread) {
    // SAFETY: a live thread; the lock is held.
    unsafe { (*t).inner().next = null_mut() };
    if l.first.is_null() {
        l.first = t;
    } else {
        // SAFETY: as above.
        unsafe { (*l.last).inner().next = t };
    }
    l.last = t;
}
fn pop(l: &mut Lists) -> *mut Thread {
    let t = l.first;
    if !t.is_null() {
        // SAFETY: as above.
        l.first = unsafe { (*t).inner().next };
    }
    t
}

/// It may run from now on.
pub(crate) fn make_ready(t: Arc<Thread>) {
    let t = Arc::into_raw(t).cast_mut();
    SCHED.with(|l| push(l, t));
}

/// Makes what runs here the idle thread of this CPU. => once on each CPU.
pub(crate) fn adopt(number: u16) {
    let t = Thread::make(None, 0, unused, 0).expect("memory for the idle thread");
    let t = Arc::into_raw(t).cast_mut();
    IDLE[usize::from(number)].store(t, Ordering::Relaxed);
    arch::here().current.store(t, Ordering::Relaxed);
    ONLINE.fetch_or(1 << number, Ordering::Release);
}
extern "C" fn unused(_: usize) -> ! {
    unreachable!("the idle thread began before it was one")
}

/// Nothing to do, for ever.
pub(crate) fn idle() -> ! {
    arch::interrupts_off();
    loop {
        if SCHED.with(|l| l.first.is_null()) {
            arch::wait_for_interrupt();
        } else {
            reschedule(State::Runnable);
        }
    }
}

/// Another thread runs, if one is ready. This one's state becomes `state`.
///
/// => interrupts are off, and no lock is held.
fn reschedule(state: State) {
    let l = SCHED.lock();
    switch_locked(l, state);
}

fn switch_locked(l: &mut Lists, state: State) {
    let here = arch::here();
    let me = here.current.load(Ordering::Relaxed);
    let idle = IDLE[usize::from(here.number)].load(Ordering::Relaxed);
    // SAFETY: the running thread; the lock is held.
    let inner = unsafe { (*me).inner() };
    inner.state = state;
    here.resched.store(false, Ordering::Relaxed);
    let mut next = pop(l);
    if state == State::Runnable {
        if next.is_null() {
            SCHED.unlock();
            return;
        }
        if me != idle {
            push(l, me);
        }
    } else if next.is_null() {
        next = idle;
    }
    if next == me {
        SCHED.unlock();
        return;
    }
    if state == State::Dead {
        DEAD[usize::from(here.number)].store(me, Ordering::Relaxed);
    }
    // SAFETY: both live; their own fields, and the lock is held; interrupts are off.
    unsafe {
        (*next).inner().slice = 0;
        let now = arch::ticks();
        let ran = now.wrapping_sub((*me).since.load(Ordering::Relaxed));
        (*me).ran.fetch_add(ran, Ordering::Relaxed);
        (*next).since.store(now, Ordering::Relaxed);
        if let Some(fpu) = &mut *(*me).fpu.get() {
            fpu.save();
        }
        here.current.store(next, Ordering::Relaxed);
        arch::set_kernel_stack((*next).stack_top());
        arch::switch((*me).context.get(), (*next).context.get());
    }
    after_switch();
}

/// The rest of a switch, on the stack of the thread that was switched to.
///
/// => the scheduler's lock is held and interrupts are off; on return the lock is free.
fn after_switch() {
    SCHED.unlock();
    let here = arch::here();
    let me = current();
    match &me.process {
        Some(p) => {
            p.activate(CpuId(here.number));
            arch::set_fs(me.fs.load(Ordering::Relaxed));
        }
        None => crate::embed::unload_pmap(CpuId(here.number)),
    }
    // SAFETY: the running thread's own.
    if let Some(fpu) = unsafe { &*me.fpu.get() } {
        fpu.load();
    }
    let dead = DEAD[usize::from(here.number)].swap(null_mut(), Ordering::Relaxed);
    if !dead.is_null() {
        // SAFETY: the reference that `make_ready` took; it runs no more.
        drop(unsafe { Arc::from_raw(dead) });
    }
}

/// Lets others run, if there are any.
pub(crate) fn yield_now() {
    let _off = NoInterrupts::new();
    reschedule(State::Runnable);
}

/// The running thread ends. Its resources but the stack are given up already.
pub(crate) fn end() -> ! {
    arch::interrupts_off();
    reschedule(State::Dead);
    unreachable!("a dead thread runs")
}

/// The timer ticked. => interrupts are off.
pub(crate) fn tick(from_user: bool) {
    let here = arch::here();
    let me = here.current.load(Ordering::Relaxed);
    if me.is_null() {
        return;
    }
    // SAFETY: the running thread.
    let t = unsafe { &*me };
    if let Some(p) = &t.process {
        t.ticks[usize::from(!from_user)].fetch_add(1, Ordering::Relaxed);
        p.tick(t, from_user);
    }
    let now = arch::now_ns();
    let l = SCHED.lock();
    if l.deadlines != 0 {
        for b in 0..BUCKETS {
            wake_where(l, b, Woken::TimedOut, |i| i.deadline != 0 && i.deadline <= now);
        }
    }
    // SAFETY: the running thread; the lock is held.
    let inner = unsafe { (*me).inner() };
    inner.slice += 1;
    if inner.slice >= SLICE && !l.first.is_null() {
        here.resched.store(true, Ordering::Relaxed);
    }
    SCHED.unlock();
}

/// Takes threads out of a bucket.
fn wake_where(l: &mut Lists, b: usize, how: Woken, which: impl Fn(&Inner) -> bool) {
    let mut at: *mut *mut Thread = &raw mut l.waiting[b];
    // SAFETY: a list of live threads; the lock is held.
    unsafe {
        while !(*at).is_null() {
            let t = *at;
            let inner = (*t).inner();
            if !which(inner) {
                at = &raw mut inner.next;
                continue;
            }
            *at = inner.next;
            if inner.deadline != 0 {
                l.deadlines -= 1;
                inner.deadline = 0;
            }
            inner.woken = how;
            inner.event = 0;
            let blocked = inner.state == State::Blocked;
            inner.state = State::Runnable;
            if blocked {
                push(l, t);
            }
        }
    }
}

/// [`machvm_hal::Host::assert_wait`].
pub(crate) fn assert_wait(ev: Event) -> Ticket {
    SCHED.with(|l| {
        let me = arch::here().current.load(Ordering::Relaxed);
        // SAFETY: the running thread; the lock is held.
        let inner = unsafe { (*me).inner() };
        debug_assert!(inner.event == 0, "a thread waits for two events");
        inner.event = ev.0;
        inner.state = State::Asserted;
        inner.woken = Woken::Event;
        inner.interruptible = false;
        let b = bucket(ev.0);
        inner.next = l.waiting[b];
        l.waiting[b] = me;
    });
    Ticket(())
}

/// [`machvm_hal::Host::thread_block`].
pub(crate) fn block(t: Ticket, deadline_ns: Option<u64>) -> Woken {
    sleep(t, deadline_ns, false)
}
/// As [`block`]; a signal ends the wait.
pub(crate) fn block_interruptible(t: Ticket, deadline_ns: Option<u64>) -> Woken {
    sleep(t, deadline_ns, true)
}

fn sleep(_ticket: Ticket, deadline_ns: Option<u64>, interruptible: bool) -> Woken {
    let _off = NoInterrupts::new();
    let l = SCHED.lock();
    let me = current();
    let inner = me.inner();
    if inner.state == State::Asserted {
        if interruptible && me.process.as_ref().is_some_and(|p| p.has_signal(me)) {
            let own: *const Inner = inner;
            wake_where(l, bucket(me.inner().event), Woken::Interrupted, |i| core::ptr::eq(i, own));
            SCHED.unlock();
            return Woken::Interrupted;
        }
        inner.interruptible = interruptible;
        if let Some(d) = deadline_ns {
            inner.deadline = d.max(1);
            l.deadlines += 1;
        }
        switch_locked(l, State::Blocked);
    } else {
        SCHED.unlock();
    }
    SCHED.with(|_| current().inner().woken)
}

/// [`machvm_hal::Host::cancel_wait`].
pub(crate) fn cancel(_t: Ticket) {
    SCHED.with(|l| {
        let me = arch::here().current.load(Ordering::Relaxed).cast_const();
        // SAFETY: the running thread; the lock is held.
        let inner = unsafe { (*me).inner() };
        if inner.state == State::Asserted {
            let own: *const Inner = inner;
            wake_where(l, bucket(inner.event), Woken::Event, |i| core::ptr::eq(i, own));
        }
    });
}

/// Counts the wake-ups of each bucket.
static WAKEUPS: [AtomicU64; BUCKETS] = [const { AtomicU64::new(0) }; BUCKETS];

/// How often threads that wait for `ev` (or another event of its bucket) were woken, for [`sleep_unless`].
pub(crate) fn wakeups(ev: Event) -> u64 {
    WAKEUPS[bucket(ev.0)].load(Ordering::Acquire)
}
/// Sleeps until `ev` is woken or the time comes, unless it was woken since `seen` was asked.
pub(crate) fn sleep_unless(ev: Event, seen: u64, deadline_ns: Option<u64>) {
    let ticket = assert_wait(ev);
    if wakeups(ev) != seen {
        cancel(ticket);
    } else {
        block(ticket, deadline_ns);
    }
}

/// Waits until `ready` gives something, asking again whenever `ev` is woken. `ready` may sleep. An error says that the
/// time came (`TimedOut`) or that a signal waits (`Interrupted`).
///
/// => no lock is held.
pub(crate) fn wait_for<R>(
    ev: Event,
    deadline_ns: Option<u64>,
    mut ready: impl FnMut() -> Option<R>,
) -> Result<R, Woken> {
    let count = &WAKEUPS[bucket(ev.0)];
    loop {
        let seen = count.load(Ordering::Acquire);
        if let Some(r) = ready() {
            return Ok(r);
        }
        let ticket = assert_wait(ev);
        if count.load(Ordering::Acquire) != seen {
            cancel(ticket);
            continue;
        }
        match block_interruptible(ticket, deadline_ns) {
            Woken::Event => {}
            // What was waited for may have come with the signal or the time.
            how => return ready().ok_or(how),
        }
    }
}

/// [`machvm_hal::Host::thread_wakeup`].
pub(crate) fn wakeup(ev: Event) {
    WAKEUPS[bucket(ev.0)].fetch_add(1, Ordering::AcqRel);
    SCHED.with(|l| wake_where(l, bucket(ev.0), Woken::Event, |i| i.event == ev.0));
}

/// A signal came for a thread: a wait that signals end is over.
pub(crate) fn interrupt(t: &Thread) {
    SCHED.with(|l| {
        let inner = t.inner();
        if inner.state == State::Blocked && inner.interruptible {
            let own: *const Inner = inner;
            wake_where(l, bucket(inner.event), Woken::Interrupted, |i| core::ptr::eq(i, own));
        }
    });
}
