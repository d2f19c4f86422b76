//! Signals: pending sets, default actions, faults that end a process. There are no handlers yet.

use core::sync::atomic::{AtomicU64, Ordering};

use machvm::FaultError;

use super::Process;
use crate::arch::Frame;
use crate::errno::{EINTR, ERESTARTNOINTR, ERESTARTSYS, Errno};
use crate::mutex::Mutex;
use crate::sched::{self, Thread};
use crate::trap::Exception;

#[allow(dead_code)]
pub(crate) const SIGINT: u32 = 2;
#[allow(dead_code)]
pub(crate) const SIGQUIT: u32 = 3;
pub(crate) const SIGILL: u32 = 4;
pub(crate) const SIGTRAP: u32 = 5;
pub(crate) const SIGBUS: u32 = 7;
pub(crate) const SIGFPE: u32 = 8;
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGSEGV: u32 = 11;
#[allow(dead_code)]
pub(crate) const SIGPIPE: u32 = 13;
pub(crate) const SIGCHLD: u32 = 17;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
#[allow(dead_code)]
pub(crate) const SIGTSTP: u32 = 20;
#[allow(dead_code)]
pub(crate) const SIGTTIN: u32 = 21;
#[allow(dead_code)]
pub(crate) const SIGTTOU: u32 = 22;
const SIGURG: u32 = 23;
const SIGWINCH: u32 = 28;

/// What becomes of a signal.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// SIG_DFL.
    #[default]
    Default,
    /// SIG_IGN.
    Ignore,
}

impl Action {
    fn ignores(self, signal: u32) -> bool {
        self == Action::Ignore || is_ignored_by_default(signal)
    }
}

/// A process's handlers and pending signals.
pub(crate) struct Signals {
    pub(crate) actions: Mutex<[Action; 65]>,
    pending: AtomicU64,
}

fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

impl Signals {
    pub(super) fn new() -> Self {
        Signals { actions: Mutex::new([Action::default(); 65]), pending: AtomicU64::new(0) }
    }
    pub(super) fn inherit(&self, from: &Signals) {
        *self.actions.lock() = *from.actions.lock();
    }
    /// Signals that `t` would take now.
    pub(super) fn waiting(&self, t: &Thread) -> u64 {
        let blocked = t.mask.load(Ordering::Relaxed) & !(bit(SIGKILL) | bit(SIGSTOP));
        (self.pending.load(Ordering::Acquire) | t.pending.load(Ordering::Acquire)) & !blocked
    }
}

/// What a signal does where nothing was said.
fn is_ignored_by_default(signal: u32) -> bool {
    matches!(signal, SIGCHLD | SIGCONT | SIGURG | SIGWINCH)
}

/// Sends a signal to a process.
pub(crate) fn send(p: &Process, signal: u32) {
    let action = p.signals.actions.lock()[signal as usize];
    if action.ignores(signal) {
        return;
    }
    p.signals.pending.fetch_or(bit(signal), Ordering::AcqRel);
    for t in p.threads.lock().iter() {
        sched::interrupt(t);
    }
}

/// The running thread touched what it may not.
pub(crate) fn fault(address: u64, e: FaultError) {
    let signal = match e {
        FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_) => SIGBUS,
        FaultError::NoMemory(_) => SIGKILL,
        _ => SIGSEGV,
    };
    force(signal);
    crate::say!("machvm: process {}: {e:?} at {address:#x}", sched::process().pid);
}

/// The running thread did what no program may.
pub(crate) fn exception(e: Exception) {
    let signal = match e {
        Exception::Arithmetic => SIGFPE,
        Exception::Breakpoint => SIGTRAP,
        Exception::Illegal => SIGILL,
        Exception::Alignment => SIGBUS,
        Exception::Protection | Exception::Page { .. } => SIGSEGV,
    };
    force(signal);
}

/// A signal that cannot wait.
fn force(signal: u32) {
    sched::current().pending.fetch_or(bit(signal), Ordering::AcqRel);
}

/// Must a blocking call of the running thread end, for a signal that it is going to take or because it shall die?
/// The call then gives [`ERESTARTSYS`](crate::errno::ERESTARTSYS) or one of its sisters (or what it did so far).
#[allow(dead_code)]
pub(crate) fn interrupted() -> bool {
    sched::process().has_signal(sched::current())
}

/// A call that a signal ended is made again, or gives EINTR.
fn restart(f: &mut Frame, handler_restarts: Option<bool>) {
    let Some(e) = f.restart_code() else { return };
    let again = Errno(e) == ERESTARTNOINTR
        || handler_restarts.is_none_or(|restarts| restarts && Errno(e) == ERESTARTSYS);
    if again {
        f.call_again();
    } else {
        f.set_result(-i64::from(EINTR.0));
    }
}

/// Sends a signal to the running thread alone (SIGPIPE).
#[allow(dead_code)]
pub(crate) fn raise(signal: u32) {
    sched::current().pending.fetch_or(bit(signal), Ordering::AcqRel);
}

/// Sends a signal to every process of a group; gives how many there are (the terminal's ^C and ^Z).
#[allow(dead_code)]
pub(crate) fn send_to_group(group: u32, signal: u32) -> usize {
    let members = super::all(|p| p.group() == group);
    members.iter().for_each(|p| send(p, signal));
    members.len()
}

/// Carries out one signal of the running thread, if there is one.
pub(crate) fn deliver(f: &mut Frame) -> bool {
    let (t, p) = (sched::current(), sched::process());
    let waiting = p.signals.waiting(t);
    if waiting == 0 {
        restart(f, None);
        return false;
    }
    let signal = waiting.trailing_zeros() + 1;
    if t.pending.fetch_and(!bit(signal), Ordering::AcqRel) & bit(signal) == 0 {
        p.signals.pending.fetch_and(!bit(signal), Ordering::AcqRel);
    }
    let action = p.signals.actions.lock()[signal as usize];
    if action.ignores(signal) {
        return true;
    }
    super::exit_group(signal as i32)
}
