//! Tiers: places of different speed for what is paged out.
//!
//! ```text
//!   core -- slot --> Tiers -- (tier, place) --> lz4 pool | zstd pool | file | device | ...
//! ```
//!
//! The core keeps a slot; which tier has the contents, and where, is in a table of
//! [`Tiers`], so contents move (for want of room, by age, because a device is taken out of
//! use) while the core keeps its slot. A slot carries the generation of its entry, and
//! every tier checks that what it reads back was stored under this very slot.
//!
//! * [`Tier`]: what a place must be able to do. [`crate::Pool`] is one in memory, [`Disk`]
//!   one on a file or device.
//! * [`Tiers`]: the ordered list, which is the [`machvm_hal::Swap`].

mod disk;
mod memory;
mod moves;
mod table;
#[cfg(test)]
mod tests;
mod tiers;

pub use disk::{Block, Buffer, Disk, DiskError, Done, FileBlock, Opened, Source};
pub use memory::Memory;
pub use moves::{OffError, OnError};
pub use tiers::{TierInfo, Tiers, TiersStats};

use machvm_hal::{PAGE_SIZE, PageRun};

/// Bytes of a page.
pub(crate) const PAGE: usize = PAGE_SIZE as usize;
/// The bytes of a page.
pub type PageBytes = [u8; PAGE];

/// Whose contents a place holds: the slot, with its generation. Never 0, and never the
/// same for two contents that a tier could confuse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageId(pub u64);

/// Where a tier has a page, in its own terms.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place(pub u64);

/// Why a tier could not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TierError {
    /// No room, or it is not to be used for this page.
    Full,
    /// What is there is not what was stored under that name.
    Lost,
    /// The device failed, with this errno; it may work the next time.
    Io(i32),
}

/// How long a page takes to come back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Speed {
    /// Microseconds, on this processor.
    Fast,
    /// Somebody else answers: a device, a server.
    Slow,
}

/// Figures of a tier: exact while nobody uses it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TierStats {
    /// Pages that are there now.
    pub pages: u64,
    /// Pages that there is room for; for memory, bytes divided by the size of a page.
    pub capacity: u64,
    /// Bytes that the tier takes of its capacity.
    pub bytes: u64,
    /// Bytes of memory that it needs for itself, contents in memory included.
    pub memory: u64,
    /// Pages ever stored.
    pub puts: u64,
    /// Pages ever read back.
    pub gets: u64,
    /// Pages ever forgotten.
    pub frees: u64,
    /// Pages refused for want of room.
    pub full: u64,
    /// Requests to the device to write; several pages go with one.
    pub writes: u64,
    /// Requests to the device to read.
    pub reads: u64,
    /// Requests that failed: to write, then to read.
    pub errors: [u64; 2],
    /// Pages whose contents were not what was stored.
    pub damaged: u64,
    /// Places that could not be written and are not used any more.
    pub retired: u64,
    /// Pages on their way to the device.
    pub in_flight: u64,
}

/// Told of each page of several that was read: its index, and its contents.
pub type EachRead<'a> = dyn FnMut(usize, Result<&PageBytes, TierError>) + 'a;

/// A place for pages.
///
/// Called with no lock of the virtual memory system and none of [`Tiers`] held, from any
/// thread. Nothing here may allocate on the way of a request: page-out may have
/// interrupted the allocator.
pub trait Tier: Send + Sync {
    /// What the user calls it, such as a path.
    fn name(&self) -> &str;
    /// What it is, such as `lz4`.
    fn kind(&self) -> &'static str;
    /// How long a page takes to come back.
    fn speed(&self) -> Speed;

    /// Stores pages that are likely to be wanted together, next to each other where that
    /// makes a difference. `places[i]` becomes the place of page `i`, or stays `None`: the
    /// caller looks elsewhere for those. When this returns the pages are the tier's to keep,
    /// though they may not have reached a device yet.
    ///
    /// => `ids` and `places` are as long as the run, places are `None`.
    ///
    /// # Errors
    /// Why some were not stored; those that have a place were.
    fn put_run(
        &self,
        run: &dyn PageRun,
        ids: &[PageId],
        places: &mut [Option<Place>],
    ) -> Result<(), TierError>;

    /// Reads a page back. On error `page` holds anything.
    ///
    /// # Errors
    /// [`TierError::Lost`]: the place does not hold this page (any more).
    fn get(&self, id: PageId, place: Place, page: &mut PageBytes) -> Result<(), TierError>;

    /// Reads several back: `each` once for every index, in any order.
    fn get_run(&self, wanted: &[(PageId, Place)], each: &mut EachRead<'_>) {
        let mut page = [0; PAGE];
        for (i, (id, place)) in wanted.iter().enumerate() {
            match self.get(*id, *place, &mut page) {
                Ok(()) => each(i, Ok(&page)),
                Err(e) => each(i, Err(e)),
            }
        }
    }

    /// The contents are no longer wanted. A place that does not hold the page is left as
    /// it is.
    fn free(&self, id: PageId, place: Place);

    /// Waits until everything stored has reached the device.
    ///
    /// # Errors
    /// The first failure; what could not be written is still kept.
    fn drain(&self) -> Result<(), TierError> {
        Ok(())
    }

    /// Pages that must move because their place cannot be written, as many as fit;
    /// returns how many. They can still be read.
    fn stranded(&self, _ids: &mut [PageId]) -> usize {
        0
    }

    /// Nobody else had room for what is stranded: some of it may be tried once more where it
    /// is. Called by the mover in each of its rounds, while there is such.
    fn try_again(&self) {}

    /// The run ends: what is kept outside of this process is to be deleted, soon. Who asks
    /// for a page later may wait.
    fn close(&self) {}

    /// The figures of the moment.
    fn stats(&self) -> TierStats;
}
