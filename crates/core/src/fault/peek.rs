//! Reading contents without an access: for copies made by the embedder (a fork
//! into another process, a debugger).

use machvm_hal::{MaySleep, PAGE_SIZE, PhysMem, Prot, Va};

use crate::error::FaultError;
use crate::map::{Kind, Map};
use crate::platform::Platform;

impl<'vm, P: Platform> Map<'vm, P> {
    /// Reads the page at `va`, whatever its protection. `Ok(false)`: it was never
    /// written and is zero; `buf` is untouched. Pages on swap are read there and stay
    /// there; pages of a pager are faulted in.
    ///
    /// => nothing is locked. The answer is of some moment during the call; to copy a
    /// range as of one moment, stop the threads that write it.
    ///
    /// # Errors
    /// Those of [`Map::fault`].
    pub fn peek(
        &self,
        va: Va,
        buf: &mut [u8; PAGE_SIZE as usize],
        may: &mut MaySleep,
    ) -> Result<bool, FaultError> {
        let vm = self.vm();
        let host = vm.plat.host();
        loop {
            if let Some(p) = self.busy_resident(va, may) {
                vm.plat.mem().read(vm.pages.get(p).pfn(), 0, buf);
                vm.page_unbusy(p);
                return Ok(true);
            }
            {
                let inner = self.lock_word().read(host, may);
                let seen = self.see(&inner, va, may).ok_or(FaultError::NoMapping(va))?;
                let e = seen.entry;
                let Some(o) = e.object.get().filter(|_| e.kind() == Kind::Object) else {
                    return Err(FaultError::Foreign(va));
                };
                let object = vm.objects.get(o).lock.read(host, may);
                let (anon, _) = vm.tree_lookup(&object.tree, seen.pindex(va));
                let slot = anon.map(|a| vm.anons.get(a));
                if slot.is_some_and(|a| a.page().is_some()) {
                    continue;
                }
                // No page: under the object lock nobody gives it one, so the slot on
                // swap stays.
                if let (Some(s), Some(swap)) = (slot.and_then(|a| a.swap()), vm.plat.swap()) {
                    return match swap.get(s, buf) {
                        Ok(()) => Ok(true),
                        Err(_) => Err(FaultError::PagerIo(va)),
                    };
                }
                if object.source.is_none() {
                    return Ok(false);
                }
                if e.prot().is_empty() {
                    return Err(FaultError::Protection(va));
                }
            }
            self.fault_contents(va, Prot::R, may)?;
        }
    }

    /// The first page in `[from, end)` that may hold something other than zero;
    /// `end` when there is none.
    pub fn next_populated(&self, from: Va, end: Va, may: &mut MaySleep) -> Va {
        let vm = self.vm();
        let host = vm.plat.host();
        let inner = self.lock_word().read(host, may);
        let mut va = from;
        while va < end {
            let Some(seen) = self.see(&inner, va, may) else { return va };
            let Some(o) = seen.entry.object.get() else { return va };
            let object = vm.objects.get(o).lock.read(host, may);
            if object.source.is_some() {
                return va;
            }
            let first = seen.pindex(va);
            let stop = seen.end.min(end);
            let mut found = None;
            vm.tree_for_each(&object.tree, first, stop.page() - va.page(), &mut |i, _| {
                found = Some(i);
                false
            });
            if let Some(i) = found {
                return va.add(i - first);
            }
            va = stop;
        }
        end
    }
}
