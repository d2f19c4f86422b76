//! Waiting for space (K06: `kmap_alloc_wait`, `kmap_free_wakeup`).

use machvm_hal::{Host, MaySleep, Va, VaRange};

use super::{Attributes, Backing, DeleteError, FindError, Map, Place, Search};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// As [`Map::find`] with [`Place::Any`]; where there is no space this waits until somebody
    /// gives some back by [`Map::delete_and_wakeup`].
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`FindError`]. [`FindError::NoSpace`] only when the search is narrower than `pages`, so
    /// that waiting is no use.
    pub fn find_wait(
        &self,
        s: &Search,
        pages: u64,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<Va, FindError> {
        let within = VaRange::between(s.min.max(self.min()), s.max.min(self.max()));
        if within.is_none_or(|w| w.pages() < pages) {
            return Err(FindError::NoSpace);
        }
        let host = self.vm.host();
        loop {
            // Into the queue before the search, so that what is given back meanwhile is not
            // missed (Z24).
            let ticket = host.assert_wait(self.room());
            match self.find(Place::Any(*s), pages, backing, a, may) {
                Err(FindError::NoSpace) => {
                    machvm_sync::assert_may_sleep();
                    host.thread_block(ticket, None);
                }
                done => {
                    host.cancel_wait(ticket);
                    return done;
                }
            }
        }
    }

    /// As [`Map::delete`], and wakes everybody who waits for space in this map.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`DeleteError`]; nothing changed.
    pub fn delete_and_wakeup(&self, range: VaRange, may: &mut MaySleep) -> Result<(), DeleteError> {
        let done = self.delete(range, may);
        if done.is_ok() {
            self.wakeup();
        }
        done
    }
}
