//! The policies over arrays, and the controller against a reference computation.

mod pid;
mod policies;
