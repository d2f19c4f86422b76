//! Locks with ranks, and the relaxed cells of the core's shared structures.
//!
//! * [`Spin`]: a spin lock for short sections (ranks 30 and up).
//! * [`RwSleep`]: a sleeping read-write lock with upgrade, downgrade and a version
//!   that counts exclusive acquisitions (maps and objects; rows L01-L15).
//! * [`Busy`]: the busy word of a page, a protocol without a rank.
//! * [`Refs`]: a reference count that ends exactly once.
//! * [`Holds`]: who keeps a page that its owner may let go.
//! * [`Field32`], [`Field64`]: mutable fields of structures that live in arenas.
//!
//! Every lock carries its [`Rank`]. With the feature `std` and debug assertions,
//! each thread keeps what it holds; taking a lock that is not higher panics with
//! both sites, and so does waiting while a spin lock is held.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(any(test, loom, feature = "std"))]
extern crate std;

mod busy;
mod cell;
mod held;
mod holds;
mod rank;
mod refs;
mod rw;
mod shim;
mod spin;

/// The atomics of this crate: `core`'s, or loom's in a build with `--cfg loom`.
pub mod atomic {
    pub use crate::shim::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
}

pub use busy::{Busy, Released};
pub use cell::{Field32, Field64};
pub use held::assert_may_sleep;
pub use holds::Holds;
pub use rank::Rank;
pub use refs::Refs;
pub use rw::{ReadGuard, RwSleep, WriteGuard};
pub use spin::{Spin, SpinGuard};
