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
        2 => file::open(a[0], a[1], a[2]),
        3 => file::close(a[0] as i32),
        4 => file::stat(a[0], a[1]),
        5 => file::fstat(a[0] as i32, a[1]),
        6 => file::lstat(a[0], a[1]),
        7 => file::poll(a[0], a[1], a[2] as i32),
        8 => file::lseek(a[0] as i32, a[1] as i64, a[2]),
        9 => memory::mmap(a),
        10 => memory::mprotect(a[0], a[1], a[2]),
        11 => memory::munmap(a[0], a[1]),
        12 => memory::brk(a[0]),
        16 => file::ioctl(a[0] as i32, a[1], a[2]),
        17 => file::pread(a[0] as i32, a[1], a[2], a[3] as i64),
        18 => file::pwrite(a[0] as i32, a[1], a[2], a[3] as i64),
        19 => file::readv(a[0] as i32, a[1], a[2]),
        20 => file::writev(a[0] as i32, a[1], a[2]),
        21 => file::faccessat(-100, a[0], a[1], 0),
        22 => file::pipe2(a[0], 0),
        23 => file::select(a[0] as i32, [a[1], a[2], a[3]], a[4]),
        24 => proc::sched_yield(),
        28 => memory::madvise(a[0], a[1], a[2]),
        32 => file::dup(a[0] as i32),
        33 => file::dup2(a[0] as i32, a[1] as i32),
        35 => proc::nanosleep(a[0]),
        39 => proc::getpid(),
        40 => file::sendfile(a[0] as i32, a[1] as i32, a[2], a[3]),
        41 => file::socket(),
        44 => file::sendto(a),
        45 => file::recvfrom(a),
        46 => file::sendmsg(a[0] as i32, a[1], a[2]),
        47 => file::recvmsg(a[0] as i32, a[1], a[2]),
        48 => file::shutdown(a[0] as i32, a[1]),
        53 => file::socketpair(a[0], a[1], a[2], a[3]),
        55 => file::getsockopt(a[0] as i32, a[1], a[2], a[3], a[4]),
        56 => proc::clone(f, a),
        57 | 58 => proc::fork(f),
        60 => process::end_thread_with(a[0] as i32),
        61 => proc::wait4(a[0] as i32, a[1], a[2]),
        63 => proc::uname(a[0]),
        72 => file::fcntl(a[0] as i32, a[1], a[2]),
        73 => file::flock(a[0] as i32, a[1]),
        74 | 75 => file::fsync(a[0] as i32),
        76 => file::truncate(a[0], a[1] as i64),
        77 => file::ftruncate(a[0] as i32, a[1] as i64),
        79 => file::getcwd(a[0], a[1]),
        80 => file::chdir(a[0]),
        81 => file::fchdir(a[0] as i32),
        82 => file::renameat2(-100, a[0], -100, a[1], 0),
        83 => file::mkdirat(-100, a[0], a[1]),
        84 => file::unlinkat(-100, a[0], 0x200),
        85 => file::creat(a[0], a[1]),
        86 => file::linkat(-100, a[0], -100, a[1], 0),
        87 => file::unlinkat(-100, a[0], 0),
        88 => file::symlinkat(a[0], -100, a[1]),
        89 => file::readlinkat(-100, a[0], a[1], a[2] as i32),
        90 => file::fchmodat(-100, a[0], a[1], 0),
        91 => file::fchmod(a[0] as i32, a[1]),
        92 => file::chown(a[0], a[1], a[2]),
        93 => file::fchown(a[0] as i32, a[1], a[2]),
        94 => file::lchown(a[0], a[1], a[2]),
        95 => file::umask(a[0]),
        102 | 104 | 107 | 108 => Ok(0),
        110 => proc::getppid(),
        132 => file::utime(a[0], a[1]),
        133 => file::mknodat(-100, a[0], a[1], a[2]),
        137 => file::statfs(a[0], a[1]),
        138 => file::fstatfs(a[0] as i32, a[1]),
        158 => proc::arch_prctl(a[0], a[1]),
        161 => file::chroot(a[0]),
        162 => Ok(0),
        165 => file::mount_at(a[0], a[1], a[2], a[3], a[4]),
        166 => file::umount2(a[0], a[1]),
        186 => proc::gettid(),
        202 => futex::futex(a),
        213 => file::epoll_create(a[0] as i32),
        217 => file::getdents64(a[0] as i32, a[1], a[2]),
        218 => proc::set_tid_address(a[0]),
        221 => file::fadvise(a[0] as i32, a[2] as i64, a[3]),
        228 => proc::clock_gettime(a[1]),
        231 => process::exit_group((a[0] as i32 & 0xff) << 8),
        232 => file::epoll_pwait([a[0], a[1], a[2], a[3], 0, 8]),
        233 => file::epoll_ctl(a[0] as i32, a[1], a[2] as i32, a[3]),
        235 => file::futimesat(-100, a[0], a[1]),
        257 => file::openat(a[0] as i32, a[1], a[2], a[3]),
        258 => file::mkdirat(a[0] as i32, a[1], a[2]),
        259 => file::mknodat(a[0] as i32, a[1], a[2], a[3]),
        260 => file::fchownat(a[0] as i32, a[1], a[2], a[3], a[4]),
        261 => file::futimesat(a[0] as i32, a[1], a[2]),
        262 => file::newfstatat(a[0] as i32, a[1], a[2], a[3]),
        263 => file::unlinkat(a[0] as i32, a[1], a[2]),
        264 => file::renameat2(a[0] as i32, a[1], a[2] as i32, a[3], 0),
        265 => file::linkat(a[0] as i32, a[1], a[2] as i32, a[3], a[4]),
        266 => file::symlinkat(a[0], a[1] as i32, a[2]),
        267 => file::readlinkat(a[0] as i32, a[1], a[2], a[3] as i32),
        268 => file::fchmodat(a[0] as i32, a[1], a[2], 0),
        269 => file::faccessat(a[0] as i32, a[1], a[2], 0),
        270 => file::pselect6(a[0] as i32, [a[1], a[2], a[3]], a[4], a[5]),
        271 => file::ppoll(a[0], a[1], a[2], a[3], a[4]),
        273 => Ok(0),
        280 => file::utimensat(a[0] as i32, a[1], a[2], a[3]),
        281 => file::epoll_pwait(a),
        284 => file::eventfd2(a[0], 0),
        285 => file::fallocate(a[0] as i32, a[1], a[2] as i64, a[3] as i64),
        290 => file::eventfd2(a[0], a[1]),
        291 => file::epoll_create1(a[0]),
        292 => file::dup3(a[0] as i32, a[1] as i32, a[2]),
        293 => file::pipe2(a[0], a[1]),
        295 => file::preadv(a[0] as i32, a[1], a[2], a[3] as i64, false),
        296 => file::pwritev(a[0] as i32, a[1], a[2], a[3] as i64, false),
        316 => file::renameat2(a[0] as i32, a[1], a[2] as i32, a[3], a[4]),
        318 => proc::getrandom(a[0], a[1]),
        319 => file::memfd_create(a[0], a[1]),
        326 => file::copy_file_range(a),
        327 => file::preadv(a[0] as i32, a[1], a[2], a[3] as i64, true),
        328 => file::pwritev(a[0] as i32, a[1], a[2], a[3] as i64, true),
        332 => file::statx(a[0] as i32, a[1], a[2], a[3], a[4]),
        436 => file::close_range(a[0], a[1], a[2]),
        437 => file::openat2(a[0] as i32, a[1], a[2], a[3]),
        439 => file::faccessat(a[0] as i32, a[1], a[2], a[3]),
        441 => file::epoll_pwait2(a),
        452 => file::fchmodat(a[0] as i32, a[1], a[2], a[3]),
        _ => {
            if UNKNOWN.lock().insert(n) {
                crate::say!("machvm: system call {n} is not known (process {})", crate::sched::process().pid);
            }
            Err(ENOSYS)
        }
    }
}
