//! riscv64 under QEMU's virt machine: OpenSBI, one hart, Sv48, ns16550, PLIC.

pub(super) mod boot;
pub(super) mod cpu;
pub(super) mod fpu;
pub(super) mod pages;
pub(super) mod paging;
mod sbi;
pub(super) mod serial;
pub(super) mod sigframe;
pub(super) mod switch;
pub(super) mod timer;
pub(super) mod trap;
pub(super) mod usercopy;

pub(crate) use cpu::init as init_cpu;

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
/// SIGILL: ILL_ILLOPC.
pub(crate) const ILLEGAL_CODE: i32 = 1;
/// SIGTRAP of a breakpoint: TRAP_BRKPT, at its address.
pub(crate) const BREAKPOINT_CODE: i32 = 1;
/// The smallest alternate stack.
pub(crate) const MINSIGSTKSZ: u64 = 2048;
pub(crate) const O_DIRECT: u32 = 0o40_000;
pub(crate) const O_LARGEFILE: u32 = 0o100_000;
pub(crate) const O_DIRECTORY: u32 = 0o200_000;
pub(crate) const O_NOFOLLOW: u32 = 0o400_000;
