//! What machines with one CPU and no PCI bus have in common.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use crate::sched::Thread;

/// What a CPU has of its own. The first fields are known to `trap.rs` by their offsets.
#[repr(C)]
pub(crate) struct CpuLocal {
    /// Top of the running thread's kernel stack.
    pub(super) kernel_stack: u64,
    /// For the first instructions of a trap.
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
// SAFETY: there is one CPU; what others would touch is atomic.
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

/// The address of this CPU's structure, for a register that leads to it.
pub(super) fn local() -> u64 {
    LOCAL.0.get() as u64
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
    // SAFETY: this CPU's alone, and interrupts are off.
    unsafe { (&raw mut (*LOCAL.0.get()).kernel_stack).write_volatile(top) }
}

/// One turn of a loop that waits for another CPU.
pub(crate) fn relax() {
    core::hint::spin_loop();
}

/// There are no other CPUs to ask.
pub(crate) fn send_shootdown(_cpus: u64) {}
/// As above.
pub(crate) fn send_reschedule(_cpus: u64) {}
/// This kernel runs on one CPU.
pub(crate) fn start_cpus(_tables: u64) {}

/// The base of FS is x86-64's; here the thread pointer is in the frame.
pub(crate) fn set_fs(_base: u64) {}

/// The PCI bus: these ports do not look for devices. All ones: nobody is there.
pub(crate) fn pci_read(_function: u32, _offset: u8) -> u32 {
    u32::MAX
}
/// Nobody is there.
pub(crate) fn pci_write(_function: u32, _offset: u8, _v: u32) {}

/// What a device would write to interrupt; nothing happens.
pub(crate) fn interrupt_message() -> (u64, u32) {
    (0, 0)
}

/// A page table that is there from the start.
#[repr(C, align(4096))]
pub(super) struct Table(pub(super) [AtomicU64; 512]);

impl Table {
    /// With nothing in it.
    pub(super) const fn empty() -> Self {
        Table([const { AtomicU64::new(0) }; 512])
    }
}

/// Floating-point instructions do not fault on these machines.
pub(crate) fn float_code() -> i32 {
    0
}

/// Clears a frame. => the caller owns it.
pub(crate) fn zero_page(f: machvm_hal::Pfn) {
    // SAFETY: the caller owns the frame; it is in the direct map.
    unsafe { super::direct(f.byte()).cast::<u64>().write_bytes(0, machvm_hal::PAGE_SIZE as usize / 8) }
}

/// Copies a frame. => the caller owns `to`.
pub(crate) fn copy_page(from: machvm_hal::Pfn, to: machvm_hal::Pfn) {
    // SAFETY: two frames in the direct map; a program that writes the first meanwhile gives old or new bytes.
    unsafe {
        super::direct(to.byte())
            .cast::<u64>()
            .copy_from_nonoverlapping(super::direct(from.byte()).cast(), machvm_hal::PAGE_SIZE as usize / 8);
    }
}
