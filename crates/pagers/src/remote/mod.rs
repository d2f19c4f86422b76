//! Memory on a server, or a cluster of them, over OpenDAL: Redis, S3 and what speaks it, a
//! shared file system.
//!
//! ```text
//!   Tiers ---- RemoteTier                                      swap of one run
//!                 |  pages -> local pool (compressed) -> clusters, sealed -> writers
//!   core ----- RemoteObject                                    objects that outlive runs
//!                 |  head (compare and swap) -> leaves -> clusters, never overwritten
//!              Engine: retries, deadlines, compare and swap
//!                 |
//!              OpenDAL -> redis | s3 | fs
//! ```
//! Pages travel in *clusters*: a fixed number of pages under one key, compressed page by
//! page and sealed as a whole. A key is written once and never again, so a write that comes
//! late changes nothing that anybody reads.
//!
//! Threads of a private tokio runtime do the talking. Who asks for a page waits on his own
//! thread, with a deadline.

mod cas;
mod cluster;
mod engine;
mod object;
mod place;
mod runtime;
mod seal;
#[cfg(test)]
mod tests;
mod tier;

pub use engine::{Engine, EngineError, Patience};
pub use object::{ObjectError, ObjectOptions, ObjectStats, RemoteObject, RemotePager};
pub use place::RemotePlace;
pub use runtime::Hooks;
pub use tier::{RemoteTier, TierOptions};
