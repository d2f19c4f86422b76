//! aarch64 under QEMU's virt machine: one CPU, 4 KiB pages of 48-bit addresses, GICv2, PL011, PSCI.

pub(super) mod boot;
pub(super) mod cpu;
pub(super) mod fpu;
mod gic;
pub(super) mod pages;
pub(super) mod paging;
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
pub(crate) const USER_END: u64 = 0xffff_ffff_f000;
/// EM_AARCH64.
pub(crate) const ELF_MACHINE: u16 = 183;
/// What uname(2) and AT_PLATFORM call the machine.
pub(crate) const MACHINE: &str = "aarch64";
/// Numbers and structures of calls are the generic ones.
pub(crate) const GENERIC_CALLS: bool = true;
/// Programs may say where signal handlers return to.
pub(crate) const HAS_RESTORER: bool = true;
/// Instructions that end a signal handler where they do not: `mov x8, #139; svc #0`.
pub(crate) const SIGNAL_RETURN: [u32; 2] = [0xd280_1168, 0xd400_0001];
/// SIGILL: ILL_ILLOPC.
pub(crate) const ILLEGAL_CODE: i32 = 1;
/// SIGTRAP of a breakpoint: TRAP_BRKPT, at its address.
pub(crate) const BREAKPOINT_CODE: i32 = 1;
/// The smallest alternate stack.
pub(crate) const MINSIGSTKSZ: u64 = 5120;
pub(crate) const O_DIRECT: u32 = 0o200_000;
pub(crate) const O_LARGEFILE: u32 = 0o400_000;
pub(crate) const O_DIRECTORY: u32 = 0o40_000;
pub(crate) const O_NOFOLLOW: u32 = 0o100_000;
