//! Registers, interrupts on and off, and what each CPU has of its own.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use crate::sched::Thread;

/// What a CPU has of its own; GS leads to it in the kernel. The first fields are known to `trap.rs` by their offsets.
#[repr(C)]
pub(crate) struct CpuLocal {
    /// Its address. Offset 0.
    this: *const CpuLocal,
    /// Top of the running thread's kernel stack. Offset 8.
    pub(crate) kernel_stack: u64,
    /// The program's stack pointer, for the first instructions of a system call. Offset 16.
    scratch: u64,
    /// Its number.
    pub(crate) number: u16,
    /// The thread that runs.
    pub(crate) current: AtomicPtr<Thread>,
    /// Another thread should run.
    pub(crate) resched: AtomicBool,
    /// When the timer interrupts next, and when the running thread's tick ends: nanoseconds; `u64::MAX`: not at all.
    pub(crate) armed: AtomicU64,
    pub(crate) tick: AtomicU64,
}

impl CpuLocal {
    /// Of CPU `number`.
    pub(crate) const fn new(number: u16) -> Self {
        CpuLocal {
            this: core::ptr::null(),
            kernel_stack: 0,
            scratch: 0,
            number,
            current: AtomicPtr::new(core::ptr::null_mut()),
            resched: AtomicBool::new(false),
            armed: AtomicU64::new(u64::MAX),
            tick: AtomicU64::new(u64::MAX),
        }
    }
}

/// Makes `local` what [`here`] gives on this CPU.
///
/// # Safety
/// 1. `local` lives for ever and is this CPU's alone.
pub(super) unsafe fn set_local(local: *mut CpuLocal) {
    // SAFETY: ours alone by 1.
    unsafe { (*local).this = local };
    // SAFETY: GS and the value it is swapped with; programs begin with zero.
    unsafe {
        wrmsr(0xc000_0101, local as u64);
        wrmsr(0xc000_0102, 0);
    }
}

/// This CPU's structure. The thread may be on another CPU by the time it is used, unless interrupts are off.
#[inline]
pub(crate) fn here() -> &'static CpuLocal {
    let p: *const CpuLocal;
    // SAFETY: in the kernel GS leads to a structure that lives for ever, whose first word is its address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) p, options(nostack, readonly, preserves_flags));
        &*p
    }
}

/// Sets the top of the stack that traps from programs use on this CPU.
///
/// => interrupts are off.
pub(crate) fn set_kernel_stack(top: u64) {
    // SAFETY: the word at offset 8 is this CPU's alone, and interrupts are off.
    unsafe { asm!("mov gs:[8], {}", in(reg) top, options(nostack, preserves_flags)) }
    super::desc::set_trap_stack(top);
}

/// Switches interrupts off; gives whether they were on.
#[inline]
pub(crate) fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: reads the flags and clears IF.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) }
    flags & 0x200 != 0
}
/// Switches them on if they were.
#[inline]
pub(crate) fn interrupts_restore(on: bool) {
    if on {
        // SAFETY: who switched them off is ready for them.
        unsafe { asm!("sti", options(nomem, nostack)) }
    }
}

/// Sleeps until an interrupt has come. => interrupts are off, and are so again on return.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: STI takes effect after HLT began, so no interrupt is missed.
    unsafe { asm!("sti", "hlt", "cli", options(nomem, nostack)) }
}

/// One turn of a loop that waits for another CPU.
pub(crate) fn relax() {
    core::hint::spin_loop();
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Ends QEMU: its status is `code << 1 | 1`.
pub(crate) fn exit(code: u32) -> ! {
    // SAFETY: QEMU's isa-debug-exit; without it nothing happens.
    unsafe { asm!("out dx, eax", in("dx") 0xf4u16, in("eax") code, options(nomem, nostack)) }
    halt()
}

/// # Safety
/// 1. The register exists and the value is one that the kernel works with.
pub(super) unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: by 1.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// 1. The register exists.
pub(super) unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by 1.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// A port's byte.
pub(super) fn inb(port: u16) -> u8 {
    let v;
    // SAFETY: the ports of this file's users are QEMU's, and reading them changes no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") v, options(nomem, nostack, preserves_flags)) }
    v
}
/// Writes a port's byte.
pub(super) fn outb(port: u16, v: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") v, options(nomem, nostack, preserves_flags)) }
}

/// CPUID.
pub(super) fn cpuid(leaf: u32, sub: u32) -> core::arch::x86_64::CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, sub)
}

/// Sets the base of FS, which is a program's.
pub(crate) fn set_fs(base: u64) {
    // SAFETY: the kernel uses no FS; programs' addresses are canonical (checked by who sets them).
    unsafe { wrmsr(0xc000_0100, base) }
}

/// Asks CPUs to look at their mailboxes.
pub(crate) fn send_shootdown(cpus: u64) {
    super::apic::interrupt(cpus, super::apic::SHOOTDOWN);
}
/// Asks CPUs to look who should run.
pub(crate) fn send_reschedule(cpus: u64) {
    super::apic::interrupt(cpus, super::apic::RESCHEDULE);
}

/// Prints the return addresses on the stack, as far as frame pointers lead.
pub(crate) fn back_trace() {
    let mut frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) }
    for _ in 0..32 {
        if frame < crate::arch::DIRECT || !frame.is_multiple_of(8) {
            break;
        }
        // SAFETY: a kernel address that was a frame pointer; kernel stacks are mapped.
        let (next, at) = unsafe { ((frame as *const u64).read(), (frame as *const u64).add(1).read()) };
        crate::say!("  at {at:#x}");
        if next <= frame {
            break;
        }
        frame = next;
    }
}

/// The names of CPUID's flags that /proc/cpuinfo tells: leaf, register (0: a, 1: b, 2: c, 3: d), bit.
const FLAGS: &[(u32, usize, u32, &str)] = &[
    (1, 3, 0, "fpu"),
    (1, 3, 4, "tsc"),
    (1, 3, 6, "pae"),
    (1, 3, 8, "cx8"),
    (1, 3, 9, "apic"),
    (1, 3, 15, "cmov"),
    (1, 3, 23, "mmx"),
    (1, 3, 24, "fxsr"),
    (1, 3, 25, "sse"),
    (1, 3, 26, "sse2"),
    (0x8000_0001, 3, 11, "syscall"),
    (0x8000_0001, 3, 20, "nx"),
    (0x8000_0001, 3, 29, "lm"),
    (1, 2, 0, "pni"),
    (1, 2, 9, "ssse3"),
    (1, 2, 12, "fma"),
    (1, 2, 13, "cx16"),
    (1, 2, 19, "sse4_1"),
    (1, 2, 20, "sse4_2"),
    (1, 2, 23, "popcnt"),
    (1, 2, 25, "aes"),
    (1, 2, 26, "xsave"),
    (1, 2, 28, "avx"),
    (1, 2, 30, "rdrand"),
    (7, 1, 3, "bmi1"),
    (7, 1, 5, "avx2"),
    (7, 1, 8, "bmi2"),
    (7, 1, 9, "erms"),
    (7, 1, 16, "avx512f"),
];

/// The text of /proc/cpuinfo.
pub(crate) fn cpu_info(cpus: u32) -> alloc::string::String {
    use core::fmt::Write;
    let registers = |leaf: u32| {
        let r = cpuid(leaf, 0);
        [r.eax, r.ebx, r.ecx, r.edx]
    };
    let words = |list: &[u32]| -> alloc::string::String {
        let bytes: alloc::vec::Vec<u8> = list.iter().flat_map(|w| w.to_le_bytes()).collect();
        let text = alloc::string::String::from_utf8_lossy(&bytes).into_owned();
        text.trim_matches(['\0', ' ']).into()
    };
    let [most, b, c, d] = registers(0);
    let vendor = words(&[b, d, c]);
    let name: alloc::vec::Vec<u32> = (0x8000_0002..=0x8000_0004).flat_map(registers).collect();
    let name = words(&name);
    let version = registers(1)[0];
    let (family, model) = (version >> 8 & 0xf, version >> 4 & 0xf);
    let family = if family == 0xf { family + (version >> 20 & 0xff) } else { family };
    let model = if family >= 6 { model | version >> 12 & 0xf0 } else { model };
    let mhz = super::timer::ticks_in_10_ms() / 10_000;
    let mut t = alloc::string::String::new();
    for cpu in 0..cpus {
        let _ = writeln!(t, "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}");
        let _ = writeln!(t, "model\t\t: {model}\nmodel name\t: {name}\nstepping\t: {}", version & 0xf);
        let _ =
            writeln!(t, "cpu MHz\t\t: {mhz}.000\nphysical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}");
        let _ = write!(t, "cpu cores\t: {cpus}\nfpu\t\t: yes\nflags\t\t:");
        for (leaf, register, bit, flag) in FLAGS {
            let known = *leaf >= 0x8000_0000 || *leaf <= most;
            if known && registers(*leaf)[*register] & 1 << bit != 0 {
                let _ = write!(t, " {flag}");
            }
        }
        let _ = writeln!(t, "\nclflush size\t: 64\ncache_alignment\t: 64\n");
    }
    t
}
