//! Replays traces of page use (`machvm run --trace`): through the policies of the core's
//! page-out, which is the very code that runs live, and through LRU and Belady's optimum to
//! compare them with.
//!
//! ```text
//!   Trace -> Stream -+-> Memory: Frames over arrays, under machvm::pageout::scan
//!                    +-> Stack: distances of an LRU stack, all sizes at once
//!                    +-> optimum: evicts what is used last, size by size
//! ```
//! A *reference* is a use that a fault told of, or a page that came into memory along with one
//! that was used. A *miss* is a reference to a page that is not in memory, its first one too; a
//! *page-in* is a miss whose contents are on backing store.
#![forbid(unsafe_code)]

mod chart;
mod curve;
mod lru;
mod memory;
mod opt;
mod stream;
mod table;

pub use chart::{Chart, DrawError, Format};
pub use curve::{Curve, Engine, Point, curves, sizes};
pub use lru::Stack;
pub use memory::{Agreement, Memory, Outcome, as_recorded, replay};
pub use opt::optimum;
pub use stream::{Stream, Use};
pub use table::{csv, size_text, table};
