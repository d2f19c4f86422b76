//! `machvm run PROGRAM`: an unmodified Linux program on our virtual memory.
//!
//! The program runs in this process. It keeps the main thread, so that its pid and
//! its first tid are the same; the VM's threads are the extras. Nothing of ours runs
//! on the program's threads: a seccomp filter makes the calls that concern memory and
//! processes wait for the VM's threads, which answer them.
//!
//! There are two descriptor tables. The program's holds what `machvm` inherited; the
//! VM's is made by the first VM thread ([`std::thread`]s it starts share it) and holds
//! everything else. `close_range(3, ~0)` by the program touches nothing of ours.

pub mod context;
pub mod creds;
pub mod elf;
pub mod error;
pub mod exe;
pub mod exec;
pub mod files;
pub mod filter;
pub mod fork;
pub mod inherited;
pub mod keeper;
pub mod layout;
pub mod load;
pub mod native;
pub mod notify;
pub mod options;
pub mod ptrace;
pub mod signals;
pub mod space;
pub mod stack;
pub mod start;
pub mod supervisor;
pub mod threads;
pub mod vmthread;

mod calls;
mod control;
mod faults;
mod gate;
mod launch;
mod lost;
mod objects;
mod report;
mod size;
mod slow;
mod spec;
#[cfg(feature = "remote")]
mod spec_remote;
mod swap;
mod trace;
pub mod vmspace;

pub use context::Ctx;
pub use control::directory as control_directory;
pub use error::RunError;
pub use launch::run;
pub use machvm::pageout::Replacement;
pub use options::{Options, SAMPLE, StatsTo, SwapPlace, SwapTier};
pub use size::parse_size;
pub use spec::{SwapPlaces, parse_swap};
pub use vmthread::spawn_vm_thread;
