//! Leaving Rust for the program: a thread is brought into the state that `execve`
//! would have left it in, and jumps.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::load::Image;
use super::signals::{Action, sigaction};

/// Where [`fresh_exec_stub`] goes and what it undoes first.
#[repr(C)]
#[derive(Debug, Default)]
pub struct StartArgs {
    /// Where to jump.
    pub entry: u64,
    /// The stack pointer then.
    pub sp: u64,
    /// This thread's registered rseq area; 0: none.
    pub rseq_ptr: u64,
    /// Its size.
    pub rseq_len: u32,
    /// Its signature.
    pub rseq_sig: u32,
    /// 1: install `mask`.
    pub set_mask: u64,
    /// The signal mask the program starts with.
    pub mask: u64,
    /// The thread's name, NUL-terminated; empty: unchanged.
    pub comm: [u8; 16],
    /// Becomes 1 when the stub needs this structure no more.
    pub done: u64,
}

impl StartArgs {
    /// Arguments for entering `image` with the signal mask `mask`, on this thread.
    #[must_use]
    pub fn new(image: &Image, mask: u64) -> StartArgs {
        let mut comm = [0; 16];
        let len = image.comm.len().min(15);
        comm[..len].copy_from_slice(&image.comm[..len]);
        StartArgs { entry: image.entry, sp: image.sp, set_mask: 1, mask, comm, ..StartArgs::default() }
    }
}

/// An XSAVE area with no component in use: restoring it gives every component its
/// initial state. MXCSR is read from it regardless.
#[repr(C, align(64))]
struct InitialState([u32; 144]);

static INITIAL_STATE: InitialState = {
    let mut area = [0; 144];
    area[0] = 0x037f; // x87 control word, for FXRSTOR
    area[6] = 0x1f80; // MXCSR
    InitialState(area)
};

/// `stack_t { ss_sp: 0, ss_flags: SS_DISABLE, ss_size: 0 }`.
static NO_ALTSTACK: [u64; 3] = [0, libc::SS_DISABLE as u64, 0];

/// Undoes what this process's runtime set up on the thread (alternate stack, rseq,
/// robust list, tid word, thread pointer, floating-point state), and starts the
/// program. Uses no stack before the program's own.
///
/// # Safety
/// 1. `args` is readable and writable until `done` is 1.
/// 2. `entry` and `sp` are a program that was loaded; `sp - 8` is writable.
/// 3. Nothing of this thread's Rust state is used ever again.
/// 4. No signal has a handler.
#[unsafe(naked)]
pub unsafe extern "C" fn fresh_exec_stub(args: *mut StartArgs) -> ! {
    std::arch::naked_asm!(
        "cld",
        "mov r12, rdi",
        // sigaltstack(SS_DISABLE)
        "lea rdi, [rip + {no_altstack}]",
        "xor esi, esi",
        "mov eax, {sys_sigaltstack}",
        "syscall",
        // rseq(area, len, RSEQ_FLAG_UNREGISTER, sig)
        "mov rdi, [r12 + {rseq_ptr}]",
        "test rdi, rdi",
        "jz 2f",
        "mov esi, [r12 + {rseq_len}]",
        "mov edx, 1",
        "mov r10d, [r12 + {rseq_sig}]",
        "mov eax, {sys_rseq}",
        "syscall",
        "2:",
        "xor edi, edi",
        "mov esi, 24",
        "mov eax, {sys_set_robust_list}",
        "syscall",
        "xor edi, edi",
        "mov eax, {sys_set_tid_address}",
        "syscall",
        // prctl(PR_SET_NAME, comm)
        "cmp byte ptr [r12 + {comm}], 0",
        "je 3f",
        "mov edi, {pr_set_name}",
        "lea rsi, [r12 + {comm}]",
        "mov eax, {sys_prctl}",
        "syscall",
        "3:",
        // arch_prctl(ARCH_SET_GS, 0), arch_prctl(ARCH_SET_FS, 0)
        "mov edi, 0x1001",
        "xor esi, esi",
        "mov eax, {sys_arch_prctl}",
        "syscall",
        "mov edi, 0x1002",
        "xor esi, esi",
        "mov eax, {sys_arch_prctl}",
        "syscall",
        // Initial state for x87, SSE, AVX and AVX-512; not for the protection keys,
        // whose initial value the kernel chose at our own exec.
        "mov eax, 1",
        "xor ecx, ecx",
        "cpuid",
        "bt ecx, 27",
        "jc 4f",
        "fxrstor [rip + {initial_state}]",
        "jmp 5f",
        "4:",
        "mov eax, 0xe7",
        "xor edx, edx",
        "xrstor [rip + {initial_state}]",
        "5:",
        "mov rsp, [r12 + {sp}]",
        "push qword ptr [r12 + {entry}]",
        // rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8)
        "cmp qword ptr [r12 + {set_mask}], 0",
        "je 6f",
        "mov edi, 2",
        "lea rsi, [r12 + {mask}]",
        "xor edx, edx",
        "mov r10d, 8",
        "mov eax, {sys_rt_sigprocmask}",
        "syscall",
        "6:",
        "mov qword ptr [r12 + {done}], 1",
        "push 2",
        "popfq",
        "mov eax, 0",
        "mov ebx, 0",
        "mov ecx, 0",
        "mov edx, 0",
        "mov esi, 0",
        "mov edi, 0",
        "mov ebp, 0",
        "mov r8d, 0",
        "mov r9d, 0",
        "mov r10d, 0",
        "mov r11d, 0",
        "mov r12d, 0",
        "mov r13d, 0",
        "mov r14d, 0",
        "mov r15d, 0",
        "ret",
        no_altstack = sym NO_ALTSTACK,
        initial_state = sym INITIAL_STATE,
        entry = const std::mem::offset_of!(StartArgs, entry),
        sp = const std::mem::offset_of!(StartArgs, sp),
        rseq_ptr = const std::mem::offset_of!(StartArgs, rseq_ptr),
        rseq_len = const std::mem::offset_of!(StartArgs, rseq_len),
        rseq_sig = const std::mem::offset_of!(StartArgs, rseq_sig),
        set_mask = const std::mem::offset_of!(StartArgs, set_mask),
        mask = const std::mem::offset_of!(StartArgs, mask),
        comm = const std::mem::offset_of!(StartArgs, comm),
        done = const std::mem::offset_of!(StartArgs, done),
        pr_set_name = const libc::PR_SET_NAME,
        sys_sigaltstack = const libc::SYS_sigaltstack,
        sys_rseq = const libc::SYS_rseq,
        sys_set_robust_list = const libc::SYS_set_robust_list,
        sys_set_tid_address = const libc::SYS_set_tid_address,
        sys_prctl = const libc::SYS_prctl,
        sys_arch_prctl = const libc::SYS_arch_prctl,
        sys_rt_sigprocmask = const libc::SYS_rt_sigprocmask,
    )
}

/// Sets and gets a disposition; `new` catches nothing.
fn action(signal: i32, new: Option<&Action>) -> Action {
    // SAFETY: handlers are only ever set to SIG_DFL and SIG_IGN.
    unsafe { sigaction(signal, new) }.unwrap_or_default()
}

/// Does to the dispositions what `execve` does: what was caught gets its default
/// action, what was ignored stays ignored. Dispositions belong to the process, so
/// any thread may call this.
pub fn reset_dispositions() {
    for signal in 1..=64 {
        let ignored = action(signal, None).handler == libc::SIG_IGN;
        let handler = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        action(signal, Some(&Action { handler, ..Action::default() }));
    }
}

/// The signals that were ignored when this process was started: bit 0 is signal 1.
static IGNORED: AtomicU64 = AtomicU64::new(0);
const RECORDED: u32 = 1 << 31;
/// Bits 0 to 2: this standard descriptor was closed; [`RECORDED`]: both words are true.
static CLOSED: AtomicU32 = AtomicU32::new(0);

/// Runs before `main`, and so before Rust's runtime ignores SIGPIPE, catches SIGSEGV
/// and SIGBUS, and opens `/dev/null` for closed standard descriptors.
extern "C" fn record_initial_state() {
    let mut ignored = 0;
    for signal in 1..=64 {
        if action(signal, None).handler == libc::SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);
    let mut closed = RECORDED;
    for fd in 0..3 {
        // SAFETY: F_GETFD only asks.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            closed |= 1 << fd;
        }
    }
    CLOSED.store(closed, Ordering::Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static RECORD_INITIAL_STATE: extern "C" fn() = record_initial_state;

/// Gives every signal the disposition that `machvm` was started with.
pub fn restore_dispositions() {
    let recorded = CLOSED.load(Ordering::Relaxed) & RECORDED != 0;
    let ignored = IGNORED.load(Ordering::Relaxed);
    for signal in 1..=64 {
        let handler = match recorded {
            true if ignored & (1 << (signal - 1)) != 0 => libc::SIG_IGN,
            true => libc::SIG_DFL,
            // Not recorded: only SIGPIPE is known to be the runtime's doing.
            false if signal != libc::SIGPIPE && action(signal, None).handler == libc::SIG_IGN => {
                libc::SIG_IGN
            }
            false => libc::SIG_DFL,
        };
        action(signal, Some(&Action { handler, ..Action::default() }));
    }
}

/// Whether the standard descriptor `fd` was closed when `machvm` was started.
#[must_use]
pub fn was_closed(fd: i32) -> bool {
    (0..3).contains(&fd) && CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}

/// Blocks every signal on this thread; returns the mask before.
pub fn block_signals() -> u64 {
    let all = u64::MAX;
    let mut old = 0_u64;
    // SAFETY: both masks have the 8 bytes the call is told.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, &raw mut old, 8);
    }
    old
}

/// Ends this process by `signal`, as if a thread of the program had died of it.
///
/// => on a thread of the VM; no thread of the program is left
pub fn die_by(signal: i32) -> ! {
    action(signal, Some(&Action::default()));
    let mask = 1_u64 << (signal - 1);
    // SAFETY: the mask has the 8 bytes the call is told; the rest are numbers.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_UNBLOCK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            8,
        );
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
        libc::_exit(128 + signal)
    }
}

/// The rseq area the C library registered for this thread: address, length,
/// signature.
fn own_rseq() -> Option<(u64, u32, u32)> {
    const SIGNATURE: u32 = 0x5305_3053;
    // SAFETY: the names are C strings; the symbols, if present, are a ptrdiff_t and an
    // unsigned int by the C library's interface.
    let (offset, size) = unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if offset.is_null() || size.is_null() {
            return None;
        }
        (*offset, *size)
    };
    if size == 0 {
        return None;
    }
    let thread_pointer: u64;
    // SAFETY: reads the word the ABI puts at fs:0, which holds its own address.
    unsafe {
        std::arch::asm!("mov {}, fs:[0]", out(reg) thread_pointer, options(nostack, pure, readonly));
    }
    Some((thread_pointer.wrapping_add_signed(offset as i64), size.max(32), SIGNATURE))
}

/// Unregisters this thread's rseq area, so that another can be registered.
pub fn unregister_rseq() {
    if let Some((ptr, len, signature)) = own_rseq() {
        // SAFETY: unregistering writes nothing but the area's own fields.
        unsafe { libc::syscall(libc::SYS_rseq, ptr, len, 1, signature) };
    }
}

/// Enters the program on this thread.
///
/// # Safety
/// `args` describes a program that was loaded. Nothing of this thread's Rust state is
/// used ever again.
pub unsafe fn enter(args: &'static mut StartArgs) -> ! {
    unregister_rseq();
    // SAFETY: 1: `args` lives for ever; 2 and 3: by contract; 4: the caller restored
    // the dispositions.
    unsafe { fresh_exec_stub(args) }
}
