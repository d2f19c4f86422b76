//! machvm on Linux: one memfd is physical memory, `userfaultfd` and `mmap` are
//! the page tables.
//!
//! [`Vm`] is the virtual memory system as a library (see [`library`]); [`run`] is what
//! stands behind `machvm run PROGRAM`.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod chunk;
mod follow;
pub mod host;
pub mod library;
pub mod phys;
pub mod platform;
pub mod pmap;
pub mod run;
mod sys;
pub mod uffd;
pub mod uring;

pub use library::{
    Config, Error, ExternalPager, Faults, FileTraffic, Fork, Inherit, MappedFile, MemoryObject, PagerOptions,
    Prot, Region, Statistics, Stats, Swap, SyncHow, Task, Vm, WriteError,
};
