//! Stacks for serving faults.
//!
//! A fault may page out on its way, so it needs more stack than the alternate stacks
//! that run-time libraries give their threads (Rust: 12 KiB, of which the signal frame
//! takes up to 11). So the handler works on a stack of its own, for as long as one
//! fault takes; there are as many as faults are served at once. Threads need no
//! preparation, and it does not matter what stack they run on.
//!
//! While a handler is on such a stack the kernel does not know that the alternate
//! stack is in use and would begin the next handler at its top, over the first one's
//! frame. Signals from outside are blocked meanwhile, and the handler of one that an
//! instruction raises ends the process.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::sys;

/// Usable size. The deepest path, page-out, takes 40 KiB at most in an optimised build.
const SIZE: u64 = 256 << 10;
/// Unaccessible, below the stack.
const GUARD: u64 = 16 << 10;
/// Faults served at once; further ones wait.
const STACKS: usize = 1024;

#[repr(align(64))]
struct Stack {
    busy: AtomicBool,
    /// The lowest usable byte; 0: not made yet. Written by who has it busy.
    at: AtomicU64,
}

static POOL: [Stack; STACKS] =
    [const { Stack { busy: AtomicBool::new(false), at: AtomicU64::new(0) } }; STACKS];

impl Stack {
    /// Its top, if there is memory for it.
    ///
    /// => it is busy by this thread.
    fn top(&self) -> Option<u64> {
        let mut at = self.at.load(Relaxed);
        if at == 0 {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
            // SAFETY: not MAP_FIXED; then a part of what was just mapped.
            at = unsafe {
                let at = sys::mmap(0, GUARD + SIZE, libc::PROT_NONE, flags, -1, 0).ok()? + GUARD;
                sys::mprotect(at, SIZE, libc::PROT_READ | libc::PROT_WRITE).ok()?;
                at
            };
            self.at.store(at, Relaxed);
        }
        Some(at + SIZE)
    }
}

/// A stack that nobody else uses.
fn take() -> &'static Stack {
    // Threads on different processors start at different stacks.
    let first = usize::from(sys::current_cpu());
    loop {
        for i in 0..STACKS {
            let stack = &POOL[(first + i) % STACKS];
            if !stack.busy.load(Relaxed) && !stack.busy.swap(true, Acquire) {
                return stack;
            }
        }
        std::thread::yield_now();
    }
}

/// Runs `body` on a stack of its own; on the caller's if there is no memory for one.
pub(super) fn run<R>(body: impl FnOnce() -> R) -> R {
    struct Call<F, R> {
        body: Option<F>,
        result: Option<R>,
    }
    extern "C" fn go<F: FnOnce() -> R, R>(call: *mut Call<F, R>) {
        // SAFETY: the caller's, which waits for this.
        let call = unsafe { &mut *call };
        call.result = call.body.take().map(|body| body());
    }
    let mut call = Call { body: Some(body), result: None };
    let stack = take();
    match stack.top() {
        Some(top) => on_stack(top, go, &raw mut call),
        None => go(&raw mut call),
    }
    stack.busy.store(false, Release);
    match call.result {
        Some(result) => result,
        // `go` has run; nothing unwinds out of it.
        None => std::process::abort(),
    }
}

/// Calls `f` on the stack below `top`, which is 16-byte aligned and ours.
fn on_stack<T>(top: u64, f: extern "C" fn(*mut T), arg: *mut T) {
    // SAFETY: the stack is memory of ours that nobody else uses, with a guard below;
    // the old one comes back from a register that `f` preserves.
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {f}",
            "mov rsp, r12",
            top = in(reg) top,
            f = in(reg) f,
            in("rdi") arg,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}
