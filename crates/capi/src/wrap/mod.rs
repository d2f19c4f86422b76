//! Calls of the C library that have to know the window.
//!
//! A program that is linked with this library finds these functions before the C library's.
//! Each looks at the addresses it is given and, if none lies in the window, goes on to the
//! C library's function (`real`): that costs a compare. Else:
//!
//! | calls | where faults are a signal | where a thread serves them |
//! |---|---|---|
//! | read, write, recv, send and their kin ([`io`], [`socket`]) | by way of a buffer (`buffer`): a page that is absent would be EFAULT | Linux's own: they wait |
//! | fread, fwrite, fputs, puts ([`stdio`]) | the same | the C library's |
//! | mlock, madvise, mincore, msync, mprotect, munmap ([`memory`]) | the VM's | the VM's |
//! | mmap with MAP_FIXED, mremap ([`memory`]) | refused | refused |
//! | pthread_sigmask, sigprocmask ([`masks`]) | leave SIGSEGV and SIGBUS open | Linux's own |
//!
//! A buffer's bytes are moved by instructions, whose faults are served like any other, so a
//! call gets on however short memory is. What a call with the program's own pointers would
//! have done at a bad address, it does: bytes up to there, or EFAULT.
//!
//! Limits, where faults are a signal: other calls (`ioctl`, `stat`, `poll`, `recvmmsg`,
//! ...), and those that the C library makes by itself (`printf` of a string longer than the
//! stream's buffer), fail with EFAULT on absent pages. One `write` to a file of more than a
//! buffer's bytes is several to Linux. A function that is reached without the dynamic linker
//! (in a fully static program) is not taken over.
//!
//! => nothing here allocates: `read` and `write` may be called in signal handlers. No value
//!    with a destructor lives across a call that may be cancelled (`pthread_cancel` unwinds).

pub mod io;
pub mod masks;
pub mod memory;
pub mod socket;
pub mod stdio;

mod buffer;
mod real;
mod vector;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use machvm_hal::Prot;
use machvm_linux::library::is_inside;

use crate::world::made;

/// The window; nothing while it is empty.
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// The end of the window for calls that Linux could serve if it waited; else 0.
static END_OF_ABSENT: AtomicUsize = AtomicUsize::new(0);

/// From here on calls on the window are taken over; with `signals`, also those that Linux
/// would refuse for absent pages.
pub(crate) fn open(start: usize, size: usize, signals: bool) {
    START.store(start, Relaxed);
    END_OF_ABSENT.store(if signals { start + size } else { 0 }, Relaxed);
    END.store(start + size, Relaxed);
}

fn meets(addr: usize, len: usize, end: usize) -> bool {
    addr < end && addr.saturating_add(len) > START.load(Relaxed) && len != 0 && !is_inside()
}

/// Does a buffer have bytes that Linux may find absent?
fn absent<T>(at: *const T, len: usize) -> bool {
    meets(at.addr(), len, END_OF_ABSENT.load(Relaxed))
}

/// Does a range have addresses of the window?
fn ours(addr: usize, len: usize) -> bool {
    meets(addr, len, END.load(Relaxed))
}

/// Are faults signals?
fn by_signal() -> bool {
    END_OF_ABSENT.load(Relaxed) != 0
}

/// How much of `[addr, addr + len)` may be accessed so, from its start on. Outside the
/// window that is found out by doing it.
fn accessible(addr: usize, len: usize, need: Prot) -> usize {
    let (start, end) = (START.load(Relaxed), END.load(Relaxed));
    let (from, to) = (addr.max(start), addr.saturating_add(len).min(end));
    if from >= to {
        return len;
    }
    let Some(world) = made() else { return len };
    let good = world.own().task.accessible(from, to - from, need);
    if good == to - from { len } else { from - addr + good }
}

/// Sets `errno`; the result that goes with it.
fn fail(errno: i32) -> isize {
    // SAFETY: every thread has one.
    unsafe { *libc::__errno_location() = errno };
    -1
}
