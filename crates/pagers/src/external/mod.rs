//! Pagers in other processes: the memory object protocol over a Unix socket.
//!
//! ```text
//!   machvm (the kernel)                                   the pager
//!   Client, Object  ---- socket of packets, 64 bytes ---- server::Server, pager.h, pager.py
//!                   ==== shared memory: the pages ======
//! ```
//! `docs/external-pagers.md` describes every message; [`wire`] is the same in Rust. What a
//! pager can do to its kernel ends at its own objects: an answer is taken only if it fits a
//! request that waits, every wait has a deadline, and a pager that breaks the protocol, or
//! dies, loses its connection.
//!
//! What it does not protect from: a pager that supplies wrong data for its own objects.

mod client;
mod convert;
mod link;
mod object;
mod open;
mod ring;
pub mod server;
mod service;
mod slots;
mod swap;
mod table;
#[cfg(test)]
mod tests;
pub mod wire;

pub use client::{Client, Kernel, Options, Spawn, Stats};
pub use object::{Object, Traffic};
pub use open::{OpenError, Opened};
pub use swap::ExternalSwap;
