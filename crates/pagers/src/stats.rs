//! What a pool counts.

/// Figures of a [`crate::Pool`], summed over its shards one after the other: exact
/// while nobody uses the pool.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PoolStats {
    /// Pages in the pool now, those that repeat one word included.
    pub pages: u64,
    /// Of these, pages that repeat one word.
    pub same_filled: u64,
    /// Of these, pages kept as they are because they hardly compress.
    pub raw: u64,
    /// Bytes that the pages take after compression (nothing is rounded up).
    pub stored_bytes: u64,
    /// Memory held for all of this, notes and free space included.
    pub pool_bytes: u64,
    /// Most memory ever held.
    pub pool_bytes_peak: u64,
    /// The bound of `pool_bytes`.
    pub max_bytes: u64,

    /// Pages ever put.
    pub puts: u64,
    /// Of these, pages that repeat one word.
    pub put_same_filled: u64,
    /// Of these, incompressible ones.
    pub put_raw: u64,
    /// Bytes that all pages ever put took after compression.
    pub put_bytes: u64,
    /// Pages read back.
    pub gets: u64,
    /// Pages forgotten.
    pub frees: u64,
    /// Puts refused for want of room.
    pub full: u64,
    /// Reads and frees of a slot that is not in use: mistakes of the caller.
    pub bad_slots: u64,
    /// Pages whose contents were damaged.
    pub damaged: u64,
}
