//! What the keeper does to a thread of the program that it has stopped: registers,
//! signal mask, system calls on its behalf.
//!
//! All of it runs in the keeper process, which must be the one that seized the
//! thread. A thread is seized while it waits in a notified system call, so it stops
//! on its way back to user mode, and `PTRACE_EVENT_STOP` comes before any signal is
//! taken off its queue: nothing pending is lost by our stop.

use std::arch::global_asm;
use std::collections::HashMap;

use super::space::Errno;

/// `struct user_regs_struct` of x86-64.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the processor's names")]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// `struct ptrace_rseq_configuration`; `ptr` 0: none registered.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rseq {
    /// Address of the area.
    pub ptr: u64,
    /// Its size in bytes.
    pub size: u32,
    /// The abort signature.
    pub signature: u32,
    /// Flags of the registration.
    pub flags: u32,
    pad: u32,
}

/// The longest extended state we take: AMX needs 11 KiB.
pub const XSTATE_MAX: usize = 16 << 10;

/// Where a seized thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Not stopped yet.
    Running,
    /// Stopped; its state may be read and written.
    Stopped,
    /// Dead, or not ours any more.
    Gone,
}

const PTRACE_GETREGS: i32 = 12;
const PTRACE_SETREGS: i32 = 13;
const PTRACE_SYSCALL: i32 = 24;
const PTRACE_CONT: i32 = 7;
const PTRACE_DETACH: i32 = 17;
const PTRACE_GETREGSET: i32 = 0x4204;
const PTRACE_SETREGSET: i32 = 0x4205;
const PTRACE_SEIZE: i32 = 0x4206;
const PTRACE_INTERRUPT: i32 = 0x4207;
const PTRACE_GETSIGMASK: i32 = 0x420a;
const PTRACE_SETSIGMASK: i32 = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: i32 = 0x420f;
const PTRACE_O_TRACESYSGOOD: usize = 1;
const PTRACE_EVENT_STOP: i32 = 128;
const NT_X86_XSTATE: usize = 0x202;
/// What a system-call stop reports with `PTRACE_O_TRACESYSGOOD`.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// The bit of the x87 and SSE states together in XSTATE_BV.
const XSTATE_LEGACY: u64 = 3;
/// Offset of XSTATE_BV in the standard format.
const XSTATE_BV: usize = 512;
/// The protection-key component, and the value Linux gives it at execve.
const XFEATURE_PKRU: u32 = 9;
const PKRU_AT_EXEC: u32 = 0x5555_5554;

global_asm!(
    ".globl machvm_remote_syscall",
    ".hidden machvm_remote_syscall",
    ".type machvm_remote_syscall, @function",
    "machvm_remote_syscall:",
    "syscall",
    "ud2",
    ".size machvm_remote_syscall, . - machvm_remote_syscall",
);

unsafe extern "C" {
    /// One `syscall` instruction that a stopped thread can be sent to. Never called.
    fn machvm_remote_syscall();
}

fn stub() -> u64 {
    machvm_remote_syscall as *const () as u64
}

/// One ptrace request.
///
/// # Safety
/// `addr` and `data` are what `request` takes: where they are pointers, they point to
/// memory of the size it reads or writes.
unsafe fn ptrace(request: i32, tid: i32, addr: usize, data: usize) -> Result<i64, Errno> {
    // SAFETY: the caller's.
    let value = unsafe { libc::syscall(libc::SYS_ptrace, request as i64, i64::from(tid), addr, data) };
    if value < 0 { Err(last_errno()) } else { Ok(value) }
}

pub(super) fn last_errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The threads the keeper holds, and the signals it took from them.
#[derive(Default)]
pub struct Held {
    /// Seized threads, each with the signals to send again when it is let go.
    threads: HashMap<i32, Vec<i32>>,
}

impl Held {
    /// Seizes `tid` and asks it to stop.
    ///
    /// # Errors
    /// EPERM when somebody else (a debugger) traces it or we may not; ESRCH when it
    /// is dead.
    pub fn seize(&mut self, tid: i32) -> Result<(), Errno> {
        // SAFETY: SEIZE takes options by value, INTERRUPT nothing.
        unsafe {
            ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD)?;
            self.threads.insert(tid, Vec::new());
            ptrace(PTRACE_INTERRUPT, tid, 0, 0)?;
        }
        Ok(())
    }

    /// Where `tid` is; waits for it to stop or die when `block`.
    ///
    /// => the thread was seized, or let run since its last stop.
    pub fn wait(&mut self, tid: i32, block: bool) -> Stop {
        loop {
            let mut status = 0;
            let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
            // SAFETY: status is a place for an int.
            let got = unsafe { libc::waitpid(tid, &raw mut status, options) };
            if got == 0 {
                return Stop::Running;
            }
            if got < 0 && last_errno() == Errno(libc::EINTR) {
                continue;
            }
            if got < 0 || !libc::WIFSTOPPED(status) {
                self.threads.remove(&tid);
                return Stop::Gone;
            }
            if status >> 16 == PTRACE_EVENT_STOP {
                return Stop::Stopped;
            }
            // It was in user mode and took a signal before it saw our request: the
            // handler's frame is built, and the thread stops at its first instruction.
            let signal = libc::WSTOPSIG(status);
            let pass = if signal == libc::SIGTRAP || signal == SYSCALL_STOP { 0 } else { signal };
            // SAFETY: CONT takes a signal by value.
            if unsafe { ptrace(PTRACE_CONT, tid, 0, pass as usize) }.is_err() {
                self.threads.remove(&tid);
                return Stop::Gone;
            }
        }
    }

    /// Lets `tid` go on and forgets it. A thread that is running is left alone: only a
    /// stopped one can be detached.
    pub fn detach(&mut self, tid: i32) {
        let Some(signals) = self.threads.remove(&tid) else { return };
        // SAFETY: DETACH takes a signal by value; tgkill's arguments are numbers.
        unsafe {
            let _ = ptrace(PTRACE_DETACH, tid, 0, 0);
            for signal in signals {
                libc::syscall(libc::SYS_tkill, tid, signal);
            }
        }
    }

    /// Forgets the threads that have died: until then they hold up the end of their
    /// process. Stops are left to [`Held::wait`]: a wait for deaths takes a tracee's
    /// stop as well, so it only looks.
    pub fn reap(&mut self) {
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        self.threads.retain(|tid, _| {
            // SAFETY: zeros are a valid siginfo, and it is a place for one; no status is
            // asked for.
            unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let found =
                    libc::waitid(libc::P_PID, *tid as u32, &raw mut info, look) == 0 && info.si_pid() != 0;
                let dead =
                    found && matches!(info.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
                if dead {
                    libc::waitpid(*tid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
                }
                !dead
            }
        });
    }

    /// Does system call `nr` on the stopped thread `tid`, with its credentials and
    /// descriptors, and puts its registers and mask back.
    ///
    /// => signals stay blocked meanwhile; a stop signal that comes is sent again later.
    ///
    /// # Errors
    /// ESRCH when it died. The call's own failure is in the value (`-errno`).
    pub fn call(&mut self, tid: i32, nr: i64, args: [u64; 6]) -> Result<i64, Errno> {
        let saved = regs(tid)?;
        let mask = sigmask(tid)?;
        set_sigmask(tid, u64::MAX)?;
        set_regs(tid, &call_regs(&saved, nr, args))?;
        self.run_to_syscall_stop(tid)?;
        self.run_to_syscall_stop(tid)?;
        let value = regs(tid)?.rax as i64;
        set_regs(tid, &saved)?;
        set_sigmask(tid, mask)?;
        Ok(value)
    }

    /// Lets the stopped thread `tid` run into `SYS_exit` and nothing else.
    ///
    /// # Errors
    /// ESRCH when it died already.
    pub fn end(&mut self, tid: i32) -> Result<(), Errno> {
        set_sigmask(tid, u64::MAX)?;
        set_regs(tid, &call_regs(&regs(tid)?, libc::SYS_exit, [0; 6]))?;
        // SAFETY: CONT takes a signal by value.
        unsafe { ptrace(PTRACE_CONT, tid, 0, 0) }.map(|_| ())
    }

    fn run_to_syscall_stop(&mut self, tid: i32) -> Result<(), Errno> {
        loop {
            // SAFETY: SYSCALL takes a signal by value.
            unsafe { ptrace(PTRACE_SYSCALL, tid, 0, 0) }?;
            let mut status = 0;
            // SAFETY: status is a place for an int.
            while unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) } < 0 {
                if last_errno() != Errno(libc::EINTR) {
                    self.threads.remove(&tid);
                    return Err(Errno(libc::ESRCH));
                }
            }
            if !libc::WIFSTOPPED(status) {
                self.threads.remove(&tid);
                return Err(Errno(libc::ESRCH));
            }
            match libc::WSTOPSIG(status) {
                SYSCALL_STOP => return Ok(()),
                _ if status >> 16 != 0 => {}
                signal => self.threads.entry(tid).or_default().push(signal),
            }
        }
    }
}

fn call_regs(from: &Regs, nr: i64, args: [u64; 6]) -> Regs {
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    // orig_rax -1: the kernel must not restart the call that we interrupted.
    Regs { rip: stub(), rax: nr as u64, orig_rax: u64::MAX, rdi, rsi, rdx, r10, r8, r9, ..*from }
}

/// The registers of a stopped thread.
///
/// # Errors
/// ESRCH when it is not stopped.
pub fn regs(tid: i32) -> Result<Regs, Errno> {
    let mut regs = Regs::default();
    // SAFETY: GETREGS fills a user_regs_struct, which Regs is.
    unsafe { ptrace(PTRACE_GETREGS, tid, 0, (&raw mut regs).addr()) }?;
    Ok(regs)
}

/// Sets the registers of a stopped thread.
///
/// # Errors
/// ESRCH when it is not stopped; EIO or EINVAL for segments the kernel refuses.
pub fn set_regs(tid: i32, regs: &Regs) -> Result<(), Errno> {
    // SAFETY: SETREGS reads a user_regs_struct, which Regs is.
    unsafe { ptrace(PTRACE_SETREGS, tid, 0, std::ptr::from_ref(regs).addr()) }.map(|_| ())
}

/// The signal mask of a stopped thread.
///
/// # Errors
/// ESRCH when it is not stopped.
pub fn sigmask(tid: i32) -> Result<u64, Errno> {
    let mut mask = 0u64;
    // SAFETY: 8 bytes are written.
    unsafe { ptrace(PTRACE_GETSIGMASK, tid, 8, (&raw mut mask).addr()) }?;
    Ok(mask)
}

/// Sets the signal mask of a stopped thread.
///
/// # Errors
/// ESRCH when it is not stopped.
pub fn set_sigmask(tid: i32, mask: u64) -> Result<(), Errno> {
    // SAFETY: 8 bytes are read.
    unsafe { ptrace(PTRACE_SETSIGMASK, tid, 8, (&raw const mask).addr()) }.map(|_| ())
}

/// The restartable-sequences area of a stopped thread; all zero when it has none or
/// the kernel (before 5.13) cannot tell.
pub fn rseq(tid: i32) -> Rseq {
    let mut rseq = Rseq::default();
    // SAFETY: the size of the structure is given.
    let got =
        unsafe { ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size_of::<Rseq>(), (&raw mut rseq).addr()) };
    if got.is_err() { Rseq::default() } else { rseq }
}

/// The extended state of a stopped thread, in the standard format; its length.
///
/// # Errors
/// ESRCH when it is not stopped; ENODEV on a processor without XSAVE.
pub fn xstate(tid: i32, buf: &mut [u8; XSTATE_MAX]) -> Result<usize, Errno> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the iovec describes buf.
    unsafe { ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, (&raw mut iov).addr()) }?;
    Ok(iov.iov_len)
}

/// Gives a stopped thread the registers of a program that starts at `rip` with its
/// stack at `rsp`: all others zero, floating point as after execve.
///
/// # Errors
/// ESRCH when it is not stopped.
pub fn fresh(tid: i32, rip: u64, rsp: u64) -> Result<(), Errno> {
    let old = regs(tid)?;
    let mut buf = [0u8; XSTATE_MAX];
    let len = xstate(tid, &mut buf)?;
    let mxcsr_mask: [u8; 4] = [buf[28], buf[29], buf[30], buf[31]];
    buf[..len].fill(0);
    buf[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
    buf[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    buf[28..32].copy_from_slice(&mxcsr_mask);
    let mut features = XSTATE_LEGACY;
    let pkru = std::arch::x86_64::__cpuid_count(0xd, XFEATURE_PKRU);
    let at = pkru.ebx as usize;
    if std::arch::x86_64::__cpuid_count(0xd, 0).eax & (1 << XFEATURE_PKRU) != 0 && at + 4 <= len {
        features |= 1 << XFEATURE_PKRU;
        buf[at..at + 4].copy_from_slice(&PKRU_AT_EXEC.to_le_bytes());
    }
    buf[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&features.to_le_bytes());
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: len };
    // SAFETY: the iovec describes buf.
    unsafe { ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, (&raw mut iov).addr()) }?;
    let new = Regs { rip, rsp, cs: old.cs, ss: old.ss, eflags: 0x202, orig_rax: u64::MAX, ..Regs::default() };
    set_regs(tid, &new)
}
