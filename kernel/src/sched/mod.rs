//! Threads: who runs, who waits for what.
//!
//! One lock, with interrupts off, over the queue of ready threads and the hash of waiting ones; both are lists through
//! the threads themselves, so nothing here asks for memory. All CPUs take threads from the one queue; who puts one there
//! wakes a CPU that has nothing to do. The kernel is not preempted: a thread of it runs, on one CPU, until it waits or
//! yields. Programs are, whenever an interrupt finds that another thread should run. What of the kernel may run on
//! several CPUs at once is in [`big`].
//!
//! Each CPU's timer interrupts when its thread's tick ends, or when the next deadline comes that it knows: a CPU that
//! enters the earliest deadline sets its timer for it, and who serves deadlines sets its own for the next. A CPU with
//! nothing to do has no ticks.

pub(crate) mod big;
mod deadline;
mod thread;

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use alloc::sync::Arc;
use machvm_hal::{CpuId, Event, Woken};

use crate::arch;
use crate::lock::NoInterrupts;
use crate::process::Process;

pub(crate) use deadline::timer;
use thread::{Inner, NOWHERE, State};
pub(crate) use thread::{Thread, new_id, threads};

/// What wakes the page daemon.
pub(crate) const LOW_MEMORY: Event = Event(0x10);

/// Nanoseconds of a tick.
const TICK: u64 = 1_000_000_000 / arch::HZ;
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
    /// No waiting thread has an earlier deadline; `u64::MAX`: none has one.
    deadline: u64,
    /// CPUs with nothing to do that nobody has woken.
    idle: u64,
    stacks: u64,
    /// Threads that ended: references that nobody has given up yet.
    dead: *mut Thread,
}
// SAFETY: the lists are touched with `locked` taken.
unsafe impl Sync for Sched {}

static SCHED: Sched = Sched {
    locked: AtomicBool::new(false),
    lists: UnsafeCell::new(Lists {
        first: null_mut(),
        last: null_mut(),
        waiting: [null_mut(); BUCKETS],
        deadline: u64::MAX,
        idle: 0,
        stacks: 0,
        dead: null_mut(),
    }),
};
static IDLE: [AtomicPtr<Thread>; crate::MAX_CPUS] = [const { AtomicPtr::new(null_mut()) }; crate::MAX_CPUS];
static ONLINE: AtomicU64 = AtomicU64::new(0);
/// The other CPUs may run threads.
static OPEN: AtomicBool = AtomicBool::new(false);
/// A thread that ends on this CPU.
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

/// Puts a thread at the end of the queue, and wakes a CPU for it. => it is in no list.
fn push(l: &mut Lists, t: *mut Thread) {
    // SAFETY: a live thread; the lock is held.
    let t_ref = unsafe { &*t };
    t_ref.inner().next = null_mut();
    if l.first.is_null() {
        l.first = t;
    } else {
        // SAFETY: as above.
        unsafe { (*l.last).inner().next = t };
    }
    l.last = t;
    wake_for(l, t_ref);
}

/// Puts a thread at the head of the queue: it waited for a time or got a signal, so it is late already, or it is the
/// kernel's own.
fn push_first(l: &mut Lists, t: *mut Thread) {
    // SAFETY: as above.
    let t_ref = unsafe { &*t };
    t_ref.inner().next = l.first;
    if l.first.is_null() {
        l.last = t;
    }
    l.first = t;
    wake_for(l, t_ref);
}

/// Wakes a CPU that has nothing to do and may run `t`.
fn wake_for(l: &mut Lists, t: &Thread) {
    let idle = l.idle & t.allowed.load(Ordering::Relaxed);
    if idle != 0 {
        let one = idle & idle.wrapping_neg();
        l.idle &= !one;
        // This CPU looks by itself.
        if one != bit(arch::here().number) {
            arch::send_reschedule(one);
        }
    }
}

/// Takes the first thread that may run on `cpu`.
fn pop(l: &mut Lists, cpu: u16) -> *mut Thread {
    let (mut before, mut t): (*mut Thread, _) = (null_mut(), l.first);
    // SAFETY: a list of live threads; the lock is held.
    while let Some(thread) = unsafe { t.as_ref() } {
        let next = thread.inner().next;
        if thread.allowed.load(Ordering::Relaxed) & bit(cpu) == 0 {
            (before, t) = (t, next);
            continue;
        }
        // SAFETY: as above.
        match unsafe { before.as_ref() } {
            None => l.first = next,
            Some(b) => b.inner().next = next,
        }
        if next.is_null() {
            l.last = before;
        }
        break;
    }
    t
}

const fn bit(cpu: u16) -> u64 {
    1 << cpu
}

/// It may run from now on.
pub(crate) fn make_ready(t: Arc<Thread>) {
    if let Some(p) = &t.process {
        p.runs_another();
    }
    let t = Arc::into_raw(t).cast_mut();
    SCHED.with(|l| push(l, t));
}

/// Makes the idle thread of a CPU; gives the top of its stack. `None`: no memory.
///
/// => once for each CPU.
pub(crate) fn make_idle(number: u16) -> Option<u64> {
    let t = Thread::make(None, 0, unused, 0)?;
    let top = t.stack_top();
    IDLE[usize::from(number)].store(Arc::into_raw(t).cast_mut(), Ordering::Release);
    Some(top)
}

/// What runs here is the idle thread of this CPU from now on, and the CPU takes part in shootdowns.
///
/// => once on each CPU; it uses the kernel's page tables, and interrupts are off.
pub(crate) fn adopt(number: u16) {
    let t = IDLE[usize::from(number)].load(Ordering::Acquire);
    arch::here().current.store(t, Ordering::Relaxed);
    crate::embed::unload_pmap(CpuId(number));
    ONLINE.fetch_or(bit(number), Ordering::AcqRel);
    crate::embed::forget_translations();
}

/// Another CPU goes on as its idle thread. => once on each, interrupts off.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the ports have one CPU"))]
pub(crate) fn join(number: u16) -> ! {
    adopt(number);
    // Shootdowns are answered meanwhile.
    arch::interrupts_restore(true);
    while !OPEN.load(Ordering::Acquire) {
        arch::relax();
    }
    idle()
}

/// The other CPUs run threads from now on.
pub(crate) fn open() {
    OPEN.store(true, Ordering::Release);
}

extern "C" fn unused(_: usize) -> ! {
    unreachable!("the idle thread began before it was one")
}

/// Nothing to do, for ever.
pub(crate) fn idle() -> ! {
    arch::interrupts_off();
    loop {
        let l = SCHED.lock();
        let here = arch::here();
        let me = bit(here.number);
        if is_work(l, me) {
            l.idle &= !me;
            switch_locked(l, State::Runnable);
            continue;
        }
        l.idle |= me;
        let next = l.deadline;
        deadline::wake_me_at(here, next);
        SCHED.unlock();
        arch::wait_for_interrupt();
    }
}

/// Is a thread ready that may run on one of `cpus`?
fn is_work(l: &Lists, cpus: u64) -> bool {
    let mut t = l.first;
    // SAFETY: a list of live threads; the lock is held.
    while let Some(thread) = unsafe { t.as_ref() } {
        if thread.allowed.load(Ordering::Relaxed) & cpus != 0 {
            return true;
        }
        t = thread.inner().next;
    }
    false
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
    let thread = unsafe { &*me };
    thread.inner().state = state;
    here.resched.store(false, Ordering::Relaxed);
    let mut next = pop(l, here.number);
    if next.is_null() {
        let stays = thread.allowed.load(Ordering::Relaxed) & bit(here.number) != 0;
        if state == State::Runnable && (stays || me == idle) {
            SCHED.unlock();
            return;
        }
        next = idle;
    }
    // A thread that may not stay here is pushed before it stands still: nobody takes it before the lock is free.
    if state == State::Runnable && me != idle {
        push(l, me);
    }
    if state == State::Dead {
        DEAD[usize::from(here.number)].store(me, Ordering::Relaxed);
    }
    // SAFETY: both live; their own fields, and the lock is held; interrupts are off.
    unsafe {
        (*next).inner().slice = 0;
        let now = arch::ticks();
        let ran = now.wrapping_sub(thread.since.load(Ordering::Relaxed));
        thread.ran.fetch_add(ran, Ordering::Relaxed);
        thread.cpu.store(NOWHERE, Ordering::Relaxed);
        (*next).since.store(now, Ordering::Relaxed);
        (*next).cpu.store(here.number, Ordering::Relaxed);
        if let Some(fpu) = &mut *thread.fpu.get() {
            fpu.save();
        }
        here.current.store(next, Ordering::Relaxed);
        if me == idle {
            deadline::start_tick(here, l.deadline);
        }
        arch::set_kernel_stack((*next).stack_top());
        arch::switch(thread.context.get(), (*next).context.get());
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
            crate::process::rseq::switched(me);
        }
        None => crate::embed::unload_pmap(CpuId(here.number)),
    }
    // SAFETY: the running thread's own.
    if let Some(fpu) = unsafe { &*me.fpu.get() } {
        fpu.load();
    }
    let dead = DEAD[usize::from(here.number)].swap(null_mut(), Ordering::Relaxed);
    // SAFETY: the reference that `make_ready` took keeps it; it runs no more, and nobody stands on its stack.
    if let Some(t) = unsafe { dead.as_ref() } {
        if let Some(p) = &t.process {
            // This CPU has left its memory.
            p.runs_one_less();
        }
        SCHED.with(|l| {
            t.inner().next = l.dead;
            l.dead = dead;
        });
    }
}

/// Gives up what ended threads had. => may sleep.
pub(crate) fn bury() {
    let mut dead = SCHED.with(|l| core::mem::replace(&mut l.dead, null_mut()));
    while !dead.is_null() {
        // SAFETY: the reference that `make_ready` took; nobody else has the list.
        let t = unsafe { Arc::from_raw(dead) };
        // SAFETY: nobody runs it or queues it.
        dead = unsafe { (*t.inner.get()).next };
    }
}

/// Lets others run, if there are any.
pub(crate) fn yield_now() {
    let held = big::leave();
    {
        let _off = NoInterrupts::new();
        reschedule(State::Runnable);
    }
    if held {
        big::enter();
    }
}

/// The running thread ends. Its resources but the stack are given up already.
pub(crate) fn end() -> ! {
    big::leave();
    arch::interrupts_off();
    reschedule(State::Dead);
    unreachable!("a dead thread runs")
}

/// Takes threads out of a bucket.
fn wake_where(l: &mut Lists, b: usize, how: Woken, mut which: impl FnMut(&Inner) -> bool) {
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
            inner.deadline = 0;
            inner.woken = how;
            inner.event = 0;
            let blocked = inner.state == State::Blocked;
            inner.state = State::Runnable;
            match how {
                _ if !blocked => {}
                // The kernel's own threads have little to do, and others wait for it.
                Woken::Event if (*t).process.is_some() => push(l, t),
                _ => push_first(l, t),
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

/// As [`block`], by who has not got the big lock.
fn block_as_is(t: Ticket) {
    switch_off(t, None, false);
}

fn sleep(ticket: Ticket, deadline_ns: Option<u64>, interruptible: bool) -> Woken {
    let held = big::leave();
    let woken = switch_off(ticket, deadline_ns, interruptible);
    if held {
        big::enter();
    }
    woken
}

fn switch_off(_ticket: Ticket, deadline_ns: Option<u64>, interruptible: bool) -> Woken {
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
            deadline::note(l, arch::here(), d.max(1));
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

/// A signal came for a thread: a wait that signals end is over, and if it runs it looks.
pub(crate) fn interrupt(t: &Thread) {
    SCHED.with(|l| {
        let inner = t.inner();
        if inner.state == State::Blocked && inner.interruptible {
            let own: *const Inner = inner;
            wake_where(l, bucket(inner.event), Woken::Interrupted, |i| core::ptr::eq(i, own));
        }
        look_up(t);
    });
}

/// Makes `t` look what is to be done, if it runs on another CPU. => the lock is held.
fn look_up(t: &Thread) {
    let cpu = t.cpu.load(Ordering::Relaxed);
    if cpu != NOWHERE && cpu != arch::here().number {
        arch::send_reschedule(bit(cpu));
    }
}

/// `t` runs on `cpus` only from now on. => some of them are online.
pub(crate) fn allow(t: &Thread, cpus: u64) {
    t.allowed.store(cpus, Ordering::Relaxed);
    SCHED.with(|l| {
        look_up(t);
        // It may wait for a CPU that it may not use, while another has nothing to do.
        let idle = l.idle & cpus;
        if idle != 0 && is_work(l, idle) {
            l.idle &= !idle;
            arch::send_reschedule(idle & !bit(arch::here().number));
        }
    });
    if core::ptr::eq(t, current()) {
        yield_now();
    }
}
