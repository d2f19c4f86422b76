//! What the user asked `machvm run` for.

use std::path::PathBuf;

use machvm::pageout::Replacement;
#[cfg(feature = "remote")]
use machvm_pagers::remote::{Patience, RemotePlace, TierOptions};

/// A place for pages when memory is short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SwapPlace {
    /// A pool in memory compressed with lz4.
    Lz4 {
        /// At most this many bytes of compressed data.
        max: Option<u64>,
    },
    /// A pool in memory compressed with zstd.
    Zstd {
        /// At most this many bytes of compressed data.
        max: Option<u64>,
        /// How hard it tries, 1 to 19.
        level: i32,
    },
    /// A file of this size, which has no name from then on; of a directory, one in it.
    File {
        /// The file or directory.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A block device.
    Device {
        /// The device.
        path: PathBuf,
        /// Even if there seems to be something else on it.
        force: bool,
    },
    /// An external pager, which is another process (`docs/external-pagers.md`).
    Pager {
        /// The socket at which it listens.
        path: PathBuf,
        /// At most this many bytes.
        max: Option<u64>,
    },
    /// A server, or a cluster of them (`docs/remote.md`).
    #[cfg(feature = "remote")]
    Remote {
        /// Which.
        place: RemotePlace,
        /// How it is used; encryption is as [`SwapTier::encrypt`] says.
        options: TierOptions,
        /// How long it is waited for.
        patience: Patience,
    },
}

/// A place for pages, and how it is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwapTier {
    /// Where.
    pub place: SwapPlace,
    /// As in swapon(8): the highest is filled first, equal ones take turns. `None`: after
    /// those that have one, in the order in which they are given.
    pub prio: Option<u16>,
    /// What leaves memory is encrypted.
    pub encrypt: bool,
}

impl SwapTier {
    /// With the usual settings.
    #[must_use]
    pub fn new(place: SwapPlace) -> Self {
        SwapTier { place, prio: None, encrypt: true }
    }
}

/// Where `--stats` is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StatsTo {
    /// To standard error.
    Stderr,
    /// To this file.
    File(PathBuf),
}

/// [`Options::sample`] when nobody says.
pub const SAMPLE: u32 = 1000;

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Resident memory of the program in bytes.
    pub memory: Option<u64>,
    /// Where pages go when it is short. Empty: nowhere; a program that needs more than the
    /// limit runs out of memory.
    pub swap: Vec<SwapTier>,
    /// How the pages that go are chosen.
    pub policy: Replacement,
    /// Where the use of memory is recorded.
    pub trace: Option<PathBuf>,
    /// Times in 1000 seconds that each page in memory is unmapped while that is recorded, so
    /// that uses are seen that make no fault.
    pub sample: u32,
    /// Statistics at the end.
    pub stats: Option<StatsTo>,
    /// The map at the end.
    pub maps: bool,
    /// A debugging aid: no memory of ours at all, Linux answers the memory calls.
    pub native: bool,
    /// Where questions are answered while the program runs; `None`: in the usual place.
    pub control: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        let swap = vec![SwapTier::new(SwapPlace::Lz4 { max: None })];
        let policy = Replacement::default();
        Options {
            memory: None,
            swap,
            policy,
            trace: None,
            sample: SAMPLE,
            stats: None,
            maps: false,
            native: false,
            control: None,
        }
    }
}
