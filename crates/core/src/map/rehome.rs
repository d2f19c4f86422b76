//! Taking the regions of one object out of the machine and putting them back, for who
//! changes the frames behind it (`object::rehome`).

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, Pmap, Va};

use super::Map;
use super::entry::Kind;
use crate::error::FaultError;
use crate::object::Object;
use crate::platform::Platform;

/// Why the machine has not all regions of an object again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReturnError {
    /// It refused the one at this address.
    Machine(Va),
    /// Wired memory could not be had again.
    Fault(FaultError),
}

impl<P: Platform> Map<'_, P> {
    /// The machine forgets every region of `o`, and what is wired of it in this map is let
    /// go. The entries stay as they are, wirings too: [`Map::object_return`] must follow.
    ///
    /// => no lock is held, and nobody else uses the map until then.
    pub fn object_leave(&self, o: Handle<Object>, may: &mut MaySleep) {
        let Ok(edit) = self.edit(0, may) else { return };
        let mut g = Gather::new();
        for h in self.overlapping(&edit.inner, self.bounds) {
            let e = self.entry(h);
            let (Kind::Object, Some(range)) = (e.kind(), e.range()) else { continue };
            if e.object.get() == Some(o) {
                self.pmap.region_remove(self.vm.page_array(), range, &mut g);
            }
        }
        self.vm.finish(g, may);
        for e in self.overlapping(&edit.inner, self.bounds).map(|h| self.entry(h)) {
            if e.object.get() == Some(o) && e.wired.get() != 0 {
                self.vm.unwire_object(o, e.offset.get(), e.pages(), may);
            }
        }
        edit.done(may);
    }

    /// Undoes [`Map::object_leave`]: the machine gets the regions, with the frames that the
    /// object has now, and wired memory is faulted in and kept again. From now on others
    /// may see all of it.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ReturnError`] for the first; the others are back all the same.
    pub fn object_return(&self, o: Handle<Object>, may: &mut MaySleep) -> Result<(), ReturnError> {
        let mut result = Ok(());
        let Ok(edit) = self.edit(0, may) else { return result };
        for h in self.overlapping(&edit.inner, self.bounds) {
            let e = self.entry(h);
            if e.kind() != Kind::Object || e.object.get() != Some(o) {
                continue;
            }
            e.mark_shared();
            if self.region_enter(h).is_err() {
                result = result.and(Err(ReturnError::Machine(e.start())));
            }
        }
        edit.done(may);
        let mut at = self.min();
        while let Some(e) = self.entry_from(at, may) {
            at = e.range.end();
            if e.object == Some(o) && e.wired != 0 {
                let wired = self.wire_range(e.range, may);
                result = result.and(wired.map_err(ReturnError::Fault));
            }
        }
        result
    }
}
