//! riscv64 under QEMU's virt machine: OpenSBI, one hart, Sv48, ns16550, PLIC.

mod boot;
mod cpu;
mod devices;
mod fpu;
mod pages;
mod paging;
mod sbi;
mod serial;
mod sigframe;
mod switch;
mod timer;
mod trap;
mod usercopy;

use super::direct;

pub(crate) use boot::boot_info;
pub(crate) use cpu::{
    CpuLocal, back_trace, cpu_info, exit, halt, here, init as init_cpu, interrupts_off, interrupts_restore,
    relax, send_reschedule, send_shootdown, set_fs, set_kernel_stack, start_cpus, wait_for_interrupt,
};
pub(crate) use devices::{interrupt_message, pci_read, pci_write};
pub(crate) use fpu::{FpuState, float_code};
pub(crate) use pages::{copy_page, hwcap, sync_icache, use_kernel_root, zero_page};
pub(crate) use paging::{
    Format, NativeTlb, extend_direct_map, hw_bits, kernel_entries, make_tlb, map_kernel_page,
};
pub(crate) use serial::{init_input, put, take};
pub(crate) use sigframe::{is_on, pop_signal, push_signal, signal_frame_bytes};
pub(crate) use switch::{Context, switch};
pub(crate) use timer::{
    HZ, entropy, epoch_ns, init as init_timer, now_ns, set_epoch_ns, set_timer, ticks, ticks_to_ns,
};
pub(crate) use trap::{Frame, RESTART_SYSCALL, return_to_user};
pub(crate) use usercopy::{compare_exchange_user, copy_from_user, copy_to_user, fix_up, load, store};

/// Where physical memory is mapped.
pub(crate) const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Kernel addresses that are mapped page by page: stacks, heap, slabs.
pub(crate) const VSPACE: u64 = 0xffff_8080_0000_0000;
/// Kernel addresses that the pmap may hand out.
pub(crate) const PMAP_SPACE: u64 = 0xffff_c000_0000_0000;
/// Where the kernel is linked, above where it is loaded.
pub(crate) const KVA: u64 = 0xffff_ffff_0000_0000;
/// The first address behind what programs may use.
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;
/// EM_RISCV.
pub(crate) const ELF_MACHINE: u16 = 243;
/// What uname(2) and AT_PLATFORM call the machine.
pub(crate) const MACHINE: &str = "riscv64";
/// Numbers and structures of calls are the generic ones.
pub(crate) const GENERIC_CALLS: bool = true;
/// The kernel says where signal handlers return to.
pub(crate) const HAS_RESTORER: bool = false;
/// Instructions that end a signal handler: `li a7, 139; ecall`.
pub(crate) const SIGNAL_RETURN: [u32; 2] = [0x08b0_0893, 0x0000_0073];
/// The smallest alternate stack.
pub(crate) const MINSIGSTKSZ: u64 = 2048;
pub(crate) const O_DIRECT: u32 = 0o40_000;
pub(crate) const O_LARGEFILE: u32 = 0o100_000;
pub(crate) const O_DIRECTORY: u32 = 0o200_000;
pub(crate) const O_NOFOLLOW: u32 = 0o400_000;
