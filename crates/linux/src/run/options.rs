//! What the user asked `machvm run` for.

use std::path::PathBuf;

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

/// Where `--stats` is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StatsTo {
    /// To standard error.
    Stderr,
    /// To this file.
    File(PathBuf),
}

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Resident memory of the program in bytes.
    pub memory: Option<u64>,
    /// Where pages go when it is short.
    pub swap: Swap,
    /// Statistics at the end.
    pub stats: Option<StatsTo>,
    /// The map at the end.
    pub maps: bool,
    /// A debugging aid: no memory of ours at all, Linux answers the memory calls.
    pub native: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { memory: None, swap: Swap::Lz4 { max: None }, stats: None, maps: false, native: false }
    }
}
