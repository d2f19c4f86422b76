//! What a trap means, on any machine.

use core::sync::atomic::Ordering;

use machvm::FaultError;
use machvm::fault::Fault;
use machvm_hal::{MaySleep, Prot, RawAddr};

use crate::arch::{self, Frame};
use crate::process::signal;
use crate::{sched, syscall};

/// An exception.
#[derive(Clone, Copy, Debug)]
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
    /// SIGBUS.
    Alignment,
    /// SIGBUS: a bad segment.
    Stack,
    /// SIGSEGV without an address.
    Protection,
}

/// => interrupts are on, if they were where it happened.
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
            Err(e) => signal::fault(address, e),
        }
    } else if !f.is_from_user() {
        panic!("{e:x?} in the kernel: {f:#x?}");
    } else {
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
        arch::interrupts_restore(true);
        before_user(f);
        arch::interrupts_off();
    }
}

/// => interrupts are on.
pub(crate) fn system_call(f: &mut Frame) {
    syscall::dispatch(f);
    before_user(f);
}

/// Before a program goes on: others' turn, signals, the end.
fn before_user(f: &mut Frame) {
    if !f.is_from_user() {
        return;
    }
    loop {
        let me = sched::current();
        if me.due.load(Ordering::Relaxed) != 0 {
            crate::process::timer::send_due(me);
        }
        if me.doomed.load(Ordering::Acquire) {
            crate::process::exit::end_thread();
        }
        if arch::here().resched.load(Ordering::Relaxed) {
            sched::yield_now();
        } else if !signal::deliver(f) {
            break;
        }
    }
}

/// A new thread goes to its program.
pub(crate) fn leave(frame: Frame) -> ! {
    arch::interrupts_restore(true);
    let mut frame = frame;
    before_user(&mut frame);
    arch::return_to_user(&frame)
}
