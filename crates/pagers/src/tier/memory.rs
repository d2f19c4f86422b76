//! The compressed pool as a tier.

use machvm_hal::{PageRun, Swap, SwapSlot};

use super::{PAGE, PageBytes, PageId, Place, Speed, Tier, TierError, TierStats};
use crate::region::{Heap, RegionSource};
use crate::{Codec, Pool};

/// A [`Pool`] as a tier. The pool's own slots are the places, with a generation of their own;
/// the checksum of what is stored covers the [`PageId`].
pub struct Memory<S: RegionSource = Heap> {
    pool: Pool<S>,
    name: String,
}

impl<S: RegionSource> Memory<S> {
    /// `name` is what the user calls it.
    pub fn new(pool: Pool<S>, name: impl Into<String>) -> Self {
        Memory { pool, name: name.into() }
    }
    /// The pool itself.
    pub fn pool(&self) -> &Pool<S> {
        &self.pool
    }
}

fn slot(place: Place) -> Result<SwapSlot, TierError> {
    core::num::NonZeroU64::new(place.0).map(SwapSlot).ok_or(TierError::Lost)
}

impl<S: RegionSource> Tier for Memory<S>
where
    S::Region: Send,
{
    fn name(&self) -> &str {
        &self.name
    }
    fn kind(&self) -> &'static str {
        match self.pool.codec() {
            Codec::Lz4 => "lz4",
            Codec::Zstd(_) => "zstd",
        }
    }
    fn speed(&self) -> Speed {
        Speed::Fast
    }
    fn put_run(
        &self,
        run: &dyn PageRun,
        ids: &[PageId],
        places: &mut [Option<Place>],
    ) -> Result<(), TierError> {
        let mut page = [0; PAGE];
        let mut result = Ok(());
        for (i, (id, place)) in ids.iter().zip(places).enumerate() {
            run.read(i, &mut page);
            match self.pool.put_for(id.0, &page) {
                Ok(slot) => *place = Some(Place(slot.0.get())),
                Err(_) => result = Err(TierError::Full),
            }
        }
        result
    }
    fn get(&self, id: PageId, place: Place, page: &mut PageBytes) -> Result<(), TierError> {
        self.pool.get_for(id.0, slot(place)?, page).map_err(|_| TierError::Lost)
    }
    fn free(&self, _: PageId, place: Place) {
        if let Ok(slot) = slot(place) {
            self.pool.free(slot);
        }
    }
    fn stats(&self) -> TierStats {
        let s = self.pool.stats();
        TierStats {
            pages: s.pages,
            capacity: s.max_bytes / PAGE as u64,
            bytes: s.pool_bytes,
            memory: s.pool_bytes,
            puts: s.puts,
            gets: s.gets,
            frees: s.frees,
            full: s.full,
            damaged: s.damaged,
            ..TierStats::default()
        }
    }
}
