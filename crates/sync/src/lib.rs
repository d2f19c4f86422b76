//! Locks with ranks, and the relaxed cells of the core's shared structures.
//!
//! * [`Spin`]: a spin lock for short sections (ranks 30 and up).
//! * [`RwSleep`]: a sleeping read-write lock with upgrade, downgrade and a version
//!   that counts exclusive acquisitions (maps and objects; rows L01-L15).
//! * [`Busy`]: the busy word of a page, a protocol without a rank.
//! * [`Field32`], [`Field64`]: mutable fields of structures that live in arenas.
//!
//! Every lock carries its [`Rank`]. With the feature `std` and debug assertions,
//! each thread keeps what it holds; taking a lock that is not higher panics with
//! both sites, and so does waiting while a spin lock is held.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "std")]
extern crate std;

mod busy;
mod cell;
mod held;
mod rank;
mod rw;
mod shim;
mod spin;

pub use busy::{Busy, Released};
pub use cell::{Field32, Field64};
pub use held::assert_may_sleep;
pub use rank::Rank;
pub use rw::{ReadGuard, RwSleep, WriteGuard};
pub use spin::{Spin, SpinGuard};
