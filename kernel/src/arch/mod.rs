//! The machine. Everything above is the same for every architecture.

#[cfg(any(target_arch = "riscv64", target_arch = "aarch64"))]
mod fdt;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "riscv64")]
pub(crate) use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

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
