//! What benchmarks of more than one program share.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod pmap;
