//! The real instructions of the machine this is compiled for.
//!
//! `Cpu` implements the instruction trait of the target architecture; on an
//! architecture without page tables of ours this module is empty. Instructions are
//! methods of a value, and the value is what is unsafe to make: see `Cpu::new`.
//!
//! The assembly is not marked free of memory effects, so the compiler keeps table
//! writes on their side of it.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::Cpu;
#[cfg(target_arch = "riscv64")]
pub use riscv64::Cpu;
#[cfg(target_arch = "x86_64")]
pub use x86_64::Cpu;
