//! Loads, stores and fetches that may fault.

use core::arch::asm;
use std::sync::Once;
use std::sync::mpsc::{Receiver, Sender, channel};

use machvm_model::conformance::Touch;

/// What r13 is while an access is tried; r12 is where it goes on after a fault.
const TRYING: u64 = 0x6d61_6368_766d_7472;

extern "C" fn on_fault(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes x86-64 Linux's context, ours to change.
    let regs = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    if regs[libc::REG_R13 as usize].cast_unsigned() == TRYING {
        regs[libc::REG_RIP as usize] = regs[libc::REG_R12 as usize];
        return;
    }
    // Nobody's: die of it when the instruction runs again.
    // SAFETY: gives the signal back.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            // SAFETY: a handler that gives back what it does not know.
            unsafe {
                let mut act: libc::sigaction = core::mem::zeroed();
                act.sa_sigaction = on_fault as *const () as usize;
                act.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(signal, &raw const act, core::ptr::null_mut()), 0);
            }
        }
    });
}

fn load(at: u64) -> Option<u64> {
    let (word, done): (u64, u64);
    // SAFETY: reads a word that is mapped memory of the machine under test, or faults
    // and goes on at 2.
    unsafe {
        asm!(
            "lea r12, [rip + 2f]", "movabs r13, {trying}", "xor {done:e}, {done:e}",
            "mov {word}, [{at}]", "mov {done:e}, 1",
            "2:", "xor r13d, r13d",
            at = in(reg) at, word = out(reg) word, done = out(reg) done, trying = const TRYING,
            out("r12") _, out("r13") _, options(nostack),
        );
    }
    (done != 0).then_some(word)
}

fn store(at: u64, word: u64) -> Option<u64> {
    let done: u64;
    // SAFETY: writes a word that is mapped memory of the machine under test, of which
    // this program keeps no reference, or faults and goes on at 2.
    unsafe {
        asm!(
            "lea r12, [rip + 2f]", "movabs r13, {trying}", "xor {done:e}, {done:e}",
            "mov [{at}], {word}", "mov {done:e}, 1",
            "2:", "xor r13d, r13d",
            at = in(reg) at, word = in(reg) word, done = out(reg) done, trying = const TRYING,
            out("r12") _, out("r13") _, options(nostack),
        );
    }
    (done != 0).then_some(0)
}

/// The byte there is a `ret`, if it can be fetched.
fn fetch(at: u64) -> Option<u64> {
    let done: u64;
    // SAFETY: the instruction there returns at once, or it faults, and the stack is as
    // it was at 2.
    unsafe {
        asm!(
            "lea r12, [rip + 2f]", "mov r14, rsp", "movabs r13, {trying}", "xor {done:e}, {done:e}",
            "call {at}", "mov {done:e}, 1",
            "2:", "xor r13d, r13d", "mov rsp, r14",
            at = in(reg) at, done = out(reg) done, trying = const TRYING,
            out("r12") _, out("r13") _, out("r14") _,
        );
    }
    (done != 0).then_some(0)
}

/// What a load gives, or 0. `None`: it faulted.
pub(crate) fn access(at: u64, what: Touch) -> Option<u64> {
    install();
    match what {
        Touch::Load => load(at),
        Touch::Store(word) => store(at, word),
        Touch::Fetch => fetch(at),
    }
}

/// A thread; the first stay on a CPU each.
#[derive(Debug)]
pub(crate) struct Cpu {
    ask: Sender<(u64, Touch)>,
    answer: Receiver<Option<u64>>,
}

impl Cpu {
    pub(crate) fn new(number: usize) -> Self {
        let (ask, asked) = channel();
        let (say, answer) = channel();
        std::thread::spawn(move || {
            // SAFETY: a set of our own for our own thread; refused, it changes nothing.
            unsafe {
                let mut set: libc::cpu_set_t = core::mem::zeroed();
                libc::CPU_SET(number, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
            }
            for (at, what) in asked {
                if say.send(access(at, what)).is_err() {
                    return;
                }
            }
        });
        Cpu { ask, answer }
    }
    pub(crate) fn access(&self, at: u64, what: Touch) -> Option<u64> {
        self.ask.send((at, what)).expect("the CPU runs");
        self.answer.recv().expect("the CPU runs")
    }
}
