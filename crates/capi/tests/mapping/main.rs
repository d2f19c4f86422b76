//! The mapping side of the C library, called as C calls it: ports, codes, and memory through
//! pointers. Tests are named after the rows of the interface inventory.
//!
//! All tests share one process, hence one task: each uses memory of its own, or a task of
//! its own. What ends a process, or needs another environment, runs in one of its own
//! ([`util::elsewhere`]).

mod entries;
mod host;
mod inherit;
mod map;
mod names;
mod nasty;
mod outside;
mod personality;
mod protect;
mod purge;
mod races;
mod remap;
mod tasks;
mod util;
mod wire;
