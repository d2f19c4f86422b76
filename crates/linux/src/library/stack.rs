//! Stacks for the handlers.
//!
//! A fault may page out on its way, so it needs more stack than the alternate stacks
//! that run-time libraries give their threads (Rust: 12 KiB). A thread that calls the
//! library gets a larger one at once; a thread that only touches managed memory gets
//! it in its first fault.
//!
//! A stack belongs to a thread id. Threads do not say when they end, so a stack is
//! given to the next thread when its thread is no longer there.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use crate::sys;

/// Usable size. The deepest path, page-out, takes 40 KiB at most in an optimised build;
/// other handlers may nest on the same stack.
const SIZE: u64 = 512 << 10;
/// A stack of this size is left as it is.
const ENOUGH: usize = 128 << 10;
/// Unaccessible, below the stack.
const GUARD: u64 = 16 << 10;
/// Stacks that can be used again; threads beyond this number get one for ever.
const STACKS: usize = 4096;

struct Stack {
    /// Whose. 0: being made.
    tid: AtomicU32,
    at: AtomicU64,
}

static TABLE: [Stack; STACKS] = [const { Stack { tid: AtomicU32::new(0), at: AtomicU64::new(0) } }; STACKS];
/// How many of them were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Is there no thread of this number in the process?
fn is_gone(tid: u32) -> bool {
    // SAFETY: the call takes numbers; signal 0 only asks.
    let r = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) };
    r < 0 && sys::errno() == libc::ESRCH
}

fn make() -> Option<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: not MAP_FIXED; then a part of what was just mapped.
    unsafe {
        let at = sys::mmap(0, GUARD + SIZE, libc::PROT_NONE, flags, -1, 0).ok()?;
        sys::mprotect(at + GUARD, SIZE, libc::PROT_READ | libc::PROT_WRITE).ok()?;
        Some(at + GUARD)
    }
}

/// A stack for the calling thread, as `sigaltstack` wants it. Async-signal safe.
fn take() -> Option<libc::stack_t> {
    // SAFETY: no preconditions.
    let me = unsafe { libc::gettid() }.cast_unsigned();
    let used = USED.load(Acquire).min(STACKS);
    let again = TABLE[..used].iter().find(|s| {
        let tid = s.tid.load(Acquire);
        // An earlier thread of the same number; or one that is gone.
        tid == me || (tid != 0 && is_gone(tid) && s.tid.compare_exchange(tid, me, AcqRel, Relaxed).is_ok())
    });
    let at = match again {
        Some(s) => s.at.load(Relaxed),
        None => {
            let at = make()?;
            if let Some(s) = TABLE.get(USED.fetch_add(1, AcqRel)) {
                s.at.store(at, Relaxed);
                s.tid.store(me, Release);
            }
            at
        }
    };
    let sp = core::ptr::with_exposed_provenance_mut(at as usize);
    Some(libc::stack_t { ss_sp: sp, ss_flags: 0, ss_size: SIZE as usize })
}

/// Gives the calling thread an alternate stack if it has none or a small one.
pub(super) fn ensure() {
    let mut now = libc::stack_t { ss_sp: core::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: asks only.
    unsafe { libc::sigaltstack(core::ptr::null(), &raw mut now) };
    let fine = now.ss_flags & libc::SS_DISABLE == 0 && now.ss_size >= ENOUGH;
    if fine || now.ss_flags & libc::SS_ONSTACK != 0 {
        return;
    }
    if let Some(new) = take() {
        // SAFETY: memory that nobody else uses as long as this thread lives.
        unsafe { libc::sigaltstack(&raw const new, core::ptr::null_mut()) };
    }
}

/// A handler finds that it runs on a small stack: `true` when the thread has a larger
/// one as soon as the handler returns.
pub(super) fn enlarge(context: &mut libc::ucontext_t) -> bool {
    let now = &context.uc_stack;
    if now.ss_flags & libc::SS_DISABLE != 0 || now.ss_size >= ENOUGH {
        return false;
    }
    let Some(new) = take() else { return false };
    // The kernel makes what stands here the thread's alternate stack on return.
    context.uc_stack = new;
    true
}
