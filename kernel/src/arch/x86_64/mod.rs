//! x86-64 under QEMU's q35: PVH, one serial line, local APIC.

mod apic;
pub(super) mod boot;
pub(super) mod cpu;
mod desc;
pub(super) mod fpu;
pub(super) mod pages;
pub(super) mod paging;
mod pci;
pub(super) mod serial;
pub(super) mod sigframe;
mod smp;
pub(super) mod switch;
pub(super) mod timer;
pub(super) mod trap;
pub(super) mod usercopy;

pub(crate) use cpu::{CpuLocal, here, relax, send_reschedule, send_shootdown, set_fs, set_kernel_stack};
pub(crate) use desc::init as init_cpu;
pub(crate) use fpu::float_code;
pub(crate) use pages::{copy_page, zero_page};
pub(crate) use pci::{interrupt_message, pci_read, pci_write};
pub(crate) use smp::start_cpus;
pub(crate) use timer::{HZ, entropy, epoch_ns, now_ns, set_epoch_ns, set_timer, ticks_to_ns};

/// Where the kernel is linked, above where it is loaded.
pub(crate) const KVA: u64 = 0xffff_ffff_8000_0000;
/// The first address behind what programs may use.
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;
/// EM_X86_64.
pub(crate) const ELF_MACHINE: u16 = 62;
/// What uname(2) and AT_PLATFORM call the machine.
pub(crate) const MACHINE: &str = "x86_64";
/// Numbers and structures of calls are x86-64's own.
pub(crate) const GENERIC_CALLS: bool = false;
/// Programs say where signal handlers return to.
pub(crate) const HAS_RESTORER: bool = true;
/// Instructions that end a signal handler: none are needed.
pub(crate) const SIGNAL_RETURN: [u32; 0] = [];
/// SIGILL: ILL_ILLOPN.
pub(crate) const ILLEGAL_CODE: i32 = 2;
/// SIGTRAP of a breakpoint is from the kernel, without an address.
pub(crate) const BREAKPOINT_CODE: i32 = 0;
/// The smallest alternate stack.
pub(crate) const MINSIGSTKSZ: u64 = 2048;
pub(crate) const O_DIRECT: u32 = 0o40_000;
pub(crate) const O_LARGEFILE: u32 = 0o100_000;
pub(crate) const O_DIRECTORY: u32 = 0o200_000;
pub(crate) const O_NOFOLLOW: u32 = 0o400_000;
