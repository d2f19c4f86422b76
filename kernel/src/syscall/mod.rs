//! System calls, by their numbers on x86-64; those of other machines are translated (`generic.rs`).

mod file;
pub(crate) mod futex;
mod generic;
mod ids;
mod info;
pub(crate) mod memory;
mod proc;
mod remote;
pub(crate) mod sem;
mod signal;
mod time;

use alloc::collections::BTreeSet;

use crate::arch::Frame;
use crate::errno::{ENOSYS, Result};
use crate::mutex::Mutex;
use crate::process::{self, group};
use crate::sched;
use ids::Kind::{Group, User};

/// Numbers that were asked for and are not known.
static UNKNOWN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Calls that run on several CPUs at once: on memory, futexes, the clock, and what only looks at the caller. All others
/// hold the big lock.
const PARALLEL: [u64; 8] = set(&[
    9, 10, 11, 12, 24, 25, 26, 27, 28, 35, 39, 96, 102, 104, 107, 108, 110, 149, 150, 151, 152, 186, 201,
    202, 216, 228, 229, 230, 309, 324, 325, 329,
]);

const fn set(list: &[u64]) -> [u64; 8] {
    let mut set = [0; 8];
    let mut i = 0;
    while i < list.len() {
        set[list[i] as usize / 64] |= 1 << (list[i] % 64);
        i += 1;
    }
    set
}

/// Carries a call out and puts the result in the frame.
pub(crate) fn dispatch(f: &mut Frame) {
    let (n, a) = if crate::arch::GENERIC_CALLS { generic::call(f.call()) } else { f.call() };
    f.note_call();
    let parallel = PARALLEL.get((n / 64) as usize).is_some_and(|w| w >> (n % 64) & 1 != 0);
    let _big = (!parallel).then(sched::big::hold);
    if n == 59 || n == 322 {
        // The frame of a new program is not the old one's with a result.
        if let Err(e) = proc::execve(f, a) {
            f.set_result(-i64::from(e.0));
        }
        return;
    }
    if n == 15 {
        return signal::sigreturn(f);
    }
    let v = match call(f, n, a) {
        Ok(v) => v,
        Err(e) => -i64::from(e.0),
    };
    crate::process::signal::call_ended(v);
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
        13 => signal::sigaction(a[0], a[1], a[2], a[3]),
        14 => signal::sigprocmask(a[0], a[1], a[2], a[3]),
        16 => file::ioctl(a[0] as i32, a[1], a[2]),
        17 => file::pread(a[0] as i32, a[1], a[2], a[3] as i64),
        18 => file::pwrite(a[0] as i32, a[1], a[2], a[3] as i64),
        19 => file::readv(a[0] as i32, a[1], a[2]),
        20 => file::writev(a[0] as i32, a[1], a[2]),
        21 => file::faccessat(-100, a[0], a[1], 0),
        22 => file::pipe2(a[0], 0),
        23 => file::select(a[0] as i32, [a[1], a[2], a[3]], a[4]),
        24 => {
            sched::yield_now();
            Ok(0)
        }
        25 => memory::mremap([a[0], a[1], a[2], a[3], a[4]]),
        26 => memory::msync(a[0], a[1], a[2]),
        27 => memory::mincore(a[0], a[1], a[2]),
        28 => memory::madvise(a[0], a[1], a[2]),
        29 => memory::shmget(a[0], a[1], a[2]),
        30 => memory::shmat(a[0], a[1], a[2]),
        31 => memory::shmctl(a[0], a[1], a[2]),
        32 => file::dup(a[0] as i32),
        33 => file::dup2(a[0] as i32, a[1] as i32),
        34 => signal::pause(),
        35 => time::nanosleep(a[0], a[1]),
        36 => time::getitimer(a[0], a[1]),
        37 => time::alarm(a[0] as u32),
        38 => time::setitimer(a[0], a[1], a[2]),
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
        57 => proc::fork(f),
        58 => proc::vfork(f),
        60 => process::end_thread_with(a[0] as i32),
        61 => proc::wait4(a[0] as i32, a[1], a[2], a[3]),
        62 => signal::kill(a[0] as i32, a[1]),
        63 => info::uname(a[0]),
        64 => sem::semget(a[0] as i32, a[1] as i32, a[2]),
        65 => sem::semtimedop(a[0] as i32, a[1], a[2], 0),
        66 => sem::semctl(a[0] as i32, a[1] as i32, a[2] & 0xff, a[3]),
        67 => memory::shmdt(a[0]),
        72 => file::fcntl(a[0] as i32, a[1], a[2]),
        73 => file::flock(a[0] as i32, a[1]),
        74 => file::fsync(a[0] as i32),
        75 => file::fsync(a[0] as i32),
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
        96 => time::gettimeofday(a[0], a[1]),
        97 => info::getrlimit(a[0], a[1]),
        98 => time::getrusage(a[0] as i32, a[1]),
        99 => info::sysinfo(a[0]),
        100 => time::times(a[0]),
        102 => ids::get(User, false),
        104 => ids::get(Group, false),
        105 => ids::set(User, a[0] as u32),
        106 => ids::set(Group, a[0] as u32),
        107 => ids::get(User, true),
        108 => ids::get(Group, true),
        109 => group::setpgid(a[0] as i32, a[1] as i32),
        110 => proc::getppid(),
        111 => group::getpgid(0),
        112 => group::setsid(),
        113 => ids::set_re(User, a[0] as u32, a[1] as u32),
        114 => ids::set_re(Group, a[0] as u32, a[1] as u32),
        115 => ids::getgroups(a[0] as i32, a[1]),
        116 => ids::setgroups(a[0], a[1]),
        117 => ids::set_res(User, [a[0] as u32, a[1] as u32, a[2] as u32]),
        118 => ids::get_res(User, [a[0], a[1], a[2]]),
        119 => ids::set_res(Group, [a[0] as u32, a[1] as u32, a[2] as u32]),
        120 => ids::get_res(Group, [a[0], a[1], a[2]]),
        121 => group::getpgid(a[0] as i32),
        122 => ids::set_files(User, a[0] as u32),
        123 => ids::set_files(Group, a[0] as u32),
        124 => group::getsid(a[0] as i32),
        125 => ids::capget(a[0], a[1]),
        126 => ids::capset(a[0], a[1]),
        127 => signal::sigpending(a[0], a[1]),
        128 => signal::sigtimedwait(a[0], a[1], a[2], a[3]),
        129 => signal::sigqueueinfo(a[0] as i32, a[1], a[2]),
        130 => signal::sigsuspend(a[0], a[1]),
        131 => signal::sigaltstack(a[0], a[1], f.stack_pointer()),
        132 => file::utime(a[0], a[1]),
        133 => file::mknodat(-100, a[0], a[1], a[2]),
        135 => info::personality(a[0]),
        137 => file::statfs(a[0], a[1]),
        138 => file::fstatfs(a[0] as i32, a[1]),
        140 => ids::getpriority(a[0], a[1] as i32),
        141 => ids::setpriority(a[0], a[1] as i32, a[2] as i32),
        142 => info::sched_setscheduler(a[0] as i32, 0, a[1]),
        143 => info::sched_getparam(a[0] as i32, a[1]),
        144 => info::sched_setscheduler(a[0] as i32, a[1] as i32, a[2]),
        145 => info::sched_getscheduler(a[0] as i32),
        146 => info::sched_priority(a[0], true),
        147 => info::sched_priority(a[0], false),
        148 => info::sched_rr_get_interval(a[0] as i32, a[1]),
        149 => memory::mlock(a[0], a[1], 0),
        150 => memory::munlock(a[0], a[1]),
        151 => memory::mlockall(a[0]),
        152 => memory::munlockall(),
        157 => info::prctl(a),
        158 => proc::arch_prctl(a[0], a[1]),
        160 => info::setrlimit(a[0], a[1]),
        161 => file::chroot(a[0]),
        162 => Ok(0),
        165 => file::mount_at(a[0], a[1], a[2], a[3], a[4]),
        166 => file::umount2(a[0], a[1]),
        167 => file::swapon(a[0], a[1]),
        168 => file::swapoff(a[0]),
        170 => info::set_name(false, a[0], a[1] as i32),
        171 => info::set_name(true, a[0], a[1] as i32),
        186 => proc::gettid(),
        200 => signal::tgkill(-1, a[0] as i32, a[1]),
        201 => time::time(a[0]),
        202 => futex::futex(a),
        203 => info::sched_setaffinity(a[0] as i32, a[1], a[2]),
        204 => info::sched_getaffinity(a[0] as i32, a[1], a[2]),
        213 => file::epoll_create(a[0] as i32),
        216 => memory::remap_file_pages(a[0], a[1], a[2], a[3]),
        217 => file::getdents64(a[0] as i32, a[1], a[2]),
        218 => proc::set_tid_address(a[0]),
        219 => process::signal::restart_syscall(),
        220 => sem::semtimedop(a[0] as i32, a[1], a[2], a[3]),
        221 => file::fadvise(a[0] as i32, a[2] as i64, a[3]),
        222 => time::timer_create(a[0], a[1], a[2]),
        223 => time::timer_settime(a[0] as i32, a[1], a[2], a[3]),
        224 => time::timer_gettime(a[0] as i32, a[1]),
        225 => time::timer_getoverrun(a[0] as i32),
        226 => time::timer_delete(a[0] as i32),
        227 => time::clock_settime(a[0], a[1]),
        228 => time::clock_gettime(a[0], a[1]),
        229 => time::clock_getres(a[0], a[1]),
        230 => time::clock_nanosleep(a[0], a[1], a[2], a[3]),
        231 => process::exit_group((a[0] as i32 & 0xff) << 8),
        232 => file::epoll_pwait([a[0], a[1], a[2], a[3], 0, 8]),
        233 => file::epoll_ctl(a[0] as i32, a[1], a[2] as i32, a[3]),
        234 => signal::tgkill(a[0] as i32, a[1] as i32, a[2]),
        235 => file::futimesat(-100, a[0], a[1]),
        247 => proc::waitid(a[0], a[1], a[2], a[3], a[4]),
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
        273 => proc::set_robust_list(a[0], a[1]),
        274 => proc::get_robust_list(a[0] as i32, a[1], a[2]),
        280 => file::utimensat(a[0] as i32, a[1], a[2], a[3]),
        281 => file::epoll_pwait(a),
        282 => file::signalfd(a[0] as i32, a[1], a[2], 0),
        283 => file::timerfd_create(a[0], a[1]),
        284 => file::eventfd2(a[0], 0),
        285 => file::fallocate(a[0] as i32, a[1], a[2] as i64, a[3] as i64),
        286 => file::timerfd_settime(a[0] as i32, a[1], a[2], a[3]),
        287 => file::timerfd_gettime(a[0] as i32, a[1]),
        289 => file::signalfd(a[0] as i32, a[1], a[2], a[3]),
        290 => file::eventfd2(a[0], a[1]),
        291 => file::epoll_create1(a[0]),
        292 => file::dup3(a[0] as i32, a[1] as i32, a[2]),
        293 => file::pipe2(a[0], a[1]),
        295 => file::preadv(a[0] as i32, a[1], a[2], a[3] as i64, false),
        296 => file::pwritev(a[0] as i32, a[1], a[2], a[3] as i64, false),
        297 => signal::tgsigqueueinfo(a[0] as i32, a[1] as i32, a[2], a[3]),
        302 => info::prlimit64(a[0] as i32, a[1], a[2], a[3]),
        306 => file::syncfs(a[0] as i32),
        309 => info::getcpu(a[0], a[1]),
        310 => remote::process_vm(a, false),
        311 => remote::process_vm(a, true),
        316 => file::renameat2(a[0] as i32, a[1], a[2] as i32, a[3], a[4]),
        318 => info::getrandom(a[0], a[1], a[2]),
        319 => file::memfd_create(a[0], a[1]),
        324 => info::membarrier(a[0], a[1]),
        325 => memory::mlock(a[0], a[1], a[2]),
        326 => file::copy_file_range(a),
        327 => file::preadv(a[0] as i32, a[1], a[2], a[3] as i64, true),
        328 => file::pwritev(a[0] as i32, a[1], a[2], a[3] as i64, true),
        329 => memory::pkey_mprotect(a[0], a[1], a[2], a[3] as i32),
        332 => file::statx(a[0] as i32, a[1], a[2], a[3], a[4]),
        334 => process::rseq::rseq(a[0], a[1], a[2], a[3]),
        435 => proc::clone3(f, a[0], a[1]),
        436 => file::close_range(a[0], a[1], a[2]),
        437 => file::openat2(a[0] as i32, a[1], a[2], a[3]),
        439 => file::faccessat(a[0] as i32, a[1], a[2], a[3]),
        441 => file::epoll_pwait2(a),
        452 => file::fchmodat(a[0] as i32, a[1], a[2], a[3]),
        _ => {
            if UNKNOWN.lock().insert(n) {
                let n = generic::shown(n);
                crate::say!("machvm: system call {n} is not known (process {})", crate::sched::process().pid);
            }
            Err(ENOSYS)
        }
    }
}
