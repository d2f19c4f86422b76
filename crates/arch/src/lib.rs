//! The instructions under a page-table pmap.
//!
//! One trait for each instruction set has one method for each instruction
//! ([`X86Isa`], [`ArmIsa`], [`RiscvIsa`]); the flush sequences ([`X86`], [`Arm`],
//! [`Riscv`]) are generic over it and are what the pmap uses, as a [`Tlb`]. So the
//! sequences run on any host, over a machine that checks operands and barriers.
//! [`native`] has the real instructions; it is the only place in machvm with
//! `cfg(target_arch)`.
//!
//! What this crate is not: it knows no page-table format and no pmap, sends no
//! interrupts, and reads no identification registers.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

mod arm;
pub mod native;
mod riscv;
mod tlb;
mod x86;

pub use arm::{Arm, ArmIsa, Dsb, Tlbi};
pub use riscv::{Mode, Riscv, RiscvIsa};
pub use tlb::{Asid, Space, Tlb};
pub use x86::{Invpcid, X86, X86Isa};
