//! machvm: the Mach/BSD virtual memory system as a library.
//!
//! Maps ([`map`]), objects and copy-on-write ([`object`]), pages ([`page`]), the
//! fault ([`fault`]), page-out ([`pageout`]), memory objects ([`pager`]), and the Mach calls ([`task`]), over any machine that implements
//! [`Platform`]. A [`Vm`] is a value: no statics, no allocator, no threads of its
//! own.
//!
//! It does not own: the MMU ([`machvm_hal::Pmap`]), frames' contents
//! ([`machvm_hal::PhysMem`]), where data comes from ([`machvm_hal::Pager`],
//! [`machvm_hal::Swap`]), threads and sleep ([`machvm_hal::Host`]).
#![no_std]
#![forbid(unsafe_code)]

mod check;
mod commit;
mod error;
pub mod fault;
pub mod map;
pub mod object;
pub mod page;
pub mod pageout;
pub mod pager;
mod platform;
mod stats;
pub mod task;
mod vm;
pub mod vmspace;

#[doc(hidden)]
pub use check::Seen;
pub use commit::CommitPolicy;
pub use error::FaultError;
pub use machvm_hal as hal;
pub use platform::{PagerId, Platform};
pub use stats::Stats;
pub use vm::Vm;
