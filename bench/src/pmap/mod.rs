//! Operations of the page-table pmap, each with what it needs, for whoever counts:
//! `benches/pmap.rs` (gungraun) and the section `pmap`.

mod machine;
mod ops;

pub use machine::{Counted, Mini, NoIsa, NoMem, Pages, Tables};
pub use ops::{OPS, Op, Scene, Size, memory, op};
