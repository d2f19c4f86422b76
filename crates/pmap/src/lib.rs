//! The machine-dependent layer over page tables.
//!
//! [`System`] is all pmaps of one machine: what an embedder makes once, from a
//! [`Port`] that says how its tables, CPUs and TLBs are reached. [`PtPmap`] is one
//! address space and implements [`machvm_hal::Pmap`]; the system implements
//! [`machvm_hal::PmapPage`] (from pages to their mappings) and
//! [`machvm_hal::Flush`]. Formats are in [`pte`]; they are pure functions and
//! compile everywhere.
//!
//! What this crate is not: it has no instructions (`machvm-arch`), decides no
//! policy, and knows nothing of maps and objects. A pmap is a cache of their
//! decisions.
//!
//! | file | concept |
//! |---|---|
//! | `port` | what the machine gives |
//! | `pte/` | entry formats |
//! | `table` | the structure beside a table's frame, identity and stray tables |
//! | `walk` | down to the leaf, lock, look again |
//! | `path` | making and taking out tables |
//! | `pv` | from page to mappings |
//! | `epoch` | what was removed and may still be cached |
//! | `enter`, `remove`, `protect` | by address |
//! | `fork` | write access taken at upper levels, pushed down by faults |
//! | `superpage` | 512 mappings as one |
//! | `page` | by page |
//! | `used` | use of pages: in portions, by address, by faults |
//! | `query` | questions, holds |
//! | `collect` | forgetting all that may be forgotten |
//! | `large` | large and unmanaged mappings on demand |
//! | `kernel`, `quick` | the kernel's unmanaged mappings; a page for a moment |
//! | `defer` | flushes put off until `pmap_update` |
//! | `nine/` | [`machvm_hal::pmap9`]: `pmap(9)` |
//! | `activate` | which pmap a CPU walks |
//! | `shootdown` | out of every TLB: the invariant |
//! | `active`, `mailbox`, `asid` | its protocols: who may have it, asking a CPU, numbers |
//! | `cpu` | what is kept for each CPU |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod activate;
mod active;
mod asid;
mod collect;
mod cpu;
mod defer;
mod enter;
mod epoch;
mod fork;
mod handle;
mod kernel;
mod large;
mod mailbox;
mod nine;
mod page;
mod path;
mod port;
mod protect;
pub mod pte;
mod pv;
mod query;
mod quick;
mod remove;
mod seed;
mod shootdown;
mod superpage;
mod system;
mod table;
#[cfg(test)]
mod testport;
mod used;
mod walk;

pub use handle::PtPmap;
pub use kernel::{GrowError, StealError};
pub use nine::{Nine, NinePmap};
pub use port::{Cpus, HwBits, Port, TableMem};
pub use quick::Quick;
pub use seed::Bug;
pub use system::{CreateError, PmapId, System};
pub use table::TableMd;
