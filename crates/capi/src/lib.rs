//! libmachvm: Mach's virtual memory calls, for C programs on Linux.
//!
//! ```text
//!   calls/*   one entry point per call: port -> task, numbers -> Raw*, error -> code
//!     |  \
//!     |  transfer, outside   memory of the process that is not ours
//!   ports     32-bit names of tasks, memory entries, pagers, the host
//!   world     the process's one VM, made at the first call
//!   kr        kern_return_t: tables from errors to codes, nowhere else
//!     |
//!   machvm::task (semantics), machvm_linux (memory, faults, fork)
//! ```
//! Beside them stands `wrap`: calls of the C library that this library takes over, so that
//! they work on memory of the window.
//!
//! Nothing here decides what a call means. What is decided here is what a *port* is, which
//! code an error has, and how memory outside the VM's window takes part.
//!
//! => every entry point may be called by any thread, not from a signal handler.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod calls;
mod fork;
#[doc(hidden)]
pub mod hooks;
pub mod info;
pub mod kr;
mod outside;
pub mod ports;
mod regions;
pub mod signals;
pub mod totals;
mod transfer;
pub mod types;
mod world;
pub mod wrap;
