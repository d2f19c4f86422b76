//! What a trap means, on any machine.

use core::sync::atomic::Ordering;

use machvm::FaultError;
use machvm::fault::Fault;
use machvm_hal::{MaySleep, Prot, RawAddr};

use crate::arch::{self, Frame};
use crate::process::signal;
use crate::sched::{self, Thread, big};
use crate::syscall;

/// An exception.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "not every machine has all of them"))]
pub(crate) enum Exception {
    /// The MMU refused an access.
    Page {
        /// To this address.
        address: u64,
        /// Of this kind.
        access: Prot,
    },
    /// SIGFPE: division of integers.
    Divide,
    /// SIGFPE: x87 or SSE.
    Float,
    /// SIGTRAP: a breakpoint instruction.
    Breakpoint,
    /// SIGTRAP: one step was made.
    Step,
    /// SIGILL.
    Illegal,
    /// SIGBUS: an access to this address, if that is known; else 0.
    Alignment(u64),
    /// SIGBUS: a bad segment.
    Stack,
    /// SIGSEGV without an address.
    Protection,
}

/// => interrupts are on, if they were where it happened; of programs they are off on return.
pub(crate) fn exception(f: &mut Frame, e: Exception) {
    if let Exception::Page { address, access } = e
        && (f.is_from_user() || address < arch::USER_END)
        && sched::current().process.is_some()
    {
        match page_fault(address, access) {
            Ok(()) => {}
            Err(_) if !f.is_from_user() => {
                if !arch::fix_up(f) {
                    panic!("the kernel touches {address:#x}: {f:#x?}");
                }
            }
            Err(e) => {
                let _big = big::hold();
                signal::fault(address, e);
            }
        }
    } else if !f.is_from_user() {
        // Where no program's memory could be brought the copy fails all the same.
        if !(matches!(e, Exception::Page { .. }) && arch::fix_up(f)) {
            panic!("{e:x?} in the kernel: {f:#x?}");
        }
    } else {
        let _big = big::hold();
        signal::exception(f, e);
    }
    before_user(f);
}

/// The handler of page faults: decode, call, deliver.
fn page_fault(address: u64, access: Prot) -> Result<(), FaultError> {
    let map = sched::process().space().map();
    // An access that the tables allow by now, or a use that they do not note by themselves.
    map.fault(&Fault { addr: RawAddr(address), access }, &mut MaySleep::claim())
}

/// An interrupt was served. => interrupts are off.
pub(crate) fn interrupted(f: &mut Frame) {
    if f.is_from_user() {
        before_user(f);
    }
}

/// => interrupts are on; on return they are off.
pub(crate) fn system_call(f: &mut Frame) {
    syscall::dispatch(f);
    before_user(f);
}

/// Before a program goes on: others' turn, signals, the end.
///
/// => on return, to a program, interrupts are off until it runs: what comes meanwhile is seen by the interrupt that says
///    so.
fn before_user(f: &mut Frame) {
    if !f.is_from_user() {
        return;
    }
    loop {
        arch::interrupts_off();
        let me = sched::current();
        let resched = arch::here().resched.load(Ordering::Relaxed);
        if !resched && !me.doomed.load(Ordering::Acquire) && signal::is_quiet(me, f) {
            break;
        }
        arch::interrupts_restore(true);
        attend(f, me, resched);
    }
}

/// Something is to be done before the program goes on.
#[cold]
fn attend(f: &mut Frame, me: &'static Thread, resched: bool) {
    if me.due.load(Ordering::Relaxed) != 0 {
        let _big = big::hold();
        crate::process::timer::send_due(me);
        crate::process::rseq::resume(me, f);
    }
    if me.doomed.load(Ordering::Acquire) {
        let _big = big::hold();
        crate::process::exit::end_thread();
    }
    if resched {
        sched::yield_now();
    } else {
        let _big = big::hold();
        signal::deliver(f);
    }
}

/// A new thread goes to its program.
pub(crate) fn leave(frame: Frame) -> ! {
    arch::interrupts_restore(true);
    let mut frame = frame;
    before_user(&mut frame);
    arch::return_to_user(&frame)
}
