//! Registers that a child of fork starts with, as the frame of a signal that was
//! never delivered: `rt_sigreturn` then sets general registers, floating-point state,
//! signal mask and alternate stack at once.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use super::super::keeper::ThreadState;
use super::super::ptrace::{Rseq, XSTATE_MAX};

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;
/// Where the software-reserved bytes of the FXSAVE area are, and their magic.
const SW_BYTES: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
/// Behind the state.
const MAGIC2: u32 = 0x4650_5845;
/// Legacy area and header: the least XSAVE state.
const XSAVE_MIN: usize = 576;
const XSTATE_BV: usize = 512;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;

#[repr(C, align(64))]
struct Xstate([u8; XSTATE_MAX + 64]);

/// `struct ucontext` with what belongs to it.
#[repr(C)]
struct Context {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags.
    gregs: [u64; 18],
    /// cs, gs, fs, ss, 16 bits each.
    segments: u64,
    /// err, trapno, oldmask, cr2.
    fault: [u64; 4],
    fpstate: u64,
    reserved: [u64; 8],
    mask: u64,
}

/// Where a thread goes on.
pub(super) struct Frame {
    context: Box<Context>,
    fs_base: u64,
    gs_base: u64,
    rseq: Rseq,
    /// `context.fpstate` points into it.
    _xstate: Box<Xstate>,
}

impl Frame {
    /// A frame for `state`, with `altstack` (a `stack_t`).
    pub(super) fn new(state: &ThreadState, altstack: [u64; 3]) -> Self {
        let r = &state.regs;
        let mut xstate = Box::new(Xstate([0; XSTATE_MAX + 64]));
        let has_xsave = put_xstate(&mut xstate.0, &state.xstate);
        let context = Box::new(Context {
            flags: UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS | if has_xsave { UC_FP_XSTATE } else { 0 },
            link: 0,
            stack: altstack,
            gregs: [
                r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
                r.rax, r.rcx, r.rsp, r.rip, r.eflags,
            ],
            segments: USER_CS | USER_DS << 48,
            fault: [0; 4],
            fpstate: (&raw const *xstate) as u64,
            reserved: [0; 8],
            mask: state.mask,
        });
        Self { context, fs_base: r.fs_base, gs_base: r.gs_base, rseq: state.rseq, _xstate: xstate }
    }

    /// Goes there.
    ///
    /// # Safety
    /// 1. This thread runs nothing of Rust's ever again.
    /// 2. The frame's state is one that a thread had in this address space.
    /// 3. No rseq area is registered for this thread.
    pub(super) unsafe fn resume(&self) -> ! {
        // A registration that fails leaves the program without rseq, which every
        // program must be able to do without.
        // SAFETY: by conditions 1 and 2: memory of the program is named, not touched;
        // rsp becomes the frame (whose first word, the return address, rt_sigreturn
        // has gone past), and nothing is on the stack that is needed again.
        unsafe {
            asm!(
                "test rdi, rdi",
                "jz 2f",
                "mov eax, {rseq}",
                "syscall",
                "2:",
                "mov edi, {set_gs}",
                "mov rsi, r14",
                "mov eax, {arch_prctl}",
                "syscall",
                "mov edi, {set_fs}",
                "mov rsi, r13",
                "mov eax, {arch_prctl}",
                "syscall",
                "mov rsp, r12",
                "mov eax, {rt_sigreturn}",
                "syscall",
                "ud2",
                in("rdi") self.rseq.ptr,
                in("rsi") u64::from(self.rseq.size),
                in("rdx") u64::from(self.rseq.flags),
                in("r10") u64::from(self.rseq.signature),
                in("r12") (&raw const *self.context),
                in("r13") self.fs_base,
                in("r14") self.gs_base,
                rseq = const libc::SYS_rseq,
                set_gs = const ARCH_SET_GS,
                set_fs = const ARCH_SET_FS,
                arch_prctl = const libc::SYS_arch_prctl,
                rt_sigreturn = const libc::SYS_rt_sigreturn,
                options(noreturn)
            )
        }
    }
}

/// Copies `state` and marks it as the kernel marks the state in a signal frame;
/// whether it is more than the legacy area.
fn put_xstate(to: &mut [u8; XSTATE_MAX + 64], state: &[u8]) -> bool {
    let len = state.len().min(frame_size()).min(XSTATE_MAX);
    to[..len].copy_from_slice(&state[..len]);
    to[SW_BYTES..XSTATE_BV].fill(0);
    if len < XSAVE_MIN {
        return false;
    }
    let mut features = u64::from_ne_bytes(std::array::from_fn(|i| to[XSTATE_BV + i]));
    // Components beyond the frame are those the process has no permission for.
    features &= features_within(len);
    to[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&features.to_ne_bytes());
    let mut put = |at: usize, word: u32| to[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    put(SW_BYTES, MAGIC1);
    put(SW_BYTES + 4, len as u32 + 4);
    put(SW_BYTES + 8, (features | 3) as u32);
    put(SW_BYTES + 12, ((features | 3) >> 32) as u32);
    put(SW_BYTES + 16, len as u32);
    put(len, MAGIC2);
    true
}

/// Size of the extended state in this process's signal frames: that of the
/// components it has permission for (AMX must be asked for).
fn frame_size() -> usize {
    let mut permitted = 0u64;
    // SAFETY: 8 bytes are written.
    let known = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &raw mut permitted) } == 0;
    if !known || permitted == 0 {
        return __cpuid_count(0xd, 0).ebx as usize;
    }
    (2..63).filter(|i| permitted & 1 << i != 0).map(component_end).fold(XSAVE_MIN, usize::max)
}

fn component_end(component: u32) -> usize {
    let leaf = __cpuid_count(0xd, component);
    // Supervisor components (ecx bit 0) are in no user state.
    if leaf.eax == 0 || leaf.ecx & 1 != 0 { 0 } else { (leaf.eax + leaf.ebx) as usize }
}

fn features_within(len: usize) -> u64 {
    (2..63).filter(|&i| (1..=len).contains(&component_end(i))).fold(3, |set, i| set | 1 << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_has_the_kernels_layout() {
        assert_eq!(std::mem::offset_of!(Context, gregs), 40);
        assert_eq!(std::mem::offset_of!(Context, fpstate), 40 + 23 * 8);
        assert_eq!(std::mem::offset_of!(Context, mask), 40 + 256);
    }

    #[test]
    fn the_state_is_as_large_as_the_enabled_components() {
        let enabled = __cpuid_count(0xd, 0).ebx as usize;
        assert!((XSAVE_MIN..=enabled).contains(&frame_size()));
        let mut area = [0u8; XSTATE_MAX + 64];
        let mut state = vec![0u8; enabled];
        state[XSTATE_BV] = 3;
        assert!(put_xstate(&mut area, &state));
        let len = frame_size();
        assert_eq!(area[len..len + 4], MAGIC2.to_ne_bytes());
        assert_eq!(area[SW_BYTES..SW_BYTES + 4], MAGIC1.to_ne_bytes());
    }
}
