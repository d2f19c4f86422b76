//! Signals: who is sent what, what becomes of it.
//!
//! A signal waits in the queue of its thread or its process. The sets of what waits are kept beside the queues as
//! words, which is all that a thread on its way to its program, or to sleep, looks at.

mod fault;
mod info;
mod stop;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::sync::Arc;

pub(crate) use fault::{exception, fault, force_segv};
pub(crate) use info::{INFO_BYTES, Info, SI_TIMER, SI_TKILL, SI_USER};
pub(crate) use stop::parent_hears;

use super::Process;
use crate::arch::{self, Frame};
use crate::errno::{EAGAIN, EINTR, ERESTARTBLOCK, ERESTARTNOINTR, ERESTARTSYS, Errno, Result};
use crate::mutex::Mutex;
use crate::sched::{self, Thread};
use info::Queue;

#[expect(dead_code, reason = "the table is whole")]
mod numbers {
    pub(crate) const SIGHUP: u32 = 1;
    pub(crate) const SIGINT: u32 = 2;
    pub(crate) const SIGQUIT: u32 = 3;
    pub(crate) const SIGILL: u32 = 4;
    pub(crate) const SIGTRAP: u32 = 5;
    pub(crate) const SIGABRT: u32 = 6;
    pub(crate) const SIGBUS: u32 = 7;
    pub(crate) const SIGFPE: u32 = 8;
    pub(crate) const SIGKILL: u32 = 9;
    pub(crate) const SIGSEGV: u32 = 11;
    pub(crate) const SIGPIPE: u32 = 13;
    pub(crate) const SIGALRM: u32 = 14;
    pub(crate) const SIGCHLD: u32 = 17;
    pub(crate) const SIGCONT: u32 = 18;
    pub(crate) const SIGSTOP: u32 = 19;
    pub(crate) const SIGTSTP: u32 = 20;
    pub(crate) const SIGTTIN: u32 = 21;
    pub(crate) const SIGTTOU: u32 = 22;
    pub(crate) const SIGURG: u32 = 23;
    pub(crate) const SIGXCPU: u32 = 24;
    pub(crate) const SIGXFSZ: u32 = 25;
    pub(crate) const SIGVTALRM: u32 = 26;
    pub(crate) const SIGPROF: u32 = 27;
    pub(crate) const SIGWINCH: u32 = 28;
    pub(crate) const SIGSYS: u32 = 31;
}
pub(crate) use numbers::*;

/// The highest number.
pub(crate) const SIGNALS: u32 = 64;

pub(crate) const SA_NOCLDSTOP: u64 = 1;
pub(crate) const SA_NOCLDWAIT: u64 = 2;
pub(crate) const SA_SIGINFO: u64 = 4;
pub(crate) const SA_RESTORER: u64 = 0x0400_0000;
pub(crate) const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
/// The flags that mean something to Linux (with SA_EXPOSE_TAGBITS absent, as on x86).
pub(crate) const SA_KNOWN: u64 = SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_RESTORER
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | 0x400;

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;

/// A `struct sigaction` as the kernel has it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Action {
    /// Address of the handler, SIG_DFL or SIG_IGN.
    pub(crate) handler: u64,
    /// SA_ flags.
    pub(crate) flags: u64,
    /// Where the handler returns to.
    pub(crate) restorer: u64,
    /// Blocked while it runs.
    pub(crate) mask: u64,
}

impl Action {
    fn ignores(self, signal: u32) -> bool {
        self.handler == SIG_IGN || self.handler == SIG_DFL && is_ignored_by_default(signal)
    }
    fn is_handled(self) -> bool {
        self.handler != SIG_DFL && self.handler != SIG_IGN
    }
}

/// The set with one signal.
pub(crate) const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}
/// What cannot be blocked, caught or ignored.
pub(crate) const UNBLOCKABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);
const STOPS: u64 = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
/// Taken before others: they are about the instruction that runs.
const SYNCHRONOUS: u64 = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS);

/// What a signal does where nothing was said: nothing.
fn is_ignored_by_default(signal: u32) -> bool {
    matches!(signal, SIGCHLD | SIGCONT | SIGURG | SIGWINCH)
}

/// A process's handlers and pending signals.
pub(crate) struct Signals {
    inner: Mutex<Shared>,
    /// What waits in the queue.
    pending: AtomicU64,
    /// Its threads stop before they run their program again.
    stopped: AtomicBool,
    /// What wait reports next of a child that stopped or went on: a status, or 0.
    news: AtomicU32,
}

struct Shared {
    actions: [Action; SIGNALS as usize + 1],
    queue: Queue,
}

/// What a thread has of its own.
pub(crate) struct OfThread {
    /// Blocked signals.
    pub(crate) mask: AtomicU64,
    queue: Mutex<Queue>,
    pending: AtomicU64,
    /// The mask to come back to once the call is over (sigsuspend, ppoll, pselect).
    saved: Mutex<Option<u64>>,
    has_saved: AtomicBool,
    /// The alternate stack: address, bytes, flags.
    pub(crate) alternate: [AtomicU64; 3],
    /// What sigtimedwait waits for.
    pub(crate) awaited: AtomicU64,
    /// What restart_syscall does.
    again: Mutex<Option<Again>>,
    /// Of the last exception: vector, error code, address.
    #[cfg_attr(target_arch = "riscv64", expect(dead_code, reason = "signal frames of others tell it"))]
    pub(crate) trap: [AtomicU64; 3],
}

/// The rest of a call that a signal ended.
type Again = Box<dyn FnOnce() -> Result + Send>;

/// In the flags of an alternate stack: none.
pub(crate) const SS_DISABLE: u64 = 2;

impl OfThread {
    pub(crate) fn new() -> Self {
        OfThread {
            mask: AtomicU64::new(0),
            queue: Mutex::new(Queue::new()),
            pending: AtomicU64::new(0),
            saved: Mutex::new(None),
            has_saved: AtomicBool::new(false),
            alternate: [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(SS_DISABLE)],
            awaited: AtomicU64::new(0),
            again: Mutex::new(None),
            trap: [const { AtomicU64::new(0) }; 3],
        }
    }
    /// Sets the mask; gives the old one.
    pub(crate) fn set_mask(&self, mask: u64) -> u64 {
        self.mask.swap(mask & !UNBLOCKABLE, Ordering::AcqRel)
    }
    /// Sets the alternate stack.
    pub(crate) fn set_alternate(&self, words: [u64; 3]) {
        self.alternate.iter().zip(words).for_each(|(a, w)| a.store(w, Ordering::Relaxed));
    }
    /// The alternate stack.
    pub(crate) fn alternate(&self) -> [u64; 3] {
        core::array::from_fn(|i| self.alternate[i].load(Ordering::Relaxed))
    }
}

impl Signals {
    pub(super) fn new() -> Self {
        Signals {
            inner: Mutex::new(Shared { actions: [Action::default(); 65], queue: Queue::new() }),
            pending: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            news: AtomicU32::new(0),
        }
    }
    /// A child's: the same handlers, nothing pending.
    pub(super) fn inherit(&self, from: &Signals) {
        self.inner.lock().actions = from.inner.lock().actions;
    }
    /// A new program has no handlers; what was ignored stays so.
    pub(super) fn reset(&self) {
        for a in &mut self.inner.lock().actions {
            *a =
                Action { handler: if a.handler == SIG_IGN { SIG_IGN } else { SIG_DFL }, ..Action::default() };
        }
    }
    /// Signals that `t` would take now.
    pub(super) fn waiting(&self, t: &Thread) -> u64 {
        (self.pending.load(Ordering::Acquire) | t.signals.pending.load(Ordering::Acquire))
            & !t.signals.mask.load(Ordering::Relaxed)
    }
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
    /// The action of a signal.
    pub(crate) fn action(&self, signal: u32) -> Action {
        self.inner.lock().actions[signal as usize]
    }
    /// Replaces it; gives the old one. What is ignored from now on waits no longer.
    pub(crate) fn set_action(&self, p: &Process, signal: u32, action: Action) -> Action {
        let mut inner = self.inner.lock();
        let old = core::mem::replace(&mut inner.actions[signal as usize], action);
        if action.ignores(signal) {
            inner.queue.discard(bit(signal));
            self.pending.store(inner.queue.set(), Ordering::Release);
            for t in p.threads.lock().iter() {
                t.signals.discard(bit(signal));
            }
        }
        old
    }
    /// Is a signal ignored (SIG_IGN)?
    pub(crate) fn ignores(&self, signal: u32) -> bool {
        self.action(signal).handler == SIG_IGN
    }
    /// Does the process not want to hear of children (SA_NOCLDWAIT, or SIGCHLD ignored)?
    pub(super) fn reaps_children(&self) -> bool {
        let a = self.action(SIGCHLD);
        a.handler == SIG_IGN || a.flags & SA_NOCLDWAIT != 0
    }
}

impl OfThread {
    fn discard(&self, set: u64) {
        let mut queue = self.queue.lock();
        queue.discard(set);
        self.pending.store(queue.set(), Ordering::Release);
    }
}

/// Whom a signal is for.
enum Target<'a> {
    Process,
    Thread(&'a Thread),
}

/// Sends a signal from the kernel to a process.
pub(crate) fn send(p: &Process, signal: u32) {
    let _ = send_info(p, Info::kernel(signal));
}
/// Sends a signal to a process.
pub(crate) fn send_info(p: &Process, info: Info) -> Result<()> {
    post(p, &Target::Process, info)
}
/// Sends a signal to one thread.
pub(crate) fn send_to_thread(t: &Thread, info: Info) -> Result<()> {
    match &t.process {
        Some(p) => post(p, &Target::Thread(t), info),
        None => Ok(()),
    }
}
/// Sends a signal to the running thread alone (SIGPIPE).
pub(crate) fn raise(signal: u32) {
    let me = sched::process();
    let _ = send_to_thread(sched::current(), Info::from(signal, SI_USER, me.pid, 0));
}
/// Sends a signal to every process of a group; gives how many there are (the terminal's ^C and ^Z).
#[allow(dead_code)]
pub(crate) fn send_to_group(group: u32, signal: u32) -> usize {
    let members = super::all(|p| p.group() == group);
    members.iter().for_each(|p| send(p, signal));
    members.len()
}

fn post(p: &Process, target: &Target<'_>, info: Info) -> Result<()> {
    let signal = info.signal;
    if p.is_zombie() {
        return Ok(());
    }
    let mut inner = p.signals.inner.lock();
    let threads: alloc::vec::Vec<Arc<Thread>> = p.threads.lock().clone();
    let mut forget = |set| {
        inner.queue.discard(set);
        p.signals.pending.store(inner.queue.set(), Ordering::Release);
        threads.iter().for_each(|t| t.signals.discard(set));
    };
    if signal == SIGCONT {
        forget(STOPS);
        stop::go_on(p);
    } else if STOPS & bit(signal) != 0 {
        forget(bit(SIGCONT));
    }
    let blocks = |t: &Thread| t.signals.mask.load(Ordering::Relaxed) & bit(signal) != 0;
    let blocked = match target {
        Target::Thread(t) => blocks(t),
        // Who waits for it by sigtimedwait unblocks it meanwhile.
        Target::Process => threads.first().is_some_and(|t| blocks(t)),
    };
    if inner.actions[signal as usize].ignores(signal) && !blocked && !threads.iter().any(|t| t.awaits(signal))
    {
        return Ok(());
    }
    let queued = match target {
        Target::Process => {
            let ok = inner.queue.push(info);
            p.signals.pending.store(inner.queue.set(), Ordering::Release);
            ok
        }
        Target::Thread(t) => {
            let mut queue = t.signals.queue.lock();
            let ok = queue.push(info);
            t.signals.pending.store(queue.set(), Ordering::Release);
            ok
        }
    };
    drop(inner);
    crate::fs::signalfd::arrived();
    if signal == SIGKILL {
        stop::wake(p);
    }
    match target {
        Target::Thread(t) => sched::interrupt(t),
        // Each that may take it looks; the first one does.
        Target::Process => threads.iter().filter(|t| !blocks(t)).for_each(|t| sched::interrupt(t)),
    }
    if queued { Ok(()) } else { Err(EAGAIN) }
}

/// Must a blocking call of the running thread end, for a signal that it is going to take or because it shall die?
/// The call then gives [`ERESTARTSYS`] or one of its sisters (or what it did so far).
#[allow(dead_code)]
pub(crate) fn interrupted() -> bool {
    sched::process().has_signal(sched::current())
}

/// For the length of this call `mask` is blocked instead (ppoll, pselect, sigsuspend). The old mask comes back when
/// the call ends, or with the return from the handler of the signal that ended it.
pub(crate) fn mask_for_call(mask: u64) {
    let s = &sched::current().signals;
    let old = s.set_mask(mask);
    *s.saved.lock() = Some(old);
    s.has_saved.store(true, Ordering::Relaxed);
}

fn take_saved(s: &OfThread) -> Option<u64> {
    if !s.has_saved.swap(false, Ordering::Relaxed) {
        return None;
    }
    s.saved.lock().take()
}

/// The call gave `result`: unless a signal ended it, its own mask is over.
pub(crate) fn call_ended(result: i64) {
    let s = &sched::current().signals;
    if s.has_saved.load(Ordering::Relaxed)
        && result != -i64::from(EINTR.0)
        && !(-516..=-512).contains(&result)
        && let Some(mask) = take_saved(s)
    {
        s.set_mask(mask);
    }
}

/// What is left of the running call, for after the signal that ends it: the call gives the error that this gives.
pub(crate) fn restart_with(rest: impl FnOnce() -> Result + Send + 'static) -> Errno {
    *sched::current().signals.again.lock() = Some(Box::new(rest));
    ERESTARTBLOCK
}

/// restart_syscall(2).
pub(crate) fn restart_syscall() -> Result {
    let again = sched::current().signals.again.lock().take();
    again.map_or(Err(EINTR), |rest| rest())
}

/// A call that a signal ended is made again, or gives EINTR. `handler`: its flags, if one runs.
fn restart(f: &mut Frame, handler: Option<u64>) {
    let Some(e) = f.restart_code() else { return };
    let again = Errno(e) == ERESTARTNOINTR
        || handler.is_none_or(|flags| flags & SA_RESTART != 0 && Errno(e) == ERESTARTSYS);
    if !again {
        f.set_result(-i64::from(EINTR.0));
    } else if Errno(e) == ERESTARTBLOCK {
        f.call_again(Some(arch::RESTART_SYSCALL));
    } else {
        f.call_again(None);
    }
}

/// Takes a signal of `set` that waits for the running thread.
pub(crate) fn take(set: u64) -> Option<Info> {
    let (t, p) = (sched::current(), sched::process());
    let mut inner = p.signals.inner.lock();
    let mut own = t.signals.queue.lock();
    let (mine, all) = (own.set() & set, inner.queue.set() & set);
    let now = if mine & SYNCHRONOUS != 0 {
        mine & SYNCHRONOUS
    } else if mine != 0 {
        mine
    } else {
        all
    };
    if now == 0 {
        return None;
    }
    let signal = now.trailing_zeros() + 1;
    let info = if mine & bit(signal) != 0 { own.take(signal) } else { inner.queue.take(signal) };
    t.signals.pending.store(own.set(), Ordering::Release);
    p.signals.pending.store(inner.queue.set(), Ordering::Release);
    info
}

/// The set of what waits for the running thread.
pub(crate) fn waits() -> u64 {
    let (t, p) = (sched::current(), sched::process());
    p.signals.pending.load(Ordering::Acquire) | t.signals.pending.load(Ordering::Acquire)
}

/// The set of what is blocked and waits (sigpending).
pub(crate) fn pending() -> u64 {
    waits() & sched::current().signals.mask.load(Ordering::Relaxed)
}

/// Has [`deliver`] nothing to do?
#[inline]
pub(crate) fn is_quiet(t: &Thread, f: &Frame) -> bool {
    let s = &sched::process().signals;
    t.due.load(Ordering::Relaxed) == 0
        && !s.is_stopped()
        && s.waiting(t) == 0
        && f.restart_code().is_none()
        && !t.signals.has_saved.load(Ordering::Relaxed)
}

/// Carries out one signal of the running thread, if there is one. `false`: the program may go on.
pub(crate) fn deliver(f: &mut Frame) -> bool {
    let (t, p) = (sched::current(), sched::process());
    let waiting = p.signals.waiting(t);
    if p.signals.is_stopped() && waiting & bit(SIGKILL) == 0 {
        stop::stay(p, t);
        return true;
    }
    if waiting == 0 {
        restart(f, None);
        if let Some(mask) = take_saved(&t.signals) {
            t.signals.set_mask(mask);
            return true;
        }
        return false;
    }
    let Some(info) = take(waiting) else { return true };
    let action = p.signals.action(info.signal);
    if info.signal != SIGKILL && info.signal != SIGSTOP {
        if action.is_handled() {
            run_handler(f, &info, action);
            return true;
        }
        if action.ignores(info.signal) {
            return true;
        }
        if STOPS & bit(info.signal) != 0 {
            if info.signal == SIGSTOP || !super::group::is_orphaned(p.group()) {
                stop::stop(p, info.signal);
            }
            return true;
        }
    } else if info.signal == SIGSTOP {
        stop::stop(p, info.signal);
        return true;
    }
    super::exit::exit_group(info.signal as i32)
}

/// The frame becomes that of the handler.
fn run_handler(f: &mut Frame, info: &Info, action: Action) {
    let (t, p) = (sched::current(), sched::process());
    restart(f, Some(action.flags));
    super::rseq::interrupt(t, f);
    let mask = t.signals.mask.load(Ordering::Relaxed);
    let back = take_saved(&t.signals).unwrap_or(mask);
    if arch::push_signal(f, info, action, back).is_err() {
        // There is no stack for the handler.
        if info.signal == SIGSEGV {
            p.signals.set_action(p, SIGSEGV, Action::default());
        }
        t.signals.set_mask(back);
        force_segv();
        return;
    }
    if action.flags & SA_RESETHAND != 0 {
        p.signals.set_action(p, info.signal, Action { handler: SIG_DFL, ..action });
    }
    let own = if action.flags & SA_NODEFER != 0 { 0 } else { bit(info.signal) };
    t.signals.set_mask(mask | action.mask | own);
}
