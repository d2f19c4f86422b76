//! Signal handlers without `SA_RESTART`.
//!
//! Linux never lets `fork`, `execve` or a memory call fail with EINTR. But a call of
//! which the filter tells us waits for us to receive it, and a signal that comes before
//! we have makes it return: behind a handler without `SA_RESTART` with EINTR, behind
//! any other, or none, by being made again. (Afterwards only death interrupts the wait.)
//!
//! So the kernel is told that every handler has `SA_RESTART`, and what the program
//! asked for is done here. Its handler is reached through a *stub*: 12 bytes of code
//! that name one of `HANDLERS` and go to `machvm_signal_stub`, which looks at what
//! the signal interrupted. A call that is about to be made again stays so where Linux
//! would make it again, and is made one that failed with EINTR everywhere else.
//! Nothing else differs from native: frame, stack, registers and return address of the
//! handler are the kernel's, and the context it is given is what it would be natively.
//!
//! A handler keeps its stub until the next execve, so there is no moment when a stub
//! leads to the wrong one. Handlers with `SA_RESTART` have none. A child of fork runs
//! natively and gets the program's own dispositions back (`restore_in_child`). A
//! child of vfork has dispositions of its own, and Linux serves it: it sees ours.

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::files::{copy_in, copy_out};
use super::filter::{LINK_CALLS, MEMORY_CALLS, OTHER_CALLS};
use super::ptrace::last_errno;
use super::space::{Call, Errno, Reply};

const SA_RESTART: u64 = libc::SA_RESTART as u64;
/// The last signal there is.
const LAST: i32 = 64;
/// Stubs, and so handlers: programs have a few, not one for each signal.
const STUBS: usize = 512;
/// Bytes of a stub.
const STUB: usize = 12;
/// Bytes of its first instruction, which tells the address behind itself.
const STUB_HEAD: usize = 7;

/// The handler behind each stub. Written before the stub is first used.
static HANDLERS: [AtomicUsize; STUBS] = [const { AtomicUsize::new(0) }; STUBS];
/// How many stubs are in use.
static USED: AtomicU32 = AtomicU32::new(0);
/// One that wants a new stub at a time.
static TAKING: Mutex<()> = Mutex::new(());
/// The signals that have had a stub: bit 0 is signal 1.
static STUBBED: AtomicU64 = AtomicU64::new(0);
/// The `syscall` instruction leaves its address in a register, see [`remember_processor`].
static LEAVES_ADDRESS: AtomicBool = AtomicBool::new(false);

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Action {
    pub(super) handler: usize,
    pub(super) flags: u64,
    pub(super) restorer: usize,
    pub(super) mask: u64,
}

impl Action {
    const SIZE: usize = size_of::<Self>();

    fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|b| bytes[8 * i + b]));
        Self { handler: word(0) as usize, flags: word(1), restorer: word(2) as usize, mask: word(3) }
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let words = [self.handler as u64, self.flags, self.restorer as u64, self.mask];
        std::array::from_fn(|i| words[i / 8].to_ne_bytes()[i % 8])
    }

    /// As the kernel is to have it.
    fn through_stub(mut self) -> Self {
        let catches = self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN;
        if catches
            && self.flags & SA_RESTART == 0
            && let Some(stub) = stub_of(self.handler)
        {
            self.handler = stub;
            self.flags |= SA_RESTART;
        }
        self
    }

    /// As the program set it.
    fn own(mut self) -> Self {
        if let Some(handler) = handler_behind(self.handler) {
            self.handler = handler;
            self.flags &= !SA_RESTART;
        }
        self
    }
}

/// `rt_sigaction`, for the whole process.
///
/// # Safety
/// A handler that `new` names may run from now on in any thread that does not block
/// the signal.
pub(super) unsafe fn sigaction(signal: i32, new: Option<&Action>) -> Result<Action, Errno> {
    let mut old = Action::default();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both are valid or null, of the size given; the handler is the caller's.
    match unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, &raw mut old, 8) } {
        0 => Ok(old),
        _ => Err(last_errno()),
    }
}

/// Answers `rt_sigaction` of the program.
///
/// => on a VM thread, which shares the program's dispositions and serves no faults
///
/// # Errors
/// The kernel's, in its order.
pub fn on_sigaction(call: &Call) -> Reply {
    match change(call) {
        Ok(()) => Reply::Value(0),
        Err(errno) => Reply::Error(errno),
    }
}

fn change(call: &Call) -> Result<(), Errno> {
    let [signal, new, old, size, ..] = call.args;
    let signal = signal as i32;
    if size != 8 {
        return Err(Errno(libc::EINVAL));
    }
    let new = match new {
        0 => None,
        at => {
            let mut bytes = [0; Action::SIZE];
            if copy_in(at, &mut bytes) != bytes.len() {
                return Err(Errno(libc::EFAULT));
            }
            Some(Action::from_bytes(&bytes))
        }
    };
    let given = new.map(|new| if (1..=LAST).contains(&signal) { new.through_stub() } else { new });
    if given != new {
        STUBBED.fetch_or(1 << (signal - 1), Ordering::SeqCst);
    }
    // SAFETY: the program asked for it; VM threads block all signals.
    let was = unsafe { sigaction(signal, given.as_ref()) }?;
    if old != 0 {
        copy_out(old, &was.own().to_bytes()).map_err(|_| Errno(libc::EFAULT))?;
    }
    Ok(())
}

/// In a child of fork, which runs natively: every handler is reached directly again.
///
/// => all signals are blocked; takes no lock
pub(super) fn restore_in_child() {
    let stubbed = STUBBED.load(Ordering::SeqCst);
    for signal in (1..=LAST).filter(|signal| stubbed & 1 << (signal - 1) != 0) {
        // SAFETY: the program's own handler, which the kernel enters as it did before.
        unsafe {
            if let Ok(action) = sigaction(signal, None)
                && action.own() != action
            {
                let _ = sigaction(signal, Some(&action.own()));
            }
        }
    }
}

/// The program is replaced: its handlers are no more.
///
/// => no signal has a handler, and no thread of the program will return to one
pub(super) fn forget() {
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    USED.store(0, Ordering::SeqCst);
    STUBBED.store(0, Ordering::SeqCst);
}

/// The stub that leads to `handler`; `None` when there are too many handlers.
fn stub_of(handler: usize) -> Option<usize> {
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let used = USED.load(Ordering::Relaxed) as usize;
    let known = HANDLERS[..used].iter().position(|known| known.load(Ordering::Relaxed) == handler);
    let index = match known {
        Some(index) => index,
        None if used == STUBS => return None,
        None => {
            HANDLERS[used].store(handler, Ordering::SeqCst);
            USED.store(used as u32 + 1, Ordering::SeqCst);
            used
        }
    };
    Some(stubs() + STUB * index)
}

/// The handler that the stub at `at` leads to; `None` when there is no stub.
fn handler_behind(at: usize) -> Option<usize> {
    let offset = at.checked_sub(stubs()).filter(|offset| offset % STUB == 0)?;
    HANDLERS.get(offset / STUB).map(|handler| handler.load(Ordering::SeqCst))
}

/// Finds out whether `syscall` leaves the address behind it in `rcx` and the flags in
/// `r11`, as it does without FRED. Then a call that is to be made again can be told
/// from one that was not yet made when the signal came.
///
/// => before the program starts
pub fn remember_processor() {
    let left: u64;
    // SAFETY: getpid has no argument and changes nothing.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_getpid => _, inlateout("rcx") 0_u64 => left, out("r11") _);
    }
    LEAVES_ADDRESS.store(left != 0, Ordering::SeqCst);
}

global_asm!(
    ".pushsection .text.machvm_signal_stubs, \"ax\", @progbits",
    ".globl machvm_signal_stubs",
    ".hidden machvm_signal_stubs",
    ".type machvm_signal_stubs, @function",
    ".balign 16",
    "machvm_signal_stubs:",
    ".rept {count}",
    // lea rax, [rip]; jmp machvm_signal_stub: 12 bytes, whichever assembler it is.
    ".byte 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xe9",
    ".long machvm_signal_stub - . - 4",
    ".endr",
    ".size machvm_signal_stubs, . - machvm_signal_stubs",
    ".globl machvm_signal_stub",
    ".hidden machvm_signal_stub",
    ".type machvm_signal_stub, @function",
    "machvm_signal_stub:",
    // A handler's entry: signal, information and context in rdi, rsi and rdx, rax 0,
    // and the stack 8 below a multiple of 16.
    "push rdi",
    "push rsi",
    "push rdx",
    "mov rdi, rax",
    "mov rsi, rdx",
    "call {enter}",
    "mov r11, rax",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "xor eax, eax",
    "jmp r11",
    ".size machvm_signal_stub, . - machvm_signal_stub",
    ".popsection",
    count = const STUBS,
    enter = sym enter_handler,
);

unsafe extern "C" {
    /// The stubs, one behind the other. Entered by the kernel only.
    fn machvm_signal_stubs();
}

fn stubs() -> usize {
    machvm_signal_stubs as *const () as usize
}

/// On a thread of the program, between the kernel and a handler: what the signal
/// interrupted is made what it natively is. The handler's address.
///
/// => uses no thread-local data, no lock and little stack, and does not panic
///
/// # Safety
/// 1. `context` is the frame the kernel made for this handler.
/// 2. `at` is what a stub in use told.
unsafe extern "C" fn enter_handler(at: usize, context: *mut libc::ucontext_t) -> usize {
    // SAFETY: 1; the frame is on the stack of this thread, which does nothing else.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let ip = registers[libc::REG_RIP as usize] as u64;
    let behind = ip.wrapping_add(2);
    let call = registers[libc::REG_RAX as usize];
    let operation = registers[libc::REG_RSI as usize];
    let again = if LEAVES_ADDRESS.load(Ordering::Relaxed) {
        let flags = registers[libc::REG_EFL as usize] as u64;
        behind == registers[libc::REG_RCX as usize] as u64
            && (flags ^ registers[libc::REG_R11 as usize] as u64) & FLAGS == 0
    } else {
        // SAFETY: the thread was about to execute what is there, so it can be read.
        unsafe { (ip as *const [u8; 2]).read_unaligned() == SYSCALL }
    };
    if again && !always_made_again(call, operation) {
        registers[libc::REG_RIP as usize] = behind as i64;
        registers[libc::REG_RAX as usize] = -i64::from(libc::EINTR);
    }
    let index = at.wrapping_sub(stubs()).wrapping_sub(STUB_HEAD) / STUB;
    match HANDLERS.get(index) {
        Some(handler) => handler.load(Ordering::Relaxed),
        // By 2 it is there.
        None => 0,
    }
}

/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Carry to overflow, but not the trap flag: what the kernel gives back unchanged.
const FLAGS: u64 = 0xcd5;

/// Whether Linux makes call `nr` again behind a signal whatever the handler's flags
/// are (`ERESTARTNOINTR`), or does not let signals interrupt it at all. `operation` is
/// its second argument.
fn always_made_again(nr: i64, operation: i64) -> bool {
    match nr {
        // Waits for the other end of a pipe as open does.
        libc::SYS_openat2 => false,
        libc::SYS_futex => matches!(
            operation as i32 & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME),
            libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2 | libc::FUTEX_WAIT_REQUEUE_PI
        ),
        libc::SYS_ptrace | libc::SYS_perf_event_open | libc::SYS_prctl | libc::SYS_seccomp => true,
        nr => [MEMORY_CALLS, OTHER_CALLS, LINK_CALLS].iter().any(|list| list.contains(&nr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_has_one_stub_and_it_leads_back() {
        let act = |handler, flags| Action { handler, flags, restorer: 7, mask: 3 };
        let given = act(0x1234_5678, 4);
        let ours = given.through_stub();
        assert_eq!(given.through_stub(), ours);
        assert_ne!(ours.handler, given.handler);
        assert_eq!(ours.flags, 4 | SA_RESTART);
        assert_eq!((ours.restorer, ours.mask), (7, 3));
        assert_eq!(ours.own(), given);
        assert_ne!(act(0x1234_5679, 4).through_stub().handler, ours.handler);
        for untouched in [act(0x1234_5678, SA_RESTART), act(libc::SIG_DFL, 0), act(libc::SIG_IGN, 0)] {
            assert_eq!(untouched.through_stub(), untouched);
            assert_eq!(untouched.own(), untouched);
        }
        assert_eq!(Action::from_bytes(&given.to_bytes()), given);
        // When all are taken the kernel gets what the program gave.
        let many: Vec<Action> = (0..STUBS + 10).map(|i| act(0x8000_0000 + i, 0)).collect();
        assert!(many.iter().all(|a| a.through_stub().own() == *a));
        assert_eq!(many[STUBS + 9].through_stub(), many[STUBS + 9]);
        assert_eq!(given.through_stub(), ours);
    }

    fn context(ip: u64, rcx: u64, rax: i64) -> libc::ucontext_t {
        // SAFETY: numbers and null pointers.
        let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
        let registers = &mut context.uc_mcontext.gregs;
        registers[libc::REG_RIP as usize] = ip as i64;
        registers[libc::REG_RCX as usize] = rcx as i64;
        registers[libc::REG_RAX as usize] = rax;
        registers[libc::REG_RSI as usize] = i64::from(libc::FUTEX_LOCK_PI | libc::FUTEX_PRIVATE_FLAG);
        registers[libc::REG_EFL as usize] = 0x246;
        registers[libc::REG_R11 as usize] = 0x246;
        context
    }

    #[test]
    fn only_what_linux_interrupts_fails() {
        LEAVES_ADDRESS.store(true, Ordering::SeqCst);
        let after = |mut c: libc::ucontext_t| {
            // SAFETY: a context; the address is no stub's, and what is found is not used.
            unsafe { enter_handler(stubs() + STUB_HEAD, &raw mut c) };
            let registers = c.uc_mcontext.gregs;
            (registers[libc::REG_RIP as usize], registers[libc::REG_RAX as usize])
        };
        for nr in [libc::SYS_read, libc::SYS_wait4, libc::SYS_openat, libc::SYS_openat2, libc::SYS_accept] {
            assert_eq!(after(context(0x1000, 0x1002, nr)), (0x1002, -i64::from(libc::EINTR)));
            // Not made yet.
            assert_eq!(after(context(0x1000, 0x2002, nr)), (0x1000, nr));
            // Over.
            assert_eq!(after(context(0x1002, 0x1002, 7)), (0x1002, 7));
        }
        for nr in [libc::SYS_mmap, libc::SYS_fork, libc::SYS_clone, libc::SYS_exit, libc::SYS_rt_sigaction] {
            assert_eq!(after(context(0x1000, 0x1002, nr)), (0x1000, nr));
        }
        assert_eq!(after(context(0x1000, 0x1002, libc::SYS_futex)), (0x1000, libc::SYS_futex));
    }
}
