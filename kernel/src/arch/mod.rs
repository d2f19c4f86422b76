//! The machine. Everything above is the same for every architecture.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(not(target_arch = "x86_64"))]
mod clock;
#[cfg(not(target_arch = "x86_64"))]
mod fdt;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(not(target_arch = "x86_64"))]
mod single;
mod stack;
mod tables;
mod usercopy;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as machine;
#[cfg(target_arch = "riscv64")]
use riscv64 as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use clock::{HZ, entropy, epoch_ns, now_ns, set_epoch_ns, set_timer, ticks_to_ns};
pub(crate) use machine::boot::boot_info;
pub(crate) use machine::cpu::{
    back_trace, cpu_info, exit, halt, interrupts_off, interrupts_restore, wait_for_interrupt,
};
pub(crate) use machine::fpu::FpuState;
pub(crate) use machine::pages::{hwcap, sync_icache, use_kernel_root};
pub(crate) use machine::paging::{
    Format, NativeTlb, extend_direct_map, hw_bits, kernel_entries, make_tlb, map_kernel_page,
};
pub(crate) use machine::serial::{init_input, put, take};
pub(crate) use machine::sigframe::{pop_signal, push_signal, signal_frame_bytes};
pub(crate) use machine::switch::{Context, switch};
pub(crate) use machine::timer::{init as init_timer, ticks};
pub(crate) use machine::trap::{Frame, RESTART_SYSCALL, return_to_user};
// And what is a machine's own: numbers, and what not all have.
pub(crate) use machine::*;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use single::{
    CpuLocal, copy_page, float_code, here, interrupt_message, pci_read, pci_write, relax, send_reschedule,
    send_shootdown, set_fs, set_kernel_stack, start_cpus, zero_page,
};
pub(crate) use stack::is_on;
pub(crate) use usercopy::{compare_exchange_user, copy_from_user, copy_to_user, fix_up, load, store};

/// Where physical memory is mapped.
pub(crate) const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Kernel addresses that are mapped page by page: stacks, heap, slabs.
pub(crate) const VSPACE: u64 = 0xffff_8080_0000_0000;
/// Kernel addresses that the pmap may hand out.
pub(crate) const PMAP_SPACE: u64 = 0xffff_c000_0000_0000;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) start: u64,
    /// The byte behind the last.
    pub(crate) end: u64,
}

/// What the machine has, as the loader tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootInfo {
    /// Memory that may be used; `ranges` of them.
    pub(crate) memory: [Span; 16],
    /// How many.
    pub(crate) ranges: usize,
    /// The initial file system.
    pub(crate) initrd: Option<Span>,
    /// The command line.
    pub(crate) command_line: &'static str,
    /// Where the firmware's description of the machine is, for [`start_cpus`]; 0: the loader did not say.
    pub(crate) tables: u64,
}

/// A physical address as the kernel sees it.
pub(crate) fn direct(physical: u64) -> *mut u8 {
    (DIRECT + physical) as *mut u8
}
