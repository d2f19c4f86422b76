//! Which system calls of the program the VM wants to see, as a seccomp filter.
//!
//! Filters survive `execve` and are inherited by children, so the filter never
//! decides anything itself: what is refused to the program must still work in the
//! native programs it starts. It only asks, and the supervisor looks who is calling.

use std::io;
use std::os::fd::RawFd;

use super::error::RunError;
use super::notify::ARCH_X86_64;

/// Memory calls, answered from the map.
pub const MEMORY_CALLS: &[i64] = &[
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mlockall,
    libc::SYS_munlockall,
    libc::SYS_remap_file_pages,
    libc::SYS_mbind,
    libc::SYS_pkey_mprotect,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_userfaultfd,
    libc::SYS_process_madvise,
    SYS_MSEAL,
];

/// Newer than the C library's headers.
pub const SYS_MSEAL: i64 = 462;
/// Makes a mapping the map would not know.
pub const SYS_MAP_SHADOW_STACK: i64 = 453;

/// Calls the supervisor looks at whatever their arguments are.
pub(super) const OTHER_CALLS: &[i64] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_openat2,
    libc::SYS_rt_sigaction,
    libc::SYS_io_uring_setup,
    libc::SYS_io_setup,
    SYS_MAP_SHADOW_STACK,
];

/// Reported only where `/proc/self/exe` cannot be made to name the program.
pub(super) const LINK_CALLS: &[i64] = &[libc::SYS_readlink, libc::SYS_readlinkat];

/// Bit 30 of the number: the x32 ABI.
pub const X32_BIT: u32 = 0x4000_0000;
/// Pages given away to a pipe.
pub const SPLICE_F_GIFT: u32 = 8;
/// Puts the filter on every thread of the process, the VM's among them.
pub const FILTER_FLAG_TSYNC: u32 = 1;
/// `prctl`: forbids writable and executable memory, for the VM too.
pub const PR_SET_MDWE: u32 = 65;

const SET_MODE_FILTER: u32 = 1;
const FLAG_NEW_LISTENER: u64 = 8;
const FLAG_WAIT_KILLABLE_RECV: u64 = 32;

const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
/// The upper half of the address behind the call.
const OFFSET_IP_HIGH: u32 = 12;
const fn offset_arg(n: u32) -> u32 {
    16 + 8 * n
}

type Insn = libc::sock_filter;

const fn insn(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}

/// A condition on the low half of an argument.
enum Test {
    Equals(u32),
    AnyBit(u32),
}

struct Conditional {
    nr: i64,
    /// All must hold for the call to be reported.
    tests: &'static [(u32, Test)],
}

const O_DIRECT: u32 = libc::O_DIRECT as u32;

/// Frequent calls of which only rare forms concern us.
const CONDITIONAL: &[Conditional] = &[
    Conditional { nr: libc::SYS_openat, tests: &[(2, Test::AnyBit(O_DIRECT))] },
    Conditional { nr: libc::SYS_open, tests: &[(1, Test::AnyBit(O_DIRECT))] },
    Conditional { nr: libc::SYS_open_by_handle_at, tests: &[(2, Test::AnyBit(O_DIRECT))] },
    Conditional {
        nr: libc::SYS_fcntl,
        tests: &[(1, Test::Equals(libc::F_SETFL as u32)), (2, Test::AnyBit(O_DIRECT))],
    },
    Conditional { nr: libc::SYS_vmsplice, tests: &[(3, Test::AnyBit(SPLICE_F_GIFT))] },
    Conditional { nr: libc::SYS_prctl, tests: &[(0, Test::Equals(libc::PR_SET_MM as u32))] },
    Conditional { nr: libc::SYS_prctl, tests: &[(0, Test::Equals(PR_SET_MDWE))] },
    Conditional {
        nr: libc::SYS_seccomp,
        tests: &[(0, Test::Equals(SET_MODE_FILTER)), (1, Test::AnyBit(FILTER_FLAG_TSYNC))],
    },
];

/// The end of the program's own addresses. Above it are only the VM's libraries, the
/// kernel's page of code, and, in a program that a child of vfork has begun, Linux's
/// own placing of libraries: such a program has the filter, but is none of ours.
pub const PROGRAM_END: u64 = 0x7e00_0000_0000;

/// The program: foreign ABIs and listed calls are reported, all else is allowed. The
/// kernel finds the calls that are allowed whatever their arguments are once, and
/// runs no filter for them. Unless `everywhere`, calls made above [`PROGRAM_END`] are
/// allowed as well: most of those of spawned programs, which a signal could otherwise
/// interrupt while they wait for us.
fn program(links: bool, everywhere: bool) -> Vec<Insn> {
    const REPORT: Insn = insn(RETURN, RET_USER_NOTIF, 0, 0);
    let mut code = vec![
        insn(LOAD_WORD, OFFSET_ARCH, 0, 0),
        insn(JUMP_EQUAL, ARCH_X86_64, 1, 0),
        REPORT,
        insn(LOAD_WORD, OFFSET_NR, 0, 0),
        insn(JUMP_AT_LEAST, X32_BIT, 0, 1),
        REPORT,
    ];
    for call in CONDITIONAL {
        // Number, then two instructions a test, a report, and the number again.
        let body = 2 * call.tests.len() as u8 + 2;
        code.push(insn(JUMP_EQUAL, call.nr as u32, 0, body));
        let mut rest = body - 1;
        for (arg, test) in call.tests {
            rest -= 2;
            code.push(insn(LOAD_WORD, offset_arg(*arg), 0, 0));
            code.push(match *test {
                Test::Equals(value) => insn(JUMP_EQUAL, value, 0, rest),
                Test::AnyBit(bits) => insn(JUMP_ANY_BIT, bits, 0, rest),
            });
        }
        code.push(REPORT);
        code.push(insn(LOAD_WORD, OFFSET_NR, 0, 0));
    }
    let link_calls = if links { LINK_CALLS } else { &[] };
    let listed: Vec<i64> = [MEMORY_CALLS, OTHER_CALLS, link_calls].concat();
    for (index, nr) in listed.iter().enumerate() {
        // Over the remaining comparisons and the "allow".
        code.push(insn(JUMP_EQUAL, *nr as u32, (listed.len() - index) as u8, 0));
    }
    code.push(insn(RETURN, RET_ALLOW, 0, 0));
    if !everywhere {
        code.push(insn(LOAD_WORD, OFFSET_IP_HIGH, 0, 0));
        code.push(insn(JUMP_AT_LEAST, (PROGRAM_END >> 32) as u32, 0, 1));
        code.push(insn(RETURN, RET_ALLOW, 0, 0));
    }
    code.push(REPORT);
    code
}

/// The filter, ready to be installed without allocating.
pub struct Filter(Vec<Insn>);

impl Filter {
    /// Builds it. `links`: report the calls that read symbolic links, too.
    /// `everywhere`: the program may have code above [`PROGRAM_END`].
    #[must_use]
    pub fn new(links: bool, everywhere: bool) -> Filter {
        Filter(program(links, everywhere))
    }

    /// Installs it on this thread only; returns the listener, a descriptor of this
    /// thread's table. From here on this thread's memory calls wait for an answer.
    ///
    /// # Errors
    /// What `seccomp(2)` says, see [`explain`].
    pub fn install(&self) -> io::Result<RawFd> {
        let fprog = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        let install = || {
            // SAFETY: `fprog` describes the vector, which the kernel copies.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    SET_MODE_FILTER,
                    FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV,
                    &raw const fprog,
                )
            };
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd as RawFd) }
        };
        match install() {
            // Without CAP_SYS_ADMIN a filter needs this promise, which costs set-user-ID
            // children their rights; so it is given only when it has to be.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                // SAFETY: the call has no memory arguments.
                if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                install()
            }
            result => result,
        }
    }
}

/// What a failed [`Filter::install`] means and what to do.
#[must_use]
pub fn explain(error: &io::Error) -> RunError {
    RunError::Host(match error.raw_os_error() {
        Some(libc::EBUSY) => "machvm cannot run below another seccomp supervisor (another machvm run, a container \
             manager's listener): start it outside"
            .to_owned(),
        Some(libc::EINVAL) => "this kernel's seccomp lacks killable user notification: run Linux 5.19 or later with \
             CONFIG_SECCOMP_FILTER"
            .to_owned(),
        Some(libc::ENOSYS) => {
            "this kernel (or a container's seccomp profile) has no seccomp(2): allow it, or run Linux 5.19 or later"
                .to_owned()
        }
        _ => format!("cannot install the system call filter ({error}): run as root or allow seccomp(2)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a program's code may be, and where a spawned program's libraries are.
    const LOW: u64 = 0x4f00_1234_5678;
    const HIGH: u64 = 0x7f00_1234_5678;

    /// Runs classic BPF as the kernel does, for the instructions we use.
    fn run(code: &[Insn], arch: u32, nr: u32, ip: u64, args: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            OFFSET_NR => nr,
            OFFSET_ARCH => arch,
            OFFSET_IP_HIGH => (ip >> 32) as u32,
            offset => args[(offset as usize - 16) / 8] as u32,
        };
        let (mut at, mut acc) = (0, 0);
        loop {
            let Insn { code, jt, jf, k } = code[at];
            let taken = match code {
                LOAD_WORD => {
                    acc = load(k);
                    at += 1;
                    continue;
                }
                JUMP_EQUAL => acc == k,
                JUMP_AT_LEAST => acc >= k,
                JUMP_ANY_BIT => acc & k != 0,
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            };
            at += 1 + usize::from(if taken { jt } else { jf });
        }
    }

    fn reported(nr: i64, args: [u64; 6]) -> bool {
        run(&program(false, false), ARCH_X86_64, nr as u32, LOW, args) == RET_USER_NOTIF
    }

    #[test]
    fn exactly_the_listed_calls_are_reported() {
        for (links, everywhere) in [(false, false), (true, false), (false, true), (true, true)] {
            let code = program(links, everywhere);
            for nr in 0..1000 {
                let listed = MEMORY_CALLS.contains(&nr)
                    || OTHER_CALLS.contains(&nr)
                    || (links && LINK_CALLS.contains(&nr));
                let of = |ip| run(&code, ARCH_X86_64, nr as u32, ip, [0; 6]) == RET_USER_NOTIF;
                assert_eq!(of(LOW), listed, "call {nr}");
                assert_eq!(of(PROGRAM_END - 1), listed, "call {nr}");
                assert_eq!(of(HIGH), listed && everywhere, "call {nr}");
            }
        }
    }

    #[test]
    fn other_architectures_are_reported_whole() {
        let code = program(true, false);
        for nr in 0..500 {
            for ip in [LOW, HIGH] {
                assert_eq!(run(&code, 0x4000_0003, nr, ip, [0; 6]), RET_USER_NOTIF);
                assert_eq!(run(&code, ARCH_X86_64, nr | X32_BIT, ip, [0; 6]), RET_USER_NOTIF);
            }
        }
        assert_eq!(run(&code, ARCH_X86_64, u32::MAX, LOW, [0; 6]), RET_USER_NOTIF);
    }

    #[test]
    fn direct_io_gifts_and_layout_changes_are_reported() {
        let direct = u64::from(O_DIRECT) | 2;
        assert!(reported(libc::SYS_open, [0, direct, 0, 0, 0, 0]));
        assert!(!reported(libc::SYS_open, [0, 2, direct, 0, 0, 0]));
        assert!(reported(libc::SYS_openat, [0, 0, direct, 0, 0, 0]));
        assert!(!reported(libc::SYS_openat, [0, 0, 2, 0, 0, 0]));
        assert!(reported(libc::SYS_open_by_handle_at, [0, 0, direct, 0, 0, 0]));
        let setfl = libc::F_SETFL as u64;
        assert!(reported(libc::SYS_fcntl, [3, setfl, direct, 0, 0, 0]));
        assert!(!reported(libc::SYS_fcntl, [3, setfl, 2, 0, 0, 0]));
        assert!(!reported(libc::SYS_fcntl, [3, libc::F_SETFD as u64, direct, 0, 0, 0]));
        assert!(reported(libc::SYS_vmsplice, [1, 0, 0, 8, 0, 0]));
        assert!(!reported(libc::SYS_vmsplice, [1, 0, 0, 1, 0, 0]));
        assert!(reported(libc::SYS_prctl, [libc::PR_SET_MM as u64, 0, 0, 0, 0, 0]));
        assert!(reported(libc::SYS_prctl, [u64::from(PR_SET_MDWE), 0, 0, 0, 0, 0]));
        assert!(!reported(libc::SYS_prctl, [libc::PR_SET_NAME as u64, 0, 0, 0, 0, 0]));
        assert!(reported(libc::SYS_seccomp, [1, 1, 0, 0, 0, 0]));
        assert!(!reported(libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]));
    }
}
