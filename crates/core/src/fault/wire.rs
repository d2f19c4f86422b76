//! Wiring: faulting pages in and keeping them (F05, and the page side of M33, M34).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, Prot, RawAddr, Va, VaRange};

use super::Fault;
use super::own::Own;
use crate::error::FaultError;
use crate::map::{Kind, Map};
use crate::object::ObjectFlags;
use crate::page::Page;
use crate::platform::Platform;

impl<'vm, P: Platform> Map<'vm, P> {
    /// Makes the page at `va` resident and counts one wiring on it: it is not paged
    /// out until [`Map::unwire_page`]. Faults for every right of the entry (Z93).
    ///
    /// # Errors
    /// Those of [`Map::fault`]; nothing is wired then.
    pub fn wire_page(&self, va: Va, may: &mut MaySleep) -> Result<(), FaultError> {
        loop {
            let (access, device) = self.wire_access(va, may)?;
            self.fault(&Fault { addr: RawAddr(va.get()), access }, may)?;
            if device {
                return Ok(()); // it never goes
            }
            if access.contains(Prot::W) {
                if self.wire_own(va, may) {
                    return Ok(());
                }
            } else if let Some(p) = self.busy_resident(va, may) {
                let vm = self.vm();
                vm.pages.get(p).change_wirings(1);
                vm.page_unbusy(p);
                return Ok(());
            }
        }
    }

    /// Wires the page at `va` if it is in memory and its object's alone, so that copies do
    /// not share it (Z48). `false`: fault again.
    fn wire_own(&self, va: Va, may: &mut MaySleep) -> bool {
        let vm = self.vm();
        loop {
            let busy = {
                let inner = self.lock_read(may);
                let Some(seen) = self.see(&inner, va, may) else { return false };
                let Some(o) = seen.entry.object.get() else { return false };
                let object = vm.objects.get(o).lock.read(vm.host(), may);
                let index = seen.pindex(va);
                match vm.own_page(o, &object, index, Prot::W) {
                    Own::Yes(p) => {
                        vm.tree_mark_held(&object.tree, index);
                        vm.pages.get(p).change_wirings(1);
                        vm.page_unbusy(p);
                        return true;
                    }
                    Own::No => return false,
                    Own::Busy(p) => p,
                    Own::Again => continue,
                }
            };
            vm.wait_page(busy, may);
        }
    }

    /// Takes one wiring off the page at `va`, if it is resident and wired.
    pub fn unwire_page(&self, va: Va, may: &mut MaySleep) {
        if let Some(p) = self.busy_resident(va, may) {
            let vm = self.vm();
            vm.pages.get(p).change_wirings(-1);
            vm.page_unbusy(p);
        }
    }

    /// Wires every page of the range; on failure none.
    ///
    /// # Errors
    /// Those of [`Map::fault`] for the first page that could not be had.
    pub fn wire_range(&self, r: VaRange, may: &mut MaySleep) -> Result<(), FaultError> {
        for (i, va) in r.iter().enumerate() {
            if let Err(e) = self.wire_page(va, may) {
                r.iter().take(i).for_each(|done| self.unwire_page(done, may));
                return Err(e);
            }
        }
        Ok(())
    }

    /// The access to fault for, and whether it is a device's memory.
    fn wire_access(&self, va: Va, may: &mut MaySleep) -> Result<(Prot, bool), FaultError> {
        let vm = self.vm();
        let inner = self.lock_word().read(vm.plat.host(), may);
        let seen = self.see(&inner, va, may).ok_or(FaultError::NoMapping(va))?;
        let e = seen.entry;
        let flags = e.object.get().map(|o| vm.objects.get(o).flags());
        let device = flags.is_some_and(|f| f.contains(ObjectFlags::DEVICE));
        match e.kind() {
            Kind::Foreign => Err(FaultError::Foreign(va)),
            Kind::Object if e.prot().contains(Prot::W) => Ok((Prot::W, device)),
            Kind::Object if !e.prot().is_empty() => Ok((Prot::R, device)),
            _ => Err(FaultError::Protection(va)),
        }
    }

    /// The resident page at `va`, busy; `None` when there is none (any more).
    pub(crate) fn busy_resident(&self, va: Va, may: &mut MaySleep) -> Option<Handle<Page>> {
        let vm = self.vm();
        let host = vm.plat.host();
        loop {
            let busy = {
                let inner = self.lock_word().read(host, may);
                let seen = self.see(&inner, va, may)?;
                let object = vm.objects.get(seen.entry.object.get()?).lock.read(host, may);
                let (anon, _) = vm.tree_lookup(&object.tree, seen.pindex(va));
                let anon = anon?;
                let page = vm.anons.get(anon).page()?;
                match vm.anon_busy_page(anon, page) {
                    Ok(()) => return Some(page),
                    Err(b) => b,
                }
            };
            if let Some(p) = busy {
                vm.wait_page(p, may);
            }
        }
    }

    /// Is the page at `va` resident (mincore)?
    pub fn is_resident(&self, va: Va, may: &mut MaySleep) -> bool {
        let vm = self.vm();
        let host = vm.plat.host();
        let inner = self.lock_word().read(host, may);
        let Some(seen) = self.see(&inner, va, may) else { return false };
        let Some(o) = seen.entry.object.get() else { return false };
        let object = vm.objects.get(o).lock.read(host, may);
        let (anon, _) = vm.tree_lookup(&object.tree, seen.pindex(va));
        anon.is_some_and(|a| vm.anons.get(a).page().is_some())
    }
}
