//! Signals for what a program did itself: the CPU's exceptions and memory that is not there.

use core::sync::atomic::Ordering;

use machvm::FaultError;

use super::{Action, Info, SIG_IGN, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGTRAP, bit};
use crate::arch::{self, Frame};
use crate::sched;
use crate::trap::Exception;

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;
const FPE_INTDIV: i32 = 1;
const TRAP_TRACE: i32 = 2;

/// The running thread touched what it may not.
pub(crate) fn fault(address: u64, e: FaultError) {
    let info = match e {
        FaultError::NoMapping(_) => Info::fault(SIGSEGV, SEGV_MAPERR, address),
        FaultError::Protection(_) | FaultError::Foreign(_) => Info::fault(SIGSEGV, SEGV_ACCERR, address),
        FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_) => {
            Info::fault(SIGBUS, BUS_ADRERR, address)
        }
        FaultError::NoMemory(_) => {
            let p = sched::process();
            crate::say!("machvm: out of memory: process {} ({}) is killed", p.pid, *p.name.lock());
            Info::kernel(SIGKILL)
        }
    };
    force(info);
}

/// The running thread did what no program may.
pub(crate) fn exception(f: &Frame, e: Exception) {
    let at = f.pc();
    force(match e {
        Exception::Divide => Info::fault(SIGFPE, FPE_INTDIV, at),
        Exception::Float => Info::fault(SIGFPE, arch::float_code(), at),
        Exception::Breakpoint => match arch::BREAKPOINT_CODE {
            0 => Info::kernel(SIGTRAP),
            code => Info::fault(SIGTRAP, code, at),
        },
        Exception::Step => Info::fault(SIGTRAP, TRAP_TRACE, at),
        Exception::Illegal => Info::fault(SIGILL, arch::ILLEGAL_CODE, at),
        Exception::Alignment(address) => Info::fault(SIGBUS, BUS_ADRALN, address),
        Exception::Stack => Info::kernel(SIGBUS),
        Exception::Protection | Exception::Page { .. } => Info::kernel(SIGSEGV),
    });
}

/// A signal that cannot wait: where it is blocked or ignored, the process ends by it.
pub(crate) fn force(info: Info) {
    let (t, p) = (sched::current(), sched::process());
    let blocked = t.signals.mask.load(Ordering::Relaxed) & bit(info.signal) != 0;
    if blocked || p.signals.action(info.signal).handler == SIG_IGN {
        p.signals.set_action(p, info.signal, Action::default());
        t.signals.mask.fetch_and(!bit(info.signal), Ordering::Relaxed);
    }
    let _ = super::send_to_thread(t, info);
}

/// SIGSEGV without an address.
pub(crate) fn force_segv() {
    force(Info::kernel(SIGSEGV));
}
