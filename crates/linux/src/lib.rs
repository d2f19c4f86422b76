//! machvm on Linux: one memfd is physical memory, `userfaultfd` and `mmap` are
//! the page tables.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod chunk;
pub mod host;
pub mod phys;
pub mod platform;
pub mod pmap;
pub mod run;
mod sys;
pub mod uffd;
