//! The software machine: machvm over a deterministic MMU, with everything that can go
//! wrong under a test's control.
//!
//! A [`Machine`] is a [`machvm::Platform`]: frames in both placements, a pmap that is
//! a plain map and forgets mappings as real ones do, translations that stay usable
//! until they are flushed, swap and pagers that fail when told to, and threads that a
//! seed interleaves. What the contracts of `machvm-hal` forbid, it panics at.
//!
//! What it is not: fast, or a model of any architecture's page-table format.
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
pub mod conformance;
mod hardware;
mod host;
pub mod hw;
mod inject;
mod machine;
mod mem;
mod mmu;
mod oracle;
mod pager;
mod paging;
mod pmap;
pub mod pt;
mod rng;
mod swap;
mod task;

pub use check::{check_holding, check_quiet, check_vm};
pub use hardware::{Access, Hardware};
pub use host::ModelHost;
pub use inject::{Injector, Point};
pub use machine::{Config, Machine, Mmu};
pub use mem::ModelMem;
pub use mmu::{FlatFlush, FlatPages, FlatPmap};
pub use oracle::{Contents, Oracle, OraclePage, WORDS};
pub use pager::MemPager;
pub use paging::{TablePmap, Tables};
pub use pmap::{ModelFlush, ModelPages, ModelPmap};
pub use rng::{Rng, seed_from_env};
pub use swap::MemSwap;
pub use task::Task;
