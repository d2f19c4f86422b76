//! System calls, by their numbers on x86-64.

mod file;
pub(crate) mod futex;
mod memory;
mod proc;

use alloc::collections::BTreeSet;

use crate::arch::Frame;
use crate::errno::{ENOSYS, Result};
use crate::mutex::Mutex;
use crate::process;

/// Numbers that were asked for and are not known.
static UNKNOWN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Carries a call out and puts the result in the frame.
pub(crate) fn dispatch(f: &mut Frame) {
    let (n, a) = f.call();
    f.note_call();
    if n == 59 || n == 322 {
        // The frame of a new program is not the old one's with a result.
        if let Err(e) = proc::execve(f, a) {
            f.set_result(-i64::from(e.0));
        }
        return;
    }
    let v = match call(f, n, a) {
        Ok(v) => v,
        Err(e) => -i64::from(e.0),
    };
    f.set_result(v);
}

fn call(f: &mut Frame, n: u64, a: [u64; 6]) -> Result {
    match n {
        0 => file::read(a[0] as i32, a[1], a[2]),
        1 => file::write(a[0] as i32, a[1], a[2]),
        2 => file::open(a[0], a[1]),
        3 => file::close(a[0] as i32),
        4 | 6 => file::stat(a[0], a[1]),
        5 => file::fstat(a[0] as i32, a[1]),
        8 => file::lseek(a[0] as i32, a[1] as i64, a[2]),
        79 => file::getcwd(a[0], a[1]),
        80 => file::chdir(a[0]),
        9 => memory::mmap(a),
        10 => memory::mprotect(a[0], a[1], a[2]),
        11 => memory::munmap(a[0], a[1]),
        12 => memory::brk(a[0]),
        16 => file::ioctl(a[0] as i32, a[1], a[2]),
        20 => file::writev(a[0] as i32, a[1], a[2]),
        22 => file::pipe(a[0], 0),
        24 => proc::sched_yield(),
        28 => memory::madvise(a[0], a[1], a[2]),
        32 => file::dup(a[0] as i32),
        33 => file::dup2(a[0] as i32, a[1] as i32),
        35 => proc::nanosleep(a[0]),
        39 => proc::getpid(),
        56 => proc::clone(f, a),
        57 | 58 => proc::fork(f),
        60 => process::end_thread_with(a[0] as i32),
        61 => proc::wait4(a[0] as i32, a[1], a[2]),
        63 => proc::uname(a[0]),
        102 | 104 | 107 | 108 => Ok(0),
        110 => proc::getppid(),
        158 => proc::arch_prctl(a[0], a[1]),
        186 => proc::gettid(),
        202 => futex::futex(a),
        218 => proc::set_tid_address(a[0]),
        228 => proc::clock_gettime(a[1]),
        231 => process::exit_group((a[0] as i32 & 0xff) << 8),
        257 => file::open(a[1], a[2]),
        273 => Ok(0),
        293 => file::pipe(a[0], a[1]),
        318 => proc::getrandom(a[0], a[1]),
        _ => {
            if UNKNOWN.lock().insert(n) {
                crate::say!("machvm: system call {n} is not known (process {})", crate::sched::process().pid);
            }
            Err(ENOSYS)
        }
    }
}
