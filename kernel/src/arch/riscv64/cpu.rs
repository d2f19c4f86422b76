//! Registers, interrupts on and off, and what the hart has of its own.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use super::direct;
use crate::sched::Thread;

/// What a CPU has of its own; tp leads to it in the kernel. The first fields are known to `trap.rs` by their offsets.
#[repr(C)]
pub(crate) struct CpuLocal {
    /// Top of the running thread's kernel stack.
    pub(super) kernel_stack: u64,
    /// For the first instructions of a trap: the stack pointer, a register.
    pub(super) scratch: [u64; 2],
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

struct Cell(UnsafeCell<CpuLocal>);
// SAFETY: there is one hart; what others would touch is atomic.
unsafe impl Sync for Cell {}

static LOCAL: Cell = Cell(UnsafeCell::new(CpuLocal {
    kernel_stack: 0,
    scratch: [0; 2],
    number: 0,
    current: AtomicPtr::new(core::ptr::null_mut()),
    resched: AtomicBool::new(false),
    armed: AtomicU64::new(u64::MAX),
    tick: AtomicU64::new(u64::MAX),
}));

/// sstatus: SIE; SPIE; SPP; FS all set: dirty, so that floating point always works; SUM.
pub(super) const SIE: u64 = 1 << 1;
pub(super) const SPIE: u64 = 1 << 5;
pub(super) const SPP: u64 = 1 << 8;
pub(super) const FS: u64 = 3 << 13;
pub(super) const SUM: u64 = 1 << 18;

/// Sets this CPU up: its own structure, traps, interrupts.
///
/// => once, interrupts off.
pub(crate) fn init(number: u16) {
    assert!(number == 0, "this kernel runs on one hart");
    // SAFETY: tp is the kernel's; in the kernel sscratch is zero; programs may read the clock and count instructions.
    unsafe {
        asm!("mv tp, {}", in(reg) LOCAL.0.get(), options(nomem, nostack));
        asm!("csrw sscratch, zero", "csrw stvec, {}", in(reg) super::trap::entry(), options(nostack));
        asm!("csrs sstatus, {}", in(reg) FS, options(nostack));
        asm!("csrc sstatus, {}", in(reg) SUM, options(nostack));
        asm!("csrw scounteren, {}", in(reg) 7, options(nostack));
        // Timer and devices.
        asm!("csrw sie, {}", in(reg) 1 << 5 | 1 << 9, options(nostack));
    }
}

/// This CPU's structure.
#[inline]
pub(crate) fn here() -> &'static CpuLocal {
    // SAFETY: lives for ever; fields that change under shared references are atomic, the others are touched by `trap.rs`
    // and `set_kernel_stack` alone.
    unsafe { &*LOCAL.0.get() }
}

/// Sets the top of the stack that traps from programs use on this CPU.
///
/// => interrupts are off.
pub(crate) fn set_kernel_stack(top: u64) {
    // SAFETY: this hart's alone, and interrupts are off.
    unsafe { (&raw mut (*LOCAL.0.get()).kernel_stack).write_volatile(top) }
}

/// Switches interrupts off; gives whether they were on.
#[inline]
pub(crate) fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: reads sstatus and clears SIE.
    unsafe { asm!("csrrci {}, sstatus, 2", out(reg) flags, options(nostack)) }
    flags & SIE != 0
}
/// Switches them on if they were.
#[inline]
pub(crate) fn interrupts_restore(on: bool) {
    if on {
        // SAFETY: who switched them off is ready for them.
        unsafe { asm!("csrsi sstatus, 2", options(nostack)) }
    }
}

/// Sleeps until an interrupt has come. => interrupts are off, and are so again on return.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: WFI goes on for a pending interrupt that is not let in, so none is missed.
    unsafe { asm!("wfi", "csrsi sstatus, 2", "nop", "csrci sstatus, 2", options(nostack)) }
}

/// One turn of a loop that waits for another CPU.
pub(crate) fn relax() {
    core::hint::spin_loop();
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("csrci sstatus, 2", "wfi", options(nomem, nostack)) }
    }
}

/// Ends QEMU with this status: its finisher for tests.
pub(crate) fn exit(code: u32) -> ! {
    let word = if code == 0 { 0x5555 } else { 0x3333 | (code & 0xffff) << 16 };
    // SAFETY: the register of QEMU's virt machine, in the direct map.
    unsafe { direct(0x10_0000).cast::<u32>().write_volatile(word) }
    halt()
}

/// The base of FS is x86-64's; here the thread pointer is in the frame.
pub(crate) fn set_fs(_base: u64) {}

/// There are no other CPUs to ask.
pub(crate) fn send_shootdown(_cpus: u64) {}
/// As above.
pub(crate) fn send_reschedule(_cpus: u64) {}
/// This kernel runs on one hart.
pub(crate) fn start_cpus(_tables: u64) {}

unsafe extern "C" {
    #[link_name = "__text_start"]
    safe static TEXT_START: u8;
    #[link_name = "__text_end"]
    safe static TEXT_END: u8;
}

/// Prints what looks like return addresses among `words` words of a stack: some may be left from calls that are over.
///
/// # Safety
/// 1. They are mapped.
pub(super) unsafe fn trace(from: u64, words: usize) {
    let text = &raw const TEXT_START as u64..&raw const TEXT_END as u64;
    let mut said = 0;
    for i in 0..words {
        // SAFETY: by 1.
        let word = unsafe { (from as *const u64).add(i).read_volatile() };
        if text.contains(&word) && said < 32 {
            crate::say!("  at {word:#x}");
            said += 1;
        }
    }
}

/// Prints what looks like return addresses on this page of the stack.
pub(crate) fn back_trace() {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) }
    let end = (sp | 0xfff) + 1;
    // SAFETY: the page that the stack pointer is on.
    unsafe { trace(sp & !7, ((end - (sp & !7)) / 8) as usize) }
}

/// The text of /proc/cpuinfo.
pub(crate) fn cpu_info(cpus: u32) -> alloc::string::String {
    use core::fmt::Write;
    let mut t = alloc::string::String::new();
    for cpu in 0..cpus {
        let _ = writeln!(t, "processor\t: {cpu}\nhart\t\t: {cpu}\nisa\t\t: rv64imafdc\nmmu\t\t: sv48\n");
    }
    t
}
