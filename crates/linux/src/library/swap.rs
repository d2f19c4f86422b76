//! Where the library's pages go.

/// Where pages go when memory is short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swap {
    /// Nowhere: a program that needs more than the limit runs out of memory.
    None,
    /// Into a pool compressed with lz4.
    Lz4 {
        /// At most this many bytes of compressed data.
        max: Option<u64>,
    },
}
